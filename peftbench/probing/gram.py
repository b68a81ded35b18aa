"""Few-shot logistic regression: thousands of small problems at once, in the space of their Gram matrices.

A support set S of m images, features X_S (m, d), labels y and weights w. As the solution is b = X_S' u, the m numbers
u stand for the d of b, and with K = X X' of all images

    f(x) = sum_j u_j K(x, j) + a,      F = sum_i w_i log(1 + exp(-s_i f_i)) + u' K_S u / (2 C),

a free, s_i = 2 y_i - 1. One K of the cohort serves every fold, support set and C; d is gone. A Newton step is a
weighted least-squares fit to z = f - e / D, where e = w (p - y) and D = w p (1 - p):

    (I / C + R K_S R) v = R (z - a),  u = R v,  R = sqrt(D),  with a such that sum u = 0.

The matrix has no eigenvalue below 1 / C, whatever the rank of K_S. Leaving one image out of that last fit is known in
closed form: with u = Q z, image i is predicted by z_i - u_i / Q_ii by the fit without it (the leave-one-out of a
Gaussian process; Rasmussen and Williams 2006, 5.4.2). For logistic regression it is one Newton step from the whole
support set's solution towards that without the image (Rad and Maleki 2020, J R Stat Soc B 82:965). Against fits that
really leave it out, on 200 support sets each of m = 4, 8, 16 and 64: of nine C the one with the lowest log loss is the
same in 97.5, 95, 96 and 94.5 per cent, and next to it in all others; probabilities differ by 0.001 on average
(`agreement` in `tests/probing/test_gram.py`).

Support sets of one size are solved side by side, as stacks of matrices; those that have arrived leave the stack. A
step costs m^3 a set, and in the primal min(m, d)^2 m if its matrix is formed, or some m d a product if it is not, as
`newton.py` does. So stacks pay up to some hundred images: against one path of `newton.py` after the other they are 50
times as fast at m = 4, 30 at 16, 3.6 at 64, 1.4 at 128, and half as fast at 256; there only the closed leave-one-out
speaks for them.

What a support set says of location and scale: its mean is subtracted, and features are divided by one number, the root
mean square of what is left over images and features. A scale for each feature would be learnt from a handful of
values. Because sum u = 0 the mean drops out of f(x), up to a constant; so K is of the features as they are stored,
minus any point.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from peftbench.probing.newton import ConvergenceError

Matrix = npt.NDArray[np.float64]
Stack = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]

GRAM_ROWS = 4096
"""Images up to which the Gram matrix of all is kept: 134 MB."""

TOLERANCE = 1e-9
"""Half the squared Newton decrement, relative to the objective, at which a solution counts as exact."""

MAX_STEPS = 60

SMALLEST_CURVATURE = 1e-9
"""Of w p (1 - p): keeps z finite where a prediction is certain."""

STACK_BYTES = 2**26
"""Bytes of the matrices that are solved side by side."""


class Support(NamedTuple):
    """Support sets of one size, ready to be fitted.

    Attributes:
        positions: (sets, m) of the images.
        gram: (sets, m, m) of the centred and scaled features.
        sign: (sets, m) -1 or 1.
        weight: (sets, m).
        scale: (sets,) mean square of the centred features: by which K is divided.
        pull: (sets, m) what the mean adds to each image's column, divided by the scale.
        balanced: whether both classes weigh the same.
    """

    positions: Positions
    gram: Stack
    sign: Matrix
    weight: Matrix
    scale: Vector
    pull: Matrix
    balanced: bool = True


class Fits(NamedTuple):
    """Solutions for one C.

    Attributes:
        dual: (sets, m) u.
        intercept: (sets,) a, for centred features.
        logit: (sets, m) f of the support images themselves.
        left_out: (sets, m) f of each support image by the fit without it, or NaN where its class has no other image.
        objective: (sets,) F.
    """

    dual: Matrix
    intercept: Vector
    logit: Matrix
    left_out: Matrix
    objective: Vector


class _State(NamedTuple):
    dual: Matrix
    intercept: Vector
    logit: Matrix
    value: Vector


class GramSource(NamedTuple):
    """The features of all images, and their Gram matrix where it is small enough to be kept.

    Attributes:
        features: (n, d) minus their mean; the mean is taken off for the digits, and drops out of every answer.
        gram: (n, n) their products; None beyond `GRAM_ROWS` images.
    """

    features: Matrix
    gram: Matrix | None

    @classmethod
    def of(cls, features: npt.NDArray[np.floating]) -> "GramSource":
        """From (n, d) features as stored."""
        wide = features.astype(np.float64)
        wide -= wide.mean(axis=0)
        return cls(wide, wide @ wide.T if len(wide) <= GRAM_ROWS else None)

    def products(self, positions: Positions) -> Stack:
        """(sets, m, m) products of the images of each set."""
        if self.gram is not None:
            return np.asarray(self.gram[positions[:, :, None], positions[:, None, :]])
        return np.stack([self.features[each] @ self.features[each].T for each in positions])

    def predict(self, support: Support, fits: "list[Fits]", images: Positions) -> Stack:
        """Logits of images by every fit.

        Args:
            support: the sets.
            fits: of them, each for one C.
            images: (k,) positions.

        Returns:
            (sets, k, fits).
        """
        dual = np.stack([fit.dual for fit in fits], axis=2) / support.scale[:, None, None]
        shift = np.stack([fit.intercept - np.sum(fit.dual * support.pull, axis=1) for fit in fits], axis=1)
        answer = np.empty((len(support.positions), len(images), len(fits)))
        rows = self.features[images] if self.gram is None else self.gram[images]
        for at, positions in enumerate(support.positions):
            if self.gram is None:
                np.matmul(rows, self.features[positions].T @ dual[at], out=answer[at])
            else:
                np.matmul(rows[:, positions], dual[at], out=answer[at])
        answer += shift[:, None, :]
        return answer


def support_sets(
    source: GramSource, event: npt.NDArray[np.int64], positions: Positions, *, balanced: bool = True
) -> Support:
    """Centre and scale on each support set.

    Args:
        source: of all images.
        event: (n,) 0 or 1.
        positions: (sets, m) images of each set, both classes in each.
        balanced: whether both classes weigh the same.

    Raises:
        ValueError: a set has one class only.
    """
    truth, count = event[positions], positions.shape[1]
    events = truth.sum(axis=1, keepdims=True)
    if not ((events > 0) & (events < count)).all():
        raise ValueError("logistic regression needs both classes in every support set")
    part = source.products(positions)
    column = part.mean(axis=1)
    mean = column.mean(axis=1)
    size = np.trace(part, axis1=1, axis2=2) / count
    part += mean[:, None, None] - column[:, :, None] - column[:, None, :]
    spread = np.trace(part, axis1=1, axis2=2) / count
    # Of equal images rounding leaves a little. What is no number stays none, and does not converge.
    some = ~(spread <= 1e-13 * size)
    scale = np.where(some, spread / source.features.shape[1], 1.0)
    part = np.where(some[:, None, None], part, 0.0) / scale[:, None, None]
    share = np.where(truth == 1, events, count - events) if balanced else np.full(truth.shape, count / 2)
    sign = np.where(truth == 1, 1.0, -1.0)
    return Support(positions, part, sign, count / (2.0 * share), scale, column / scale[:, None], balanced)


def fit_costs(support: Support, costs: npt.ArrayLike, *, left_out: bool = True) -> list[Fits]:
    """Solve all sets for one C after the other, from small to large, each from the one before.

    Args:
        support: the sets.
        costs: values of C, increasing.
        left_out: whether each image is predicted by the fit without it.

    Raises:
        ConvergenceError: a solution was not found.
    """
    state = _start(support)
    found = []
    for cost in np.asarray(costs, dtype=np.float64):
        state = _solve(support, float(cost), state)
        without = np.full(support.positions.shape, np.nan)
        for chunk in _chunks(*support.positions.shape) if left_out else ():
            without[chunk] = _leave_one_out(_part(support, chunk), float(cost), state.logit[chunk])
        found.append(Fits(state.dual, state.intercept, state.logit, without, state.value))
    return found


def pick(fits: list[Fits], which: Positions) -> Fits:
    """Of each set the fit of one C.

    Args:
        fits: of all sets, each for one C.
        which: (sets,) positions in `fits`.
    """
    rows = np.arange(len(which))
    return Fits(*(np.stack(each)[which, rows] for each in zip(*fits, strict=True)))


def _chunks(sets: int, size: int) -> list[slice]:
    step = max(1, STACK_BYTES // (8 * size * size))
    return [slice(begin, begin + step) for begin in range(0, sets, step)]


def _part(support: Support, rows: slice | Positions) -> Support:
    positions, gram, sign, weight, scale, pull, balanced = support
    return Support(positions[rows], gram[rows], sign[rows], weight[rows], scale[rows], pull[rows], balanced)


def _start(support: Support) -> _State:
    zeros = np.zeros(support.positions.shape)
    intercept = np.zeros(len(zeros))
    return _State(zeros, intercept, zeros, np.sum(support.weight, axis=1) * np.log(2.0))


def _solve(support: Support, cost: float, start: _State) -> _State:
    """Newton's method on all sets; those that have arrived are left out of the next step."""
    penalty = np.sum(start.dual * (start.logit - start.intercept[:, None]), axis=1) / (2.0 * cost)
    done = _State(*(each.copy() for each in start))._replace(value=_loss(support, start.logit) + penalty)
    open_sets = np.arange(len(support.positions))
    for _ in range(MAX_STEPS):
        left = []
        for part in _chunks(len(open_sets), support.positions.shape[1]):
            chunk = open_sets[part]
            moved, arrived = _newton_step(_part(support, chunk), cost, _State(*(each[chunk] for each in done)))
            for target, new in zip(done, moved, strict=True):
                target[chunk] = new
            left.append(chunk[~arrived])
        open_sets = np.concatenate(left)
        if not len(open_sets):
            return done
    raise ConvergenceError(f"few-shot logistic regression did not converge in {MAX_STEPS} Newton steps")


