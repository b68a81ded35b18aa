"""The Cox probe: the rows that it may use, the solution against another solver, and that it learns on training rows."""

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from peftbench.errors import ConfigError, MissingPackageError
from peftbench.probing.clinical import Blocks
from peftbench.probing.survival import (
    PENALTIES,
    SurvivalError,
    SurvivalRows,
    cox_fold,
    fit_path,
    partial_likelihood,
)
from peftbench.protocol.tasks import Task, TaskRows, TimeToEvent

NAN = float("nan")

TASK = Task(
    name="TOY",
    cohort="toy",
    question="Will it happen?",
    label="outcome",
    outcome="icu",
    time=TimeToEvent(event="days_to_it", censored="days_seen"),
)


def task_rows(event: Sequence[int], to_it: Sequence[float], seen: Sequence[float], task: Task = TASK) -> TaskRows:
    return TaskRows(task, pd.DataFrame({"event": event, "days_to_it": to_it, "days_seen": seen}), ())


class TestRows:
    def test_each_row_has_its_time_or_a_reason(self) -> None:
        rows = task_rows(
            [1, 1, 1, 1, 0, 0, 0, 0],
            [3, 0, -2, NAN, 9, NAN, NAN, NAN],
            [9, 9, 9, 9, 7, 0, NAN, 5],
        )
        found = SurvivalRows.of(rows)
        assert found.positions.tolist() == [0, 4, 7]
        assert found.time.tolist() == [3, 7, 5]
        assert found.observed.tolist() == [True, False, False]
        assert {each.reason: each.images for each in found.exclusions} == {
            "the day of the event is not known": 1,
            "the event came before the film or on its day": 2,
            "not known how long the patient was under observation": 1,
            "not under observation after the film's day": 1,
        }
        assert found.among([7, 1, 0, 2]).tolist() == [0, 2]
        assert found.among([]).tolist() == []

    def test_a_column_without_any_value_is_a_column_without_a_time(self) -> None:
        rows = task_rows([0, 1], [NAN, 4], [NAN, NAN])
        rows = rows._replace(frame=rows.frame.assign(days_seen=pd.Series([None, None], dtype=object)))
        assert SurvivalRows.of(rows).positions.tolist() == [1]

    def test_a_task_without_times_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="'TOY' does not tell when"):
            SurvivalRows.of(task_rows([1], [1], [1], TASK.model_copy(update={"time": None})))
        rows = task_rows([1], [1], [1])
        with pytest.raises(ConfigError, match=r"lacks the column 'days_seen'.*prepare the cohort again"):
            SurvivalRows.of(rows._replace(frame=rows.frame.drop(columns="days_seen")))


