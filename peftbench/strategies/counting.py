"""How many parameters of a backbone learn under each strategy: from its architecture alone, without weights."""

import copy
from typing import NamedTuple

import torch
from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.cards import CARDS
from peftbench.backbones.loading import find_loader
from peftbench.errors import StrategyError
from peftbench.strategies.adapting import adapt
from peftbench.strategies.options import Options
from peftbench.strategies.targets import PRESETS, Targets

RANKS: dict[str, tuple[int, ...]] = {"LoRA": (4, 8, 16), "VeRA": (8,)}
"""Ranks that are counted."""

ORDER = ("LP", "BitFit", "LoRA", "VeRA", "IA3", "FFT")
"""From what learns least to all."""

CLASSES = 2
"""Of the linear head that is counted with the backbone."""


class Count(NamedTuple):
    """A strategy on a backbone.

    Attributes:
        strategy: its name.
        rank: of those that have one.
        targets: preset of layers, of those that have a choice.
        layers: that learn or are adapted, without the head.
        parameters: that learn, with a head of two classes; None where the strategy does not run.
        percent: of all parameters of the adapted backbone and its head.
        note: what is different about an extension, or why it does not run.
    """

    strategy: str
    rank: int | None
    targets: Targets | None
    layers: int | None
    parameters: int | None
    percent: float | None
    note: str


def count_all(card: BackboneCard) -> list[Count]:
    """All strategies on a backbone: those that have a rank at several, those that choose layers by each preset.

    Raises:
        MissingPackageError: a library that the backbone needs is not installed.
    """
    module = shapes_of(card)
    return [
        _counted(module, card, strategy, rank, targets)
        for strategy in ORDER
        for targets in _presets(card, strategy)
        for rank in (RANKS.get(strategy, (None,)) if targets else (None,))
    ]


def _presets(card: BackboneCard, strategy: str) -> tuple[Targets | None, ...]:
    """Of those that choose layers: both presets, or the one that a backbone has which is not in the paper."""
    if strategy not in PRESETS or strategy in card.refused:
        return (None,)
    return ("attention", "paper") if card.paper_targets else ("attention",)


def shapes_of(card: BackboneCard) -> nn.Module:
    """The encoder on torch's device `meta`: names and shapes, and no memory for values."""
    loader = find_loader(card)
    if card.name not in CARDS:
        # Not every library builds there.
        return loader.build().to("meta")
    with torch.device("meta"):
        return loader.build()


def _counted(module: nn.Module, card: BackboneCard, strategy: str, rank: int | None, targets: Targets | None) -> Count:
    options = Options(rank=rank, targets=targets or "attention")
    try:
        adapted = adapt(copy.deepcopy(module), card, strategy, options)
    except StrategyError as error:
        return Count(strategy, rank, targets, None, None, None, card.refused.get(strategy, str(error)))
    head = CLASSES * (card.embedding + 1)
    learning = adapted.parameters + head
    whole = sum(parameter.numel() for parameter in adapted.module.parameters()) + head
    note = card.extensions.get(strategy, "")
    return Count(strategy, rank, targets, adapted.layers, learning, 100 * learning / whole, note)
