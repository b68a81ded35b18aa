"""The linear probe (LP) as a scikit-learn classifier: logistic regression, solved to a proven gap."""

from collections.abc import Iterator
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.utils.validation import check_consistent_length, validate_data

from peftbench.errors import ConfigError
from peftbench.probing.estimators.base import ClassWeights, MarginProbe
from peftbench.probing.families.family import Candidate, Events, Features, Scaling, Vector
from peftbench.probing.families.logistic import COSTS
from peftbench.probing.families.scaling import Scaler
from peftbench.probing.logistic import LogisticFit, walk_path
from peftbench.probing.newton import TOLERANCE
from peftbench.probing.selecting import choose

EvalSet = tuple[npt.ArrayLike, npt.ArrayLike]


class LinearModel(NamedTuple):
    """A fitted probe in the units of the features as they were given; a `Model`.

    Attributes:
        coefficient: (d,).
        intercept: log odds where all features are 0.
        fit: the same for scaled features.
    """

    coefficient: Vector
    intercept: float
    fit: LogisticFit

    @classmethod
    def of(cls, scaler: Scaler, fit: LogisticFit) -> "LinearModel":
        """From the fit for scaled features."""
        coefficient = fit.coefficient / scaler.scale
        return cls(coefficient, fit.intercept - float(coefficient @ scaler.mean), fit)

    @property
    def left_out(self) -> Vector | None:
        """None."""
        return None

    def decision(self, features: Features) -> Vector:
        """(m,) log odds of the event from (m, d) features."""
        return features.astype(np.float64) @ self.coefficient + self.intercept

    def probability(self, features: Features) -> Vector:
        """(m,) probability of the event from (m, d) features."""
        return np.asarray(expit(self.decision(features)), dtype=np.float64)


class LogisticProbe(MarginProbe):
    """L2-regularised logistic regression on scaled features, as scikit-learn's, at no higher an objective.

        probe = LogisticProbe(C="path").fit(X_train, y_train, eval_set=(X_val, y_val))
        probe.C_, probe.predict_proba(X_test)[:, 1]

    Args:
        C: inverse strength of the regularisation, or "path": of 13 from 1e-5 to 10 the one with the lowest balanced
            log loss on `eval_set`; of equals the strongest.
        scaling: of the features, learnt in `fit`: "feature", "global" or "none".
        class_weight: "balanced", weights by label, or None.
        tol: half the squared Newton decrement at which it ends, relative to the objective.

    Attributes:
        C_: inverse strength that was used.
        coef_: (1, d) in the units of the features as they are given.
        intercept_: (1,).
        gap_: bound of how far the objective lies above its minimum.
        n_iter_: Newton steps.
    """

    def __init__(
        self,
        C: float | Literal["path"] = 1.0,  # noqa: N803 - scikit-learn's name
        scaling: Scaling = "feature",
        class_weight: ClassWeights = "balanced",
        tol: float = TOLERANCE,
    ) -> None:
        self.C = C
        self.scaling = scaling
        self.class_weight = class_weight
        self.tol = tol

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, eval_set: EvalSet | None = None) -> Self:  # noqa: N803
        """Fit to features and labels.

        Args:
            X: (n, d), finite.
            y: (n,) labels of two kinds.
            eval_set: features (m, d) and labels (m,) that C is chosen on; needed by `C="path"` and by nothing else.

        Raises:
            ConfigError: a parameter is out of its range, or `eval_set` is missing.
            ValueError: labels of one class, or of more than two.
        """
        self._check(eval_set)
        models = self._candidates(*self._learn_classes(X, y))
        chosen = next(models) if eval_set is None else self._choose(models, *eval_set)
        self.model_ = chosen.model
        fit = self.model_.fit
        self.C_, self.gap_, self.n_iter_ = fit.C, fit.gap, fit.steps
        self.coef_, self.intercept_ = self.model_.coefficient[None, :], np.array([self.model_.intercept])
        return self

    def _candidates(self, features: Features, event: Events) -> Iterator[Candidate]:
        weight = self._row_weights(self.class_weight, event)
        if not (weight > 0).all():
            raise ConfigError(f"class_weight is {self.class_weight!r}, expected positive weights of both classes")
        scaler = Scaler.fit(features, self.scaling)
        costs = COSTS if self.C == "path" else [float(self.C)]
        for fit in walk_path(scaler.apply(features), event, costs, weight=weight, tolerance=self.tol):
            yield Candidate({"C": fit.C}, LinearModel.of(scaler, fit))

    def _choose(self, models: Iterator[Candidate], X: npt.ArrayLike, y: npt.ArrayLike) -> Candidate:  # noqa: N803
        event = self._event_of(y)
        if event.min() == event.max():
            raise ValueError("eval_set has labels of one class only: C cannot be chosen on it")
        features = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        check_consistent_length(features, event)
        return choose(models, features, event, "log-loss", path=True).candidate

    def _check(self, eval_set: EvalSet | None) -> None:
        if self.C != "path" and not _positive(self.C):
            raise ConfigError(f"C is {self.C!r}, expected a positive number or 'path'")
        if not _positive(self.tol):
            raise ConfigError(f"tol is {self.tol!r}, expected a positive number")
        if (self.C == "path") != (eval_set is not None):
            raise ConfigError(
                f"C is {self.C!r} {'without' if eval_set is None else 'with'} an eval_set: C='path' needs one"
            )


def _positive(value: object) -> bool:
    return isinstance(value, int | float | np.number) and 0 < float(value) < np.inf
