"""Tasks: which rows are used, why the others are not, and what identifies the question."""

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_kit import TASK, manifest_frame

from peftbench.protocol.manifest import Manifest
from peftbench.protocol.tasks import EmptyTaskError, Exclusion, LabelError, RowRule, Task, rows_of

PATIENTS = ["a", "a", "a", "b", "b", "c", "d"]
FRAME = manifest_frame(
    PATIENTS,
    outcome=["yes", "yes", "yes", "no", "no", None, "no"],
    modality=["CR", "CT", "CR", "CT", "CR", "CR", None],
    days=[-1.0, 3.0, 0.0, 2.0, np.nan, 1.0, 5.0],
)
MANIFEST = Manifest("toy", FRAME)

XRAY = RowRule(column="modality", values=("CR", "DX"), reason="no X-ray")
IN_TIME = RowRule(column="days", minimum=0, reason="too late")


def task(**changes: object) -> Task:
    return TASK.model_copy(update=changes)


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "kept"),
        [
            (RowRule(column="days", reason="r"), [0, 1, 2, 3, 5, 6]),
            (RowRule(column="days", minimum=0, reason="r"), [1, 2, 3, 5, 6]),
            (RowRule(column="days", minimum=0, keep_missing=True, reason="r"), [1, 2, 3, 4, 5, 6]),
            (RowRule(column="modality", values=("CR",), reason="r"), [0, 2, 4, 5]),
            (RowRule(column="modality", values=("CR",), keep_missing=True, reason="r"), [0, 2, 4, 5, 6]),
            (RowRule(column="modality", values=(), reason="r"), []),
            (RowRule(column="modality", reason="r", keep_missing=True), [0, 1, 2, 3, 4, 5, 6]),
        ],
    )
    def test_a_rule_keeps_the_rows_it_says(self, rule: RowRule, kept: list[int]) -> None:
        assert np.flatnonzero(rule.keeps(FRAME)).tolist() == kept

    def test_unknown_words_in_a_declaration_are_refused(self) -> None:
        with pytest.raises(pydantic.ValidationError):
            RowRule(column="days", reason="r", maximum=3)  # type: ignore[call-arg]


class TestRows:
    def test_a_label_that_is_neither_class_is_refused_by_name(self) -> None:
        frame = FRAME.assign(outcome=["yes", "yes", "yes", "no", "no", None, "maybe"])
        with pytest.raises(LabelError, match="'outcome' of cohort 'toy' holds 'maybe', expected 'yes' or 'no'"):
            rows_of(task(), Manifest("toy", frame))

    def test_without_rules_every_labelled_row_is_used(self) -> None:
        rows = rows_of(task(), MANIFEST)
        assert rows.frame["sample_id"].tolist() == [f"s-{row:03d}" for row in (0, 1, 2, 3, 4, 6)]
        assert rows.frame["event"].tolist() == [1, 1, 1, 0, 0, 0]
        assert rows.exclusions == (Exclusion("no label", 1),)

    def test_rules_apply_one_after_the_other(self) -> None:
        rows = rows_of(task(rules=(XRAY, IN_TIME)), MANIFEST)
        assert rows.frame["sample_id"].tolist() == ["s-002"]
        assert rows.exclusions == (Exclusion("no label", 1), Exclusion("no X-ray", 3), Exclusion("too late", 2))

    def test_the_order_of_the_rules_shows_in_the_reasons_alone(self) -> None:
        one, other = (rows_of(task(rules=rules), MANIFEST) for rules in ((XRAY, IN_TIME), (IN_TIME, XRAY)))
        pd.testing.assert_frame_equal(one.frame, other.frame)
        assert one.exclusions != other.exclusions

    def test_the_first_image_is_the_first_that_the_rules_left(self) -> None:
        rows = rows_of(task(rules=(IN_TIME,), first_image_only=True), MANIFEST)
        assert rows.frame["sample_id"].tolist() == ["s-001", "s-003", "s-006"]
        assert rows.exclusions[-1] == Exclusion("not the patient's first image", 1)

    def test_positions_are_counted_anew(self) -> None:
        rows = rows_of(task(rules=(XRAY,)), MANIFEST)
        assert rows.frame.index.tolist() == list(range(rows.images))

    def test_the_manifest_is_left_as_it_was(self) -> None:
        before = FRAME.copy(deep=True)
        rows_of(task(rules=(XRAY,), first_image_only=True), MANIFEST)
        pd.testing.assert_frame_equal(FRAME, before)

    def test_counts(self) -> None:
        rows = rows_of(task(rules=(RowRule(column="days", minimum=-5, keep_missing=True, reason="r"),)), MANIFEST)
        assert (rows.images, rows.patients, rows.events, rows.event_patients) == (6, 3, 3, 1)
        assert rows.prevalence == 0.5

    def test_a_task_without_rows_says_where_they_went(self) -> None:
        with pytest.raises(EmptyTaskError, match=r"'TOY' has no image .*no label: 1; no scanner: 6"):
            rows_of(task(rules=(RowRule(column="modality", values=("MR",), reason="no scanner"),)), MANIFEST)

    @given(
        rows=st.lists(
            st.tuples(
                st.sampled_from("abc"),
                st.sampled_from(["yes", "no", None]),
                st.sampled_from(["CR", "CT", None]),
                st.floats(-3, 3) | st.none(),
            ),
            min_size=1,
            max_size=15,
        ),
        keep_missing=st.booleans(),
        first=st.booleans(),
    )
    @settings(deadline=None, max_examples=50)
    def test_every_row_is_used_or_excluded_for_one_reason(
        self, rows: list[tuple[str, str | None, str | None, float | None]], keep_missing: bool, first: bool
    ) -> None:
        patients, outcome, modality, days = (list(column) for column in zip(*rows, strict=True))
        frame = manifest_frame(patients, outcome=outcome, modality=modality, days=np.array(days, dtype=float))
        rules = (XRAY, IN_TIME.model_copy(update={"keep_missing": keep_missing}))
        try:
            found = rows_of(task(rules=rules, first_image_only=first), Manifest("toy", frame))
        except EmptyTaskError:
            return
        assert found.images + sum(each.images for each in found.exclusions) == len(frame)
        assert all(each.images > 0 for each in found.exclusions)
        assert not first or found.images == found.patients
        assert found.events == (found.frame["outcome"] == "yes").sum()


class TestDigest:
    DIGEST = rows_of(TASK, MANIFEST).digest

    @pytest.mark.parametrize("column", ["sample_id", "patient_id", "view", "image_digest", "outcome"])
    def test_it_changes_with_who_which_picture_and_which_label(self, column: str) -> None:
        frame = FRAME.copy()
        frame.loc[3, column] = "yes" if column == "outcome" else "another"
        assert rows_of(TASK, Manifest("toy", frame)).digest != self.DIGEST

    def test_it_changes_with_the_task_and_with_the_rows_it_uses(self) -> None:
        others = {rows_of(each, MANIFEST).digest for each in (task(name="TOY_m"), task(first_image_only=True))}
        assert len(others | {self.DIGEST}) == 3

    def test_it_does_not_change_with_a_column_that_plays_no_part(self) -> None:
        assert rows_of(TASK, Manifest("toy", FRAME.assign(age=50))).digest == self.DIGEST
