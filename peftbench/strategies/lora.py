"""LoRA: beside each adapted weight W learns an update of low rank, W + (alpha / r) B A, with B zero at first.

A convolution of kernel (h, w) is a matrix of in * h * w inputs: A is a convolution with that kernel to r channels, B
one of kernel 1 to the layer's outputs.
"""

from dataclasses import dataclass

from peft import LoraConfig
from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.strategies.injection import inject
from peftbench.strategies.layers import checked_rank, exactly, layers_of, size_of
from peftbench.strategies.options import Options
from peftbench.strategies.targets import groups_of


@dataclass(frozen=True)
class LoRA:
    """The strategy `LoRA` (Hu et al. 2021)."""

    name: str = "LoRA"
    norms_learn: bool = False

    def adapt(self, module: nn.Module, card: BackboneCard, options: Options) -> nn.Module:
        """The module, with an update beside each target."""
        layers = self._layers(module, card, options)
        config = LoraConfig(
            r=checked_rank(self.name, options.rank, layers),
            # The library states a whole number, and divides by the rank whatever it is given.
            lora_alpha=options.alpha,  # type: ignore[arg-type]
            lora_dropout=options.dropout,
            target_modules=exactly(layers),
            bias="none",
        )
        return inject(module, config, options.seed)

    def expected_parameters(self, module: nn.Module, card: BackboneCard, options: Options) -> int:
        """The rank times the sum of inputs and outputs, a layer."""
        layers = self._layers(module, card, options)
        rank = checked_rank(self.name, options.rank, layers)
        return sum(rank * sum(size_of(layer)) for layer in layers.values())

    def _layers(self, module: nn.Module, card: BackboneCard, options: Options) -> dict[str, nn.Module]:
        return layers_of(module, card, groups_of(card, self.name, options.targets))
