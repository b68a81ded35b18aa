"""DICOM files as users have them, made from arrays: any transfer syntax, any pixel module, odd headers.

Two writers. `write_dicom` goes through pydicom and can do everything; `quick_dicom` lays out explicit little endian
bytes by itself, for data sets of many thousands of files.

Every transfer syntax of `SYNTAXES` is written, with these limits:

- JPEG baseline: 8 bit unsigned only, by its definition. Colour is stored as YBR_FULL, as devices do.
- JPEG extended: 8 or 12 bit unsigned, grey. The 12-bit stream is right (GDCM's own reader gives the picture back), but
  pydicom has no decoder for it without pylibjpeg-libjpeg, so to this environment it is a file that does not decode.
- JPEG 2000: at least 32 pixels a side, as OpenJPEG always makes 6 resolutions here.
- High-throughput JPEG 2000: neither GDCM nor OpenJPEG encodes it, so one 16 x 16 picture encoded by OpenJPH is kept
  here (`HTJ2K_PIXELS`) and only that one can be written. pydicom decodes it where pylibjpeg is installed beside
  pylibjpeg-openjpeg.
- MPEG and the other video syntaxes are not made: no radiograph uses them.
"""

import base64
import hashlib
import io
import struct
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gdcm_change import change_syntax
from PIL import Image
from pydicom import dcmread, uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_encoder
from pydicom.sequence import Sequence as Items

Pixels = npt.NDArray[Any]

SYNTAXES: Mapping[str, uid.UID] = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big_endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "rle": uid.RLELossless,
    "jpeg_baseline": uid.JPEGBaseline8Bit,
    "jpeg_extended": uid.JPEGExtended12Bit,
    "jpeg_lossless": uid.JPEGLossless,
    "jpeg_lossless_sv1": uid.JPEGLosslessSV1,
    "jpeg_ls": uid.JPEGLSLossless,
    "jpeg_ls_near": uid.JPEGLSNearLossless,
    "jpeg_2000_lossless": uid.JPEG2000Lossless,
    "jpeg_2000": uid.JPEG2000,
    "htj2k_lossless": uid.HTJ2KLossless,
}
"""Short names of the transfer syntaxes that can be written."""

LOSSY = frozenset({uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000})
"""Syntaxes whose pixels come back only nearly as they were."""

NEAR_LOSSLESS_ERROR = 2
"""The most a sample may be off in near-lossless JPEG-LS."""

SOP_CLASSES: Mapping[str, uid.UID] = {
    "CR": uid.ComputedRadiographyImageStorage,
    "DX": uid.DigitalXRayImageStorageForPresentation,
    "CT": uid.CTImageStorage,
    "MR": uid.MRImageStorage,
    "NM": uid.NuclearMedicineImageStorage,
    "PT": uid.PositronEmissionTomographyImageStorage,
    "SR": uid.BasicTextSRStorage,
    "OT": uid.SecondaryCaptureImageStorage,
}
"""The class of the object for a modality."""

_GDCM_NAMES = {
    uid.JPEGExtended12Bit: "JPEGExtendedProcess2_4",
    uid.JPEGLossless: "JPEGLosslessProcess14",
    uid.JPEGLosslessSV1: "JPEGLosslessProcess14_1",
}
"""What only GDCM encodes; the rest is done by encoders that pydicom knows."""

_PLUGINS: Mapping[uid.UID, tuple[str, Mapping[str, Any]]] = {
    uid.RLELossless: ("pydicom", {}),
    uid.JPEGLSLossless: ("pyjpegls", {}),
    uid.JPEGLSNearLossless: ("pyjpegls", {"jls_error": NEAR_LOSSLESS_ERROR}),
    uid.JPEG2000Lossless: ("pylibjpeg", {}),
    uid.JPEG2000: ("pylibjpeg", {"j2k_cr": [4]}),
}

