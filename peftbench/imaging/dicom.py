"""DICOM files to samples, through pydicom and the decoders that it finds (RLE, JPEG, JPEG-LS, JPEG 2000).

Many radiographs on a hospital's disk bend the standard a little: a preamble or a tag is missing, a window is 0 wide.
What can be understood is read; what cannot is refused with a reason, and no decoder's failure passes this module.
What a file says of its display is read here and not when it is displayed: it must not fail later.
"""

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from peftbench.errors import DecodeError
from peftbench.imaging.dicom_codestream import refuse_codestream
from peftbench.imaging.dicom_elements import PIXELS, PROBLEMS, whole, word
from peftbench.imaging.dicom_meaning import display, padding, rescaling
from peftbench.imaging.samples import MAX_BYTES, Array, Samples, luminance, reason, refuse_bomb

DECODERS = ("pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls", "python-gdcm")
"""Packages that decode what is compressed."""

_PREFERRED = {
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit), "pillow"),
    **dict.fromkeys(JPEGLSTransferSyntaxes, "pyjpegls"),
    **dict.fromkeys(JPEG2000TransferSyntaxes, "pylibjpeg"),
}
"""Who decodes what. GDCM, the first that pydicom asks, aborts the process on some damaged files and passes some others
as whole; it decodes what nobody else can, which is lossless JPEG."""

_VALUE_REPRESENTATIONS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
_FIRST_ELEMENTS = frozenset({0x00, 0x01, 0x05, 0x06, 0x08, 0x12, 0x13, 0x14, 0x16, 0x18})
"""Elements of group 8 that a data set may begin with."""

_MEANINGS = {
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB"),
    *("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT"),
}
"""What samples can mean; the retired HSV, ARGB and CMYK are left out."""

_ITEM = b"\xfe\xff\x00\xe0"

# `warnings.catch_warnings` changes what the whole process sees; two threads must not restore each other's filters.
_one_at_a_time = threading.Lock()


def is_dicom(content: bytes) -> bool:
    """Whether bytes are a DICOM file: by its mark, or where the preamble is missing by its first element."""
    if content[128:132] == b"DICM":
        return True
    start = content[:8]
    explicit = start[4:6] in _VALUE_REPRESENTATIONS
    if start[:2] == b"\x02\x00" or start[:3] == b"\x00\x08\x00":
        return explicit
    if start[:2] != b"\x08\x00" or len(start) < 8:
        return False
    element, length = struct.unpack("<HI", start[2:])
    return explicit or (element in _FIRST_ELEMENTS and 0 < length <= 256 and length % 2 == 0)


def read_dicom(content: bytes) -> Samples:
    """The samples of a DICOM file; of several frames the first.

    Colour and palettes are turned into luminance.

    Raises:
        DecodeError: it is truncated, holds no pixels, is compressed in a way that no installed decoder knows, or claims
            more pixels than any radiograph has.
    """
    with _quiet():
        try:
            _refuse_inflation(io.BytesIO(content))
            found = _dataset(content)
            _refuse_bombs(found)
            return _samples(found)
        except DecodeError:
            raise
        except MemoryError as error:
            raise DecodeError("needs more memory to decode than any radiograph") from error
        except Exception as error:  # decoders of other packages raise whatever they like
            raise DecodeError(f"cannot be decoded: {_told(error)}") from error


