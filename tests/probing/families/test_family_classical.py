"""Every classical classifier fits, answers with probabilities, weighs both classes the same and repeats itself."""

from typing import Any

import numpy as np
import pytest
from family_kit import DEGENERATE, Events, Matrix, candidates, problem
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from peftbench.probing.families import classical
from peftbench.probing.families.classical import CLASSICAL, COMPONENTS, Classical
from peftbench.probing.families.family import Options, ProbeError

SLOW = {"random-forest", "extra-trees", "bagging", "adaboost", "gradient-boosting", "hist-gradient-boosting", "xgboost"}
"""Ensembles: a tenth of a second and more, each time."""

NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CLASSICAL]


def cancer() -> tuple[Matrix, Events, Matrix, Events]:
    matrix, event = load_breast_cancer(return_X_y=True)
    return matrix[:80], event[:80].astype(np.int64), matrix[80:180], event[80:180].astype(np.int64)


def test_the_table_is_in_order() -> None:
    assert len(CLASSICAL) >= 20
    for name, each in CLASSICAL.items():
        assert each.name == name
        assert 1 <= len(each.grid) <= 6
        assert len({tuple(settings) for settings in each.grid}) == 1
        assert not each.path
    assert sum(each.builder.startswith(("sklearn", "peftbench")) for each in CLASSICAL.values()) >= 15


