"""DICOM to pixels: every transfer syntax, what tags mean (against the standard's formulas), and files that are damaged.

Most files are written by `dicom_kit`; damage is done to their bytes.
"""

import io
import itertools
import re
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from dicom_kit import HTJ2K_PIXELS, LOSSY, NEAR_LOSSLESS_ERROR, SYNTAXES, VoiLut, quick_dicom, radiograph, write_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, convert_color_space
from pydicom.sequence import Sequence

from peftbench.errors import DecodeError
from peftbench.imaging import dicom
from peftbench.imaging.decode import canonical_pixels, read_samples, samples_of
from peftbench.imaging.dicom import is_dicom, read_header
from peftbench.imaging.policy import POLICIES, PixelPolicy, PolicyName

pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(0)
FILM = radiograph(RANDOM, (40, 36))
FILM8 = radiograph(RANDOM, (40, 36), bits=8)
COLOUR = np.stack([FILM8, FILM8[::-1], 255 - FILM8], axis=2)

NAME, NUMBER = "DOE^JANE", "PATIENT-4711"
"""Whose picture it is, which no message may say."""

CODED = ("rle", "jpeg_baseline", "jpeg_lossless_sv1", "jpeg_ls", "jpeg_2000_lossless")
"""One syntax for each decoder."""

FATAL = ("jpeg_baseline", "jpeg_lossless_sv1")
"""Syntaxes that GDCM reads, where some damage ends the process."""

Pixels = npt.NDArray[Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dicom") / "made.dcm"


@cache
def coded(folder: Path, syntax: str) -> bytes:
    """A radiograph in a syntax, whose tags name the patient."""
    film = FILM8 if syntax in ("jpeg_baseline", "jpeg_extended") else FILM
    film = HTJ2K_PIXELS if syntax.startswith("htj2k") else film
    return written(folder / "coded.dcm", film, transfer_syntax=syntax, PatientName=NAME, PatientID=NUMBER)


def written(path: Path, pixels: Pixels = FILM, **options: Any) -> bytes:
    if pixels.dtype.itemsize == 2:
        options = {"bits_stored": 12} | options
    return write_dicom(path, pixels, **options).read_bytes()


def edited(content: bytes, edit: Callable[[Dataset], object] | None = None, **values: Any) -> bytes:
    """The file with some elements changed; those that become `None` are left out."""
    found = pydicom.dcmread(io.BytesIO(content))
    if edit is not None:
        edit(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in values.items():
            if value is None:
                delattr(found, name)
            else:
                setattr(found, name, value)
        stream = io.BytesIO()
        found.save_as(stream, enforce_file_format=False)
    return stream.getvalue()


def stream_of(content: bytes) -> bytes:
    """The first coded frame."""
    return get_frame(pydicom.dcmread(io.BytesIO(content)).PixelData, 0, number_of_frames=1)


def with_stream(content: bytes, stream: bytes) -> bytes:
    def replace(found: Dataset) -> None:
        found.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])

    return edited(content, replace)


def shown(content: bytes, policy: PolicyName = "minmax") -> npt.NDArray[np.int64]:
    return canonical_pixels(content, PixelPolicy(name=policy)).astype(np.int64)


def stretched(levels: Pixels) -> npt.NDArray[np.float64]:
    """Min-max, as the paper does it."""
    levels = levels.astype(np.float64)
    return 255 * (levels - levels.min()) / (levels.max() - levels.min())


def near(found: Pixels, exact: Pixels) -> bool:
    """Whether levels are the nearest to what is exact; halves may go either way."""
    return found.shape == exact.shape and bool(np.abs(found - exact).max() <= 0.5 + 1e-4)


def refusal(content: bytes, policy: PolicyName = "window") -> str:
    """Why a file is refused; the message is one line that names nobody."""
    with pytest.raises(DecodeError) as caught:
        canonical_pixels(content, PixelPolicy(name=policy))
    return discreet(str(caught.value))


def discreet(told: str) -> str:
    assert told
    assert "\n" not in told
    assert told.isprintable()
    assert len(told) < 300
    assert not any(secret in told for secret in (NAME, NUMBER, "DOE", "4711", tempfile.gettempdir()))
    return told


def samples(bits: int, signed: bool, extent: tuple[int, int] = (40, 36)) -> Pixels:
    """Noise over the whole range, but for what a lossy coder could wrap around."""
    kind = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    return np.random.default_rng(bits).integers(low + 3, high - 3, extent).astype(kind)


