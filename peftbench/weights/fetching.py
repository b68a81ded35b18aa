"""`weights fetch`: bring weights into the cache."""

from collections.abc import Sequence

from peftbench.backbones.cache import MODEL_FILE, WeightsRecord, home_of, read_record
from peftbench.backbones.card import BackboneCard
from peftbench.backbones.checkpoints import adopt
from peftbench.backbones.checkpoints import fetch as fetch_one
from peftbench.errors import ConfigError, WeightsError
from peftbench.protocol.progress import Progress, Silent
from peftbench.weights.listing import chosen_cards
from peftbench.weights.results import FetchedRow, FetchResult


def fetch(
    backbone: str | Sequence[str] = (),
    *,
    file: str | None = None,
    everything: bool = False,
    again: bool = False,
    progress: Progress | None = None,
) -> FetchResult:
    """Have weights in the cache, from a file on this machine or from the network; what is there is left as it is.

    Args:
        backbone: name, or several.
        file: take this one, `PATH` or `PATH#sha256=HEX`, for the one backbone that is named.
        everything: all backbones that have pretrained weights.
        again: replace what is cached.
        progress: who is told how far it is.

    Raises:
        ConfigError: names, `file` and `everything` contradict each other.
        UnknownNameError: there is no such backbone.
        WeightsError: weights cannot be had, or are not what they should be; those fetched before are kept.
    """
    told = progress or Silent()
    cards = _chosen(backbone, file, everything=everything)
    if file is not None:
        return FetchResult(weights=[_from_file(file, cards[0], told, again=again)])
    rows = []
    faults: list[WeightsError] = []
    for card in cards:
        try:
            rows.append(_fetched(card, told, again=again))
        except WeightsError as error:
            # One publisher's silence must not keep the others' weights away.
            if len(cards) > 1:
                told.note(str(error))
            faults.append(error)
    if faults:
        raise faults[0] if len(cards) == 1 else _several(faults, rows)
    return FetchResult(weights=rows)


def _chosen(backbone: str | Sequence[str], file: str | None, *, everything: bool) -> list[BackboneCard]:
    cards = chosen_cards(backbone, every=False)
    if everything == bool(cards):
        raise ConfigError(
            "no backbone is named: expected names, or --all; `peftbench weights ls` shows them"
            if not cards
            else "names and --all contradict each other: give one of them"
        )
    if file is not None and len(cards) != 1:
        raise ConfigError("--from takes the file of one backbone: name that one")
    return [card for card in chosen_cards(()) if card.checkpoint is not None] if everything else cards


def _fetched(card: BackboneCard, told: Progress, *, again: bool) -> FetchedRow:
    before = _source_before(card) if again else ""
    record, how = fetch_one(card, told, again=again)
    if before and before != record.source_sha256:
        told.note(
            f"the original of {card.name!r} is another file than before: SHA-256 {record.source_sha256}, was {before}"
        )
    return _row(record, how)


def _source_before(card: BackboneCard) -> str:
    try:
        record = read_record(card.name)
    except WeightsError:
        return ""
    return record.source_sha256 if record else ""


def _from_file(file: str, card: BackboneCard, told: Progress, *, again: bool) -> FetchedRow:
    if not again and (record := read_record(card.name)) is not None:
        told.note(f"weights of {card.name!r} are cached already ({record.source}): give --again to replace them")
        return _row(record, "cached")
    return _row(adopt(file, card, told), "adopted")


def _row(record: WeightsRecord, how: str) -> FetchedRow:
    return FetchedRow(
        backbone=record.backbone,
        how=how,
        path=str(home_of(record.backbone) / MODEL_FILE),
        bytes=record.bytes,
        tensors=record.tensors,
        source=record.source,
        revision=record.revision,
        source_sha256=record.source_sha256,
        sha256=record.sha256,
    )


def _several(faults: list[WeightsError], rows: list[FetchedRow]) -> WeightsError:
    return WeightsError(
        f"the weights of {len(faults)} backbones could not be had, those of {len(rows)} are here; the notes say why: "
        "run the same command again, or name those you need"
    )
