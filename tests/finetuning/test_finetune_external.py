"""Trained on one cohort, tested on another, from the checkpoints that were kept; what both hold is left out."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from progress_kit import Ear
from sklearn.metrics import matthews_corrcoef
from verb_kit import CNN, SHORT, TASK, Trainings, copied, manifest_of, record_of, records_in, rows_of_call

import peftbench
from peftbench.backbones.device import pick_device
from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import parse_backbone
from peftbench.benchmark.predicting_record import open_source
from peftbench.cohorts.asked import task_rows
from peftbench.cohorts.card import open_pictures
from peftbench.cohorts.describe import describe
from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.errors import ConfigError, DeviceError, NotPreparedError, PeftbenchError, RecordError
from peftbench.finetuning import external
from peftbench.finetuning.bench import Bench, reproducible
from peftbench.finetuning.feed import Feed, Source
from peftbench.finetuning.predicting import predict, revived
from peftbench.protocol.progress import Silent
from peftbench.protocol.records import read_predictions
from peftbench.protocol.results import FinetuneRow
from peftbench.protocol.workspace import Workspace
from peftbench.reporting.brief import brief
from peftbench.reporting.words import number
from stores.errors import StoreError

pytestmark = pytest.mark.slow

AWAY = "elsewhere_icu"

PATIENTS = 30


def own(name: str, raw: Path, place: Workspace, **changes: Any) -> None:
    """Prepare a phantom's folder as a table of the user's own."""
    words = {
        "name": name, "table": "phantom.csv", "images": "images", "file": "{image_id}", "patient": "patient_id",
        "center": "center", "view": "view", "order": "day", "label": "icu", "event": "1", "no_event": "0",
    }  # fmt: skip
    prepare(describe("table", **{**words, **changes}), raw, workspace=place, workers=1)


@pytest.fixture(scope="module")
def raws(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("raws")
    settings = {"patients": PATIENTS, "size": 64, "images_per_patient": 2}
    first, second = (
        write_phantom(folder / name, PhantomConfig(**settings, seed=seed)) for seed, name in enumerate(("home", "away"))
    )
    return first, second


@pytest.fixture(scope="module")
def both(raws: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Both cohorts in one workspace; no test writes to it."""
    place = Workspace(tmp_path_factory.mktemp("both") / "workspace")
    prepare("phantom", raws[0], workspace=place, workers=1)
    own("elsewhere", raws[1], place)
    return place


Pair = tuple[Workspace, FinetuneRow, FinetuneRow]


def pair(place: Workspace, strategy: str = "fft", **options: Any) -> tuple[FinetuneRow, FinetuneRow]:
    """The rows at home and elsewhere."""
    home, away = rows_of_call(place, CNN, strategy, **{"split": "3-fold", "external": AWAY, **options})
    return home, away


