"""Digests: of values, files, canonical pictures; what all keys are made of.

Knows digests and canonical JSON; nothing of arrays on disk.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PIXELS_SCHEMA = 1
"""Raised whenever the digest of the same picture would change."""

DIGEST_BYTES = 32
"""Length of a SHA-256 digest as the stores hold it (the text form is 64 hexadecimal characters)."""


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON has no word for.
        TypeError: the value is not made of JSON's types.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 (64 hexadecimal characters) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (64 hexadecimal characters) of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def source_key(content: str, policy: str) -> str:
    """What an image store looks up: the digest of a file's bytes (by their own digest) under a pixel policy."""
    return digest_of(["source", content, policy])


def pixels_digest(pixels: npt.NDArray[np.uint8]) -> str:
    """SHA-256 (64 hexadecimal characters) of a canonical picture: its shape and its bytes.

    Args:
        pixels: (height, width), uint8, without padding.

    The file a picture came from plays no part, so a re-saved file is the same image.
    """
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise ValueError(f"canonical pixels are (height, width) uint8, not {pixels.shape} {pixels.dtype}")
    header = f"pixels/{PIXELS_SCHEMA}:{pixels.shape[0]}x{pixels.shape[1]}:".encode()
    return hashlib.sha256(header + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def pack_digests(digests: Iterable[str]) -> npt.NDArray[np.uint8]:
    """Text digests as a (rows, 32) uint8 array, the form that the stores hold.

    Raises:
        ValueError: one is not 64 hexadecimal characters in lower case; another spelling would be another image.
    """
    found = list(digests)
    packed = np.frombuffer(bytes.fromhex("".join(found)), dtype=np.uint8)
    if len(packed) != len(found) * DIGEST_BYTES or unpack_digests(packed.reshape(-1, DIGEST_BYTES)) != found:
        raise ValueError(f"a digest is {2 * DIGEST_BYTES} hexadecimal characters in lower case; one of these is not")
    return packed.reshape(-1, DIGEST_BYTES)


def unpack_digests(packed: npt.NDArray[np.uint8]) -> list[str]:
    """The text form (64 hexadecimal characters each) of a (rows, 32) uint8 array."""
    return np.ascontiguousarray(packed).tobytes().hex(" ", DIGEST_BYTES).split() if len(packed) else []
