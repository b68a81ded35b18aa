"""The layers of a built backbone that a card names, and their sizes."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from peftbench.backbones.card import BackboneCard, LayerGroup, LayerKind
from peftbench.errors import StrategyError

PATTERN_SHOWN = 80
"""Characters of a pattern in a message: those of models of the user's own list every layer."""


class Size(NamedTuple):
    """Of a layer's weight as a matrix.

    Attributes:
        inputs: features, or channels times the area of the kernel.
        outputs: features or channels.
    """

    inputs: int
    outputs: int

    @property
    def largest_rank(self) -> int:
        """Of an update of low rank."""
        return min(self)


def find_layers(module: nn.Module, group: LayerGroup) -> dict[str, nn.Module]:
    """The layers of a group, by their dotted names."""
    pattern = re.compile(group.pattern)
    return {
        name: layer
        for name, layer in module.named_modules()
        if is_of_kind(layer, group.kind) and pattern.fullmatch(name)
    }


def is_of_kind(layer: nn.Module, kind: LayerKind) -> bool:
    """Whether a layer is of that type."""
    if kind == "linear":
        return isinstance(layer, nn.Linear)
    return isinstance(layer, nn.Conv2d) and (kind == "any convolution" or layer.groups == 1)


def check_counts(module: nn.Module, card: BackboneCard) -> None:
    """Whether each group of the card is in the module as often as it says.

    Raises:
        StrategyError: it is not; the message names the group, its pattern, and both numbers.
    """
    for name, group in card.layers.items():
        found = len(find_layers(module, group))
        if found != group.count:
            pattern = group.pattern if len(group.pattern) <= PATTERN_SHOWN else group.pattern[:PATTERN_SHOWN] + "..."
            raise StrategyError(
                f"{found} {group.kind} layers of {card.name!r} match {pattern!r}, expected {group.count} ({name}): "
                "the library names its layers otherwise than the card; correct the card's `layers`"
            )


def layers_of(module: nn.Module, card: BackboneCard, groups: Iterable[str]) -> dict[str, nn.Module]:
    """The layers of several groups, by their dotted names."""
    return {name: layer for group in groups for name, layer in find_layers(module, card.layers[group]).items()}


def exactly(names: Iterable[str]) -> str:
    """A regular expression that matches these names and no others."""
    return "|".join(re.escape(name) for name in sorted(names))


def size_of(layer: nn.Module) -> Size:
    """Of a linear layer or a convolution."""
    outputs, *inputs = layer.get_parameter("weight").shape
    product = 1
    for each in inputs:
        product *= each
    return Size(product, outputs)


def checked_rank(strategy: str, rank: int | None, layers: dict[str, nn.Module]) -> int:
    """The rank, if it fits all layers.

    Raises:
        StrategyError: there is none, or it does not fit; the message names the largest that does.
    """
    sizes = {name: size_of(layer) for name, layer in layers.items()}
    smallest = min(sizes, key=lambda name: sizes[name].largest_rank)
    size = sizes[smallest]
    fits = f"{smallest} ({size.inputs} inputs, {size.outputs} outputs) allows 1 to {size.largest_rank}"
    if rank is None:
        raise StrategyError(f"{strategy} needs a rank: the paper has 4, 8 and 16; the layer {fits}")
    if not 1 <= rank <= size.largest_rank:
        raise StrategyError(f"{strategy} of rank {rank} does not fit: the layer {fits}; choose a rank in that range")
    return rank


def refuse_rank(strategy: str, rank: int | None) -> None:
    """Nothing where there is none.

    Raises:
        StrategyError: a rank was given to a strategy that has none.
    """
    if rank is not None:
        raise StrategyError(f"{strategy} has no rank, and {rank} was given: leave it away; LoRA and VeRA have one")