class TestTransferSyntaxes:
    LOSSLESS = tuple(name for name, syntax in SYNTAXES.items() if syntax not in LOSSY and not name.startswith("htj2k"))

    @pytest.mark.parametrize(
        ("bits", "signed"), [(8, False), (8, True), (12, False), (12, True), (16, False), (16, True)]
    )
    @pytest.mark.parametrize("syntax", LOSSLESS)
    def test_lossless_samples_are_what_was_written(self, place: Path, syntax: str, bits: int, signed: bool) -> None:
        pixels = samples(bits, signed)
        content = written(place, pixels, transfer_syntax=syntax, bits_stored=bits, signed=signed)
        found = read_samples(content)
        assert found.dtype.newbyteorder("=") == pixels.dtype
        np.testing.assert_array_equal(found, pixels)

    @pytest.mark.parametrize("syntax", LOSSLESS)
    def test_odd_extents(self, place: Path, syntax: str) -> None:
        pixels = samples(8, signed=False, extent=(35, 33))
        np.testing.assert_array_equal(read_samples(written(place, pixels, transfer_syntax=syntax)), pixels)

    @pytest.mark.parametrize("bits", [8, 10, 12])
    @pytest.mark.parametrize("signed", [False, True])
    def test_near_lossless(self, place: Path, bits: int, signed: bool) -> None:
        pixels = samples(bits, signed)
        content = written(place, pixels, transfer_syntax="jpeg_ls_near", bits_stored=bits, signed=signed)
        assert 0 < np.abs(read_samples(content).astype(int) - pixels).max() <= NEAR_LOSSLESS_ERROR

    @pytest.mark.parametrize(
        ("syntax", "pixels", "bound"),
        [("jpeg_baseline", FILM8, 12), ("jpeg_extended", FILM8, 12), ("jpeg_2000", FILM, 200)],
    )
    def test_lossy_samples_are_near(self, place: Path, syntax: str, pixels: Pixels, bound: int) -> None:
        found = read_samples(written(place, pixels, transfer_syntax=syntax)).astype(int)
        assert np.abs(found - pixels).max() <= bound
        assert np.abs(found - pixels).mean() <= bound / 4

    def test_high_throughput_jpeg_2000(self, place: Path) -> None:
        np.testing.assert_array_equal(read_samples(coded(place.parent, "htj2k_lossless")), HTJ2K_PIXELS)

    def test_12_bits_of_jpeg_extended_have_no_decoder(self, place: Path) -> None:
        told = refusal(written(place, transfer_syntax="jpeg_extended"))
        assert re.match(r"is compressed as JPEG Extended .* which no installed decoder knows \(pydicom, ", told)

    def test_a_film_for_moving_pictures(self, place: Path) -> None:
        content = coded(place.parent, "jpeg_ls").replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.66")
        assert refusal(content).startswith("is compressed as ")

    @pytest.mark.parametrize("syntax", ["implicit", "explicit", "big_endian", "deflated"])
    def test_what_lies_above_the_stored_bits_is_nothing(self, place: Path, syntax: str) -> None:
        rubbish = FILM | (RANDOM.integers(0, 16, FILM.shape) << 12).astype(np.uint16)
        np.testing.assert_array_equal(read_samples(written(place, rubbish, transfer_syntax=syntax)), FILM)

    def test_the_sign_is_the_highest_stored_bit(self, place: Path) -> None:
        pixels = samples(12, signed=True)
        bare = (pixels.astype(np.uint16) & 0x0FFF).astype(np.uint16)
        np.testing.assert_array_equal(read_samples(written(place, bare, signed=True)), pixels)

    def test_8_bits_in_words_of_16_big_endian(self, place: Path) -> None:
        pixels = samples(8, signed=False)

        def as_words(found: Dataset) -> None:
            found.PixelData = pixels.tobytes()
            found["PixelData"].VR = "OB"

        content = edited(written(place, pixels, transfer_syntax="big_endian"), as_words)
        np.testing.assert_array_equal(read_samples(content), pixels)
        swapped = pixels.reshape(-1, 2)[:, ::-1].tobytes()
        head, tail = content.rsplit(pixels.tobytes(), 1)
        as_ow = head[:-8] + b"OW" + head[-6:] + swapped + tail
        np.testing.assert_array_equal(read_samples(as_ow), pixels)

    def test_one_bit(self) -> None:
        bits = RANDOM.integers(0, 2, (16, 16)).astype(np.uint8)
        content = quick_dicom(np.zeros((16, 16), np.uint16), SOPClassUID="1.2", SOPInstanceUID="1.2.3")
        packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
        found = edited(content, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed)
        np.testing.assert_array_equal(read_samples(found), bits)

    def test_32_bits(self) -> None:
        pixels = RANDOM.integers(0, 2**32, (16, 16)).astype(np.uint32)
        content = quick_dicom(np.zeros((16, 16), np.uint16), SOPClassUID="1.2", SOPInstanceUID="1.2.3")
        found = edited(content, BitsAllocated=32, BitsStored=32, HighBit=31, PixelData=pixels.tobytes())
        np.testing.assert_array_equal(read_samples(found), pixels)

    @pytest.mark.parametrize(("element", "kind"), [("FloatPixelData", "f4"), ("DoubleFloatPixelData", "f8")])
    def test_floating_pixels(self, element: str, kind: str) -> None:
        pixels = RANDOM.normal(0, 1000, (16, 16)).astype(kind)
        pixels[0, 0] = -32768
        content = quick_dicom(np.zeros((16, 16), np.uint16), SOPClassUID="1.2", SOPInstanceUID="1.2.3")
        bits = 8 * pixels.dtype.itemsize
        padding = {element.replace("Data", "PaddingValue"): -32768.0}
        found = edited(content, PixelData=None, BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1, **padding)
        found = edited(found, **{element: pixels.tobytes()})
        np.testing.assert_array_equal(read_samples(found), pixels)
        assert near(shown(found).reshape(-1)[1:], stretched(pixels.reshape(-1)[1:]))
        assert shown(found)[0, 0] == 0

    def test_the_fast_writer_writes_what_pydicom_reads(self) -> None:
        content = quick_dicom(FILM, SOPClassUID="1.2", SOPInstanceUID="1.2.3")
        np.testing.assert_array_equal(read_samples(content), FILM)


