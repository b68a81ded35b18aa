"""VeRA: LoRA with random matrices A and B that all layers share and that never learn, W + diag(b) B diag(d) A.

The vectors b (outputs, zero at first) and d (r) of each layer learn. A and B follow from the seed; they are drawn for
the widest layer, and narrower ones take the part that fits.
"""

from dataclasses import dataclass

from peft import VeraConfig
from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.strategies.injection import inject, without_known_warnings
from peftbench.strategies.layers import checked_rank, exactly, layers_of, size_of
from peftbench.strategies.options import Options
from peftbench.strategies.targets import groups_of


@dataclass(frozen=True)
class VeRA:
    """The strategy `VeRA` (Kopiczko et al. 2023)."""

    name: str = "VeRA"
    norms_learn: bool = False

    def adapt(self, module: nn.Module, card: BackboneCard, options: Options) -> nn.Module:
        """The module, with a scaled shared update beside each target."""
        layers = self._layers(module, card, options)
        rank = checked_rank(self.name, options.rank, layers)
        with without_known_warnings():
            config = VeraConfig(
                r=rank,
                vera_dropout=options.dropout,
                target_modules=exactly(layers),
                projection_prng_key=options.seed,
                save_projection=False,
                bias="none",
            )
        return inject(module, config, options.seed)

    def expected_parameters(self, module: nn.Module, card: BackboneCard, options: Options) -> int:
        """The rank and the outputs, a layer."""
        layers = self._layers(module, card, options)
        rank = checked_rank(self.name, options.rank, layers)
        return sum(rank + size_of(layer).outputs for layer in layers.values())

    def _layers(self, module: nn.Module, card: BackboneCard, options: Options) -> dict[str, nn.Module]:
        return layers_of(module, card, groups_of(card, self.name, options.targets))
