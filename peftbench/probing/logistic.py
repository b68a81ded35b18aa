"""The linear probe: L2-regularised logistic regression with balanced classes, solved exactly along a path of C.

For features X (n, d), standardised, and labels y in {0, 1} it minimises

    F(b, a) = sum_i w_i log(1 + exp(-s_i (x_i . b + a))) + |b|^2 / (2 C),      s_i = 2 y_i - 1,

the objective of scikit-learn's LogisticRegression divided by C; w_i = n / (2 n_class(i)) balances the classes, the
intercept a is free. Two facts make it cheap:

1. The minimiser b lies in the span of the rows of X. With K = X X' = U S U' (n, n) and Z = U sqrt(S), of rank r, the
   problem in Z (n, r) has the same objective, and b = X' U / sqrt(S) g for its solution g. So with d > n, the usual
   case on stored features, everything happens in at most n dimensions.
2. Newton's method with a warm start needs a handful of steps from one C to the next larger one.

Where n >= d the Gram matrix would be the larger one and Z is X itself.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.special import expit

from peftbench.errors import PeftbenchError

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]

TOLERANCE = 1e-12
"""Half the squared Newton decrement, relative to the objective, at which a solution counts as exact."""

MAX_STEPS = 100
"""Newton steps; a handful is usual."""

RANK_TOLERANCE = 1e-12
"""Eigenvalues of the Gram matrix below this share of the largest are zero."""


class ConvergenceError(PeftbenchError, RuntimeError):
    """Newton's method did not arrive: the features hold something that is not a number, or differ by many orders."""


class Standardiser(NamedTuple):
    """Mean and scale of each feature, learnt on the training part alone.

    Attributes:
        mean: (d,).
        scale: (d,) standard deviation; 1 where a feature is constant.
    """

    mean: Vector
    scale: Vector

    @classmethod
    def fit(cls, features: npt.NDArray[np.floating]) -> "Standardiser":
        """Learn from (n, d) features."""
        wide = features.astype(np.float64)
        mean, scale = wide.mean(axis=0), wide.std(axis=0)
        # The deviation of equal numbers is not always zero: their mean may be off by some bits.
        constant = (wide == wide[:1]).all(axis=0)
        return cls(mean, np.where(constant | (scale == 0), 1.0, scale))

    def apply(self, features: npt.NDArray[np.floating]) -> Matrix:
        """(n, d) features, standardised."""
        return (features.astype(np.float64) - self.mean) / self.scale


class LogisticFit(NamedTuple):
    """One fitted probe.

    Attributes:
        C: inverse strength of the regularisation.
        coefficient: (d,), for standardised features.
        intercept: log odds at the mean of the features.
        objective: F at the solution.
        steps: Newton steps from the warm start.
    """

    C: float
    coefficient: Vector
    intercept: float
    objective: float
    steps: int

    def probability(self, features: Matrix) -> Vector:
        """(n,) probability of the event from (n, d) standardised features."""
        return np.asarray(expit(features @ self.coefficient + self.intercept), dtype=np.float64)


class _Problem(NamedTuple):
    design: Matrix  # (n, r + 1): Z and a column of ones
    event: Vector  # (n,)
    weight: Vector  # (n,)
    ridge: Vector  # (r + 1,): 1 / C, and 0 for the intercept


def fit_path(features: Matrix, event: npt.ArrayLike, costs: Sequence[float]) -> list[LogisticFit]:
    """Solve for every C of a path, from small to large, each from the one before.

    Args:
        features: (n, d), standardised.
        event: (n,) 0 or 1, both present.
        costs: values of C, increasing.

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
    basis, back = _row_space(features)
    design = np.hstack([basis, np.ones((len(truth), 1))])
    weight = balanced_weights(truth)
    solution = np.zeros(design.shape[1])
    fits = []
    for cost in path:
        ridge = np.append(np.full(basis.shape[1], 1.0 / cost), 0.0)
        solution, objective, steps = _newton(_Problem(design, truth, weight, ridge), solution)
        coefficient = solution[:-1] if back is None else back @ solution[:-1]
        fits.append(LogisticFit(float(cost), coefficient, float(solution[-1]), objective, steps))
    return fits


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
    values, vectors = linalg.eigh(features @ features.T)
    kept = values > RANK_TOLERANCE * max(float(values[-1]), np.finfo(np.float64).tiny)
    root = np.sqrt(values[kept])
    return vectors[:, kept] * root, features.T @ (vectors[:, kept] / root)


def _newton(problem: _Problem, start: Vector) -> tuple[Vector, float, int]:
    solution, value = start, _objective(problem, start)
    for step in range(1, MAX_STEPS + 1):
        direction, decrement = _newton_direction(problem, solution)
        if decrement / 2 <= TOLERANCE * max(abs(value), 1.0):
            return solution, value, step - 1
        solution, value = _line_search(problem, solution, value, direction, decrement)
    raise ConvergenceError(f"logistic regression did not converge in {MAX_STEPS} Newton steps")


def _newton_direction(problem: _Problem, solution: Vector) -> tuple[Vector, float]:
    probability = expit(problem.design @ solution)
    gradient = problem.design.T @ (problem.weight * (probability - problem.event)) + problem.ridge * solution
    curvature = problem.weight * probability * (1.0 - probability)
    hessian = (problem.design * curvature[:, None]).T @ problem.design
    # A little of the identity keeps the intercept's pivot positive where every prediction is certain.
    hessian[np.diag_indices_from(hessian)] += problem.ridge + 1e-10
    direction = -linalg.solve(hessian, gradient, assume_a="pos")
    return direction, float(-gradient @ direction)


def _line_search(
    problem: _Problem, solution: Vector, value: float, direction: Vector, decrement: float
) -> tuple[Vector, float]:
    length = 1.0
    while length > 1e-10:
        trial = solution + length * direction
        reached = _objective(problem, trial)
        # The slack admits steps whose gain is below the rounding of the objective.
        if reached <= value - 1e-4 * length * decrement + 1e-14 * abs(value):
            return trial, reached
        length /= 2.0
    raise ConvergenceError("logistic regression found no step that lowers its objective")


def _objective(problem: _Problem, solution: Vector) -> float:
    margin = (2.0 * problem.event - 1.0) * (problem.design @ solution)
    penalty = 0.5 * float(problem.ridge @ solution**2)
    return float(problem.weight @ np.logaddexp(0.0, -margin)) + penalty
