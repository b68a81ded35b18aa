"""What is done to features before any family sees them: a shift and a scale, learnt on the training part alone."""

from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy import linalg

from peftbench.errors import ConfigError
from peftbench.probing.families.family import Features, Scaling, Vector

Matrix = npt.NDArray[np.float64]

RANK_TOLERANCE = 1e-12
"""Eigenvalues below this share of the largest are zero."""


class Scaler(NamedTuple):
    """Mean and scale of each feature.

    Attributes:
        mean: (d,), in the features' own unit; a constant feature's is its value.
        scale: (d,) positive; what a deviation is divided by.
    """

    mean: Vector
    scale: Vector

    @classmethod
    def fit(cls, features: Features, scaling: Scaling) -> "Scaler":
        """Learn from a training part.

        Args:
            features: (n, d) as stored, n at least 1.
            scaling: `feature`: deviation 1 of each feature, constant ones stay at 0; `global`: mean squared deviation 1
                over all features together; `none`: features stay as they are.

        Raises:
            ConfigError: there is no such scaling.
        """
        if scaling not in get_args(Scaling):
            raise ConfigError(f"scaling is {scaling!r}, expected one of {', '.join(get_args(Scaling))}")
        dim = features.shape[1]
        if scaling == "none":
            return cls(np.zeros(dim), np.ones(dim))
        mean, deviation = _moments(features)
        if scaling == "global":
            deviation = np.full(dim, np.sqrt(np.mean(deviation**2)))
        return cls(mean, np.where(deviation > 0, deviation, 1.0))

    def apply(self, features: Features) -> Matrix:
        """(m, d) features, shifted and scaled, in double precision."""
        return (features.astype(np.float64) - self.mean) / self.scale


def unit_rows(matrix: Matrix) -> Matrix:
    """(n, d) rows of length 1; rows of zeros stay zeros."""
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: Matrix = np.divide(matrix, length, out=np.zeros_like(matrix), where=length > 0)
    return unit


def principal_axes(matrix: Matrix) -> tuple[Matrix, Vector]:
    """U (n, r) and S^2 (r,) of a matrix (n, d) = U S V' of rank r, smallest first, from the smaller of its products."""
    count, dim = matrix.shape
    energy, vectors = linalg.eigh(matrix @ matrix.T if count < dim else matrix.T @ matrix)
    kept = energy > max(RANK_TOLERANCE * float(energy[-1]), np.finfo(np.float64).tiny)
    energy, vectors = energy[kept], vectors[:, kept]
    return (vectors if count < dim else matrix @ vectors / np.sqrt(energy)), energy


def _moments(features: Features) -> tuple[Vector, Vector]:
    """(d,) mean and (d,) standard deviation; exact for constant features.

    The mean of equal numbers may be off by some bits, and they deviate from it by that.
    """
    wide = features.astype(np.float64)
    mean, deviation = wide.mean(axis=0), wide.std(axis=0)
    constant = (wide == wide[:1]).all(axis=0)
    return np.where(constant, wide[0], mean), np.where(constant, 0.0, deviation)
