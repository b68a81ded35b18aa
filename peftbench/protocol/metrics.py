"""The metrics of the benchmark, at image and at patient level. The event is the positive class.

A score is the probability of the event, in [0, 1]; a prediction of the event is a score of at least the
threshold. A metric that is not defined on the data (a fold without both classes) is NaN with a reason, never 0.
Written in numpy because few-shot grids evaluate some hundred thousand cells; tested against scikit-learn.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatVector = npt.NDArray[np.float64]
IntVector = npt.NDArray[np.int64]

METRICS_SCHEMA = 2
"""Raised whenever a metric of the same predictions would come out otherwise."""

THRESHOLD = 0.5
"""The paper's decision threshold."""

ECE_BINS = 10
"""Equal-width bins of the expected calibration error."""

NAMES = (
    "mcc", "pr_auc", "roc_auc", "balanced_accuracy", "sensitivity", "specificity", "f1", "brier", "ece",
)  # fmt: skip
"""All metrics, in the order of the tables."""

TUNED = ("mcc", "balanced_accuracy", "sensitivity", "specificity", "f1")
"""Metrics of a decision: with the ending `_tuned` they are at a threshold that was tuned on the validation part."""

TUNED_NAMES = tuple(f"{name}_tuned" for name in TUNED)


@dataclass(frozen=True)
class MetricSet:
    """The metrics of one set of predictions.

    Attributes:
        values: metric to value; NaN where it is not defined.
        reasons: metric to the reason why it is NaN.
    """

    values: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)