def read_header(path: Path, keywords: Iterable[str]) -> dict[str, str]:
    """Tags before the pixels as text; what is missing is empty. The pixels are not read.

    Several values are joined by a backslash; of a sequence the text is `present`.

    Raises:
        DecodeError: it is no DICOM file, is missing, or ends within its header.
    """
    if not path.is_file():
        raise DecodeError("file is missing")
    wanted = list(keywords)
    with path.open("rb") as stream, _quiet():
        size = path.stat().st_size
        if not is_dicom(stream.read(132)):
            raise DecodeError("is not a DICOM file" if size else "file is empty (0 bytes)")
        stream.seek(0)
        try:
            _refuse_inflation(stream)
            header = pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=list(wanted))
            cut = stream.tell() > size or any(_is_cut(header, keyword) for keyword in wanted)
            found = {} if cut else {keyword: _text(header, keyword) for keyword in wanted}
        except DecodeError:
            raise
        except Exception as error:  # as above
            raise DecodeError(f"its header cannot be read: {reason(error)}") from error
    if cut:
        raise DecodeError("its header cannot be read: it is cut short")
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without pydicom's warnings of every tag that bends the standard; what matters is whether it can be read."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _is_cut(header: Dataset, keyword: str) -> bool:
    raw = header.get_item(keyword) if keyword in header else None
    if not isinstance(raw, RawDataElement) or raw.value is None or raw.length == 0xFFFFFFFF:
        return False
    return len(raw.value) < raw.length


def _text(header: Dataset, keyword: str) -> str:
    try:
        value: Any = header.get(keyword)
    except PROBLEMS:
        # It is not of its kind, such as a number with letters; whoever asked may still know what is meant.
        raw = header.get_item(keyword)
        value = bytes(raw.value or b"").decode("latin-1").strip("\0 ") if isinstance(raw, RawDataElement) else None
    if value is None:
        return ""
    if isinstance(value, pydicom.Sequence):
        return "present" if len(value) else ""
    if isinstance(value, pydicom.multival.MultiValue):
        return "\\".join(map(str, value))
    return str(value).strip()


def _refuse_inflation(stream: BinaryIO) -> None:
    """Refuse what is deflated and inflates without bounds; the stream is left at its start."""
    read_preamble(stream, force=True)
    if _read_file_meta_info(stream).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        # No 64 kB inflate to more than some 66 MB.
        while not inflater.eof and (part := stream.read(1 << 16)):
            size += len(inflater.decompress(part))
            if size > MAX_BYTES:
                raise DecodeError(f"inflates to more bytes than any radiograph has ({MAX_BYTES:,}): refused")
    stream.seek(0)


def _dataset(content: bytes) -> Dataset:
    """The file, with the elements that decoding needs filled in where they are missing or make no sense."""
    found = pydicom.dcmread(io.BytesIO(content), force=True)
    if not any(found.get(name) for name in PIXELS):
        kind = str(found.get("Modality") or "")
        told = f" (modality {kind})" if re.fullmatch("[A-Z]{2,8}", kind) else ""
        raise DecodeError(f"is a DICOM file without pixels{told}")
    _number_the_layout(found)
    assumed = "MONOCHROME2" if found.SamplesPerPixel == 1 else "RGB"
    found.PhotometricInterpretation = word(found, "PhotometricInterpretation") or assumed
    if found.PhotometricInterpretation not in _MEANINGS:
        raise DecodeError("has a PhotometricInterpretation that is not known: its samples mean nothing")
    if not found.file_meta.get("TransferSyntaxUID"):
        implicit, little = found.original_encoding
        found.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
    return found


def _number_the_layout(found: Dataset) -> None:
    numbers = {name: whole(found, name) for name in ("Rows", "Columns", "BitsAllocated")}
    if absent := [name for name, number in numbers.items() if number < 1]:
        raise DecodeError(f"is a DICOM file without {', '.join(absent)}: its pixels cannot be laid out")
    numbers["SamplesPerPixel"] = max(1, whole(found, "SamplesPerPixel"))
    numbers["NumberOfFrames"] = max(1, whole(found, "NumberOfFrames"))
    numbers["PlanarConfiguration"] = whole(found, "PlanarConfiguration")
    numbers["PixelRepresentation"] = whole(found, "PixelRepresentation")
    stored = whole(found, "BitsStored") or numbers["BitsAllocated"]
    # Old films lie at the upper end of their words (12 bits below bit 15): the whole word is what they hold.
    high = whole(found, "HighBit")
    numbers["BitsStored"] = high + 1 if stored <= high < numbers["BitsAllocated"] else stored
    numbers["HighBit"] = numbers["BitsStored"] - 1
    for name, number in numbers.items():
        found.add_new(name, dictionary_VR(name), number)


