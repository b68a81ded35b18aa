"""The classical classifiers: scikit-learn's and XGBoost, one line of a table each, behind one way to fit them.

Every line names its builder, what is fixed, a small grid (the default first), how it is told that both classes weigh
the same, and what its features need. Nothing is imported before a candidate is asked for. All run on one thread, and
all that is random takes the seed of the options.

How classes come to weigh the same, in this order of preference:

- `setting`: a parameter of the classifier (class weights; equal priors);
- `rows`: weights of the training rows;
- `odds`: neither is to be had. The predicted odds are divided by those of the training part, which takes a posterior to
  equal priors (Saerens, Latinne and Decaestecker 2002).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np

from peftbench.probing.families.family import Candidate, Events, Features, Options, ProbeError, Setting, Vector
from peftbench.probing.families.slope import row_weights
from peftbench.probing.families.wrapping import Preparation, fit_estimator

Balance = Literal["setting", "rows", "odds"]

COMPONENTS = 50
"""Principal components that a classifier gets which suffers from many features."""


@dataclass(frozen=True)
class Classical:
    """One classifier; a `Family`.

    Attributes:
        title: for people.
        builder: "module:callable", called with the settings.
        fixed: settings that stay.
        grid: settings to choose among, the default first.
        balance: how classes come to weigh the same.
        balanced: the setting for it, where `balance` is "setting".
        seeded: whether it takes `random_state`.
        scaled: whether it needs scaled features; trees do not.
        reduced: whether it gets principal components, at most COMPONENTS, where features outnumber half of the rows:
            `all` of the rows, or those of the smaller `class`, which then has more rows than components.
        unit: whether rows get a root mean square length of 1, the unit of a kernel's width.
        capped: setting that may not be above the number of rows.
        most_rows: training rows beyond which it takes too long or too much memory.
    """

    name: str
    title: str
    builder: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[Mapping[str, Setting], ...] = ({},)
    balance: Balance = "setting"
    balanced: Mapping[str, Any] = field(default_factory=lambda: {"class_weight": "balanced"})
    seeded: bool = True
    scaled: bool = True
    reduced: Literal["no", "all", "class"] = "no"
    unit: bool = False
    capped: str = ""
    most_rows: int | None = None
    path: bool = False

    def candidates(self, features: Features, event: Events, options: Options) -> Iterator[Candidate]:
        """See `Family`; a setting that cannot be fitted is left out.

        Raises:
            ProbeError: no setting can be fitted, or the training part is too large.
        """
        if self.most_rows is not None and len(event) > self.most_rows:
            raise ProbeError(
                f"the probe {self.name} takes at most {self.most_rows:,} training images, got {len(event):,}: "
                "use another probe, or train on fewer images"
            )
        if (features == features[:1]).all():
            yield Candidate(dict(self.grid[0]), _Base(event, options))
            return
        yield from self._fitted(_Part(self, features, event, options))

    def _fitted(self, part: "_Part") -> Iterator[Candidate]:
        faults = []
        settings = part.settings()
        for each in settings:
            try:
                candidate = part.fit(each)
            except ProbeError as error:
                faults.append(error)
            else:
                yield candidate
        if len(faults) == len(settings):
            raise faults[0]

    def build(self, settings: Mapping[str, Setting], options: Options) -> Any:
        """The classifier, unfitted."""
        given = {**self.fixed, **settings}
        if self.balance == "setting" and options.class_weight == "balanced":
            given |= self.balanced
        if self.seeded:
            given["random_state"] = options.seed
        module, name = self.builder.split(":")
        return getattr(import_module(module), name)(**given)

    def components(self, features: Features, event: Events) -> int | None:
        """How many principal components it gets; None: the features themselves."""
        dim: int = features.shape[1]
        rows: int = np.bincount(event, minlength=2).min().item() if self.reduced == "class" else len(event)
        if self.reduced == "no" or dim <= rows / 2:
            return None
        return max(1, min(rows - 1, dim, COMPONENTS))


class _Part:
    """A training part, prepared once for all settings of a classifier."""

    def __init__(self, kind: Classical, features: Features, event: Events, options: Options) -> None:
        self.kind, self.features, self.event, self.options = kind, features, event, options
        scaling = options.scaling if kind.scaled else "none"
        self.preparation = Preparation.fit(features, scaling, kind.components(features, event), unit=kind.unit)
        balanced = options.class_weight == "balanced"
        self.weight = row_weights(event, "balanced") if balanced and kind.balance == "rows" else None
        self.odds = float((event == 0).sum() / event.sum()) if balanced and kind.balance == "odds" else 1.0

    def settings(self) -> list[dict[str, Setting]]:
        """The grid, or its default; where several come to the same, one of them."""
        asked = [self._within(each) for each in (self.kind.grid[:1] if self.options.few else self.kind.grid)]
        return [each for at, each in enumerate(asked) if each not in asked[:at]]

    def fit(self, settings: Mapping[str, Setting]) -> Candidate:
        estimator = self.kind.build(settings, self.options)
        model = fit_estimator(
            self.kind.name, estimator, self.preparation, self.features, self.event, self.weight, self.odds
        )
        return Candidate(settings, model)

    def _within(self, settings: Mapping[str, Setting]) -> dict[str, Setting]:
        value = settings.get(self.kind.capped)
        return {**settings, self.kind.capped: min(value, len(self.event))} if isinstance(value, int) else {**settings}


class _Base(NamedTuple):
    """The answer to features that are all the same: the share of events, or equal chances."""

    event: Events
    options: Options

    @property
    def left_out(self) -> None:
        return None

    def probability(self, features: Features) -> Vector:
        share = 0.5 if self.options.class_weight == "balanced" else float(self.event.mean())
        return np.full(len(features), share)


def elastic_logistic(**settings: Any) -> Any:
    """scikit-learn's logistic regression with both penalties; before 1.8 it wants to be told so twice."""
    from inspect import signature  # noqa: PLC0415 - scikit-learn is slow to import

    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    if signature(LogisticRegression).parameters["penalty"].default == "l2":
        settings["penalty"] = "elasticnet"
    return LogisticRegression(solver="saga", **settings)


