"""Backbones of other packages, found through the entry-point group `peftbench.backbones`.

An entry point names a `BackboneCard`, several in a list or tuple, or a function that answers either. What is broken is
reported and skipped: a bad package must not take the others with it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version

from peftbench.backbones.cache import SAFE_NAME
from peftbench.backbones.card import BackboneCard
from peftbench.backbones.cards import CARDS

GROUP = "peftbench.backbones"


@dataclass(frozen=True)
class PluggedIn:
    """What other packages bring.

    Attributes:
        cards: name to card.
        faults: one sentence for each entry point that was skipped.
    """

    cards: dict[str, BackboneCard]
    faults: tuple[str, ...]


@cache
def plugged_in() -> PluggedIn:
    """The backbones of all installed plug-ins; looked for once a process."""
    cards: dict[str, BackboneCard] = {}
    faults = []
    for entry in sorted(entry_points(group=GROUP), key=lambda each: (each.name, each.value)):
        try:
            cards |= _cards_of(entry, {*CARDS, *cards})
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever another package does wrong
            told = " ".join(str(error).split()) or type(error).__name__
            faults.append(f"the plug-in {entry.name!r}{_origin(entry)} is broken and left out ({told}).")
    return PluggedIn(cards, tuple(faults))


def _cards_of(entry: EntryPoint, taken: set[str]) -> dict[str, BackboneCard]:
    found = entry.load()
    if callable(found) and not isinstance(found, BackboneCard):
        found = found()
    several = [found] if isinstance(found, BackboneCard) else list(found) if isinstance(found, Iterable) else [found]
    cards: dict[str, BackboneCard] = {}
    for each in several:
        if not isinstance(each, BackboneCard):
            raise TypeError(f"expected a BackboneCard, got {type(each).__name__}")
        if each.name in taken or each.name in cards:
            raise ValueError(f"the name {each.name!r} is taken")
        if not SAFE_NAME.fullmatch(each.name):
            raise ValueError(f"the name {each.name!r} is not of letters, digits, dots, dashes and underscores")
        cards[each.name] = _with_own_package(each, entry)
    return cards


def _with_own_package(card: BackboneCard, entry: EntryPoint) -> BackboneCard:
    """The package's own version is an ingredient of the key as well: its code changes the features.

    Raises:
        PackageNotFoundError: a library that the card names is not installed.
    """
    own = [entry.dist.name] if entry.dist is not None else []
    libraries = tuple(dict.fromkeys([*card.libraries, *own]))
    for library in libraries:
        version(library)
    return card.model_copy(update={"libraries": libraries})


def _origin(entry: EntryPoint) -> str:
    return f" of {entry.dist.name}" if entry.dist is not None else ""
