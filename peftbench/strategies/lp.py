"""Linear probing: nothing of the backbone learns."""

from dataclasses import dataclass

from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.strategies.layers import refuse_rank
from peftbench.strategies.options import Options


@dataclass(frozen=True)
class LP:
    """The strategy `LP` (Alain and Bengio 2016)."""

    name: str = "LP"
    norms_learn: bool = False

    def adapt(self, module: nn.Module, card: BackboneCard, options: Options) -> nn.Module:  # noqa: ARG002
        """The module as it is."""
        return module

    def expected_parameters(self, module: nn.Module, card: BackboneCard, options: Options) -> int:  # noqa: ARG002
        """None."""
        refuse_rank(self.name, options.rank)
        return 0
