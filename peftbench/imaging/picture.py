"""PNG, JPEG, TIFF and whatever else Pillow reads, to samples."""

import io

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from peftbench.errors import DecodeError
from peftbench.imaging.samples import Array, Samples, reason, refuse_bomb

_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I", "F")

_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
"""The tag of TIFF that says whether small values are bright, and its value if they are."""


def read_picture(content: bytes) -> Samples:
    """The samples of a picture.

    Colour is turned into luminance, transparent places become black, of several pages the first is taken, and a
    camera's note on how it was held is obeyed.

    Raises:
        DecodeError: it is truncated, not a picture, or far too large.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            refuse_bomb(*picture.size)
            return _samples(picture)
    except DecodeError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError("claims more pixels than any radiograph has: refused") from error
    except UnidentifiedImageError as error:
        raise DecodeError("is not a picture of a known format") from error
    except MemoryError as error:
        raise DecodeError("needs more memory to decode than any radiograph") from error
    except Exception as error:  # what a damaged file meets in the readers of many formats is anything
        raise DecodeError(f"cannot be decoded: {reason(error)}") from error


def _samples(picture: Image.Image) -> Samples:
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in _DEEP_MODES:
        return Samples(np.array(upright), inverted=_small_is_bright(picture))
    if upright.has_transparency_data:
        seen = upright.convert("RGBA")
        alpha = seen.getchannel("A")
        if alpha.getextrema() != (255, 255):
            black = Image.new("RGBA", seen.size, (0, 0, 0, 255))
            return Samples(_grey(Image.alpha_composite(black, seen).convert("RGB")))
        upright = seen.convert("RGB")
    return Samples(_grey(upright))


def _small_is_bright(picture: Image.Image) -> bool:
    """Whether a deep TIFF is stored as a negative; Pillow turns only those of up to 8 bits."""
    return isinstance(picture, TiffImagePlugin.TiffImageFile) and picture.tag_v2.get(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO


def _grey(picture: Image.Image) -> Array:
    return np.array(picture.convert("L"))
