"""Canonical pixels to model input: the readable string, and torchvision's own resize, crop and normalisation."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from peftbench.imaging.transform import (
    CHANNELS_AT_ONCE,
    CLIP,
    DINO,
    HALF,
    IMAGENET,
    MEDCLIP,
    InputTransform,
    interpolation_of,
)

RANDOM = np.random.default_rng(0)

EXTENTS = [
    (300, 300),
    (256, 256),
    (224, 224),
    (512, 389),
    (389, 512),
    (257, 256),
    (64, 500),
    (500, 64),
    (40, 60),
    (60, 40),
    (8, 8),
    (511, 333),
]
"""Square, portrait and landscape; larger, equal and smaller than what is resized to."""

Picture = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture(extent: tuple[int, int]) -> Picture:
    return RANDOM.integers(0, 256, extent, dtype=np.uint8)


def reference(transform: InputTransform, one: Picture) -> torch.Tensor:
    """torchvision's resize and crop of one picture, as a uint8 tensor."""
    mode = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}[transform.interpolation]
    steps = v2.Compose([v2.Resize(transform.resize, interpolation=mode, antialias=True), v2.CenterCrop(transform.crop)])
    return steps(torch.from_numpy(one)[None])[0]


numbers = st.floats(min_value=1e-4, max_value=1e4, allow_nan=False)
triples = st.tuples(numbers, numbers, numbers)
transforms = st.builds(
    lambda crop, margin, *rest: InputTransform(crop + margin, crop, *rest),
    st.integers(1, 2000),
    st.integers(0, 300),
    st.sampled_from(["bilinear", "bicubic"]),
    triples,
    triples,
    st.just(0) | st.integers(1, 2000),
)


class TestText:
    @given(transforms)
    def test_the_string_describes_the_transform_whole(self, transform: InputTransform) -> None:
        assert InputTransform.parse(str(transform)) == transform

    @pytest.mark.parametrize("value", [0.0, 1e-5, 1e16])
    def test_numbers_that_python_prints_with_an_exponent_come_back_too(self, value: float) -> None:
        transform = InputTransform(256, 224, "bicubic", (value, 0.5, 0.5), (0.5, 0.5, 0.5))
        assert InputTransform.parse(str(transform)) == transform

    @pytest.mark.parametrize(
        ("mean", "std"),
        [((0.5, 0.5), (0.5, 0.5, 0.5)), ((0.5, 0.5, 0.5), (0.5,)), ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5))],
    )
    def test_statistics_that_cannot_be_are_refused(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="three means and three positive deviations"):
            InputTransform(32, 32, "bicubic", mean, std)  # type: ignore[arg-type]

    def test_it_is_readable(self) -> None:
        assert str(IMAGENET) == (
            "resize(256,bilinear,antialias)|centercrop(224)|rgb|normalize(mean=0.485,0.456,0.406;std=0.229,0.224,0.225)"
        )

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "resize(256)",
            str(IMAGENET) + "|flip",
            " " + str(IMAGENET),
            str(IMAGENET).replace("bilinear", "nearest"),
            str(IMAGENET).replace(",antialias", ""),
            str(IMAGENET).replace("256", "-256"),
            str(IMAGENET).replace("0.485,", ""),
            str(IMAGENET).replace(",0.225", ""),
            str(IMAGENET).replace("0.225", "0.225,0.1"),
            str(IMAGENET).replace("0.485", "0.4.85"),
            str(IMAGENET).replace("0.485", "nan"),
            str(MEDCLIP).replace("padsquare(224)", "padsquare"),
            str(MEDCLIP).replace("padsquare(224)", "padsquare(-1)"),
            str(MEDCLIP).replace("padsquare(224)", "padsquare()"),
            str(MEDCLIP).replace("padsquare(224)|", "padsquare(224)"),
            f"padsquare(224)|{MEDCLIP}",
        ],
    )
    def test_any_other_text_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            InputTransform.parse(text)

    @pytest.mark.parametrize(
        "text",
        [
            "resize(224)",
            str(IMAGENET).replace("0.485,", ""),
            str(IMAGENET).replace("0.485", "0.4.85"),
            str(IMAGENET).replace(",0.225", ""),
        ],
    )
    def test_the_error_shows_the_text(self, text: str) -> None:
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            InputTransform.parse(text)

    @pytest.mark.parametrize("transform", [IMAGENET, HALF, CLIP, DINO, MEDCLIP])
    def test_those_of_the_backbones_come_back(self, transform: InputTransform) -> None:
        assert InputTransform.parse(str(transform)) == transform

    def test_padding_stands_where_it_happens(self) -> None:
        without = dataclasses.replace(MEDCLIP, pad=0)
        assert str(MEDCLIP) == f"padsquare(224)|{without}"
        assert InputTransform.parse(str(without)) == without

    def test_a_padding_of_nothing_has_one_spelling(self) -> None:
        """Else two strings, and so two keys, would mean the same."""
        with pytest.raises(ValueError, match="not an input transform"):
            InputTransform.parse(f"padsquare(0)|{IMAGENET}")


