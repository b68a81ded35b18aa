"""Controls: what each of them sees, when it is left out, and that nothing else of a patient is in it."""

import numpy as np
import pandas as pd
import pytest
from probe_kit import cohort_rows

from peftbench.probing.controls import clinical_control, metadata_controls
from peftbench.probing.inputs import ProbeInput
from peftbench.protocol.tasks import TaskRows

ROWS = cohort_rows(5, 7)
ONE_EACH = ROWS.frame["patient_id"].value_counts()


def controls(
    rows: TaskRows = ROWS, counts: "pd.Series[int]" = ONE_EACH, scheme: str = "k-fold"
) -> dict[str, ProbeInput]:
    return {each.name: each for each in metadata_controls(rows, counts, scheme)}


def having(**columns: list[object]) -> TaskRows:
    return ROWS._replace(frame=ROWS.frame.assign(**columns))


def matrix_of(found: ProbeInput) -> np.ndarray:
    (matrix,) = found.given.readings.values()
    return matrix


class TestView:
    def test_it_sees_the_view_and_nothing_else(self) -> None:
        expected = [[row % 3 == column for column in range(3)] for row in range(ROWS.images)]
        np.testing.assert_array_equal(matrix_of(controls()["control:view"]), np.array(expected, dtype=float))

    def test_any_other_view_is_one_class(self) -> None:
        matrix = matrix_of(controls(having(view=["AP", "PA", "", None, "LATERAL", "ap"] * 2))["control:view"])
        np.testing.assert_array_equal(matrix.argmax(axis=1), [0, 1, 2, 2, 2, 2] * 2)
        np.testing.assert_array_equal(matrix.sum(axis=1), 1)

    def test_a_cohort_that_states_no_view_has_one_class_and_keeps_its_control(self) -> None:
        (found,) = controls(having(view=[None] * 12)).values()
        np.testing.assert_array_equal(matrix_of(found), [[0, 0, 1]] * ROWS.images)

    def test_its_identity_does_not_depend_on_the_rows(self) -> None:
        other = cohort_rows(3, 3)
        found = controls(other, other.frame["patient_id"].value_counts())["control:view"]
        assert controls()["control:view"].identity == found.identity


class TestCenter:
    CENTERS = (["A", "B", "C"] * 4, [None, "B", "B"] * 4)

    @pytest.mark.parametrize("centers", CENTERS)
    def test_it_sees_one_column_a_centre(self, centers: list[str | None]) -> None:
        found = controls(having(center=centers))["control:center"]
        names = sorted({each or "" for each in centers})
        assert found.origin["columns"] == [f"center is {name or 'unknown'}" for name in names]
        np.testing.assert_array_equal(matrix_of(found).argmax(axis=1), [names.index(each or "") for each in centers])
        np.testing.assert_array_equal(matrix_of(found).sum(axis=1), 1)

    def test_of_one_centre_there_is_nothing_to_see(self) -> None:
        assert "control:center" not in controls(having(center=["A"] * 12))
        assert "control:center" not in controls()

    def test_a_centre_that_tests_under_loco_has_never_trained(self) -> None:
        assert "control:center" not in controls(having(center=["A", "B", "C"] * 4), scheme="LOCO")

    def test_its_identity_is_that_of_its_centres(self) -> None:
        one, other = (controls(having(center=names * 6))["control:center"] for names in (["A", "B"], ["A", "C"]))
        assert one.identity != other.identity


class TestImages:
    COUNTS = pd.Series({f"p-{row:03d}": 1 + row % 2 for row in range(12)})

    def test_it_sees_how_many_images_the_cohort_has_of_the_patient(self) -> None:
        found = controls(counts=self.COUNTS)["control:images"]
        np.testing.assert_allclose(matrix_of(found)[:, 0], np.log([1 + row % 2 for row in range(12)]))

    def test_where_all_have_as_many_it_is_left_out(self) -> None:
        assert "control:images" not in controls(counts=2 * ONE_EACH)


class TestTogether:
    def test_it_sees_all_that_differs(self) -> None:
        found = controls(having(center=["A", "B", "C"] * 4), TestImages.COUNTS)
        assert list(found) == ["control:view", "control:center", "control:images", "control:metadata"]
        parts = [matrix_of(found[name]) for name in list(found)[:-1]]
        np.testing.assert_array_equal(matrix_of(found["control:metadata"]), np.hstack(parts))

    def test_where_one_kind_alone_differs_it_would_be_that_one_again(self) -> None:
        assert list(controls()) == ["control:view"]
        assert list(controls(having(view=["AP"] * 12), TestImages.COUNTS)) == ["control:view", "control:images"]

    def test_labels_play_no_part(self) -> None:
        turned = ROWS._replace(frame=ROWS.frame.assign(event=1 - ROWS.frame["event"]))
        for one, other in zip(controls().values(), controls(turned).values(), strict=True):
            assert (one.identity, one.digest) == (other.identity, other.digest)


def test_the_clinical_control_is_clinical_variables_alone() -> None:
    found = clinical_control(np.arange(6.0).reshape(3, 2), ("age", "fever"))
    assert not found.given.readings
    assert (found.features, found.origin) == (2, {"columns": ["age", "fever"]})
