"""The logistic probe is the minimum of its objective: scikit-learn's solution, at no higher a value."""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight

from peftbench.probing import logistic
from peftbench.probing.families.logistic import COSTS
from peftbench.probing.families.scaling import Scaler
from peftbench.probing.logistic import (
    ConvergenceError,
    LabelPath,
    LogisticFit,
    balanced_weights,
    walk_path,
)

Matrix = npt.NDArray[np.float64]
Events = npt.NDArray[np.int64]
Problem = tuple[Matrix, Events]

PATH = (1e-5, 1e-3, 0.1, 1.0, 10.0)

fit_path = partial(logistic.fit_path, tolerance=1e-15)
"""To the last digits, where solutions are compared; the benchmark stops where no score changes any more."""


def problem(rows: int, features: int, events: int, seed: int = 0, signal: float = 1.0) -> Problem:
    """Standardised features, the first of which tell a little of the event."""
    random = np.random.default_rng([rows, features, events, seed])
    event = np.zeros(rows, dtype=np.int64)
    event[:events] = 1
    random.shuffle(event)
    matrix = random.normal(size=(rows, features))
    matrix[:, : max(1, features // 4)] += signal * event[:, None]
    return standardised(matrix), event


def standardised(matrix: Matrix) -> Matrix:
    return Scaler.fit(matrix, "feature").apply(matrix)


def duplicated_columns() -> Problem:
    matrix, event = problem(40, 10, 15)
    return np.hstack([matrix, matrix[:, ::-1], matrix[:, :5]]), event


def low_rank() -> Problem:
    matrix, event = problem(20, 5, 8)
    return standardised(matrix @ np.random.default_rng(0).normal(size=(5, 60))), event


def constant_features() -> Problem:
    matrix, event = problem(30, 12, 10)
    matrix[:, [0, 7]] = 0.0
    return matrix, event


def nothing_but_constants() -> Problem:
    return np.zeros((12, 20)), np.array([0, 1, 0] * 4)


def duplicated_rows() -> Problem:
    matrix, event = problem(15, 40, 6)
    return np.vstack([matrix, matrix[:10]]), np.concatenate([event, event[:10]])


def contradicting_rows() -> Problem:
    matrix, event = problem(15, 40, 6)
    return np.vstack([matrix, matrix]), np.concatenate([event, 1 - event])


PROBLEMS = {
    "fewer rows than features": lambda: problem(30, 90, 12),
    "many more features than rows": lambda: problem(12, 600, 5),
    "more rows than features": lambda: problem(90, 12, 30),
    "as many rows as features": lambda: problem(25, 25, 10),
    "one feature": lambda: problem(30, 1, 11),
    "one event": lambda: problem(40, 60, 1),
    "almost only events": lambda: problem(40, 8, 38),
    "separable": lambda: problem(40, 5, 20, signal=20.0),
    "duplicated columns": duplicated_columns,
    "low rank": low_rank,
    "constant features": constant_features,
    "nothing but constants": nothing_but_constants,
    "duplicated rows": duplicated_rows,
    "contradicting rows": contradicting_rows,
}


def objective(matrix: Matrix, event: Events, cost: float, coefficient: Matrix, intercept: float) -> float:
    """F(b, a), written out."""
    weight = compute_sample_weight("balanced", event)
    margin = np.where(event == 1, 1, -1) * (matrix @ coefficient + intercept)
    return float(np.sum(weight * np.logaddexp(0, -margin)) + coefficient @ coefficient / (2 * cost))


def gradient(matrix: Matrix, event: Events, fit: LogisticFit) -> Matrix:
    """Of F: its parts along the coefficients and the intercept."""
    weight = compute_sample_weight("balanced", event)
    residual = weight * (1 / (1 + np.exp(-(matrix @ fit.coefficient + fit.intercept))) - event)
    return np.append(matrix.T @ residual + fit.coefficient / fit.C, residual.sum())


def reference(matrix: Matrix, event: Events, cost: float) -> LogisticRegression:
    model = LogisticRegression(C=cost, class_weight="balanced", solver="lbfgs", tol=1e-10, max_iter=100_000)
    return model.fit(matrix, event)


@pytest.mark.parametrize("name", PROBLEMS)
class TestSolution:
    def test_it_is_that_of_scikit_learn(self, name: str) -> None:
        matrix, event = PROBLEMS[name]()
        for fit in fit_path(matrix, event, PATH):
            model = reference(matrix, event, fit.C)
            scale = max(1.0, float(np.abs(model.coef_).max()))
            np.testing.assert_allclose(fit.coefficient, model.coef_[0], rtol=0, atol=1e-5 * scale)
            assert fit.intercept == pytest.approx(model.intercept_[0], abs=1e-4 * scale)
            np.testing.assert_allclose(fit.probability(matrix), model.predict_proba(matrix)[:, 1], rtol=0, atol=1e-5)

    def test_its_objective_is_never_above_that_of_scikit_learn(self, name: str) -> None:
        matrix, event = PROBLEMS[name]()
        for fit in fit_path(matrix, event, PATH):
            model = reference(matrix, event, fit.C)
            theirs = objective(matrix, event, fit.C, model.coef_[0], float(model.intercept_[0]))
            ours = objective(matrix, event, fit.C, fit.coefficient, fit.intercept)
            assert ours <= theirs * (1 + 1e-6)
            assert fit.objective == pytest.approx(ours, rel=1e-9)

    def test_as_the_benchmark_solves_it_the_gap_to_the_minimum_is_as_small_as_stated(self, name: str) -> None:
        matrix, event = PROBLEMS[name]()
        for fit, best in zip(logistic.fit_path(matrix, event, COSTS), fit_path(matrix, event, COSTS), strict=True):
            assert fit.objective - best.objective <= 1e-6 * best.objective
            # Twice: the share of the intercept is known to second order.
            assert fit.objective - best.objective <= 2 * fit.gap + 1e-12 * best.objective
            assert fit.gap <= 1e-6 * max(fit.objective, 1.0)

    def test_the_gradient_vanishes(self, name: str) -> None:
        matrix, event = PROBLEMS[name]()
        for fit in fit_path(matrix, event, COSTS):
            # In the length of a Newton step: the Hessian is at least 1 / C along the coefficients.
            assert np.abs(gradient(matrix, event, fit)).max() < 1e-4

    def test_a_warm_start_changes_nothing(self, name: str) -> None:
        matrix, event = PROBLEMS[name]()
        for fit in fit_path(matrix, event, COSTS)[::4]:
            (alone,) = fit_path(matrix, event, [fit.C])
            np.testing.assert_allclose(alone.probability(matrix), fit.probability(matrix), rtol=0, atol=1e-5)

    def test_the_path_leads_down_in_loss_and_up_in_length(self, name: str) -> None:
        matrix, event = PROBLEMS[name]()
        fits = fit_path(matrix, event, COSTS)
        lengths = [float(fit.coefficient @ fit.coefficient) for fit in fits]
        assert (np.diff([fit.objective for fit in fits]) <= 1e-9).all()
        assert (np.diff(lengths) >= -1e-9).all()


SIZES = st.tuples(st.integers(6, 25), st.integers(1, 40), st.integers(0, 1000))


def sized(size: tuple[int, int, int]) -> Problem:
    rows, features, seed = size
    return problem(rows, features, max(2, rows // 3), seed)


def law(test: Callable[..., None]) -> Callable[..., None]:
    """Check a law on random problems, with more rows than features and with fewer."""
    return settings(deadline=None, max_examples=25)(given(size=SIZES)(test))


class TestInvariance:
    @law
    def test_the_order_of_the_rows_does_not_matter(self, size: tuple[int, int, int]) -> None:
        matrix, event = sized(size)
        order = np.random.default_rng(size[2]).permutation(len(event))
        for one, other in zip(fit_path(matrix, event, PATH), fit_path(matrix[order], event[order], PATH), strict=True):
            np.testing.assert_allclose(other.coefficient, one.coefficient, rtol=0, atol=1e-5)

    @law
    def test_the_order_of_the_features_does_not_matter(self, size: tuple[int, int, int]) -> None:
        matrix, event = sized(size)
        order = np.random.default_rng(size[2]).permutation(matrix.shape[1])
        for one, other in zip(fit_path(matrix, event, PATH), fit_path(matrix[:, order], event, PATH), strict=True):
            np.testing.assert_allclose(other.coefficient, one.coefficient[order], rtol=0, atol=1e-5)

    @law
    def test_calling_the_event_a_non_event_turns_the_signs(self, size: tuple[int, int, int]) -> None:
        matrix, event = sized(size)
        for one, other in zip(fit_path(matrix, event, PATH), fit_path(matrix, 1 - event, PATH), strict=True):
            np.testing.assert_allclose(other.coefficient, -one.coefficient, rtol=0, atol=1e-5)
            assert other.intercept == pytest.approx(-one.intercept, abs=1e-5)

    @law
    def test_rotating_the_features_rotates_the_coefficients(self, size: tuple[int, int, int]) -> None:
        matrix, event = sized(size)
        random = np.random.default_rng(size[2])
        rotation = linalg.qr(random.normal(size=(matrix.shape[1], matrix.shape[1])))[0]
        for one, other in zip(fit_path(matrix, event, PATH), fit_path(matrix @ rotation, event, PATH), strict=True):
            np.testing.assert_allclose(other.coefficient, rotation.T @ one.coefficient, rtol=0, atol=1e-5)
            np.testing.assert_allclose(other.probability(matrix @ rotation), one.probability(matrix), rtol=0, atol=1e-5)

    @law
    def test_every_row_twice_at_half_the_cost_is_the_same_problem(self, size: tuple[int, int, int]) -> None:
        matrix, event = sized(size)
        twice = fit_path(np.vstack([matrix, matrix]), np.concatenate([event, event]), [cost / 2 for cost in PATH])
        for one, other in zip(fit_path(matrix, event, PATH), twice, strict=True):
            np.testing.assert_allclose(other.coefficient, one.coefficient, rtol=0, atol=1e-5)

    @law
    def test_features_of_zeros_change_nothing(self, size: tuple[int, int, int]) -> None:
        matrix, event = sized(size)
        padded = np.hstack([matrix, np.zeros((len(event), 50))])
        for one, other in zip(fit_path(matrix, event, PATH), fit_path(padded, event, PATH), strict=True):
            np.testing.assert_allclose(other.coefficient[: matrix.shape[1]], one.coefficient, rtol=0, atol=1e-5)
            assert not other.coefficient[matrix.shape[1] :].any()


def test_with_nothing_to_learn_from_both_classes_are_as_likely() -> None:
    matrix, event = nothing_but_constants()
    for fit in fit_path(matrix, event, PATH):
        np.testing.assert_allclose(fit.probability(matrix), 0.5, rtol=0, atol=1e-9)


@pytest.mark.parametrize("events", [1, 3, 10, 19])
def test_weights_are_those_of_scikit_learn(events: int) -> None:
    event = np.array([1] * events + [0] * (20 - events))
    weight = balanced_weights(event)
    np.testing.assert_allclose(weight, compute_sample_weight("balanced", event))
    assert weight[event == 1].sum() == pytest.approx(weight[event == 0].sum())
    assert weight.mean() == pytest.approx(1)


class TestManyLabels:
    @pytest.mark.parametrize("name", ["fewer rows than features", "more rows than features", "low rank"])
    @pytest.mark.parametrize("balanced", [True, False])
    def test_each_column_is_the_fit_of_its_own_labels(self, name: str, balanced: bool) -> None:
        matrix, event = PROBLEMS[name]()
        random = np.random.default_rng(0)
        events = np.stack([random.permutation(event) for _ in range(7)], axis=1)
        path = LabelPath(matrix, events, balanced=balanced)
        basis = path.project(matrix)
        for cost, found in zip(PATH, path.walk(PATH, 1e-9), strict=True):
            probability = 1 / (1 + np.exp(-(basis @ found[:-1] + found[-1])))
            for column in range(7):
                (alone,) = fit_path(matrix, events[:, column], [cost], balanced=balanced)
                np.testing.assert_allclose(probability[:, column], alone.probability(matrix), rtol=0, atol=1e-3)

    def test_each_needs_both_classes(self) -> None:
        with pytest.raises(ValueError, match="every labelling"):
            LabelPath(np.ones((3, 2)), np.array([[0, 1], [1, 1], [0, 1]]))


def test_what_is_not_asked_for_is_not_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[float] = []
    solve = logistic.Solver.solve

    def counted(self: logistic.Solver, cost: float, tolerance: float) -> object:
        solved.append(cost)
        return solve(self, cost, tolerance)

    monkeypatch.setattr(logistic.Solver, "solve", counted)
    path = walk_path(*problem(30, 5, 10), COSTS)
    next(path), next(path)
    assert solved == list(COSTS[:2])


class TestErrors:
    @pytest.mark.parametrize("event", [[0, 0, 0], [1, 1, 1]])
    def test_one_class_cannot_be_learnt_from(self, event: list[int]) -> None:
        with pytest.raises(ValueError, match="both classes"):
            fit_path(np.ones((3, 2)), event, [1.0])

    @pytest.mark.parametrize("costs", [[], [0.0, 1.0], [-1.0], [1.0, 0.1], [1.0, 1.0]])
    def test_costs_are_positive_and_increase(self, costs: list[float]) -> None:
        with pytest.raises(ValueError, match="positive and increasing"):
            fit_path(np.ones((2, 2)), [0, 1], costs)

    @pytest.mark.parametrize("shape", [(6, 2), (6, 20)])
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_features_that_are_no_numbers_are_refused(self, shape: tuple[int, int], bad: float) -> None:
        matrix = np.random.default_rng(0).normal(size=shape)
        matrix[2, 1] = bad
        with pytest.raises((ValueError, ConvergenceError)), np.errstate(invalid="ignore"):
            fit_path(matrix, [0, 1, 0, 1, 0, 1], [1.0])
