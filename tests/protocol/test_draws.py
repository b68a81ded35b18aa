"""Support sets: nested, by patient, from the training part alone, the same again for the same (task, fold, draw)."""

import time
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from split_kit import cohorts, made_up, permuted, rows_with, spelt_out
from task_kit import TASK

from peftbench.errors import SplitError
from peftbench.protocol.splits import (
    Draws,
    Split,
    center_few_shot,
    few_shot,
    home_centers,
    k_fold,
    largest_shots,
    loco,
    make_split,
    reduced,
    units,
)
from peftbench.protocol.tasks import TaskRows

pytestmark = pytest.mark.slow

GOLDEN = {
    "few-shot": ["s-023", "s-065", "s-124", "s-135"],
    "center few-shot": ["s-000", "s-018", "s-025", "s-040", "s-107", "s-124", "s-137", "s-142"],
    "reduced": ["s-020", "s-148", "s-166", "s-173"],
}
"""Of `spelt_out()`, 5-fold, fold 1, draw 3; size 2, 1 and 4. Any other draw would change published
results."""


def split_of(rows: TaskRows, scheme: str = "5-fold") -> Split:
    try:
        return make_split(rows, scheme)
    except SplitError:
        reject()


def names_of(rows: TaskRows, positions: np.ndarray) -> set[str]:
    return set(rows.frame["sample_id"].iloc[positions])


class TestLaws:
    @given(rows=cohorts(), scheme=st.sampled_from(["5-fold", "LOCO", "hold-out"]), draw=st.integers(0, 5))
    @settings(deadline=None, max_examples=15)
    def test_k_a_class_from_the_training_part_nested_and_by_unit(self, rows: TaskRows, scheme: str, draw: int) -> None:
        split = split_of(rows, scheme)
        draws, unit, event = Draws(rows, split), units(rows.frame).to_numpy(), rows.frame["event"].to_numpy()
        fold = split.folds - 1
        train = split.positions(fold, "train")
        most = draws.largest_shots(fold)
        found = {shots: draws.few_shot(fold, shots, draw) for shots in range(1, most + 1)}
        for shots, chosen in found.items():
            assert chosen.dtype == np.int64
            assert (np.diff(chosen) > 0).all()
            assert set(chosen) <= set(train)
            for each in (0, 1):
                drawn = unit[chosen[event[chosen] == each]]
                there = unit[train[event[train] == each]]
                assert len(drawn) == shots
                assert len(set(drawn)) == min(shots, len(set(there))), "no patient twice while others are left"
                taken = pd.Series(drawn).value_counts().reindex(sorted(set(there)), fill_value=0)
                room = pd.Series(there).value_counts()[taken.index]
                assert taken[taken < room].min() >= taken.max() - 1 or (taken == room).all()
        for one, other in pairwise(found.values()):
            assert set(one) <= set(other)

    @given(rows=cohorts(centers=(2, 4)), scheme=st.sampled_from(["5-fold", "LOCO"]), draw=st.integers(0, 5))
    @settings(deadline=None, max_examples=12)
    def test_k_a_class_and_centre(self, rows: TaskRows, scheme: str, draw: int) -> None:
        split = split_of(rows, scheme)
        draws, home, event = Draws(rows, split), home_centers(rows.frame), rows.frame["event"].to_numpy()
        train = split.positions(0, "train")
        before: set[int] = set()
        for shots in range(1, draws.largest_shots(0, by_center=True) + 1):
            chosen = draws.center_few_shot(0, shots, draw)
            assert set(chosen) <= set(train)
            counts = pd.crosstab(home[chosen], event[chosen])
            assert set(counts.index) == set(home[train])
            assert (counts == shots).all(axis=None)
            assert before <= set(chosen)
            before = set(chosen)

    @given(rows=cohorts(), draw=st.integers(0, 5))
    @settings(deadline=None, max_examples=12)
    def test_so_many_images_at_the_prevalence(self, rows: TaskRows, draw: int) -> None:
        split = split_of(rows)
        draws, event = Draws(rows, split), rows.frame["event"].to_numpy()
        train = split.positions(0, "train")
        before: set[int] = set()
        for images in range(2, len(train) + 1):
            chosen = draws.reduced(0, images, draw)
            assert len(chosen) == images
            assert set(chosen) <= set(train)
            wanted = images * event[train].mean()
            assert abs(event[chosen].sum() - wanted) <= 0.5 + 1e-9 or event[chosen].sum() in {1, images - 1}
            assert set(event[chosen]) == {0, 1}
            assert before <= set(chosen)
            before = set(chosen)
        assert before == set(train)

    @given(rows=cohorts(), draw=st.integers(0, 5))
    @settings(deadline=None, max_examples=8)
    def test_the_order_of_the_rows_plays_no_part(self, rows: TaskRows, draw: int) -> None:
        other = permuted(rows, draw)
        ours, theirs = Draws(rows, split_of(rows)), Draws(other, make_split(other, "5-fold"))
        for regime, size in (("few-shot", 2), ("center few-shot", 1), ("reduced", 5)):
            try:
                expected = names_of(rows, ours.of(regime, 0, size, draw))
            except SplitError:
                continue
            assert names_of(other, theirs.of(regime, 0, size, draw)) == expected


