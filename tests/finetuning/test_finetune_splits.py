"""`finetune` under every scheme and regime: the folds and support sets are those of `probe`."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from progress_kit import Ear
from verb_kit import (
    CNN,
    TASK,
    Trainings,
    copied,
    images_in,
    lasting,
    manifest_of,
    record_of,
    records_in,
    row_of_call,
    rows_of_call,
)

import peftbench
from peftbench.analysis.results import ratio_of_parts
from peftbench.benchmark.splitting import splits_export, splits_import
from peftbench.cohorts.asked import task_rows
from peftbench.errors import SplitError
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.records import read_predictions, read_record
from peftbench.protocol.splits import Split, make_split
from peftbench.protocol.splits.supports import support_sets_of
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def probed(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with stored features of the tiny network; tests add records to it."""
    place = copied(prepared, tmp_path_factory.mktemp("probed") / "workspace")
    peftbench.extract("phantom", CNN, workspace=place, device="cpu", precision="fp32")
    return place


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


def samples(place: Workspace, positions: npt.NDArray[np.int64]) -> set[str]:
    return set(task_rows(TASK, place).frame["sample_id"].to_numpy()[positions])


def trained_on(place: Workspace, trainings: Trainings) -> dict[tuple[int, int], set[str]]:
    """Fold and draw to the images that were trained on."""
    return {(cell.fold, cell.draw): samples(place, cell.parts.train) for cell in trainings.cells}


class TestSchemes:
    @pytest.mark.parametrize("scheme", ["3-fold", "LOCO", "hold-out"])
    def test_every_scheme_divides_as_for_a_probe(self, probed: Workspace, trainings: Trainings, scheme: str) -> None:
        row = row_of_call(probed, split=scheme)
        split = make_split(task_rows(TASK, probed), scheme)
        assert (row.scheme, row.folds) == (split.scheme, split.folds)
        assert record_of(row).config.split_digest == split.digest
        other = peftbench.probe(TASK, CNN, workspace=probed, split=scheme, control=False, permutations=0).results[0]
        for role in ("validation", "test"):
            assert images_in(row.record, role) == images_in(other.record, role)
        for cell in trainings.cells:
            np.testing.assert_array_equal(cell.parts.train, split.positions(cell.fold, "train"))
        assert record_of(row).provenance["split"] == read_record(Path(other.record)).provenance["split"]

    def test_no_patient_is_in_two_parts_of_a_fold(self, place: Workspace, trainings: Trainings) -> None:
        row_of_call(place, split="LOCO")
        patients = task_rows(TASK, place).frame["patient_id"].to_numpy()
        for cell in trainings.cells:
            parts = [set(patients[each]) for each in (cell.parts.train, cell.parts.validation, cell.test)]
            assert sum(map(len, parts)) == len(set.union(*parts))

    def test_under_loco_a_fold_tests_one_centre(self, probed: Workspace) -> None:
        row = row_of_call(probed, split="LOCO")
        held = read_predictions(Path(row.record)).query("role == 'test'")
        centers = task_rows(TASK, probed).frame.set_index("sample_id")["center"]
        assert (
            held.assign(center=centers.loc[held["sample_id"]].to_numpy()).groupby("fold")["center"].nunique().max() == 1
        )
        record = record_of(row)
        assert record.provenance["split"]["names"] == ["A", "B", "C"]
        assert ratio_of_parts(record) > 0

    def test_the_tasks_own_scheme_is_the_default(self, place: Workspace) -> None:
        default, asked = (row_of_call(place, split=split).to_json() for split in (None, "5-fold"))
        assert default == asked

    def test_an_imported_split_is_used_by_its_name_whatever_the_seed(
        self, place: Workspace, tmp_path: Path, trainings: Trainings
    ) -> None:
        splits_export(TASK, tmp_path / "own.csv", split="LOCO", workspace=place)
        done = splits_import(TASK, tmp_path / "own.csv", "mine", workspace=place)
        ear = Ear()
        row = row_of_call(place, split="mine", seed=3, progress=ear)
        assert (row.scheme, row.folds) == ("mine", 3)
        assert record_of(row).config.split_digest == done.digest
        assert f"{TASK}: the split 'mine' is given, so --seed 3 does not divide" in ear.notes
        loco = make_split(task_rows(TASK, place), "LOCO")
        for cell in trainings.cells:
            np.testing.assert_array_equal(np.sort(cell.test), np.sort(loco.positions(cell.fold, "test")))

    def test_a_fold_that_cannot_be_judged_is_said_and_not_scored(self, place: Workspace) -> None:
        """Few events: fewer folds, the same note as of a probe."""
        manifest = manifest_of(place)
        frame = manifest.frame
        few = frame.loc[frame["icu"] == "yes", "patient_id"].drop_duplicates().head(7)
        relabelled = frame.assign(icu=frame["patient_id"].isin(few).map({True: "yes", False: "no"}))
        Manifest("phantom", relabelled).write(place.manifest("phantom"))
        ear = Ear()
        row = row_of_call(place, split=None, progress=ear)
        assert row.folds == 3
        assert "7 of 30 patients" in ear.notes[0]
        assert record_of(row).notes[0] == ear.notes[0]


