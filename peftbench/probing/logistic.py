"""The linear probe: L2-regularised logistic regression with balanced classes, solved exactly along a path of C.

For features X (n, d), standardised, and labels y in {0, 1} it minimises

    F(b, a) = sum_i w_i log(1 + exp(-s_i (x_i . b + a))) + |b|^2 / (2 C),      s_i = 2 y_i - 1,

the objective of scikit-learn's LogisticRegression divided by C; w_i = n / (2 n_class(i)) balances the classes, the
intercept a is free. The minimiser b lies in the span of the rows of X. With K = X X' = U S U' (n, n) and Z = U sqrt(S),
of rank r, the problem in Z (n, r) has the same objective, and b = X' U / sqrt(S) g for its solution g: so with d > n
everything happens in at most n dimensions. Where n >= d the Gram matrix would be the larger one and Z is X itself.
`newton.py` solves it, from small C to large, each from the one before.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from peftbench.probing.families.scaling import principal_axes
from peftbench.probing.newton import TOLERANCE, ConvergenceError, Matrix, Solver, Vector

__all__ = ["ConvergenceError", "LogisticFit", "balanced_weights", "fit_path", "walk_path"]

LABELS_TOLERANCE = 1e-7
"""As `newton.TOLERANCE`, for regressions whose decisions are counted among a hundred others."""


class LogisticFit(NamedTuple):
    """One fitted probe.

    Attributes:
        C: inverse strength of the regularisation.
        coefficient: (d,), for standardised features.
        intercept: log odds at the mean of the features.
        objective: F at the solution.
        gap: proven bound of how far F lies above its minimum.
        steps: Newton steps from the warm start.
    """

    C: float
    coefficient: Vector
    intercept: float
    objective: float
    gap: float
    steps: int

    def probability(self, features: Matrix) -> Vector:
        """(n,) probability of the event from (n, d) standardised features."""
        return np.asarray(expit(features @ self.coefficient + self.intercept), dtype=np.float64)


def fit_path(
    features: Matrix,
    event: npt.ArrayLike,
    costs: Sequence[float],
    *,
    balanced: bool = True,
    weight: Vector | None = None,
    tolerance: float = TOLERANCE,
) -> list[LogisticFit]:
    """Solve for every C of a path; see `walk_path`."""
    return list(walk_path(features, event, costs, balanced=balanced, weight=weight, tolerance=tolerance))


def walk_path(
    features: Matrix,
    event: npt.ArrayLike,
    costs: Sequence[float],
    *,
    balanced: bool = True,
    weight: Vector | None = None,
    tolerance: float = TOLERANCE,
) -> Iterator[LogisticFit]:
    """Solve for one C after the other, from small to large, each from the one before, and only as far as is asked.

    Args:
        features: (n, d), standardised.
        event: (n,) 0 or 1, both present.
        costs: values of C, increasing.
        balanced: whether both classes weigh the same.
        weight: (n,) positive weights in their stead.
        tolerance: see `newton.TOLERANCE`.

    Raises:
        ValueError: one class only, or C is not positive and increasing.
        ConvergenceError: a solution was not found.
    """
    truth = np.asarray(event, dtype=np.float64)
    path = np.asarray(costs, dtype=np.float64)
    if not 0 < truth.sum() < len(truth):
        raise ValueError("logistic regression needs both classes in the training part")
    if not path.size or path[0] <= 0 or (np.diff(path) <= 0).any():
        raise ValueError(f"C must be positive and increasing, got {list(costs)}")
    if weight is None:
        weight = balanced_weights(truth) if balanced else np.ones(len(truth))
    return _walk(features, truth, path, weight, tolerance)


def _walk(features: Matrix, truth: Vector, path: Vector, weight: Vector, tolerance: float) -> Iterator[LogisticFit]:
    basis, back = _row_space(features)
    solver = Solver(basis, truth[:, None], weight[:, None])
    for cost in path:
        found = solver.solve(float(cost), tolerance)
        at = found.coefficient
        coefficient = at[:-1, 0] if back is None else back @ at[:-1, 0]
        objective, gap = float(found.objective[0]), float(found.gap[0])
        yield LogisticFit(float(cost), coefficient, float(at[-1, 0]), objective, gap, found.steps)


class LabelPath:
    """The same features under many labellings, side by side: what a null distribution needs.

    Args:
        features: (n, d), standardised.
        events: (n, columns) 0 or 1, both in each column.
        balanced: whether both classes weigh the same.

    Raises:
        ValueError: a column has one class only.
    """

    def __init__(self, features: Matrix, events: npt.NDArray[np.int64], *, balanced: bool = True) -> None:
        truth = np.asarray(events, dtype=np.float64)
        if not ((truth.sum(axis=0) > 0) & (truth.sum(axis=0) < len(truth))).all():
            raise ValueError("logistic regression needs both classes in every labelling")
        weight = np.apply_along_axis(balanced_weights, 0, truth) if balanced else np.ones_like(truth)
        basis, self._back = _row_space(features)
        self._solver = Solver(basis, truth, weight)

    def project(self, features: Matrix) -> Matrix:
        """(k, r) features, standardised alike, in the basis that coefficients are told in."""
        return features if self._back is None else features @ self._back

    def walk(self, costs: Sequence[float], tolerance: float = LABELS_TOLERANCE) -> Iterator[Matrix]:
        """For one C after the other (r + 1, columns): coefficients for projected features, and the intercepts.

        Args:
            costs: values of C, increasing.
            tolerance: see `newton.TOLERANCE`.

        Raises:
            ConvergenceError: a solution was not found.
        """
        for cost in costs:
            yield self._solver.solve(float(cost), tolerance).coefficient


def balanced_weights(event: npt.ArrayLike) -> Vector:
    """(n,) weights n / (2 n_class), so that both classes weigh the same and the mean weight is 1."""
    truth = np.asarray(event, dtype=np.float64)
    events = truth.sum()
    weight: Vector = np.where(truth == 1, len(truth) / (2 * events), len(truth) / (2 * (len(truth) - events)))
    return weight


def _row_space(features: Matrix) -> tuple[Matrix, Matrix | None]:
    """Z, and the matrix that takes a solution in Z back to the features; None where Z is the features themselves."""
    count, dim = features.shape
    if count >= dim:
        return features, None
    axes, energy = principal_axes(features)
    root = np.sqrt(energy)
    return axes * root, features.T @ (axes / root)
