"""Clinical variables as features: what becomes of texts and gaps, and that only training rows are learnt from."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer

from peftbench.errors import NotPreparedError
from peftbench.probing.clinical import Blocks, ClinicalTable, Imputer, Scaler, clinical_table
from peftbench.protocol.tasks import Task, TaskRows

NAN = float("nan")

TASK = Task(name="TOY", cohort="toy", question="Will it happen?", label="outcome", outcome="icu")


def rows_with(patients: Sequence[str] | None = None, **columns: Sequence[object]) -> TaskRows:
    count = len(next(iter(columns.values())))
    people = list(patients or [f"p-{place:03d}" for place in range(count)])
    held = {name: pd.Series(values) for name, values in columns.items()}
    return TaskRows(TASK, pd.DataFrame({"patient_id": people, "event": np.arange(count) % 2, **held}), ())


def table(**columns: Sequence[object]) -> ClinicalTable:
    return clinical_table(rows_with(**columns), list(columns))


class TestTable:
    def test_numbers_stay_as_they_are(self) -> None:
        found = table(age=[60.0, NAN, 30.5], crp=[1, 2, 3], low=[-np.inf, 2.0, 3.0])
        assert found.names == ("age", "crp", "low")
        np.testing.assert_array_equal(found.matrix, [[60, 1, -np.inf], [NAN, 2, 2], [30.5, 3, 3]])
        assert found.notes == ()

    def test_two_categories_are_one_column(self) -> None:
        found = table(sex=["m", " M", "f", None, "f"] * 5)
        assert found.names == ("sex=m",)
        np.testing.assert_array_equal(found.matrix[:5, 0], [1, 1, 0, NAN, 0])

    def test_more_categories_are_a_column_each(self) -> None:
        found = table(age=["young", "middle", "old", None] * 5)
        assert found.names == ("age=middle", "age=old", "age=young")
        np.testing.assert_array_equal(found.matrix[:4], [[0, 0, 1], [1, 0, 0], [0, 1, 0], [NAN] * 3])

    def test_rare_categories_are_counted_together_by_patients(self) -> None:
        patients = [*(f"p-{place}" for place in range(20)), *["q"] * 9, "r"]
        held = [*["home", "ward"] * 10, *["tent"] * 9, "boat"]
        found = clinical_table(rows_with(patients, place=held), ["place"])
        assert found.names == ("place=home", "place=other", "place=ward")
        assert found.matrix[:, 1].sum() == 10
        assert found.notes == ("place: boat, tent counted as 'other', too few patients each",)

    def test_a_truth_value_is_a_number(self) -> None:
        np.testing.assert_array_equal(table(cough=[True, False, True]).matrix[:, 0], [1, 0, 1])

    @pytest.mark.parametrize(
        ("held", "told"),
        [
            ([None, None, None], "unknown in every row"),
            ([NAN, NAN, NAN], "unknown in every row"),
            ([5.0, 5.0, 5.0], "the same in every row"),
            (["m", "m", "m"], "the same in every row"),
        ],
    )
    def test_what_says_nothing_is_left_out_with_a_note(self, held: list[object], told: str) -> None:
        found = table(weight=held, age=[1.0, 2.0, 3.0])
        assert found.names == ("age",)
        assert found.notes == (f"weight: {told}, left out",)

    def test_known_in_some_rows_it_says_that_it_was_known(self) -> None:
        assert table(test=[5.0, NAN, 5.0]).names == ("test",)
        assert table(test=["done", None, "done"] * 4).names == ("test=done",)

    def test_without_any_variable_there_are_no_columns(self) -> None:
        assert clinical_table(rows_with(age=[1.0, 2.0]), []).matrix.shape == (2, 0)

    def test_a_manifest_from_before_the_declaration_is_to_be_prepared_again(self) -> None:
        with pytest.raises(NotPreparedError, match=r"'toy'.*crp, ldh.*peftbench prepare toy"):
            clinical_table(rows_with(age=[1.0, 2.0]), ["age", "crp", "ldh"])

    def test_the_label_is_not_looked_at(self) -> None:
        rows = rows_with(sex=["m", "f", None] * 4, age=[float(place) for place in range(12)])
        turned = rows._replace(frame=rows.frame.assign(event=1 - rows.frame["event"]))
        np.testing.assert_array_equal(
            clinical_table(rows, ["sex", "age"]).matrix, clinical_table(turned, ["sex", "age"]).matrix
        )


def with_gaps(seed: int, rows: int = 40, columns: int = 6) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(50, 20, (rows, columns))
    matrix[rng.random(matrix.shape) < 0.3] = NAN
    matrix[:, 0] = 7.5 + np.arange(rows)
    return matrix


class TestImputer:
    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_scikit_learns(self, seed: int) -> None:
        train, other = with_gaps(seed), with_gaps(seed + 100)
        theirs = SimpleImputer(strategy="median", add_indicator=True).fit(train)
        ours = Imputer.fit(train)
        np.testing.assert_allclose(ours.apply(train), theirs.transform(train))
        np.testing.assert_allclose(ours.apply(other), theirs.transform(other))

    def test_a_category_is_filled_with_none(self) -> None:
        categories = np.array([[1, 1], [1, 0], [1, 0], [NAN, NAN]])
        theirs = SimpleImputer(strategy="constant", fill_value=0, add_indicator=True).fit_transform(categories)
        np.testing.assert_array_equal(Imputer.fit(categories).apply(categories), theirs)

    def test_finite_values_are_kept_as_they_are_and_infinite_ones_bounded(self) -> None:
        imputer = Imputer.fit(np.array([[1.0], [5.0], [-np.inf], [np.inf], [3.0]]))
        assert (imputer.low[0], imputer.high[0], imputer.fill[0]) == (1.0, 5.0, 3.0)
        np.testing.assert_array_equal(
            imputer.apply(np.array([[-np.inf], [np.inf], [99.0], [-9.0]]))[:, 0], [1, 5, 99, -9]
        )

    def test_a_column_that_no_training_row_fills_is_dropped(self) -> None:
        train = np.array([[NAN, 1.0, -np.inf], [NAN, 2.0, NAN], [NAN, NAN, NAN]])
        imputer = Imputer.fit(train)
        assert imputer.names(["a", "b", "c"]) == ("b", "b?")
        np.testing.assert_array_equal(imputer.apply(np.array([[3.0, NAN, 4.0]])), [[1.5, 1.0]])


class TestBlocks:
    def test_both_blocks_have_the_same_variance_and_features_have_one_on_average(self) -> None:
        rng = np.random.default_rng(0)
        image, clinical = rng.normal(3, 9, (60, 500)) * rng.gamma(1, 1, 500), with_gaps(0, 60, 4)
        joined = Blocks.fit(image, clinical).apply(image, clinical)
        variance = joined.var(axis=0)
        assert variance[:500].sum() == pytest.approx(variance[500:].sum())
        assert variance.mean() == pytest.approx(1.0)
        assert variance[:500] == pytest.approx(np.full(500, variance[0]))
        assert joined.mean(axis=0) == pytest.approx(np.zeros(joined.shape[1]), abs=1e-12)

    def test_a_block_alone_is_standardised(self) -> None:
        image = np.random.default_rng(1).normal(5, 3, (30, 8)).astype(np.float32)
        wide = image.astype(np.float64)
        np.testing.assert_allclose(
            Blocks.fit(image, None).apply(image, None), (wide - wide.mean(axis=0)) / wide.std(axis=0)
        )
        clinical = with_gaps(2)
        assert Blocks.fit(None, clinical).apply(None, clinical).var(axis=0).mean() == pytest.approx(1.0)

    def test_a_feature_that_never_varies_in_training_says_nothing_elsewhere(self) -> None:
        train = np.column_stack([np.full(10, 0.1), np.arange(10.0)])
        applied = Blocks.fit(train, None).apply(np.array([[500.0, 4.5]]), None)
        np.testing.assert_allclose(applied, [[0.0, 0.0]], atol=1e-12)
        assert np.isfinite(Scaler.fit(np.full((5, 3), 2.0)).apply(np.eye(5, 3))).all()

    def test_a_block_that_says_nothing_leaves_the_other_standardised(self) -> None:
        image, clinical = np.random.default_rng(3).normal(size=(20, 5)), np.full((20, 2), NAN)
        joined = Blocks.fit(image, clinical).apply(image, clinical)
        np.testing.assert_allclose(joined, Blocks.fit(image, None).apply(image, None))

    def test_other_blocks_than_were_fitted_are_refused(self) -> None:
        image, clinical = np.ones((4, 2)), np.ones((4, 1))
        with pytest.raises(ValueError, match="same blocks"):
            Blocks.fit(image, clinical).apply(image, None)
        with pytest.raises(ValueError, match="differ in their rows"):
            Blocks.fit(image, clinical[:2])
        with pytest.raises(ValueError, match="or both"):
            Blocks.fit(None, None)

    @settings(deadline=None, max_examples=60)
    @given(
        seed=st.integers(0, 10_000),
        rows=st.integers(2, 25),
        poison=st.sampled_from([NAN, np.inf, -np.inf, 1e9, 0.0]),
    )
    def test_nothing_of_other_rows_changes_what_a_row_becomes(self, seed: int, rows: int, poison: float) -> None:
        rng = np.random.default_rng(seed)
        image, clinical = rng.normal(size=(rows + 10, 7)), with_gaps(seed, rows + 10, 5)
        train, test = np.arange(rows), np.arange(rows, rows + 10)
        fitted = Blocks.fit(image[train], clinical[train])
        before = fitted.apply(image[train], clinical[train])
        image[test], clinical[test] = rng.normal(100, 50, (10, 7)), poison
        again = Blocks.fit(image[train], clinical[train])
        np.testing.assert_array_equal(again.apply(image[train], clinical[train]), before)
        # A row becomes the same in whatever company it is.
        together = fitted.apply(image, clinical)
        np.testing.assert_array_equal(together[train], before)
        assert np.isfinite(together).all()