@pytest.mark.parametrize("name", NAMES)
def test_it_can_tell_on_a_real_problem(name: str) -> None:
    matrix, event, fresh, truth = cancer()
    (found,) = candidates(CLASSICAL[name], matrix, event, few=True)
    assert roc_auc_score(truth, found.model.probability(fresh)) > (0.85 if name == "tree" else 0.93)
    assert found.model.left_out is None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_settings_fit_and_differ(name: str) -> None:
    matrix, event, _, _ = cancer()
    found = candidates(CLASSICAL[name], matrix, event)
    assert [each.settings for each in found] == [dict(settings) for settings in CLASSICAL[name].grid]
    for each in found:
        assert ((each.model.probability(matrix) >= 0) & (each.model.probability(matrix) <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    matrix, event = problem(40, 12, 15)
    one, other = (candidates(CLASSICAL[name], matrix, event, few=True, seed=3)[0].model for _ in range(2))
    np.testing.assert_array_equal(one.probability(matrix), other.probability(matrix))


@pytest.mark.parametrize("name", NAMES)
def test_the_rarer_class_is_not_given_up(name: str) -> None:
    random = np.random.default_rng(0)
    event = np.repeat([1, 0], [15, 135])
    matrix = random.normal(size=(150, 3)) + 0.7 * event[:, None]
    fresh = random.normal(size=(200, 3)) + 0.7 * np.repeat([1, 0], 100)[:, None]
    (found,) = candidates(CLASSICAL[name], matrix, event, few=True)
    chosen = found.model.probability(fresh) > 0.5
    assert chosen[:100].mean() > (0.02 if name in SLOW else 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["four rows", "one feature", "all the same", "the view", "one column that tells all"])
def test_degenerate_features_get_probabilities(name: str, case: str) -> None:
    matrix, event = DEGENERATE[case]()
    for scaling in ("feature", "none") if CLASSICAL[name].scaled else ("none",):
        (found,) = candidates(CLASSICAL[name], matrix, event, few=True, scaling=scaling)
        probability = found.model.probability(matrix)
        assert ((probability >= 0) & (probability <= 1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("case", ["many features", "a constant feature", "the same rows in both classes"])
def test_more_degenerate_features_get_probabilities(name: str, case: str) -> None:
    matrix, event = DEGENERATE[case]()
    (found,) = candidates(CLASSICAL[name], matrix, event, few=True)
    assert np.isfinite(found.model.probability(matrix)).all()


def test_features_that_are_all_the_same_get_the_share_of_events() -> None:
    matrix = np.full((8, 3), 0.1)
    event = np.array([1, 1, 0, 0, 0, 0, 0, 0])
    for weighting, share in (("balanced", 0.5), ("none", 0.25)):
        (found,) = candidates(CLASSICAL["lda"], matrix, event, class_weight=weighting)
        assert found.model.probability(matrix).tolist() == [share] * 8


def test_few_images_get_the_default_alone() -> None:
    (found,) = candidates(CLASSICAL["rbf-svm"], *problem(8, 20, 4), few=True)
    assert found.settings == CLASSICAL["rbf-svm"].grid[0]


def test_neighbours_are_capped_at_the_rows_and_not_tried_twice() -> None:
    found = candidates(CLASSICAL["euclidean-knn"], *problem(10, 3, 5))
    assert [each.settings["n_neighbors"] for each in found] == [10, 1, 5]


@pytest.mark.parametrize(
    ("shape", "expected"), [((40, 10, 20), None), ((40, 30, 12), 11), ((300, 400, 150), COMPONENTS), ((4, 9, 2), 1)]
)
def test_components_where_features_outnumber_half_of_the_rows(
    shape: tuple[int, int, int], expected: int | None
) -> None:
    assert CLASSICAL["qda"].components(*problem(*shape)) == expected
    assert CLASSICAL["rbf-svm"].components(*problem(*shape)) is None


def test_odds_are_taken_to_equal_priors() -> None:
    matrix, event = np.zeros((12, 1)), np.repeat([1, 0], [3, 9])
    matrix[0] = 50.0
    (found,) = candidates(CLASSICAL["euclidean-knn"], matrix, event, few=True)
    # All twelve vote: 3 to 9, which is what equal priors expect.
    assert found.model.probability(matrix) == pytest.approx([0.5] * 12)


class Moody:
    """Fits at one setting only."""

    def __init__(self, mood: float) -> None:
        self.mood = mood

    def fit(self, rows: Matrix, event: Events) -> None:
        if self.mood < 0:
            raise ValueError("not today")

    def predict_proba(self, rows: Matrix) -> Matrix:
        return np.full((len(rows), 2), self.mood)


def moody(monkeypatch: pytest.MonkeyPatch, *moods: float) -> Classical:
    monkeypatch.setattr(classical, "Moody", Moody, raising=False)
    grid: Any = tuple({"mood": mood} for mood in moods)
    builder = "peftbench.probing.families.classical:Moody"
    return Classical("moody", "Moody", builder, grid=grid, balanced={}, seeded=False)


@pytest.mark.parametrize("bad", [-1.0, np.nan, 2.0])
def test_a_setting_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    found = candidates(moody(monkeypatch, bad, 0.5), *problem(8, 3, 4))
    assert [each.settings["mood"] for each in found] == [0.5]


def test_if_all_fail_one_error_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProbeError, match="moody cannot be fitted to 8 images with 4 events and 3 features: not today"):
        candidates(moody(monkeypatch, -1.0, -2.0), *problem(8, 3, 4))


def test_too_many_rows_are_refused_before_hours_are_spent() -> None:
    matrix, event = np.random.default_rng(0).normal(size=(4001, 1)), np.arange(4001) % 2
    with pytest.raises(ProbeError, match="at most 4,000 training images, got 4,001"):
        next(CLASSICAL["gaussian-process"].candidates(matrix, event, Options()))


def test_users_see_no_warnings_of_the_libraries(recwarn: pytest.WarningsRecorder) -> None:
    for name in ("elastic-net", "mlp", "lda", "perceptron"):
        candidates(CLASSICAL[name], *problem(12, 30, 5))
    assert not [each for each in recwarn if "sklearn" in each.filename]


def test_shrunken_centroids_without_a_threshold_are_diagonal_discriminants() -> None:
    matrix, event = problem(60, 6, 20)
    model = classical.CLASSICAL["shrunken-centroids"].build({"threshold": 0.0}, Options()).fit(matrix, event)
    means = [matrix[event == each].mean(axis=0) for each in (0, 1)]
    spread = np.sqrt(sum(((matrix[event == each] - means[each]) ** 2).sum(axis=0) for each in (0, 1)) / 58)
    spread += np.median(spread)
    far = [(((matrix - mean) / spread) ** 2).sum(axis=1) for mean in means]
    np.testing.assert_allclose(model.decision_function(matrix), (far[0] - far[1]) / 2, atol=1e-9)


def test_a_large_threshold_shrinks_all_features_away() -> None:
    matrix, event = problem(60, 6, 20)
    model = classical.CLASSICAL["shrunken-centroids"].build({"threshold": 1e6}, Options()).fit(matrix, event)
    assert not model.decision_function(matrix).any()
