"""What all doors do alike: judged at home and elsewhere, and one form of what was predicted there."""

import math

import numpy as np
import pandas as pd
import pytest
from task_kit import cohort_rows

from peftbench.protocol.judging import (
    NOT_REFITTED,
    Judged,
    Spoken,
    headline_of,
    judge,
    judge_elsewhere,
    null_of_test_labels,
    prediction_rows,
    together,
)
from peftbench.protocol.names import HEADLINE
from peftbench.protocol.records import PREDICTION_COLUMNS
from peftbench.protocol.tasks import TaskRows

HOME, AWAY = cohort_rows(8, 12), cohort_rows(6, 9)

VALIDATION = [np.array([0, 1, 10, 11]), np.array([2, 3, 12, 13])]


def scores(rows: TaskRows, seed: int, signal: float = 0.5) -> np.ndarray:
    event = rows.frame["event"].to_numpy()
    return np.clip(np.random.default_rng(seed).normal(0.5 + signal * (event - 0.5), 0.2), 0, 1)


def spoken(seed: int) -> Spoken:
    return Spoken(VALIDATION[seed], scores(HOME, seed)[VALIDATION[seed]], scores(AWAY, 10 + seed))


@pytest.fixture
def predictions() -> pd.DataFrame:
    return together(HOME.frame, AWAY.frame, [spoken(0), spoken(1)])


@pytest.fixture
def judged(predictions: pd.DataFrame) -> Judged:
    return judge_elsewhere(predictions, [{"C": 1.0}, {"C": 0.1}], AWAY)


class TestTogether:
    def test_every_model_speaks_and_all_of_them_at_once(self, predictions: pd.DataFrame) -> None:
        assert tuple(predictions.columns) == PREDICTION_COLUMNS
        counts = predictions.groupby(["fold", "role"]).size().to_dict()
        assert counts == {
            (HEADLINE, "test"): 15, (HEADLINE, "validation"): 8,
            **{(fold, role): count for fold in (0, 1) for role, count in (("test", 15), ("validation", 4))},
        }  # fmt: skip

    def test_the_headline_is_the_mean_score(self, predictions: pd.DataFrame) -> None:
        tested = headline_of(predictions).query("role == 'test'")
        assert tested["sample_id"].tolist() == AWAY.frame["sample_id"].tolist()
        np.testing.assert_allclose(tested["score"], (scores(AWAY, 10) + scores(AWAY, 11)) / 2)

    def test_its_threshold_is_tuned_on_what_all_models_held_out(self, predictions: pd.DataFrame) -> None:
        held = headline_of(predictions).query("role == 'validation'")
        assert held["sample_id"].tolist() == HOME.frame["sample_id"].iloc[np.concatenate(VALIDATION)].tolist()
        assert held["score"].tolist() == [*spoken(0).held_out, *spoken(1).held_out]


class TestElsewhere:
    def test_each_model_has_scores_and_says_what_was_chosen(self, judged: Judged) -> None:
        assert [(score.fold, score.unit) for score in judged.scores] == [
            (fold, unit) for fold in (0, 1, HEADLINE) for unit in ("image", "patient")
        ]
        assert [score.chosen for score in judged.scores[::2]] == [{"C": 1.0}, {"C": 0.1}, {"models": 2}]

    def test_the_summary_is_of_all_models_together(self, judged: Judged) -> None:
        headline = next(score for score in judged.scores if score.fold == HEADLINE and score.unit == "image")
        assert judged.summary["image"]["mcc"]["folds"] == 1
        assert judged.mcc("image") == headline.metrics["mcc"]
        assert judged.distribution == {}
        assert sum(each["count"] for each in judged.reliability) == len(AWAY.frame)

    def test_what_a_record_says_of_it(self, judged: Judged) -> None:
        assert set(judged.told()) == {"summary", "distribution", "strata", "reliability"}


def at_home(signal: float = 0.5, draws: int = 1) -> pd.DataFrame:
    return pd.concat(
        [prediction_rows(HOME.frame, 0, "test", scores(HOME, draw, signal), draw) for draw in range(draws)]
    )


class TestAtHome:
    def test_draws_have_a_distribution_and_views_their_scores(self) -> None:
        judged = judge(at_home(draws=3), {(0, draw): {} for draw in range(3)}, HOME)
        assert judged.distribution["image"]["mcc"]["draws"] == 3
        assert [each["value"] for each in judged.strata] == ["AP", "PA"]
        assert judge(at_home(), {(0, 0): {}}, HOME).distribution == {}

    def test_without_a_usable_fold_there_is_no_mcc(self) -> None:
        one_class = cohort_rows(0, 5)
        judged = judge(prediction_rows(one_class.frame, 0, "test", np.full(5, 0.2)), {(0, 0): {}}, one_class)
        assert math.isnan(judged.mcc("image"))


class TestNull:
    def test_it_says_that_nothing_was_fitted_anew(self) -> None:
        null = null_of_test_labels(at_home(1.0), "image", 50, 0, 0.9)
        assert (null["how"], null["permutations"], null["unit"]) == (NOT_REFITTED, 50, "image")
        assert null["p"] == pytest.approx(1 / 51)

    @pytest.mark.parametrize(("permutations", "observed"), [(0, 0.5), (10, math.nan)])
    def test_without_permutations_or_score_there_is_none(self, permutations: int, observed: float) -> None:
        assert null_of_test_labels(at_home(), "image", permutations, 0, observed) == {}