@pytest.fixture(scope="module")
def tested(both: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A workspace with the record at home and that elsewhere; no test writes to it."""
    place = copied(both, tmp_path_factory.mktemp("tested") / "workspace")
    return place, *pair(place)


@pytest.fixture
def mine(tested: Pair, tmp_path: Path) -> Workspace:
    """A copy to write to, with both records."""
    return copied(tested[0], tmp_path / "mine")


def of_kind(place: Workspace, *, external: bool) -> Path:
    (folder,) = [path for path in records_in(place) if ("-on-" in path.name) == external]
    return folder


class TestTheRecord:
    def test_there_is_one_at_home_and_one_elsewhere(self, tested: Pair) -> None:
        _, home, away = tested
        assert (home.external, away.external) == ("", AWAY)
        assert home.record != away.record
        assert (home.strategy, away.strategy) == ("FFT", "FFT")
        assert home.trainable_parameters == away.trainable_parameters

    def test_it_counts_the_rows_that_were_tested(self, tested: Pair) -> None:
        place, _, away = tested
        record = record_of(away)
        assert record.config.external == AWAY
        assert record.task["cohort"] == "elsewhere"
        assert record.task["patients"] == manifest_of(place, "elsewhere").frame["patient_id"].nunique()
        told = record.provenance["external"]
        assert (told["how"], told["removed_images"], told["fitted_on"]["cohort"]) == ("averaged", 0, "phantom")

    def test_the_headline_is_the_mean_score_of_the_folds_models(self, tested: Pair) -> None:
        row = tested[2]
        predictions = read_predictions(Path(row.record))
        tests = predictions[predictions["role"] == "test"]
        models = tests[tests["fold"] >= 0].groupby("sample_id", sort=False)["score"].mean()
        together = tests[tests["fold"] == -1].set_index("sample_id")
        np.testing.assert_allclose(together["score"], models.loc[together.index], rtol=0, atol=1e-12)
        assert row.mcc_mean == pytest.approx(matthews_corrcoef(together["event"], together["score"] >= 0.5))
        assert row.mcc_low <= row.mcc_mean <= row.mcc_high
        assert sorted(tests["fold"].unique()) == [-1, 0, 1, 2]

    def test_validation_parts_are_those_of_home(self, tested: Pair) -> None:
        parts = [read_predictions(Path(each.record)) for each in tested[1:]]
        ours, theirs = (part[(part["role"] == "validation") & (part["fold"] >= 0)] for part in parts)
        pd.testing.assert_frame_equal(ours.reset_index(drop=True), theirs.reset_index(drop=True))

    def test_its_models_are_the_checkpoints_of_home(self, tested: Pair) -> None:
        home, away = map(record_of, tested[1:])
        assert home.provenance["checkpoints"] == away.provenance["checkpoints"] != {}
        assert not (Path(tested[2].record) / "checkpoints").exists(), "they lie where they were made"

    def test_of_the_images_at_home_a_checkpoint_says_what_the_record_says(
        self, both: Workspace, tmp_path: Path
    ) -> None:
        """Tested on the very images of home (as another cohort that no digest ties to it), it repeats itself."""
        place = copied(both, tmp_path / "workspace")
        home, _ = pair(place)
        encoder, device, rows = load_encoder(parse_backbone(CNN)), pick_device("cpu"), task_rows(TASK, place)
        source = Source(open_pictures(place, "phantom"), rows.frame["image_digest"].tolist(), encoder.card.transform)
        feed = Feed(source, device, Silent())
        bench = Bench(encoder, feed, device, "fp32", Silent())
        for fold in range(3):
            with reproducible(device):
                found = predict(revived(record_of(home), Path(home.record), fold, 0, bench), feed, "fp32", lambda: None)
            scores = pd.Series(found, index=rows.frame["sample_id"])
            held = read_predictions(Path(home.record)).query("fold == @fold").set_index("sample_id")["score"]
            np.testing.assert_allclose(held, scores.loc[held.index], rtol=0, atol=1e-6)

    def test_it_is_set_against_the_controls_that_probe_tested_there(self, mine: Workspace) -> None:
        probed = peftbench.probe(TASK, workspace=mine, split="3-fold", external=AWAY).results
        _, away = pair(mine)
        assert away.control in {row.backbone for row in probed}
        control = next(row for row in probed if row.backbone == away.control)
        assert away.gain_mean == pytest.approx(away.mcc_mean - control.mcc_mean)
        assert away.gain_low <= away.gain_mean <= away.gain_high

    def test_the_note_on_controls_names_the_test_that_has_none(self, mine: Workspace) -> None:
        peftbench.probe(TASK, workspace=mine, split="3-fold")
        ear = Ear()
        pair(mine, progress=ear)
        (note,) = [each for each in ear.notes if "no control is recorded" in each]
        assert note.startswith(f"{TASK} on {AWAY}: ")
        assert f"`peftbench probe {TASK} --external {AWAY}`" in note


class TestMadeOnce:
    def test_run_again_both_are_read(self, mine: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        trainings = Trainings(monkeypatch)
        before = {path: path.stat().st_ino for path in mine.results.rglob("*.*")}
        pair(mine)
        assert len(trainings) == 0
        assert {path: path.stat().st_ino for path in mine.results.rglob("*.*")} == before

    def test_of_a_record_that_is_there_nothing_is_trained_again(
        self, both: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tested: Pair
    ) -> None:
        place = copied(both, tmp_path / "workspace")
        rows_of_call(place, CNN, "fft", split="3-fold")
        trainings = Trainings(monkeypatch)
        _, away = pair(place)
        assert len(trainings) == 0
        found, expected = (Path(each.record) / "predictions.parquet" for each in (away, tested[2]))
        assert found.read_bytes() == expected.read_bytes()

    @pytest.mark.parametrize("harm", ["gone", "cut", "flipped", "of another fold"])
    def test_a_checkpoint_that_is_missing_or_damaged_is_refused(self, mine: Workspace, harm: str) -> None:
        shutil.rmtree(of_kind(mine, external=True))
        folder = of_kind(mine, external=False) / "checkpoints"
        path = folder / "fold-1.safetensors"
        data = path.read_bytes()
        changed = {
            "cut": data[:-20],
            "flipped": data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
            "of another fold": (folder / "fold-0.safetensors").read_bytes(),
        }
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(changed[harm])
        with pytest.raises(RecordError, match=r"fold-1.safetensors is (missing|damaged).*--force` to train it again"):
            pair(mine)
        assert len(records_in(mine)) == 1, "nothing is written of it"
        pair(mine, force=True)
        assert len(records_in(mine)) == 2


class TestSharedImages:
    @pytest.fixture
    def mixed(self, raws: tuple[Path, Path], tmp_path: Path) -> Workspace:
        """A second cohort that holds ten patients of the first, under other names."""
        raw = Path(shutil.copytree(raws[1], tmp_path / "raw"))
        home, away = (pd.read_csv(each / "phantom.csv", dtype=str) for each in raws)
        taken = home[home["patient_id"].isin(sorted(home["patient_id"].unique())[:10])]
        for image in taken["image_id"]:
            shutil.copyfile(raws[0] / "images" / f"{image}.png", raw / "images" / f"copy{image}.png")
        taken = taken.assign(image_id="copy" + taken["image_id"], patient_id="copy" + taken["patient_id"])
        pd.concat([away, taken]).to_csv(raw / "phantom.csv", index=False)
        place = Workspace(tmp_path / "workspace")
        prepare("phantom", raws[0], workspace=place, workers=1)
        own("elsewhere", raw, place)
        return place

    def test_they_and_their_patients_are_left_out_and_told(self, mixed: Workspace) -> None:
        _, away = pair(mixed, "lp")
        record = record_of(away)
        assert record.provenance["external"]["removed_patients"] == 10
        assert record.task["patients"] == PATIENTS
        assert any("10 patients" in note for note in record.notes)
        home = set(manifest_of(mixed).frame["image_digest"])
        digests = manifest_of(mixed, "elsewhere").frame.set_index("sample_id")["image_digest"]
        used = read_predictions(Path(away.record)).query("role == 'test'")["sample_id"]
        assert not home & set(digests.loc[used.unique()])

    def test_of_the_very_same_images_nothing_is_left(
        self, raws: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = Workspace(tmp_path / "workspace")
        prepare("phantom", raws[0], workspace=place, workers=1)
        own("elsewhere", Path(shutil.copytree(raws[0], tmp_path / "raw")), place)
        trainings = Trainings(monkeypatch)
        with pytest.raises(ConfigError, match="0 images are left"):
            pair(place, "lp")
        assert (len(trainings), place.results.exists()) == (0, False)


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"external": "PHA_icu"}, "of the cohort 'phantom', as is"),
            ({"regime": "few-shot"}, "leave --regime few-shot out"),
            ({"checkpoints": "none"}, "leave --checkpoints none out"),
        ],
    )
    def test_what_does_not_go_together(self, both: Workspace, words: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            pair(both, **words)
        assert not both.results.exists()

    def test_unequal_events(self, raws: tuple[Path, Path], both: Workspace, tmp_path: Path) -> None:
        place = copied(both, tmp_path / "workspace")
        own("third", raws[1], place, label="bits", event=("12",), no_event=("8", "10", "16"))
        with pytest.raises(ConfigError, match=r"its event is 'bits'.*is 'icu'"):
            pair(place, external="third_bits")

    def test_a_cohort_that_is_not_prepared(self, prepared: Workspace) -> None:
        with pytest.raises(PeftbenchError, match="peftbench prepare hannover"):
            rows_of_call(prepared, CNN, "lp", external="HAN_icu")
        assert not prepared.results.exists()

    def test_a_picture_elsewhere_whose_score_is_no_number(
        self, mine: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.rmtree(of_kind(mine, external=True))
        monkeypatch.setattr(external, "predict", lambda *_: np.array([0.5, np.nan]))
        with pytest.raises(DeviceError, match="scores of 1 of 2 pictures of the other cohort are no numbers in fp32"):
            pair(mine)
        assert len(records_in(mine)) == 1

    @pytest.mark.parametrize("harm", ["card", "store"])
    def test_pictures_of_the_other_cohort_that_are_gone_are_missed_before_the_training(
        self, both: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
    ) -> None:
        place = copied(both, tmp_path / "workspace")
        if harm == "card":
            place.card("elsewhere").unlink()
        else:
            shutil.rmtree(place.cohort("elsewhere") / "images")
        trainings = Trainings(monkeypatch)
        with pytest.raises((NotPreparedError, StoreError), match=r"elsewhere|store"):
            pair(place, set_=SHORT)
        assert len(trainings) == 0


def test_the_record_of_its_models_is_named(tested: Pair) -> None:
    place, at_home, elsewhere = tested
    with pytest.raises(ConfigError, match=re.escape(f"name the record of the models themselves, {at_home.record}")):
        open_source(elsewhere.record, place)


def test_a_report_shows_the_score_at_home_beside(tested: Pair, tmp_path: Path) -> None:
    place, _, _ = tested
    mine = copied(place, tmp_path / "own")
    peftbench.report(workspace=mine)
    page = (mine.report / "report.html").read_text()
    there = page.partition(f"tested on {AWAY}")[2]
    assert f"within {TASK}" in there
    assert "Not run there" not in there
    csv = mine.report / "results.csv"
    (row,) = [each for each in brief(csv).rows if each[0] == f"{TASK} on {AWAY}"]
    table = pd.read_csv(csv).set_index("external").loc[AWAY]
    assert row[8] == f"{number(table['mcc_mean'])} ({number(table['mcc_low'])} to {number(table['mcc_high'])})"
    assert "±" not in row[9]
