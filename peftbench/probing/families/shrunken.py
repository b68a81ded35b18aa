"""Nearest shrunken centroids (Tibshirani, Hastie, Narasimhan and Chu 2002), for two classes that count the same.

scikit-learn's own divides by zero where a feature is constant within both classes, which a view's column can be.
"""

import numpy as np

from peftbench.probing.families.family import Events, Vector
from peftbench.probing.families.scaling import Matrix


class ShrunkenCentroids:
    """Class means, moved towards each other by a threshold in units of their standard error.

    With d = (m1 - m0) / (s + median s), in units of sqrt(1 / n0 + 1 / n1), each feature's d loses `threshold` and stops
    at 0; what is left decides, each feature weighed by 1 / (s + median s)^2.

    Args:
        threshold: 0 or more; a feature whose classes differ by fewer standard errors does not count.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def fit(self, rows: Matrix, event: Events) -> "ShrunkenCentroids":
        """Learn from (n, d) rows and (n,) 0 or 1, both present."""
        means = np.stack([rows[event == each].mean(axis=0) for each in (0, 1)])
        counts = np.bincount(event, minlength=2)
        spread = self._spread(rows - means[event])
        unit = spread * np.sqrt((1.0 / counts).sum())
        apart = (means[1] - means[0]) / unit
        shrunken = np.sign(apart) * np.maximum(np.abs(apart) - self.threshold, 0.0) * unit
        self._middle = means.mean(axis=0)
        self._direction = shrunken / spread**2
        return self

    def decision_function(self, rows: Matrix) -> Vector:
        """(m,) log odds of the event, if features were independent and normal within a class."""
        value: Vector = (rows - self._middle) @ self._direction
        return value

    @staticmethod
    def _spread(residual: Matrix) -> Vector:
        """(d,) deviation within classes and its median; 1 where a feature has neither."""
        deviation = np.sqrt((residual**2).sum(axis=0) / max(len(residual) - 2, 1))
        spread: Vector = deviation + np.median(deviation)
        return np.where(spread > 0, spread, 1.0)