class TestFrames:
    @pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg_ls"])
    def test_of_several_the_first(self, place: Path, syntax: str) -> None:
        pixels = np.stack([FILM, FILM[::-1], FILM // 2])
        np.testing.assert_array_equal(read_samples(written(place, pixels, transfer_syntax=syntax, frames=3)), FILM)

    @pytest.mark.parametrize("syntax", ["explicit", "jpeg_lossless_sv1"])
    def test_one_with_a_number(self, place: Path, syntax: str) -> None:
        np.testing.assert_array_equal(read_samples(written(place, FILM[None], transfer_syntax=syntax, frames=1)), FILM)

    @pytest.mark.parametrize("number", [0, -3])
    def test_a_number_that_makes_no_sense_is_one(self, place: Path, number: int) -> None:
        np.testing.assert_array_equal(read_samples(edited(written(place), NumberOfFrames=number)), FILM)

    @pytest.mark.parametrize("text", [b"abc   ", b"      ", b"inf   ", b"1e3000"])
    def test_a_number_that_is_none(self, place: Path, text: bytes) -> None:
        content = edited(written(place), NumberOfFrames="123456").replace(b"123456", text)
        np.testing.assert_array_equal(read_samples(content), FILM)

    def test_a_coded_frame_in_several_pieces(self, place: Path) -> None:
        def split(found: Dataset) -> None:
            found.PixelData = encapsulate([stream_of(content)], fragments_per_frame=3, has_bot=False)

        content = coded(place.parent, "jpeg_ls")
        np.testing.assert_array_equal(read_samples(edited(content, split)), FILM)


class TestColour:
    GREY = (COLOUR @ np.array([0.299, 0.587, 0.114])).astype(int)

    @pytest.mark.parametrize("syntax", ["implicit", "explicit", "deflated", "rle", "jpeg_ls", "jpeg_2000_lossless"])
    def test_becomes_luminance(self, place: Path, syntax: str) -> None:
        found = read_samples(written(place, COLOUR, transfer_syntax=syntax, photometric="RGB"))
        assert np.abs(found.astype(int) - self.GREY).max() <= 1

    @pytest.mark.parametrize("syntax", ["jpeg_lossless", "jpeg_baseline"])
    def test_in_jpeg(self, place: Path, syntax: str) -> None:
        found = read_samples(written(place, COLOUR, transfer_syntax=syntax, photometric="RGB"))
        assert np.abs(found.astype(int) - self.GREY).max() <= (1 if "lossless" in syntax else 16)

    def test_a_grey_picture_in_three_channels_is_itself(self, place: Path) -> None:
        content = written(place, np.dstack([FILM8] * 3), photometric="RGB")
        np.testing.assert_array_equal(read_samples(content), FILM8)

    def test_16_bits(self, place: Path) -> None:
        deep = np.dstack([FILM] * 3)
        np.testing.assert_array_equal(read_samples(written(place, deep, photometric="RGB")), FILM)

    def test_planes(self, place: Path) -> None:
        planes = np.moveaxis(COLOUR, 2, 0).tobytes()
        content = edited(written(place, COLOUR, photometric="RGB"), PlanarConfiguration=1, PixelData=planes)
        assert np.abs(read_samples(content).astype(int) - self.GREY).max() <= 1

    def test_without_a_word_on_planes(self, place: Path) -> None:
        content = edited(written(place, COLOUR, photometric="RGB"), PlanarConfiguration=None)
        assert np.abs(read_samples(content).astype(int) - self.GREY).max() <= 1

    def test_luminance_and_differences(self, place: Path) -> None:
        apart = convert_color_space(COLOUR.copy(), "RGB", "YBR_FULL")
        found = read_samples(written(place, apart, photometric="YBR_FULL")).astype(int)
        assert np.abs(found - self.GREY).max() <= 2

    def test_differences_for_every_second_pixel(self, place: Path) -> None:
        wide = np.repeat(COLOUR, 2, axis=1)
        apart = convert_color_space(wide.copy(), "RGB", "YBR_FULL").reshape(-1, 2, 3)
        halved = np.stack([apart[:, 0, 0], apart[:, 1, 0], apart[:, 0, 1], apart[:, 0, 2]], axis=1)
        content = edited(
            written(place, wide, photometric="RGB"),
            PhotometricInterpretation="YBR_FULL_422",
            PixelData=halved.tobytes(),
        )
        assert np.abs(read_samples(content).astype(int) - np.repeat(self.GREY, 2, axis=1)).max() <= 2

    @pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
    def test_three_channels_that_are_said_to_be_grey(self, place: Path, photometric: str) -> None:
        content = edited(written(place, COLOUR, photometric="RGB"), PhotometricInterpretation=photometric)
        exact = stretched(read_samples(content))
        assert near(shown(content), 255 - exact if photometric == "MONOCHROME1" else exact)

    @pytest.mark.parametrize("photometric", ["HSV", "CMYK", "GREYSCALE", "MONOCHROME3"])
    def test_what_is_not_known_is_refused(self, place: Path, photometric: str) -> None:
        content = edited(written(place, COLOUR, photometric="RGB"), PhotometricInterpretation=photometric)
        assert "PhotometricInterpretation that is not known" in refusal(content)

    def test_small_letters(self, place: Path) -> None:
        content = written(place).replace(b"MONOCHROME2", b"monochrome1")
        assert near(shown(content), 255 - stretched(FILM))


class TestPalette:
    def made(self, place: Path, pixels: Pixels, tables: Pixels, first: int = 0) -> bytes:
        def add(found: Dataset) -> None:
            bits = 8 * tables.dtype.itemsize
            for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
                found.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [len(table), first, bits])
                found.add_new(f"{name}PaletteColorLookupTableData", "OW", table.tobytes())

        return edited(written(place, pixels), add, PhotometricInterpretation="PALETTE COLOR")

    def grey(self, pixels: Pixels, tables: Pixels, first: int = 0) -> Pixels:
        places = np.clip(pixels.astype(int) - first, 0, tables.shape[1] - 1)
        return (tables[:, places].astype(np.float64).transpose(1, 2, 0) @ np.array([0.299, 0.587, 0.114])).astype(int)

    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    def test_is_looked_up(self, place: Path, kind: type) -> None:
        tables = RANDOM.integers(0, np.iinfo(kind).max, (3, 256)).astype(kind)
        found = read_samples(self.made(place, FILM8, tables)).astype(int)
        assert np.abs(found - self.grey(FILM8, tables)).max() <= 1

    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    def test_outside_of_it_the_ends_hold(self, place: Path, kind: type) -> None:
        tables = RANDOM.integers(0, np.iinfo(kind).max, (3, 100)).astype(kind)
        found = read_samples(self.made(place, FILM, tables, first=30)).astype(int)
        assert np.abs(found - self.grey(FILM, tables, first=30)).max() <= 1

    def test_without_one(self, place: Path) -> None:
        assert "palette" in refusal(edited(written(place), PhotometricInterpretation="PALETTE COLOR"))

    def test_more_entries_than_8_bits_can_count(self, place: Path) -> None:
        tables = RANDOM.integers(0, 255, (3, 1000)).astype(np.uint8)
        assert "palette" in refusal(self.made(place, FILM, tables))


def linear(level: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.2.1, with a display from 0 to 1."""
    if level <= center - 0.5 - (width - 1) / 2:
        return 0.0
    if level > center - 0.5 + (width - 1) / 2:
        return 1.0
    return (level - (center - 0.5)) / (width - 1) + 0.5


def linear_exact(level: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.3.2."""
    if level <= center - width / 2:
        return 0.0
    if level > center + width / 2:
        return 1.0
    return (level - center) / width + 0.5


def sigmoid(level: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.3.1."""
    return float(1 / (1 + np.exp(np.clip(-4 * (level - center) / width, -700, 700))))


FUNCTIONS = {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}


def by_pixel(levels: Pixels, function: str, center: float, width: float) -> Pixels:
    found = [255 * FUNCTIONS[function](float(level), center, width) for level in levels.reshape(-1)]
    return np.array(found).reshape(levels.shape)


class TestWindows:
    @pytest.mark.parametrize("function", [None, *FUNCTIONS])
    @pytest.mark.parametrize(("center", "width"), [(2000, 1000), (2000.5, 1), (1500, 2), (-100, 5000), (2047.5, 4096)])
    def test_the_standards_formula(self, place: Path, function: str | None, center: float, width: float) -> None:
        content = written(place, window=(center, width), VOILUTFunction=function)
        assert near(shown(content, "window"), by_pixel(FILM, function or "LINEAR", center, width))

    @pytest.mark.parametrize("function", FUNCTIONS)
    @pytest.mark.parametrize("rescale", [(1, -1024), (2.5, 10), (-1, 4095), (-0.5, 0)])
    @pytest.mark.parametrize("signed", [False, True])
    def test_pydicoms_own(self, place: Path, function: str, rescale: tuple[float, float], signed: bool) -> None:
        pixels = samples(12, signed)
        middle = float(np.median(pixels)) * rescale[0] + rescale[1]
        content = written(place, pixels, signed=signed, rescale=rescale, window=(middle, 1500), VOILUTFunction=function)
        found = pydicom.dcmread(io.BytesIO(content))
        levels = apply_voi_lut(apply_modality_lut(found.pixel_array, found), found)
        # Its output range is that of the rescaled samples, whichever end is the first.
        ends = np.array([pixels.dtype.type(-2048 if signed else 0), 2047 if signed else 4095]) * rescale[0] + rescale[1]
        assert near(shown(content, "window"), 255 * (levels - ends[0]) / (ends[1] - ends[0]))

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from([*FUNCTIONS]), st.integers(-3000, 6000), st.integers(1, 9000), st.booleans())
    def test_any(self, place: Path, function: str, center: int, width: int, inverted: bool) -> None:
        content = quick_dicom(
            FILM,
            SOPClassUID="1.2",
            SOPInstanceUID="1.2.3",
            WindowCenter=center,
            WindowWidth=width,
            VOILUTFunction=function,
            PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
        )
        exact = by_pixel(FILM, function, center, width)
        if exact.min() == exact.max():
            assert "its window shows every sample in one tone" in refusal(content)
        else:
            assert near(shown(content, "window"), 255 - exact if inverted else exact)

    def test_of_several_the_first(self, place: Path) -> None:
        content = written(place, window=[(2000, 1000), (100, 50), (3000, 7)])
        assert near(shown(content, "window"), by_pixel(FILM, "LINEAR", 2000, 1000))

    @pytest.mark.parametrize(
        ("center", "width"),
        [
            *(("2000", "0"), ("2000", "-50"), ("2000", "0.5"), ("", "100"), ("2000", ""), ("nan", "100")),
            *(("2000", "nan"), ("inf", "100"), ("2000", "inf"), ("about 2000", "100"), ("2000", "wide")),
            *((None, "100"), ("2000", None)),
        ],
    )
    def test_an_unsound_one_is_min_max(self, place: Path, center: str | None, width: str | None) -> None:
        content = written(place, WindowCenter="11111111111111", WindowWidth="22222222222222")
        for text, stand_in in ((center, b"11111111111111"), (width, b"22222222222222")):
            content = content.replace(stand_in, (text or "").encode().ljust(14))
        if center is None:
            content = edited(content, WindowCenter=None)
        if width is None:
            content = edited(content, WindowWidth=None)
        np.testing.assert_array_equal(shown(content, "window"), shown(written(place)))
        np.testing.assert_array_equal(shown(content), shown(written(place)))

    def test_an_unknown_function_is_min_max(self, place: Path) -> None:
        content = written(place, window=(2000, 1000), VOILUTFunction="PARABOLA")
        np.testing.assert_array_equal(shown(content, "window"), shown(written(place)))

    def test_steep_curves_warn_of_nothing(self, place: Path, recwarn: pytest.WarningsRecorder) -> None:
        shown(written(place, window=(2000, 1e-9), VOILUTFunction="SIGMOID"), "window")
        assert not list(recwarn)


RISING = [round(4095 * (number / 999) ** 2) for number in range(1000)]
"""A look-up table of 12 bits."""


class TestTables:
    """Look-up tables: the VOI LUT for display, the modality LUT for what was measured."""

    @staticmethod
    def looked_up(levels: Pixels, table: list[int], first: int) -> Pixels:
        return np.array([table[min(max(int(level) - first, 0), len(table) - 1)] for level in levels.reshape(-1)])

    @pytest.mark.parametrize("first", [0, 700, 3500])
    @pytest.mark.parametrize("inverted", [False, True])
    def test_voi(self, place: Path, first: int, inverted: bool) -> None:
        content = written(
            place,
            voi_lut=VoiLut(first, 12, RISING),
            window=(1, 2),
            photometric="MONOCHROME1" if inverted else "MONOCHROME2",
        )
        exact = self.looked_up(FILM, RISING, first).reshape(FILM.shape) * 255 / 4095
        assert near(shown(content, "window"), 255 - exact if inverted else exact)

    def test_voi_of_signed_samples(self, place: Path) -> None:
        pixels = samples(12, signed=True)
        content = written(place, pixels, signed=True, voi_lut=VoiLut(-500, 12, RISING))
        exact = self.looked_up(pixels, RISING, -500).reshape(pixels.shape) * 255 / 4095
        assert near(shown(content, "window"), exact)

    def test_voi_after_a_rescale(self, place: Path) -> None:
        content = written(place, rescale=(0.5, 100), voi_lut=VoiLut(300, 12, RISING))
        exact = self.looked_up(np.rint(FILM * 0.5 + 100), RISING, 300).reshape(FILM.shape) * 255 / 4095
        assert near(shown(content, "window"), exact)

    def test_voi_of_8_bits_holds_its_ends(self, place: Path) -> None:
        """Samples far above a short table: they must not start from its beginning again."""
        table = list(range(0, 256, 2))
        content = written(place, voi_lut=VoiLut(100, 8, table))
        exact = self.looked_up(FILM, table, 100).reshape(FILM.shape)
        assert near(shown(content, "window"), exact)

    def test_12_bits_that_are_called_16(self, place: Path) -> None:
        content = written(place, voi_lut=VoiLut(0, 16, RISING))
        np.testing.assert_array_equal(
            shown(content, "window"), shown(written(place, voi_lut=VoiLut(0, 12, RISING)), "window")
        )

    @pytest.mark.parametrize("break_it", ["LUTData", "LUTDescriptor"])
    def test_a_broken_one_leaves_the_window(self, place: Path, break_it: str) -> None:
        def broken(found: Dataset) -> None:
            delattr(found.VOILUTSequence[0], break_it)

        content = edited(written(place, voi_lut=VoiLut(0, 12, RISING), window=(2000, 1000)), broken)
        assert near(shown(content, "window"), by_pixel(FILM, "LINEAR", 2000, 1000))

    def test_an_empty_sequence_leaves_the_window(self, place: Path) -> None:
        content = edited(written(place, window=(2000, 1000)), VOILUTSequence=Sequence([]))
        assert near(shown(content, "window"), by_pixel(FILM, "LINEAR", 2000, 1000))

    @pytest.mark.parametrize("bits", [8, 12, 16])
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("policy", ["minmax", "window"])
    def test_modality(self, place: Path, bits: int, packed: bool, policy: PolicyName) -> None:
        table = [round((2**bits - 1) * (1 - number / 2999)) for number in range(3000)]

        def add(found: Dataset) -> None:
            item = Dataset()
            item.add_new("LUTDescriptor", "US", [len(table), 500, bits])
            small = packed and bits == 8
            data = np.array(table).astype("u1" if small else "<u2").tobytes() if packed else table
            item.add_new("LUTData", "OW" if packed else "US", data)
            found.ModalityLUTSequence = Sequence([item])

        content = edited(written(place), add)
        assert near(shown(content, policy), stretched(self.looked_up(FILM, table, 500)).reshape(FILM.shape))

    @pytest.mark.filterwarnings("ignore:The value for the data element")
    def test_a_table_of_64_k_says_0_entries(self, place: Path) -> None:
        table = (65535 - np.arange(65536)).tolist()
        pixels = samples(16, signed=False)
        content = written(place, pixels, bits_stored=16, voi_lut=VoiLut(0, 16, table))
        assert near(shown(content, "window"), 255 * (65535 - pixels.astype(float)) / 65535)


class TestMonochrome1:
    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("rescale", [None, (2, -1000), (-1, 4095)])
    @pytest.mark.parametrize("window", [None, (2000, 1500)])
    def test_is_the_complement(
        self, place: Path, policy: PolicyName, rescale: tuple[float, float] | None, window: tuple[float, float] | None
    ) -> None:
        options: dict[str, Any] = {"rescale": rescale, "window": window}
        plain = shown(written(place, **options), policy)
        assert np.abs(255 - shown(written(place, photometric="MONOCHROME1", **options), policy) - plain).max() <= 1

    @pytest.mark.parametrize("policy", ["minmax", "percentile", "equalize"])
    def test_a_film_and_its_negative_are_one_picture(self, place: Path, policy: PolicyName) -> None:
        negative = written(place, 4095 - FILM, photometric="MONOCHROME1")
        assert np.abs(shown(negative, policy) - shown(written(place), policy)).max() <= 1


class TestRescale:
    @pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2.5, -1024), (-1, 0), (-0.25, 99), (1e-3, 1e3)])
    def test_min_max_sees_only_its_sign(self, place: Path, slope: float, intercept: float) -> None:
        found = shown(written(place, rescale=(slope, intercept)))
        assert near(found, stretched(FILM * float(slope) + intercept))
        assert near(found, stretched(FILM) if slope > 0 else 255 - stretched(FILM))

    @pytest.mark.parametrize("slope", [b"0             ", b"nan           ", b"steep         ", b"              "])
    def test_an_unsound_one_is_left_out(self, place: Path, slope: bytes) -> None:
        content = written(place, RescaleSlope="11111111111111", RescaleIntercept="5")
        content = content.replace(b"11111111111111", slope)
        np.testing.assert_array_equal(shown(content), shown(written(place)))


class TestPadding:
    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize(
        ("padding", "signed"), [(4000, False), ((3990, 4000), False), ((4000, 3990), False), (-2000, True)]
    )
    def test_is_black_and_does_not_count(
        self, place: Path, policy: PolicyName, photometric: str, padding: int | tuple[int, int], signed: bool
    ) -> None:
        pixels = (FILM // 3 - 500).astype(np.int16) if signed else FILM // 3
        framed = pixels.copy()
        framed[:6] = np.min(padding)
        framed[-6:] = np.max(padding)
        options: dict[str, Any] = {"signed": signed, "photometric": photometric, "window": (300, 900)}
        found = shown(written(place, framed, padding=padding, bits_stored=16, **options), policy)
        alone = shown(written(place, pixels[6:-6], bits_stored=16, **options), policy)
        np.testing.assert_array_equal(found[6:-6], alone)
        assert not found[:6].any()
        assert not found[-6:].any()

    def test_a_negative_one_that_is_written_unsigned(self, place: Path) -> None:
        pixels = (FILM // 3).astype(np.int16)
        pixels[:6] = -2000
        content = edited(written(place, pixels, signed=True, bits_stored=16, padding=-2000))
        assert content.count(struct.pack("<hh2sHh", 0x28, 0x120, b"SS", 2, -2000)) == 1
        unsigned = content.replace(
            struct.pack("<hh2sHh", 0x28, 0x120, b"SS", 2, -2000), struct.pack("<hh2sHH", 0x28, 0x120, b"US", 2, 63536)
        )
        np.testing.assert_array_equal(shown(unsigned), shown(content))
        assert not shown(content)[:6].any()


class TestMissing:
    @pytest.mark.parametrize("how", ["absent", "empty"])
    @pytest.mark.parametrize(
        "name", ["PhotometricInterpretation", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"]
    )
    def test_what_has_a_usual_value_is_read(self, place: Path, name: str, how: str) -> None:
        content = written(place, samples(16, signed=False), bits_stored=16)
        np.testing.assert_array_equal(read_samples(self.without(content, name, how)), samples(16, signed=False))

    @pytest.mark.parametrize("how", ["absent", "empty"])
    @pytest.mark.parametrize("name", ["Rows", "Columns", "BitsAllocated"])
    def test_what_has_none_is_refused_by_name(self, place: Path, name: str, how: str) -> None:
        assert refusal(self.without(written(place), name, how)) == (
            f"is a DICOM file without {name}: its pixels cannot be laid out"
        )

    def test_all_at_once(self, place: Path) -> None:
        content = edited(written(place), Rows=None, Columns=0)
        assert "without Rows, Columns" in refusal(content)

    @pytest.mark.parametrize("how", ["absent", "empty"])
    def test_pixels(self, place: Path, how: str) -> None:
        assert refusal(self.without(written(place), "PixelData", how)) == "is a DICOM file without pixels (modality CR)"

    def test_a_report(self) -> None:
        content = quick_dicom(None, SOPClassUID="1.2", SOPInstanceUID="1.2.3", Modality="SR")
        assert refusal(content) == "is a DICOM file without pixels (modality SR)"

    def test_a_name_in_the_place_of_the_modality_is_not_told(self, place: Path) -> None:
        assert refusal(edited(written(place), PixelData=None, Modality=NAME)) == "is a DICOM file without pixels"

    @staticmethod
    def without(content: bytes, name: str, how: str) -> bytes:
        def empty(found: Dataset) -> None:
            found[name].value = None

        return edited(content, empty) if how == "empty" else edited(content, **{name: None})


def meta_end(content: bytes) -> int:
    return 144 + int.from_bytes(content[140:144], "little")


def without_syntax(content: bytes) -> bytes:
    name = pydicom.dcmread(io.BytesIO(content)).file_meta.TransferSyntaxUID.encode()
    name += b"\0" * (len(name) % 2)
    return content.replace(b"\x02\x00\x10\x00UI" + struct.pack("<H", len(name)) + name, b"")


BEHEADED: dict[str, Callable[[bytes], bytes]] = {
    "preamble": lambda content: content[132:],
    "file meta": lambda content: content[:132] + content[meta_end(content) :],
    "preamble and file meta": lambda content: content[meta_end(content) :],
    "transfer syntax": without_syntax,
}


class TestBeheaded:
    @pytest.mark.parametrize("syntax", ["implicit", "explicit", "big_endian"])
    @pytest.mark.parametrize("missing", BEHEADED)
    def test_plain_pixels_are_read(self, place: Path, missing: str, syntax: str) -> None:
        content = BEHEADED[missing](written(place, transfer_syntax=syntax))
        assert is_dicom(content)
        np.testing.assert_array_equal(read_samples(content), FILM)

    @pytest.mark.parametrize("syntax", CODED)
    def test_coded_pixels_need_no_preamble(self, place: Path, syntax: str) -> None:
        content = coded(place.parent, syntax)
        np.testing.assert_array_equal(read_samples(content[132:]), read_samples(content))

    @pytest.mark.parametrize("missing", [each for each in BEHEADED if each != "preamble"])
    @pytest.mark.parametrize("syntax", CODED)
    def test_coded_pixels_without_their_syntax_are_not_guessed(self, place: Path, missing: str, syntax: str) -> None:
        """Run lengths of noise are longer than its pixels: taken as these they would be a picture."""
        told = refusal(BEHEADED[missing](coded(place.parent, syntax)))
        assert told == "its pixels are compressed, and its transfer syntax does not say how"
        if syntax == "rle":
            noise = written(place, samples(16, signed=False), bits_stored=16, transfer_syntax="rle")
            assert refusal(BEHEADED[missing](noise)) == told

    @pytest.mark.parametrize("missing", [each for each in BEHEADED if each != "preamble"])
    def test_deflated_pixels_without_their_syntax(self, place: Path, missing: str) -> None:
        refusal(BEHEADED[missing](written(place, transfer_syntax="deflated")))

    def test_an_unknown_syntax(self, place: Path) -> None:
        content = written(place).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.4711.1.2.12\0")
        assert refusal(content).startswith(
            "is compressed as an unknown transfer syntax, which no installed decoder knows"
        )

    def test_plain_pixels_that_are_said_to_be_coded(self, place: Path) -> None:
        content = written(place).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
        assert "its pixels are not compressed, yet its transfer syntax is RLE Lossless" in refusal(content)


class TestIsDicom:
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_no_picture_that_pillow_writes(self) -> None:
        Image.init()
        wrong = []
        for mode, name in itertools.product(["1", "L", "P", "RGB", "RGBA", "I;16"], sorted(Image.SAVE)):
            stream = io.BytesIO()
            try:
                Image.fromarray(FILM8).convert(mode).save(stream, name)
            except Exception:  # noqa: BLE001, S112 - not every format has every mode
                continue
            wrong += [name] if is_dicom(stream.getvalue()) else []
        assert not wrong

    @pytest.mark.parametrize("identifier", [0, 2, 8, 32, 255])
    def test_a_targa_picture_with_a_comment(self, identifier: int) -> None:
        """Its first byte is the length of the comment: 2 and 8 look like a group of DICOM's."""
        stream = io.BytesIO()
        Image.fromarray(FILM8).save(stream, "TGA", id_section=b"x" * identifier)
        assert not is_dicom(stream.getvalue())
        np.testing.assert_array_equal(read_samples(stream.getvalue()), FILM8)

    @pytest.mark.parametrize(
        "content", [b"", b"\x08", b"\x02\x00\x00\x00", b"\x08\x00\x05\x00", b"text" * 99, bytes(500)]
    )
    def test_nothing_else(self, content: bytes) -> None:
        assert not is_dicom(content)

    @pytest.mark.parametrize("syntax", ["implicit", "explicit", "big_endian"])
    @pytest.mark.parametrize(
        "first", [{"SpecificCharacterSet": "ISO_IR 100"}, {"ImageType": ["ORIGINAL", "PRIMARY"]}, {}]
    )
    def test_a_bare_data_set(self, place: Path, syntax: str, first: dict[str, Any]) -> None:
        content = written(place, transfer_syntax=syntax, **first)
        assert is_dicom(content)
        assert is_dicom(content[132:])
        assert is_dicom(content[meta_end(content) :])


class TestHeader:
    def test_tags_as_text(self, place: Path) -> None:
        tags: dict[str, Any] = {"Modality": "DX", "ImageType": ["DERIVED", "PRIMARY", "AP"], "StudyDate": "19010203"}
        item = Dataset()
        item.ReferencedSOPInstanceUID = "1.2.3"
        written(place, view="PA", ReferencedImageSequence=Sequence([item]), PatientName="DOE^JANE", **tags)
        asked = [
            *tags,
            "ViewPosition",
            "ReferencedImageSequence",
            "PatientName",
            "Rows",
            "StudyDescription",
            "AcquisitionTime",
        ]
        assert read_header(place, asked) == {
            "Modality": "DX",
            "ImageType": "DERIVED\\PRIMARY\\AP",
            "StudyDate": "19010203",
            "ViewPosition": "PA",
            "ReferencedImageSequence": "present",
            "PatientName": "DOE^JANE",
            "Rows": "40",
            "StudyDescription": "",
            "AcquisitionTime": "",
        }

    @pytest.mark.parametrize("syntax", [name for name in SYNTAXES if name not in ("htj2k_lossless",)])
    def test_in_every_syntax(self, place: Path, syntax: str) -> None:
        pixels = FILM8 if syntax in ("jpeg_baseline", "jpeg_extended") else FILM
        written(place, pixels, transfer_syntax=syntax, view="AP")
        assert read_header(place, ["ViewPosition", "Columns"]) == {"ViewPosition": "AP", "Columns": "36"}

    @pytest.mark.parametrize("missing", BEHEADED)
    def test_without_a_head(self, place: Path, missing: str) -> None:
        place.write_bytes(BEHEADED[missing](written(place, view="AP")))
        assert read_header(place, ["ViewPosition"]) == {"ViewPosition": "AP"}

    def test_an_empty_sequence_is_not_there(self, place: Path) -> None:
        written(place, ReferencedImageSequence=Sequence([]), view="")
        assert read_header(place, ["ReferencedImageSequence", "ViewPosition"]) == dict.fromkeys(
            ["ReferencedImageSequence", "ViewPosition"], ""
        )

    def test_pixels_are_not_read(self, place: Path) -> None:
        content = written(place, view="AP")
        place.write_bytes(content[: -len(FILM.tobytes()) + 10])
        assert read_header(place, ["ViewPosition"]) == {"ViewPosition": "AP"}

    def test_a_number_with_letters_is_told_as_it_is(self, place: Path) -> None:
        place.write_bytes(written(place, WindowCenter="11111111").replace(b"11111111", b"about 20"))
        assert read_header(place, ["WindowCenter", "Modality"]) == {"WindowCenter": "about 20", "Modality": "CR"}

    @pytest.mark.parametrize("content", [b"", b"no DICOM at all", b"\x89PNG\r\n\x1a\n" * 50])
    def test_something_else(self, place: Path, content: bytes) -> None:
        place.write_bytes(content)
        with pytest.raises(DecodeError, match="is not a DICOM file" if content else "empty"):
            read_header(place, ["Modality"])

    def test_a_missing_file(self, place: Path) -> None:
        with pytest.raises(DecodeError, match="file is missing"):
            read_header(place.parent / "absent.dcm", ["Modality"])

    def test_no_value_of_a_truncated_header_is_a_part_of_itself(self, place: Path) -> None:
        """Half a patient's number would be another patient's."""
        asked = ["PatientID", "StudyInstanceUID", "Modality", "Rows"]
        content = written(place, PatientID=NUMBER)
        whole = read_header(place, asked)
        for cut in range(len(content) - FILM.nbytes):
            place.write_bytes(content[:cut])
            try:
                found = read_header(place, asked)
            except DecodeError as error:
                discreet(str(error))
            else:
                assert all(found[name] in ("", whole[name]) for name in asked)

    def test_a_damaged_header_is_read_or_refused(self, place: Path) -> None:
        content = bytearray(written(place, PatientID=NUMBER, PatientName=NAME)[: -FILM.nbytes])
        for at, bit in itertools.product(range(128, len(content)), (0, 5)):
            content[at] ^= 1 << bit
            place.write_bytes(content)
            content[at] ^= 1 << bit
            try:
                read_header(place, ["PatientSex", "WindowCenter", "ViewPosition", "InstanceNumber"])
            except DecodeError as error:
                discreet(str(error))


def j2k_of(width: int, height: int) -> Callable[[bytes], bytes]:
    def patched(stream: bytes) -> bytes:
        at = stream.index(b"\xff\x51") + 6
        return stream[:at] + struct.pack(">II", width, height) + stream[at + 8 :]

    return patched


def jpeg_of(width: int, height: int) -> Callable[[bytes], bytes]:
    def patched(stream: bytes) -> bytes:
        at = next(found.start() for found in re.finditer(rb"\xff[\xc0\xc1\xc3\xf7]\x00", stream)) + 5
        return stream[:at] + struct.pack(">HH", height, width) + stream[at + 4 :]

    return patched


EXTENTS = {
    "jpeg_baseline": jpeg_of,
    "jpeg_lossless_sv1": jpeg_of,
    "jpeg_ls": jpeg_of,
    "jpeg_2000_lossless": j2k_of,
    "htj2k_lossless": j2k_of,
}


@pytest.fixture
def frugal() -> Iterator[None]:
    """A file is refused quickly and without taking memory for what it claims."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        assert time.process_time() - began < 20
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("frugal")
class TestBombs:
    @pytest.mark.parametrize("syntax", ["explicit", *CODED])
    def test_tags_that_claim_too_much(self, place: Path, syntax: str) -> None:
        content = coded(place.parent, syntax)
        assert "claims 60000 x 60000 pixels, more than" in refusal(edited(content, Rows=60000, Columns=60000))

    @pytest.mark.parametrize("syntax", EXTENTS)
    def test_a_codestream_that_claims_too_much(self, place: Path, syntax: str) -> None:
        content = coded(place.parent, syntax)
        bomb = with_stream(content, EXTENTS[syntax](60000, 60000)(stream_of(content)))
        assert "claims 60000 x 60000 pixels, more than" in refusal(bomb)

    @pytest.mark.parametrize("syntax", EXTENTS)
    def test_a_codestream_that_claims_more_than_its_tags(self, place: Path, syntax: str) -> None:
        content = coded(place.parent, syntax)
        bomb = with_stream(content, EXTENTS[syntax](9000, 9000)(stream_of(content)))
        assert re.search("its compressed picture is 9000 x 9000 x 1, its tags say (36 x 40|16 x 16) x 1", refusal(bomb))

    @pytest.mark.parametrize("syntax", ["jpeg_baseline", "jpeg_lossless_sv1", "jpeg_ls"])
    @pytest.mark.parametrize("before", [b"\xff\xfe\x00\x0611\xff\xc0", b"\xff\xff\xff", b"\xff\xe0\x00\x02"])
    def test_a_codestream_that_says_so_late(self, place: Path, syntax: str, before: bytes) -> None:
        """After a comment that looks like a frame, after filling, after an empty segment."""
        content = coded(place.parent, syntax)
        stream = jpeg_of(60000, 60000)(stream_of(content))
        assert "claims 60000 x 60000" in refusal(with_stream(content, stream[:2] + before + stream[2:]))
        if before != b"\xff\xff\xff":  # which nobody but a decoder of JPEG passes over
            whole = stream_of(content)
            read_samples(with_stream(content, whole[:2] + before + whole[2:]))

    @pytest.mark.parametrize("channels", [0, 3, 200])
    def test_channels(self, place: Path, channels: int) -> None:
        content = coded(place.parent, "jpeg_2000_lossless")
        stream = stream_of(content)
        at = stream.index(b"\xff\x51") + 38
        bomb = with_stream(content, stream[:at] + struct.pack(">H", channels) + stream[at + 2 :])
        assert f"is 36 x 40 x {channels}, its tags say 36 x 40 x 1" in refusal(bomb)

    @pytest.mark.parametrize("length", [0, 1, 7])
    def test_boxes_that_never_end(self, place: Path, length: int) -> None:
        content = coded(place.parent, "jpeg_2000_lossless")
        boxed = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + struct.pack(">I", length) + b"ftyp" + stream_of(content)
        assert "states no extent" in refusal(with_stream(content, boxed))

    def test_boxes_around_a_codestream(self, place: Path) -> None:
        content = coded(place.parent, "jpeg_2000_lossless")
        stream = stream_of(content)
        boxes = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + struct.pack(">I", 9000) + b"xml " + b" " * 8992
        late = boxes + struct.pack(">I", len(stream) + 8) + b"jp2c" + j2k_of(60000, 60000)(stream)
        assert "claims 60000 x 60000" in refusal(with_stream(content, late))

    def test_a_billion_frames(self, place: Path) -> None:
        for syntax in ("explicit", *CODED):
            content = edited(coded(place.parent, syntax), NumberOfFrames=10**9)
            if syntax == "explicit":
                assert "cut short" in refusal(content)
            else:
                assert read_samples(content).shape == (40, 36)

    def test_a_second_table_of_frames_plays_no_part(self, place: Path) -> None:
        """What is checked must be what is decoded, wherever such a table points."""

        def add(found: Dataset) -> None:
            found.PixelData = encapsulate([whole, jpeg_of(9000, 9000)(whole)], has_bot=False)
            found.NumberOfFrames = 2
            found.ExtendedOffsetTable = struct.pack("<2Q", len(whole) + 8, 0)
            found.ExtendedOffsetTableLengths = struct.pack("<2Q", len(whole), len(whole))

        content = coded(place.parent, "jpeg_ls")
        whole = stream_of(content)
        np.testing.assert_array_equal(read_samples(edited(content, add)), FILM)

    def test_run_lengths_without_end(self, place: Path) -> None:
        runs = struct.pack("<16I", 2, 64, 10**7, *[0] * 13) + b"\x81\x00" * 10**7
        told = refusal(with_stream(coded(place.parent, "rle"), runs))
        assert told == "cannot be decoded: its run lengths describe more than its tags claim"

    def test_a_data_set_that_inflates_without_end(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """At an eighth of the limit there is: the way to it is the same, eight times as long."""
        assert dicom.MAX_BYTES == 1 << 30
        limit = dicom.MAX_BYTES >> 3
        content = written(place, transfer_syntax="deflated")
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = packer.compress(bytes(1 << 26)) + packer.flush(zlib.Z_FULL_FLUSH)
        bomb = content[: meta_end(content)] + packed * (limit // (1 << 26) + 1)
        assert len(bomb) < 2e6
        monkeypatch.setattr(dicom, "MAX_BYTES", limit)
        assert refusal(bomb) == f"inflates to more bytes than any radiograph has ({limit:,}): refused"
        place.write_bytes(bomb)
        with pytest.raises(DecodeError, match="inflates to more bytes"):
            read_header(place, ["Modality"])

    def test_more_channels_than_colours(self, place: Path) -> None:
        refusal(edited(written(place), SamplesPerPixel=60000))

    @pytest.mark.parametrize("bits", [3, 24, 65528])
    def test_samples_of_a_strange_width(self, place: Path, bits: int) -> None:
        refusal(edited(written(place), BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1))

    def test_a_sequence_in_a_sequence_and_so_on(self, place: Path) -> None:
        deep = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
        content = written(place)
        refusal(content[: meta_end(content)] + deep)


class TestDamage:
    @pytest.mark.parametrize("syntax", ["implicit", "explicit", "big_endian", "deflated", *CODED, "htj2k_lossless"])
    def test_a_file_that_is_cut_short_is_refused(self, place: Path, syntax: str) -> None:
        content = coded(place.parent, syntax)
        for end in range(1, len(content) - 9, 7 if syntax in CODED else 21):
            refusal(content[:end])

    @pytest.mark.parametrize("syntax", [*CODED, "htj2k_lossless"])
    def test_a_coded_picture_that_is_cut_short_is_refused(self, place: Path, syntax: str) -> None:
        """In a file that is whole."""
        content = coded(place.parent, syntax)
        stream = stream_of(content).rstrip(b"\0")
        for end in range(2, len(stream) - 2, 29):
            refusal(with_stream(content, stream[:end]))

    @pytest.mark.parametrize("syntax", ["implicit", "explicit", "deflated"])
    def test_flipped_bits_of_plain_files(self, place: Path, syntax: str) -> None:
        content = bytearray(coded(place.parent, syntax))
        limit = min(len(content), len(content) if syntax == "deflated" else len(content) - FILM.nbytes + 4)
        for at in range(128, limit, 1 if syntax != "deflated" else 9):
            content[at] ^= 1 << at % 8
            read_or_refused(bytes(content))
            content[at] ^= 1 << at % 8

    @settings(max_examples=150, deadline=None)
    @given(st.binary(min_size=1, max_size=400))
    def test_anything_after_a_preamble(self, content: bytes) -> None:
        read_or_refused(bytes(128) + b"DICM" + content)

    @settings(max_examples=150, deadline=None)
    @given(st.binary(min_size=1, max_size=200), st.integers(0, 600))
    def test_anything_within_a_file(self, place: Path, content: bytes, at: int) -> None:
        whole = coded(place.parent, "explicit")
        read_or_refused(whole[: 128 + at] + content + whole[128 + at + len(content) :])

    def test_a_name_that_slipped_into_another_tag_is_not_told(self, place: Path) -> None:
        """One flipped bit makes a patient's name a window, a number of frames or what samples mean."""
        content = written(place, PatientName=NAME)
        named = b"\x10\x00\x10\x00PN\x08\x00"
        assert content.count(named) == 1
        for name in ("WindowCenter", "NumberOfFrames", "PhotometricInterpretation", "Modality", "RescaleSlope", "Rows"):
            tag = pydicom.tag.Tag(name)
            for kind in (pydicom.datadict.dictionary_VR(name), "PN", "IS", "DS", "CS"):
                element = struct.pack("<HH", tag.group, tag.element) + kind.encode() + b"\x08\x00"
                read_or_refused(content.replace(named, element))


def read_or_refused(content: bytes) -> None:
    try:
        found = canonical_pixels(content, PixelPolicy(name="window"))
    except DecodeError as error:
        discreet(str(error))
    else:
        assert found.dtype == np.uint8


DECODE_ALL = """
import sys
from pathlib import Path
from peftbench.errors import DecodeError
from peftbench.imaging.decode import canonical_pixels
from peftbench.imaging.policy import PixelPolicy
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, end=" ", flush=True)
    try:
        print(canonical_pixels(path, PixelPolicy(name="window")).shape)
    except DecodeError as error:
        print(error)
"""
"""Every file of a folder; the last name says at which one a decoder ended the process."""


def decode_all(folder: Path) -> list[str]:
    """What a process of its own says of each file."""
    command = [sys.executable, "-X", "faulthandler", "-c", DECODE_ALL, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"ended with {done.returncode} at {lines[-1:]}: {done.stderr[-2000:]}"
    assert not {NAME, NUMBER} & set(re.findall(r"[\w^-]+", done.stdout + done.stderr))
    return lines


class TestDamagedCodestreams:
    """In a process of their own: some of these decoders are C and C++, and a crash must be seen."""

    @staticmethod
    def damaged(content: bytes, number: int, seed: int) -> Iterator[bytes]:
        """Half of the damage in the first 120 bytes of the stream, where its structure is."""
        rng = np.random.default_rng(seed)
        stream = stream_of(content)
        start = content.index(stream)
        for turn in range(number):
            reach = min(120, len(stream)) if turn % 2 else len(stream)
            found = bytearray(content)
            at = start + int(rng.integers(reach))
            found[at] ^= 1 << int(rng.integers(8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
            yield bytes(found)

    def check(self, tmp_path: Path, contents: Iterator[bytes]) -> None:
        for number, content in enumerate(contents):
            (tmp_path / f"{number:05}.dcm").write_bytes(content)
        lines = decode_all(tmp_path)
        assert len(lines) == len(list(tmp_path.iterdir())), "a message has several lines"
        assert all(
            re.fullmatch(r"\d{5}\.dcm (\(40, 36\)|\(16, 16\)|(claims|cannot|is|its|holds|has) .+)", line)
            for line in lines
        )

    def test_some(self, place: Path, tmp_path: Path) -> None:
        wholes = [coded(place.parent, syntax) for syntax in (*CODED, "htj2k_lossless")]
        self.check(tmp_path, itertools.chain(*(self.damaged(whole, 80, seed=1) for whole in wholes)))

    def test_what_ended_the_process_once(self, place: Path, tmp_path: Path) -> None:
        self.check(tmp_path, itertools.chain(*map(self.fatal, (coded(place.parent, each) for each in FATAL))))

    @staticmethod
    def fatal(content: bytes) -> Iterator[bytes]:
        """To GDCM: bytes between two segments, a marker without a length, more bits than an integer has."""
        stream = stream_of(content)
        frame = next(found.start() for found in re.finditer(rb"\xff[\xc0\xc3]\x00", stream))
        behind = frame + 2 + int.from_bytes(stream[frame + 2 : frame + 4], "big")
        for filling in (b"\xbf", b"\xff\xd4", b"\xff\x00", b"\x00\x00\x00"):
            yield with_stream(content, stream[:behind] + filling + stream[behind + len(filling) :])
            yield with_stream(content, stream[:behind] + filling + stream[behind:])
        for bits in (0, 1, 7, 9, 13, 16, 17, 18, 32, 33, 255):
            yield with_stream(content, stream[: frame + 4] + bytes([bits]) + stream[frame + 5 :])

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "syntax", [name for name in SYNTAXES if name not in ("implicit", "explicit", "big_endian", "deflated")]
    )
    def test_many(self, place: Path, tmp_path: Path, syntax: str) -> None:
        self.check(tmp_path, self.damaged(coded(place.parent, syntax), 400, seed=2))


def test_the_decoders_that_are_chosen_are_there() -> None:
    from pydicom.pixels.decoders.base import get_decoder

    known = [SYNTAXES[name] for name in CODED if name not in ("rle", "jpeg_lossless_sv1")]
    assert all(dicom._PREFERRED[syntax] in get_decoder(syntax).available_plugins for syntax in known)


def test_threads_leave_the_process_its_warning_filters(place: Path) -> None:
    content = coded(place.parent, "explicit")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(samples_of, [content] * 100))
    assert list(warnings.filters) == before


def test_odd_tags_warn_of_nothing(place: Path, recwarn: pytest.WarningsRecorder) -> None:
    content = written(place).replace(b"MONOCHROME2", b"monochrome2")
    shown(content, "window")
    assert not list(recwarn)


def test_films_at_the_upper_end_of_their_words_keep_all_their_bits(place: Path) -> None:
    """12 bits below bit 15, as old detectors wrote them: the lower bits alone would be a picture of nothing."""
    lifted = edited(written(place), HighBit=15, PixelData=(FILM.astype(np.uint16) << 4).tobytes())
    assert np.array_equal(read_samples(lifted), FILM.astype(np.uint16) << 4)
    assert np.array_equal(canonical_pixels(lifted, PixelPolicy()), canonical_pixels(written(place), PixelPolicy()))