def cohort(seed: int, rows: int, dim: int, days: int = 12) -> tuple[Any, Any, Any]:
    """Features whose first two drive the hazard; days in whole numbers, so that many are equal."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, dim))
    time = np.ceil(rng.exponential(np.exp(-1.5 * features[:, 0] + features[:, 1])) * days)
    return features, time, rng.random(rows) < 0.6


def by_loops(time: Any, observed: Any, risk: Any) -> float:
    return sum(
        risk[place] - math.log(sum(math.exp(each) for each, day in zip(risk, time, strict=True) if day >= time[place]))
        for place in range(len(time))
        if observed[place]
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_partial_likelihood_is_what_loops_give(seed: int) -> None:
    features, time, observed = cohort(seed, 40, 3)
    risk = features @ np.array([1.0, -1.0, 0.3])
    assert partial_likelihood(time, observed, risk) == pytest.approx(by_loops(time, observed, risk))
    assert partial_likelihood(time, observed, risk + 700) == pytest.approx(by_loops(time, observed, risk))
    assert partial_likelihood(time, np.zeros(40, dtype=bool), risk) == 0.0


@pytest.fixture
def sksurv() -> Any:
    return pytest.importorskip("sksurv.linear_model", reason="scikit-survival is not installed")


def newton(sksurv: Any, features: Any, time: Any, observed: Any, penalty: float) -> npt.NDArray[np.float64]:
    from sksurv.util import Surv

    model = sksurv.CoxPHSurvivalAnalysis(alpha=penalty, ties="breslow", tol=1e-13)
    return np.asarray(model.fit(features, Surv.from_arrays(observed, time)).coef_)


class TestPath:
    @pytest.mark.parametrize(("rows", "dim"), [(60, 5), (25, 60), (12, 12)])
    def test_it_is_the_solution_of_newtons_method(self, sksurv: Any, rows: int, dim: int) -> None:
        features, time, observed = cohort(rows, rows, dim)
        features -= features.mean(axis=0)
        for penalty, coefficient in fit_path(features, time, observed, (1000.0, 30.0, 3.0)):
            expected = newton(sksurv, features, time, observed, penalty)
            np.testing.assert_allclose(coefficient, expected, atol=2e-4 * np.abs(expected).max())

    def test_few_events_do_not_end_the_path_early(self, sksurv: Any) -> None:
        features, time, _ = cohort(1, 16, 9)
        observed = np.arange(16) < 4
        features -= features.mean(axis=0)
        assert [penalty for penalty, _ in fit_path(features, time, observed)] == list(PENALTIES)

    def test_features_of_one_value_have_no_weight(self, sksurv: Any) -> None:
        _, time, observed = cohort(1, 16, 2)
        assert [not each.any() for _, each in fit_path(np.zeros((16, 3)), time, observed, (9.0, 1.0))] == [True, True]

    @pytest.mark.parametrize("penalties", [(), (1.0, 2.0), (1.0, 1.0), (1.0, 0.0)])
    def test_a_path_falls_and_is_positive(self, penalties: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="positive and falling"):
            fit_path(*cohort(1, 16, 2), penalties)

    def test_without_a_solution_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("peftbench.probing.survival._coxnet", lambda *_: None)
        with pytest.raises(SurvivalError, match="16 rows with"):
            list(fit_path(*cohort(1, 16, 2), (1.0,)))


def parts(rows: int) -> list[npt.NDArray[np.int64]]:
    order = np.random.default_rng(9).permutation(rows)
    return np.split(order, [rows * 6 // 10, rows * 8 // 10])


class TestFold:
    def test_it_finds_what_drives_the_hazard(self, sksurv: Any) -> None:
        features, time, observed = cohort(3, 300, 20)
        found = cox_fold(features, time, observed, *parts(300))
        assert found.concordance.value > 0.7
        assert found.concordance.pairs > 100
        assert found.penalty in PENALTIES
        assert [len(found.validation_risk), len(found.test_risk)] == [60, 60]

    def test_noise_is_given_the_strongest_penalties(self, sksurv: Any) -> None:
        features, time, observed = cohort(3, 200, 80)
        noise = np.random.default_rng(7).normal(size=features.shape)
        assert cox_fold(noise, time, observed, *parts(200)).penalty >= 300

    def test_the_penalty_is_the_one_that_the_validation_part_likes_best(self, sksurv: Any) -> None:
        features, time, observed = cohort(4, 90, 6)
        train, validation, test = parts(90)
        found = cox_fold(features, time, observed, train, validation, test, penalties=(300.0, 10.0, 1.0))
        both = np.concatenate([train, validation])
        scaled = (features - features[train].mean(axis=0)) / features[train].std(axis=0)
        gains = {}
        for penalty in (300.0, 10.0, 1.0):
            risk = scaled @ newton(sksurv, scaled[train], time[train], observed[train], penalty)
            gains[penalty] = by_loops(time[both], observed[both], risk[both]) - by_loops(
                time[train], observed[train], risk[train]
            )
        assert found.penalty == max(gains, key=lambda each: gains[each])
        assert found.validation_likelihood == pytest.approx(max(gains.values()), abs=1e-3)

    def test_the_test_part_is_only_predicted(self, sksurv: Any) -> None:
        features, time, observed = cohort(5, 80, 10)
        train, validation, test = parts(80)
        before = cox_fold(features, time, observed, train, validation, test)
        features[test], time[test], observed[test] = 50.0, 1.0, True
        after = cox_fold(features, time, observed, train, validation, test)
        np.testing.assert_array_equal(before.validation_risk, after.validation_risk)
        assert (before.penalty, before.validation_likelihood) == (after.penalty, after.validation_likelihood)

    def test_scaled_features_are_taken_as_they_are(self, sksurv: Any) -> None:
        features, time, observed = cohort(6, 80, 10)
        train, validation, test = parts(80)
        scaled = Blocks.fit(features[train], None).apply(features, None)
        plain = cox_fold(features, time, observed, train, validation, test)
        found = cox_fold(scaled, time, observed, train, validation, test, scaled=True)
        np.testing.assert_allclose(found.test_risk, plain.test_risk, atol=1e-6)
        moved = cox_fold(scaled + 100.0, time, observed, train, validation, test, scaled=True)
        np.testing.assert_allclose(moved.test_risk, plain.test_risk, atol=1e-5)

    def test_without_an_event_in_training_there_is_a_reason_instead_of_a_model(self) -> None:
        features, time, observed = cohort(7, 50, 4)
        train, validation, test = parts(50)
        observed[train] = False
        found = cox_fold(features, time, observed, train, validation, test)
        assert math.isnan(found.concordance.value)
        assert "none of the 30 rows of the training part" in found.concordance.reason
        assert not found.test_risk.any()

    def test_without_a_test_row_there_is_a_reason(self, sksurv: Any) -> None:
        features, time, observed = cohort(8, 50, 4)
        train, validation, test = parts(50)
        found = cox_fold(features, time, observed, train, validation, test[:0])
        assert math.isnan(found.concordance.value)
        assert "no row of the test part" in found.concordance.reason


def test_without_scikit_survival_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("sksurv"):
            raise ImportError(name)
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingPackageError, match=r"pip install 'peftbench\[survival\]'"):
        cox_fold(*cohort(1, 30, 3), *parts(30))
