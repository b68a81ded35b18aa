"""How a strategy is set, as far as that can be chosen. Imports no torch."""

import math
from dataclasses import dataclass
from typing import get_args

from peftbench.errors import StrategyError, unknown_name
from peftbench.strategies.targets import Targets


@dataclass(frozen=True)
class Options:
    """How a strategy is set; what a strategy has no use for it ignores, except a rank, which it refuses.

    Attributes:
        rank: of the low-rank updates of LoRA and VeRA; None for all others.
        alpha: of LoRA, whose updates are scaled by alpha / rank.
        dropout: probability that an input of a low-rank update is left out, in training.
        targets: which layers are adapted.
        seed: of what is drawn: LoRA's first matrices, VeRA's shared ones.

    Raises:
        StrategyError: a value is out of its range.
    """

    rank: int | None = None
    alpha: float = 1.0
    dropout: float = 0.1
    targets: Targets = "attention"
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise StrategyError(f"alpha is {self.alpha}, expected a number above 0; the paper has 1")
        if not 0 <= self.dropout < 1:
            raise StrategyError(f"dropout is {self.dropout}, expected 0 or more and less than 1; the paper has 0.1")
        if self.targets not in get_args(Targets):
            raise unknown_name("preset of targets", self.targets, get_args(Targets), "peftbench list strategies")
