"""`peftbench list backbones`: what there is, one of them with all that is known, and plug-ins that are broken."""

import shutil
from pathlib import Path

import pytest
from cli_kit import Done, invoke, rows_of, run
from plugin_kit import NAME, install

from peftbench.backbones.cards import CARDS
from peftbench.strategies.registry import STRATEGIES

pytestmark = pytest.mark.slow

CARD_KEYS = {
    "name", "title", "family", "architecture", "pretraining", "data", "checkpoint", "licence", "parameters",
    "parameters_with_head", "libraries", "strategies", "extensions", "refused", "bf16_cosine", "channels_last", "folds",
    "found_by", "reference", "notes", "source", "embedding", "outputs", "transform", "weights",
}  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights, and no cache of anybody else's."""
    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "weights"


class TestAll:
    def test_the_table_has_what_one_chooses_by(self) -> None:
        done = invoke("list", "backbones")
        assert done.code == 0
        assert [name for name in CARDS if name not in done.stdout] == []
        assert "11,176,512" in done.stdout
        assert "family" in done.stdout
        assert done.stderr == ""

    def test_weights_that_are_here_are_told_from_those_that_are_not(self, weights: Path) -> None:
        state = {each["name"]: each["weights"] for each in invoke("list", "backbones", "--json").answer["backbones"]}
        assert state["efficientnet-lite0"] == "here"
        assert state["dinov2-l"] == "absent"
        assert not weights.exists(), "looking makes nothing"

    def test_damaged_ones_too(self, weights: Path) -> None:
        (weights / "dinov2-l").mkdir(parents=True)
        (weights / "dinov2-l" / "weights.json").write_text("{")
        (entry,) = invoke("list", "backbones", "dinov2-l", "--json").answer["backbones"]
        assert entry["weights"] == "damaged"
        assert "weights fetch dinov2-l --again" in entry["fault"]


class TestOne:
    @pytest.mark.parametrize("name", CARDS)
    def test_the_card_is_whole(self, name: str, weights: Path) -> None:
        (entry,) = invoke("list", "backbones", name, "--json").answer["backbones"]
        assert set(entry) >= CARD_KEYS
        assert entry["name"] == name
        assert sorted([*entry["strategies"], *entry["extensions"], *entry["refused"]]) == sorted(STRATEGIES)
        assert entry["outputs"][0] == {
            "name": "embedding", "tensor": CARDS[name].outputs[0].tensor, "shape": [entry["embedding"]],
        }  # fmt: skip
        assert all(entry[key] for key in ("architecture", "pretraining", "data", "source", "licence", "transform"))
        assert entry["parameters"] <= entry["parameters_with_head"]

    @pytest.mark.parametrize("name", CARDS)
    def test_people_read_all_of_it(self, name: str) -> None:
        done = invoke("list", "backbones", name)
        card = CARDS[name]
        # What does not fit goes on in the next line.
        shown = "".join(done.stdout.split())
        facts = [
            card.title, card.family, card.architecture, card.pretraining, card.data, card.source, card.licence,
            f"{card.parameters:,}", f"{card.parameters_with_head:,}", f"{card.embedding:,}", str(card.transform),
            *card.strategies, *card.extensions.values(), *card.refused.values(), card.notes, card.reference,
            *(output.tensor for output in card.outputs),
        ]  # fmt: skip
        assert done.code == 0
        assert [fact for fact in facts if "".join(fact.split()) not in shown] == []

    def test_an_output_is_shown_with_its_shape(self) -> None:
        assert (
            "block_cls (4 x 384): last 4 blocks, layernorm|class token"
            in invoke("list", "backbones", "dinov2-s").stdout
        )

    def test_of_cached_weights_the_digest_is_said(self, weights: Path) -> None:
        before = invoke("list", "backbones", "efficientnet-lite0", "--json").answer["backbones"][0]
        assert "weights_sha256" not in before
        assert invoke("weights", "fetch", "efficientnet-lite0").code == 0
        (entry,) = invoke("list", "backbones", "efficientnet-lite0", "--json").answer["backbones"]
        assert entry["weights"] == "here"
        assert entry["weights_sha256"].startswith("57934424")
        assert len(entry["weights_sha256"]) == 64
        assert entry["fetched"][:2] == "20"
        assert entry["weights_sha256"] in invoke("list", "backbones", "efficientnet-lite0").stdout

    def test_a_model_of_ones_own_has_a_card_as_well(self, weights: Path) -> None:
        (entry,) = invoke("list", "backbones", "timm:test_resnet", "--json").answer["backbones"]
        assert set(entry) >= CARD_KEYS
        assert "fault" not in entry
        assert (entry["family"], entry["weights"], entry["embedding"]) == ("own", "by the library", 96)
        assert entry["source"] == "timm, by the name test_resnet"

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("resnet81", "unknown backbone 'resnet81': did you mean resnet18"),
            ("timm:resnet8", "unknown timm model 'resnet8': did you mean resnet18"),
            ("torchvision:resnet81", "unknown torchvision model 'resnet81': did you mean resnet18"),
            ("torchvision:squeezenet1_1", "does not end with a linear layer"),
            ("resnet18@imagenet", "expected resnet18@random:SEED"),
        ],
    )
    def test_a_wrong_name_is_one_sentence(self, name: str, said: str) -> None:
        assert said in invoke("list", "backbones", name).error

    def test_other_kinds_take_a_name_too(self) -> None:
        (entry,) = invoke("list", "tasks", "PHA_icu", "--json").answer["tasks"]
        assert entry["cohort"] == "phantom"
        assert "did you mean PHA_icu" in invoke("list", "tasks", "PHA_icy").error


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("plugged") / "site", "raises", "nonsense", "taken")


class TestPlugIns:
    def test_broken_ones_are_told_on_stderr_and_the_answer_is_intact(self, site: Path) -> None:
        done = run("list", "backbones", "--json", PYTHONPATH=str(site))
        names = [each["name"] for each in done.answer["backbones"]]
        assert names == [*CARDS, *(name for name in names if name.startswith(NAME))]
        assert NAME in names
        notes = done.stderr.splitlines()
        assert len(notes) == 3
        assert all(note.startswith("note: the plug-in ") and " of lab-broken is broken" in note for note in notes)
        assert [f"note: {fault}" for fault in done.answer["faults"]] == notes
        assert "its library is too old" in done.stderr

    def test_a_name_that_is_not_found_is_refused_with_them(self, site: Path) -> None:
        error = run("list", "backbones", "labnet", PYTHONPATH=str(site)).error
        assert "unknown backbone 'labnet'" in error
        assert "the plug-in 'raises' of lab-broken is broken" in error

    def test_a_good_one_goes_the_whole_way(
        self, site: Path, answers: dict[str, Done], workspace: Path, tmp_path: Path
    ) -> None:
        """Others count what is in the workspace of all: this is another."""
        assert answers["prepare"].code == 0
        shutil.copytree(workspace / "cohorts", tmp_path / "mine" / "cohorts")
        words = ("--backbone", f"{NAME}@random:0", "--workspace", str(tmp_path / "mine"), "--json")
        (row,) = rows_of(run("extract", "phantom", *words, PYTHONPATH=str(site)))
        assert (row["backbone"], row["dim"]) == (f"{NAME}@random:0", 8)
        probed = rows_of(run("probe", "PHA_icu", *words, PYTHONPATH=str(site)))
        assert [each["backbone"] for each in probed] == [
            f"{NAME}@random:0", "control:view", "control:center", "control:metadata",
        ]  # fmt: skip
