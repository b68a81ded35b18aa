"""Ridge regression is scikit-learn's, and leaving a row out in closed form is leaving it out."""

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
from sklearn.linear_model import Ridge, RidgeClassifier

from peftbench.probing.families.family import Options
from peftbench.probing.families.ridge import RIDGE, STRENGTHS, decompose
from peftbench.probing.families.scaling import Scaler
from peftbench.probing.families.slope import row_weights

ALPHAS = (1e-3, 1.0, 30.0, 1e4)

SHAPES = [(30, 90, 12), (12, 300, 5), (60, 12, 20), (25, 25, 10), (30, 1, 11)]


def solved(matrix: Matrix, event: Events, weighting: str = "balanced") -> tuple[Matrix, Matrix, list]:  # type: ignore[type-arg]
    scaled = Scaler.fit(matrix, "feature").apply(matrix)
    weight = row_weights(event, weighting)  # type: ignore[arg-type]
    work = decompose(scaled, event, weight)
    return scaled, weight, [work.solve(alpha) for alpha in ALPHAS]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighting", ["balanced", "none"])
def test_it_is_scikit_learns(shape: tuple[int, int, int], weighting: str) -> None:
    matrix, event = problem(*shape)
    scaled, weight, fits = solved(matrix, event, weighting)
    for fit in fits:
        model = Ridge(alpha=fit.alpha, solver="svd").fit(scaled, 2 * event - 1, sample_weight=weight)
        np.testing.assert_allclose(fit.coefficient, model.coef_, atol=1e-7)
        assert fit.intercept == pytest.approx(model.intercept_, abs=1e-7)
        np.testing.assert_allclose(fit.fitted, model.predict(scaled), atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_decides_as_scikit_learns_classifier(shape: tuple[int, int, int]) -> None:
    matrix, event = problem(*shape)
    fresh = problem(*shape, seed=1)[0]
    scaler = Scaler.fit(matrix, "feature")
    for settings, model in candidates(RIDGE, matrix, event):
        theirs = RidgeClassifier(alpha=settings["alpha"], class_weight="balanced").fit(scaler.apply(matrix), event)
        assert ((model.probability(fresh) > 0.5) == theirs.predict(scaler.apply(fresh))).all()


@pytest.mark.parametrize("shape", [(20, 60, 7), (24, 6, 9), (15, 15, 2), (12, 1, 5)])
@pytest.mark.parametrize("weighting", ["balanced", "none"])
def test_leaving_out_in_closed_form_is_leaving_out(shape: tuple[int, int, int], weighting: str) -> None:
    matrix, event = problem(*shape)
    scaled, weight, fits = solved(matrix, event, weighting)
    for fit in fits:
        for row in range(len(event)):
            rest, kept = without(row, scaled, event)
            model = Ridge(alpha=fit.alpha, solver="svd").fit(rest, 2 * kept - 1, np.delete(weight, row))
            assert fit.left_out[row] == pytest.approx(model.predict(scaled[row : row + 1])[0], abs=1e-6)


@pytest.mark.parametrize("shape", [(20, 60, 7), (24, 6, 9), (15, 15, 2), (12, 1, 5), (4, 9, 2)])
def test_balancing_what_is_left_in_closed_form_is_balancing_it(shape: tuple[int, int, int]) -> None:
    matrix, event = problem(*shape)
    scaled, weight, fits = solved(matrix, event)
    work = decompose(scaled, event, weight)
    for fit in fits:
        found = work.rebalanced(fit)
        for row in range(len(event)):
            rest, kept = without(row, scaled, event)
            model = Ridge(alpha=fit.alpha, solver="svd").fit(rest, 2 * kept - 1, np.delete(weight, row))
            values = model.predict(rest)
            middle = (values[kept == 0].mean() + values[kept == 1].mean()) / 2
            assert found[row] == pytest.approx(model.predict(scaled[row : row + 1])[0] - middle, abs=1e-6)


def test_the_balanced_intercept_is_the_one_halfway_between_the_classes() -> None:
    matrix, event = problem(30, 60, 10)
    for fit in solved(matrix, event)[2]:
        assert fit.fitted[event == 0].mean() == pytest.approx(-fit.fitted[event == 1].mean(), abs=1e-9)


def test_a_few_images_that_tell_are_told_apart_when_left_out_at_any_strength() -> None:
    matrix, event = problem(8, 40, 4, signal=6.0)
    for _, model in candidates(RIDGE, matrix, event, few=True):
        assert ((model.left_out > 0.5) == event).all()


@pytest.mark.parametrize("weighting", ["balanced", "none"])
def test_probabilities_are_the_values_under_one_slope(weighting: str) -> None:
    matrix, event = problem(30, 60, 10)
    scaler, weight = Scaler.fit(matrix, "feature"), row_weights(event, weighting)  # type: ignore[arg-type]
    work = decompose(scaler.apply(matrix), event, weight)
    for _, model in candidates(RIDGE, matrix, event, class_weight=weighting):
        left_out = work.rebalanced(model.fit) if weighting == "balanced" else model.fit.left_out
        np.testing.assert_allclose(model.left_out, expit(model.slope * left_out))
        np.testing.assert_allclose(model.probability(matrix), expit(model.slope * model.fit.fitted), atol=1e-9)


def test_the_path_starts_with_the_strongest() -> None:
    matrix, event = problem(30, 60, 10)
    found = candidates(RIDGE, matrix, event)
    assert RIDGE.path
    assert [each.settings["strength"] for each in found] == list(STRENGTHS)
    lengths = [float(np.linalg.norm(each.model.fit.coefficient)) for each in found]
    assert (np.diff(lengths) > 0).all()
    assert len(candidates(RIDGE, matrix, event, few=True)) == len(STRENGTHS)


def test_candidates_are_fitted_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    solved = []
    kind = type(decompose(np.eye(2), np.array([0, 1]), np.ones(2)))
    solve = kind.solve
    monkeypatch.setattr(kind, "solve", lambda self, alpha: solved.append(alpha) or solve(self, alpha))
    walk = RIDGE.candidates(*problem(20, 5, 8), Options())
    next(walk)
    assert len(solved) == 1


@law
def test_the_order_of_the_rows_does_not_matter(size: tuple[int, int, int]) -> None:
    matrix, event = sized(size)
    order = np.random.default_rng(size[2]).permutation(len(event))
    for one, other in zip(
        candidates(RIDGE, matrix, event), candidates(RIDGE, matrix[order], event[order]), strict=True
    ):
        np.testing.assert_allclose(other.model.probability(matrix), one.model.probability(matrix), atol=1e-5)
        np.testing.assert_allclose(other.model.left_out, one.model.left_out[order], atol=1e-5)


@law
def test_calling_the_event_a_non_event_turns_the_probabilities(size: tuple[int, int, int]) -> None:
    matrix, event = sized(size)
    for one, other in zip(candidates(RIDGE, matrix, event), candidates(RIDGE, matrix, 1 - event), strict=True):
        np.testing.assert_allclose(other.model.probability(matrix), 1 - one.model.probability(matrix), atol=1e-5)


@law
def test_units_of_the_features_do_not_matter(size: tuple[int, int, int]) -> None:
    matrix, event = sized(size)
    random = np.random.default_rng(size[2])
    dim = matrix.shape[1]
    other = matrix * random.uniform(0.01, 100, dim) + random.normal(size=dim)
    for one, two in zip(candidates(RIDGE, matrix, event), candidates(RIDGE, other, event), strict=True):
        np.testing.assert_allclose(two.model.probability(other), one.model.probability(matrix), atol=1e-5)


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_features_get_probabilities(name: str) -> None:
    check_degenerate(RIDGE, name)


def test_with_nothing_to_learn_from_both_classes_are_as_likely() -> None:
    for _, model in candidates(RIDGE, *DEGENERATE["all the same"]()):
        assert model.probability(np.ones((3, 5))).tolist() == [0.5] * 3