_ROWS, _COLUMNS = np.mgrid[0:16, 0:16]
HTJ2K_PIXELS: Pixels = (_ROWS * 200 + _COLUMNS * 40 + ((_ROWS * _COLUMNS) % 7) * 20).astype(np.uint16)
"""The one picture that is kept encoded in high-throughput JPEG 2000."""

_HTJ2K_STREAM = base64.b64decode(
    "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQkJCQ"
    "iIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAXIAAf+TwAAmC/cFB3QAAMAAE0AAE0AAEgDs/gIHdABc/gMHdAD8J3MAwAAVEAAFTAAB"
    "ODxCkI4AwrQAPAgtBKIBRrQA3RsfACOUAMAAFqQAAWvAABaosG/96ELzAMxauiEm/QBRxfkilwAw5QsACx5RGF3g0AXLDyIAcgMfkS64AC4xs63DQ8IA"
    "AaB4zWL6EFwAA+m3AMAAL0SAAF6VAAC7kDGks1CHilnkcnpwHZqNj0V6CInIIB7cOR5IjiDD9OIxZkgPj8rYBZlBaJ2ZGS0SIaLD9xcZiaYVS1SG4HAE"
    "EtAEOFEBIZJxCJ+jhNE1g0BCMx3iInKGnIsLWWdGJJsVIxBZZEaEzGQREUdXbwguInDBQxmPgQh6RPD+AAAVIEQGPoBkkFkSKBAEDKTUtAFFRS6ii6AR"
    "WRBEUXSRIhF00SIRaBaJoEXR0RcFEVHRYqGoaPIAIz3+XBF/RYbbVsqnDAf+AECkVQH/2Q=="
)


class VoiLut(NamedTuple):
    """A table of display values: `values[0]` is shown for stored values up to `first`."""

    first: int
    bits: int
    values: Sequence[int]


def uid_of(*words: object) -> str:
    """A valid unique identifier made from words, always the same for the same ones; its last 5 digits vary."""
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big') | 1 << 119}"


def radiograph(rng: np.random.Generator, extent: tuple[int, int], bits: int = 12, opacity: float = 0.2) -> Pixels:
    """A structured random picture that a film could be: a bright body, two dark lungs, ribs, an opacity, grain.

    Args:
        extent: height and width.
        bits: the brightest possible sample is 2 ** bits - 1.
        opacity: how bright the opacity is at most, in shares of the full range.

    Returns:
        (height, width) uint8 for up to 8 bits, else uint16.
    """
    down, across = np.linspace(-1, 1, extent[0])[:, None], np.linspace(-1, 1, extent[1])[None, :]
    shift, tilt = rng.uniform(-0.15, 0.15, 2)
    grey = 0.85 * np.exp(-((across - shift) ** 2) * 1.2 - (down - tilt) ** 2 * 0.4)
    for side in (-1, 1):
        centre = shift + side * rng.uniform(0.35, 0.5)
        grey -= rng.uniform(0.35, 0.6) * np.exp(-(((across - centre) / 0.28) ** 2 + ((down - tilt) / 0.6) ** 2))
    grey += 0.05 * np.sin(rng.uniform(9, 16) * (down + 0.3 * across**2) + rng.uniform(0, 6))
    spot = rng.uniform(-0.6, 0.6, 2)
    cloud = np.exp(-(((across - spot[0]) / 0.2) ** 2 + ((down - spot[1]) / 0.25) ** 2))
    grey += rng.uniform(opacity / 2, opacity) * cloud
    grey += rng.normal(0, 0.02, extent)
    grey = (grey - grey.min()) / np.ptp(grey)
    top = 2**bits - 1
    samples = np.rint(top * rng.uniform(0.8, 1.0) * grey)
    return samples.astype(np.uint8 if bits <= 8 else np.uint16)


