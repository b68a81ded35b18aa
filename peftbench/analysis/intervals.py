"""Intervals of differences that were measured on the same folds, or on the same patients."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from peftbench.protocol.metrics import THRESHOLD

RESAMPLES = 2000
"""Of a bootstrap: the ends of a 95 % interval rest on fifty each."""


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval; NaN where there is too little to say.

    Attributes:
        mean: of the differences.
        low: lower bound.
        high: upper bound.
        folds: how many differences there were; of a bootstrap, how many patients.
    """

    mean: float
    low: float
    high: float
    folds: int


def corrected_interval(differences: npt.ArrayLike, test_to_train: float, level: float = 0.95) -> Interval:
    """Confidence interval of the mean of paired differences over folds whose training parts overlap.

    The corrected resampled t statistic (Nadeau and Bengio 2003, Machine Learning 52:239-281): the variance of the
    mean is (1 / J + n_test / n_train) s^2 instead of s^2 / J, because folds that share training data are not
    independent; without it differences look real far too often.

    Args:
        differences: (J,) one a fold; NaN is left out.
        test_to_train: size of a test part by size of a training part.
        level: of confidence, in (0, 1).
    """
    found = np.asarray(differences, dtype=np.float64)
    found = found[~np.isnan(found)]
    if found.size < 2:
        return Interval(float(found.mean()) if found.size else math.nan, math.nan, math.nan, int(found.size))
    spread = math.sqrt((1.0 / found.size + test_to_train) * float(found.var(ddof=1)))
    reach = float(stdtrit(found.size - 1, (1.0 + level) / 2.0)) * spread
    mean = float(found.mean())
    return Interval(mean, mean - reach, mean + reach, int(found.size))


def bootstrap_interval(
    patient: npt.ArrayLike,
    event: npt.ArrayLike,
    score: npt.ArrayLike,
    other: npt.ArrayLike | None = None,
    *,
    unit: str = "image",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a MCC, or of the difference of two on the same images; patients stay whole.

    Patients are drawn with replacement, each with all images (Efron and Tibshirani 1993, chapter 13). Patients whose
    images add the same counts to the confusion table are interchangeable, so a resample is one multinomial draw over
    the kinds of patients. Resamples without both classes are left out.

    Args:
        patient: (n,) identifiers.
        event: (n,) 0 or 1.
        score: (n,) probability of the event, or (n, draws): the MCC is then the mean over draws.
        other: as `score`, of what it is compared with; None for the MCC itself.
        unit: `image`, or `patient` (an event in any image, the mean score).
        level: of confidence, in (0, 1).
        resamples: how many.
        seed: of the resamples.
    """
    truth = np.asarray(event, dtype=np.int64)
    names, position = np.unique(np.asarray(patient), return_inverse=True)
    sides = [_counts(position, truth, each, unit) for each in (score, other) if each is not None]
    table = np.concatenate(sides, axis=1)
    kinds, sizes = np.unique(table.reshape(len(names), -1), axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(names), sizes / len(names), size=resamples) @ kinds
    draws = sides[0].shape[1]
    observed = float(_contrast(table.sum(axis=0)[None], draws)[0])
    found = _contrast(drawn.reshape(resamples, -1, 4), draws)
    found = found[~np.isnan(found)]
    if math.isnan(observed) or not found.size:
        return Interval(observed, math.nan, math.nan, len(names))
    low, high = np.quantile(found, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(observed, float(low), float(high), len(names))


def _counts(
    position: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], score: npt.ArrayLike, unit: str
) -> npt.NDArray[np.int64]:
    """(patients, draws, 4) what each patient adds to the confusion table: hits, false alarms, rejections, misses."""
    given = np.asarray(score, dtype=np.float64).reshape(len(truth), -1)
    patients = int(position.max()) + 1
    if unit == "patient":
        images = np.bincount(position, minlength=patients)
        sums = [np.bincount(position, weights=column, minlength=patients) for column in given.T]
        # As `metrics.by_patient` has it: the mean score, the event in any image.
        given = np.clip(np.stack(sums, axis=1) / images[:, None], 0.0, 1.0)
        truth = (np.bincount(position, weights=truth, minlength=patients) > 0).astype(np.int64)
        position = np.arange(patients)
    cell = np.where(given >= THRESHOLD, 1 - truth[:, None], 2 + truth[:, None])
    counts = np.zeros((patients, given.shape[1], 4), dtype=np.int64)
    np.add.at(counts, (position[:, None], np.arange(given.shape[1]), cell), 1)
    return counts


def _contrast(counts: npt.NDArray[np.int64], draws: int) -> npt.NDArray[np.float64]:
    """(k,) mean MCC of the first `draws` of (k, sides x draws, 4) confusion tables, less that of the others, if any."""
    hit, alarm, rejection, miss = np.moveaxis(counts.astype(np.float64), 2, 0)
    events, others = hit + miss, rejection + alarm
    spread = np.sqrt((hit + alarm) * events * others * (rejection + miss))
    matthews = np.where(spread > 0, (hit * rejection - alarm * miss) / np.where(spread > 0, spread, 1.0), 0.0)
    matthews[(events == 0) | (others == 0)] = np.nan
    ours, theirs = matthews[:, :draws], matthews[:, draws:]
    return np.asarray(ours.mean(axis=1) - (theirs.mean(axis=1) if theirs.shape[1] else 0.0), dtype=np.float64)
