"""`ls`, `fetch` and `verify` as functions; what is listed, what is skipped, what is found damaged."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from archive_kit import adopt
from progress_kit import Ear
from safetensors.torch import load_file, save_file
from weights_kit import Server, serving, sha256, tensors, tiny_card, torch_bytes

import peftbench
from peftbench import weights
from peftbench.backbones.cache import MODEL_FILE, RECORD_FILE, read_record
from peftbench.backbones.cards import CARDS
from peftbench.errors import ConfigError, UnknownNameError, WeightsError
from stores.keys import file_digest

DATA = torch_bytes(tensors())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves the weights of both small backbones."""
    with serving() as served:
        for name in ("tiny", "small"):
            served.files[f"/{name}.pt"] = DATA
            card = tiny_card(name, address=f"{served.address}/{name}.pt", file=f"{name}.pt")
            monkeypatch.setitem(CARDS, name, card)
        yield served


def test_the_verbs_are_there() -> None:
    assert peftbench.weights is weights
    assert all(callable(getattr(weights, name)) for name in weights.__all__)
    assert dir(weights) == sorted(weights.__all__)
    with pytest.raises(AttributeError):
        weights.nonsense  # noqa: B018


class TestLs:
    def test_every_backbone_is_listed(self) -> None:
        assert [each.backbone for each in weights.ls().weights] == list(CARDS)
        assert len(weights.ls().frame) == len(CARDS)

    def test_states(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(CARDS, "bare", CARDS["tiny"].model_copy(update={"name": "bare", "checkpoint": None}))
        adopt("tiny", tmp_path / "files")
        (folder / "small").mkdir(parents=True)
        (folder / "small" / "tiny.pt").write_bytes(DATA)
        tiny, small, bare, absent = weights.ls(["tiny", "small", "bare", "resnet18"]).weights
        assert [tiny.state, small.state, bare.state, absent.state] == ["cached", "found", "none", "absent"]
        assert (tiny.path, tiny.sha256) == (str(folder / "tiny" / MODEL_FILE), sha256(DATA))
        assert (small.where, small.bytes) == ("put into the weights folder by the user, not converted", len(DATA))
        assert (absent.path, absent.bytes, absent.megabytes, absent.stated_sha256) == (None, None, 47, "f37072fd")
        (folder / "tiny" / RECORD_FILE).write_text("{")
        (damaged,) = weights.ls("tiny").weights
        assert damaged.state == "damaged"
        assert "--again" in damaged.where

    def test_marks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert weights.ls("resnet18").weights[0].marks == []
        assert weights.ls("medclip-swin").weights[0].marks == ["no published digest", "unverified: see its notes"]
        monkeypatch.setitem(CARDS, "tiny", tiny_card())
        path = tmp_path / "mine.pt"
        path.write_bytes(DATA)
        weights.fetch("tiny", file=f"{path}#sha256={sha256(DATA)}")
        # A later version of the card knows what is published.
        monkeypatch.setitem(CARDS, "tiny", tiny_card(sha256="00000000"))
        assert weights.ls("tiny").weights[0].marks == ["not the published file"]

    def test_an_unknown_name(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean"):
            weights.ls("resnet1")


class TestFetch:
    def test_what_is_there_is_skipped(self, server: Server) -> None:
        assert [each.how for each in weights.fetch(["tiny", "small"]).weights] == ["downloaded", "downloaded"]
        assert [each.how for each in weights.fetch(["tiny", "small", "tiny"]).weights] == ["cached", "cached"]
        assert len(server.requests) == 2

    def test_again_asks_again_and_says_what_changed(self, server: Server) -> None:
        weights.fetch("tiny")
        ear = Ear()
        weights.fetch("tiny", again=True, progress=ear)
        assert ear.notes == []
        server.files["/tiny.pt"] = other = torch_bytes(tensors(seed=1))
        (row,) = weights.fetch("tiny", again=True, progress=ear).weights
        assert (row.how, row.source_sha256) == ("downloaded", sha256(other))
        assert "another file than before" in ear.notes[0]

    def test_again_that_fails_leaves_what_was_there(self, server: Server) -> None:
        weights.fetch("tiny")
        server.statuses["/tiny.pt"] = 404
        with pytest.raises(WeightsError, match="404"):
            weights.fetch("tiny", again=True)
        assert weights.verify("tiny").sound

    def test_one_that_cannot_be_had_does_not_keep_the_others_away(self, server: Server) -> None:
        server.statuses["/tiny.pt"] = 404
        ear = Ear()
        with pytest.raises(WeightsError, match="weights of 1 backbones could not be had, those of 1 are here"):
            weights.fetch(["tiny", "small"], progress=ear)
        assert read_record("small") is not None
        assert "HTTP 404" in ear.notes[0]

    def test_all_are_those_that_are_pretrained(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in set(CARDS) - {"tiny", "small"}:
            monkeypatch.delitem(CARDS, name)
        monkeypatch.setitem(CARDS, "bare", tiny_card("bare").model_copy(update={"checkpoint": None}))
        assert [each.backbone for each in weights.fetch(everything=True).weights] == ["tiny", "small"]

    def test_contradictions(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no backbone is named"):
            weights.fetch()
        with pytest.raises(ConfigError, match="contradict"):
            weights.fetch("tiny", everything=True)
        for names in (["tiny", "small"], []):
            with pytest.raises(ConfigError):
                weights.fetch(names, file="x.pt")
        with pytest.raises(ConfigError, match="--from takes"):
            weights.fetch(everything=True, file="x.pt")

    def test_a_file_replaces_only_on_demand(self, tmp_path: Path) -> None:
        adopt("tiny", tmp_path)
        other = tmp_path / "other.pt"
        other.write_bytes(torch_bytes(tensors(seed=1)))
        ear = Ear()
        assert weights.fetch("tiny", file=str(other), progress=ear).weights[0].how == "cached"
        assert "--again" in ear.notes[0]
        (row,) = weights.fetch("tiny", file=str(other), again=True).weights
        assert (row.how, row.source_sha256) == ("adopted", file_digest(other))


class TestVerify:
    def test_sound(self, tmp_path: Path) -> None:
        adopt("tiny", tmp_path)
        adopt("small", tmp_path)
        found = weights.verify()
        assert found.sound
        assert {each.backbone for each in found.weights} == {"tiny", "small"}

    @pytest.mark.parametrize("offset", [9, 60, -1])
    def test_a_flipped_byte(self, folder: Path, tmp_path: Path, offset: int) -> None:
        adopt("tiny", tmp_path)
        path = folder / "tiny" / MODEL_FILE
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        path.write_bytes(data)
        (verdict,) = weights.verify().weights
        assert not verdict.sound
        assert "its SHA-256 is" in verdict.faults[0]
        assert "`peftbench weights fetch tiny --again`" in verdict.faults[0]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
    def test_what_is_not_finite_though_recorded_so(self, tmp_path: Path, value: float, kind: torch.dtype) -> None:
        path = tmp_path / "mine.pt"
        path.write_bytes(torch_bytes({"visual.sick": torch.tensor([1.0, value]).to(kind), "visual.fit": torch.ones(2)}))
        weights.fetch("tiny", file=str(path))
        (verdict,) = weights.verify("tiny").weights
        assert len(verdict.faults) == 1
        assert "not every number is finite in visual.sick:" in verdict.faults[0]

    def test_another_number_of_tensors(self, folder: Path, tmp_path: Path) -> None:
        adopt("tiny", tmp_path)
        path, record = folder / "tiny" / MODEL_FILE, folder / "tiny" / RECORD_FILE
        before = read_record("tiny")
        assert before is not None
        kept = load_file(path)
        kept.pop("visual.half")
        save_file(kept, path)
        facts = {"sha256": file_digest(path), "bytes": path.stat().st_size}
        record.write_text(before.model_copy(update=facts).text())
        assert "2 tensors, recorded were 3" in weights.verify("tiny").weights[0].faults[0]

    @pytest.mark.parametrize("text", ["{", ""])
    def test_a_damaged_record(self, folder: Path, tmp_path: Path, text: str) -> None:
        adopt("tiny", tmp_path)
        adopt("small", tmp_path)
        (folder / "tiny" / RECORD_FILE).write_text(text)
        found = weights.verify()
        assert {each.backbone: each.sound for each in found.weights} == {"tiny": False, "small": True}

    def test_a_file_cut_short(self, folder: Path, tmp_path: Path) -> None:
        adopt("tiny", tmp_path)
        path = folder / "tiny" / MODEL_FILE
        path.write_bytes(path.read_bytes()[:100])
        assert not weights.verify("tiny").sound

    def test_nothing_to_verify(self) -> None:
        with pytest.raises(WeightsError, match="no weights are cached"):
            weights.verify()
        with pytest.raises(WeightsError, match="'tiny' are not cached"):
            weights.verify("tiny")
