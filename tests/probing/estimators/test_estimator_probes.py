"""The estimators keep scikit-learn's contract, take any two labels, and answer as the families do."""

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from peftbench.errors import ConfigError
from peftbench.probing.estimators import CentroidProbe, LogisticProbe, NeighborProbe, RidgeProbe
from peftbench.probing.families.centroid import CENTROID
from peftbench.probing.families.family import Options
from peftbench.probing.families.knn import KNN
from peftbench.probing.families.ridge import RIDGE

PROBES = [
    LogisticProbe(),
    RidgeProbe(),
    RidgeProbe(alpha="loo"),
    NeighborProbe(),
    CentroidProbe(),
    CentroidProbe("centred"),
]

X, Y = load_breast_cancer(return_X_y=True)
X, Y = X[:150], Y[:150].astype(np.int64)


@pytest.mark.slow
@parametrize_with_checks(PROBES)
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("probe", PROBES, ids=repr)
@pytest.mark.parametrize("labels", [("alive", "dead"), (-1, 1), (False, True), (7, 40)])
def test_any_two_labels_will_do(probe: Any, labels: tuple[Any, Any]) -> None:
    named = np.array(labels)[Y]
    fitted = probe.fit(X, named)
    assert fitted.classes_.tolist() == sorted(labels)
    probability = fitted.predict_proba(X)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert set(fitted.predict(X)) <= set(labels)
    assert (fitted.predict(X) == named).mean() > 0.85
    np.testing.assert_allclose(probability[:, 1], probe.fit(X, Y).predict_proba(X)[:, 1])


@pytest.mark.parametrize("probe", PROBES, ids=repr)
def test_they_work_inside_pipelines_and_cross_validation(probe: Any) -> None:
    assert cross_val_score(make_pipeline(StandardScaler(), probe), X, Y, cv=3, scoring="roc_auc").min() > 0.9


def test_a_search_over_their_parameters() -> None:
    search = GridSearchCV(NeighborProbe(), {"k": [1, 20], "scaling": ["feature", "global"]}, cv=3).fit(X, Y)
    assert search.best_score_ > 0.85


@pytest.mark.parametrize("class_weight", ["balanced", None, {0: 3.0, 1: 0.5}])
def test_ridge_is_scikit_learns(class_weight: Any) -> None:
    probe = RidgeProbe(alpha=5.0, class_weight=class_weight).fit(X, Y)
    scaled = StandardScaler().fit_transform(X)
    theirs = RidgeClassifier(alpha=5.0, class_weight=class_weight, solver="svd").fit(scaled, Y)
    np.testing.assert_allclose(probe.coef_[0], np.ravel(theirs.coef_), atol=1e-8)
    np.testing.assert_allclose(probe.intercept_, theirs.intercept_, atol=1e-8)
    np.testing.assert_allclose(probe.decision_function(X), theirs.decision_function(scaled), atol=1e-8)


def test_estimators_answer_as_the_families_do() -> None:
    for probe, family in ((RidgeProbe(), RIDGE), (NeighborProbe(), KNN), (CentroidProbe(), CENTROID)):
        for settings, model in family.candidates(X, Y, Options()):
            known = {name: value for name, value in settings.items() if name in probe.get_params()}
            ours = probe.set_params(**known).fit(X, Y)
            np.testing.assert_allclose(ours.predict_proba(X)[:, 1], model.probability(X), atol=1e-6)


def test_ridge_chooses_its_strength_by_what_was_left_out() -> None:
    probe = RidgeProbe(alpha="loo").fit(X, Y)
    losses = {}
    weight = len(Y) / 2 / np.bincount(Y)[Y]
    for settings, model in RIDGE.candidates(X, Y, Options()):
        losses[settings["alpha"]] = -np.mean(weight * np.log(np.where(Y == 1, model.left_out, 1 - model.left_out)))
    assert probe.alpha_ == min(losses, key=losses.__getitem__)
    assert ((probe.left_out_ > 0.5) == Y).mean() > 0.85


@pytest.mark.parametrize("probe", PROBES, ids=repr)
@pytest.mark.parametrize(("labels", "told"), [([1, 1, 1], "got 1 class"), ([0, 1, 2], "got 3 classes")])
def test_labels_of_two_classes_are_needed(probe: Any, labels: list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        probe.fit(np.eye(3), labels)


@pytest.mark.parametrize(
    ("probe", "told"),
    [
        (LogisticProbe(C=0), "C is 0, expected a positive number or 'path'"),
        (LogisticProbe(C="cv"), "C is 'cv'"),  # type: ignore[arg-type]
        (LogisticProbe(tol=-1e-9), "tol is -1e-09, expected a positive number"),
        (LogisticProbe(C="path"), "C is 'path' without an eval_set"),
        (LogisticProbe(class_weight={0: 1.0, 1: 0.0}), "expected positive weights of both classes"),
        (RidgeProbe(alpha=-1), "alpha is -1, expected a positive number or 'loo'"),
        (RidgeProbe(alpha="gcv"), "alpha is 'gcv'"),  # type: ignore[arg-type]
        (RidgeProbe(scaling="max"), "scaling is 'max', expected one of feature"),  # type: ignore[arg-type]
        (NeighborProbe(k=0), "k is 0, expected 1 or more"),
        (CentroidProbe(normalisation="l1"), "normalisation is 'l1', expected one of none, centred"),  # type: ignore[arg-type]
    ],
)
def test_parameters_out_of_range_are_told(probe: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        probe.fit(np.eye(4), [0, 1, 0, 1])
