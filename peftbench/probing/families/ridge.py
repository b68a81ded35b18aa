"""Ridge regression on targets of -1 and 1, classes balanced: one decomposition for all strengths.

For features X (n, d), scaled, targets t and weights w it minimises, with a free intercept a,

    sum_i w_i (t_i - x_i . b - a)^2 + alpha |b|^2,

the objective of scikit-learn's Ridge. Let m and c be the weighted means of x and t, A = sqrt(w) (X - m) = U S V' and
u = sqrt(w) (t - c). Then

    b = A' U (S^2 + alpha)^-1 U' u,    a = c - m . b,

so that one eigendecomposition of the smaller of A A' and A' A serves every alpha. Removing row i, with the other
weights held, changes its own prediction to (Allen 1974; Golub, Heath and Wahba 1979)

    t_i - (t_i - f_i) / (1 - h_i),     h_i = w_i / sum(w) + sum_k U_ik^2 S_k^2 / (S_k^2 + alpha):

exact, the intercept's refitting included. The scaling of the features is held as well.

Balanced weights held are no longer balanced without the row: the intercept leans to the other class, by 1 / n_c of its
own, and on a few images that drowns what is to be measured. Balanced weights put the intercept where the mean decision
values of the two classes are -v and v. So the left-out model gets that intercept on the rows that remain. It needs
their class means; leaving out row i changes row j by -h_ji (t_i - f_i) / (1 - h_i), and h_ji averaged over a class of
equal weights takes the mean of its rows of U: closed form again.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from peftbench.probing.families.family import Candidate, Events, Features, Options, Vector
from peftbench.probing.families.scaling import Matrix, Scaler, principal_axes
from peftbench.probing.families.slope import fit_slope, left_out_probability, row_weights

STRENGTHS: tuple[float, ...] = tuple(float(f"{10.0**power:.6g}") for power in np.arange(0.0, -6.25, -0.5))
"""Strengths that are tried, strongest first, as shares of the total energy: at 1 every direction is at least halved, at
1e-6 hardly any that a thousand images can tell."""

_LEAST_FREEDOM = 1e-10
"""1 - h of a row that the model can fit at no cost; keeps a division finite."""


class RidgeFit(NamedTuple):
    """One solution.

    Attributes:
        alpha: strength.
        coefficient: (d,), for scaled features.
        intercept: the decision value at 0.
        fitted: (n,) decision values of the training rows.
        left_out: (n,) their decision values by the model without them.
    """

    alpha: float
    coefficient: Vector
    intercept: float
    fitted: Vector
    left_out: Vector


class Decomposition(NamedTuple):
    """A weighted problem in its own axes, ready for any strength.

    Attributes:
        centred: (n, d) X - m.
        mean: (d,) m.
        target: (n,) -1 or 1.
        target_mean: c.
        root: (n,) sqrt(w).
        axes: (n, r) U.
        energy: (r,) S^2.
    """

    centred: Matrix
    mean: Vector
    target: Vector
    target_mean: float
    root: Vector
    axes: Matrix
    energy: Vector

    @property
    def total(self) -> float:
        """Sum of the energies; 1 where there are none, so that strengths stay positive."""
        return float(self.energy.sum()) or 1.0

    def solve(self, alpha: float) -> RidgeFit:
        """The minimiser at a strength.

        Args:
            alpha: positive.
        """
        response = self.axes.T @ (self.root * (self.target - self.target_mean))
        coefficient = self.centred.T @ (self.root * (self.axes @ (response / (self.energy + alpha))))
        fitted = self.centred @ coefficient + self.target_mean
        left_out = self.target - (self.target - fitted) / self._freedom(alpha)
        return RidgeFit(alpha, coefficient, float(self.target_mean - self.mean @ coefficient), fitted, left_out)

    def rebalanced(self, fit: RidgeFit) -> Vector:
        """(n,) left-out decision values, the intercept halfway between the means of the two classes that remain.

        For weights that are equal within a class. A row that is alone in its class is taken to stay in its mean.
        """
        event = (self.target > 0).astype(np.int64)
        change = fit.left_out - self.target
        means = []
        for each in (0, 1):
            members = event == each
            mean = fit.fitted[members].mean() + self._influence(members, fit.alpha) * change
            count, own = members.sum(), members & (members.sum() > 1)
            means.append(np.where(own, (count * mean - fit.left_out) / max(count - 1, 1), mean))
        middle = 0.5 * (means[0] + means[1])
        return np.asarray(fit.left_out - middle, dtype=np.float64)

    def _influence(self, members: npt.NDArray[np.bool_], alpha: float) -> Vector:
        """(n,) mean over a class's rows j of h_ji: what a unit of row i's target adds to the class's mean value."""
        weight = self.root**2
        among = (self.axes[members] / self.root[members, None]).mean(axis=0) * (self.energy / (self.energy + alpha))
        return np.asarray(weight / weight.sum() + self.root * (self.axes @ among), dtype=np.float64)

    def _freedom(self, alpha: float) -> Vector:
        """(n,) 1 - h."""
        weight = self.root**2
        leverage = weight / weight.sum() + self.axes**2 @ (self.energy / (self.energy + alpha))
        return np.asarray(np.maximum(1.0 - leverage, _LEAST_FREEDOM), dtype=np.float64)


