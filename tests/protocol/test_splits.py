"""Splits: by patient, stratified, the same again on any machine, and honest about how few events there are."""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_kit import TASK, cohort_rows, task_rows

from peftbench.errors import SplitError
from peftbench.protocol.splits import (
    FEWEST_FOLDS,
    HONEST_TEST_EVENTS,
    ROLES,
    Split,
    carve,
    k_fold,
    load,
    loco,
    make_split,
    patient_events,
)
from peftbench.protocol.tasks import TaskRows

GOLDEN_ROLES = {
    "p-000": "tTt", "p-001": "vtT", "p-002": "Ttt", "p-003": "Tvv",
    "p-004": "tTt", "p-005": "Ttt", "p-006": "vTv", "p-007": "tvT", "p-008": "ttT",
}  # fmt: skip
"""Of `cohort_rows(4, 5)`, seed 0, in each of three folds: T tests, v validates, t trains. Any other division would
change the results of every published run."""

GOLDEN_DIGEST = "4422ed78783aeb11839f83e52b162b3265e790ad4c0a1f95e479cb2d3205e039"

FIRST_DIGESTS = [
    ((23, 41, 2), 5, 0, "f6e2d4c99e77d1130707a0c6e4757b43acecf371bd05223d512dbe6a99d70f73"),
    ((23, 41, 2), 5, 3, "3eaeae8c3ec75c09397bd8e1e80e306daac84f3eeb9d5405332457e7f93b9e2a"),
    ((8, 30, 1), 5, 0, "a6a6f7343a845bd2f7858cae8bee21ac47e4bf13824f046f4b8b72883aa15923"),
    ((31, 12, 3), 4, 1, "3f27b90fb6cf28a6afa6f94600ce1c34627399bb3bf3796efe20b4810183a8b8"),
    ((120, 400, 1), 5, 0, "fa8c6353f6ae57b7cdf065d8cbdaf8c0d0c587c4619d0671ae52fdd5247a6906"),
]
"""(patients with the event, without, images each), folds, seed: digest, all as the first version made them."""


@st.composite
def cohorts(draw: st.DrawFn) -> TaskRows:
    """Patients with and without the event, one to four images each; an event may show in some images only."""
    names, events = [], []
    sizes = draw(st.integers(3, 16)), draw(st.integers(3, 30))
    for number, has in enumerate([1] * sizes[0] + [0] * sizes[1]):
        images = draw(st.integers(1, 4))
        names += [f"p-{number}"] * images
        events += [has, *(has * draw(st.integers(0, 1)) for _ in range(images - 1))]
    return task_rows(names, events)


def roles(split: Split) -> pd.DataFrame:
    """(patient, fold) to role; fails where a patient plays two roles in a fold."""
    per_patient = split.frame.groupby(["patient_id", "fold"])["role"].agg(["nunique", "first"])
    assert (per_patient["nunique"] == 1).all()
    return per_patient["first"].unstack("fold")  # noqa: PD010 - nothing to aggregate


def law(test: Callable[..., None]) -> Callable[..., None]:
    """Check a law on random cohorts, numbers of folds and seeds."""
    given_a_split = given(rows=cohorts(), folds=st.integers(3, 6), seed=st.integers(0, 3))
    return settings(deadline=None, max_examples=15)(given_a_split(test))


