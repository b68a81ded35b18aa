"""What the benchmark asks of a family of probes: models to choose from, the simplest first."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from peftbench.errors import PeftbenchError

Features = npt.NDArray[np.floating]
Events = npt.NDArray[np.int64]
Vector = npt.NDArray[np.float64]

Setting = float | int | str | bool | None

Scaling = Literal["feature", "global", "none"]
"""`feature`: mean 0 and deviation 1 of each feature; `global`: mean 0, and one number for all features, so that the
mean squared deviation is 1; what a handful of images can tell. Both learnt on the training part alone."""

ClassWeight = Literal["balanced", "none"]


class ProbeError(PeftbenchError, RuntimeError):
    """A probe could not be fitted, or its answer is no probability."""


class Options(NamedTuple):
    """What all families are told.

    Attributes:
        scaling: of the features.
        class_weight: `balanced`: both classes weigh the same, where the family can weigh.
        seed: of whatever is random.
        few: whether the training part is a support set of a few images: a family of many settings offers its default
            alone, because nothing is left to choose on.
    """

    scaling: Scaling = "feature"
    class_weight: ClassWeight = "balanced"
    seed: int = 0
    few: bool = False


class Model(Protocol):
    """A fitted probe."""

    @property
    def left_out(self) -> Vector | None:
        """(n,) probability of each training row by the model fitted without it; None where no closed form gives it."""

    def probability(self, features: Features) -> Vector:
        """(m,) probability of the event from (m, d) features as stored; 0.5 is the boundary of the decision."""


class Candidate(NamedTuple):
    """A model to choose, and what was set to get it."""

    settings: Mapping[str, Setting]
    model: Model


class Family(Protocol):
    """A kind of probe."""

    @property
    def path(self) -> bool:
        """Whether the candidates are one path of one strength, along which a loss falls and then rises."""

    def candidates(self, features: Features, event: Events, options: Options) -> Iterator[Candidate]:
        """Models fitted on a training part, lazily: what is not asked for is not fitted.

        Args:
            features: (n, d) as stored, finite.
            event: (n,) 0 or 1, both present.
            options: what all families are told.
        """
