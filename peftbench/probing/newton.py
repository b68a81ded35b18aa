"""Newton's method for many L2-regularised logistic regressions on one design, with different labels or weights.

For a design Z (n, r), labels y and weights w it minimises, column by column of y and w,

    F(b, a) = sum_i w_i log(1 + exp(-s_i (z_i . b + a))) + |b|^2 / (2 C),      s_i = 2 y_i - 1, a free.

A Newton step solves H x = -g with H = Z' D Z + I / C, D = w p (1 - p). H is never formed: conjugate gradients need
products with it, two passes over Z each, and a preconditioner M that resembles it. Directions are computed in single
precision, because they need two digits only; objective and gradient, which decide where it ends, in double. One C
after the other starts on the line through the last two solutions, in log C, where that is lower than the last one.

M is the diagonal of H at first: at small C, where I / C rules, a few products do. Where it takes more than `PATIENCE`,
M becomes the Cholesky factor of c G + I / C, with G = Z' W Z formed once (W the weights, c the mean curvature by the
mean weight); where that no longer does, of G with the curvature as it has become. A factor serves the next values of C
as well, as long as the products stay few.

At the end stands a proof. For a convex loss L whose residuals e = L'(Zb + a) add to zero, the dual point e gives the
duality gap C |g_b|^2 / 2; what is left of the sum adds g_a^2 / (2 H_aa), to second order. So

    F - F* <= gap = C |g_b|^2 / 2 + g_a^2 / (2 H_aa).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.linalg import blas
from scipy.special import expit

from peftbench.errors import PeftbenchError

Matrix = npt.NDArray[np.float64]
Short = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

TOLERANCE = 1e-9
"""Half the squared Newton decrement, relative to the objective, at which a solution counts as exact."""

GAP = 1e-7
"""The proven gap to the minimum, relative to the objective, that is wanted as well."""

MAX_STEPS = 100
"""Newton steps; a handful is usual."""

MAX_PRODUCTS = 200
"""Products with the Hessian in one Newton step."""

PATIENCE = 8
"""Products after which a better preconditioner is made."""

FORCING = 0.01
"""The linear system's residual, relative to its right side in the norm of 1 / M, at which a direction will do."""

BLOCK_BYTES = 2**20
"""Rows of Z that a product passes over at once: as many as the cache keeps from the first pass to the second."""

FLOOR = 1e-10
"""Added to the Hessian's diagonal: it keeps the intercept's pivot positive where every prediction is certain."""


class ConvergenceError(PeftbenchError, RuntimeError):
    """Newton's method did not arrive: the features hold something that is not a number, or differ by many orders."""


class Solution(NamedTuple):
    """Where the minimum is.

    Attributes:
        coefficient: (r + 1, columns): b, and the intercept as the last row.
        objective: (columns,) F.
        gap: (columns,) proven bound of F - F*.
        steps: Newton steps from the start.
    """

    coefficient: Matrix
    objective: Vector
    gap: Vector
    steps: int


class _State(NamedTuple):
    cost: float
    coefficient: Matrix  # (r + 1, columns)
    logit: Matrix  # (n, columns)
    value: Vector  # (columns,)


class _Local(NamedTuple):
    gradient: Matrix  # (r + 1, columns)
    curvature: Matrix  # (n, columns)


