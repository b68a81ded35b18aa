"""Metrics agree with scikit-learn where it defines them, and are NaN with a reason where nobody does."""

import math

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from peftbench.protocol import metrics
from peftbench.protocol.metrics import NAMES, Confusion, by_patient, evaluate

Pair = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]

TIED = st.integers(0, 8).map(lambda eighths: eighths / 8)
"""Few values, so that most scores are tied; eighths, so that 1 - score is exact."""

ANY = st.floats(0.0, 1.0, allow_nan=False)


@st.composite
def predictions(draw: st.DrawFn, scores: st.SearchStrategy[float] = TIED | ANY) -> Pair:
    """Truth with both classes, and scores."""
    events = [*draw(st.lists(st.integers(0, 1), max_size=30)), 0, 1]
    order = draw(st.permutations(range(len(events))))
    found = draw(st.lists(scores, min_size=len(events), max_size=len(events)))
    return np.array(events)[order], np.array(found)


def values_of(event: npt.ArrayLike, score: npt.ArrayLike, threshold: float = 0.5) -> dict[str, float]:
    return evaluate(event, score, threshold).values  # noqa: PD011 - no pandas here


def reference(event: npt.NDArray[np.int64], score: npt.NDArray[np.float64], threshold: float) -> dict[str, float]:
    decision = (score >= threshold).astype(int)
    return {
        "mcc": sk.matthews_corrcoef(event, decision),
        "pr_auc": sk.average_precision_score(event, score),
        "roc_auc": sk.roc_auc_score(event, score),
        "balanced_accuracy": sk.balanced_accuracy_score(event, decision),
        "sensitivity": sk.recall_score(event, decision),
        "specificity": sk.recall_score(event, decision, pos_label=0),
        "f1": sk.f1_score(event, decision, zero_division=0.0),
        "brier": sk.brier_score_loss(event, score),
    }


@given(pair=predictions(), threshold=st.sampled_from([0.5, 0.25, 0.1, 0.9]))
@settings(deadline=None, max_examples=50)
def test_metrics_are_those_of_scikit_learn(pair: Pair, threshold: float) -> None:
    found = values_of(*pair, threshold)
    for name, value in reference(*pair, threshold).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("count", [5, 50, 2000])
@pytest.mark.parametrize("prevalence", [0.02, 0.3, 0.97])
@pytest.mark.parametrize("decimals", [1, 2, 15])
def test_metrics_are_those_of_scikit_learn_on_larger_sets(count: int, prevalence: float, decimals: int) -> None:
    random = np.random.default_rng(count)
    event = (random.random(count) < prevalence).astype(int)
    event[:2] = 0, 1
    score = np.clip(random.normal(0.4 + 0.2 * event, 0.2), 0, 1).round(decimals)
    found = values_of(event, score)
    for name, value in reference(event, score, 0.5).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def brute_force_calibration(event: npt.NDArray[np.int64], thousandths: npt.NDArray[np.int64]) -> float:
    """Ten equal bins, the last closed on both sides, counted in whole thousandths."""
    total = 0.0
    for lowest in range(0, 1000, 100):
        highest = 1001 if lowest == 900 else lowest + 100
        inside = [row for row, each in enumerate(thousandths) if lowest <= each < highest]
        if inside:
            confidence = sum(thousandths[row] / 1000 for row in inside) / len(inside)
            share = sum(int(event[row]) for row in inside) / len(inside)
            total += len(inside) / len(event) * abs(confidence - share)
    return total


@given(rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1000)), min_size=1, max_size=60))
@settings(deadline=None, max_examples=80)
def test_calibration_error_is_that_of_counting_bin_by_bin(rows: list[tuple[int, int]]) -> None:
    event, thousandths = np.array(rows).T
    found = metrics.calibration_error(event, thousandths / 1000)
    assert found == pytest.approx(brute_force_calibration(event, thousandths), abs=1e-12)


