"""`weights ls`: what is on this machine. Asks no network, reads no weights."""

from collections.abc import Sequence
from typing import Any

from peftbench.backbones.cache import weights_folder
from peftbench.backbones.card import BackboneCard
from peftbench.backbones.locating import PLACES, Found, locate
from peftbench.backbones.registry import all_cards, get_card
from peftbench.errors import WeightsError
from peftbench.weights.results import WeightsListing, WeightsRow


def ls(backbone: str | Sequence[str] = ()) -> WeightsListing:
    """The weights of backbones, with what can be told of them without reading them.

    Args:
        backbone: name, or several; by default all.

    Raises:
        UnknownNameError: there is no such backbone.
    """
    return WeightsListing(folder=str(weights_folder()), weights=[_row(card) for card in chosen_cards(backbone)])


def chosen_cards(backbone: str | Sequence[str], *, every: bool = True) -> list[BackboneCard]:
    """The cards that a user means, each once.

    Args:
        backbone: name, or several.
        every: whether no name means all.

    Raises:
        UnknownNameError: there is no such backbone.
    """
    names = [backbone] if isinstance(backbone, str) else list(backbone)
    if not names and every:
        return list(all_cards().values())
    return [get_card(name) for name in dict.fromkeys(names)]


def _row(card: BackboneCard) -> WeightsRow:
    try:
        return _told(card, locate(card))
    except WeightsError as error:
        return _row_of(card, state="damaged", where=str(error))


def _told(card: BackboneCard, found: Found | None) -> WeightsRow:
    if card.checkpoint is None:
        return _row_of(card, state="none", where="it has no pretrained weights")
    if found is None:
        return _row_of(card, state="absent", where=f"`peftbench weights fetch {card.name}`")
    facts: dict[str, Any] = {"path": str(found.path), "bytes": found.path.stat().st_size}
    if found.record is None:
        return _row_of(card, state="found", where=f"{PLACES[found.place]}, not converted", **facts)
    record = found.record
    facts |= {"source": record.source, "revision": record.revision or card.checkpoint.revision}
    return _row_of(card, state="cached", where=PLACES["cache"], sha256=record.source_sha256, **facts)


def _row_of(card: BackboneCard, **facts: Any) -> WeightsRow:
    checkpoint = card.checkpoint
    known = {
        "backbone": card.name,
        "path": None,
        "bytes": None,
        "megabytes": checkpoint.megabytes if checkpoint else None,
        "source": card.source,
        "revision": checkpoint.revision if checkpoint else "",
        "licence": card.licence,
        "sha256": "",
        "stated_sha256": checkpoint.sha256 if checkpoint else "",
    }
    return WeightsRow(**{**known, **facts, "marks": _marks(card, facts.get("sha256", ""))})


def _marks(card: BackboneCard, sha256: str) -> list[str]:
    if card.checkpoint is None:
        return []
    stated = card.checkpoint.sha256
    marks = [] if stated else ["no published digest"]
    marks += ["not the published file"] if stated and sha256 and not sha256.startswith(stated) else []
    return marks + (["unverified: see its notes"] if card.notes.startswith("Unverified") else [])
