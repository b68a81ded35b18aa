"""`weights import`: take weights out of an archive, all of them or none.

Nothing in the archive is believed: see `peftbench.weights.archive`. Files are unpacked beside the cache, and move into
it when all were right. The digests guard against accidents. Against somebody who makes an archive on purpose guards
only its own SHA-256, which `bundle` prints, learnt another way.
"""

import json
from pathlib import Path
from typing import NamedTuple

from peftbench.backbones.cache import (
    GOLDEN_FILE,
    MODEL_FILE,
    RECORD_FILE,
    STAGING,
    WeightsRecord,
    clear,
    held,
    home_of,
    parse_record,
    put_in_place,
    read_record,
    weights_folder,
)
from peftbench.backbones.checkpoints import split_digest
from peftbench.backbones.registry import all_cards
from peftbench.backbones.tensorfile import read_header
from peftbench.errors import WeightsError
from peftbench.protocol.progress import Progress, Silent
from peftbench.weights.archive import CARD_FILE, Manifest
from peftbench.weights.results import ImportedRow, ImportResult
from peftbench.weights.unpacking import Reader, refused
from stores.atomic import write_atomic
from stores.keys import file_digest


class _Arrived(NamedTuple):
    """A backbone's weights, unpacked and checked."""

    folder: Path
    record: WeightsRecord
    golden: bytes | None


def import_(file: str | Path, *, again: bool = False, progress: Progress | None = None) -> ImportResult:
    """Take weights out of an archive that `bundle` made. Needs no network and no torch.

    Args:
        file: the archive, as `FILE` or `FILE#sha256=HEX` with the digest that `bundle` printed.
        again: replace cached weights that differ from those in the archive.
        progress: who is told how far it is; may raise to stop, and nothing of the archive counts then.

    Raises:
        WeightsError: the archive is refused; the message says why, and the cache is as it was.
    """
    path, stated = split_digest(str(file))
    told = progress or Silent()
    if not path.is_file():
        raise WeightsError(f"there is no file {path}: expected an archive that `peftbench weights bundle` made")
    staging = weights_folder() / STAGING
    with held(staging, told):
        clear(staging)
        try:
            reader = Reader(path, told)
            manifest = reader.unpack(staging)
            if not reader.digest.hexdigest().startswith(stated):
                raise refused(path, f"its SHA-256 is {reader.digest.hexdigest()}, expected {stated}")
            arrived = [_checked(staging / name, manifest, path) for name in manifest.backbones]
            rows = _place(arrived, told, again=again)
        finally:
            clear(staging)
    return ImportResult(path=str(path), sha256=reader.digest.hexdigest(), made_by=manifest.made_by, weights=rows)


def _checked(folder: Path, manifest: Manifest, path: Path) -> _Arrived:
    """What came for one backbone, after its files were held against each other and against the card here."""
    name = folder.name
    packed = {each.file: each for each in manifest.files if each.backbone == name}
    try:
        record = parse_record((folder / RECORD_FILE).read_bytes(), name)
        card = json.loads((folder / CARD_FILE).read_bytes())
        tensors = len(read_header(folder / MODEL_FILE).tensors)
        golden = (folder / GOLDEN_FILE).read_bytes() if GOLDEN_FILE in packed else None
        if golden is not None:
            json.loads(golden)
    except (ValueError, RecursionError) as error:
        raise refused(path, f"the files of {name!r} are not what they should be ({error})") from error
    model = packed[MODEL_FILE]
    if (record.sha256, record.bytes, record.tensors) != (model.sha256, model.bytes, tensors):
        raise refused(path, f"the record of {name!r} is not of the weights beside it")
    own = all_cards()[name]
    if not isinstance(card, dict) or (card.get("name"), card.get("architecture")) != (name, own.architecture):
        raise refused(
            path,
            f"its card of {name!r} is of another model than the one here ({own.architecture}); it was packed by "
            f"peftbench {manifest.made_by}",
        )
    return _Arrived(folder, record, golden)


def _place(arrived: list[_Arrived], told: Progress, *, again: bool) -> list[ImportedRow]:
    """Move what arrived into the cache; first it is asked of all whether they may."""
    states = {each.record.backbone: _state(each.record) for each in arrived}
    differing = [name for name, state in states.items() if state == "differs"]
    if differing and not again:
        raise WeightsError(
            f"other weights of {', '.join(differing)} are cached, and nothing was taken: give --again to replace them "
            "with those in the archive"
        )
    rows = []
    for each in arrived:
        # A last safe moment: what was placed before is whole.
        told.advance(0)
        rows.append(_place_one(each, states[each.record.backbone], told))
    return rows


def _state(record: WeightsRecord) -> str:
    """`absent`, `same` or `differs`; damaged weights differ."""
    try:
        cached = read_record(record.backbone)
    except WeightsError:
        return "differs"
    if cached is None:
        return "absent"
    if cached.sha256 != record.sha256:
        return "differs"
    # The same by its record: bytes that were lost since are mended by the way.
    return "same" if file_digest(home_of(record.backbone) / MODEL_FILE) == record.sha256 else "absent"


def _place_one(each: _Arrived, state: str, told: Progress) -> ImportedRow:
    name = each.record.backbone
    home = home_of(name)
    with held(home, told):
        if state != "same":
            put_in_place(home, each.folder / MODEL_FILE, each.record, each.golden)
        elif each.golden is not None and not (home / GOLDEN_FILE).exists():
            write_atomic(home / GOLDEN_FILE, each.golden)
    how = {"same": "cached", "absent": "imported", "differs": "replaced"}[state]
    return ImportedRow(
        backbone=name, how=how, bytes=each.record.bytes, sha256=each.record.sha256, source=each.record.source
    )
