"""Intervals of differences that were measured on the same folds."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval; NaN where there is too little to say.

    Attributes:
        mean: of the differences.
        low: lower bound.
        high: upper bound.
        folds: how many differences there were.
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
    reach = float(stats.t.ppf((1.0 + level) / 2.0, found.size - 1)) * spread
    mean = float(found.mean())
    return Interval(mean, mean - reach, mean + reach, int(found.size))
