"""BitFit: all biases learn, and nothing else.

A parameter is a bias if its name ends with `bias`. A search for the word anywhere would also find the tables of
relative position bias of Swin, which are weights.
"""

from dataclasses import dataclass

from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.errors import StrategyError
from peftbench.strategies.layers import refuse_rank
from peftbench.strategies.options import Options


@dataclass(frozen=True)
class BitFit:
    """The strategy `BitFit` (Ben Zaken et al. 2021)."""

    name: str = "BitFit"
    norms_learn: bool = False

    def adapt(self, module: nn.Module, card: BackboneCard, options: Options) -> nn.Module:  # noqa: ARG002
        """The module, whose biases learn."""
        for bias in biases_of(module, card):
            bias.requires_grad = True
        return module

    def expected_parameters(self, module: nn.Module, card: BackboneCard, options: Options) -> int:
        """All biases."""
        refuse_rank(self.name, options.rank)
        return sum(bias.numel() for bias in biases_of(module, card))


def biases_of(module: nn.Module, card: BackboneCard) -> list[nn.Parameter]:
    """The biases of a backbone.

    Raises:
        StrategyError: it has none.
    """
    found = [parameter for name, parameter in module.named_parameters() if name.endswith("bias")]
    if not found:
        raise StrategyError(f"BitFit trains biases, and {card.name!r} has none: choose another strategy")
    return found
