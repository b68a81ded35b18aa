"""What is chosen: the least loss, of equals the first; and many losses at once are those of each alone."""

import numpy as np
import pytest

from peftbench.probing.families.family import Candidate, Features, ProbeError, Vector
from peftbench.probing.selecting import CRITERIA, PLATEAU, Criterion, choose, choose_left_out, loss_of, losses_of

EVENT = np.array([1, 1, 0, 0])


class Says:
    """A model that answers the same whatever it is asked, and counts how often."""

    asked = 0

    def __init__(self, right: float, left_out: Vector | None = None) -> None:
        self.right, self.left_out = right, left_out

    def probability(self, features: Features) -> Vector:
        Says.asked += 1
        return np.where(EVENT == 1, self.right, 1 - self.right)


def offered(*right: float) -> list[Candidate]:
    return [Candidate({"at": at}, Says(each)) for at, each in enumerate(right)]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("seed", range(5))
def test_many_losses_at_once_are_those_of_each_alone(criterion: Criterion, seed: int) -> None:
    random = np.random.default_rng(seed)
    event = random.integers(0, 2, size=(40, 5))
    score = np.round(random.uniform(size=(40, 5, 3)), 1)
    score[random.uniform(size=score.shape) < 0.2] = np.nan
    found = losses_of(event, score, criterion)
    for at in np.ndindex(40, 3):
        told = score[at[0], :, at[1]]
        known = ~np.isnan(told)
        expected = loss_of(event[at[0]][known], told[known], criterion)
        assert found[at] == pytest.approx(expected, nan_ok=True, abs=1e-12)
    assert np.isnan(found).any()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_of_equals_the_first_is_taken(criterion: Criterion) -> None:
    found = choose(offered(0.4, 0.9, 0.9), np.empty((4, 0)), EVENT, criterion, path=False)
    assert (found.candidate.settings["at"], found.tried) == (1, 3)


def test_a_path_is_not_walked_beyond_its_plateau() -> None:
    Says.asked = 0
    found = choose(iter(offered(0.6, 0.9, *[0.5] * 50)), np.empty((4, 0)), EVENT, "log-loss", path=True)
    assert (found.candidate.settings["at"], found.tried) == (1, 2 + PLATEAU)
    assert Says.asked == 2 + PLATEAU


def test_mcc_is_looked_at_to_the_end() -> None:
    found = choose(offered(*[0.4] * 20, 0.9), np.empty((4, 0)), EVENT, "mcc", path=True)
    assert found.candidate.settings["at"] == 20


def test_left_out_scores_choose_where_they_are_known() -> None:
    known = [
        Candidate({"at": at}, Says(0.0, np.where(EVENT == 1, each, 1 - each))) for at, each in enumerate((0.3, 0.8))
    ]
    assert choose_left_out(known, EVENT, "log-loss").candidate.settings["at"] == 1


def test_where_none_are_known_the_first_is_taken_and_no_loss_is_made_up() -> None:
    found = choose_left_out(offered(0.1, 0.9), EVENT, "log-loss")
    assert (found.candidate.settings["at"], found.tried) == (0, 1)
    assert np.isnan(found.loss)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_one_class_only_tells_nothing(criterion: Criterion) -> None:
    assert np.isnan(loss_of(np.ones(3, dtype=np.int64), np.array([0.1, 0.2, 0.9]), criterion))
    found = choose(offered(0.2, 0.9)[:1], np.empty((4, 0)), np.ones(4, dtype=np.int64), criterion, path=True)
    assert found.candidate.settings["at"] == 0


def test_no_candidate_is_a_defect() -> None:
    with pytest.raises(ProbeError, match="offered no model"):
        choose([], np.empty((4, 0)), EVENT, "mcc", path=True)