class TestInterpolation:
    @pytest.mark.parametrize(
        ("name", "found"), [("bilinear", "bilinear"), ("bicubic", "bicubic"), ("random", "bilinear")]
    )
    def test_a_librarys_name(self, name: str, found: str) -> None:
        assert interpolation_of(name) == found

    @pytest.mark.parametrize("name", ["nearest", "lanczos", "", "BICUBIC"])
    def test_any_other_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"interpolation is '{name}', expected bilinear or bicubic"):
            interpolation_of(name)


class TestShape:
    @pytest.mark.parametrize("extent", EXTENTS, ids="{0[0]}x{0[1]}".format)
    @pytest.mark.parametrize("transform", [IMAGENET, HALF], ids=["bilinear", "bicubic"])
    def test_resize_and_crop_equal_torchvisions(self, transform: InputTransform, extent: tuple[int, int]) -> None:
        one = picture(extent)
        found = transform.shape([one])
        assert found.dtype == torch.uint8
        assert found.shape == (1, 224, 224)
        assert torch.equal(found[0], reference(transform, one))

    @pytest.mark.parametrize("resize", [31, 32, 33, 47])
    @pytest.mark.parametrize("crop", [16, 17, 31])
    def test_odd_margins_fall_as_torchvisions_do(self, resize: int, crop: int) -> None:
        transform = InputTransform(resize, crop, "bicubic", HALF.mean, HALF.std)
        for extent in [(50, 50), (50, 71), (71, 50), (20, 21)]:
            one = picture(extent)
            assert torch.equal(transform.shape([one])[0], reference(transform, one))

    @pytest.mark.parametrize("transform", [IMAGENET, HALF], ids=["bilinear", "bicubic"])
    def test_many_pictures_together_are_each_as_alone(self, transform: InputTransform) -> None:
        """Every number of equal extents up to two packs and one more, mixed with pictures of other extents."""
        extents = [extent for count in range(1, 2 * CHANNELS_AT_ONCE + 2) for extent in [(90 + count, 70)] * count]
        pictures = [picture(extent) for extent in extents]
        order = RANDOM.permutation(len(pictures))
        together = transform.shape([pictures[row] for row in order])
        for position, row in enumerate(order):
            assert torch.equal(together[position], transform.shape([pictures[row]])[0])

    def test_a_view_of_a_larger_canvas_is_as_good_as_a_copy(self) -> None:
        """The image store hands out views of a padded canvas."""
        canvas = picture((3, 512, 512))  # type: ignore[arg-type]
        views = [each[:300, :200] for each in canvas]
        assert torch.equal(IMAGENET.shape(views), IMAGENET.shape([view.copy() for view in views]))

    @pytest.mark.parametrize("crop", [0, 33, 34, 64])
    def test_a_crop_that_does_not_fit_is_refused(self, crop: int) -> None:
        with pytest.raises(ValueError, match=f"crop is {crop}, expected from 1 to the resized side, 32"):
            InputTransform(32, crop, "bicubic", HALF.mean, HALF.std)

    def test_no_pictures_are_no_rows(self) -> None:
        assert IMAGENET.shape([]).shape == (0, 224, 224)

    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 600), st.integers(1, 600))
    def test_the_extent_after_resizing_is_torchvisions(self, height: int, width: int) -> None:
        small = InputTransform(16, 16, "bilinear", HALF.mean, HALF.std)
        expected = v2.functional.resize(torch.zeros((1, height, width), dtype=torch.uint8), [16], antialias=True)
        assert small.resized_extent(height, width) == tuple(expected.shape[1:])


def padded(one: Picture, least: int) -> Picture:
    """In the middle of a black square, by Pillow: what MedCLIP does before it resizes."""
    width, height = one.shape[1], one.shape[0]
    side = max(least, width, height)
    square = Image.new("L", (side, side), 0)
    square.paste(Image.fromarray(one), (int((side - width) / 2), int((side - height) / 2)))
    return np.array(square)


