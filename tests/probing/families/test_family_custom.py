"""A classifier of the user's own is read from a text, checked, and fitted; every fault is one sentence."""

from pathlib import Path

import numpy as np
import pytest
from family_kit import candidates, problem
from sklearn.svm import SVC

from peftbench.errors import ConfigError
from peftbench.probing.families.custom import parse_estimator
from peftbench.probing.families.family import Options, ProbeError

MODULE = """
import numpy as np

class Mine:
    def __init__(self, alpha=1, *, tags=()):
        self.alpha, self.tags = alpha, tags
    def fit(self, X, y):
        if self.alpha == 13:
            raise RuntimeError("unlucky")
    def predict_proba(self, X):
        return np.full((len(X), 2), 0.5)

class Bare:
    def fit(self, X, y):
        pass

class Unfit:
    def decision_function(self, X):
        return X[:, 0]

def maker():
    return Mine()
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_probes.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("raise OSError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    "text", ["sklearn.svm.SVC(C=10, kernel='rbf')", "sklearn.svm:SVC(C=10)", " sklearn.svm.SVC(C=10) "]
)
def test_it_is_the_classifier_that_was_named(text: str) -> None:
    matrix, event = problem(30, 8, 12)
    (found,) = candidates(parse_estimator(text), matrix, event)
    scaled = (matrix - matrix.mean(axis=0)) / matrix.std(axis=0)
    theirs = SVC(C=10, class_weight="balanced").fit(scaled, event)
    assert ((found.model.probability(matrix) > 0.5) == theirs.predict(scaled)).all()
    assert found.settings == {"estimator": text.strip()}
    assert not parse_estimator(text).path


def test_arguments_are_literals_of_any_kind() -> None:
    family = parse_estimator("own_probes:Mine(alpha=-2.5, tags=['a', (1, None)])")
    assert family.arguments == {"alpha": -2.5, "tags": ["a", (1, None)]}
    (found,) = candidates(family, *problem(8, 3, 4))
    assert found.model.probability(np.ones((2, 3))).tolist() == [0.5, 0.5]


def test_seed_and_weights_are_set_where_there_is_a_place_for_them() -> None:
    made = parse_estimator("sklearn.linear_model.SGDClassifier").build(Options(seed=7))
    assert (made.random_state, made.class_weight) == (7, "balanced")
    made = parse_estimator("sklearn.linear_model.SGDClassifier(random_state=1, class_weight=None)").build(
        Options(seed=7)
    )
    assert (made.random_state, made.class_weight) == (1, None)
    assert parse_estimator("sklearn.svm.SVC").build(Options(class_weight="none")).class_weight is None
    assert parse_estimator("xgboost.XGBClassifier(n_estimators=3)").build(Options(seed=7)).random_state == 7


FAULTS = {
    "SVC": "names no class of a module: write it as in",
    "": "names no class",
    "sklearn.svm.": "names no class",
    "sk-learn:SVC": "names no class",
    "no_such_module.SVC": "there is no module 'no_such_module': install its package",
    "sklearn.svm.SVX": "is not in 'sklearn.svm', which has no 'SVX'",
    "own_broken:Mine": "cannot be imported .OSError: no licence.: see that `import own_broken` works",
    "own_probes:maker": "is no class but a function",
    "sklearn.svm.SVC(10)": "has an argument without a name",
    "sklearn.svm.SVC(**{'C': 1})": "has an argument without a name",
    "sklearn.svm.SVC(C=10": "cannot be read",
    "sklearn.svm.SVC(C=1, C=2)": "has an argument twice: give every argument once",
    "sklearn.svm.SVC(C=1).fit": "does not end with its arguments",
    "sklearn.svm.SVC(C=open('x'))": r"has C=open\('x'\), which is no literal",
    "sklearn.svm.SVC(cost=1)": "has no parameter 'cost': its parameters are C, ",
    "own_probes:Bare": "has neither predict_proba nor decision_function",
    "own_probes:Unfit": "has no method fit",
    "sklearn.linear_model.Ridge": "has neither",
    "sklearn.ensemble.VotingClassifier": "cannot be made",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults_are_told_in_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match=FAULTS[text]) as caught:
        parse_estimator(text)
    assert str(caught.value).startswith(f"the estimator {text!r} ")
    assert "\n" not in str(caught.value)


def test_nothing_in_a_text_is_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no literal"):
        parse_estimator(f"sklearn.svm.SVC(C=__import__('pathlib').Path('{tmp_path}/seen').touch())")
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize(
    ("text", "told"), [("sklearn.svm.SVC(C=-1)", "The 'C' parameter"), ("own_probes:Mine(alpha=13)", "unlucky")]
)
def test_a_classifier_that_cannot_be_fitted_is_named(text: str, told: str) -> None:
    with pytest.raises(ProbeError, match=told) as caught:
        candidates(parse_estimator(text), *problem(8, 3, 4))
    assert text in str(caught.value)