def boosted_stumps(random_state: int, **settings: Any) -> Any:
    """AdaBoost over stumps that each see a random root of the features: all of them would take minutes."""
    from sklearn.ensemble import AdaBoostClassifier  # noqa: PLC0415
    from sklearn.tree import DecisionTreeClassifier  # noqa: PLC0415

    stump = DecisionTreeClassifier(max_depth=1, max_features="sqrt")
    return AdaBoostClassifier(stump, random_state=random_state, **settings)


def bagged_trees(min_samples_leaf: int, random_state: int, class_weight: str | None = None, **settings: Any) -> Any:
    """Trees on bootstraps of the rows and random tenths of the features."""
    from sklearn.ensemble import BaggingClassifier  # noqa: PLC0415
    from sklearn.tree import DecisionTreeClassifier  # noqa: PLC0415

    tree = DecisionTreeClassifier(min_samples_leaf=min_samples_leaf, class_weight=class_weight)
    return BaggingClassifier(tree, max_features=0.1, n_jobs=1, random_state=random_state, **settings)


def gaussian_process(length: float, amplitude: float, random_state: int) -> Any:
    """A Gaussian process with a fixed kernel: to search its maximum of likelihood takes minutes."""
    from sklearn.gaussian_process import GaussianProcessClassifier  # noqa: PLC0415
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel  # noqa: PLC0415

    kernel = ConstantKernel(amplitude) * RBF(length)
    return GaussianProcessClassifier(kernel, optimizer=None, random_state=random_state)


def _each(name: str, *values: Setting) -> tuple[Mapping[str, Setting], ...]:
    return tuple({name: value} for value in values)


_EQUAL_PRIORS = {"priors": (0.5, 0.5)}

_TREES = partial(Classical, scaled=False, fixed={"n_estimators": 200, "n_jobs": 1})

