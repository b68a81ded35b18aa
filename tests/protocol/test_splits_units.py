"""Who belongs together, and where: the one truth that splits and draws ask."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from split_kit import permuted, rows_with

from peftbench.protocol.splits import k_fold, unit_centers, unit_events, units

NAMES = st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 4)), min_size=1, max_size=25)


def frame_of(pairs: list[tuple[int, int]]) -> pd.DataFrame:
    """Patients, and their groups; -1 is none."""
    names = [f"p-{patient}" for patient, _ in pairs]
    groups = [None if group < 0 else f"g-{group}" for _, group in pairs]
    return pd.DataFrame({"patient_id": names, "group": groups})


class TestUnits:
    def test_without_groups_a_patient(self) -> None:
        frame = rows_with(["b", "a", "b"], [0, 1, 0], ["A"] * 3).frame
        assert units(frame).tolist() == ["b", "a", "b"]

    def test_groups_join_patients_and_patients_join_groups(self) -> None:
        frame = pd.DataFrame(
            {"patient_id": list("aabbcdde"), "group": ["x", "", "x", "y", "y", None, float("nan"), " z "]}
        )
        assert units(frame).tolist() == ["a", "a", "a", "a", "a", "d", "d", "e"]

    @given(pairs=NAMES)
    @settings(deadline=None, max_examples=50)
    def test_they_are_the_connected_parts(self, pairs: list[tuple[int, int]]) -> None:
        frame = frame_of(pairs)
        label = list(range(len(pairs)))
        for _ in pairs:  # a second way: the least label wanders along every link until nothing moves
            for one, other in ((i, j) for i in range(len(pairs)) for j in range(len(pairs))):
                same = pairs[one][0] == pairs[other][0] or pairs[one][1] == pairs[other][1] >= 0
                if same:
                    label[one] = label[other] = min(label[one], label[other])
        found = units(frame).to_numpy()
        assert (np.equal.outer(found, found) == np.equal.outer(label, label)).all()

    def test_groups_are_kept_together_and_counted_as_one(self) -> None:
        names = [f"p-{number:02d}" for number in range(40)]
        groups = [f"g-{number // 4}" for number in range(40)]
        rows = rows_with(names, [number // 4 % 2 for number in range(40)], ["A"] * 40, group=groups)
        split = k_fold(rows, 5)
        assert len(unit_events(rows.frame)) == 10
        assert split.folds == 3
        assert "5 of 10 units (patients who share images count as one)" in split.notes[0]
        together = split.frame.assign(group=groups * 3).groupby(["group", "fold"])["role"].nunique()
        assert (together == 1).all()

    def test_an_event_in_any_image_of_any_member_counts(self) -> None:
        rows = rows_with(["a", "b", "c"], [0, 1, 0], ["A"] * 3, group=["x", "x", None])
        assert unit_events(rows.frame) == {"a": 1, "c": 0}

    def test_groups_of_one_change_nothing_however_they_are_called(self) -> None:
        rows = rows_with([f"p-{number}" for number in range(20)], [0, 1] * 10, ["A"] * 20)
        for group in ("", [f"g-{number}" for number in range(20)], rows.frame["patient_id"]):
            alone = rows._replace(frame=rows.frame.assign(group=group))
            assert k_fold(alone).digest == k_fold(rows).digest


class TestCenters:
    def test_a_patient_belongs_to_the_centre_of_the_first_image(self) -> None:
        rows = rows_with(list("aaab"), [0] * 4, ["B", "A", "A", "C"], acquired=[1, 2, 3, 0])
        assert unit_centers(rows.frame) == {"a": "B", "b": "C"}
        assert unit_centers(permuted(rows).frame) == {"a": "B", "b": "C"}

    def test_first_is_by_acquisition_and_then_by_row_with_the_unknown_last(self) -> None:
        rows = rows_with(list("aaabb"), [0] * 5, list("ABCDE"), acquired=[None, 5, 5, None, None])
        assert unit_centers(rows.frame) == {"a": "B", "b": "D"}

    def test_missing_ones_are_empty(self) -> None:
        rows = rows_with(list("abc"), [0] * 3, [None, " ", " A "])
        assert unit_centers(rows.frame) == {"a": "", "b": "", "c": "A"}
        assert unit_centers(rows.frame.drop(columns="center")) == {"a": "", "b": "", "c": ""}
