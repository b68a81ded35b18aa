"""One raw file, read once: its digest, its pixels or why there are none; what is no picture, bombs and damage."""

import gzip
import hashlib
import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from dicom_kit import quick_dicom, radiograph
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from peftbench.errors import DecodeError
from peftbench.imaging import decode, reading
from peftbench.imaging.decode import canonical_pixels, read_bytes, read_samples
from peftbench.imaging.policy import POLICIES, PixelPolicy, PolicyName
from peftbench.imaging.reading import Picture, Shared, decode_file, lost, stat_of
from stores.keys import source_key

FILM = radiograph(np.random.default_rng(0), (60, 50))
FILM8 = radiograph(np.random.default_rng(0), (60, 50), bits=8)
POLICY = PixelPolicy()
NEW = Shared(POLICY, frozenset())

NAME = "patient-4711"
"""The name of a file, which no message may say."""

Pixels = npt.NDArray[Any]


def picture_of(pixels: Pixels, name: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, name, **options)
    return stream.getvalue()


PNG = picture_of(FILM, "PNG")
DICOM = quick_dicom(FILM, SOPClassUID="1.2", SOPInstanceUID="1.2.3", PatientID="4711", PatientName="DOE^JANE")


def refusal(content: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        canonical_pixels(content, POLICY)
    told = str(caught.value)
    assert told.isprintable()
    assert 0 < len(told) < 300
    return told


class TestDecodeFile:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / f"{NAME}.dcm"

    @pytest.mark.parametrize("content", [PNG, DICOM, picture_of(FILM8, "JPEG")], ids=["png", "dicom", "jpeg"])
    @pytest.mark.parametrize("policy", POLICIES)
    def test_a_new_file(self, file: Path, content: bytes, policy: PolicyName) -> None:
        file.write_bytes(content)
        chosen = PixelPolicy(name=policy, side=32)
        found = decode_file(file, Shared(chosen, frozenset()))
        digest = hashlib.sha256(content).hexdigest()
        assert found[:2] == (digest, source_key(digest, chosen.recipe))
        assert (found.fault, found.stat) == ("", stat_of(file))
        assert found.pixels is not None
        assert found.pixels.shape == (32, 27)
        np.testing.assert_array_equal(found.pixels, canonical_pixels(file, chosen))

    def test_a_known_one_is_not_decoded(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file.write_bytes(PNG)
        source = source_key(hashlib.sha256(PNG).hexdigest(), POLICY.recipe)
        monkeypatch.setattr(reading, "canonical_pixels", None)
        found = decode_file(file, Shared(POLICY, frozenset({source})))
        assert (found.source, found.pixels, found.fault) == (source, None, "")

    def test_one_that_is_known_under_another_policy_is_new(self, file: Path) -> None:
        file.write_bytes(PNG)
        known = frozenset(
            source_key(hashlib.sha256(PNG).hexdigest(), PixelPolicy(name=name).recipe) for name in POLICIES
        )
        assert decode_file(file, Shared(PixelPolicy(side=256), known)).pixels is not None
        assert decode_file(file, Shared(PixelPolicy(name="equalize"), known)).pixels is None

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            (b"", "file is empty (0 bytes)"),
            (b"some text", "is not a picture of a known format"),
            (PNG[:300], "cannot be"),
        ],
    )
    def test_a_bad_one(self, file: Path, content: bytes, fault: str) -> None:
        file.write_bytes(content)
        found = decode_file(file, NEW)
        assert found[:3] == ("", "", None)
        assert found.fault.startswith(fault)
        assert "4711" not in found.fault

    def test_a_missing_one(self, file: Path) -> None:
        assert decode_file(file, NEW) == Picture("", "", None, "file is missing")
        assert stat_of(file) is None

    @pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path), os.mkfifo])
    def test_what_is_no_file(self, file: Path, make: Callable[[Path], None]) -> None:
        """A pipe too: reading it would wait for ever."""
        make(file)
        assert decode_file(file, NEW).fault == "file is missing"

    def test_a_name_that_no_file_system_takes(self, tmp_path: Path) -> None:
        assert decode_file(tmp_path / ("4711" * 1000), NEW).fault == "cannot be read: File name too long"

    def test_one_that_may_not_be_read(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        file.write_bytes(PNG)
        monkeypatch.setattr(Path, "read_bytes", refuse)
        assert decode_file(file, NEW).fault == "cannot be read: Permission denied"
        with pytest.raises(DecodeError, match=r"^cannot be read: Permission denied$"):
            canonical_pixels(file, POLICY)

    def test_one_that_is_larger_than_any_picture_is_not_read(self, file: Path) -> None:
        with file.open("wb") as stream:
            stream.truncate(decode.MAX_BYTES + 1)
        assert decode_file(file, NEW).fault == (
            "has 1,073,741,825 bytes, more than any radiograph (1,073,741,824): refused"
        )
        with pytest.raises(DecodeError):
            read_bytes(file)

    @pytest.mark.parametrize("content", [PNG, DICOM])
    def test_one_that_needs_more_memory_than_there_is(
        self, file: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def exhaust(*words: object, **options: object) -> None:
            raise MemoryError

        file.write_bytes(content)
        monkeypatch.setattr(Image, "open", exhaust)
        monkeypatch.setattr("peftbench.imaging.dicom.pixel_array", exhaust)
        assert decode_file(file, NEW).fault == "needs more memory to decode than any radiograph"

    def test_one_whose_decoder_ended_its_process(self, file: Path) -> None:
        assert lost(file) == Picture("", "", None, "cannot be decoded: the decoder crashed, or hung")

    def test_a_file_that_changes_has_another_stat(self, file: Path) -> None:
        file.write_bytes(PNG)
        before = stat_of(file)
        file.write_bytes(PNG + b" ")
        assert stat_of(file) != before


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def hdf5() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["pixels"] = FILM
    return stream.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 132\n"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"


class TestNotPictures:
    @pytest.mark.parametrize(
        ("content", "told"),
        [
            pytest.param(b"", "file is empty (0 bytes)", id="nothing"),
            pytest.param(zipped(film=DICOM), "is a ZIP archive, not an image: unpack it", id="zip"),
            pytest.param(zipped(), "is an empty ZIP archive, not an image", id="empty zip"),
            pytest.param(gzip.compress(DICOM), "is a gzip archive, not an image: unpack it", id="gzip"),
            pytest.param(b"7z\xbc\xaf\x27\x1c" + bytes(99), "is a 7-Zip archive, not an image: unpack it", id="7z"),
            pytest.param(b"%PDF-1.7\n", "is a PDF document, not an image", id="pdf"),
            pytest.param(POSTSCRIPT, "is a PostScript document, not an image", id="postscript"),
            pytest.param(b"\xc5\xd0\xd3\xc6" + bytes(99), "is a PostScript document, not an image", id="dos eps"),
            pytest.param(hdf5(), "is an HDF5 file, not an image", id="hdf5"),
            pytest.param(LFS, "is a pointer of Git LFS, not an image: fetch the file itself", id="git lfs"),
            pytest.param(
                b"<!doctype html><html>404",
                "is a web page, not an image: the download was refused or moved",
                id="web page",
            ),
            pytest.param(
                b"<HTML>", "is a web page, not an image: the download was refused or moved", id="old web page"
            ),
            pytest.param(b"PATIENT_ID,ICU Admit\n1,Y\n", "is not a picture of a known format", id="table"),
            pytest.param("ä".encode() * 999, "is not a picture of a known format", id="text"),
            pytest.param(bytes(4096), "is not a picture of a known format", id="zeros"),
        ],
    )
    def test_are_named(self, content: bytes, told: str) -> None:
        assert refusal(content) == told

    def test_no_program_is_started_for_a_document(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(*words: object, **options: object) -> None:
            raise AssertionError("a program was started")

        monkeypatch.setattr(subprocess, "check_call", run)
        monkeypatch.setattr(subprocess, "Popen", run)
        refusal(POSTSCRIPT)


class TestPictures:
    @pytest.mark.parametrize("order", ["<u2", ">u2"])
    def test_a_deep_negative(self, order: str) -> None:
        """TIFF can say that white is zero; of 16 bits nobody but us turns it."""
        content = picture_of(FILM, "TIFF", tiffinfo={262: 0})
        exact = canonical_pixels(picture_of(FILM, "TIFF"), POLICY)
        np.testing.assert_array_equal(read_samples(content), FILM)
        assert np.abs(255 - canonical_pixels(content, POLICY).astype(int) - exact).max() <= 1

    def test_a_negative_of_8_bits_is_turned_once(self) -> None:
        content = picture_of(FILM8, "TIFF", tiffinfo={262: 0})
        np.testing.assert_array_equal(
            canonical_pixels(content, POLICY), canonical_pixels(picture_of(FILM8, "PNG"), POLICY)
        )

    @pytest.mark.parametrize("pixels", [FILM8, FILM], ids=["8 bits", "16 bits"])
    def test_a_camera_that_was_held_sideways(self, pixels: Pixels) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        np.testing.assert_array_equal(read_samples(picture_of(pixels, "PNG", exif=exif)), np.rot90(pixels, -1))

    def test_of_several_pages_the_first(self) -> None:
        more = [Image.fromarray(FILM // 2), Image.fromarray(FILM // 3)]
        np.testing.assert_array_equal(read_samples(picture_of(FILM, "TIFF", save_all=True, append_images=more)), FILM)

    @pytest.mark.parametrize("name", ["PNG", "TIFF", "BMP", "GIF", "PPM", "TGA", "PCX", "WEBP", "JPEG2000", "SGI"])
    def test_formats(self, name: str) -> None:
        options = {"lossless": True} if name == "WEBP" else {}
        np.testing.assert_array_equal(read_samples(picture_of(FILM8, name, **options)), FILM8)


def png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


def tiff_of(width: int, height: int) -> bytes:
    content = picture_of(FILM8, "TIFF", compression="tiff_adobe_deflate")
    for tag, old, new in ((256, 50, width), (257, 60, height)):
        entry = struct.pack("<HHI", tag, 4, 1) + struct.pack("<I", old)
        short = struct.pack("<HHI", tag, 3, 1) + struct.pack("<I", old)
        assert content.count(entry) + content.count(short) == 1
        content = content.replace(entry, entry[:8] + struct.pack("<I", new)).replace(
            short, struct.pack("<HHI", tag, 4, 1) + struct.pack("<I", new)
        )
    return content


def jpeg_of(width: int, height: int) -> bytes:
    content = picture_of(FILM8, "JPEG")
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def bmp_of(width: int, height: int) -> bytes:
    content = picture_of(FILM8, "BMP")
    return content[:18] + struct.pack("<ii", width, height) + content[26:]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
class TestBombs:
    @pytest.mark.parametrize("make", [png_of, tiff_of, jpeg_of, bmp_of])
    @pytest.mark.parametrize("extent", [(60_000, 60_000), (12_000, 10_000)])
    def test_are_refused_unread(
        self, make: Callable[[int, int], bytes], extent: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def load(self: Image.Image) -> None:
            raise AssertionError("its pixels were read")

        content = make(*extent)
        monkeypatch.setattr(Image.Image, "load", load)
        told = refusal(content)
        assert told.startswith("claims ")
        assert told.endswith(": refused")

    @pytest.mark.slow
    def test_text_that_inflates(self) -> None:
        text = b"comment\0\0" + zlib.compress(bytes(1 << 27), 9)
        chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
        refusal(PNG[:33] + chunk + PNG[33:])


DECODE_ALL = """
import sys
from pathlib import Path
from peftbench.imaging.policy import PixelPolicy
from peftbench.imaging.reading import Shared, decode_file
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, end=" ", flush=True)
    found = decode_file(path, Shared(PixelPolicy(), frozenset()))
    print(found.fault or found.pixels.shape)
"""


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
class TestDamage:
    """In a process of its own, where the crash of a decoder is seen."""

    FORMATS = (
        ("PNG", FILM, {}),
        ("JPEG", FILM8, {}),
        ("TIFF", FILM, {}),
        ("TIFF", FILM8, {"compression": "tiff_lzw"}),
        ("GIF", FILM8, {}),
        ("BMP", FILM8, {}),
        ("WEBP", FILM8, {}),
        ("JPEG2000", FILM8, {}),
        ("PCX", FILM8, {}),
        ("ICNS", FILM8, {}),
    )

    @staticmethod
    def damaged(content: bytes, number: int) -> Iterator[bytes]:
        rng = np.random.default_rng(5)
        for end in range(1, len(content), max(1, len(content) // number)):
            yield content[:end]
        for turn in range(number):
            found = bytearray(content)
            found[int(rng.integers(min(200, len(content)) if turn % 2 else len(content)))] ^= 1 << int(rng.integers(8))
            yield bytes(found)

    def check(self, folder: Path, number: int) -> None:
        for name, pixels, options in self.FORMATS:
            content = picture_of(pixels, name, **options)
            for turn, each in enumerate(self.damaged(content, number)):
                (folder / f"{name}-{'-'.join(options)}-{turn:05}.4711").write_bytes(each)
        command = [sys.executable, "-X", "faulthandler", "-c", DECODE_ALL, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
        lines = done.stdout.splitlines()
        assert done.returncode == 0, f"ended with {done.returncode} at {lines[-1:]}: {done.stderr[-2000:]}"
        assert len(lines) == len(list(folder.iterdir())), "a message has several lines"
        assert not any(str(folder) in line or line.count("4711") > 1 for line in lines)

    @pytest.mark.slow
    def test_some(self, tmp_path: Path) -> None:
        self.check(tmp_path, 4)

    @pytest.mark.slow
    def test_many(self, tmp_path: Path) -> None:
        self.check(tmp_path, 80)

    @pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF"])
    def test_a_file_that_is_cut_short_is_refused(self, name: str) -> None:
        content = picture_of(FILM8, name)
        for end in range(1, len(content) - 20, 7):
            if name != "TIFF" or end < 8 + FILM8.nbytes:
                refusal(content[:end])

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"GIF89a", b"BM"]), st.binary())
    def test_anything(self, start: bytes, content: bytes) -> None:
        try:
            canonical_pixels(start + content, POLICY)
        except DecodeError:
            refusal(start + content)
