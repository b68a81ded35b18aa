"""Stacks of small regressions answer as one regression after the other does, and leave one out as said."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, Ridge

from peftbench.probing import gram
from peftbench.probing.families.scaling import Scaler
from peftbench.probing.gram import Fits, GramSource, Support, fit_costs, pick, support_sets
from peftbench.probing.logistic import balanced_weights, fit_path
from peftbench.probing.newton import ConvergenceError

Matrix = npt.NDArray[np.float64]
Events = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int64]

PATH = (1e-4, 1e-2, 0.1, 1.0)
COUNT = 150


def cohort(dim: int, seed: int = 0, rank: int | None = None) -> tuple[Matrix, Events]:
    """Features far from 0 and of uneven lengths, an event that they tell of."""
    random = np.random.default_rng([dim, seed])
    base = random.normal(size=(COUNT, rank or dim)) / np.sqrt(np.arange(1, (rank or dim) + 1))
    matrix = base @ random.normal(size=(rank, dim)) if rank else base
    event = (base[:, 0] + 0.5 * random.logistic(size=COUNT) > 0.4).astype(np.int64)
    return matrix + 7.0, event


def draws(event: Events, shots: tuple[int, int], sets: int = 3, seed: int = 0) -> Positions:
    """(sets, m): so many without and with the event."""
    random = np.random.default_rng([seed, *shots])
    rows = [np.flatnonzero(event == kind) for kind in (0, 1)]
    chosen = [
        np.concatenate([random.choice(own, size, replace=False) for own, size in zip(rows, shots, strict=True)])
        for _ in range(sets)
    ]
    return np.array(chosen)


def fitted(
    matrix: Matrix, event: Events, positions: Positions, costs: tuple[float, ...] = PATH, *, balanced: bool = True
) -> tuple[GramSource, Support, list[Fits]]:
    source = GramSource.of(matrix)
    support = support_sets(source, event, positions, balanced=balanced)
    return source, support, fit_costs(support, costs)


def scaled(matrix: Matrix, positions: Positions) -> Matrix:
    """All features, centred and scaled by what one support set tells."""
    return Scaler.fit(matrix[positions], "global").apply(matrix)


def objective(
    matrix: Matrix, event: Events, weight: Matrix, coefficient: Matrix, intercept: float, cost: float
) -> float:
    margin = np.where(event == 1, 1, -1) * (matrix @ coefficient + intercept)
    return float(np.sum(weight * np.logaddexp(0, -margin)) + coefficient @ coefficient / (2 * cost))


def each(
    matrix: Matrix, event: Events, positions: Positions, costs: tuple[float, ...], *, balanced: bool = True
) -> Iterator[tuple[float, int, Matrix, Matrix, Events, Fits]]:
    """C, set, what all images are predicted, scaled features, labels of the set and its fits."""
    source, support, fits = fitted(matrix, event, positions, costs, balanced=balanced)
    logits = source.predict(support, fits, np.arange(COUNT))
    for at, cost in enumerate(costs):
        for row, own in enumerate(positions):
            yield cost, row, logits[row, :, at], scaled(matrix, own), event[own], fits[at]


SHOTS = [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (1, 9), (12, 3)]


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("dim", [5, 300])
@pytest.mark.parametrize("shots", SHOTS)
class TestParity:
    @pytest.mark.slow
    def test_it_is_scikit_learns_minimum(self, shots: tuple[int, int], dim: int, balanced: bool) -> None:
        matrix, event = cohort(dim)
        positions = draws(event, shots)
        for cost, row, logit, features, own, fit in each(matrix, event, positions, PATH, balanced=balanced):
            model = LogisticRegression(
                C=cost, class_weight="balanced" if balanced else None, tol=1e-10, max_iter=20_000
            ).fit(features[positions[row]], own)
            np.testing.assert_allclose(expit(logit), model.predict_proba(features)[:, 1], rtol=0, atol=1e-4)
            weight = balanced_weights(own) if balanced else np.ones(len(own))
            part = features[positions[row]]
            theirs = objective(part, own, weight, model.coef_[0], float(model.intercept_[0]), cost)
            assert fit.objective[row] <= theirs * (1 + 1e-9)
            coefficient = part.T @ fit.dual[row]
            ours = objective(part, own, weight, coefficient, float(fit.intercept[row]), cost)
            assert fit.objective[row] == pytest.approx(ours, rel=1e-9)
            np.testing.assert_allclose(features @ coefficient + fit.intercept[row], logit, rtol=0, atol=1e-8)

    def test_it_is_what_one_fit_after_the_other_finds(self, shots: tuple[int, int], dim: int, balanced: bool) -> None:
        matrix, event = cohort(dim)
        positions = draws(event, shots)
        paths = {
            row: fit_path(scaled(matrix, own)[own], event[own], PATH, balanced=balanced, tolerance=1e-14)
            for row, own in enumerate(positions)
        }
        for cost, row, logit, features, _, fit in each(matrix, event, positions, PATH, balanced=balanced):
            alone = paths[row][PATH.index(cost)]
            np.testing.assert_allclose(expit(logit), alone.probability(features), rtol=0, atol=1e-5)
            assert fit.objective[row] == pytest.approx(alone.objective, rel=1e-8)
            np.testing.assert_allclose(fit.logit[row], logit[positions[row]], rtol=0, atol=1e-9)


class TestDegenerate:
    def test_equal_images_say_nothing(self) -> None:
        matrix = np.full((COUNT, 20), 0.1) + 1e5
        _, event = cohort(5)
        source, support, fits = fitted(matrix, event, draws(event, (3, 5)))
        np.testing.assert_allclose(expit(source.predict(support, fits, np.arange(COUNT))), 0.5, rtol=0, atol=1e-9)
        assert not support.gram.any()

    def test_constant_features_change_nothing_but_the_scale(self) -> None:
        matrix, event = cohort(10)
        positions = draws(event, (4, 4))
        _, one, _ = fitted(matrix, event, positions)
        _, other, _ = fitted(np.hstack([matrix, np.full((COUNT, 10), 3.7)]), event, positions)
        np.testing.assert_allclose(other.gram, 2 * one.gram, atol=1e-9)

    def test_the_same_image_many_times(self) -> None:
        matrix, event = cohort(30)
        positions = draws(event, (4, 4))
        matrix[positions[0]] = matrix[positions[0][0]]
        for _, row, logit, features, own, _ in each(matrix, event, positions, (1.0,)):
            expected = fit_path(features[positions[row]], own, (1.0,), tolerance=1e-14)[0].probability(features)
            np.testing.assert_allclose(expit(logit), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("cost", [1e3, 1e6, 1e9])
    def test_large_c_on_classes_that_are_apart(self, cost: float) -> None:
        matrix, event = cohort(300)
        positions = draws(event, (8, 8))
        costs = tuple(np.geomspace(1e-4, cost, 12))
        for _, row, _, features, own, fit in list(each(matrix, event, positions, costs))[-len(positions) :]:
            part = features[positions[row]]
            ours = objective(part, own, np.ones(16), part.T @ fit.dual[row], float(fit.intercept[row]), cost)
            best = fit_path(part, own, costs, tolerance=1e-14)[-1].objective
            assert ours <= best + 1e-8

    @pytest.mark.parametrize("cost", [10.0, 1e4, 1e8])
    def test_a_cold_start_at_a_large_c_arrives_by_shorter_steps(self, cost: float) -> None:
        matrix, event = cohort(4)
        matrix[::7] *= 30.0
        positions = draws(event, (20, 20), sets=10)
        _, _, fits = fitted(matrix, event, positions, (cost,))
        for row, own in enumerate(positions):
            part = scaled(matrix, own)[own]
            best = fit_path(part, event[own], np.geomspace(1e-3, cost, 12).tolist(), tolerance=1e-12)[-1].objective
            assert fits[0].objective[row] == pytest.approx(best, rel=1e-6, abs=1e-7)

    def test_what_does_not_arrive_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gram, "MAX_STEPS", 1)
        matrix, event = cohort(20)
        with pytest.raises(ConvergenceError, match="in 1 Newton steps"):
            fitted(matrix, event, draws(event, (4, 4)))

    def test_what_is_no_number_is_told(self) -> None:
        matrix, event = cohort(20)
        matrix[3, 2] = np.nan
        with pytest.raises((ConvergenceError, np.linalg.LinAlgError)), np.errstate(all="ignore"):
            fitted(matrix, event, draws(event, (4, 4)))

    def test_a_set_of_one_class_is_refused(self) -> None:
        matrix, event = cohort(5)
        with pytest.raises(ValueError, match="every support set"):
            support_sets(GramSource.of(matrix), event, np.array([np.flatnonzero(event)[:4]]))


def brute_force(
    matrix: Matrix, event: Events, coefficient: Matrix, intercept: float, cost: float, *, balanced: bool
) -> Matrix:
    """Each image by the weighted least-squares fit, at the solution, to the others, with weights that are theirs."""
    logit = matrix @ coefficient + intercept
    chance = expit(logit)
    response = logit - (chance - event) / (chance * (1 - chance))
    left = np.empty(len(event))
    for image in range(len(event)):
        kept = np.arange(len(event)) != image
        weight = balanced_weights(event[kept]) if balanced else np.ones(kept.sum())
        model = Ridge(alpha=1 / cost, solver="cholesky")
        model.fit(matrix[kept], response[kept], sample_weight=weight * (chance * (1 - chance))[kept])
        left[image] = model.predict(matrix[image : image + 1])[0]
    return left


class TestLeftOut:
    @pytest.mark.slow
    @pytest.mark.parametrize("balanced", [True, False])
    @pytest.mark.parametrize("shots", [(2, 2), (8, 8), (3, 9)])
    @pytest.mark.parametrize("dim", [4, 80])
    def test_it_is_the_least_squares_fit_to_the_others(self, dim: int, shots: tuple[int, int], balanced: bool) -> None:
        matrix, event = cohort(dim)
        positions = draws(event, shots)
        for cost, row, _, features, own, fit in each(matrix, event, positions, PATH, balanced=balanced):
            part = features[positions[row]]
            coefficient, intercept = part.T @ fit.dual[row], float(fit.intercept[row])
            expected = brute_force(part, own, coefficient, intercept, cost, balanced=balanced)
            np.testing.assert_allclose(fit.left_out[row], expected, rtol=1e-6, atol=1e-6)

    def test_it_is_close_to_fits_without_the_image(self) -> None:
        matrix, event = cohort(100)
        positions = draws(event, (16, 16), sets=8)
        for cost, row, _, features, own, fit in each(matrix, event, positions, (1e-3, 1e-2)):
            closed, refitted = expit(fit.left_out[row]), refits(features[positions[row]], own, (cost,))[:, 0]
            assert np.corrcoef(closed, refitted)[0, 1] > 0.98
            assert np.abs(closed - refitted).mean() < 0.02

    def test_an_image_alone_in_its_class_has_none(self) -> None:
        matrix, event = cohort(20)
        positions = draws(event, (1, 5))
        _, _, (fit,) = fitted(matrix, event, positions, (0.1,))
        np.testing.assert_array_equal(np.isnan(fit.left_out), event[positions] == 0)

    def test_it_is_left_where_it_is_not_asked_for(self) -> None:
        matrix, event = cohort(20)
        support = support_sets(GramSource.of(matrix), event, draws(event, (3, 3)))
        (without,), (within,) = fit_costs(support, [0.1], left_out=False), fit_costs(support, [0.1])
        assert np.isnan(without.left_out).all()
        np.testing.assert_array_equal(without.dual, within.dual)

    @pytest.mark.slow
    @pytest.mark.parametrize(("half", "least"), [(2, 0.6), (4, 0.6), (8, 0.6), (32, 0.7)])
    def test_the_c_that_it_chooses_is_mostly_that_of_the_refits(self, half: int, least: float) -> None:
        assert agreement(half, sets=30)[0] >= least


def refits(matrix: Matrix, event: Events, costs: tuple[float, ...]) -> Matrix:
    """(m, costs) probability of each image by an exact fit to the others, balanced among themselves."""
    left = np.empty((len(event), len(costs)))
    for image in range(len(event)):
        kept = np.arange(len(event)) != image
        for at, fit in enumerate(fit_path(matrix[kept], event[kept], costs)):
            left[image, at] = fit.probability(matrix[image : image + 1])[0]
    return left


def agreement(half: int, sets: int = 200, dim: int = 200) -> tuple[float, float, float, float]:
    """Closed against refitted: share of sets with the same C, or one step off; correlation; mean difference."""
    costs = tuple(np.geomspace(1e-4, 1, 9).tolist())
    matrix, event = cohort(dim, rank=60)
    positions = draws(event, (half, half), sets=sets)
    _, _, fits = fitted(matrix, event, positions, costs)
    closed = expit(np.stack([fit.left_out for fit in fits], axis=2))
    exact = np.stack([refits(scaled(matrix, own)[own], event[own], costs) for own in positions])
    truth = event[positions][:, :, None]
    steps = [
        np.argmin(-np.log(np.clip(np.where(truth == 1, each, 1 - each), 1e-300, 1)).mean(axis=1), axis=1)
        for each in (closed, exact)
    ]
    apart = np.abs(steps[0] - steps[1])
    correlation = float(np.corrcoef(closed.ravel(), exact.ravel())[0, 1])
    return float((apart == 0).mean()), float((apart <= 1).mean()), correlation, float(np.abs(closed - exact).mean())


class TestSource:
    def test_without_a_gram_matrix_of_all_images_answers_are_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        matrix, event = cohort(40)
        positions, images = draws(event, (4, 6)), np.arange(10, 30)
        one, support, fits = fitted(matrix, event, positions)
        monkeypatch.setattr(gram, "GRAM_ROWS", COUNT - 1)
        other, again, refound = fitted(matrix, event, positions)
        assert one.gram is not None
        assert other.gram is None
        np.testing.assert_allclose(again.gram, support.gram, atol=1e-9)
        np.testing.assert_allclose(
            other.predict(again, refound, images), one.predict(support, fits, images), rtol=0, atol=1e-7
        )

    def test_half_precision_is_summed_in_double(self) -> None:
        matrix, event = cohort(40)
        half = matrix.astype(np.float16)
        positions = draws(event, (4, 4))
        one, other = (fitted(each, event, positions)[1].gram for each in (half, half.astype(np.float64)))
        np.testing.assert_array_equal(one, other)

    @settings(deadline=None, max_examples=15)
    @given(shift=st.floats(-1e4, 1e4), size=st.floats(1e-3, 1e3))
    def test_location_and_scale_of_the_features_do_not_matter(self, shift: float, size: float) -> None:
        matrix, event = cohort(15)
        positions = draws(event, (4, 4))
        logits = []
        for features in (matrix, size * matrix + shift):
            source, support, fits = fitted(features, event, positions)
            logits.append(source.predict(support, fits, np.arange(COUNT)))
        np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-5)


class TestStacks:
    @pytest.mark.parametrize("size", [1, 3000, 10_000])
    def test_how_many_are_solved_side_by_side_does_not_matter(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        matrix, event = cohort(30)
        positions = draws(event, (6, 6), sets=20)
        _, _, expected = fitted(matrix, event, positions)
        monkeypatch.setattr(gram, "STACK_BYTES", size)
        _, _, found = fitted(matrix, event, positions)
        for one, other in zip(found, expected, strict=True):
            for ours, theirs in zip(one, other, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)

    def test_each_set_is_solved_as_if_it_were_alone(self) -> None:
        matrix, event = cohort(30)
        positions = draws(event, (6, 6), sets=10)
        _, _, together = fitted(matrix, event, positions)
        for row in range(10):
            _, _, alone = fitted(matrix, event, positions[row : row + 1])
            for one, other in zip(together, alone, strict=True):
                np.testing.assert_allclose(one.dual[row], other.dual[0], rtol=1e-7, atol=1e-9)

    def test_one_fit_of_each_set_is_picked(self) -> None:
        matrix, event = cohort(10)
        _, _, fits = fitted(matrix, event, draws(event, (3, 3)))
        found = pick(fits, np.array([2, 0, 3]))
        for row, at in enumerate((2, 0, 3)):
            for ours, theirs in zip(found, fits[at], strict=True):
                np.testing.assert_array_equal(ours[row], theirs[row])
