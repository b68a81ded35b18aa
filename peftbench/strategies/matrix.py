"""What fits what: strategies and backbones. Imports no torch."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.registry import all_cards
from peftbench.errors import StrategyError, unknown_name
from peftbench.strategies.registry import STRATEGIES

RANKED = ("LoRA", "VeRA")
"""Strategies that have a rank."""

Verdict = Literal["paper", "extension", "refused"]

_UNSAID = "its card does not say that it fits"


class Standing(NamedTuple):
    """How a strategy stands with a backbone.

    Attributes:
        verdict: it fits as in the paper, it runs beyond the paper's matrix, or it does not fit.
        reason: what is different about an extension, or why a strategy is refused; empty for the paper's own.
    """

    verdict: Verdict
    reason: str = ""


class Row(NamedTuple):
    """The matrix's row of a backbone: its standings by the names of the strategies."""

    backbone: str
    standings: Mapping[str, Standing]


def canonical(name: str) -> str:
    """A strategy's name as tables and paths have it.

    Args:
        name: in any case.

    Raises:
        UnknownNameError: there is no such strategy.
    """
    by_case = {each.lower(): each for each in STRATEGIES}
    if name.lower() not in by_case:
        raise unknown_name("strategy", name, STRATEGIES, "peftbench list strategies")
    return by_case[name.lower()]


def standing(card: BackboneCard, strategy: str) -> Standing:
    """How a strategy stands with a backbone.

    Raises:
        UnknownNameError: there is no such strategy.
    """
    name = canonical(strategy)
    if name in card.strategies:
        return Standing("paper")
    if name in card.extensions:
        return Standing("extension", card.extensions[name])
    return Standing("refused", card.refused.get(name, _UNSAID))


def refuse_unfit(card: BackboneCard, strategy: str) -> None:
    """Nothing where a strategy fits a backbone.

    Raises:
        StrategyError: it does not fit; the message says why, and what fits instead.
        UnknownNameError: there is no such strategy.
    """
    found = standing(card, strategy)
    if found.verdict == "refused":
        fitting = ", ".join(name for name in STRATEGIES if standing(card, name).verdict != "refused")
        raise StrategyError(
            f"{canonical(strategy)} does not fit the backbone {card.name!r} ({found.reason}): choose one of {fitting}"
        )


def matrix_rows(cards: Mapping[str, BackboneCard] | None = None) -> list[Row]:
    """The matrix, a row a backbone.

    Args:
        cards: of the backbones; by default all that are registered.
    """
    known = all_cards() if cards is None else cards
    return [Row(name, {each: standing(card, each) for each in STRATEGIES}) for name, card in known.items()]