class TestLaws:
    @law
    def test_no_patient_plays_two_roles_in_a_fold(self, rows: TaskRows, folds: int, seed: int) -> None:
        table = roles(k_fold(rows, folds, seed))
        assert set(table.index) == set(rows.frame["patient_id"])
        assert table.isin(ROLES).all(axis=None)

    @law
    def test_each_patient_tests_exactly_once(self, rows: TaskRows, folds: int, seed: int) -> None:
        assert ((roles(k_fold(rows, folds, seed)) == "test").sum(axis=1) == 1).all()

    @law
    def test_every_role_has_both_classes(self, rows: TaskRows, folds: int, seed: int) -> None:
        split = k_fold(rows, folds, seed)
        events = pd.Series(patient_events(rows.frame))
        table = roles(split)
        for fold, role in product(range(split.folds), ROLES):
            assert set(events[table.index[table[fold] == role]]) == {0, 1}, (fold, role)

    @law
    def test_test_parts_differ_by_one_patient_at_most_in_each_class_and_in_all(
        self, rows: TaskRows, folds: int, seed: int
    ) -> None:
        table = roles(k_fold(rows, folds, seed)) == "test"
        events = pd.Series(patient_events(rows.frame))[table.index]
        for part in (table, table[events == 1], table[events == 0]):
            assert np.ptp(part.sum(axis=0)) <= 1

    @law
    def test_a_fifth_of_all_patients_validates(self, rows: TaskRows, folds: int, seed: int) -> None:
        table = roles(k_fold(rows, folds, seed))
        # Each class is rounded on its own, and keeps one patient at least.
        assert ((table == "validation").sum(axis=0) - 0.2 * len(table)).abs().max() <= 1.2

    @law
    def test_positions_divide_the_rows_of_the_task(self, rows: TaskRows, folds: int, seed: int) -> None:
        split = k_fold(rows, folds, seed)
        table = roles(split)
        for fold in range(split.folds):
            parts = [split.positions(fold, role) for role in ROLES]
            assert sorted(np.concatenate(parts)) == list(range(rows.images))
            for role, part in zip(ROLES, parts, strict=True):
                assert (table.loc[rows.frame["patient_id"].iloc[part], fold] == role).all()

    @pytest.mark.slow
    @law
    def test_the_order_of_the_rows_does_not_matter(self, rows: TaskRows, folds: int, seed: int) -> None:
        shuffled = rows._replace(frame=rows.frame.sample(frac=1, random_state=seed).reset_index(drop=True))
        pd.testing.assert_frame_equal(roles(k_fold(shuffled, folds, seed)), roles(k_fold(rows, folds, seed)))

    @law
    def test_the_same_question_has_the_same_answer(self, rows: TaskRows, folds: int, seed: int) -> None:
        one, other = k_fold(rows, folds, seed), k_fold(rows, folds, seed)
        assert one.digest == other.digest
        pd.testing.assert_frame_equal(one.frame, other.frame)

    @law
    def test_as_many_folds_as_the_rarer_class_allows(self, rows: TaskRows, folds: int, seed: int) -> None:
        split = k_fold(rows, folds, seed)
        events = list(patient_events(rows.frame).values())
        rarer = min(sum(events), len(events) - sum(events))
        honest = rarer >= folds * HONEST_TEST_EVENTS
        assert split.folds == (folds if honest else max(FEWEST_FOLDS, rarer // HONEST_TEST_EVENTS))
        assert bool(split.notes) != honest


class TestWhatItDependsOn:
    def test_the_seed(self) -> None:
        rows = cohort_rows(20, 30)
        assert len({k_fold(rows, 5, seed).digest for seed in range(5)}) == 5

    def test_the_task(self) -> None:
        other = TASK.model_copy(update={"name": "TOY_m"})
        one, another = k_fold(cohort_rows(20, 30)), k_fold(cohort_rows(20, 30, task=other))
        assert not roles(one).equals(roles(another))

    def test_adding_an_image_to_a_patient_moves_nobody(self) -> None:
        rows = cohort_rows(10, 15)
        more = task_rows([*rows.frame["patient_id"], "p-003"], [*rows.frame["event"], 1])
        pd.testing.assert_frame_equal(roles(k_fold(more)), roles(k_fold(rows)))

    def test_nothing_else_on_any_machine(self) -> None:
        split = k_fold(cohort_rows(4, 5), 3)
        letters = roles(split).replace({"train": "t", "validation": "v", "test": "T"})
        assert {patient: "".join(row) for patient, row in zip(letters.index, letters.to_numpy(), strict=True)} == (
            GOLDEN_ROLES
        )
        assert split.digest == GOLDEN_DIGEST

    @pytest.mark.parametrize(("size", "folds", "seed", "digest"), FIRST_DIGESTS)
    def test_one_centre_without_groups_is_divided_as_in_the_first_version(
        self, size: tuple[int, int, int], folds: int, seed: int, digest: str
    ) -> None:
        rows = cohort_rows(*size)
        split = k_fold(rows, folds, seed)
        assert split.digest == digest
        assert make_split(rows, f"{folds}-fold", seed).digest == digest
        assert split.names == tuple(map(str, range(split.folds)))

    def test_validation_parts_of_different_folds_are_drawn_apart(self) -> None:
        table = roles(k_fold(cohort_rows(40, 60)))
        validates = (table == "validation").sum(axis=1)
        assert validates.max() > 1, "a patient may validate in several folds"
        assert (validates > 0).mean() > 0.5, "not always the same patients validate"


class TestFewEvents:
    @pytest.mark.parametrize(("rarer", "made"), [(3, 3), (5, 3), (6, 3), (7, 3), (8, 4), (9, 4)])
    def test_folds_are_reduced_and_the_user_is_told(self, rarer: int, made: int) -> None:
        split = k_fold(cohort_rows(rarer, 30), 5)
        assert split.folds == made
        (note,) = split.notes
        assert f"TOY: {rarer} of {30 + rarer} patients" in note
        assert f"{made} folds" in note
        assert ("anecdote" in note) == (rarer < 2 * made)

    def test_the_rarer_class_counts_whichever_it_is(self) -> None:
        split = k_fold(cohort_rows(30, 8), 5)
        assert split.folds == 4
        assert re.search("8 of 38 patients .*(without|not have)", split.notes[0])

    def test_with_enough_events_nothing_is_said(self) -> None:
        split = k_fold(cohort_rows(10, 30), 5)
        assert (split.folds, split.notes) == (5, ())

    @pytest.mark.parametrize(("with_event", "without"), [(2, 30), (30, 2), (0, 30), (30, 0)])
    def test_fewer_patients_of_a_class_than_roles_cannot_be_split(self, with_event: int, without: int) -> None:
        with pytest.raises(SplitError, match=r"TOY: [02] of 3[02] patients"):
            k_fold(cohort_rows(with_event, without))

    def test_many_images_do_not_make_up_for_few_patients(self) -> None:
        with pytest.raises(SplitError):
            k_fold(cohort_rows(2, 30, images=20))

    @pytest.mark.parametrize("folds", [2, 1, 0, -1])
    def test_fewer_than_three_folds_are_refused(self, folds: int) -> None:
        with pytest.raises(SplitError, match=f"at least 3 folds .*got {folds}"):
            k_fold(cohort_rows(20, 20), folds)


@given(sizes=st.tuples(st.integers(2, 40), st.integers(2, 40)), share=st.floats(0.01, 0.99), salt=st.text(max_size=5))
@settings(deadline=None, max_examples=60)
def test_a_carved_part_takes_the_nearest_number_of_each_class_but_neither_none_nor_all(
    sizes: tuple[int, int], share: float, salt: str
) -> None:
    events = {f"p-{number}": int(number < sizes[0]) for number in range(sum(sizes))}
    chosen = carve(events, share, salt)
    for event, size in zip((1, 0), sizes, strict=True):
        taken = sum(events[patient] == event for patient in chosen)
        assert 1 <= taken < size
        assert abs(taken - share * size) <= 0.5 or taken in {1, size - 1}


class TestSaving:
    def test_saving_again_is_free_and_changes_nothing(self, tmp_path: Path) -> None:
        split = k_fold(cohort_rows(10, 12, images=2))
        path = split.save(tmp_path / "splits")
        before = path.stat()
        assert k_fold(cohort_rows(10, 12, images=2)).save(tmp_path / "splits") == path
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
        assert list(path.parent.iterdir()) == [path]

    def test_what_is_saved_is_the_split(self, tmp_path: Path) -> None:
        split = k_fold(cohort_rows(10, 12, images=2))
        found = pd.read_parquet(split.save(tmp_path))
        pd.testing.assert_frame_equal(found, split.frame)
        assert Split("TOY", split.scheme, split.seed, split.folds, found).digest == split.digest

    def test_another_split_is_another_file(self, tmp_path: Path) -> None:
        rows = cohort_rows(10, 12)
        paths = {k_fold(rows, 5, seed).save(tmp_path) for seed in range(3)} | {k_fold(rows, 3).save(tmp_path)}
        assert len(paths) == 4

    def test_what_is_loaded_is_the_split(self, tmp_path: Path) -> None:
        rows = task_rows([f"p-{number}" for number in range(24)], [0, 1] * 12)
        rows = rows._replace(frame=rows.frame.assign(center=["A", "A", "B", "B", "C", "C"] * 4))
        for split in (k_fold(rows), k_fold(cohort_rows(5, 20)), loco(rows, 3)):
            found = load(split.save(tmp_path))
            pd.testing.assert_frame_equal(found.frame, split.frame)
            words = ("task", "scheme", "seed", "folds", "notes", "names", "rows_digest", "digest")
            assert [getattr(found, word) for word in words] == [getattr(split, word) for word in words]

    def test_a_file_that_was_changed_is_refused_and_mended_by_saving_again(self, tmp_path: Path) -> None:
        split = k_fold(cohort_rows(10, 12))
        path = split.save(tmp_path)
        sound = path.read_bytes()
        table = pq.read_table(path)
        roles = table["role"].to_pylist()
        swapped = pa.array(["test" if roles[0] != "test" else "train", *roles[1:]])
        pq.write_table(table.set_column(1, "role", swapped), path)
        with pytest.raises(SplitError, match="its rows are not those that were written"):
            load(path)
        assert split.save(tmp_path).read_bytes() == sound

    @pytest.mark.parametrize("damage", [b"", b"PAR1", b"fold,role"])
    def test_what_is_no_split_is_refused(self, tmp_path: Path, damage: bytes) -> None:
        (tmp_path / "split.parquet").write_bytes(damage)
        with pytest.raises(SplitError, match="is damaged, or of another version"):
            load(tmp_path / "split.parquet")
        with pytest.raises(SplitError, match="there is no split"):
            load(tmp_path / "other.parquet")

    def test_a_file_of_the_first_version_is_replaced(self, tmp_path: Path) -> None:
        split = k_fold(cohort_rows(10, 12))
        path = split.save(tmp_path)
        split.frame.to_parquet(path, index=False)
        with pytest.raises(SplitError, match="of another version"):
            load(path)
        assert load(split.save(tmp_path)).digest == split.digest

    def test_names_that_are_no_numbers_are_part_of_the_digest(self) -> None:
        split = k_fold(cohort_rows(10, 12), 3)
        renamed = Split("TOY", "k-fold", 0, 3, split.frame, names=("a", "b", "c"))
        assert renamed.digest != split.digest
        assert renamed.digest != Split("TOY", "k-fold", 0, 3, split.frame, names=("a", "b", "d")).digest
        with pytest.raises(ValueError, match="3 folds need as many names"):
            Split("TOY", "k-fold", 0, 3, split.frame, names=("a",))
