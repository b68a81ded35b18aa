"""What a record says of its predictions agrees with loops over them; permuted labels with all their permutations."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, matthews_corrcoef

from peftbench.protocol import metrics
from peftbench.protocol.calibration import best_threshold
from peftbench.protocol.records import FoldScore
from peftbench.protocol.scoring import (
    NO_TUNING,
    distribution,
    in_unit,
    null_of,
    permuted_test_labels,
    reliability_curve,
    score_folds,
    summarise,
    within_strata,
)

NAN = math.nan


def part(
    fold: int,
    events: Sequence[int],
    scores: Sequence[float],
    patients: Sequence[str],
    role: str = "test",
    draw: int = 0,
) -> pd.DataFrame:
    """Predictions of one part; images are named by fold and position."""
    names = [f"{role}-{fold}-{at}" for at in range(len(events))]
    columns = {"sample_id": names, "patient_id": list(patients), "event": list(events), "score": list(scores)}
    return pd.DataFrame({"fold": fold, "draw": draw, "role": role, **columns})


def made_up(seed: int, folds: int = 3, draws: int = 1, patients: int = 10, signal: float = 0.2) -> pd.DataFrame:
    """Two images a patient, validation and test; the draws of a fold test the same images."""
    random = np.random.default_rng(seed)
    parts = []
    for fold in range(folds):
        for role in ("validation", "test"):
            names = np.repeat([f"{role}-{fold}-p{at}" for at in range(patients)], 2)
            event = np.repeat(random.permutation(np.arange(patients) % 2), 2)
            for draw in range(draws):
                score = np.clip(random.normal(0.5 + signal * (event - 0.5), 0.2), 0, 1)
                parts.append(part(fold, event, score, names, role, draw))
    return pd.concat(parts, ignore_index=True)


def cells(frame: pd.DataFrame) -> dict[tuple[int, int], dict[str, Any]]:
    return {(int(fold), int(draw)): {} for fold, draw in frame[["fold", "draw"]].drop_duplicates().to_numpy()}


def scores_of(table: npt.NDArray[np.float64], metric: str = "mcc", unit: str = "image") -> list[FoldScore]:
    """FoldScores whose metric is table[fold, draw]."""
    return [
        FoldScore(unit, fold, draw, 10, 4, {metric: float(value)}, {}, {})
        for (fold, draw), value in np.ndenumerate(table)
    ]


class TestFolds:
    def test_the_threshold_is_that_of_the_folds_own_validation_part(self) -> None:
        frame = made_up(0, draws=2)
        for score in score_folds(frame, cells(frame)):
            own = frame[(frame["fold"] == score.fold) & (frame["draw"] == score.draw)]
            held, tested = (in_unit(own[own["role"] == role], score.unit) for role in ("validation", "test"))
            assert score.threshold == best_threshold(*held)
            decided = tested.score >= score.threshold
            assert score.metrics["mcc_tuned"] == pytest.approx(matthews_corrcoef(tested.event, decided))
            assert score.metrics["mcc"] == pytest.approx(matthews_corrcoef(tested.event, tested.score >= 0.5))

    def test_labels_of_the_test_part_change_no_threshold(self) -> None:
        frame = made_up(1)
        tested = frame["role"] == "test"
        turned = frame.assign(event=np.where(tested, 1 - frame["event"], frame["event"]))
        before, after = (score_folds(each, cells(frame)) for each in (frame, turned))
        assert [score.threshold for score in before] == [score.threshold for score in after]
        assert [score.metrics["mcc"] for score in before] != [score.metrics["mcc"] for score in after]

    def test_scores_that_were_left_out_of_a_fit_tune_as_a_validation_part_does(self) -> None:
        frame = made_up(2)
        renamed = frame.assign(role=frame["role"].replace("validation", "left-out"))
        assert score_folds(renamed, cells(frame)) == score_folds(frame, cells(frame))

    def test_without_anything_to_tune_on_there_is_a_reason(self) -> None:
        frame = made_up(3)
        for score in score_folds(frame[frame["role"] == "test"], cells(frame)):
            assert math.isnan(score.threshold)
            assert math.isnan(score.metrics["mcc_tuned"])
            assert {name: score.reasons[name] for name in metrics.TUNED_NAMES} == dict.fromkeys(
                metrics.TUNED_NAMES, NO_TUNING
            )
            assert not math.isnan(score.metrics["mcc"])

    def test_every_metric_is_there_once(self) -> None:
        frame = made_up(4)
        for score in score_folds(frame, cells(frame)):
            assert tuple(score.metrics) == (*metrics.NAMES, *metrics.TUNED_NAMES)

    def test_training_predictions_are_never_scored(self) -> None:
        frame = made_up(5)
        more = pd.concat([frame, frame.assign(role="train", score=0.0)])
        assert score_folds(more, cells(frame)) == score_folds(frame, cells(frame))


TABLE = np.array([[0.1, 0.5, NAN, 0.3], [0.2, -0.4, 0.6, 0.0], [NAN, 0.1, 0.2, 0.9]])


class TestOverFoldsAndDraws:
    def test_a_fold_is_the_mean_of_its_draws(self) -> None:
        found = summarise(scores_of(TABLE))["image"]["mcc"]
        folds = [np.mean([value for value in row if not np.isnan(value)]) for row in TABLE]
        assert found["mean"] == pytest.approx(np.mean(folds))
        assert found["std"] == pytest.approx(np.std(folds, ddof=1))
        assert found["folds"] == 3

    def test_support_sets_are_told_apart_from_their_folds(self) -> None:
        found = distribution(scores_of(TABLE))["image"]["mcc"]
        folds = [[value for value in row if not np.isnan(value)] for row in TABLE]
        expected = {"draws": 4, "mean": np.mean([np.mean(row) for row in folds])}
        expected |= {"worst_decile": np.mean([min(row) for row in folds])}
        expected |= {"std": np.mean([np.std(row, ddof=1) for row in folds])}
        for name, at in (("q05", 0.05), ("median", 0.5), ("q95", 0.95)):
            expected[name] = np.mean([np.quantile(row, at) for row in folds])
        assert {name: found[name] for name in expected} == pytest.approx(expected)

    def test_the_worst_decile_is_the_mean_of_the_lowest_tenth(self) -> None:
        values = np.random.default_rng(0).normal(size=(2, 57))
        found = distribution(scores_of(values))["image"]["mcc"]
        assert found["worst_decile"] == pytest.approx(np.mean(np.sort(values, axis=1)[:, :5]))
        told = [found[name] for name in ("q05", "q25", "median", "q75", "q95")]
        assert told == sorted(told)

    def test_more_folds_do_not_make_a_support_set_look_steadier(self) -> None:
        values = np.random.default_rng(0).normal(size=(20, 200)) + np.linspace(-3, 3, 20)[:, None]
        found = distribution(scores_of(values))["image"]["mcc"]
        assert found["std"] == pytest.approx(1.0, abs=0.05)

    def test_of_a_loss_the_highest_are_the_worst(self) -> None:
        values = np.random.default_rng(0).uniform(size=(2, 57))
        found = distribution(scores_of(values, "brier"))["image"]["brier"]
        assert found["worst_decile"] == pytest.approx(np.mean(np.sort(values, axis=1)[:, -5:]))

    def test_a_single_draw_has_no_distribution(self) -> None:
        assert distribution(scores_of(TABLE[:, :1])) == {}

    def test_a_metric_that_is_never_defined_has_none(self) -> None:
        assert distribution(scores_of(np.full((2, 3), NAN))) == {}
        found = summarise(scores_of(np.full((2, 3), NAN)))["image"]["mcc"]
        assert found["folds"] == 0

    def test_units_are_told_apart(self) -> None:
        both = [*scores_of(TABLE), *scores_of(TABLE / 2, unit="patient")]
        for tell in (summarise, distribution):
            found = tell(both)
            assert found["patient"]["mcc"]["mean"] == pytest.approx(found["image"]["mcc"]["mean"] / 2)

    def test_the_order_of_the_scores_is_nothing(self) -> None:
        given = scores_of(TABLE)
        assert summarise(given[::-1]) == summarise(given)
        assert distribution(given[::-1]) == distribution(given)


class TestStrata:
    def frame(self, predictions: pd.DataFrame, **columns: Sequence[object]) -> pd.DataFrame:
        return pd.DataFrame({"sample_id": predictions["sample_id"].drop_duplicates(), **columns})

    @pytest.mark.parametrize("draws", [1, 3])
    @pytest.mark.parametrize("unit", ["image", "patient"])
    def test_each_is_scored_alone(self, unit: str, draws: int) -> None:
        predictions = made_up(6, draws=draws)
        names = predictions["sample_id"].drop_duplicates()
        view = dict(zip(names, ["AP", "PA", "PA"] * (len(names) // 3), strict=True))
        found = within_strata(predictions, self.frame(predictions, view=list(view.values())), unit)
        assert [(each["column"], each["value"]) for each in found] == [("view", "AP"), ("view", "PA")]
        for each in found:
            rows = predictions[(predictions["role"] == "test") & (predictions["sample_id"].map(view) == each["value"])]
            expected = [
                np.mean([self.manual(rows[(rows["fold"] == fold) & (rows["draw"] == draw)], unit)
                         for draw in range(draws)], axis=0)
                for fold in range(3)
            ]  # fmt: skip
            mean, std = np.mean(expected, axis=0), np.std(expected, axis=0, ddof=1)
            assert (each["mcc_mean"], each["pr_auc_mean"]) == pytest.approx(tuple(mean))
            assert (each["mcc_std"], each["pr_auc_std"]) == pytest.approx(tuple(std))
            once = rows[rows["draw"] == 0]
            events = once if unit == "image" else once.groupby("patient_id")[["event"]].max()
            assert (each["size"], each["events"], each["folds"]) == (len(events), events["event"].sum(), 3)

    def manual(self, rows: pd.DataFrame, unit: str) -> tuple[float, float]:
        if unit == "patient":
            rows = rows.groupby("patient_id").agg({"event": "max", "score": "mean"})
        decided = rows["score"] >= 0.5
        return matthews_corrcoef(rows["event"], decided), average_precision_score(rows["event"], rows["score"])

    def test_one_view_alone_is_no_stratum(self) -> None:
        predictions = made_up(7)
        count = predictions["sample_id"].nunique()
        frame = self.frame(predictions, view=["AP"] * count, center=["A", "B"] * (count // 2))
        assert {each["column"] for each in within_strata(predictions, frame, "image")} == {"center"}

    def test_an_unknown_view_is_a_stratum_of_its_own(self) -> None:
        predictions = made_up(8)
        count = predictions["sample_id"].nunique()
        frame = self.frame(predictions, view=["AP", None] * (count // 2))
        assert [each["value"] for each in within_strata(predictions, frame, "image")] == ["", "AP"]

    def test_folds_are_counted_in_the_unit(self) -> None:
        """One patient with an event in one of two images: both classes by image, one by patient."""
        predictions = part(0, [0, 1, 0], [0.2, 0.8, 0.1], ["p", "p", "q"])
        frame = self.frame(predictions, view=["AP", "AP", "PA"])
        for unit, folds in (("image", 1), ("patient", 0)):
            first = within_strata(predictions, frame, unit)[0]
            assert (first["value"], first["folds"]) == ("AP", folds)
            assert math.isnan(first["mcc_mean"]) == (not folds)


class TestReliabilityCurve:
    @pytest.mark.parametrize("unit", ["image", "patient"])
    def test_it_is_of_all_test_parts_together(self, unit: str) -> None:
        frame = made_up(9, draws=2)
        tested = frame[frame["role"] == "test"]
        parts = [in_unit(rows, unit) for _, rows in tested.groupby(["fold", "draw"])]
        event, score = (np.concatenate(each) for each in zip(*parts, strict=True))
        curve = reliability_curve(frame, unit)
        gap = sum(each["count"] * abs(each["score"] - each["share"]) for each in curve)
        assert sum(each["count"] for each in curve) == len(event)
        assert gap / len(event) == pytest.approx(metrics.calibration_error(event, score))


class TestPermutedLabels:
    def test_all_permutations_of_a_tiny_case(self) -> None:
        """Four patients, two of them with the event: the mean over many draws is that over all 24 permutations."""
        events, scores = [1, 1, 0, 0, 0], [0.9, 0.2, 0.8, 0.1, 0.3]
        patients = ["a", "b", "c", "d", "d"]
        frame = part(0, events, scores, patients)
        by_patient = {"a": 1, "b": 1, "c": 0, "d": 0}
        exact: list[float] = []
        for order in itertools.permutations(by_patient.values()):
            label = dict(zip(by_patient, order, strict=True))
            exact.append(matthews_corrcoef([label[each] for each in patients], np.array(scores) >= 0.5))
        found = permuted_test_labels(frame, "image", 4000, 0)
        assert {round(value, 9) for value in found} == {round(value, 9) for value in exact}
        assert found.mean() == pytest.approx(np.mean(exact), abs=0.03)
        for value in set(exact):
            assert np.mean(np.abs(found - value) < 1e-9) == pytest.approx(
                np.mean(np.abs(np.array(exact) - value) < 1e-9), abs=0.04
            )

    def test_patients_stay_whole(self) -> None:
        """All images of a patient are decided alike: with labels shuffled by image other values than ±1 would occur."""
        frame = part(0, [1, 1, 1, 0, 0, 0], [0.9] * 3 + [0.1] * 3, ["a"] * 3 + ["b"] * 3)
        assert set(np.round(permuted_test_labels(frame, "image", 50, 0), 9)) == {1.0, -1.0}

    @pytest.mark.parametrize("unit", ["image", "patient"])
    def test_random_scores_have_a_mean_near_zero(self, unit: str) -> None:
        found = permuted_test_labels(made_up(10, folds=4, patients=20, draws=2), unit, 999, 1)
        assert abs(found.mean()) < 0.02

    @pytest.mark.parametrize("unit", ["image", "patient"])
    def test_a_perfect_score_has_the_smallest_p(self, unit: str) -> None:
        frame = made_up(11, patients=20)
        perfect = frame.assign(score=frame["event"] * 0.8 + 0.1)
        null = null_of(1.0, permuted_test_labels(perfect, unit, 99, 0), "labels", unit)
        assert null["p"] == pytest.approx(0.01)
        assert null["permutations"] == 99
        assert null["unit"] == unit
        assert null["q95"] < 1

    @pytest.mark.slow
    def test_p_is_uniform_where_scores_know_nothing(self) -> None:
        random, found = np.random.default_rng(0), []
        fold, patient = np.repeat([0, 1, 2], 24), [f"p-{at}" for at in range(72)]
        for _ in range(200):
            columns = {"event": random.permuted(np.arange(72).reshape(3, 24) % 2, axis=1).ravel()}
            frame = pd.DataFrame({"fold": fold, "draw": 0, "role": "test", "patient_id": patient, **columns})
            frame["score"] = random.uniform(size=72)
            parts = [metrics.evaluate(rows["event"], rows["score"]) for _, rows in frame.groupby("fold")]
            observed = float(np.mean([each.values["mcc"] for each in parts]))  # noqa: PD011 - no pandas here
            values = permuted_test_labels(frame, "image", 99, int(random.integers(1 << 30)))
            found.append(null_of(observed, values, "labels", "image")["p"])
        assert stats.kstest(found, "uniform").pvalue > 0.01
        assert np.mean(np.array(found) <= 0.05) < 0.1

    def test_the_seed_decides(self) -> None:
        frame = made_up(12)
        one, again, other = (permuted_test_labels(frame, "image", 20, seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, again)
        assert (one != other).any()

    def test_validation_parts_and_the_order_of_rows_are_nothing(self) -> None:
        frame = made_up(13)
        expected = permuted_test_labels(frame, "image", 20, 0)
        tested = frame[frame["role"] == "test"].sample(frac=1, random_state=0)
        np.testing.assert_allclose(permuted_test_labels(tested, "image", 20, 0), expected, atol=1e-12)

    def test_folds_of_one_class_are_left_out(self) -> None:
        frame = made_up(14)
        empty = part(7, [0, 0], [0.1, 0.9], ["x", "y"])
        with_empty = pd.concat([frame, empty], ignore_index=True)
        expected = permuted_test_labels(frame, "image", 20, 0)
        np.testing.assert_allclose(permuted_test_labels(with_empty, "image", 20, 0), expected)
        assert np.isnan(permuted_test_labels(empty, "image", 5, 0)).all()

    def test_the_p_value_counts_the_observed_one(self) -> None:
        values = np.array([0.1, 0.2, 0.3, NAN])
        assert null_of(0.2, values, "labels", "image")["p"] == pytest.approx(3 / 4)
        assert null_of(0.9, values, "labels", "image")["p"] == pytest.approx(1 / 4)

    def test_what_is_not_defined_has_no_null(self) -> None:
        assert null_of(NAN, np.array([0.1]), "labels", "image") == {}
        assert null_of(0.1, np.array([NAN]), "labels", "image") == {}
