"""Picture files to canonical pixels: 8-bit grey, aspect ratio kept, at most so many pixels on the long side."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from peftbench.errors import DecodeError
from stores.keys import digest_of

MAX_PIXELS = 89_478_485
"""Claimed pixels above which a file is refused unread: Pillow's own limit; no radiograph reaches it."""

_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I", "F")


class PixelPolicy(BaseModel):
    """How a file's samples become canonical pixels.

    Attributes:
        name: `minmax`: the darkest sample becomes 0, the brightest 255, as in the paper.
        side: longest side in pixels; larger pictures are reduced, smaller ones are kept as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["minmax"] = "minmax"
    side: int = Field(default=512, ge=32, le=4096)

    @property
    def recipe(self) -> str:
        """The policy as one readable string."""
        return f"pillow|grey|{self.name}(8bit)|fit({self.side},bicubic,antialias)"

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe."""
        return digest_of(self.recipe)


def canonical_pixels(path: Path, policy: PixelPolicy) -> npt.NDArray[np.uint8]:
    """Read a picture and bring it into the canonical form.

    Returns:
        (height, width) uint8, neither side longer than the policy's.

    Raises:
        DecodeError: the file is missing, empty, truncated, not a picture, far too large, or of one constant value.
    """
    samples = read_samples(path)
    low, high = float(samples.min()), float(samples.max())
    if not np.isfinite([low, high]).all() or low == high:
        raise DecodeError(f"holds nothing to see: every sample is {low:g}")
    # float32 keeps 16-bit samples exactly; the intermediate is one picture.
    stretched = (samples.astype(np.float32) - low) * np.float32(255.0 / (high - low))
    return _fit(np.rint(stretched).astype(np.uint8), policy.side)


def read_samples(path: Path) -> npt.NDArray[Any]:
    """The grey samples of a picture file as they are stored.

    Colour is turned into luminance; an alpha channel is dropped.

    Returns:
        (height, width); uint8, or a wider type for deeper pictures.

    Raises:
        DecodeError: the file is missing, empty, truncated, not a picture or far too large.
    """
    if not path.is_file():
        raise DecodeError("file is missing")
    if not path.stat().st_size:
        raise DecodeError("file is empty (0 bytes)")
    try:
        return _samples(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError("claims more pixels than any radiograph has: refused") from error
    except UnidentifiedImageError as error:
        raise DecodeError("is not a picture of a known format") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DecodeError(f"cannot be decoded: {error}") from error


def _samples(path: Path) -> npt.NDArray[Any]:
    with Image.open(path) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise DecodeError(f"claims {width} x {height} pixels, more than {MAX_PIXELS:,}: refused")
        grey = picture if picture.mode in _DEEP_MODES else picture.convert("L")
        return np.array(grey)


def _fit(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    # Pillow's filters widen with the reduction, which is what antialiasing means here.
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC))