SMALL = InputTransform(16, 16, "bicubic", HALF.mean, HALF.std, pad=16)


class TestPad:
    @pytest.mark.parametrize("extent", EXTENTS, ids="{0[0]}x{0[1]}".format)
    def test_the_whole_picture_is_set_into_a_black_square(self, extent: tuple[int, int]) -> None:
        one = picture(extent)
        square = padded(one, MEDCLIP.pad)
        assert square.shape == (max(224, *extent),) * 2
        assert torch.equal(MEDCLIP.shape([one])[0], reference(MEDCLIP, square))

    @pytest.mark.parametrize(
        ("extent", "top", "left"),
        [((16, 10), 0, 3), ((16, 11), 0, 2), ((11, 16), 2, 0), ((5, 4), 5, 6), ((1, 1), 7, 7)],
    )
    def test_an_odd_margin_is_wider_below_and_on_the_right(self, extent: tuple[int, int], top: int, left: int) -> None:
        one = np.full(extent, 255, dtype=np.uint8)
        found = SMALL.shape([one])[0].numpy()
        expected = np.zeros((16, 16), dtype=np.uint8)
        expected[top : top + extent[0], left : left + extent[1]] = 255
        assert np.array_equal(found, expected)

    def test_a_picture_smaller_than_the_square_is_not_enlarged(self) -> None:
        one = picture((100, 60))
        found = MEDCLIP.shape([one])[0].numpy()
        assert np.array_equal(found[62:162, 82:142], one)
        assert found.sum() == one.sum(dtype=np.int64)

    def test_nothing_of_a_larger_one_is_cut_away(self) -> None:
        one = np.full((448, 224), 255, dtype=np.uint8)
        found = MEDCLIP.shape([one])[0]
        assert found[:, 60:164].min() == 255
        assert found[:, :50].max() == 0
        assert found[:, 174:].max() == 0

    def test_a_square_of_the_right_extent_passes_as_it_is(self) -> None:
        one = picture((224, 224))
        assert np.array_equal(MEDCLIP.shape([one])[0].numpy(), one)

    def test_many_together_are_each_as_alone(self) -> None:
        """After padding their extents are equal, so they travel together."""
        extents = [
            (300, 200),
            (200, 300),
            (300, 300),
            (224, 100),
            (90, 224),
            (10, 10),
            (300, 1),
            (224, 224),
            (299, 300),
        ]
        pictures = [picture(extent) for extent in extents]
        together = MEDCLIP.shape(pictures)
        assert together.shape == (len(pictures), 224, 224)
        for position, one in enumerate(pictures):
            assert torch.equal(together[position], MEDCLIP.shape([one])[0])

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6))
    def test_of_any_extents(self, extents: list[tuple[int, int]]) -> None:
        pictures = [picture(extent) for extent in extents]
        for found, one in zip(SMALL.shape(pictures), pictures, strict=True):
            assert torch.equal(found, reference(SMALL, padded(one, 16)))

    def test_the_pictures_that_were_given_stay_as_they_were(self) -> None:
        one = picture((30, 20))
        before = one.copy()
        MEDCLIP.shape([one])
        assert np.array_equal(one, before)


class TestNormalise:
    @pytest.mark.parametrize("transform", [IMAGENET, HALF], ids=["imagenet", "half"])
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_it_equals_torchvisions_on_rgb(self, transform: InputTransform, layout: torch.memory_format) -> None:
        levels = torch.arange(256, dtype=torch.uint8).repeat(4).reshape(1, 32, 32)
        batch = torch.cat([levels, levels.flip(1)])
        out = torch.full((2, 3, 32, 32), torch.nan).to(memory_format=layout)
        steps = v2.Compose(
            [v2.RGB(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(transform.mean), list(transform.std))]
        )
        found = transform.normalise(batch, out)
        assert found is out
        torch.testing.assert_close(found, steps(batch[:, None]), rtol=0, atol=1e-6)

    def test_extremes_of_half_are_minus_one_and_one(self) -> None:
        batch = torch.tensor([[[0, 255]]], dtype=torch.uint8)
        found = HALF.normalise(batch, torch.empty((1, 3, 1, 2)))
        torch.testing.assert_close(found[0, :, 0], torch.tensor([[-1.0, 1.0]] * 3), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_module_imports_without_torch() -> None:
    program = "import sys, peftbench.imaging.transform, peftbench.imaging.decode; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
