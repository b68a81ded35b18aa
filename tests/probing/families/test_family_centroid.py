"""The nearest class mean is scikit-learn's, and a row is left out of its own."""

import numpy as np
import pytest
from family_kit import (
    DEGENERATE,
    Events,
    Matrix,
    candidates,
    check_degenerate,
    law,
    problem,
    sized,
    without,
)
from scipy.special import expit
from sklearn.neighbors import NearestCentroid

from peftbench.probing.families.centroid import CENTROID
from peftbench.probing.families.scaling import Scaler, unit_rows

SHAPES = [(30, 90, 12), (60, 12, 20), (30, 1, 11), (20, 5, 2)]


def prepared(matrix: Matrix, event: Events, fresh: Matrix, normalisation: str) -> tuple[Matrix, Matrix]:
    scaler = Scaler.fit(matrix, "feature")
    rows, new = scaler.apply(matrix), scaler.apply(fresh)
    if normalisation == "none":
        return rows, new
    centre = (rows[event == 0].mean(axis=0) + rows[event == 1].mean(axis=0)) / 2
    return unit_rows(rows - centre), unit_rows(new - centre)


def margin(rows: Matrix, event: Events, row: Matrix) -> float:
    far = [float(((row - rows[event == each].mean(axis=0)) ** 2).sum()) for each in (0, 1)]
    return far[0] - far[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_decides_as_scikit_learns(shape: tuple[int, int, int]) -> None:
    matrix, event = problem(*shape)
    fresh = problem(*shape, seed=1)[0]
    for settings, model in candidates(CENTROID, matrix, event):
        rows, new = prepared(matrix, event, fresh, settings["normalisation"])
        expected = NearestCentroid().fit(rows, event).predict(new)
        assert ((model.probability(fresh) > 0.5) == expected).all()
        np.testing.assert_allclose(model.decision(fresh), [margin(rows, event, each) for each in new], atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_leaving_out_in_closed_form_is_leaving_out(shape: tuple[int, int, int]) -> None:
    matrix, event = problem(*shape)
    for settings, model in candidates(CENTROID, matrix, event):
        rows, _ = prepared(matrix, event, matrix, settings["normalisation"])
        expected = [margin(*without(row, rows, event), rows[row]) for row in range(len(event))]
        np.testing.assert_allclose(model.left_out, expit(model.slope * np.array(expected)), atol=1e-9)


def test_a_row_alone_in_its_class_cannot_be_told_without_it() -> None:
    matrix, event = problem(12, 4, 1)
    for _, model in candidates(CENTROID, matrix, event):
        assert model.left_out[event == 1].tolist() == [0.5]
        assert (model.probability(matrix)[event == 1] > 0.5).all()


@law
def test_the_order_of_the_rows_does_not_matter(size: tuple[int, int, int]) -> None:
    matrix, event = sized(size)
    order = np.random.default_rng(size[2]).permutation(len(event))
    for one, other in zip(
        candidates(CENTROID, matrix, event), candidates(CENTROID, matrix[order], event[order]), strict=True
    ):
        np.testing.assert_allclose(other.model.left_out, one.model.left_out[order], atol=1e-6)


@law
def test_calling_the_event_a_non_event_turns_the_probabilities(size: tuple[int, int, int]) -> None:
    matrix, event = sized(size)
    for one, other in zip(candidates(CENTROID, matrix, event), candidates(CENTROID, matrix, 1 - event), strict=True):
        np.testing.assert_allclose(other.model.probability(matrix), 1 - one.model.probability(matrix), atol=1e-6)


@law
def test_units_of_the_features_do_not_matter(size: tuple[int, int, int]) -> None:
    matrix, event = sized(size)
    other = matrix * np.random.default_rng(size[2]).uniform(0.01, 100, matrix.shape[1]) + 3
    for one, two in zip(candidates(CENTROID, matrix, event), candidates(CENTROID, other, event), strict=True):
        np.testing.assert_allclose(two.model.probability(other), one.model.probability(matrix), atol=1e-6)


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_features_get_probabilities(name: str) -> None:
    check_degenerate(CENTROID, name)
