"""The corrected interval: the formula written out, scipy's where nothing is corrected, and honest coverage."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from peftbench.analysis.intervals import Interval, corrected_interval

DIFFERENCES = st.lists(st.floats(-1, 1).map(lambda value: round(value, 6)), min_size=2, max_size=12)


@given(differences=DIFFERENCES, level=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(deadline=None, max_examples=50)
def test_without_overlap_it_is_the_interval_of_the_paired_t_test(differences: list[float], level: float) -> None:
    assume(np.std(differences) > 1e-6)
    theirs = np.linspace(0, 1, len(differences))
    expected = stats.ttest_rel(np.array(differences) + theirs, theirs).confidence_interval(level)
    found = corrected_interval(differences, 0.0, level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(differences=DIFFERENCES, ratio=st.floats(0, 1), level=st.sampled_from([0.8, 0.95]))
@settings(deadline=None, max_examples=50)
def test_it_is_the_formula_of_nadeau_and_bengio(differences: list[float], ratio: float, level: float) -> None:
    count = len(differences)
    mean = math.fsum(differences) / count
    variance = math.fsum((each - mean) ** 2 for each in differences) / (count - 1)
    reach = stats.t.ppf(1 - (1 - level) / 2, df=count - 1) * math.sqrt((1 / count + ratio) * variance)
    found = corrected_interval(differences, ratio, level)
    assert found == pytest.approx((mean, mean - reach, mean + reach, count), abs=1e-9)


def test_a_worked_example() -> None:
    # Five folds, 20 % test and 60 % training: s = 0.1, t(0.975, 4) = 2.776445, sqrt(1 / 5 + 1 / 3) = 0.730297.
    found = corrected_interval([0.0, 0.1, 0.2, 0.1 + 0.1 * math.sqrt(2), 0.1 - 0.1 * math.sqrt(2)], 0.2 / 0.6)
    spread = math.sqrt(0.06 / 4)
    assert found.mean == pytest.approx(0.1)
    assert found.high - found.mean == pytest.approx(2.776445 * 0.730297 * spread, abs=1e-6)
    assert found.folds == 5


@given(differences=DIFFERENCES, ratio=st.floats(0.01, 1))
@settings(deadline=None, max_examples=50)
def test_the_correction_widens_and_exchanging_the_sides_mirrors(differences: list[float], ratio: float) -> None:
    plain, corrected = corrected_interval(differences, 0.0), corrected_interval(differences, ratio)
    mirrored = corrected_interval([-each for each in differences], ratio)
    assert corrected.mean == plain.mean
    assert corrected.high - corrected.low >= plain.high - plain.low
    assert (mirrored.mean, mirrored.low, mirrored.high) == pytest.approx(
        (-corrected.mean, -corrected.high, -corrected.low), abs=1e-12
    )


class TestTooLittle:
    def test_folds_without_a_value_are_left_out(self) -> None:
        assert corrected_interval([0.1, math.nan, 0.3, math.nan], 0.3) == corrected_interval([0.1, 0.3], 0.3)

    @pytest.mark.parametrize("differences", [[0.2], [math.nan, 0.2]])
    def test_one_fold_has_a_mean_and_no_interval(self, differences: list[float]) -> None:
        found = corrected_interval(differences, 0.3)
        assert (found.mean, found.folds) == (0.2, 1)
        assert math.isnan(found.low)
        assert math.isnan(found.high)

    @pytest.mark.parametrize("differences", [[], [math.nan, math.nan]])
    def test_no_fold_has_nothing(self, differences: list[float]) -> None:
        found = corrected_interval(differences, 0.3)
        assert found.folds == 0
        assert all(map(math.isnan, found[:3]))

    def test_equal_differences_have_an_interval_without_width(self) -> None:
        assert corrected_interval([0.25] * 5, 0.3) == Interval(0.25, 0.25, 0.25, 5)


def test_of_correlated_differences_without_an_effect_few_look_real() -> None:
    # Folds that share training data: a common part beside each fold's own, correlated by test / (test + training).
    random = np.random.default_rng(0)
    ratio, count = 1 / 3, 2000
    shared = random.normal(size=(count, 1)) * math.sqrt(ratio)
    differences = shared + random.normal(size=(count, 5))

    def share_that_looks_real(overlap: float) -> float:
        intervals = [corrected_interval(row, overlap) for row in differences]
        return float(np.mean([interval.low > 0 or interval.high < 0 for interval in intervals]))

    assert 0.03 < share_that_looks_real(ratio) < 0.07
    assert share_that_looks_real(0.0) > 0.12
