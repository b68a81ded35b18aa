"""Leave one centre out: every centre tests once, on what the others taught."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from split_kit import cohorts, made_up, roles, rows_with

from peftbench.errors import SplitError
from peftbench.protocol.splits import loco, unit_centers, unit_events
from peftbench.protocol.tasks import TaskRows


@pytest.mark.slow
@given(rows=cohorts(centers=(2, 6)), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=12)
def test_a_fold_a_centre_and_a_tenth_of_the_others_validates(rows: TaskRows, seed: int) -> None:
    try:
        split = loco(rows, seed)
    except SplitError:
        reject()
    table = roles(split, rows)
    event, center = (pd.Series(found(rows.frame))[table.index] for found in (unit_events, unit_centers))
    assert list(split.names) == sorted(set(center))
    for fold, name in enumerate(split.names):
        assert ((table[fold] == "test") == (center == name)).all()
        validates = table[fold] == "validation"
        for each in (0, 1):
            rest = (event == each) & (center != name)
            taken = int((validates & rest).sum())
            assert 1 <= taken < rest.sum()
            assert abs(taken - 0.1 * rest.sum()) <= 0.5 or taken == 1
            for other in set(center) - {name}:
                home = int((rest & (center == other)).sum())
                assert abs(int((validates & rest & (center == other)).sum()) - taken * home / rest.sum()) < 1


def test_who_tests_is_the_centres_alone_whatever_the_seed() -> None:
    rows = made_up(2, patients=60, centers=4)
    one, other = (loco(rows, seed) for seed in (0, 1))
    assert one.digest != other.digest
    assert ((one.frame["role"] == "test") == (other.frame["role"] == "test")).all()


def test_a_patient_who_wandered_belongs_to_the_first_centre_and_the_user_is_told() -> None:
    names = [f"p-{number}" for number in range(20) for _ in range(2)]
    centers = [("A", "B")[number % 2] for number in range(20) for _ in range(2)]
    centers[1] = centers[5] = "B"
    rows = rows_with(names, [number // 2 % 2 for number in range(20) for _ in range(2)], centers)
    split = loco(rows)
    assert split.names == ("A", "B")
    assert {0, 1, 4, 5} <= set(split.positions(0, "test"))
    (note,) = split.notes
    assert note == (
        "TOY: 2 of 20 patients have images in several centres; each belongs wholly to the centre of the first image"
    )


@pytest.mark.parametrize(
    ("value", "told"), [(0, "no image with the event.*sensitivity"), (1, "only the event.*specificity")]
)
def test_a_centre_of_one_class_keeps_its_fold_and_a_note_says_what_is_undefined(value: int, told: str) -> None:
    rows = made_up(4, patients=60, centers=3)
    home = rows.frame["patient_id"].map(unit_centers(rows.frame))
    split = loco(rows._replace(frame=rows.frame.assign(event=rows.frame["event"].where(home != "Bonn", value))))
    (note,) = split.notes
    assert split.names == ("Aachen", "Bonn", "Celle")
    assert "the test part of fold 'Bonn' has" in note
    assert pd.Series([note]).str.contains(told).all()
    assert "MCC, PR-AUC, ROC-AUC" in note


class TestRefused:
    def test_images_without_a_centre(self) -> None:
        rows = made_up(1)
        holes = rows.frame["center"].mask(rows.frame.index < 7)
        with pytest.raises(SplitError, match=rf"7 of {rows.images} images have no centre: exclude.*--split 5-fold"):
            loco(rows._replace(frame=rows.frame.assign(center=holes)))

    def test_one_centre(self) -> None:
        with pytest.raises(SplitError, match="needs at least two, found 'Aachen' alone: use --split 5-fold"):
            loco(made_up(1, centers=1))

    @pytest.mark.parametrize(("value", "told"), [(1, "have the event"), (0, "do not have the event")])
    def test_a_class_that_the_other_centres_lack(self, value: int, told: str) -> None:
        rows = made_up(1, centers=2)
        home = rows.frame["patient_id"].map(unit_centers(rows.frame))
        event = np.where(home == "Aachen", rows.frame["event"], 1 - value)
        with pytest.raises(SplitError, match=rf"0 of \d+ patients outside centre 'Aachen' {told}.*--split 5-fold"):
            loco(rows._replace(frame=rows.frame.assign(event=event)))
