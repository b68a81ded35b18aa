"""The linear probe (LP) as a family: L2-regularised logistic regression along a path of C."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from peftbench.probing.families.family import Candidate, Events, Features, Options, Vector
from peftbench.probing.families.scaling import Scaler
from peftbench.probing.logistic import LogisticFit, walk_path

COSTS: tuple[float, ...] = tuple(float(f"{10.0**power:.6g}") for power in np.arange(-5.0, 1.25, 0.5))
"""Values of C that are tried: 1e-5 to 10, two a decade."""

FEW_COSTS: tuple[float, ...] = tuple(float(f"{10.0**power:.6g}") for power in np.arange(-4.0, 0.25, 0.5))
"""Values of C that are tried on a support set: 1e-4 to 1, two a decade."""


class LogisticModel(NamedTuple):
    """A fitted probe; a `Model`.

    Attributes:
        scaler: learnt on the training part.
        fit: coefficients for scaled features.
    """

    scaler: Scaler
    fit: LogisticFit

    @property
    def left_out(self) -> Vector | None:
        """None: `gram.py` knows it, of support sets."""
        return None

    def probability(self, features: Features) -> Vector:
        """(m,) probability of the event from (m, d) features as stored."""
        return self.fit.probability(self.scaler.apply(features))


class LogisticFamily(NamedTuple):
    """Logistic regressions from the most to the least regularised; a `Family`.

    Attributes:
        costs: values of C, increasing.
    """

    costs: tuple[float, ...] = COSTS

    @property
    def path(self) -> bool:
        """One strength."""
        return True

    def candidates(self, features: Features, event: Events, options: Options) -> Iterator[Candidate]:
        """See `Family`."""
        scaler = Scaler.fit(features, options.scaling)
        balanced = options.class_weight == "balanced"
        for fit in walk_path(scaler.apply(features), event, self.costs, balanced=balanced):
            yield Candidate({"C": fit.C}, LogisticModel(scaler, fit))


LOGISTIC = LogisticFamily()
