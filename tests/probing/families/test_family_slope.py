"""One positive slope from left-out values, the most likely one, also where they separate or mislead."""

import numpy as np
import pytest
from family_kit import Events, Matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.utils.class_weight import compute_sample_weight

from peftbench.probing.families.slope import LARGEST, SMALLEST, alone, fit_slope, left_out_probability, row_weights


def values(seed: int, signal: float = 1.0, events: int = 8, rows: int = 30) -> tuple[Matrix, Events]:
    event = np.repeat([1, 0], [events, rows - events])
    return signal * (2.0 * event - 1) + np.random.default_rng(seed).normal(size=rows), event


def loss(slope: float, margin: Matrix, event: Events, weight: Matrix) -> float:
    counts = np.bincount(event)[event]
    own = (counts + 1) / (counts + 2)
    sign = 2.0 * event - 1
    right, wrong = np.logaddexp(0, -sign * slope * margin), np.logaddexp(0, sign * slope * margin)
    return float(weight @ (own * right + (1 - own) * wrong))


@given(seed=st.integers(0, 999), scale=st.floats(1e-6, 1e6), signal=st.floats(0.3, 5))
@settings(deadline=None, max_examples=15)
def test_it_is_the_most_likely_one(seed: int, scale: float, signal: float) -> None:
    margin, event = values(seed, signal)
    weight = row_weights(event, "balanced")
    found = fit_slope(scale * margin, margin, event, weight)
    best = minimize_scalar(lambda slope: loss(slope, margin, event, weight), bounds=(SMALLEST, 100), method="bounded")
    assert found * scale == pytest.approx(best.x, rel=1e-2, abs=2e-3)
    assert loss(found * scale, margin, event, weight) <= best.fun + 1e-6


@given(seed=st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_calling_the_event_a_non_event_changes_nothing(seed: int) -> None:
    margin, event = values(seed)
    weight = row_weights(event, "balanced")
    assert fit_slope(-margin, -margin, 1 - event, weight) == pytest.approx(fit_slope(margin, margin, event, weight))


def test_values_that_separate_get_a_finite_slope_and_more_rows_a_steeper_one() -> None:
    slopes = []
    for rows in (4, 40, 400):
        event = np.arange(rows) % 2
        margin = 2.0 * event - 1
        slopes.append(fit_slope(margin, margin, event, np.ones(rows)))
    # Platt: every value at the boundary's one side gets (n + 1) / (n + 2).
    assert slopes == pytest.approx([np.log(rows / 2 + 1) for rows in (4, 40, 400)], rel=1e-6)


@pytest.mark.parametrize("margin", [np.array([1.0, 1, -1, -1]), np.zeros(4), np.array([1e100, 0, 0, 0])])
def test_values_that_mislead_or_tell_nothing_get_a_small_positive_slope(margin: Matrix) -> None:
    found = fit_slope(margin, margin, np.array([0, 0, 1, 1]), np.ones(4))
    assert 0 < found <= LARGEST


def test_a_class_of_one_row_leaves_the_unit_of_the_fitted_values() -> None:
    event = np.array([1, 0, 0])
    assert fit_slope(np.array([-9.0, 1, 1]), np.array([2.0, -2, -2]), event, np.ones(3)) == pytest.approx(0.5)
    assert alone(event).tolist() == [True, False, False]
    assert left_out_probability(np.array([-9.0, 0, 0]), 1.0, event).tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("events", [1, 7, 19])
def test_weights_are_those_of_scikit_learn(events: int) -> None:
    event = np.repeat([1, 0], [events, 20 - events])
    np.testing.assert_allclose(row_weights(event, "balanced"), compute_sample_weight("balanced", event))
    assert row_weights(event, "none").tolist() == [1.0] * 20
