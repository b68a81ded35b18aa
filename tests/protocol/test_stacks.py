"""What is said of many scores at once is what is said of each alone."""

import math

import numpy as np
import pandas as pd
import pytest

from peftbench.protocol import metrics
from peftbench.protocol.calibration import best_threshold
from peftbench.protocol.stacks import best_thresholds, evaluate_stack, stacks_of, tuned_stack


def scores(random: np.random.Generator, rows: int, count: int, kind: str) -> np.ndarray:
    drawn = random.uniform(size=(rows, count))
    return {
        "distinct": drawn,
        "ties": np.round(drawn, 1),
        "constant": np.full((rows, count), 0.5),
        "certain": np.round(drawn),
        "near": np.nextafter(0.5, np.round(drawn)),
    }[kind]


@pytest.mark.parametrize("kind", ["distinct", "ties", "constant", "certain", "near"])
@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("events", ["none", "one", "half", "all"])
class TestAgainstOneAtATime:
    def event(self, random: np.random.Generator, count: int, events: str) -> np.ndarray:
        number = {"none": 0, "one": 1, "half": count // 2, "all": count}[events]
        return random.permutation(np.arange(count) < number).astype(np.int64)

    def test_metrics(self, kind: str, count: int, events: str) -> None:
        random = np.random.default_rng(count)
        event, score = self.event(random, count, events), scores(random, 9, count, kind)
        thresholds = random.uniform(size=9)
        found = {**evaluate_stack(event, score), **tuned_stack(event, score, thresholds)}
        assert tuple(found) == (*metrics.NAMES, *metrics.TUNED_NAMES)
        for at in range(9):
            half, tuned = (
                metrics.evaluate(event, score[at]),
                metrics.at_tuned_threshold(event, score[at], thresholds[at]),
            )
            expected = {**half.values, **tuned.values}  # noqa: PD011 - no pandas here
            assert {name: each[at] for name, each in found.items()} == pytest.approx(expected, nan_ok=True, abs=1e-14)

    def test_thresholds(self, kind: str, count: int, events: str) -> None:
        random = np.random.default_rng(count)
        event = np.stack([self.event(random, count, events) for _ in range(9)])
        score = scores(random, 9, count, kind)
        expected = [best_threshold(*each) for each in zip(event, score, strict=True)]
        assert best_thresholds(event, score).tolist() == expected


def table(**changes: object) -> pd.DataFrame:
    columns = {
        "fold": [0, 0, 0, 0, 1, 1, 1, 1],
        "draw": [0, 0, 1, 1, 0, 0, 1, 1],
        "patient_id": ["b", "a", "b", "a", "c", "c", "c", "c"],
        "event": [1, 0, 1, 0, 1, 0, 1, 0],
        "score": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
    }
    return pd.DataFrame({**columns, **changes})


class TestStacks:
    def test_draws_of_a_fold_are_rows_of_one(self) -> None:
        found = stacks_of(table())
        assert [each.cells for each in found] == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]
        np.testing.assert_array_equal(found[0].score, [[0.1, 0.2], [0.3, 0.4]])
        np.testing.assert_array_equal(found[0].patient, [1, 0])

    @pytest.mark.parametrize(
        "changes",
        [{"patient_id": ["b", "a", "a", "b", *"cccc"]}, {"event": [1, 0, 0, 1, 1, 0, 1, 0]}],
        ids=["other patients", "other events"],
    )
    def test_draws_that_differ_stand_alone(self, changes: dict[str, object]) -> None:
        assert [each.cells for each in stacks_of(table(**changes))] == [[(0, 0)], [(0, 1)], [(1, 0), (1, 1)]]

    def test_rows_in_any_order_come_by_fold_and_draw(self) -> None:
        order = [6, 7, 2, 3, 4, 5, 0, 1]
        for one, other in zip(stacks_of(table()), stacks_of(table().iloc[order]), strict=True):
            assert one.cells == other.cells
            np.testing.assert_array_equal(one.score, other.score)

    def test_of_a_patient_the_mean_score_and_any_event_counts(self) -> None:
        first, second = (each.in_unit("patient") for each in stacks_of(table()))
        np.testing.assert_array_equal(first.score, [[0.2, 0.1], [0.4, 0.3]])
        np.testing.assert_array_equal(first.event, [0, 1])
        np.testing.assert_allclose(second.score, [[0.55], [0.75]])
        np.testing.assert_array_equal(second.event, [1])

    def test_of_nothing_there_are_none(self) -> None:
        assert stacks_of(table().iloc[:0]) == []

    @pytest.mark.parametrize("changes", [{"event": [2] * 8}, {"score": [1.1] * 8}, {"score": [math.nan] * 8}])
    def test_what_is_no_prediction_is_refused(self, changes: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="predictions hold"):
            stacks_of(table(**changes))