def test_every_edge_of_a_bin_opens_the_next_one() -> None:
    thousandths = np.arange(1001)
    event = (thousandths // 100 % 2).astype(np.int64)
    found = metrics.calibration_error(event, thousandths / 1000)
    assert found == pytest.approx(brute_force_calibration(event, thousandths), abs=1e-12)


def test_perfect_and_inverted_scores_reach_the_ends_of_the_scales() -> None:
    event = np.array([0, 0, 1, 1, 1])
    assert values_of(event, event) == {
        "mcc": 1, "pr_auc": 1, "roc_auc": 1, "balanced_accuracy": 1, "sensitivity": 1, "specificity": 1,
        "f1": 1, "brier": 0, "ece": 0,
    }  # fmt: skip
    inverted = values_of(event, 1 - event)
    assert (inverted["mcc"], inverted["roc_auc"], inverted["brier"], inverted["ece"]) == (-1, 0, 1, 1)


@pytest.mark.parametrize("score", [0.0, 0.3, 0.5, 1.0])
def test_constant_scores_are_chance(score: float) -> None:
    event = np.array([0, 1, 0, 0, 1, 0, 0])
    found = values_of(event, np.full(7, score))
    assert found["mcc"] == 0
    assert (found["roc_auc"], found["balanced_accuracy"]) == (0.5, 0.5)
    assert found["pr_auc"] == pytest.approx(2 / 7)


def test_a_score_at_the_threshold_is_a_decision_for_the_event() -> None:
    found = values_of([0, 1], [0.49999999, 0.5])
    assert (found["sensitivity"], found["specificity"]) == (1, 1)


class TestOneClass:
    @pytest.mark.parametrize("event", [0, 1])
    @pytest.mark.parametrize("score", [0.2, 0.8])
    def test_what_is_not_defined_is_nan_with_a_reason(self, event: int, score: float) -> None:
        truth, scores = np.full(4, event), np.full(4, score)
        undefined = {"mcc", "pr_auc", "roc_auc", "balanced_accuracy", "f1", "specificity" if event else "sensitivity"}
        assert {name for name, value in values_of(truth, scores).items() if math.isnan(value)} == undefined
        reason = "all 4 have the event" if event else "none of the 4 has the event"
        assert evaluate(truth, scores).reasons == dict.fromkeys(undefined, reason)

    def test_with_both_classes_there_is_no_reason(self) -> None:
        assert evaluate([0, 1], [0.5, 0.5]).reasons == {}

    def test_every_name_has_a_value(self) -> None:
        assert tuple(values_of([0, 1], [0.5, 0.5])) == NAMES


class TestSymmetries:
    @given(pair=predictions(), seed=st.integers(0, 99))
    @settings(deadline=None, max_examples=50)
    def test_the_order_of_the_samples_does_not_matter(self, pair: Pair, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(pair[0]))
        shuffled = values_of(pair[0][order], pair[1][order])
        assert shuffled == pytest.approx(values_of(*pair), abs=1e-12)

    @given(pair=predictions(TIED.filter(lambda score: score != 0.5)))
    @settings(deadline=None, max_examples=50)
    def test_swapping_the_classes_keeps_mcc_and_roc_auc(self, pair: Pair) -> None:
        event, score = pair
        one, other = values_of(event, score), values_of(1 - event, 1 - score)
        for name in ("mcc", "roc_auc", "balanced_accuracy", "brier"):
            assert other[name] == pytest.approx(one[name], abs=1e-12), name
        assert (other["sensitivity"], other["specificity"]) == (one["specificity"], one["sensitivity"])

    @given(pair=predictions(TIED.filter(lambda score: score != 0.5)))
    @settings(deadline=None, max_examples=50)
    def test_inverting_the_scores_alone_inverts_mcc_and_roc_auc(self, pair: Pair) -> None:
        event, score = pair
        one, other = values_of(event, score), values_of(event, 1 - score)
        assert other["mcc"] == pytest.approx(-one["mcc"], abs=1e-12)
        assert other["roc_auc"] == pytest.approx(1 - one["roc_auc"], abs=1e-12)

    @given(pair=predictions(TIED))
    @settings(deadline=None, max_examples=50)
    def test_areas_depend_on_the_ranks_alone(self, pair: Pair) -> None:
        event, score = pair
        one, other = values_of(event, score), values_of(event, (score / 2 + 0.25) ** 2)
        assert (other["roc_auc"], other["pr_auc"]) == (one["roc_auc"], one["pr_auc"])

    @given(pair=predictions())
    @settings(deadline=None, max_examples=50)
    def test_every_metric_stays_in_its_range(self, pair: Pair) -> None:
        for name, value in values_of(*pair).items():
            assert (-1 if name == "mcc" else 0) <= round(value, 12) <= 1, name


@given(rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=40))
@settings(deadline=None, max_examples=50)
def test_the_confusion_counts_are_those_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    event, decision = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    rejected, alarms, missed, hits = (
        sk.confusion_matrix(event, decision, labels=[0, 1]).ravel().tolist() if rows else [0] * 4
    )
    assert Confusion.of(event, decision) == Confusion(hits, alarms, rejected, missed)


