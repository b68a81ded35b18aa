"""Files to canonical pixels: 8-bit grey, aspect ratio kept, at most so many pixels on the long side.

What a file is, its bytes say, never its name. Imports no torch.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from peftbench.errors import DecodeError
from peftbench.imaging.picture import read_picture
from peftbench.imaging.policy import PixelPolicy
from peftbench.imaging.samples import MAX_BYTES, MAX_PIXELS, Array, Samples
from peftbench.imaging.tones import eight_bits

__all__ = ["MAX_PIXELS", "PixelPolicy", "canonical_pixels", "read_bytes", "read_samples", "samples_of"]

_NOT_PICTURES = (
    (b"PK\x03\x04", "is a ZIP archive, not an image: unpack it"),
    (b"PK\x05\x06", "is an empty ZIP archive, not an image"),
    (b"\x1f\x8b", "is a gzip archive, not an image: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive, not an image: unpack it"),
    (b"%PDF", "is a PDF document, not an image"),
    # Pillow would have Ghostscript run them.
    (b"%!PS", "is a PostScript document, not an image"),
    (b"\xc5\xd0\xd3\xc6", "is a PostScript document, not an image"),
    (b"\x89HDF", "is an HDF5 file, not an image"),
    (b"version https://git-lfs", "is a pointer of Git LFS, not an image: fetch the file itself"),
    (b"<!DOCTYPE", "is a web page, not an image: the download was refused or moved"),
    (b"<html", "is a web page, not an image: the download was refused or moved"),
)


def canonical_pixels(source: Path | bytes, policy: PixelPolicy) -> npt.NDArray[np.uint8]:
    """Read an image file and bring it into the canonical form.

    Args:
        source: path of a DICOM, PNG, JPEG, TIFF or other picture file, or its bytes.
        policy: how its samples become pixels.

    Returns:
        (height, width) uint8, neither side longer than the policy's.

    Raises:
        DecodeError: the file is missing, empty, truncated, not an image, far too large, or of one constant value.
    """
    return _fit(eight_bits(samples_of(source), policy), policy.side)


def read_samples(source: Path | bytes) -> Array:
    """The grey samples of an image file as they are stored; of several frames or pages the first.

    Returns:
        (height, width); uint8, or a wider type for deeper images.

    Raises:
        DecodeError: the file is missing, empty, truncated, not an image or far too large.
    """
    return samples_of(source).stored


def samples_of(source: Path | bytes) -> Samples:
    """The samples of an image file and what their values mean.

    Raises:
        DecodeError: as of `read_samples`.
    """
    content = source if isinstance(source, bytes) else read_bytes(source)
    if not content:
        raise DecodeError("file is empty (0 bytes)")
    for signature, told in _NOT_PICTURES:
        if content[: len(signature)].lower() == signature.lower():
            raise DecodeError(told)
    # Only here: reading pictures must not wait for pydicom's import.
    from peftbench.imaging.dicom import is_dicom, read_dicom  # noqa: PLC0415

    return read_dicom(content) if is_dicom(content) else read_picture(content)


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DecodeError: it is missing, larger than any image, or may not be read.
    """
    try:
        if not path.is_file():
            raise DecodeError("file is missing")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DecodeError(f"has {size:,} bytes, more than any radiograph ({MAX_BYTES:,}): refused")
        return path.read_bytes()
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}") from error


def _fit(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    # Pillow's filters widen with the reduction, which is what antialiasing means here.
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC))
