"""IA3: vectors, one at first, scale keys, values, and what goes into the second layer of each feed-forward block.

Of a CNN, an extension of ours and of the authors': the output channels of its convolutions.
"""

from dataclasses import dataclass
from typing import NamedTuple

from peft import IA3Config
from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.strategies.injection import inject
from peftbench.strategies.layers import exactly, layers_of, refuse_rank, size_of
from peftbench.strategies.options import Options
from peftbench.strategies.targets import FEED_FORWARD, groups_of

_NO_NAME = "(?!)"
"""A regular expression that matches nothing: the library calls for feed-forward layers also where there are none."""


class _Scaled(NamedTuple):
    """Layers whose outputs are scaled, and layers whose inputs are."""

    outputs: dict[str, nn.Module]
    inputs: dict[str, nn.Module]


@dataclass(frozen=True)
class IA3:
    """The strategy `IA3` (Liu et al. 2022)."""

    name: str = "IA3"
    norms_learn: bool = False

    def adapt(self, module: nn.Module, card: BackboneCard, options: Options) -> nn.Module:
        """The module, with a vector at each target."""
        scaled = self._scaled(module, card, options)
        config = IA3Config(
            target_modules=exactly([*scaled.outputs, *scaled.inputs]),
            feedforward_modules=exactly(scaled.inputs) or _NO_NAME,
        )
        return inject(module, config, options.seed)

    def expected_parameters(self, module: nn.Module, card: BackboneCard, options: Options) -> int:
        """As many as a layer has outputs; of feed-forward layers, inputs."""
        refuse_rank(self.name, options.rank)
        scaled = self._scaled(module, card, options)
        outputs = sum(size_of(layer).outputs for layer in scaled.outputs.values())
        return outputs + sum(size_of(layer).inputs for layer in scaled.inputs.values())

    def _scaled(self, module: nn.Module, card: BackboneCard, options: Options) -> _Scaled:
        groups = groups_of(card, self.name, options.targets)
        outputs = layers_of(module, card, [name for name in groups if name not in FEED_FORWARD])
        inputs = layers_of(module, card, [name for name in groups if name in FEED_FORWARD])
        return _Scaled(outputs, inputs)