def sets_of(place: Workspace, split: Split, regime: Any, size: int, draws: int) -> dict[tuple[int, int], set[str]]:
    (found,) = support_sets_of(task_rows(TASK, place), split, regime, (size,), draws)[0].values()
    return {(fold, draw): samples(place, each) for fold, of in enumerate(found) for draw, each in enumerate(of)}


class TestRegimes:
    @pytest.mark.parametrize(
        ("regime", "size", "scheme"),
        [("few-shot", 2, "3-fold"), ("center-few-shot", 2, "LOCO"), ("reduced", 12, "LOCO"), ("few-shot", 3, "LOCO")],
    )
    def test_support_sets_are_those_that_probe_draws(
        self, probed: Workspace, trainings: Trainings, regime: str, size: int, scheme: str
    ) -> None:
        words: dict[str, Any] = {"regime": regime, "shots": size, "split": scheme}
        row = row_of_call(probed, draws=2, **words)
        split = make_split(task_rows(TASK, probed), scheme)
        assert trained_on(probed, trainings) == sets_of(probed, split, regime, size, 2)
        assert (row.regime, row.shots, row.draws) == (regime.replace("center-", "center "), size, 2)
        more = peftbench.probe(TASK, CNN, workspace=probed, draws=5, control=False, permutations=0, **words)
        held = read_predictions(Path(more.results[0].record)).query("role == 'left-out' and draw < 2")
        fitted = {cell: set(part["sample_id"]) for cell, part in held.groupby(["fold", "draw"])}
        assert trained_on(probed, trainings) == fitted

    def test_every_draw_validates_and_tests_on_the_whole_parts_of_its_fold(self, place: Workspace) -> None:
        few = row_of_call(place, regime="few-shot", shots=2, draws=3)
        full = row_of_call(place)
        predictions = read_predictions(Path(few.record))
        assert sorted(predictions["draw"].unique()) == [0, 1, 2]
        for _, part in predictions.groupby("draw"):
            for role in ("validation", "test"):
                found = part[part["role"] == role]
                assert set(zip(found["fold"], found["sample_id"], strict=True)) == images_in(full.record, role)
        history = pd.read_csv(Path(few.record) / "history.csv")
        assert sorted(history["draw"].unique()) == [0, 1, 2]

    def test_sizes_have_a_row_each_and_the_sets_of_more_shots_hold_those_of_fewer(
        self, place: Workspace, trainings: Trainings
    ) -> None:
        rows = rows_of_call(place, regime="few-shot", shots=[4, 2], draws=2)
        assert [row.shots for row in rows] == [2, 4]
        assert len(records_in(place)) == 2
        sets = [set(cell.parts.train.tolist()) for cell in trainings.cells]
        assert [len(each) for each in sets] == [4, 4, 8, 8]
        assert sets[0] < sets[2]
        assert sets[1] < sets[3]

    def test_the_distribution_over_draws_is_in_answer_and_record(self, place: Workspace) -> None:
        row = row_of_call(place, regime="few-shot", shots=2, draws=3)
        assert row.mcc_q05 <= row.mcc_q95
        assert row.mcc_worst_decile <= row.mcc_q95
        assert record_of(row).distribution["image"]["mcc"]["draws"] == 3

    def test_draws_begin_differently(self, place: Workspace) -> None:
        """The same head at first in every draw would be one throw of dice counted several times."""
        row = row_of_call(place, CNN, "lora", regime="few-shot", shots=2, draws=2)
        folder = Path(row.record) / "checkpoints"
        one, other = (folder / name for name in ("fold-0.safetensors", "fold-0-draw-1.safetensors"))
        assert one.read_bytes()[-200:] != other.read_bytes()[-200:]

    def test_five_draws_are_the_default(self, place: Workspace, trainings: Trainings) -> None:
        assert row_of_call(place, regime="reduced", shots=14).draws == 5
        assert len(trainings) == 5

    def test_default_sizes_that_do_not_fit_are_left_out_and_said(self, place: Workspace) -> None:
        ear = Ear()
        rows = rows_of_call(place, regime="few-shot", draws=1, progress=ear)
        assert [row.shots for row in rows] == [2, 4, 8][: len(rows)]
        assert any("and more are left out" in each for each in ear.notes)
        assert any("and more are left out" in each for each in record_of(rows[0]).notes)

    def test_the_gain_is_over_controls_of_the_same_regime_and_size(self, place: Workspace) -> None:
        words: dict[str, Any] = {"regime": "few-shot", "split": "3-fold"}
        peftbench.probe(TASK, workspace=place, shots=[2, 4], draws=4, **words)
        few = row_of_call(place, shots=2, draws=2, **words)
        assert few.control.startswith("control:")
        assert row_of_call(place, split="3-fold").control == ""

    @pytest.mark.parametrize("words", [{}, {"regime": "few-shot", "shots": 2, "draws": 2}], ids=["full", "few"])
    def test_two_workspaces_hold_the_same_bytes(self, place: Workspace, tmp_path: Path, words: dict[str, Any]) -> None:
        other = copied(place, tmp_path / "other")
        sets = ["epochs=2", "batch_size=8"]
        one, two = (row_of_call(each, CNN, "lora", set_=sets, split="LOCO", **words) for each in (place, other))
        assert lasting(one.record) == lasting(two.record)
        assert len(lasting(one.record)) == 2 + 3 * max(1, words.get("draws", 1))

    def test_another_seed_divides_and_begins_otherwise(self, place: Workspace) -> None:
        one, two = (row_of_call(place, seed=seed) for seed in (0, 1))
        assert images_in(one.record) != images_in(two.record)
        assert (
            lasting(one.record)["checkpoints/fold-0.safetensors"]
            != (lasting(two.record)["checkpoints/fold-0.safetensors"])
        )

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"regime": "few-shot", "shots": 40}, r"images with(out)? the event in training, 40 shots are asked"),
            ({"regime": "reduced", "shots": 4000}, "4000 are asked for"),
            ({"regime": "reduced"}, "256 is the default .* name another with --shots"),
            ({"regime": "few-shot", "shots": 1, "draws": 10**7}, r"distinct support sets .* --draws \d+"),
        ],
        ids=str,
    )
    def test_what_a_task_has_not_is_refused_before_anything_is_trained(
        self, place: Workspace, trainings: Trainings, words: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(SplitError, match=message):
            row_of_call(place, **words)
        assert (len(trainings), place.results.exists()) == (0, False)
