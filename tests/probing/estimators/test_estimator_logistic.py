"""The linear probe is scikit-learn's logistic regression, in the units of the features as they are given."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from peftbench.errors import ConfigError
from peftbench.probing.estimators import LogisticProbe
from peftbench.probing.families.family import Options
from peftbench.probing.families.logistic import COSTS, LOGISTIC

X, Y = load_breast_cancer(return_X_y=True)
TRAIN, VALIDATION = np.arange(0, 300), np.arange(300, 569)

CLASS_WEIGHTS = ["balanced", None, {0: 3.0, 1: 0.5}]


def reference(features: npt.NDArray[Any], cost: float, class_weight: Any) -> LogisticRegression:
    return LogisticRegression(C=cost, class_weight=class_weight, tol=1e-10, max_iter=100_000).fit(features, Y)


@pytest.mark.parametrize("class_weight", CLASS_WEIGHTS)
@pytest.mark.parametrize("cost", [1e-3, 1.0])
def test_coefficients_are_those_of_a_pipeline_in_the_units_of_the_features(class_weight: Any, cost: float) -> None:
    probe = LogisticProbe(C=cost, class_weight=class_weight, tol=1e-14).fit(X, Y)
    scaler = StandardScaler().fit(X)
    theirs = reference(scaler.transform(X), cost, class_weight)
    coefficient = theirs.coef_ / scaler.scale_
    np.testing.assert_allclose(probe.coef_ * X.std(axis=0), theirs.coef_, rtol=0, atol=1e-5)
    np.testing.assert_allclose(probe.intercept_, theirs.intercept_ - coefficient @ scaler.mean_, rtol=0, atol=1e-3)
    np.testing.assert_allclose(probe.decision_function(X), theirs.decision_function(scaler.transform(X)), atol=1e-3)
    np.testing.assert_allclose(probe.decision_function(X), X @ probe.coef_[0] + probe.intercept_, atol=1e-9)


def test_without_scaling_it_is_the_regression_on_the_features_themselves() -> None:
    scaled = StandardScaler().fit_transform(X)
    probe = LogisticProbe(C=0.1, scaling="none", tol=1e-14).fit(scaled, Y)
    np.testing.assert_allclose(probe.coef_, reference(scaled, 0.1, "balanced").coef_, rtol=0, atol=1e-5)


def test_one_number_scales_all_features_globally() -> None:
    centred = X - X.mean(axis=0)
    scale = np.sqrt(np.mean(centred**2))
    probe = LogisticProbe(C=0.1, scaling="global", tol=1e-14).fit(X, Y)
    theirs = reference(centred / scale, 0.1, "balanced")
    np.testing.assert_allclose(probe.decision_function(X), theirs.decision_function(centred / scale), atol=1e-2)


def test_what_is_left_to_the_minimum_is_told() -> None:
    rough, exact = LogisticProbe(tol=1e-3).fit(X, Y), LogisticProbe(tol=1e-14).fit(X, Y)
    objective = [each.model_.fit.objective for each in (rough, exact)]
    assert 0 <= objective[0] - objective[1] <= 2 * rough.gap_ + 1e-9
    assert rough.n_iter_ <= exact.n_iter_


class TestPath:
    def test_the_strength_with_the_lowest_loss_on_the_evaluation_set_is_taken(self) -> None:
        probe = LogisticProbe(C="path").fit(X[TRAIN], Y[TRAIN], eval_set=(X[VALIDATION], Y[VALIDATION]))
        weight = 1 / np.bincount(Y[VALIDATION])[Y[VALIDATION]]
        losses = {}
        for cost in COSTS:
            model = LogisticRegression(C=cost, class_weight="balanced", max_iter=1000)
            pipeline = make_pipeline(StandardScaler(), model).fit(X[TRAIN], Y[TRAIN])
            probability = pipeline.predict_proba(X[VALIDATION])[:, 1]
            losses[cost] = log_loss(Y[VALIDATION], probability, sample_weight=weight)
        assert min(losses, key=losses.__getitem__) == probe.C_

    def test_it_answers_as_the_family_does(self) -> None:
        probe = LogisticProbe(C="path").fit(X[TRAIN], Y[TRAIN], eval_set=(X[VALIDATION], Y[VALIDATION]))
        for settings, model in LOGISTIC.candidates(X[TRAIN], Y[TRAIN], Options()):
            if settings["C"] == probe.C_:
                np.testing.assert_allclose(probe.predict_proba(X)[:, 1], model.probability(X), atol=1e-9)

    def test_labels_may_be_of_any_kind(self) -> None:
        named = np.array(["alive", "dead"])[Y]
        probe = LogisticProbe(C="path").fit(X[TRAIN], named[TRAIN], eval_set=(X[VALIDATION], named[VALIDATION]))
        assert (probe.predict(X) == named).mean() > 0.9

    def test_an_evaluation_set_without_a_path_has_no_use(self) -> None:
        with pytest.raises(ConfigError, match=r"C is 1\.0 with an eval_set"):
            LogisticProbe().fit(X, Y, eval_set=(X, Y))

    @pytest.mark.parametrize(
        ("features", "labels", "told"),
        [
            (X, np.full(len(Y), 2), "label 2 was not among those that were fitted"),
            (X, np.zeros(len(Y), dtype=int), "labels of one class only"),
            (X[:, :3], Y, "features"),
            (X[:5], Y, "inconsistent numbers of samples"),
        ],
    )
    def test_an_evaluation_set_that_does_not_fit_is_refused(self, features: Any, labels: Any, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            LogisticProbe(C="path").fit(X, Y, eval_set=(features, labels))
