"""What a safetensors file says of itself, read without torch and without trusting it.

Eight bytes of length, that many bytes of JSON (name to dtype, shape and place), then the tensors' bytes.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""

WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one number, by the format's name for it."""

_EXPONENTS: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""Where a floating-point number keeps its exponent: all these bits set mean infinity or NaN. So bf16 needs no torch."""

MARK = "peftbench"
"""Key of the metadata by which a file is known as our own conversion."""

_BLOCK = 1 << 22


class Entry(NamedTuple):
    """A tensor in the file: `start` and `stop` count from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """What is in the file."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]


def looks_like_safetensors(path: Path) -> bool:
    """Whether a file begins as one; says nothing of what follows."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER


def is_own(path: Path) -> bool:
    """Whether a file is a conversion of ours, and so nobody's original."""
    try:
        return MARK in read_header(path).metadata
    except (OSError, ValueError):
        return False


def read_header(path: Path) -> Header:
    """The header, after checking that it describes every byte of the file once.

    Raises:
        ValueError: it does not; the message says how.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise ValueError(f"its header should have {length} bytes, the whole file has {size}")
        text = stream.read(length)
    try:
        value = json.loads(text)
        metadata = value.pop("__metadata__", {})
        tensors = {name: _entry(name, facts, 8 + length) for name, facts in value.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its header cannot be read ({error})") from error
    _check_places(tensors, 8 + length, size)
    return Header(tensors, metadata if isinstance(metadata, dict) else {})


def _entry(name: str, facts: Any, base: int) -> Entry:
    shape, (start, stop) = tuple(map(int, facts["shape"])), map(int, facts["data_offsets"])
    dtype = str(facts["dtype"])
    if dtype not in WIDTHS:
        raise ValueError(f"{name} has the type {dtype}; known are {', '.join(WIDTHS)}")
    if any(side < 0 for side in shape) or stop - start != math.prod(shape) * WIDTHS[dtype]:
        raise ValueError(f"{name} has {stop - start} bytes, which does not fit {dtype} of shape {shape}")
    return Entry(dtype, shape, base + start, base + stop)


def _check_places(tensors: dict[str, Entry], base: int, size: int) -> None:
    end = base
    for name, entry in sorted(tensors.items(), key=lambda each: each[1][2:]):
        if entry.start != end:
            raise ValueError(f"{name} begins at byte {entry.start}, expected {end}")
        end = entry.stop
    if end != size:
        raise ValueError(f"it has {size} bytes, expected {end}")


def not_finite(path: Path, entry: Entry) -> int:
    """How many numbers of a tensor are infinite or NaN."""
    if entry.dtype not in _EXPONENTS:
        return 0
    kind, exponent = _EXPONENTS[entry.dtype]
    count = 0
    with path.open("rb") as stream:
        stream.seek(entry.start)
        left = entry.stop - entry.start
        while left:
            bits = np.frombuffer(stream.read(min(_BLOCK, left)), dtype=kind)
            if not bits.size:
                break
            left -= bits.nbytes
            mask = bits.dtype.type(exponent)
            count += int(np.count_nonzero((bits & mask) == mask))
    return count