class Solver:
    """Solves the regressions of one design for one C after the other, each from the ones before.

    Args:
        features: (n, r).
        target: (n, columns) 0 or 1.
        weight: (n, columns) positive.
    """

    def __init__(self, features: Matrix, target: Matrix, weight: Matrix) -> None:
        self._design = np.hstack([features, np.ones((len(features), 1))])
        self._target, self._weight = target, weight
        self._sign = 2.0 * target - 1.0
        self._short = self._design.astype(np.float32)
        # Many columns use the rows often enough by themselves.
        self._block = max(1, BLOCK_BYTES // (4 * self._short.shape[1])) if target.shape[1] == 1 else len(features)
        self._preconditioner = _Preconditioner(self._short, weight)
        self._trail: list[_State] = []  # the last two solutions

    def solve(self, cost: float, tolerance: float = TOLERANCE) -> Solution:
        """The minimum for one C.

        Args:
            cost: C; on a path from small to large.
            tolerance: half the squared Newton decrement that ends it, relative to the objective.

        Raises:
            ConvergenceError: it was not found.
        """
        ridge = np.append(np.full(self._design.shape[1] - 1, 1.0 / cost), 0.0)[:, None]
        state = self._begin(cost, ridge)
        for step in range(MAX_STEPS + 1):
            local = self._local(state, ridge)
            gap = _proven_gap(local, cost)
            allowed = np.maximum(np.abs(state.value), 1.0)
            if (gap <= tolerance * allowed).all():
                return self._end(state, gap, step)
            direction, decrement = self._direction(local, ridge)
            if (gap <= max(GAP, tolerance) * allowed).all() and (decrement / 2.0 <= tolerance * allowed).all():
                return self._end(state, gap, step)
            moved = self._line_search(state, direction, decrement, ridge)
            if moved is None:
                return self._at_the_limit(state, gap, step)
            state = moved
        raise ConvergenceError(f"logistic regression did not converge in {MAX_STEPS} Newton steps")

    def _begin(self, cost: float, ridge: Matrix) -> _State:
        """The last solution, or what lies ahead on the line through the last two: per column what is lower."""
        if not self._trail:
            zeros = np.zeros((self._design.shape[1], self._target.shape[1]))
            return self._valued(cost, zeros, np.zeros_like(self._target), ridge)
        last, earlier = self._trail[-1], self._trail[0]
        near = self._valued(cost, last.coefficient, last.logit, ridge)
        if last.cost in {earlier.cost, cost}:
            return near
        ahead = np.log(cost / last.cost) / np.log(last.cost / earlier.cost)
        coefficient = last.coefficient + ahead * (last.coefficient - earlier.coefficient)
        far = self._valued(cost, coefficient, last.logit + ahead * (last.logit - earlier.logit), ridge)
        chosen = np.where(far.value < near.value, far.coefficient, near.coefficient)
        # Anew, so that rounding does not pile up along the path.
        return self._valued(cost, chosen, self._design @ chosen, ridge)

    def _end(self, state: _State, gap: Vector, steps: int) -> Solution:
        self._trail = [*self._trail[-1:], state]
        return Solution(state.coefficient, state.value, gap, steps)

    def _valued(self, cost: float, coefficient: Matrix, logit: Matrix, ridge: Matrix) -> _State:
        return _State(cost, coefficient, logit, self._objective(coefficient, logit, ridge))

    def _objective(self, coefficient: Matrix, logit: Matrix, ridge: Matrix) -> Vector:
        loss = np.sum(self._weight * np.logaddexp(0.0, -self._sign * logit), axis=0)
        return np.asarray(loss + 0.5 * np.sum(ridge * coefficient**2, axis=0), dtype=np.float64)

    def _local(self, state: _State, ridge: Matrix) -> _Local:
        probability = expit(state.logit)
        residual = self._weight * (probability - self._target)
        gradient = self._design.T @ residual + ridge * state.coefficient
        return _Local(gradient, self._weight * probability * (1.0 - probability))

    def _direction(self, local: _Local, ridge: Matrix) -> tuple[Matrix, Vector]:
        """A Newton direction and its squared decrement, by conjugate gradients, all columns side by side."""
        curvature, damping = local.curvature.astype(np.float32), (ridge + FLOOR).astype(np.float32)
        self._preconditioner.adjust(local.curvature, ridge)
        # Scaled to length one: single precision has little room below.
        scale = np.maximum(np.linalg.norm(local.gradient, axis=0), np.finfo(np.float64).tiny)
        residual = (-local.gradient / scale).astype(np.float32)
        direction = np.zeros_like(residual)
        eased = self._preconditioner.solve(residual)
        search, size = eased, np.sum(residual * eased, axis=0)
        aim, products = FORCING**2 * size, 0
        while products < MAX_PRODUCTS and (size > aim).any():
            image = self._image(curvature, search) + damping * search
            bend = np.sum(search * image, axis=0)
            length = np.where(bend > 0, size / np.where(bend > 0, bend, 1.0), 0.0).astype(np.float32)
            direction += length * search
            residual -= length * image
            eased = self._preconditioner.solve(residual)
            before, size = size, np.sum(residual * eased, axis=0)
            search = eased + (size / np.maximum(before, np.finfo(np.float32).tiny)) * search
            products += 1
        self._preconditioner.learn(products)
        exact = direction.astype(np.float64) * scale
        return exact, -np.sum(local.gradient * exact, axis=0)

    def _image(self, curvature: Short, search: Short) -> Short:
        """Z' D Z x for (n, columns) D and (r + 1, columns) x."""
        image = np.zeros_like(search)
        for low in range(0, len(self._short), self._block):
            rows = slice(low, low + self._block)
            part = self._short[rows]
            image += part.T @ (curvature[rows] * (part @ search))
        return image

    def _line_search(self, state: _State, direction: Matrix, decrement: Vector, ridge: Matrix) -> _State | None:
        """The first of 1, 1/2, 1/4, ... of a direction that lowers the objective enough, column by column."""
        change = self._design @ direction
        length = np.ones(len(decrement))
        for _ in range(35):
            coefficient, logit = state.coefficient + length * direction, state.logit + length * change
            value = self._objective(coefficient, logit, ridge)
            # The slack admits steps whose gain is below the rounding of the objective.
            good = value <= state.value - 1e-4 * length * decrement + 1e-14 * np.abs(state.value)
            if good.all():
                return _State(state.cost, coefficient, logit, value)
            length = np.where(good, length, length / 2.0)
        return None

    def _at_the_limit(self, state: _State, gap: Vector, steps: int) -> Solution:
        """Where no step lowers the objective any more, the solution stands if its gap is proven small."""
        if not (gap <= 1e-6 * np.maximum(np.abs(state.value), 1.0)).all():
            raise ConvergenceError("logistic regression found no step that lowers its objective")
        return self._end(state, gap, steps)


def _proven_gap(local: _Local, cost: float) -> Vector:
    slope, bend = local.gradient[-1], np.sum(local.curvature, axis=0) + FLOOR
    return np.asarray(cost * np.sum(local.gradient[:-1] ** 2, axis=0) / 2.0 + slope**2 / (2.0 * bend))


class _Preconditioner:
    """What resembles the Hessian: its diagonal, then a Cholesky factor, made anew when products become many."""

    def __init__(self, design: Short, weight: Matrix) -> None:
        self._design = design
        self._weight = weight.mean(axis=1)
        self._diagonal = np.square(design).T @ self._weight
        self._gram: Short | None = None
        self._factor: Short | None = None
        self._inverse: Short = np.ones((design.shape[1], 1), dtype=np.float32)
        self._slow = False
        self._factored_for = self._curved_for = 0.0  # 1 / C

    def adjust(self, curvature: Matrix, ridge: Matrix) -> None:
        """Follow to a new point: the diagonal always does, the factor where it was found wanting.

        Args:
            curvature: (n, columns) of the loss.
            ridge: (r + 1, 1) of the penalty: 1 / C, and 0 for the intercept.
        """
        mean, strength = curvature.mean(axis=1), float(ridge[0, 0])
        if self._slow and self._curved_for != strength:
            if self._gram is None:
                self._gram = self._gram_of(self._weight)
            elif self._factored_for == strength:
                self._weight, self._curved_for = mean, strength
                self._gram = self._gram_of(mean)
                self._diagonal = self._gram.diagonal()
            self._factor, self._factored_for = _factorised(self._gram, self._bend(mean), ridge), strength
        if self._factor is None:
            self._inverse = (1.0 / (self._bend(mean) * self._diagonal[:, None] + ridge + FLOOR)).astype(np.float32)

    def solve(self, right: Short) -> Short:
        """(r + 1, columns) the solution of M x = right."""
        if self._factor is None:
            return self._inverse * right
        if right.shape[1] > 1:
            return np.asarray(linalg.cho_solve((self._factor, True), right, check_finite=False), dtype=np.float32)
        # For one column LAPACK's solver of many takes six times as long.
        half = blas.strsv(self._factor, right[:, 0], lower=1)
        return np.asarray(blas.strsv(self._factor, half, lower=1, trans=1), dtype=np.float32)[:, None]

    def learn(self, products: int) -> None:
        """Hear how many products a direction took."""
        self._slow = products > PATIENCE

    def _bend(self, curvature: Vector) -> float:
        return float(curvature.sum() / max(float(self._weight.sum()), np.finfo(np.float64).tiny))

    def _gram_of(self, weight: Vector) -> Short:
        root = self._design * np.sqrt(weight).astype(np.float32)[:, None]
        return root.T @ root


def _factorised(gram: Short, bend: float, ridge: Matrix) -> Short | None:
    """The lower Cholesky factor of bend * gram + ridge; None where there is none in single precision."""
    for more in (1e-6, 1e-4, 1e-2):
        matrix = np.asfortranarray(bend * gram, dtype=np.float32)
        # The little more keeps a matrix that is nearly singular positive.
        matrix[np.diag_indices_from(matrix)] = matrix.diagonal() * (1 + more) + ridge[:, 0] + FLOOR
        try:
            return linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)[0]
        except linalg.LinAlgError:
            continue
    return None
