"""Foreign classifiers as models: what is done to features before, and how their answer becomes a probability.

A probability is the classifier's own where it has one, else sigmoid(decision value): 0.5 is the boundary either way,
but the sigmoid of a margin is no calibrated probability. Nothing here imports scikit-learn.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from threadpoolctl import threadpool_limits

from peftbench.probing.families.family import Events, Features, ProbeError, Scaling, Vector
from peftbench.probing.families.scaling import Matrix, Scaler, principal_axes


class Preparation(NamedTuple):
    """What a training part taught: scale, and principal axes where there are too many features.

    Attributes:
        scaler: of the features as stored.
        mean: (d,) of the scaled features.
        axes: (d, components) orthonormal; None where features stay as they are.
        length: what rows are divided by.
    """

    scaler: Scaler
    mean: Vector
    axes: Matrix | None
    length: float

    @classmethod
    def fit(
        cls, features: Features, scaling: Scaling, components: int | None = None, *, unit: bool = False
    ) -> "Preparation":
        """Learn from a training part.

        Args:
            features: (n, d) as stored.
            scaling: of the features.
            components: principal components to keep; None: no axes.
            unit: whether rows get a root mean square length of 1.
        """
        scaler = Scaler.fit(features, scaling)
        scaled = scaler.apply(features)
        mean = scaled.mean(axis=0)
        axes = None if components is None else _directions(scaled - mean, components)
        learnt = cls(scaler, mean, axes, 1.0)
        length = float(np.sqrt(np.mean((learnt.apply(features) ** 2).sum(axis=1)))) if unit else 1.0
        return learnt._replace(length=length or 1.0)

    def apply(self, features: Features) -> Matrix:
        """(m, d or components) from (m, d) features as stored."""
        scaled = self.scaler.apply(features)
        return (scaled if self.axes is None else (scaled - self.mean) @ self.axes) / self.length


class FittedEstimator(NamedTuple):
    """A fitted classifier of labels 0 and 1; see `Model`.

    Attributes:
        name: for errors.
        preparation: of its features.
        estimator: with predict_proba or decision_function.
        odds: what the odds of the event are multiplied by: 1, or the training part's odds of no event, which takes a
            posterior to equal priors (Saerens, Latinne and Decaestecker 2002).
    """

    name: str
    preparation: Preparation
    estimator: Any
    odds: float = 1.0

    @property
    def left_out(self) -> None:
        """No closed form."""
        return None

    def probability(self, features: Features) -> Vector:
        """(m,) probability of the event.

        Raises:
            ProbeError: the answer is no probability, or none for each row.
        """
        with quietly():
            found = _probability(self.estimator, self.preparation.apply(features))
            found = self.odds * found / (self.odds * found + (1.0 - found))
        if found.shape != (len(features),) or not ((found >= 0) & (found <= 1)).all():
            raise ProbeError(f"the probe {self.name} answers with values that are no probabilities between 0 and 1")
        return found


@contextmanager
def quietly() -> Iterator[None]:
    """One thread, and no warnings: that a setting of a grid did not converge shows in its validation loss.

    Some libraries take every core whatever they are told, and more threads make small problems slower.
    """
    with threadpool_limits(1), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def fit_estimator(
    name: str,
    estimator: Any,
    preparation: Preparation,
    features: Features,
    event: Events,
    weight: Vector | None = None,
    odds: float = 1.0,
) -> FittedEstimator:
    """Fit a classifier and let it answer once.

    Args:
        name: for errors.
        estimator: unfitted.
        preparation: learnt from the same features.
        features: (n, d) as stored.
        event: (n,) 0 or 1.
        weight: (n,) of each row, for a classifier whose `fit` takes `sample_weight`.
        odds: see `FittedEstimator`.

    Raises:
        ProbeError: it cannot be fitted to these features.
    """
    given = {} if weight is None else {"sample_weight": weight}
    try:
        with quietly():
            estimator.fit(preparation.apply(features), event, **given)
        fitted = FittedEstimator(name, preparation, estimator, odds)
        fitted.probability(features[:1])
    except ProbeError:
        raise
    except Exception as error:  # what a foreign classifier says to features that it cannot take
        told = " ".join(str(error).split()) or type(error).__name__
        raise ProbeError(f"the probe {name} cannot be fitted to {_size(features, event)}: {told}") from error
    return fitted


def _probability(estimator: Any, rows: Matrix) -> Vector:
    # scikit-learn hides a method that a setting does not allow, so the object is asked, not its class.
    if hasattr(estimator, "predict_proba"):
        columns = np.asarray(estimator.predict_proba(rows), dtype=np.float64)
        return columns[:, list(getattr(estimator, "classes_", (0, 1))).index(1)]
    return np.asarray(expit(np.asarray(estimator.decision_function(rows), dtype=np.float64)), dtype=np.float64)


def _directions(centred: Matrix, components: int) -> Matrix:
    left, energy = principal_axes(centred)
    kept = slice(-1, -1 - components, -1)
    return centred.T @ (left[:, kept] / np.sqrt(energy[kept]))


def _size(features: Features, event: Events) -> str:
    return f"{len(event)} images with {int(event.sum())} events and {features.shape[1]} features"
