"""`weights verify`: are cached weights what was recorded of them. Needs no torch."""

import time
from collections.abc import Sequence

from peftbench.backbones.cache import MODEL_FILE, WeightsRecord, home_of, mend, read_record
from peftbench.backbones.card import BackboneCard
from peftbench.backbones.tensorfile import not_finite, read_header
from peftbench.errors import WeightsError
from peftbench.protocol.progress import Progress, Silent
from peftbench.weights.listing import chosen_cards
from peftbench.weights.results import WeightsVerdict, WeightsVerifyResult
from stores.keys import file_digest

SHOWN = 4
"""Tensors with numbers that are none, which a verdict names."""


def verify(backbone: str | Sequence[str] = (), *, progress: Progress | None = None) -> WeightsVerifyResult:
    """Read every byte of cached weights and compare it with their records; changes nothing.

    Args:
        backbone: name, or several; by default all that are cached.
        progress: who is told how far it is.

    Raises:
        UnknownNameError: there is no such backbone.
        WeightsError: weights that were named are not cached, or none are.
    """
    told = progress or Silent()
    named = bool(backbone)
    cards = [card for card in chosen_cards(backbone) if named or _is_cached(card)]
    if not cards:
        raise WeightsError(
            "no weights are cached: `peftbench weights fetch NAME` brings some, `weights ls` shows which"
        )
    told.start("verifying", len(cards))
    verdicts = []
    for card in cards:
        verdicts.append(_verdict(card))
        told.advance()
    return WeightsVerifyResult(sound=all(each.sound for each in verdicts), weights=verdicts)


def _is_cached(card: BackboneCard) -> bool:
    try:
        return read_record(card.name) is not None
    except WeightsError:
        # Damaged is cached: that is what is looked for.
        return True


def _verdict(card: BackboneCard) -> WeightsVerdict:
    start = time.perf_counter()
    record, faults = _recorded(card)
    if record is not None:
        faults = _faults(card, record)
    return WeightsVerdict(
        backbone=card.name,
        path=str(home_of(card.name) / MODEL_FILE),
        bytes=record.bytes if record else 0,
        tensors=record.tensors if record else 0,
        sound=not faults,
        faults=faults,
        seconds=time.perf_counter() - start,
    )


def _recorded(card: BackboneCard) -> tuple[WeightsRecord | None, list[str]]:
    """The record, or what is wrong with it."""
    try:
        record = read_record(card.name)
    except WeightsError as error:
        return None, [str(error)]
    if record is None:
        raise WeightsError(f"the weights of {card.name!r} are not cached: `peftbench weights fetch {card.name}`")
    return record, []


def _faults(card: BackboneCard, record: WeightsRecord) -> list[str]:
    path = home_of(card.name) / MODEL_FILE
    faults = []
    try:
        digest = file_digest(path)
        if digest != record.sha256:
            faults.append(f"its SHA-256 is {digest}, recorded was {record.sha256}")
        header = read_header(path)
        if len(header.tensors) != record.tensors:
            faults.append(f"{len(header.tensors)} tensors, recorded were {record.tensors}")
        broken = [name for name, entry in header.tensors.items() if not_finite(path, entry)]
        if broken:
            more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
            faults.append(f"not every number is finite in {', '.join(broken[:SHOWN])}{more}")
    except ValueError as error:
        faults.append(str(error))
    except OSError as error:
        faults.append(f"it cannot be read ({error.strerror})")
    return [f"{each}: {mend(card.name)}" for each in faults]