def _refuse_bombs(found: Dataset) -> None:
    """Refuse what claims too many pixels, in its tags or in the compressed picture itself; and unknown compressions."""
    refuse_bomb(found.Columns, found.Rows)
    decoder = _decoder_of(found)
    if decoder is None:
        syntax = UID(found.file_meta.TransferSyntaxUID)
        name = syntax.name if syntax.name != syntax else "an unknown transfer syntax"
        raise DecodeError(f"is compressed as {name}, which no installed decoder knows ({', '.join(DECODERS)})")
    if decoder.is_encapsulated:
        if found.PixelData[:4] != _ITEM:
            raise DecodeError(f"its pixels are not compressed, yet its transfer syntax is {decoder.UID.name}")
        # The first frame is found without it; what is decoded must be what is checked here.
        found.pop("ExtendedOffsetTable", None)
        coded = get_frame(found.PixelData, 0, number_of_frames=found.NumberOfFrames)
        check = _refuse_runs if found.file_meta.TransferSyntaxUID == RLELossless else refuse_codestream
        check(found, coded)
    elif "PixelData" in found and found["PixelData"].is_undefined_length:
        raise DecodeError("its pixels are compressed, and its transfer syntax does not say how")


def _decoder_of(found: Dataset) -> Decoder | None:
    try:
        decoder = get_decoder(found.file_meta.TransferSyntaxUID)
    except NotImplementedError:
        return None
    deep = found.file_meta.TransferSyntaxUID == JPEGExtended12Bit and found.BitsStored > 8
    usable = "pylibjpeg" in decoder.available_plugins if deep else decoder.is_available
    return decoder if usable else None


def _refuse_runs(found: Dataset, coded: bytes) -> None:
    """Refuse run lengths that are longer than the worst way to write them: they would unfold to something else."""
    size = found.Rows * found.Columns * found.SamplesPerPixel * max(1, found.BitsAllocated // 8)
    if len(coded) > 2 * size + 4096:
        raise DecodeError("cannot be decoded: its run lengths describe more than its tags claim")


def _samples(found: Dataset) -> Samples:
    syntax = found.file_meta.TransferSyntaxUID
    plugin = _PREFERRED.get(syntax, "")
    known = get_decoder(syntax).available_plugins
    array = pixel_array(found, index=0, decoding_plugin=plugin if plugin in known else "")
    kind = found.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        array = _unpaletted(array, found)
    inverted = kind == "MONOCHROME1"
    if array.ndim == 3 and array.dtype.kind in "iu":
        return Samples(luminance(array), inverted=inverted)
    if array.ndim != 2:
        raise DecodeError(f"has pixels in {array.ndim} dimensions, expected one picture")
    return Samples(array, rescaled=rescaling(found), windowed=display(found), inverted=inverted, padding=padding(found))


def _unpaletted(array: Array, found: Dataset) -> Array:
    """Colours of a palette; what lies outside of it has the colour of its end."""
    if not found.get("RedPaletteColorLookupTableDescriptor"):
        raise DecodeError("is in the colours of a palette, and has none")
    entries, first, _ = found.RedPaletteColorLookupTableDescriptor
    # Clipped here, since in tables of 8 bits pydicom starts from the beginning again.
    inside = np.clip(array.astype(np.int64), first, first + (entries or 65536) - 1)
    colours = apply_color_lut(inside, found)
    if colours.dtype == np.uint8 and inside.max() - first > 255:
        raise DecodeError("has a palette of 8 bits with more than 256 entries")
    return np.asarray(colours)


def _told(error: Exception) -> str:
    if "less than expected" in str(error) or isinstance(error, EOFError):
        return "it is cut short, it holds fewer samples than it states"
    return reason(error)