def write_dicom(
    path: Path,
    pixels: Pixels,
    *,
    transfer_syntax: str | uid.UID = uid.ExplicitVRLittleEndian,
    photometric: str = "MONOCHROME2",
    bits_stored: int | None = None,
    signed: bool = False,
    window: tuple[float, float] | Sequence[tuple[float, float]] | None = None,
    voi_lut: VoiLut | None = None,
    rescale: tuple[float, float] | None = None,
    padding: int | tuple[int, int] | None = None,
    frames: int | None = None,
    view: str | None = None,
    **headers: Any,
) -> Path:
    """Write one DICOM file; folders are made.

    Args:
        path: where to.
        pixels: (rows, columns), or (rows, columns, 3) in colour; with `frames` one axis before these, except that a
            single frame may come without it. 8- or 16-bit integers; the type says how many bits are allocated.
        transfer_syntax: a UID, or a name of `SYNTAXES`.
        photometric: PhotometricInterpretation.
        bits_stored: BitsStored, default all that are allocated.
        signed: PixelRepresentation 1; the samples are then read as two's complement.
        window: (WindowCenter, WindowWidth), or several such pairs.
        voi_lut: a VOILUTSequence of one item.
        rescale: (RescaleSlope, RescaleIntercept).
        padding: PixelPaddingValue, or that and PixelPaddingRangeLimit.
        frames: NumberOfFrames; absent by default, as in most radiographs.
        view: ViewPosition; `None` leaves it out, an empty string writes it empty.
        headers: further elements by keyword; `None` leaves out one that would be written otherwise.
    """
    syntax = uid.UID(SYNTAXES.get(str(transfer_syntax), transfer_syntax))
    samples = pixels.astype(pixels.dtype.str.replace("u", "i")) if signed else pixels
    header = _identity(path, headers)
    _describe_pixels(header, samples, photometric, bits_stored, frames)
    _describe_display(header, window, voi_lut, rescale, padding)
    header.ViewPosition = view
    for keyword, value in headers.items():
        setattr(header, keyword, value)
    for keyword in [element.keyword for element in header if element.value is None]:
        delattr(header, keyword)
    return _save(path, header, samples, syntax)


def _identity(path: Path, headers: Mapping[str, Any]) -> Dataset:
    modality = headers.get("Modality", "CR")
    header = Dataset()
    header.SOPClassUID = SOP_CLASSES.get(modality, uid.SecondaryCaptureImageStorage)
    header.SOPInstanceUID = uid_of("instance", *path.parts[-2:])
    header.StudyInstanceUID = uid_of("study", *path.parts[-2:])
    header.SeriesInstanceUID = uid_of("series", *path.parts[-2:])
    header.Modality = modality
    header.PatientID = header.PatientName = path.stem
    header.InstanceNumber = 1
    return header


def _describe_pixels(
    header: Dataset, samples: Pixels, photometric: str, bits_stored: int | None, frames: int | None
) -> None:
    inner = samples.shape[1:] if _has_frames_axis(samples, frames) else samples.shape
    header.Rows, header.Columns = inner[:2]
    header.SamplesPerPixel = inner[2] if len(inner) == 3 else 1
    if header.SamplesPerPixel > 1:
        header.PlanarConfiguration = 0
    header.PhotometricInterpretation = photometric
    header.NumberOfFrames = frames
    header.BitsAllocated = samples.dtype.itemsize * 8
    header.BitsStored = bits_stored or header.BitsAllocated
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(samples.dtype.kind == "i")


def _has_frames_axis(samples: Pixels, frames: int | None) -> bool:
    return frames is not None and (samples.ndim == 4 or (samples.ndim == 3 and samples.shape[0] == frames))


