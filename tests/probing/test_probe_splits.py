"""`probe --split`: every scheme, and a user's own split, end to end on the phantom's control."""

from pathlib import Path

import pandas as pd
import pytest
from probe_kit import manifest_of
from progress_kit import Ear

from peftbench.analysis.results import ratio_of_parts
from peftbench.benchmark.splitting import splits_export, splits_import
from peftbench.cohorts.asked import task_rows
from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.errors import SplitError, UnknownNameError
from peftbench.probing.probe import probe
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.records import read_predictions, read_record
from peftbench.protocol.splits import load, make_split
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow

TASK = "PHA_icu_all"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("splits")
    place = Workspace(folder / "workspace")
    prepare("phantom", write_phantom(folder / "raw", PhantomConfig(patients=40, size=64)), workspace=place)
    return place


@pytest.mark.parametrize("scheme", ["3-fold", "LOCO", "hold-out"])
def test_every_scheme_is_used_saved_and_told(prepared: Workspace, scheme: str) -> None:
    row, *others = probe(TASK, workspace=prepared, split=scheme).results
    assert ("control:center" in [each.backbone for each in others]) == (scheme != "LOCO")
    split = make_split(task_rows(TASK, prepared), scheme)
    assert (row.scheme, row.folds) == (split.scheme, split.folds)
    record = read_record(Path(row.record))
    assert record.config.split_digest == split.digest
    (saved,) = prepared.splits(TASK).glob(f"{split.scheme}-{split.folds}-seed0-{split.digest[:12]}.parquet")
    assert load(saved).digest == split.digest
    tested = read_predictions(Path(row.record)).query("role == 'test'")
    expected = split.frame.query("role == 'test'")
    assert set(zip(tested["fold"], tested["sample_id"], strict=True)) == set(
        zip(expected["fold"], expected["sample_id"], strict=True)
    )
    counts = record.provenance["split"]
    assert counts["names"] == list(split.names)
    assert [sum(counts["units"][role][fold] for role in counts["units"]) for fold in range(split.folds)] == (
        [40] * split.folds
    )


def test_of_loco_the_interval_uses_the_parts_real_sizes(prepared: Workspace) -> None:
    record = read_record(Path(probe(TASK, workspace=prepared, split="LOCO").results[0].record))
    units = record.provenance["split"]["units"]
    assert sum(units["test"]) == 40
    assert ratio_of_parts(record) == pytest.approx(40 / sum(units["train"]))


def test_the_tasks_own_scheme_is_the_default(prepared: Workspace) -> None:
    default, asked = (probe(TASK, workspace=prepared, **words).to_json() for words in ({}, {"split": "5-fold"}))
    assert default == asked


class TestOwn:
    def own(self, place: Workspace, tmp_path: Path) -> Path:
        splits_export(TASK, tmp_path / "own.csv", split="hold-out", workspace=place)
        return tmp_path / "own.csv"

    def test_an_imported_split_is_used_by_its_name_whatever_the_seed(self, prepared: Workspace, tmp_path: Path) -> None:
        done = splits_import(TASK, self.own(prepared, tmp_path), "mine", workspace=prepared)
        ear = Ear()
        row, *_ = probe(TASK, workspace=prepared, split="mine", seed=3, progress=ear).results
        assert (row.scheme, row.folds) == ("mine", 1)
        assert ear.notes == [f"{TASK}: the split 'mine' is given, so --seed 3 does not divide"]
        record = read_record(Path(row.record))
        assert record.config.split_digest == done.digest
        first = probe(TASK, workspace=prepared, split="mine").results[0]
        scored = [read_predictions(Path(each.record)) for each in (row, first)]
        pd.testing.assert_frame_equal(*scored)
        held = probe(TASK, workspace=prepared, split="hold-out").results[0]
        assert (row.mcc_mean, row.pr_auc_mean) == (held.mcc_mean, held.pr_auc_mean)

    def test_images_that_it_does_not_name_are_not_predicted(self, prepared: Workspace, tmp_path: Path) -> None:
        path = self.own(prepared, tmp_path)
        table = pd.read_csv(path)
        out = table.loc[table["role"] == "test", "patient_id"].iloc[0]
        table[table["patient_id"] != out].to_csv(path, index=False)
        splits_import(TASK, path, "less", workspace=prepared)
        ear = Ear()
        row, *_ = probe(TASK, workspace=prepared, split="less", progress=ear).results
        assert out not in set(read_predictions(Path(row.record))["patient_id"])
        assert read_record(Path(row.record)).notes == ear.notes
        assert "does not name" in ear.notes[0]

    def test_an_unknown_one_is_refused_before_anything_is_done(self, prepared: Workspace) -> None:
        with pytest.raises(UnknownNameError, match="unknown split 'hold-in': did you mean hold-out"):
            probe(TASK, workspace=prepared, split="hold-in")

    def test_rows_that_changed_are_refused(self, tmp_path: Path) -> None:
        place = Workspace(tmp_path / "workspace")
        raw = write_phantom(tmp_path / "raw", PhantomConfig(patients=30, images_per_patient=1, size=64))
        prepare("phantom", raw, workspace=place)
        splits_import(TASK, self.own(place, tmp_path), "mine", workspace=place)
        frame = manifest_of(place).frame
        Manifest("phantom", frame.iloc[1:].reset_index(drop=True)).write(place.manifest("phantom"))
        with pytest.raises(SplitError, match=r"'mine' was imported for other rows of PHA_icu_all: .*--force"):
            probe(TASK, workspace=place, split="mine")