class TestByPatient:
    @given(rows=st.lists(st.tuples(st.sampled_from("dcab"), st.integers(0, 1), ANY), min_size=1, max_size=20))
    @settings(deadline=None, max_examples=50)
    def test_a_patient_is_an_event_if_any_image_is_and_scores_their_mean(
        self, rows: list[tuple[str, int, float]]
    ) -> None:
        patient, event, score = (list(column) for column in zip(*rows, strict=True))
        found_event, found_score = by_patient(patient, event, score)
        grouped = pd.DataFrame({"patient": patient, "event": event, "score": score}).groupby("patient")
        np.testing.assert_array_equal(found_event, grouped["event"].max())
        np.testing.assert_allclose(found_score, grouped["score"].mean(), rtol=0, atol=1e-12)

    def test_the_mean_of_certain_images_is_certain(self) -> None:
        _, score = by_patient(["a"] * 3 + ["b"] * 3, [1] * 6, [1.0] * 3 + [0.1] * 3)
        assert score[0] == 1
        assert values_of([0, 1], score)["roc_auc"] == 0

    def test_patients_of_another_number_are_refused(self) -> None:
        with pytest.raises(ValueError, match="length"):
            by_patient(["a", "b"], [0, 1, 1], [0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("event", "score", "complaint"),
    [
        ([], [], "not empty"),
        ([0, 1], [0.5], "equally long"),
        ([[0, 1]], [[0.5, 0.5]], "vectors"),
        ([0, 2], [0.5, 0.5], "0 and 1 only"),
        ([0, -1], [0.5, 0.5], "0 and 1 only"),
        ([0, 1], [0.5, 1.1], "probabilities only"),
        ([0, 1], [0.5, -0.1], "probabilities only"),
        ([0, 1], [0.5, float("nan")], "probabilities only"),
    ],
)
def test_what_is_no_prediction_is_refused(event: object, score: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        evaluate(event, score)


class TestBalancedLogLoss:
    @given(pair=predictions(st.floats(0.001, 0.999)))
    @settings(deadline=None, max_examples=50)
    def test_it_is_the_log_loss_with_balanced_weights(self, pair: Pair) -> None:
        event, score = pair
        weight = np.where(event == 1, 1 / event.sum(), 1 / (1 - event).sum())
        expected = sk.log_loss(event, score, sample_weight=weight)
        assert metrics.balanced_log_loss(event, score) == pytest.approx(expected, abs=1e-12)

    def test_repeating_one_class_does_not_change_it(self) -> None:
        event, score = np.array([0, 1, 1]), np.array([0.3, 0.6, 0.9])
        more_event, more_score = np.append(event, [0] * 5), np.append(score, [0.3] * 5)
        once, often = metrics.balanced_log_loss(event, score), metrics.balanced_log_loss(more_event, more_score)
        assert often == pytest.approx(once)

    def test_a_certain_error_is_dear_but_finite(self) -> None:
        assert 15 < metrics.balanced_log_loss(np.array([0, 1]), np.array([1.0, 1.0])) < 20


class TestMeanAndStd:
    def test_nan_is_left_out(self) -> None:
        mean, std = metrics.mean_and_std([0.1, float("nan"), 0.4, 0.1])
        assert mean == pytest.approx(0.2)
        assert std == pytest.approx(np.std([0.1, 0.4, 0.1], ddof=1))

    def test_one_value_has_no_deviation(self) -> None:
        mean, std = metrics.mean_and_std([float("nan"), 0.4])
        assert mean == 0.4
        assert math.isnan(std)

    def test_of_nothing_there_is_no_mean(self) -> None:
        assert all(map(math.isnan, metrics.mean_and_std([float("nan")])))