def _describe_display(
    header: Dataset,
    window: tuple[float, float] | Sequence[tuple[float, float]] | None,
    voi_lut: VoiLut | None,
    rescale: tuple[float, float] | None,
    padding: int | tuple[int, int] | None,
) -> None:
    if window is not None:
        pairs = np.atleast_2d(window).tolist()
        header.WindowCenter = [f"{centre:g}" for centre, _ in pairs]
        header.WindowWidth = [f"{width:g}" for _, width in pairs]
    if voi_lut is not None:
        header.VOILUTSequence = Items([_table(voi_lut)])
    if rescale is not None:
        header.RescaleSlope, header.RescaleIntercept = (f"{each:g}" for each in rescale)
        header.RescaleType = "US"
    if padding is not None:
        first, *limit = np.atleast_1d(padding).tolist()
        kind = "SS" if header.PixelRepresentation else "US"
        header.add_new("PixelPaddingValue", kind, first)
        if limit:
            header.add_new("PixelPaddingRangeLimit", kind, limit[0])


def _table(lut: VoiLut) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if lut.first < 0 else "US", [len(lut.values) % 65536, lut.first, lut.bits])
    item.add_new("LUTData", "US", list(lut.values))
    return item


def _save(path: Path, header: Dataset, samples: Pixels, syntax: uid.UID) -> Path:
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    if syntax.is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian:
        streams = [_encode(header, frame, syntax) for frame in _frames(header, samples)]
        _declare_loss(header, samples, streams, syntax)
        header.PixelData = encapsulate(streams)
        header["PixelData"].VR = "OB"
    else:
        order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
        content = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
        header.PixelData = content + b"\0" * (len(content) % 2)
        header["PixelData"].VR = "OB" if samples.dtype.itemsize == 1 and not syntax.is_implicit_VR else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path


def _frames(header: Dataset, samples: Pixels) -> list[Pixels]:
    inner = (header.Rows, header.Columns, *([header.SamplesPerPixel] if header.SamplesPerPixel > 1 else []))
    return list(samples.reshape(-1, *inner))


def _encode(header: Dataset, frame: Pixels, syntax: uid.UID) -> bytes:
    deepest = {uid.JPEGBaseline8Bit: 8, uid.JPEGExtended12Bit: 12}.get(syntax, 16)
    if header.BitsStored > deepest or (deepest < 16 and header.PixelRepresentation):
        raise NotImplementedError(f"{syntax.name} holds unsigned samples of up to {deepest} bits")
    if min(frame.shape[:2]) < 32 and syntax in (uid.JPEG2000, uid.JPEG2000Lossless):
        raise NotImplementedError(f"{syntax.name} needs 32 pixels a side")
    if frame.ndim == 3 and syntax == uid.JPEGExtended12Bit:
        raise NotImplementedError(f"{syntax.name} is made in grey only")
    if syntax == uid.HTJ2KLossless:
        if not np.array_equal(frame, HTJ2K_PIXELS):
            raise NotImplementedError("only HTJ2K_PIXELS can be written in high-throughput JPEG 2000")
        return _HTJ2K_STREAM
    if syntax == uid.JPEGBaseline8Bit:
        stream = io.BytesIO()
        # Pillow turns colour into luminance and two differences; the header must say so.
        header.PhotometricInterpretation = "YBR_FULL" if frame.ndim == 3 else header.PhotometricInterpretation
        Image.fromarray(frame).save(stream, "JPEG", quality=92, subsampling=0)
        return stream.getvalue()
    if syntax in _GDCM_NAMES:
        return _encode_with_gdcm(frame, header.BitsStored, syntax)
    return _encode_with_pydicom(frame, header, syntax)


def _encode_with_pydicom(frame: Pixels, header: Dataset, syntax: uid.UID) -> bytes:
    plugin, options = _PLUGINS[syntax]
    described = {"planar_configuration": 0} if header.SamplesPerPixel > 1 else {}
    return get_encoder(syntax).encode(
        frame,
        rows=header.Rows,
        columns=header.Columns,
        samples_per_pixel=header.SamplesPerPixel,
        photometric_interpretation=header.PhotometricInterpretation,
        bits_allocated=header.BitsAllocated,
        bits_stored=header.BitsStored,
        pixel_representation=header.PixelRepresentation,
        number_of_frames=1,
        encoding_plugin=plugin,
        **described,
        **options,
    )