def _newton_step(support: Support, cost: float, state: _State) -> tuple[_State, npt.NDArray[np.bool_]]:
    curvature, target = _working(support, state.logit)
    root = np.sqrt(curvature)
    system = support.gram * root[:, :, None] * root[:, None, :]
    size = root.shape[1]
    system[:, range(size), range(size)] += 1.0 / cost
    answers = np.linalg.solve(system, np.stack([root * target, root], axis=2))
    intercept = np.sum(root * answers[..., 0], axis=1) / np.sum(root * answers[..., 1], axis=1)
    dual = root * (answers[..., 0] - intercept[:, None] * answers[..., 1])
    along_dual, along_intercept = dual - state.dual, intercept - state.intercept
    image = np.matmul(support.gram, along_dual[..., None])[..., 0]
    change = image + along_intercept[:, None]
    # x' H x of the direction x: its squared Newton decrement.
    decrement = np.sum(along_dual * image, axis=1) / cost + np.sum(curvature * change**2, axis=1)
    before = state.logit - state.intercept[:, None]  # K u
    length = np.ones(len(dual))
    for _ in range(40):
        penalty = np.sum((state.dual + length[:, None] * along_dual) * (before + length[:, None] * image), axis=1)
        value = _loss(support, state.logit + length[:, None] * change) + penalty / (2.0 * cost)
        good = value <= state.value - 1e-4 * length * decrement + 1e-13 * np.abs(state.value)
        if good.all():
            break
        length = np.where(good, length, length / 2.0)
    moved = _State(
        state.dual + length[:, None] * along_dual,
        state.intercept + length * along_intercept,
        state.logit + length[:, None] * change,
        value,
    )
    return moved, decrement / 2.0 <= TOLERANCE * np.maximum(np.abs(value), 1.0)


