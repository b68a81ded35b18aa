"""Ridge regression on -1 and 1 as a scikit-learn classifier."""

from typing import Literal

import numpy as np

from peftbench.errors import ConfigError
from peftbench.probing.estimators.base import ClassWeights, MarginProbe
from peftbench.probing.families.family import Events, Features, Scaling, Vector
from peftbench.probing.families.ridge import STRENGTHS, RidgeModel, decompose, ridge_model
from peftbench.probing.families.scaling import Scaler


class RidgeProbe(MarginProbe):
    """Ridge regression on scaled features, with a calibrated probability.

    Args:
        alpha: strength, in the unit of scikit-learn's Ridge, or "loo": of 13 strengths the one with the lowest
            weighted log loss of the exact left-out probabilities; of equals the strongest.
        scaling: of the features, learnt in `fit`: "feature", "global" or "none".
        class_weight: "balanced", weights by label, or None.

    Attributes:
        alpha_: strength that was used.
        coef_: (1, d) for scaled features.
        intercept_: (1,).
        left_out_: (n,) probability of `classes_[1]` of each training row by the model fitted without it; the scaling
            is held.
    """

    def __init__(
        self,
        alpha: float | Literal["loo"] = 1.0,
        scaling: Scaling = "feature",
        class_weight: ClassWeights = "balanced",
    ) -> None:
        self.alpha = alpha
        self.scaling = scaling
        self.class_weight = class_weight

    def _fit_model(self, features: Features, event: Events) -> RidgeModel:
        _check_alpha(self.alpha)
        weight = self._row_weights(self.class_weight, event)
        scaler = Scaler.fit(features, self.scaling)
        problem = decompose(scaler.apply(features), event, weight)
        alphas = [share * problem.total for share in STRENGTHS] if self.alpha == "loo" else [float(self.alpha)]
        models = []
        for fit in map(problem.solve, alphas):
            left_out = problem.rebalanced(fit) if self.class_weight == "balanced" else fit.left_out
            models.append(ridge_model(scaler, fit, left_out, event, weight))
        model = min(models, key=lambda each: _loss(each.left_out, event, weight))
        self.alpha_ = model.fit.alpha
        self.coef_, self.intercept_ = model.fit.coefficient[None, :], np.array([model.fit.intercept])
        self.left_out_ = model.left_out
        return model


def _check_alpha(alpha: object) -> None:
    if alpha != "loo" and not (isinstance(alpha, int | float) and 0 < alpha < np.inf):
        raise ConfigError(f"alpha is {alpha!r}, expected a positive number or 'loo'")


def _loss(probability: Vector, event: Events, weight: Vector) -> float:
    told = np.where(event == 1, probability, 1.0 - probability)
    return float(weight @ -np.log(np.maximum(told, np.finfo(np.float64).tiny)))