def _encode_with_gdcm(frame: Pixels, bits_stored: int, syntax: uid.UID) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder, "plain.dcm"), Path(folder, "packed.dcm")
        write_dicom(
            plain,
            frame,
            # Of an odd number of bytes, padded to an even one, some of GDCM's encoders make nothing.
            transfer_syntax=uid.JPEGLSLossless if frame.nbytes % 2 else uid.ExplicitVRLittleEndian,
            bits_stored=bits_stored,
            photometric="RGB" if frame.ndim == 3 else "MONOCHROME2",
            Modality="OT",
        )
        change_syntax(plain, packed, _GDCM_NAMES[syntax])
        return next(generate_frames(dcmread(packed).PixelData, number_of_frames=1))


def _declare_loss(header: Dataset, samples: Pixels, streams: Sequence[bytes], syntax: uid.UID) -> None:
    if syntax in LOSSY:
        header.LossyImageCompression = "01"
        header.LossyImageCompressionRatio = f"{samples.nbytes / sum(map(len, streams)):.4g}"
        header.LossyImageCompressionMethod = "ISO_15444_1" if syntax == uid.JPEG2000 else "ISO_10918_1"


_LONG = frozenset({"OB", "OW", "SQ", "UT", "UN"})
"""Value representations with a four-byte length in the explicit syntaxes."""

_NUMBERS = {"US": "H", "SS": "h", "UL": "I"}


@cache
def _tag(keyword: str) -> tuple[int, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag, dictionary_VR(tag).split(" or ")[-1]


def _value(kind: str, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if kind == "SQ":
        items = [_elements(item) for item in value]
        return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    if kind in _NUMBERS:
        return struct.pack("<" + _NUMBERS[kind], value)
    text = ("\\".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)).encode()
    return text + (b"\0" if kind == "UI" else b" ") * (len(text) % 2)


def _elements(headers: Mapping[str, Any]) -> bytes:
    """Explicit little endian elements in the order of their tags."""
    parts = []
    for (tag, kind), value in sorted((_tag(keyword), value) for keyword, value in headers.items()):
        content = _value(kind, value)
        length = struct.pack("<HI", 0, len(content)) if kind in _LONG else struct.pack("<H", len(content))
        parts.append(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode() + length + content)
    return b"".join(parts)


def quick_dicom(pixels: npt.NDArray[np.uint16] | None, bits_stored: int = 12, **headers: Any) -> bytes:
    """The bytes of a DICOM file, explicit little endian, some 50 times faster than through pydicom.

    Args:
        pixels: (rows, columns) uint16, or `None` for an object without a picture.
        bits_stored: BitsStored.
        headers: elements by keyword; a sequence is a list of mappings. SOPClassUID and SOPInstanceUID are needed.
    """
    described: dict[str, Any] = dict(headers)
    if pixels is not None:
        described |= {
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": headers.get("PhotometricInterpretation", "MONOCHROME2"),
            "BitsAllocated": 16,
            "BitsStored": bits_stored,
            "HighBit": bits_stored - 1,
            "PixelRepresentation": 0,
            "PixelData": pixels.astype("<u2").tobytes(),
        }
    meta = _elements(
        {
            "FileMetaInformationVersion": b"\0\1",
            "MediaStorageSOPClassUID": headers["SOPClassUID"],
            "MediaStorageSOPInstanceUID": headers["SOPInstanceUID"],
            "TransferSyntaxUID": uid.ExplicitVRLittleEndian,
            "ImplementationClassUID": uid.PYDICOM_IMPLEMENTATION_UID,
        }
    )
    length = _elements({"FileMetaInformationGroupLength": len(meta)})
    return b"\0" * 128 + b"DICM" + length + meta + _elements(described)