class Confusion(NamedTuple):
    """Counts of a decision against the truth."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @classmethod
    def of(cls, event: IntVector, decision: IntVector) -> "Confusion":
        """Count.

        Args:
            event: (n,) 0 or 1, the truth.
            decision: (n,) 0 or 1.
        """
        hits = int(((event == 1) & (decision == 1)).sum())
        rejections = int(((event == 0) & (decision == 0)).sum())
        return cls(hits, int((decision == 1).sum()) - hits, rejections, int((decision == 0).sum()) - rejections)


def evaluate(event: npt.ArrayLike, score: npt.ArrayLike, threshold: float = THRESHOLD) -> MetricSet:
    """All metrics of scores against the truth.

    Args:
        event: (n,) 0 or 1, the truth.
        score: (n,) probability of the event.
        threshold: scores from here on are decisions for the event.

    Raises:
        ValueError: the vectors differ in length, are empty, or hold something else than stated.
    """
    truth, probability = _validated(event, score)
    confusion = Confusion.of(truth, (probability >= threshold).astype(np.int64))
    values = {
        "mcc": matthews(confusion),
        "pr_auc": average_precision(truth, probability),
        "roc_auc": roc_auc(truth, probability),
        "balanced_accuracy": balanced_accuracy(confusion),
        "sensitivity": sensitivity(confusion),
        "specificity": specificity(confusion),
        "f1": f1(confusion),
        "brier": float(np.mean((probability - truth) ** 2)),
        "ece": calibration_error(truth, probability),
    }
    reason = one_class(truth)
    return MetricSet(values, {name: reason for name, value in values.items() if np.isnan(value)})


def at_tuned_threshold(event: npt.ArrayLike, score: npt.ArrayLike, threshold: float) -> MetricSet:
    """The metrics of a decision at a threshold that was tuned elsewhere: names as in `TUNED_NAMES`.

    Args:
        event: (n,) 0 or 1, the truth.
        score: (n,) probability of the event.
        threshold: scores from here on are decisions for the event.

    Raises:
        ValueError: as `evaluate`.
    """
    truth, probability = _validated(event, score)
    confusion = Confusion.of(truth, (probability >= threshold).astype(np.int64))
    made = {
        "mcc": matthews,
        "balanced_accuracy": balanced_accuracy,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1": f1,
    }
    values = {f"{name}_tuned": made[name](confusion) for name in TUNED}
    reason = one_class(truth)
    return MetricSet(values, {name: reason for name, value in values.items() if np.isnan(value)})


def by_patient(patient: npt.ArrayLike, event: npt.ArrayLike, score: npt.ArrayLike) -> tuple[IntVector, FloatVector]:
    """Truth and score of each patient: an event in any image, and the mean score of the images.

    Args:
        patient: (n,) identifiers.
        event: (n,) 0 or 1.
        score: (n,) probabilities.

    Returns:
        (patients,) event and (patients,) score, in the sorted order of the identifiers.
    """
    truth, probability = _validated(event, score)
    _, position = np.unique(np.asarray(patient), return_inverse=True)
    counts = np.bincount(position)
    means = np.bincount(position, weights=probability) / counts
    return (np.bincount(position, weights=truth) > 0).astype(np.int64), np.clip(means, 0.0, 1.0)


def matthews(confusion: Confusion) -> float:
    """Matthews correlation coefficient, in [-1, 1] (Matthews 1975).

    NaN where the truth has one class only; 0 where the decisions do (the limit of the formula).
    """
    hit, false_alarm, rejection, miss = map(float, confusion)
    if not (hit + miss) or not (rejection + false_alarm):
        return float("nan")
    spread = (hit + false_alarm) * (hit + miss) * (rejection + false_alarm) * (rejection + miss)
    return (hit * rejection - false_alarm * miss) / spread**0.5 if spread else 0.0


def average_precision(event: IntVector, score: FloatVector) -> float:
    """Area under the precision-recall curve as average precision: the sum over thresholds of precision x recall gained.

    No interpolation between thresholds (it would be optimistic; Davis and Goadrich 2006). Equal scores are one
    threshold. The chance level is the prevalence. NaN where the truth has one class only.
    """
    if one_class(event):
        return float("nan")
    order = np.argsort(-score, kind="stable")
    ranked, truth = score[order], event[order]
    last_of_ties = np.flatnonzero(np.append(np.diff(ranked) != 0, [True]))
    hits = np.cumsum(truth)[last_of_ties]
    precision = hits / (last_of_ties + 1)
    recall = hits / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def roc_auc(event: IntVector, score: FloatVector) -> float:
    """Area under the ROC curve: the chance that an event scores above a non-event, ties counting half.

    NaN where the truth has one class only.
    """
    if one_class(event):
        return float("nan")
    _, position, counts = np.unique(score, return_inverse=True, return_counts=True)
    midrank = (np.cumsum(counts) - (counts - 1) / 2.0)[position]
    events = int(event.sum())
    excess = float(midrank[event == 1].sum()) - events * (events + 1) / 2.0
    return excess / (events * (len(event) - events))


def sensitivity(confusion: Confusion) -> float:
    """Share of events that were found; NaN without events."""
    return _share(confusion.true_positive, confusion.false_negative)


def specificity(confusion: Confusion) -> float:
    """Share of non-events that were left alone; NaN without non-events."""
    return _share(confusion.true_negative, confusion.false_positive)


def balanced_accuracy(confusion: Confusion) -> float:
    """Mean of sensitivity and specificity; NaN where the truth has one class only."""
    return (sensitivity(confusion) + specificity(confusion)) / 2.0


def f1(confusion: Confusion) -> float:
    """Harmonic mean of precision and sensitivity; NaN where the truth has one class only."""
    hit, false_alarm, rejection, miss = confusion
    if not hit + miss or not rejection + false_alarm:
        return float("nan")
    return 2.0 * hit / (2.0 * hit + false_alarm + miss)


def calibration_error(event: IntVector, score: FloatVector, bins: int = ECE_BINS) -> float:
    """Expected calibration error of the event's probability, over equal-width bins.

    The mean over the samples of |mean score - share of events| of their bin (Naeini et al. 2015, in the form for a
    binary outcome).
    """
    position = np.minimum((score * bins).astype(np.int64), bins - 1)
    gap = np.bincount(position, weights=score - event, minlength=bins)
    return float(np.abs(gap).sum() / len(score))


def balanced_log_loss(event: IntVector, score: FloatVector) -> float:
    """Log loss in which both classes weigh the same; what a probe's regularisation is chosen on.

    Args:
        event: (n,) 0 or 1, both present.
        score: (n,) probability of the event.
    """
    clipped = np.clip(score, 1e-15, 1.0 - 1e-15)
    loss = -np.where(event == 1, np.log(clipped), np.log1p(-clipped))
    return float((loss[event == 1].mean() + loss[event == 0].mean()) / 2.0)


def mean_and_std(values: npt.ArrayLike) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1) of the values that are not NaN.

    NaN where none is left; the deviation is NaN where only one is.
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[~np.isnan(finite)]
    mean = float(finite.mean()) if finite.size else float("nan")
    return mean, float(finite.std(ddof=1)) if finite.size > 1 else float("nan")


def _validated(event: npt.ArrayLike, score: npt.ArrayLike) -> tuple[IntVector, FloatVector]:
    truth, probability = np.asarray(event), np.asarray(score, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != probability.shape or not truth.size:
        raise ValueError(f"event and score are equally long, not empty vectors: {truth.shape}, {probability.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(f"event holds 0 and 1 only, found {np.unique(truth)[:5]}")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("score holds probabilities only, in [0, 1]")
    return truth.astype(np.int64), probability


def one_class(event: IntVector) -> str:
    """Why nothing can be told apart where the truth has one class only; empty where it has both."""
    if not event.any():
        return f"none of the {len(event)} has the event"
    return f"all {len(event)} have the event" if event.all() else ""


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else float("nan")