_TABLE: tuple[Classical, ...] = (
    Classical(
        "elastic-net",
        "logistic regression with an elastic net",
        "peftbench.probing.families.classical:elastic_logistic",
        {"l1_ratio": 0.5, "max_iter": 100, "tol": 1e-3},
        _each("C", 0.1, 0.01, 1.0),
    ),
    Classical(
        "linear-svm",
        "linear support vector machine",
        "sklearn.svm:LinearSVC",
        {"dual": "auto", "max_iter": 2000},
        _each("C", 0.01, 1e-4, 1e-3, 0.1),
    ),
    Classical(
        "rbf-svm",
        "support vector machine with a radial kernel",
        "sklearn.svm:SVC",
        {"kernel": "rbf", "gamma": "scale"},
        _each("C", 1.0, 0.1, 10.0, 100.0),
    ),
    Classical(
        "poly-svm",
        "support vector machine with a cubic kernel",
        "sklearn.svm:SVC",
        {"kernel": "poly", "degree": 3, "coef0": 1.0, "gamma": "scale"},
        _each("C", 0.1, 0.01, 1.0, 10.0),
    ),
    Classical(
        "sgd",
        "linear support vector machine by averaged stochastic gradients",
        "sklearn.linear_model:SGDClassifier",
        {"loss": "hinge", "average": True, "max_iter": 200},
        _each("alpha", 0.1, 1.0, 0.01, 0.001),
    ),
    Classical(
        "perceptron",
        "perceptron with a quadratic penalty",
        "sklearn.linear_model:Perceptron",
        {"penalty": "l2", "max_iter": 200},
        _each("alpha", 1e-4, 1e-3, 1e-2),
    ),
    Classical(
        "lda",
        "linear discriminant analysis with shrinkage",
        "sklearn.discriminant_analysis:LinearDiscriminantAnalysis",
        {"solver": "lsqr"},
        _each("shrinkage", "auto", 0.9, 0.5),
        balanced=_EQUAL_PRIORS,
        seeded=False,
    ),
    Classical(
        "qda",
        "regularised quadratic discriminant analysis",
        "sklearn.discriminant_analysis:QuadraticDiscriminantAnalysis",
        {},
        _each("reg_param", 0.5, 0.9, 0.1),
        balanced=_EQUAL_PRIORS,
        seeded=False,
        reduced="class",
    ),
    Classical(
        "gaussian-nb",
        "Gaussian naive Bayes",
        "sklearn.naive_bayes:GaussianNB",
        {},
        _each("var_smoothing", 1e-3, 1e-9, 0.1),
        balanced=_EQUAL_PRIORS,
        seeded=False,
    ),
    Classical(
        "bernoulli-nb",
        "Bernoulli naive Bayes on the signs of scaled features",
        "sklearn.naive_bayes:BernoulliNB",
        {},
        _each("alpha", 1.0, 10.0, 0.1),
        balanced={"fit_prior": False},
        seeded=False,
    ),
    Classical(
        "shrunken-centroids",
        "nearest shrunken centroids",
        "peftbench.probing.families.shrunken:ShrunkenCentroids",
        {},
        _each("threshold", 1.0, 0.0, 0.5, 2.0, 3.0),
        # Its two centroids count the same anyway.
        balanced={},
        seeded=False,
    ),
    Classical(
        "euclidean-knn",
        "nearest neighbours by Euclidean distance, one vote each",
        "sklearn.neighbors:KNeighborsClassifier",
        {"algorithm": "brute", "n_jobs": 1},
        _each("n_neighbors", 15, 1, 5, 50),
        balance="odds",
        seeded=False,
        capped="n_neighbors",
    ),
    Classical(
        "gaussian-process",
        "Gaussian process classifier",
        "peftbench.probing.families.classical:gaussian_process",
        {},
        tuple({"length": length, "amplitude": amplitude} for length in (1.0, 3.0) for amplitude in (1.0, 10.0)),
        balance="odds",
        unit=True,
        most_rows=4000,
    ),
    Classical(
        "mlp",
        "neural network of one hidden layer",
        "sklearn.neural_network:MLPClassifier",
        {"hidden_layer_sizes": (64,), "max_iter": 50},
        _each("alpha", 1.0, 0.1, 10.0),
        balance="odds",
    ),
    Classical(
        "tree",
        "decision tree",
        "sklearn.tree:DecisionTreeClassifier",
        {"min_samples_leaf": 5},
        _each("max_depth", 3, 1, 5, None),
        scaled=False,
    ),
    _TREES(
        "random-forest",
        "random forest",
        "sklearn.ensemble:RandomForestClassifier",
        grid=_each("min_samples_leaf", 2, 5, 10),
    ),
    _TREES(
        "extra-trees",
        "extremely randomised trees",
        "sklearn.ensemble:ExtraTreesClassifier",
        grid=_each("min_samples_leaf", 2, 5, 10),
    ),
    Classical(
        "bagging",
        "bagged decision trees on random tenths of the features",
        "peftbench.probing.families.classical:bagged_trees",
        {"n_estimators": 50},
        _each("min_samples_leaf", 5, 2, 10),
        scaled=False,
    ),
    Classical(
        "adaboost",
        "AdaBoost over stumps",
        "peftbench.probing.families.classical:boosted_stumps",
        {"n_estimators": 100},
        _each("learning_rate", 0.5, 0.1, 1.0),
        balance="rows",
        scaled=False,
    ),
    Classical(
        "gradient-boosting",
        "gradient boosting of trees",
        "sklearn.ensemble:GradientBoostingClassifier",
        {"n_estimators": 100, "max_features": "sqrt", "subsample": 0.8},
        _each("max_depth", 3, 1, 5),
        balance="rows",
        scaled=False,
    ),
    Classical(
        "hist-gradient-boosting",
        "gradient boosting of trees on binned features",
        "sklearn.ensemble:HistGradientBoostingClassifier",
        {"max_iter": 100, "max_leaf_nodes": 8, "min_samples_leaf": 5, "early_stopping": False},
        _each("learning_rate", 0.1, 0.03),
        scaled=False,
        reduced="all",
    ),
    Classical(
        "xgboost",
        "XGBoost",
        "xgboost:XGBClassifier",
        {
            "n_estimators": 100,
            "learning_rate": 0.1,
            "subsample": 0.8,
            "colsample_bytree": 0.3,
            "tree_method": "hist",
            "device": "cpu",
            "nthread": 1,
            "verbosity": 0,
        },
        _each("max_depth", 3, 1, 6),
        balance="rows",
        scaled=False,
    ),
)

CLASSICAL: dict[str, Classical] = {each.name: each for each in _TABLE}
"""Name to family."""
