"""What is learnt on the validation part agrees with an exhaustive search, and the curve with the error it explains."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from peftbench.protocol import metrics
from peftbench.protocol.calibration import TEMPERATURES, apply_temperature, best_threshold, fit_temperature, reliability

Pair = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]

TIED = st.integers(0, 8).map(lambda eighths: eighths / 8)
ANY = st.floats(0.0, 1.0, allow_nan=False)


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Truth with both classes, and scores, many of them tied."""
    events = [*draw(st.lists(st.integers(0, 1), max_size=20)), 0, 1]
    scores = draw(st.lists(draw(st.sampled_from([TIED, ANY])), min_size=len(events), max_size=len(events)))
    return np.array(draw(st.permutations(events))), np.array(scores)


def mcc_at(event: npt.NDArray[np.int64], score: npt.NDArray[np.float64], threshold: float) -> float:
    return metrics.matthews(metrics.Confusion.of(event, (score >= threshold).astype(np.int64)))


def log_loss(event: npt.NDArray[np.int64], score: npt.NDArray[np.float64], temperature: float) -> float:
    odds = logit(np.clip(score, 1e-12, 1 - 1e-12)) / temperature
    return float(np.logaddexp(0.0, np.where(event == 1, -odds, odds)).mean())


def some(seed: int, count: int = 60, scale: float = 1.0) -> Pair:
    """Scores whose log odds are the true ones times `scale`."""
    random = np.random.default_rng(seed)
    odds = random.normal(size=count)
    event = (random.uniform(size=count) < expit(odds)).astype(np.int64)
    event[:2] = 0, 1
    return event, np.asarray(expit(scale * odds))


class TestThreshold:
    @given(pair=pairs())
    @settings(deadline=None, max_examples=200)
    def test_no_threshold_has_a_higher_mcc(self, pair: Pair) -> None:
        event, score = pair
        found = best_threshold(event, score)
        assert 0 <= found <= 1
        every = [0.0, 1.0, 0.5, *score, *np.nextafter(score[score < 1], 2)]
        assert mcc_at(event, score, found) >= max(mcc_at(event, score, each) for each in every) - 1e-9

    @given(pair=pairs())
    @settings(deadline=None, max_examples=100)
    def test_of_equals_the_one_nearest_to_a_half(self, pair: Pair) -> None:
        event, score = pair
        levels = np.unique(np.append(score, [0.0, 1.0]))
        middles = [*((levels[1:] + levels[:-1]) / 2), 0.5]
        assume(all(middle not in levels for middle in middles[:-1]))
        best = max(mcc_at(event, score, each) for each in [0.0, 1.0, *middles])
        equal = [each for each in middles if mcc_at(event, score, each) >= best - 1e-12]
        if equal:
            nearest = min(abs(each - 0.5) for each in equal)
            assert abs(best_threshold(event, score) - 0.5) == pytest.approx(nearest, abs=1e-12)

    def test_it_lies_half_way_between_neighbours(self) -> None:
        assert best_threshold([0, 0, 1, 1], [0.0, 0.125, 0.25, 0.5]) == 0.1875

    def test_equal_scores_are_decided_together(self) -> None:
        assert best_threshold([0, 1, 1, 1, 0], [0.25, 0.25, 0.75, 0.75, 0.0]) == 0.5

    def test_decisions_that_are_turned_round_are_not_made(self) -> None:
        event, score = np.array([1, 0]), np.array([0.25, 0.75])
        assert mcc_at(event, score, best_threshold(event, score)) == 0

    def test_neighbours_with_no_number_between_them_are_told_apart(self) -> None:
        for low in (0.1, 0.3, 0.0):
            score = np.array([low, np.nextafter(low, 1)])
            assert mcc_at(np.array([0, 1]), score, best_threshold([0, 1], score)) == 1

    @pytest.mark.parametrize("event", [[0, 0, 0], [1, 1, 1]])
    def test_one_class_leaves_it_at_a_half(self, event: list[int]) -> None:
        assert best_threshold(event, [0.1, 0.2, 0.9]) == 0.5

    def test_equal_scores_leave_it_at_a_half(self) -> None:
        assert best_threshold([0, 1, 1], [0.2, 0.2, 0.2]) == 0.5

    @given(pair=pairs(), random=st.randoms(use_true_random=False))
    @settings(deadline=None, max_examples=30)
    def test_the_order_of_the_rows_is_nothing(self, pair: Pair, random: st.DataObject) -> None:
        event, score = pair
        order = np.random.default_rng(random.randint(0, 99)).permutation(len(event))
        assert best_threshold(event[order], score[order]) == best_threshold(event, score)


