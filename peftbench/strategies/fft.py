"""Full fine-tuning: everything learns, and batch norms follow the data."""

from dataclasses import dataclass

from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.strategies.layers import refuse_rank
from peftbench.strategies.options import Options


@dataclass(frozen=True)
class FFT:
    """The strategy `FFT`."""

    name: str = "FFT"
    norms_learn: bool = True

    def adapt(self, module: nn.Module, card: BackboneCard, options: Options) -> nn.Module:  # noqa: ARG002
        """The module, all of which learns."""
        return module.requires_grad_(requires_grad=True)

    def expected_parameters(self, module: nn.Module, card: BackboneCard, options: Options) -> int:  # noqa: ARG002
        """All."""
        refuse_rank(self.name, options.rank)
        return sum(parameter.numel() for parameter in module.parameters())
