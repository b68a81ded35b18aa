"""Harrell's concordance index against a loop over all pairs, and against scikit-survival where it is installed."""

import math
import time as clock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.protocol.survival_metrics import concordance


def by_loops(time: list[float], observed: list[bool], risk: list[float]) -> tuple[float, int]:
    right, pairs = 0.0, 0
    for first in range(len(time)):
        for second in range(len(time)):
            later = time[first] < time[second] or (time[first] == time[second] and not observed[second])
            if observed[first] and later and first != second:
                pairs += 1
                right += 1.0 if risk[first] > risk[second] else 0.5 if risk[first] == risk[second] else 0.0
    return (right / pairs if pairs else math.nan), pairs


ROWS = st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(-3, 3)), min_size=1, max_size=30)


@settings(deadline=None, max_examples=200)
@given(ROWS)
def test_it_is_what_a_loop_over_all_pairs_gives(rows: list[tuple[int, bool, int]]) -> None:
    time, observed, risk = [float(row[0]) for row in rows], [row[1] for row in rows], [float(row[2]) for row in rows]
    expected, pairs = by_loops(time, observed, risk)
    found = concordance(time, observed, risk)
    assert found.pairs == pairs
    assert found.value == pytest.approx(expected, nan_ok=True)
    assert bool(found.reason) == math.isnan(found.value)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_scikit_survivals(seed: int) -> None:
    metrics = pytest.importorskip("sksurv.metrics", reason="scikit-survival is not installed")
    rng = np.random.default_rng(seed)
    time, observed = np.ceil(rng.exponential(10, 120)), rng.random(120) < 0.4
    risk = np.round(rng.normal(size=120), 1)
    expected = metrics.concordance_index_censored(observed, time, risk)
    found = concordance(time, observed, risk)
    assert found.value == pytest.approx(expected[0], abs=1e-12)
    assert found.pairs == sum(expected[1:4])


def test_chance_the_perfect_order_and_its_reverse() -> None:
    time, observed = np.arange(1.0, 9.0), np.ones(8, dtype=bool)
    assert concordance(time, observed, -time).value == 1.0
    assert concordance(time, observed, time).value == 0.0
    assert concordance(time, observed, np.zeros(8)).value == 0.5


@pytest.mark.parametrize(
    ("time", "observed", "reason"),
    [
        ([1.0, 2.0], [False, False], "none of the 2 rows"),
        ([3.0, 1.0], [True, False], "free of the event for longer"),
        ([2.0, 2.0], [True, True], "free of the event for longer"),
        ([2.0], [True], "free of the event for longer"),
    ],
)
def test_without_a_comparable_pair_it_is_nan_with_a_reason(
    time: list[float], observed: list[bool], reason: str
) -> None:
    found = concordance(time, observed, np.zeros(len(time)))
    assert math.isnan(found.value)
    assert found.pairs == 0
    assert reason in found.reason


@pytest.mark.parametrize(
    ("time", "observed", "risk", "told"),
    [
        ([1.0], [True, False], [0.0], "equally long"),
        ([], [], [], "not empty"),
        ([1.0, math.nan], [True, True], [0.0, 1.0], "finite"),
        ([1.0, 2.0], [True, True], [0.0, math.inf], "finite"),
        ([1.0, 2.0], [2, 0], [0.0, 1.0], "1 and 0"),
    ],
)
def test_what_is_no_risk_or_time_is_refused(
    time: list[float], observed: list[bool], risk: list[float], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        concordance(time, observed, risk)


def test_as_many_rows_as_the_largest_cohort_take_seconds() -> None:
    rng = np.random.default_rng(0)
    rows = 13_639
    started = clock.monotonic()
    found = concordance(rng.exponential(10, rows), rng.random(rows) < 0.36, rng.normal(size=rows))
    assert clock.monotonic() - started < 10
    assert found.value == pytest.approx(0.5, abs=0.01)