class TestTemperature:
    @pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_no_temperature_of_a_fine_grid_has_a_lower_loss(self, seed: int, scale: float) -> None:
        event, score = some(seed, scale=scale)
        found = fit_temperature(event, score)
        grid = np.geomspace(*TEMPERATURES, 4001)
        losses = [log_loss(event, score, each) for each in grid]
        assert log_loss(event, score, found) <= min(losses) + 1e-9
        assert found == pytest.approx(grid[int(np.argmin(losses))], rel=2e-3)

    @given(factor=st.floats(0.25, 4.0), seed=st.integers(0, 20))
    @settings(deadline=None, max_examples=20)
    def test_it_undoes_a_scaling_of_the_log_odds(self, factor: float, seed: int) -> None:
        event, score = some(seed, 200)
        once, scaled = fit_temperature(event, score), fit_temperature(event, expit(factor * logit(score)))
        assume(TEMPERATURES[0] * 5 < once < TEMPERATURES[1] / 5)
        assert scaled == pytest.approx(factor * once, rel=1e-3)

    @given(scores=st.lists(ANY, min_size=1, max_size=20), temperature=st.floats(*TEMPERATURES))
    @settings(deadline=None, max_examples=50)
    def test_applying_it_keeps_order_decisions_and_range(self, scores: list[float], temperature: float) -> None:
        score = np.array(scores)
        cooled = apply_temperature(score, temperature)
        assert ((cooled >= 0) & (cooled <= 1)).all()
        assert (np.diff(cooled[np.argsort(score)]) >= 0).all()
        certain = np.abs(score - 0.5) > 1e-9
        np.testing.assert_array_equal((cooled >= 0.5)[certain], (score >= 0.5)[certain])

    def test_one_changes_nothing(self) -> None:
        score = np.array([0.0, 0.01, 0.5, 0.99, 1.0])
        np.testing.assert_allclose(apply_temperature(score, 1.0), score, atol=2e-12)

    def test_what_says_nothing_is_left_alone(self) -> None:
        assert fit_temperature([1, 1], [0.2, 0.9]) == 1
        assert fit_temperature([0, 1], [0.5, 0.5]) == 1

    def test_certain_scores_stay_finite(self) -> None:
        found = fit_temperature([0, 1, 1, 0], [0.0, 1.0, 0.0, 1.0])
        assert found == pytest.approx(TEMPERATURES[1], rel=1e-3)
        assert np.isfinite(apply_temperature([0.0, 1.0], found)).all()


class TestReliability:
    @given(pair=pairs(), bins=st.integers(1, 12))
    @settings(deadline=None, max_examples=50)
    def test_it_sums_to_the_calibration_error(self, pair: Pair, bins: int) -> None:
        curve = reliability(*pair, bins)
        gap = sum(each.count * abs(each.score - each.share) for each in curve)
        assert gap / len(pair[0]) == pytest.approx(metrics.calibration_error(*pair, bins), abs=1e-12)
        assert sum(each.count for each in curve) == len(pair[0])
        assert sum(each.count * each.share for each in curve) == pytest.approx(pair[0].sum())
        assert all(each.count for each in curve)

    @given(pair=pairs())
    @settings(deadline=None, max_examples=50)
    def test_mean_scores_lie_within_their_bin(self, pair: Pair) -> None:
        for each in reliability(*pair):
            assert each.low - 1e-12 <= each.score <= each.high + 1e-12
            assert 0 <= each.share <= 1

    def test_by_hand(self) -> None:
        first, last = reliability(np.array([0, 1, 1]), np.array([0.1, 0.3, 1.0]), 2)
        assert (first.low, first.high, first.count, first.share) == (0, 0.5, 2, 0.5)
        assert math.isclose(first.score, 0.2)
        assert (last.low, last.high, last.count, last.score, last.share) == (0.5, 1, 1, 1, 1)
