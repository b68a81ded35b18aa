"""Where a backbone's weights are on this machine.

Asks no network and imports no torch: listings look here. Order: our own cache; what the user put beside it; what an
installed package ships; torch's cache; the Hugging Face cache.
"""

import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from peftbench.backbones.cache import MODEL_FILE, WeightsRecord, home_of, read_record
from peftbench.backbones.card import BackboneCard, Checkpoint
from peftbench.backbones.tensorfile import is_own

PLACES = {
    "cache": "cached",
    "folder": "put into the weights folder by the user",
    "package": "shipped by an installed package",
    "torch": "in torch's cache",
    "hub": "in the Hugging Face cache",
}
"""Where weights can be on this machine, for people."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Found(NamedTuple):
    """Weights on this machine.

    Attributes:
        place: a key of `PLACES`.
        path: of the cached tensors, or of the original that is still to be converted.
        revision: the commit of a hub's repository.
        sha256: what the original's digest must begin with; empty where nobody states one.
        record: of cached weights.
    """

    place: Literal["cache", "folder", "package", "torch", "hub"]
    path: Path
    revision: str = ""
    sha256: str = ""
    record: WeightsRecord | None = None


def locate(card: BackboneCard) -> Found | None:
    """Where a backbone's weights are on this machine; asks no network.

    Raises:
        WeightsError: they are cached and damaged.
    """
    record = read_record(card.name)
    if record is not None:
        return Found("cache", home_of(card.name) / MODEL_FILE, record.revision, record=record)
    return next(originals(card), None)


def originals(card: BackboneCard) -> Iterator[Found]:
    """Published files of a backbone on this machine that are not converted yet."""
    checkpoint = card.checkpoint
    if checkpoint is None:
        return
    for name in dict.fromkeys(Path(each).name for each in (checkpoint.file, checkpoint.member) if each):
        path = home_of(card.name) / name
        # A member was taken out of the archive, whose digest says nothing of it.
        sha256 = checkpoint.sha256 if name == Path(checkpoint.file).name else ""
        if path.is_file() and not is_own(path):
            yield Found("folder", path, sha256=sha256)
    if checkpoint.kind == "package":
        shipped = _shipped(checkpoint)
        yield from [Found("package", shipped, sha256=checkpoint.sha256)] if shipped else []
    elif checkpoint.kind == "url":
        path = _torch_cache() / checkpoint.file
        yield from [Found("torch", path, sha256=checkpoint.sha256)] if path.is_file() else []
    else:
        yield from _in_hub_cache(checkpoint)


def _shipped(checkpoint: Checkpoint) -> Path | None:
    """The file of an installed package, from the function that the card names."""
    try:
        path = Path(pkgutil.resolve_name(checkpoint.address.partition(":")[2])())
    except (ImportError, AttributeError, TypeError, ValueError, OSError):
        return None
    return path if path.is_file() else None


def _torch_cache() -> Path:
    """Where torch keeps downloaded checkpoints; torch itself is only asked if it is imported already."""
    if "torch" in sys.modules:
        return Path(sys.modules["torch"].hub.get_dir()) / "checkpoints"
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub" / "checkpoints"


def _in_hub_cache(checkpoint: Checkpoint) -> Iterator[Found]:
    try:
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - a base install has none
    except ImportError:
        return
    try:
        found = try_to_load_from_cache(checkpoint.address, checkpoint.file, revision=checkpoint.revision or None)
    except ValueError:
        # A plug-in's address that no repository can have.
        return
    if isinstance(found, str) and Path(found).is_file():
        path = Path(found)
        # snapshots/<commit>/<file> is a link to blobs/<sha256>.
        commits = [part for part in path.parts if _COMMIT.fullmatch(part)]
        blob = path.resolve().name
        sha256 = checkpoint.sha256 or (blob if _SHA256.fullmatch(blob) else "")
        yield Found("hub", path, commits[-1] if commits else "", sha256)