def _working(support: Support, logit: Matrix) -> tuple[Matrix, Matrix]:
    """Curvature D and working response z."""
    truth = (support.sign + 1.0) / 2.0
    probability = expit(logit)
    curvature = np.maximum(support.weight * probability * (1.0 - probability), SMALLEST_CURVATURE)
    return curvature, logit - support.weight * (probability - truth) / curvature


def _leave_one_out(support: Support, cost: float, logit: Matrix) -> Matrix:
    """Each image by the fit without it, its class weighing what it weighs without it.

    With weights held, the class of the image that is left out would count for less than the other one, and every image
    would seem to belong to the other class: of two images a class that is all there is to see.
    """
    curvature, target = _working(support, logit)
    left = np.full(logit.shape, np.nan)
    for own in (-1.0, 1.0):
        members = support.sign == own
        # The working response does not depend on the weights; the curvature is proportional to them.
        changed = curvature * _weights_without(support, own) / support.weight
        left = np.where(members, _closed_form(support.gram, changed, target, cost), left)
    alone = np.sum(support.sign[:, :, None] == support.sign[:, None, :], axis=2) == 1
    return np.where(alone, np.nan, left)


def _weights_without(support: Support, own: float) -> Matrix:
    """(sets, m) weights where an image of a class is left out; as they are where classes are not balanced."""
    if not support.balanced:
        return support.weight
    size = support.sign.shape[1] - 1
    members = np.sum(support.sign == own, axis=1, keepdims=True)
    mine, theirs = size / (2.0 * np.maximum(members - 1, 1)), size / (2.0 * (size + 1 - members))
    return np.asarray(np.where(support.sign == own, mine, theirs), dtype=np.float64)


def _closed_form(gram: Stack, curvature: Matrix, target: Matrix, cost: float) -> Matrix:
    """(sets, m) predictions of a weighted least-squares fit to a target, each image by the fit without it."""
    root = np.sqrt(curvature)
    # C times the matrix: the factor drops out, and where features say nothing C makes no difference, to the last bit.
    system = gram * (cost * root)[:, :, None] * root[:, None, :]
    size = root.shape[1]
    system[:, range(size), range(size)] += 1.0
    inverse = np.linalg.inv(system)
    column = np.matmul(inverse, root[..., None])[..., 0]
    total = np.sum(root * column, axis=1)
    diagonal = curvature * (inverse[:, range(size), range(size)] - column**2 / total[:, None])
    answer = np.matmul(inverse, (root * target)[..., None])[..., 0]
    dual = root * (answer - (np.sum(root * answer, axis=1) / total)[:, None] * column)
    return np.asarray(target - dual / np.maximum(diagonal, np.finfo(np.float64).tiny))


def _loss(support: Support, logit: Matrix) -> Vector:
    return np.asarray(np.sum(support.weight * np.logaddexp(0.0, -support.sign * logit), axis=1))
