"""What the file of a strategy provides."""

from typing import Protocol

from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.strategies.options import Options


class Strategy(Protocol):
    """A way to adapt a backbone.

    Attributes:
        name: as in the registry.
    """

    @property
    def name(self) -> str:
        """As in the registry."""

    @property
    def norms_learn(self) -> bool:
        """Whether batch norms keep moving their running statistics; otherwise they stay in evaluation mode."""

    def adapt(self, module: nn.Module, card: BackboneCard, options: Options) -> nn.Module:
        """The module to run, in which exactly what learns requires a gradient.

        Args:
            module: the encoder, in which nothing requires a gradient; it is changed.
            card: of the backbone, which names the layers.
            options: how.

        Raises:
            StrategyError: the card names no layers that could be adapted, or the rank does not fit them.
        """

    def expected_parameters(self, module: nn.Module, card: BackboneCard, options: Options) -> int:
        """How many parameters will learn, from the shapes of the layers before they are adapted.

        Raises:
            StrategyError: as `adapt`.
        """
