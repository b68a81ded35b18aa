"""Identity: one function builds each key, and a key proves the content behind it.

Knows digests and canonical JSON; nothing of arrays on disk.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FEATURE_SCHEMA = 1
"""Raised whenever the bytes of a feature row would change for a reason no other ingredient names."""

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
    """Text digests as a (rows, 32) uint8 array, the form that the stores hold."""
    joined = bytes.fromhex("".join(digests))
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def unpack_digests(packed: npt.NDArray[np.uint8]) -> list[str]:
    """The text form (64 hexadecimal characters each) of a (rows, 32) uint8 array."""
    text = np.ascontiguousarray(packed).tobytes().hex()
    width = 2 * DIGEST_BYTES
    return [text[start : start + width] for start in range(0, len(text), width)]


@dataclasses.dataclass(frozen=True)
class FeatureRecipe:
    """Everything that changes the bytes of a feature row, except the image itself.

    Attributes:
        architecture: what computes, e.g. `timm:tf_efficientnet_lite0`.
        weights: SHA-256 of the tensors that were loaded.
        transform: canonical pixels to model input, as one readable string.
        output: the tensor that is stored: layer and pooling.
        dtype: of the stored rows, e.g. `float32`.
        precision: of the forward pass: `fp32`, `bf16` or `fp16`.
        device: what computed, e.g. `cpu/AVX512` or `cuda/NVIDIA H100`: their last bits differ.
        batch_size: images in a forward pass: libraries choose their kernels by shape, and so the last bits.
        libraries: versions of the packages that take part in the forward pass.
        schema: version of this recipe's meaning.
    """

    architecture: str
    weights: str
    transform: str
    output: str
    dtype: str
    precision: str
    device: str
    batch_size: int
    libraries: Mapping[str, str]
    schema: int = FEATURE_SCHEMA

    @property
    def key(self) -> str:
        """The store's key: SHA-256 (64 hexadecimal characters) of all ingredients."""
        return digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON's types."""
        return {**dataclasses.asdict(self), "libraries": dict(self.libraries)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "FeatureRecipe":
        """The recipe that `to_json` wrote."""
        return cls(**value)

    def differences(self, other: "FeatureRecipe") -> list[str]:
        """Names of the ingredients in which two recipes differ, in the order of the attributes."""
        mine, theirs = self.to_json(), other.to_json()
        return [name for name in mine if mine[name] != theirs[name]]
