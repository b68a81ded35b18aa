"""`probe --regime`: support sets that are nested and stay, sizes that fit, and the distribution over draws."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from probe_kit import BACKBONE, manifest_of
from progress_kit import Ear

from peftbench.benchmark.splitting import splits_export, splits_import
from peftbench.cohorts.asked import task_rows
from peftbench.errors import SplitError
from peftbench.probing.probe import probe
from peftbench.protocol import metrics
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.records import Record, read_predictions, read_record
from peftbench.protocol.results import ProbeRow
from peftbench.protocol.splits import find_split
from peftbench.protocol.splits.supports import support_sets_of
from peftbench.protocol.splits.units import home_centers
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow

TASK = "PHA_icu_all"


def few(place: Workspace, regime: str = "few-shot", **words: Any) -> list[ProbeRow]:
    given: dict[str, Any] = {"draws": 4, "control": False, "permutations": 0, **words}
    return probe(TASK, BACKBONE, workspace=place, regime=regime, **given).results


def record_of(row: ProbeRow) -> Record:
    return read_record(Path(row.record))


def support_images(row: ProbeRow) -> dict[tuple[int, int], set[str]]:
    """(fold, draw) to the images that were fitted on, as the record tells them."""
    held = read_predictions(Path(row.record)).query("role == 'left-out'")
    return {cell: set(rows["sample_id"]) for cell, rows in held.groupby(["fold", "draw"])}  # type: ignore[misc]


def test_of_every_fold_and_draw_the_support_set_is_in_the_record(own_place: Workspace) -> None:
    (row,) = few(own_place, shots=4)
    rows = task_rows(TASK, own_place)
    split = find_split(rows, None, 0, own_place.splits(TASK))
    (sets,) = support_sets_of(rows, split, "few-shot", (4,), 4)[0].values()
    names = rows.frame["sample_id"].to_numpy()
    expected = {(fold, draw): set(names[each]) for fold in range(5) for draw, each in enumerate(sets[fold])}
    assert support_images(row) == expected
    for fold, of_fold in enumerate(sets):
        assert set(of_fold.ravel()) <= set(split.positions(fold, "train"))


def test_the_sets_of_more_shots_hold_those_of_fewer(own_place: Workspace) -> None:
    found = {row.shots: support_images(row) for row in few(own_place, shots=[2, 4, 8])}
    for fewer, more in ((2, 4), (4, 8)):
        for cell, images in found[fewer].items():
            assert len(images) == 2 * fewer
            assert images < found[more][cell]


@pytest.mark.parametrize("name", ["logistic", pytest.param("knn", marks=pytest.mark.slow)])
def test_more_draws_and_sizes_add_to_what_there_was(own_place: Workspace, name: str) -> None:
    (first,) = few(own_place, shots=4, draws=2, probe=name)
    _, more, _ = few(own_place, shots=[2, 4, 8], draws=5, probe=name)
    kept = read_predictions(Path(more.record)).query("draw < 2").reset_index(drop=True)
    pd.testing.assert_frame_equal(read_predictions(Path(first.record)), kept, rtol=0, atol=1e-12)
    assert more.draws == 5


def test_another_seed_divides_otherwise_and_draws_anew(own_place: Workspace) -> None:
    one, other = (support_images(few(own_place, shots=2, seed=seed)[0]) for seed in (0, 1))
    assert one != other


class TestDistribution:
    @pytest.mark.parametrize("unit", ["image", "patient"])
    def test_it_is_that_of_the_saved_predictions(self, own_place: Workspace, unit: str) -> None:
        (row,) = few(own_place, shots=2, draws=12)
        tested = read_predictions(Path(row.record)).query("role == 'test'")
        scores = np.empty((5, 12))
        for cell, part in tested.groupby(["fold", "draw"]):
            event, score = part["event"], part["score"]
            if unit == "patient":
                by_patient = part.groupby("patient_id").agg({"event": "max", "score": "mean"})
                event, score = by_patient["event"], by_patient["score"]
            scores[cell] = metrics.evaluate(event, score).values["mcc"]  # noqa: PD011 - no pandas here
        found = record_of(row).distribution[unit]["mcc"]
        # Folds that are easier than others are no luck of a support set.
        expected = {"draws": 12, "mean": scores.mean(), "worst_decile": scores.min(axis=1).mean()}
        expected["std"] = scores.std(axis=1, ddof=1).mean()
        for name, at in (("q05", 0.05), ("median", 0.5), ("q95", 0.95)):
            expected[name] = np.quantile(scores, at, axis=1).mean()
        assert {name: found[name] for name in expected} == pytest.approx(expected)
        if unit == "image":
            told = {"q05": row.mcc_q05, "q95": row.mcc_q95, "worst_decile": row.mcc_worst_decile}
            assert told == pytest.approx({name: found[name] for name in told})
            assert row.mcc_mean == pytest.approx(scores.mean())

    def test_a_fit_on_the_whole_training_part_has_none(self, own_place: Workspace) -> None:
        (row,) = probe(TASK, BACKBONE, workspace=own_place, control=False, permutations=0).results
        assert record_of(row).distribution == {}
        assert np.isnan(row.mcc_worst_decile)


class TestChoice:
    def test_on_the_support_set_the_validation_part_is_not_even_predicted(self, own_place: Workspace) -> None:
        (row,) = few(own_place, shots=4)
        record = record_of(row)
        assert set(read_predictions(Path(row.record))["role"]) == {"left-out", "test"}
        assert record.config.settings["chosen_on"] == "support"
        assert all("support_log_loss" in score["chosen"] for score in record.scores)

    def test_on_validation_it_is_a_record_of_its_own(self, own_place: Workspace) -> None:
        one, other = (few(own_place, shots=4, choose_on=where)[0] for where in ("support", "validation"))
        assert one.record != other.record
        assert set(read_predictions(Path(other.record))["role"]) == {"validation", "test"}

    def test_labels_of_the_validation_and_the_test_part_change_no_score(self, own_place: Workspace) -> None:
        """The division is given, so that it stays as it was for the true labels."""
        (before,) = few(own_place, shots=2, split="hold-out", draws=3)
        manifest = manifest_of(own_place)
        split = find_split(task_rows(TASK, own_place), "hold-out", 0, own_place.splits(TASK))
        held = np.concatenate([split.positions(0, role) for role in ("validation", "test")])
        names = set(task_rows(TASK, own_place).frame["sample_id"].iloc[held])
        frame = manifest.frame
        turned = frame["icu"].map({"yes": "no", "no": "yes"}).where(frame["sample_id"].isin(names), frame["icu"])
        table = own_place.root / "own.csv"
        splits_export(TASK, table, split="hold-out", workspace=own_place)
        Manifest("phantom", frame.assign(icu=turned)).write(own_place.manifest("phantom"))
        splits_import(TASK, table, "hold-out-again", workspace=own_place)
        (after,) = few(own_place, shots=2, split="hold-out-again", draws=3)
        one, other = (read_predictions(Path(row.record)) for row in (before, after))
        np.testing.assert_array_equal(one["score"], other["score"])
        tested = one["role"] == "test"
        assert (one["event"] != other["event"])[tested].all()
        chosen = [[score["chosen"] for score in record_of(row).scores] for row in (before, after)]
        assert chosen[0] == chosen[1]
        thresholds = [[score["threshold"] for score in record_of(row).scores] for row in (before, after)]
        assert thresholds[0] == thresholds[1]


class TestSizes:
    def test_of_the_default_sizes_those_that_do_not_fit_are_left_out_with_the_reason(
        self, own_place: Workspace
    ) -> None:
        ear = Ear()
        rows = few(own_place, progress=ear)
        assert [row.shots for row in rows] == [2, 4, 8]
        (note,) = [note for note in ear.notes if "left out" in note]
        assert note.startswith(f"{TASK}: 16 and more are left out: ")
        assert "images with the event in training, 16 shots are asked for" in note
        assert all(record_of(row).notes == [note.removeprefix(f"{TASK}: ")] for row in rows)

    def test_by_default_there_are_a_hundred_draws(self, own_place: Workspace) -> None:
        rows = task_rows(TASK, own_place)
        split = find_split(rows, None, 0, own_place.splits(TASK))
        sets, _ = support_sets_of(rows, split, "few-shot", (8,), 100)
        assert [each.shape for each in sets[8]] == [(100, 16)] * 5
        assert all(len({tuple(each) for each in of_fold}) == 100 for of_fold in sets[8]), "no draw comes twice"

    def test_a_size_that_was_asked_for_is_refused_where_it_does_not_fit(self, own_place: Workspace) -> None:
        with pytest.raises(
            SplitError, match=r"fold '\d' has \d+ images with the event in training, 16 shots are asked"
        ):
            few(own_place, shots=[2, 16])
        assert not own_place.results.exists()

    def test_more_draws_than_there_are_support_sets_are_refused(self, own_place: Workspace) -> None:
        with pytest.raises(SplitError, match=r"has \d+ distinct support sets of 4 images .* --draws \d+"):
            few(own_place, shots=2, draws=10**7)

    def test_reduced_keeps_the_prevalence(self, own_place: Workspace) -> None:
        rows = few(own_place, "reduced", shots=[10, 20])
        frame = task_rows(TASK, own_place).frame.set_index("sample_id")
        split = find_split(task_rows(TASK, own_place), None, 0, own_place.splits(TASK))
        for row in rows:
            for (fold, _), images in support_images(row).items():
                share = frame["event"].to_numpy()[split.positions(fold, "train")].mean()
                assert len(images) == row.shots
                assert abs(frame.loc[sorted(images), "event"].sum() - share * row.shots) <= 0.5

    def test_a_default_that_does_not_fit_names_the_option(self, own_place: Workspace) -> None:
        with pytest.raises(SplitError, match=r"256 are asked for.* 256 is the default .* name another with --shots"):
            few(own_place, "reduced")


class TestCenters:
    def test_every_centre_and_class_gives_as_many(self, own_place: Workspace) -> None:
        (row,) = few(own_place, "center-few-shot")
        assert (row.regime, row.shots) == ("center few-shot", 2)
        frame = task_rows(TASK, own_place).frame
        home = pd.Series(home_centers(frame), index=frame["sample_id"])
        event = frame.set_index("sample_id")["event"]
        for images in support_images(row).values():
            counts = pd.crosstab(home[sorted(images)], event[sorted(images)])
            np.testing.assert_array_equal(counts, [[2, 2]] * 3)

    def test_under_loco_those_that_train_give(self, own_place: Workspace) -> None:
        (row,) = few(own_place, "center-few-shot", split="LOCO", shots=2)
        assert {len(images) for images in support_images(row).values()} == {2 * 2 * 2}

    def test_one_centre_is_refused_with_the_reason(self, own_place: Workspace) -> None:
        manifest = manifest_of(own_place)
        Manifest("phantom", manifest.frame.assign(center="A")).write(own_place.manifest("phantom"))
        with pytest.raises(SplitError, match=r"has 1 centre \(A\), and center few-shot draws .* --regime few-shot"):
            few(own_place, "center-few-shot")

    def test_without_centres_it_is_refused_as_well(self, own_place: Workspace) -> None:
        manifest = manifest_of(own_place)
        Manifest("phantom", manifest.frame.assign(center="")).write(own_place.manifest("phantom"))
        with pytest.raises(SplitError, match=r"has 0 centre.*none known"):
            few(own_place, "center-few-shot")

    def test_a_centre_that_has_too_few_is_named(self, own_place: Workspace) -> None:
        with pytest.raises(SplitError, match=r"from centre '[ABC]' in training, 8 shots are asked for"):
            few(own_place, "center-few-shot", shots=[2, 8])