class RidgeModel(NamedTuple):
    """A fitted ridge probe; see `Model`."""

    scaler: Scaler
    fit: RidgeFit
    slope: float
    left_out: Vector

    def decision(self, features: Features) -> Vector:
        """(m,) decision values, about -1 and 1 for the two classes."""
        values: Vector = self.scaler.apply(features) @ self.fit.coefficient + self.fit.intercept
        return values

    def probability(self, features: Features) -> Vector:
        """(m,) probability of the event; 0.5 where the decision value is 0."""
        return np.asarray(expit(self.slope * self.decision(features)), dtype=np.float64)


class RidgeFamily:
    """Ridge regression along a path of strengths, also on few images: their left-out values choose among them."""

    path = True

    def __init__(self, strengths: Sequence[float] = STRENGTHS) -> None:
        self.strengths = tuple(strengths)

    def candidates(self, features: Features, event: Events, options: Options) -> Iterator[Candidate]:
        """See `Family`; the strongest first."""
        scaler = Scaler.fit(features, options.scaling)
        weight = row_weights(event, options.class_weight)
        problem = decompose(scaler.apply(features), event, weight)
        for strength in self.strengths:
            fit = problem.solve(strength * problem.total)
            left_out = problem.rebalanced(fit) if options.class_weight == "balanced" else fit.left_out
            model = ridge_model(scaler, fit, left_out, event, weight)
            yield Candidate({"strength": strength, "alpha": model.fit.alpha}, model)


RIDGE = RidgeFamily()


def decompose(features: Matrix, event: Events, weight: Vector) -> Decomposition:
    """The part of the work that all strengths share.

    Args:
        features: (n, d), scaled.
        event: (n,) 0 or 1.
        weight: (n,) not negative, their sum positive.
    """
    target = np.where(event == 1, 1.0, -1.0)
    mean = np.asarray(weight @ features / weight.sum(), dtype=np.float64)
    centred, root = features - mean, np.sqrt(weight)
    axes, energy = principal_axes(root[:, None] * centred)
    return Decomposition(centred, mean, target, float(weight @ target / weight.sum()), root, axes, energy)


def ridge_model(scaler: Scaler, fit: RidgeFit, left_out: Vector, event: Events, weight: Vector) -> RidgeModel:
    """The probe at one strength, its slope learnt from (n,) left-out decision values."""
    slope = fit_slope(left_out, fit.fitted, event, weight)
    return RidgeModel(scaler, fit, slope, left_out_probability(left_out, slope, event))
