"""What a file says before any policy: its samples, and what their values mean."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from peftbench.errors import DecodeError

Array = npt.NDArray[Any]
Levels = npt.NDArray[np.float64]

MAX_PIXELS = 89_478_485
"""Claimed pixels above which a file is refused unread: Pillow's own limit; no radiograph reaches it."""

MAX_BYTES = 1 << 30
"""Bytes above which a file is refused unread: no single radiograph reaches it."""


@dataclass(frozen=True)
class Samples:
    """The grey samples of a file, and what their values mean.

    All that a policy does to a sample depends on its value alone. So meanings are functions of values, applied to the
    few thousand values that occur instead of to millions of samples.

    Attributes:
        stored: (height, width) as the file holds them; any integer or floating type.
        rescaled: stored values to what the detector measured (the DICOM modality LUT or rescale).
        windowed: rescaled values to [0, 1], as the file wants them shown; None where it says nothing of it.
        inverted: whether small values are bright (MONOCHROME1).
        padding: lowest and highest stored value that is no measurement but filling.
    """

    stored: Array
    rescaled: Callable[[Array], Levels] | None = None
    windowed: Callable[[Levels], Levels] | None = None
    inverted: bool = False
    padding: tuple[float, float] | None = None


def refuse_bomb(width: int, height: int, frames: int = 1) -> None:
    """Refuse a file by the extent that it claims.

    Raises:
        DecodeError: no radiograph has so many pixels.
    """
    if width * height * frames > MAX_PIXELS:
        times = f" x {frames} frames" if frames > 1 else ""
        raise DecodeError(f"claims {width} x {height}{times} pixels, more than {MAX_PIXELS:,}: refused")


def luminance(colour: Array) -> Array:
    """(height, width, 3 or more) integer samples to (height, width): ITU-R 601-2 luma, as Pillow computes it.

    Equal channels come out unchanged.
    """
    # The weights sum to 2 ** 16, so 16 unsigned bits just fit into 32.
    wide = np.dtype(np.uint32 if colour.dtype.kind == "u" and colour.dtype.itemsize <= 2 else np.int64)
    grey: Array = np.full(colour.shape[:-1], 0x8000, dtype=wide)
    for channel, weight in enumerate((19595, 38470, 7471)):
        grey += colour[..., channel].astype(wide) * wide.type(weight)
    return (grey >> wide.type(16)).astype(colour.dtype)


def reason(error: Exception) -> str:
    """What a library's error says, as one short line.

    Without what it quotes: a damaged file can have any tag's value anywhere, a patient's name among them.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if not line.endswith(":")), "")
    told = re.sub(r"['\"].*['\"]|<.*>", "...", "".join(filter(str.isprintable, told)))[:200]
    return told if re.search(r"\w \w", told) else type(error).__name__
