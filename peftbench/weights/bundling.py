"""`weights bundle`: cached weights as one archive, for a machine without a network."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from peftbench.backbones.cache import GOLDEN_FILE, MODEL_FILE, RECORD_FILE, WeightsRecord, home_of, mend, read_record
from peftbench.backbones.card import BackboneCard
from peftbench.errors import ConfigError, WeightsError
from peftbench.protocol import provenance
from peftbench.protocol.progress import Progress, Silent
from peftbench.weights.archive import (
    CARD_FILE,
    END,
    LARGEST_TEXT,
    MANIFEST_FILE,
    Manifest,
    Packed,
    header,
    padding,
)
from peftbench.weights.listing import chosen_cards
from peftbench.weights.results import BundleResult
from stores.atomic import SCRATCH_SUFFIX, sync_folder

_BLOCK = 1 << 20
_MB = 1_000_000


def bundle(
    backbone: str | Sequence[str],
    to: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BundleResult:
    """Pack cached weights with their cards and digests. The same weights give the same bytes.

    Args:
        backbone: name, or several.
        to: the archive, `FILE.tar`; it is there whole or not at all.
        overwrite: replace it if it is there.
        progress: who is told how far it is.

    Raises:
        ConfigError: the archive's name is not to be used, or no backbone is named.
        UnknownNameError: there is no such backbone.
        WeightsError: weights are not cached or damaged, or the archive cannot be written.
    """
    target, told = Path(to), progress or Silent()
    cards = chosen_cards(backbone, every=False)
    _check_target(target, overwrite=overwrite)
    if not cards:
        raise ConfigError("no backbone is named: `peftbench weights ls` shows whose weights are cached")
    files, contents = _packing_list(cards)
    manifest = Manifest(made_by=provenance.version(), files=files)
    try:
        size, digest = _write(target, manifest, contents, told)
    except OSError as error:
        raise WeightsError(
            f"{target} cannot be written ({error.strerror or error}): free some space, or name another place"
        ) from error
    return BundleResult(
        path=str(target),
        bytes=size,
        sha256=digest,
        backbones=list(manifest.backbones),
        files=[each.path for each in manifest.files],
    )


def _check_target(target: Path, *, overwrite: bool) -> None:
    if target.suffix != ".tar":
        raise ConfigError(
            f"{target} does not end with .tar: the archive is a plain tar, because weights hardly compress"
        )
    if target.is_dir():
        raise ConfigError(f"{target} is a folder: name a file")
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} is there already: name another, or give --overwrite to replace it")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {target.absolute().parent}: make it, or name another place")


def _packing_list(cards: list[BackboneCard]) -> tuple[tuple[Packed, ...], dict[str, bytes]]:
    """All files in order, and the bytes of the small ones; weights themselves are streamed."""
    files: list[Packed] = []
    contents: dict[str, bytes] = {}
    for card in cards:
        record = read_record(card.name)
        if record is None:
            raise WeightsError(
                f"the weights of {card.name!r} are not cached: `peftbench weights fetch {card.name}`, then bundle"
            )
        texts = _texts(card, record)
        contents |= texts
        files.append(Packed(path=f"{card.name}/{MODEL_FILE}", bytes=record.bytes, sha256=record.sha256))
        files += [
            Packed(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in texts.items()
        ]
    return tuple(sorted(files, key=lambda each: each.path)), contents


def _texts(card: BackboneCard, record: WeightsRecord) -> dict[str, bytes]:
    texts = {
        CARD_FILE: (json.dumps(card.to_json(), indent=2, sort_keys=True) + "\n").encode(),
        RECORD_FILE: record.text().encode(),
    }
    golden = home_of(card.name) / GOLDEN_FILE
    if golden.is_file():
        if golden.stat().st_size > LARGEST_TEXT:
            raise WeightsError(f"{golden} has more than {LARGEST_TEXT} bytes: delete it, then bundle")
        texts[GOLDEN_FILE] = golden.read_bytes()
    return {f"{card.name}/{name}": data for name, data in texts.items()}


def _write(target: Path, manifest: Manifest, contents: dict[str, bytes], told: Progress) -> tuple[int, str]:
    told.start(f"packing {target.name} (MB)", max(1, sum(each.bytes for each in manifest.files) // _MB))
    scratch = target.with_name(f".{target.name}.{os.getpid()}{SCRATCH_SUFFIX}")
    try:
        with scratch.open("wb") as stream:
            sink = _Sink(stream)
            data = manifest.to_bytes()
            sink.write(header(MANIFEST_FILE, len(data)), data, padding(len(data)))
            for each in manifest.files:
                sink.write(header(each.path, each.bytes))
                _write_file(each, contents.get(each.path), sink, told)
                sink.write(padding(each.bytes))
            sink.write(END)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(target)
        sync_folder(target.absolute().parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
    return sink.bytes, sink.digest.hexdigest()


def _write_file(each: Packed, data: bytes | None, sink: "_Sink", told: Progress) -> None:
    if data is not None:
        sink.write(data)
        return
    digest, count = hashlib.sha256(), 0
    for block in _blocks(home_of(each.backbone) / each.file):
        digest.update(block)
        sink.write(block)
        told.advance((count + len(block)) // _MB - count // _MB)
        count += len(block)
    # What is carried away must be what was recorded: nobody there could get it again.
    if digest.hexdigest() != each.sha256 or count != each.bytes:
        raise WeightsError(f"the cached weights of {each.backbone!r} are damaged: {mend(each.backbone)}, then bundle")


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                yield block
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): {mend(path.parent.name)}") from error


class _Sink:
    """Counts and hashes what is written."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, *parts: bytes) -> None:
        for part in parts:
            self.stream.write(part)
            self.digest.update(part)
            self.bytes += len(part)
