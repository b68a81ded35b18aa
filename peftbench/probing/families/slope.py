"""From decision values to probabilities, with 0 as the boundary: p = sigmoid(slope * value), one positive slope.

Ridge regression and nearest centroids answer with a margin whose unit means nothing. One slope makes it a probability
that can be compared by log loss, and changes neither the order nor the sign. It maximises the weighted likelihood

    sum_i w_i [t_i log p_i + (1 - t_i) log(1 - p_i)],      p_i = sigmoid(slope * value_i)

over the values that the model would have given to each training row without that row. The targets t_i are Platt's
(1999): (n_c + 1) / (n_c + 2) for a row's own class of n_c rows, so that the slope stays finite where the values
separate the classes.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from peftbench.probing.families.family import ClassWeight, Events, Vector
from peftbench.probing.logistic import balanced_weights

SMALLEST = 1e-3
"""Least slope, for values of root mean square 1: what is given to values that tell nothing, or the wrong class."""

LARGEST = 1e6
"""Most, where all values but a few are almost 0."""

_STEPS = 100


def row_weights(event: Events, class_weight: ClassWeight) -> Vector:
    """(n,) weights of mean 1: n / (2 n_class) where both classes are to weigh the same, else all 1."""
    if class_weight == "none":
        return np.ones(len(event))
    return balanced_weights(event)


def alone(event: Events) -> npt.NDArray[np.bool_]:
    """(n,) whether a row is the only one of its class: without it there is nothing to learn from."""
    only: npt.NDArray[np.bool_] = np.bincount(event, minlength=2)[event] == 1
    return only


def fit_slope(left_out: Vector, fitted: Vector, event: Events, weight: Vector) -> float:
    """The slope of the sigmoid.

    Args:
        left_out: (n,) value of each training row by the model without it.
        fitted: (n,) its value by the model with it; tells the unit where left-out values of both classes are not to
            be had, because a class has one row.
        event: (n,) 0 or 1.
        weight: (n,) of each row.

    Returns:
        Positive and finite.
    """
    known = ~alone(event)
    if len(np.unique(event[known])) < 2:
        return 1.0 / _unit(fitted)
    unit = _unit(left_out[known])
    target = _smoothed(event[known])
    return _most_likely(left_out[known] / unit, target, weight[known]) / unit


def left_out_probability(left_out: Vector, slope: float, event: Events) -> Vector:
    """(n,) probability from left-out values; 0.5 for a row whose class would be empty."""
    return np.where(alone(event), 0.5, expit(slope * left_out))


def _unit(values: Vector) -> float:
    root = float(np.sqrt(np.mean(values**2)))
    return root if root > 0 else 1.0


def _smoothed(event: Events) -> Vector:
    counts = np.bincount(event, minlength=2)
    own = (counts + 1.0) / (counts + 2.0)
    return np.asarray(np.where(event == 1, own[1], 1.0 - own[0]), dtype=np.float64)


def _most_likely(values: Vector, target: Vector, weight: Vector) -> float:
    """The root of the slope's gradient, which increases: Newton's method, and halving where it leaves the bracket."""
    low, high = SMALLEST, SMALLEST
    while _gradient(high, values, target, weight) < 0 and high < LARGEST:
        low, high = high, high * 4.0
    slope = 0.5 * (low + high)
    for _ in range(_STEPS):
        gradient = _gradient(slope, values, target, weight)
        low, high = (slope, high) if gradient < 0 else (low, slope)
        chance = expit(slope * values)
        curvature = float(weight @ (values**2 * chance * (1.0 - chance)))
        newton = slope - gradient / curvature if curvature > 0 else np.inf
        following = newton if low < newton < high else 0.5 * (low + high)
        if abs(following - slope) <= 1e-12 * slope:
            break
        slope = following
    return slope


def _gradient(slope: float, values: Vector, target: Vector, weight: Vector) -> float:
    return float(weight @ (values * (expit(slope * values) - target)))