class TestWhatItDependsOn:
    rows = made_up(1, patients=60)
    split = k_fold(rows)

    def drawn(self, **changes: object) -> frozenset[int]:
        asked = {"rows": self.rows, "split": self.split, "fold": 0, "shots": 4, "draw": 0, **changes}
        return frozenset(few_shot(**asked).tolist())

    def test_task_fold_and_draw(self) -> None:
        assert self.drawn() == self.drawn()
        assert len({self.drawn(draw=draw) for draw in range(20)}) == 20
        assert self.drawn(fold=1) != self.drawn()
        other = self.rows._replace(task=TASK.model_copy(update={"name": "OTHER"}))
        assert self.drawn(rows=other) != self.drawn()

    def test_a_draw_is_the_same_whatever_was_drawn_before(self) -> None:
        draws = Draws(self.rows, self.split)
        first = {(fold, draw): draws.few_shot(fold, 4, draw) for fold in (0, 1) for draw in range(5)}
        for (fold, draw), chosen in reversed(first.items()):
            draws.reduced(fold, 9, draw)
            np.testing.assert_array_equal(draws.few_shot(fold, 4, draw), chosen)

    def test_draws_are_as_far_apart_as_chance_has_it(self) -> None:
        draws = Draws(self.rows, self.split)
        train = self.split.positions(0, "train")
        event = self.rows.frame["event"].to_numpy()
        unit = units(self.rows.frame).to_numpy()
        there = set(unit[train[event[train] == 1]])
        chosen = np.concatenate([draws.few_shot(0, 1, draw) for draw in range(400)])
        counts = pd.Series(unit[chosen[event[chosen] == 1]]).value_counts()
        share = 400 / len(there)
        assert len(counts) == len(there), "every patient is drawn sometimes"
        assert counts.max() < share + 5 * share**0.5

    def test_regimes_are_drawn_apart(self) -> None:
        few = self.drawn(shots=1)
        assert any(
            set(few_shot(self.rows, self.split, 0, 1, draw)) != set(reduced(self.rows, self.split, 0, 2, draw))
            for draw in range(5)
        )
        assert len(few) == 2

    def test_nothing_else_on_any_machine(self) -> None:
        rows = spelt_out()
        draws = Draws(rows, k_fold(rows))
        found = {
            regime: sorted(names_of(rows, draws.of(regime, 1, size, 3)))
            for regime, size in (("few-shot", 2), ("center few-shot", 1), ("reduced", 4))
        }
        assert found == GOLDEN


class TestRefused:
    rows = rows_with([f"p-{number:02d}" for number in range(24)], [1, 0, 0] * 8, ["A", "A", "B", "B"] * 6)
    split = k_fold(rows, 3)

    def test_too_few_images_of_a_class(self) -> None:
        most = largest_shots(self.rows, self.split, 0)
        assert few_shot(self.rows, self.split, 0, most, 0).size == 2 * most
        told = rf"TOY, fold '0' has {most} images with the event in training, {most + 1} shots.*ask for at most {most}$"
        with pytest.raises(SplitError, match=told):
            few_shot(self.rows, self.split, 0, most + 1, 0)

    def test_too_few_images_of_a_class_from_a_centre(self) -> None:
        most = largest_shots(self.rows, self.split, 1, by_center=True)
        with pytest.raises(SplitError, match=rf"the event from centre '[AB]' in training.*at most {most}$"):
            center_few_shot(self.rows, self.split, 1, most + 1, 0)

    def test_a_centre_without_a_class(self) -> None:
        centers = np.where(self.rows.frame["event"] == 1, "A", self.rows.frame["center"])
        rows = self.rows._replace(frame=self.rows.frame.assign(center=centers))
        assert largest_shots(rows, k_fold(rows, 3), 0, by_center=True) >= 0
        split = k_fold(rows, 3)
        with pytest.raises(SplitError, match=r"0 images with the event from centre 'B'.*take another regime"):
            center_few_shot(rows, split, 0, 1, 0)

    def test_unknown_centres(self) -> None:
        rows = self.rows._replace(frame=self.rows.frame.assign(center=None))
        split = k_fold(rows, 3)
        assert few_shot(rows, split, 0, 1, 0).size == 2
        with pytest.raises(SplitError, match=r"\d+ of \d+ images in training have no centre.*take few-shot"):
            center_few_shot(rows, split, 0, 1, 0)

    def test_sizes_that_make_no_sense(self) -> None:
        with pytest.raises(SplitError, match="0 shots are asked for, expected at least 1"):
            few_shot(self.rows, self.split, 0, 0, 0)
        with pytest.raises(SplitError, match="draw -1 is asked for, expected 0 or more"):
            few_shot(self.rows, self.split, 0, 1, -1)
        with pytest.raises(SplitError, match="fold 3 does not exist, expected 0 to 2"):
            few_shot(self.rows, self.split, 3, 1, 0)
        with pytest.raises(SplitError, match="unknown regime 'zero-shot', expected one of few-shot"):
            Draws(self.rows, self.split).of("zero-shot", 0, 1, 0)
        train = self.split.positions(0, "train").size
        for images in (1, train + 1):
            with pytest.raises(SplitError, match=rf"{train} images in training, {images} are asked.*2 to {train}$"):
                reduced(self.rows, self.split, 0, images, 0)

    def test_the_fold_is_named_as_the_split_names_it(self) -> None:
        with pytest.raises(SplitError, match="fold 'B' has"):
            few_shot(self.rows, loco(self.rows), 1, 100, 0)


def test_a_whole_grid_takes_seconds() -> None:
    images, patients = 13_639, 1_384
    rng = np.random.default_rng(0)
    patient = rng.integers(0, patients, images)
    has = (rng.random(patients) < 0.15).astype(int)
    rows = rows_with([f"p-{each:04d}" for each in patient], has[patient].tolist(), ["NY"] * images)
    split = k_fold(rows)
    draws, start = Draws(rows, split), time.process_time()
    for fold in range(split.folds):
        for draw in range(10):
            for shots in (2, 4, 8, 16, 32):
                draws.few_shot(fold, shots, draw)
    assert time.process_time() - start < 6, "a tenth of the paper's grid; 100 draws take ten times as long"
