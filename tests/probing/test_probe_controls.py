"""What must be beaten: controls that find a shortcut, untrained weights, permuted labels, and scores within strata."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from probe_kit import BACKBONE, manifest_of, telling_features, write_features, write_matrix
from sklearn.metrics import log_loss, matthews_corrcoef

from peftbench.cohorts.asked import task_rows
from peftbench.probing.cells import Task, solve
from peftbench.probing.given import Given
from peftbench.probing.permuting import permuted_labels
from peftbench.probing.probe import probe
from peftbench.protocol import metrics
from peftbench.protocol.calibration import best_threshold
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.records import Record, read_predictions, read_record
from peftbench.protocol.results import ProbeRow
from peftbench.protocol.splits import find_split
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow

TASK = "PHA_icu_all"

TRAINED = "efficientnet-lite0"


def probed(place: Workspace, backbone: str = BACKBONE, **words: Any) -> dict[str, ProbeRow]:
    """Input to its row."""
    return {row.backbone: row for row in probe(TASK, backbone, workspace=place, **words).results}


def record_of(row: ProbeRow) -> Record:
    return read_record(Path(row.record))


def relabelled(place: Workspace, event: "pd.Series[Any]") -> None:
    frame = manifest_of(place).frame
    labels = event.map({True: "yes", False: "no"})
    Manifest("phantom", frame.assign(icu=labels.to_numpy())).write(place.manifest("phantom"))


def events(place: Workspace) -> np.ndarray:
    return (manifest_of(place).frame["icu"] == "yes").to_numpy(dtype=np.int64)


class TestShortcuts:
    """Features that know nothing but a shortcut: the control that sees the same reveals them."""

    def test_the_number_of_images(self, own_place: Workspace) -> None:
        frame = manifest_of(own_place).frame
        count = frame["patient_id"].map(frame["patient_id"].value_counts())
        relabelled(own_place, count > 1)
        write_matrix(own_place, TRAINED, np.stack([count, np.ones(len(count))], axis=1).astype(float))
        rows = probed(own_place, TRAINED, permutations=0)
        assert rows[TRAINED].mcc_mean == rows["control:images"].mcc_mean == 1
        assert rows["control:view"].mcc_mean < 0.5
        assert rows[TRAINED].control in ("control:images", "control:metadata")
        assert rows[TRAINED].gain_mean <= 0

    def test_the_centre(self, own_place: Workspace) -> None:
        frame = manifest_of(own_place).frame
        relabelled(own_place, frame["center"] == "A")
        write_matrix(own_place, TRAINED, (frame[["center"]] == "A").to_numpy(dtype=float))
        rows = probed(own_place, TRAINED, permutations=0)
        assert rows[TRAINED].mcc_mean == rows["control:center"].mcc_mean == 1
        assert rows["control:metadata"].mcc_mean == 1
        assert rows["control:view"].mcc_mean < 0.5

    def test_in_few_shot_as_well(self, own_place: Workspace) -> None:
        frame = manifest_of(own_place).frame
        relabelled(own_place, frame["center"] == "A")
        write_matrix(own_place, TRAINED, (frame[["center"]] == "A").to_numpy(dtype=float))
        rows = probed(own_place, TRAINED, permutations=0, regime="few-shot", shots=8, draws=3)
        assert rows["control:center"].mcc_mean > 0.9
        assert rows[TRAINED].gain_mean < 0.1

    def test_the_gain_is_against_the_strongest_of_them(self, own_place: Workspace) -> None:
        rows = probed(own_place, permutations=0)
        controls = {name: row for name, row in rows.items() if name.startswith("control:")}
        strongest = max(controls, key=lambda name: controls[name].mcc_mean)
        assert rows[BACKBONE].control == strongest
        assert rows[BACKBONE].gain_mean == pytest.approx(rows[BACKBONE].mcc_mean - controls[strongest].mcc_mean)
        assert rows[BACKBONE].gain_low < rows[BACKBONE].gain_mean < rows[BACKBONE].gain_high
        assert all(row.control == "" for row in controls.values())


class TestUntrained:
    def test_where_it_is_stored_it_runs_unasked(self, own_place: Workspace) -> None:
        write_features(own_place, TRAINED)
        write_features(own_place, f"{TRAINED}@random:0", seed=4)
        write_features(own_place, f"{TRAINED}@random:3", seed=5)
        rows = probed(own_place, TRAINED, permutations=0)
        assert list(rows)[:3] == [TRAINED, f"{TRAINED}@random:0", f"{TRAINED}@random:3"]
        strongest = max((row for name, row in rows.items() if name != TRAINED), key=lambda row: row.mcc_mean)
        assert rows[TRAINED].control == strongest.backbone

    def test_one_that_lacks_images_or_is_another_architecture_does_not(self, own_place: Workspace) -> None:
        write_features(own_place, TRAINED)
        write_features(own_place, f"{TRAINED}@random:0", share=0.5)
        assert [name for name in probed(own_place, TRAINED, permutations=0) if "random" in name] == []

    def test_without_controls_it_does_not_run_either(self, own_place: Workspace) -> None:
        write_features(own_place, TRAINED)
        write_features(own_place, f"{TRAINED}@random:0")
        assert list(probed(own_place, TRAINED, permutations=0, control=False)) == [TRAINED]


class TestPermutedLabels:
    @pytest.mark.parametrize("regime", [{}, {"regime": "few-shot", "shots": 4, "draws": 3}], ids=["full", "few-shot"])
    @pytest.mark.parametrize("name", ["logistic", pytest.param("centroid", marks=pytest.mark.slow)])
    def test_telling_features_have_the_least_p_and_noise_has_none(
        self, own_place: Workspace, regime: dict[str, Any], name: str
    ) -> None:
        event = events(own_place)
        write_matrix(own_place, TRAINED, telling_features(event, signal=6))
        write_matrix(own_place, "densenet121", np.random.default_rng(3).normal(size=(len(event), 6)))
        told, noise = (
            probed(own_place, backbone, probe=name, control=False, **regime)[backbone]
            for backbone in (TRAINED, "densenet121")
        )
        assert told.p_value == 0.01
        assert noise.p_value > 0.1
        null = record_of(told).null
        assert null["permutations"] == 99
        assert null["q95"] < told.mcc_mean
        assert ("chosen anew" in null["how"]) == (name == "logistic" and not regime)

    def test_the_null_of_the_full_regime_is_the_mean_over_folds_of_the_same_labellings(
        self, own_place: Workspace
    ) -> None:
        """Each labelling is one of the whole task; every fold fits, chooses and tests under it."""
        count = 6
        row = probed(own_place, permutations=count, control=False)[BACKBONE]
        rows = task_rows(TASK, own_place)
        split = find_split(rows, None, 0, own_place.splits(TASK))
        frame = manifest_of(own_place).frame
        matrix = pd.DataFrame(telling_features(events(own_place)).astype(np.float32), index=frame["sample_id"])
        given = Given({"embedding": matrix.loc[rows.frame["sample_id"]].to_numpy()})
        patients = pd.factorize(rows.frame["patient_id"])[0].astype(np.int64)
        parts = [{role: split.positions(fold, role) for role in ("train", "validation", "test")} for fold in range(5)]
        event = rows.frame["event"].to_numpy(dtype=np.int64)
        labels = permuted_labels(event, patients, [each["test"] for each in parts], count, 0)
        cells = [Task("x", "logistic", event, **roles, patients=patients, labels=labels) for roles in parts]
        scores = np.stack([solve(each, given).null for each in cells])
        null, means = record_of(row).null, scores.mean(axis=0)
        assert (null["mean"], null["std"]) == pytest.approx((means.mean(), means.std(ddof=1)), abs=1e-9)
        assert null["p"] == pytest.approx((1 + (means >= row.mcc_mean - 1e-12).sum()) / (1 + count))

    def test_none_are_made_where_none_are_wanted(self, own_place: Workspace) -> None:
        row = probed(own_place, permutations=0, control=False)[BACKBONE]
        assert record_of(row).null == {}
        assert np.isnan(row.p_value)


class TestStrata:
    @pytest.mark.parametrize("words", [{}, {"regime": "few-shot", "shots": 4, "draws": 3}], ids=["full", "few-shot"])
    def test_scores_are_told_within_views_and_centres(self, own_place: Workspace, words: dict[str, Any]) -> None:
        row = probed(own_place, permutations=0, control=False, **words)[BACKBONE]
        frame = task_rows(TASK, own_place).frame.set_index("sample_id")
        tested = read_predictions(Path(row.record)).query("role == 'test'")
        told = {(each["column"], each["value"]): each for each in record_of(row).strata}
        assert {column for column, _ in told} == {"view", "center"}
        for (column, value), each in told.items():
            mine = tested[(frame.loc[tested["sample_id"], column].fillna("") == value).to_numpy()]
            assert (each["size"], each["events"]) == (
                mine["sample_id"].nunique(),
                mine.drop_duplicates("sample_id")["event"].sum(),
            )
            folds = []
            for _, fold in mine.groupby("fold"):
                found = [metrics.evaluate(part["event"], part["score"]) for _, part in fold.groupby("draw")]
                folds.append(np.mean([one.values["mcc"] for one in found]))  # noqa: PD011 - no pandas here
            assert each["mcc_mean"] == pytest.approx(np.nanmean(folds), nan_ok=True)


class TestThresholdsAndTemperature:
    def test_the_threshold_is_tuned_on_the_folds_validation_part_and_used_on_its_test_part(
        self, own_place: Workspace
    ) -> None:
        row = probed(own_place, permutations=0, control=False)[BACKBONE]
        predictions = read_predictions(Path(row.record))
        found = []
        for score in [each for each in record_of(row).scores if each["unit"] == "image"]:
            part = predictions[predictions["fold"] == score["fold"]]
            held, tested = (part[part["role"] == role] for role in ("validation", "test"))
            assert score["threshold"] == best_threshold(held["event"], held["score"])
            found.append(matthews_corrcoef(tested["event"], tested["score"] >= score["threshold"]))
            assert score["metrics"]["mcc_tuned"] == pytest.approx(found[-1])
        assert row.mcc_tuned_mean == pytest.approx(np.mean(found))

    def test_by_patient_the_mean_score_of_the_images_counts(self, own_place: Workspace) -> None:
        row = probed(own_place, permutations=0, control=False)[BACKBONE]
        tested = read_predictions(Path(row.record)).query("role == 'test'")
        scores = {each["fold"]: each for each in record_of(row).scores if each["unit"] == "patient"}
        for fold, part in tested.groupby("fold"):
            patients = part.groupby("patient_id").agg({"event": "max", "score": "mean"})
            expected = metrics.evaluate(patients["event"], patients["score"]).values  # noqa: PD011 - no pandas here
            assert scores[fold]["size"] == len(patients) < len(part)
            assert {name: scores[fold]["metrics"][name] for name in expected} == pytest.approx(expected)

    @pytest.mark.parametrize("words", [{}, {"regime": "few-shot", "shots": 8, "draws": 3}], ids=["full", "few-shot"])
    def test_a_temperature_changes_no_rank_and_no_decision(self, own_place: Workspace, words: dict[str, Any]) -> None:
        plain, scaled = (
            probed(own_place, permutations=0, control=False, calibrate=how, **words)[BACKBONE]
            for how in ("none", "temperature")
        )
        assert plain.record != scaled.record
        assert (plain.mcc_mean, plain.pr_auc_mean) == pytest.approx((scaled.mcc_mean, scaled.pr_auc_mean))
        both = [read_predictions(Path(row.record)) for row in (plain, scaled)]
        pd.testing.assert_frame_equal(*(each.drop(columns="score") for each in both))
        for cell, at in both[0].groupby(["fold", "draw", "role"]).groups.items():
            before, after = (each.loc[at, "score"] for each in both)
            assert before.rank().tolist() == after.rank().tolist()
            if cell[2] != "test":  # type: ignore[index]
                event = both[0].loc[at, "event"]
                assert log_loss(event, after) <= log_loss(event, before) + 1e-9
        chosen = [score["chosen"] for score in record_of(scaled).scores]
        assert all(each["temperature"] > 0 for each in chosen)
