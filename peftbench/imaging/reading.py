"""One raw file, read once: its digest, and its canonical pixels where they are new. What a decoding process does.

Light on purpose: a process that decodes imports this and little else.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from peftbench.errors import DecodeError
from peftbench.imaging.decode import canonical_pixels, read_bytes
from peftbench.imaging.policy import PixelPolicy
from stores.keys import source_key


class Stat(NamedTuple):
    """What tells a file from a later one of the same name."""

    size: int
    mtime_ns: int


class Picture(NamedTuple):
    """What became of one raw file.

    Attributes:
        file_digest: SHA-256 of its bytes.
        source: what the image store looks up.
        pixels: (height, width) canonical pixels; None where the store has them already.
        fault: why it cannot be used; empty where it can.
        stat: the file as it was when the reading began.
    """

    file_digest: str
    source: str
    pixels: npt.NDArray[np.uint8] | None
    fault: str
    stat: Stat | None = None


class Shared(NamedTuple):
    """What every process is told once.

    Attributes:
        policy: how files become pixels.
        known: sources that need no decoding.
    """

    policy: PixelPolicy
    known: frozenset[str]


def decode_file(file: Path, shared: Shared) -> Picture:
    """One file's bytes, read once: their digest, and their pixels if they are new."""
    stat = stat_of(file)
    try:
        content = read_bytes(file)
        digest = hashlib.sha256(content).hexdigest()
        source = source_key(digest, shared.policy.recipe)
        pixels = None if source in shared.known else canonical_pixels(content, shared.policy)
    except DecodeError as error:
        return Picture("", "", None, str(error))
    except MemoryError:
        return Picture("", "", None, "needs more memory to decode than any radiograph")
    return Picture(digest, source, pixels, "", stat)


def lost(file: Path) -> Picture:  # noqa: ARG001 - the same for every file
    """What became of a file whose decoder took its process down."""
    return Picture("", "", None, "cannot be decoded: the decoder crashed, or hung")


def stat_of(file: Path) -> Stat | None:
    """A file as the file system tells it; None where it is missing."""
    try:
        found = file.stat()
    except OSError:
        return None
    return Stat(found.st_size, found.st_mtime_ns)
