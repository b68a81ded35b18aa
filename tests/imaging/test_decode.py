"""Picture files to canonical pixels: formats against numpy, the laws of min-max, files that are no pictures."""

import math
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from peftbench.errors import DecodeError, PeftbenchError
from peftbench.imaging.decode import MAX_PIXELS, PixelPolicy, canonical_pixels, read_samples

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (37, 53), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (37, 53), dtype=np.uint16)
COLOUR = RANDOM.integers(0, 256, (37, 53, 3), dtype=np.uint8)
ALPHA = RANDOM.integers(0, 256, (37, 53, 1), dtype=np.uint8)

Grey = npt.NDArray[np.uint8]


def luminance(colour: npt.NDArray[np.uint8]) -> Grey:
    """ITU-R 601-2 luma in the fixed point that Pillow documents: L = R * 299/1000 + G * 587/1000 + B * 114/1000."""
    weights = np.array([19595, 38470, 7471])
    return ((colour.astype(np.int64) @ weights + 0x8000) >> 16).astype(np.uint8)


def saved(folder: Path, picture: Image.Image, suffix: str, **options: object) -> Path:
    path = folder / f"picture{suffix}"
    picture.save(path, **options)
    return path


def through_a_file(folder: Path, samples: npt.NDArray[np.uint16]) -> Grey:
    return canonical_pixels(saved(folder, Image.fromarray(samples), ".png"), PixelPolicy())


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples of a property."""
    return tmp_path_factory.mktemp("decode")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims an extent and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


class TestReadSamples:
    def test_png_of_8_bits(self, tmp_path: Path) -> None:
        found = read_samples(saved(tmp_path, Image.fromarray(GREY), ".png"))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, GREY)

    def test_png_of_16_bits_keeps_all_of_them(self, tmp_path: Path) -> None:
        found = read_samples(saved(tmp_path, Image.fromarray(DEEP), ".png"))
        assert found.max() > 255
        np.testing.assert_array_equal(found, DEEP)

    def test_colour_becomes_luminance(self, tmp_path: Path) -> None:
        found = read_samples(saved(tmp_path, Image.fromarray(COLOUR), ".png"))
        np.testing.assert_array_equal(found, luminance(COLOUR))

    def test_an_alpha_channel_that_hides_nothing_is_dropped(self, tmp_path: Path) -> None:
        opaque = np.full_like(ALPHA, 255)
        found = read_samples(saved(tmp_path, Image.fromarray(np.concatenate([COLOUR, opaque], axis=2)), ".png"))
        np.testing.assert_array_equal(found, luminance(COLOUR))

    def test_transparent_places_are_black(self, tmp_path: Path) -> None:
        hiding = np.where(ALPHA > 127, 255, 0).astype(np.uint8)
        found = read_samples(saved(tmp_path, Image.fromarray(np.concatenate([COLOUR, hiding], axis=2)), ".png"))
        np.testing.assert_array_equal(found, np.where(hiding[..., 0] == 255, luminance(COLOUR), 0))

    def test_transparent_places_of_a_grey_picture_are_black(self, tmp_path: Path) -> None:
        hiding = np.where(ALPHA[..., 0] > 127, 255, 0).astype(np.uint8)
        found = read_samples(saved(tmp_path, Image.fromarray(np.dstack([GREY, hiding])), ".png"))
        np.testing.assert_array_equal(found, np.where(hiding == 255, GREY, 0))

    def test_a_palette_is_looked_up(self, tmp_path: Path) -> None:
        table = RANDOM.integers(0, 256, (256, 3), dtype=np.uint8)
        picture = Image.fromarray(GREY)
        picture.putpalette(table.tobytes())
        assert picture.mode == "P"
        np.testing.assert_array_equal(read_samples(saved(tmp_path, picture, ".png")), luminance(table[GREY]))

    def test_one_bit_is_black_and_white(self, tmp_path: Path) -> None:
        picture = Image.fromarray(GREY > 127)
        assert picture.mode == "1"
        np.testing.assert_array_equal(read_samples(saved(tmp_path, picture, ".png")), np.where(GREY > 127, 255, 0))

    @pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
    @pytest.mark.parametrize("samples", [GREY, DEEP, DEEP.astype(np.float32) / 7], ids=["uint8", "uint16", "float32"])
    def test_tiff(self, tmp_path: Path, samples: npt.NDArray[np.generic], compression: str | None) -> None:
        path = saved(tmp_path, Image.fromarray(samples), ".tif", compression=compression)
        np.testing.assert_array_equal(read_samples(path), samples)

    def test_tiff_of_16_bits_in_the_other_byte_order(self, tmp_path: Path) -> None:
        picture = Image.frombytes("I;16B", DEEP.shape[::-1], DEEP.astype(">u2").tobytes())
        np.testing.assert_array_equal(read_samples(saved(tmp_path, picture, ".tif")), DEEP)

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_jpeg_is_close_to_what_was_saved(self, tmp_path: Path, mode: str) -> None:
        smooth = np.add.outer(np.arange(80), np.arange(120)).astype(np.uint8)
        found = read_samples(saved(tmp_path, Image.fromarray(smooth).convert(mode), ".jpg", quality=95))
        assert found.dtype == np.uint8
        assert found.shape == smooth.shape
        assert np.abs(found.astype(int) - smooth).max() <= 4

    def test_the_name_plays_no_part(self, tmp_path: Path) -> None:
        path = saved(tmp_path, Image.fromarray(GREY), ".png").rename(tmp_path / "picture.jpeg")
        np.testing.assert_array_equal(read_samples(path), GREY)


class TestMinMax:
    @pytest.mark.parametrize("samples", [GREY // 3 + 40, DEEP // 16, DEEP], ids=["8bit", "12bit", "16bit"])
    def test_the_extremes_become_black_and_white(self, tmp_path: Path, samples: npt.NDArray[np.generic]) -> None:
        found = canonical_pixels(saved(tmp_path, Image.fromarray(samples), ".png"), PixelPolicy())
        assert found.dtype == np.uint8
        assert set(found[samples == samples.min()]) == {0}
        assert set(found[samples == samples.max()]) == {255}

    def test_every_16_bit_value_maps_to_its_257th_part(self, tmp_path: Path) -> None:
        ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        found = canonical_pixels(saved(tmp_path, Image.fromarray(ramp), ".png"), PixelPolicy())
        np.testing.assert_array_equal(found, np.rint(ramp / 257))

    def test_8_bit_pictures_of_full_range_are_left_alone(self, tmp_path: Path) -> None:
        full = GREY.copy()
        full[0, :2] = 0, 255
        path = saved(tmp_path, Image.fromarray(full), ".png")
        np.testing.assert_array_equal(canonical_pixels(path, PixelPolicy()), full)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 65535), min_size=2, max_size=40).filter(lambda values: min(values) < max(values)))
    def test_each_sample_maps_to_the_nearest_level_and_order_is_kept(self, scratch: Path, values: list[int]) -> None:
        samples = np.array([values], dtype=np.uint16)
        found = through_a_file(scratch, samples).astype(np.float64)
        low, high = min(values), max(values)
        exact = 255 * (samples.astype(np.float64) - low) / (high - low)
        # A level halfway between two may go either way in single precision, nothing else.
        assert np.abs(found - exact).max() <= 0.5 + 1e-4
        assert (np.diff(found[0][np.argsort(samples[0], kind="stable")]) >= 0).all()

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 256), st.integers(0, 255))
    def test_contrast_and_brightness_of_the_file_play_no_part(self, scratch: Path, gain: int, offset: int) -> None:
        reference = GREY[:8, :8].astype(np.uint16)
        shifted = reference * np.uint16(gain) + np.uint16(offset)
        difference = through_a_file(scratch, shifted).astype(int) - through_a_file(scratch, reference)
        assert np.abs(difference).max() <= 1


class TestFit:
    @pytest.mark.parametrize(
        ("extent", "expected"),
        [
            ((600, 300), (128, 64)),
            ((300, 600), (64, 128)),
            ((333, 1000), (43, 128)),
            ((129, 129), (128, 128)),
            ((3000, 4), (128, 1)),
            ((128, 100), (128, 100)),
            ((20, 30), (20, 30)),
        ],
    )
    def test_the_long_side_is_at_most_the_policys_and_nothing_is_enlarged(
        self, tmp_path: Path, extent: tuple[int, int], expected: tuple[int, int]
    ) -> None:
        samples = RANDOM.integers(0, 256, extent, dtype=np.uint8)
        path = saved(tmp_path, Image.fromarray(samples), ".png")
        assert canonical_pixels(path, PixelPolicy(side=128)).shape == expected

    @pytest.mark.parametrize("extent", [(700, 500), (500, 700), (640, 640)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_pixels_equal_pillows_own_reduction(self, tmp_path: Path, extent: tuple[int, int], dtype: type) -> None:
        full = np.iinfo(dtype).max
        samples = RANDOM.integers(0, full, extent, dtype=dtype, endpoint=True)
        samples.flat[:2] = 0, full
        eight_bit = np.rint(samples * (255 / full)).astype(np.uint8)
        scale = 512 / max(extent)
        target = (round(extent[1] * scale), round(extent[0] * scale))
        expected = np.asarray(Image.fromarray(eight_bit).resize(target, Image.Resampling.BICUBIC))
        found = canonical_pixels(saved(tmp_path, Image.fromarray(samples), ".png"), PixelPolicy())
        np.testing.assert_array_equal(found, expected)


class TestRefusals:
    @staticmethod
    def halved(path: Path) -> Path:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        return path

    @pytest.mark.parametrize("samples", [np.zeros((9, 9), np.uint8), np.full((9, 9), 4095, np.uint16)])
    def test_a_constant_picture(self, tmp_path: Path, samples: npt.NDArray[np.generic]) -> None:
        path = saved(tmp_path, Image.fromarray(samples), ".png")
        with pytest.raises(DecodeError, match=f"nothing to see: every sample is {samples[0, 0]}"):
            canonical_pixels(path, PixelPolicy())

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_samples_that_are_not_numbers(self, tmp_path: Path, value: float) -> None:
        samples = GREY.astype(np.float32)
        samples[3, 4] = value
        with pytest.raises(DecodeError):
            canonical_pixels(saved(tmp_path, Image.fromarray(samples), ".tif"), PixelPolicy())

    def test_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "empty.png").touch()
        with pytest.raises(DecodeError, match=r"empty \(0 bytes\)"):
            read_samples(tmp_path / "empty.png")

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
    def test_a_truncated_file(self, tmp_path: Path, suffix: str) -> None:
        with pytest.raises(DecodeError, match=r"cannot be decoded: .+"):
            read_samples(self.halved(saved(tmp_path, Image.fromarray(GREY), suffix)))

    def test_damaged_bytes_within_a_png(self, tmp_path: Path) -> None:
        path = saved(tmp_path, Image.fromarray(DEEP), ".png")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(DecodeError, match="cannot be decoded"):
            read_samples(path)

    @pytest.mark.parametrize("name", ["absent.png", "absent/picture.png", "."])
    def test_a_missing_file_or_a_folder(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(DecodeError, match="file is missing"):
            read_samples(tmp_path / name)

    @pytest.mark.parametrize("content", [b"patient_id,image_id\n", b"\x00" * 5000, b"a few plain words"])
    def test_something_else_than_a_picture(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "picture.png").write_bytes(content)
        with pytest.raises(DecodeError, match="not a picture of a known format"):
            read_samples(tmp_path / "picture.png")

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("extent", [(60_000, 60_000), (10_001, 10_000), (2**31 - 1, 2**31 - 1)])
    def test_a_file_that_claims_more_pixels_than_a_radiograph_has_is_not_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extent: tuple[int, int]
    ) -> None:
        (tmp_path / "bomb.png").write_bytes(png_header(*extent))

        def load(self: Image.Image) -> None:
            raise AssertionError("its pixels were read")

        monkeypatch.setattr(Image.Image, "load", load)
        with pytest.raises(DecodeError, match=r"claims .* pixels.*refused"):
            read_samples(tmp_path / "bomb.png")

    def test_a_file_just_below_the_stated_limit_is_not_refused_for_its_size(self, tmp_path: Path) -> None:
        side = math.isqrt(MAX_PIXELS)
        (tmp_path / "large.png").write_bytes(png_header(side, side))
        with pytest.raises(DecodeError) as caught:
            read_samples(tmp_path / "large.png")
        assert "claims" not in str(caught.value)

    def test_the_error_is_the_projects_and_says_no_path(self, tmp_path: Path) -> None:
        path = tmp_path / "patient-4711.png"
        path.write_bytes(b"no picture")
        with pytest.raises(PeftbenchError) as caught:
            read_samples(path)
        assert "4711" not in str(caught.value), "a file's name may be a patient's; whoever asked knows it"


def test_decoding_in_threads_leaves_the_process_its_warning_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prepare` decodes in threads; what they set aside for a moment must not be what another one restores."""
    path = saved(tmp_path, Image.fromarray(GREY), ".png")
    original = Image.open
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def overlapping(*words: object) -> Image.Image:
        if threading.current_thread().name == "first":
            first_is_in.set()
            second_is_in.wait(10)
        else:
            second_is_in.set()
            first.join(10)
        return original(*words)

    monkeypatch.setattr(Image, "open", overlapping)
    before = list(warnings.filters)
    first = threading.Thread(target=read_samples, args=(path,), name="first")
    second = threading.Thread(target=read_samples, args=(path,), name="second")
    try:
        first.start()
        assert first_is_in.wait(10)
        second.start()
        second.join(10)
        assert not second.is_alive()
        assert list(warnings.filters) == before
    finally:
        warnings.filters[:] = before


class TestPolicy:
    def test_the_recipe_names_every_step(self) -> None:
        assert PixelPolicy().recipe == "grey2|minmax(8bit)|fit(512,bicubic,antialias)"

    def test_another_side_is_another_recipe_and_digest(self) -> None:
        sides = [32, 256, 512, 1024, 4096]
        policies = [PixelPolicy(side=side) for side in sides]
        assert len({policy.recipe for policy in policies}) == len(sides)
        assert len({policy.digest for policy in policies}) == len(sides)
        assert PixelPolicy(side=512).digest == PixelPolicy().digest

    @pytest.mark.parametrize("wrong", [{"side": 31}, {"side": 4097}, {"name": "windows"}, {"sides": 512}])
    def test_what_is_not_understood_is_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(pydantic.ValidationError):
            PixelPolicy.model_validate(wrong)

    def test_it_cannot_be_changed(self) -> None:
        policy = PixelPolicy()
        with pytest.raises(pydantic.ValidationError):
            policy.side = 64  # type: ignore[misc]
