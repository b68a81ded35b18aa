"""Newton's method arrives, proves it, treats columns alone, and says so where it does not arrive."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import expit

from peftbench.probing import newton
from peftbench.probing.newton import ConvergenceError, Solution, Solver

Matrix = npt.NDArray[np.float64]
Problem = tuple[Matrix, Matrix, Matrix]

PATH = tuple(10.0**power for power in range(-4, 2))
EXACT = 1e-14


def problem(rows: int = 60, features: int = 8, columns: int = 1, seed: int = 0, spread: float = 1.0) -> Problem:
    """Features of very different lengths (by `spread` orders), labels that they tell of, and uneven weights."""
    random = np.random.default_rng([rows, features, columns, seed])
    matrix = random.normal(size=(rows, features)) * 10.0 ** -np.linspace(0, spread, features)
    target = (matrix[:, :1] + random.logistic(size=(rows, columns)) > 0.3).astype(np.float64)
    target[:2] = [[0.0], [1.0]]
    return matrix, target, random.uniform(0.5, 2.0, size=(rows, columns))


def walk(given: Problem, costs: tuple[float, ...] = PATH, tolerance: float = newton.TOLERANCE) -> list[Solution]:
    solver = Solver(*given)
    return [solver.solve(cost, tolerance) for cost in costs]


def objective(given: Problem, coefficient: Matrix, cost: float) -> Matrix:
    """(columns,) F, written out."""
    matrix, target, weight = given
    logit = matrix @ coefficient[:-1] + coefficient[-1]
    loss = np.sum(weight * np.logaddexp(0, np.where(target == 1, -logit, logit)), axis=0)
    return np.asarray(loss + np.sum(coefficient[:-1] ** 2, axis=0) / (2 * cost))


def minimum(given: Problem, cost: float) -> float:
    """F* of one column, by another method."""
    matrix, target, weight = (each[:, 0] if each.shape[1] == 1 and at else each for at, each in enumerate(given))

    def both(flat: Matrix) -> tuple[float, Matrix]:
        residual = weight * (expit(matrix @ flat[:-1] + flat[-1]) - target)
        slope = np.append(matrix.T @ residual + flat[:-1] / cost, residual.sum())
        return float(objective(given, flat[:, None], cost)[0]), slope

    options = {"maxiter": 20_000, "ftol": 1e-16, "gtol": 1e-9}
    return float(
        optimize.minimize(both, np.zeros(matrix.shape[1] + 1), jac=True, method="L-BFGS-B", options=options).fun
    )


class TestPreconditioners:
    """Whatever resembles the Hessian, the minimum is the same."""

    @pytest.mark.parametrize("shape", [(60, 8), (30, 25), (400, 60)])
    @pytest.mark.parametrize(
        "changes",
        [
            {"PATIENCE": 0},
            {"PATIENCE": 1},
            {"PATIENCE": 10_000},
            {"MAX_PRODUCTS": 3},
            {"FORCING": 0.3},
            {"FORCING": 1e-4},
            {"BLOCK_BYTES": 1},
            {"BLOCK_BYTES": 1000},
        ],
        ids=repr,
    )
    def test_solutions_are_the_same(
        self, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], changes: dict[str, float]
    ) -> None:
        given = problem(*shape, spread=2)
        expected = walk(given, tolerance=EXACT)
        for name, value in changes.items():
            monkeypatch.setattr(newton, name, value)
        for found, other in zip(walk(given, tolerance=EXACT), expected, strict=True):
            np.testing.assert_allclose(found.objective, other.objective, rtol=1e-11)
            np.testing.assert_allclose(found.coefficient, other.coefficient, rtol=0, atol=1e-4)

    def test_all_of_them_come_into_play(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(newton, "PATIENCE", 3)
        grams: list[float] = []
        factors: list[object] = []
        gram_of, factorised = newton._Preconditioner._gram_of, newton._factorised
        monkeypatch.setattr(
            newton._Preconditioner, "_gram_of", lambda self, weight: grams.append(weight.sum()) or gram_of(self, weight)
        )
        monkeypatch.setattr(newton, "_factorised", lambda *one: factors.append(one) or factorised(*one))
        walk(problem(300, 40, spread=3), tuple(10.0**power for power in range(-5, 6)))
        assert len(grams) > 1, "the weights' Gram matrix, and that of a later curvature"
        assert len(factors) > len(grams), "one Gram matrix serves several values of C"

    def test_without_a_factor_in_single_precision_the_diagonal_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given = problem(200, 20, spread=1)
        expected = walk(given, tolerance=EXACT)
        monkeypatch.setattr(newton, "PATIENCE", 0)
        monkeypatch.setattr(newton, "_factorised", lambda *_: None)
        for found, other in zip(walk(given, tolerance=EXACT), expected, strict=True):
            np.testing.assert_allclose(found.objective, other.objective, rtol=1e-11)

    def test_a_matrix_that_is_not_positive_has_no_factor(self) -> None:
        ridge = np.zeros((2, 1))
        assert newton._factorised(np.array([[1.0, 2.0], [2.0, 1.0]], dtype=np.float32), 1.0, ridge) is None
        singular = newton._factorised(np.ones((2, 2), dtype=np.float32), 1.0, ridge)
        assert singular is not None
        assert np.isfinite(singular).all()

    @pytest.mark.parametrize("columns", [1, 3])
    def test_a_factor_solves(self, columns: int) -> None:
        matrix, _, weight = problem(50, 6)
        preconditioner = newton._Preconditioner(matrix.astype(np.float32), weight)
        ridge = np.full((6, 1), 0.5)
        preconditioner.learn(newton.PATIENCE + 1)
        preconditioner.adjust(weight / 4, ridge)
        right = np.random.default_rng(0).normal(size=(6, columns)).astype(np.float32)
        expected = np.linalg.solve(matrix.T @ (weight / 4 * matrix) + 0.5 * np.eye(6), right)
        np.testing.assert_allclose(preconditioner.solve(right), expected, rtol=1e-3, atol=1e-4)


class TestColumns:
    @pytest.mark.parametrize("patience", [0, newton.PATIENCE, 1000])
    def test_each_is_solved_as_if_it_were_alone(self, monkeypatch: pytest.MonkeyPatch, patience: int) -> None:
        monkeypatch.setattr(newton, "PATIENCE", patience)
        matrix, target, weight = problem(80, 12, columns=6)
        together = walk((matrix, target, weight), tolerance=EXACT)
        for column in range(6):
            one = slice(column, column + 1)
            for found, alone in zip(
                together, walk((matrix, target[:, one], weight[:, one]), tolerance=EXACT), strict=True
            ):
                np.testing.assert_allclose(found.objective[column], alone.objective[0], rtol=1e-11)
                np.testing.assert_allclose(found.coefficient[:, one], alone.coefficient, rtol=0, atol=1e-5)

    def test_an_easy_column_waits_for_a_hard_one(self) -> None:
        matrix, target, weight = problem(60, 6, columns=2)
        target[:, 1] = (matrix[:, 0] > 0).astype(np.float64)
        (found,) = walk((matrix, target, weight), (1e4,))
        assert (found.gap <= newton.GAP * np.maximum(found.objective, 1)).all()
        np.testing.assert_allclose(objective((matrix, target, weight), found.coefficient, 1e4), found.objective)


class TestProof:
    @settings(deadline=None, max_examples=25)
    @given(
        rows=st.integers(5, 60),
        features=st.integers(1, 20),
        seed=st.integers(0, 999),
        power=st.integers(-4, 2),
        loose=st.sampled_from([1e-3, 1e-6, 1e-12]),
    )
    def test_the_gap_is_a_bound(self, rows: int, features: int, seed: int, power: int, loose: float) -> None:
        given = problem(rows, features, seed=seed)
        (found,) = walk(given, (10.0**power,), loose)
        excess = found.objective[0] - minimum(given, 10.0**power)
        # Twice: the share of the intercept is known to second order.
        assert excess <= 2 * found.gap[0] + 1e-9 * found.objective[0]

    @settings(deadline=None, max_examples=25)
    @given(rows=st.integers(5, 60), features=st.integers(1, 20), seed=st.integers(0, 999))
    def test_it_is_the_minimum(self, rows: int, features: int, seed: int) -> None:
        given = problem(rows, features, seed=seed)
        for cost, found in zip(PATH, walk(given), strict=True):
            assert found.objective[0] <= minimum(given, cost) * (1 + newton.GAP)
            np.testing.assert_allclose(objective(given, found.coefficient, cost), found.objective, rtol=1e-12)

    def test_the_gap_of_any_point_is_a_bound(self) -> None:
        given = problem()
        solver, ridge = Solver(*given), np.append(np.full(8, 1.0), 0.0)[:, None]
        best = minimum(given, 1.0)
        random = np.random.default_rng(0)
        exact = walk(given, (1.0,), EXACT)[0].coefficient
        for size in (1e-3, 1e-2, 1e-1):
            at = exact + size * random.normal(size=exact.shape)
            state = solver._valued(1.0, at, given[0] @ at[:-1] + at[-1], ridge)
            gap = newton._proven_gap(solver._local(state, ridge), 1.0)
            assert 0 < state.value[0] - best <= 1.1 * gap[0]


class TestPath:
    @pytest.mark.parametrize("costs", [PATH, PATH[::-1], (1.0, 1.0, 1.0), (1e-4, 10.0, 1e-4, 10.0)])
    def test_where_it_comes_from_does_not_matter(self, costs: tuple[float, ...]) -> None:
        given = problem(100, 15)
        for cost, found in zip(costs, walk(given, costs, EXACT), strict=True):
            (alone,) = walk(given, (cost,), EXACT)
            np.testing.assert_allclose(found.objective, alone.objective, rtol=1e-12)

    def test_the_same_c_again_is_no_work(self) -> None:
        assert [found.steps for found in walk(problem(), (0.1, 0.1, 0.1))][1:] == [0, 0]

    def test_a_path_takes_fewer_steps_than_single_fits(self) -> None:
        given = problem(200, 30)
        costs = tuple(np.geomspace(1e-4, 10, 11))
        assert sum(found.steps for found in walk(given, costs)) < sum(walk(given, (cost,))[0].steps for cost in costs)

    @settings(deadline=None, max_examples=15)
    @given(seed=st.integers(0, 999), features=st.integers(1, 20))
    def test_a_larger_c_never_raises_the_objective(self, seed: int, features: int) -> None:
        values = [found.objective[0] for found in walk(problem(40, features, seed=seed))]
        assert (np.diff(values) <= 1e-9).all()


EXTREMES = [1e-30, 1e-20, 1e-8, 1e-4, 1e4, 1e8, 1e15, 1e20, 1e25]


class TestExtremes:
    """The minimum, or an error: never anything else."""

    @pytest.mark.parametrize("scale", EXTREMES)
    @pytest.mark.parametrize("patience", [0, newton.PATIENCE])
    @pytest.mark.parametrize("shape", [(40, 3), (20, 30)])
    def test_features_of_any_size(
        self, monkeypatch: pytest.MonkeyPatch, scale: float, patience: int, shape: tuple[int, int]
    ) -> None:
        monkeypatch.setattr(newton, "PATIENCE", patience)
        matrix, target, weight = problem(*shape)
        _solved_or_told((matrix * scale, target, weight), 1.0, scale)

    @pytest.mark.parametrize("scale", EXTREMES)
    def test_one_feature_among_others(self, scale: float) -> None:
        matrix, target, weight = problem(40, 5)
        matrix[:, 2] *= scale
        _solved_or_told((matrix, target, weight), 1.0, 1.0)

    @pytest.mark.parametrize("cost", [1e-30, 1e-12, 1e6, 1e12, 1e30])
    def test_any_c(self, cost: float) -> None:
        _solved_or_told(problem(60, 5), cost, 1.0)

    @pytest.mark.parametrize("cost", [1.0, 1e4, 1e8])
    def test_classes_that_a_plane_separates(self, cost: float) -> None:
        matrix, target, weight = problem(50, 5)
        target = (matrix[:, :1] > 0).astype(np.float64)
        _solved_or_told((matrix, target, weight), cost, 1.0)

    @pytest.mark.parametrize("scale", [1e-4, 1e4])
    def test_sizes_in_sight_of_one_are_solved(self, scale: float) -> None:
        matrix, target, weight = problem(60, 5)
        exact = walk((matrix, target, weight), (1.0,), EXACT)[0]
        # b / scale and C / scale^2: the same regression.
        same = walk((matrix * scale, target, weight), (scale**-2,), EXACT)[0]
        np.testing.assert_allclose(same.objective, exact.objective, rtol=1e-9)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_what_is_no_number_is_told(self, bad: float) -> None:
        matrix, target, weight = problem()
        matrix[3, 2] = bad
        with pytest.raises(ConvergenceError), np.errstate(all="ignore"):
            walk((matrix, target, weight))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def _solved_or_told(given: Problem, cost: float, scale: float) -> None:
    """F is that of the features brought to size one, with C accordingly."""
    try:
        with np.errstate(all="ignore"):
            (found,) = walk(given, (cost,))
    except ConvergenceError:
        return
    matrix, target, weight = given
    expected = minimum((matrix / scale, target, weight), cost * scale**2)
    assert found.objective[0] <= expected + 1e-6 * max(expected, 1.0)
    np.testing.assert_allclose(objective(given, found.coefficient, cost), found.objective, rtol=1e-9)
