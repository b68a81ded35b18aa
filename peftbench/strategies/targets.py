"""Which groups of a backbone's layers a strategy adapts. Imports no torch."""

from collections.abc import Collection, Sequence
from typing import Literal

from peftbench.backbones.card import BackboneCard
from peftbench.errors import StrategyError

Targets = Literal["attention", "paper"]
"""The benchmark's own choice, one for all transformers, or what the paper's authors adapted of each backbone."""

ATTENTION = ("query", "key", "value", "qkv", "output")
FEED_FORWARD = ("fc1", "fc2")

Choices = Sequence[tuple[str, ...]]
"""Groups of layers, the preferred ones first."""

PRESETS: dict[str, Choices] = {
    "LoRA": (ATTENTION, ("convolution",), FEED_FORWARD),
    "VeRA": (ATTENTION, FEED_FORWARD),
    "IA3": (("key", "value", "qkv", "fc2"), ("any_convolution",)),
}
"""What a strategy adapts by the preset `attention`: the first of these of which a backbone has any."""

IN_PAPER: dict[str, tuple[str, ...]] = {
    "LoRA": (*ATTENTION, *FEED_FORWARD, "convolution", "first_convolution"),
    "VeRA": ("query", "key", "value"),
    "IA3": (*ATTENTION, *FEED_FORWARD, "convolution", "first_convolution"),
}
"""What a strategy adapts by the preset `paper`, of what the authors adapted of a backbone with LoRA."""


def present(names: Collection[str], choices: Choices) -> tuple[str, ...]:
    """Of several choices the first of which any name is there, as far as its names are."""
    found = (tuple(name for name in choice if name in names) for choice in choices)
    return next(filter(None, found), ())


def groups_of(card: BackboneCard, strategy: str, targets: Targets) -> tuple[str, ...]:
    """The groups of a backbone's layers that a strategy adapts.

    Raises:
        StrategyError: the card names none of those that the strategy can adapt.
    """
    return _of_the_paper(card, strategy) if targets == "paper" else _of_attention(card, strategy)


def _of_attention(card: BackboneCard, strategy: str) -> tuple[str, ...]:
    if found := present(card.layers, PRESETS[strategy]):
        return found
    wanted = ", ".join(dict.fromkeys(name for choice in PRESETS[strategy] for name in choice))
    has = f"it names {', '.join(card.layers)}" if card.layers else "it names no layers"
    raise StrategyError(
        f"{strategy} adapts {wanted}, and the card of {card.name!r} has none of them ({has}): "
        "choose LP or FFT, or add them to the card's `layers`"
    )


def _of_the_paper(card: BackboneCard, strategy: str) -> tuple[str, ...]:
    found = tuple(name for name in card.paper_targets if name in IN_PAPER[strategy])
    if found and strategy == "IA3":
        # The authors added the feed-forward layers to whatever list of attention a backbone had.
        found = (*found, *(name for name in FEED_FORWARD if name in card.layers and name not in found))
    if found:
        return found
    among = ", ".join(card.paper_targets)
    has = f"the paper adapted {among}" if among else "nothing is known of what the paper adapted there"
    raise StrategyError(
        f"{strategy} has no targets 'paper' for {card.name!r} ({has}): choose the targets 'attention' "
        "(--set targets=attention)"
    )
