"""Augmentation: each operation is torchvision's, each image has parameters of its own, and a seed tells all of them."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from peftbench.imaging.augmentation import WHITE, Augmentation, _blur, _displacements, _draw, augment

COUNT = 12

EXTENTS = [(64, 64), (48, 80), (80, 48)]
"""Square, landscape and portrait."""

OFF: dict[str, Any] = {
    "shift": 0, "zoom": 0, "rotation": 0, "flip": False, "elastic_alpha": (0, 0), "brightness": 0, "contrast": 0,
}  # fmt: skip

STRONG: dict[str, Any] = {
    "shift": 0.3, "zoom": 0.4, "rotation": 60.0, "flip": True, "elastic_alpha": (100.0, 300.0), "brightness": 0.6,
    "contrast": 0.8,
}  # fmt: skip

CLOSE = 0.02
"""Grey values that the order of additions in single precision may cost, between noisy pixels."""


def batch(extent: tuple[int, int] = (64, 64), count: int = COUNT) -> torch.Tensor:
    made = np.random.default_rng(0).integers(0, 256, (count, *extent), dtype=np.uint8)
    return torch.from_numpy(made)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(*names: str, **changes: Any) -> Augmentation:
    """These operations alone, to every image."""
    return Augmentation(**{**OFF, **{name: STRONG[name] for name in names}, "probability": 1.0, **changes})


def affine(image: torch.Tensor, angle: float, right: float, down: float, scale: float) -> torch.Tensor:
    """One image by torchvision, shifted by parts of a pixel as well (which its public function rounds away)."""
    matrix = functional._geometry._get_inverse_affine_matrix([0.0, 0.0], angle, [right, down], scale, [0.0, 0.0])
    theta = torch.tensor(matrix).reshape(1, 2, 3)
    height, width = image.shape
    grid = functional._geometry._affine_grid(theta, w=width, h=height, ow=width, oh=height)
    return functional._geometry._apply_grid_transform(image[None, None], grid, "bilinear", fill=None)[0, 0]


@pytest.mark.parametrize("extent", EXTENTS)
class TestGeometry:
    def test_a_rotation_is_that_of_torchvision(self, extent: tuple[int, int]) -> None:
        pixels, how = batch(extent), only("rotation")
        found, degrees = augment(pixels, how, seeded()), torch.rad2deg(_draw(COUNT, how, seeded()).angle).tolist()
        assert max(map(abs, degrees)) > 30
        for image, each, angle in zip(pixels.float(), found, degrees, strict=True):
            turned = functional.affine(
                image[None], angle, [0, 0], 1.0, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR
            )
            torch.testing.assert_close(each, turned[0], rtol=0, atol=CLOSE)

    def test_a_zoom_is_that_of_torchvision(self, extent: tuple[int, int]) -> None:
        pixels, how = batch(extent), only("zoom")
        found, scales = augment(pixels, how, seeded()), _draw(COUNT, how, seeded()).scale.tolist()
        assert min(scales) < 0.8
        assert max(scales) > 1.2
        for image, each, scale in zip(pixels.float(), found, scales, strict=True):
            grown = functional.affine(
                image[None], 0.0, [0, 0], scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR
            )
            torch.testing.assert_close(each, grown[0], rtol=0, atol=CLOSE)

    def test_a_shift_is_that_of_torchvision(self, extent: tuple[int, int]) -> None:
        pixels, how = batch(extent), only("shift")
        found, drawn = augment(pixels, how, seeded()), _draw(COUNT, how, seeded())
        for image, each, right, down in zip(pixels.float(), found, drawn.right, drawn.down, strict=True):
            shifted = affine(image, 0.0, float(right) * extent[1], float(down) * extent[0], 1.0)
            torch.testing.assert_close(each, shifted, rtol=0, atol=CLOSE)
            assert not torch.equal(each, image)

    def test_a_flip_is_that_of_torchvision(self, extent: tuple[int, int]) -> None:
        pixels = batch(extent)
        expected = functional.horizontal_flip(pixels.float())
        torch.testing.assert_close(augment(pixels, only("flip"), seeded()), expected, rtol=0, atol=CLOSE)

    def test_together_they_are_a_flip_and_then_one_affine_map(self, extent: tuple[int, int]) -> None:
        pixels, how = batch(extent), only("flip", "rotation", "zoom", "shift")
        found, drawn = augment(pixels, how, seeded()), _draw(COUNT, how, seeded())
        for row, image in enumerate(functional.horizontal_flip(pixels.float())):
            angle, right, down = float(torch.rad2deg(drawn.angle[row])), drawn.right[row], drawn.down[row]
            moved = affine(image, angle, float(right) * extent[1], float(down) * extent[0], float(drawn.scale[row]))
            torch.testing.assert_close(found[row], moved, rtol=0, atol=CLOSE)

    def test_elastic_deformation_is_that_of_torchvision(self, extent: tuple[int, int]) -> None:
        pixels, how = batch(extent), only("elastic_alpha", elastic_sigma=4.0)
        found, drawn = augment(pixels, how, seeded()), _draw(COUNT, how, seeded())
        assert 100 <= float(drawn.alpha.min()) < float(drawn.alpha.max()) <= 300
        for row, image in enumerate(pixels.float()):
            noise = torch.rand((2, *extent), generator=seeded(int(drawn.seed[row]))) * 2 - 1
            blurred = functional.gaussian_blur(noise, [33, 33], [4.0, 4.0]) * float(drawn.alpha[row])
            displacement = torch.stack([blurred[0] / extent[1], blurred[1] / extent[0]], dim=-1)[None]
            expected = functional.elastic(image[None], displacement)[0]
            torch.testing.assert_close(found[row], expected, rtol=0, atol=CLOSE)
            assert not torch.equal(found[row], image)


def test_elastic_deformation_comes_on_top_of_the_rest() -> None:
    pixels, how = batch(), only("flip", "rotation", "zoom", "shift", "elastic_alpha")
    found, drawn = augment(pixels, how, seeded()), _draw(COUNT, how, seeded())
    displaced = _displacements(drawn, how.elastic_sigma, 64, 64, found).permute(0, 2, 3, 1)
    identity = torch.nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 1, 64, 64], align_corners=False)
    for row, image in enumerate(pixels.float()):
        angle, ratio = float(drawn.angle[row]), 1 / float(drawn.scale[row])
        turned = ratio * torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        back = 2 * torch.stack([drawn.right[row], drawn.down[row]])
        grid = ((identity.double() - back) @ turned.T * torch.tensor([-1.0, 1.0])).float()
        expected = functional.elastic(image[None], grid - identity + displaced[row])[0]
        torch.testing.assert_close(found[row], expected, rtol=0, atol=CLOSE)


class TestBlur:
    @pytest.mark.parametrize(("side", "sigma"), [(64, 7.0), (64, 4.0), (33, 2.3), (100, 7.0)])
    def test_as_a_matrix_it_is_that_of_torchvision(self, side: int, sigma: float) -> None:
        size = int(8 * sigma + 1) // 2 * 2 + 1
        rows = torch.rand((5, side), generator=seeded())
        expected = functional.gaussian_blur(rows[None], [size, 1], [sigma, sigma])[0]
        torch.testing.assert_close(rows @ _blur(side, sigma), expected)

    @given(st.integers(1, 40), st.floats(0.1, 30))
    def test_of_any_side_it_keeps_a_constant(self, side: int, sigma: float) -> None:
        torch.testing.assert_close(_blur(side, sigma).sum(dim=0), torch.ones(side))


class TestLight:
    def test_brightness_is_that_of_torchvision(self) -> None:
        pixels, how = batch(), only("brightness")
        found, factors = augment(pixels, how, seeded()), _draw(COUNT, how, seeded()).brightness.tolist()
        for image, each, factor in zip(pixels, found, factors, strict=True):
            expected = functional.adjust_brightness(image[None] / WHITE, factor)[0] * WHITE
            torch.testing.assert_close(each, expected, rtol=0, atol=1e-3)

    def test_contrast_is_that_of_torchvision(self) -> None:
        pixels, how = batch(), only("contrast")
        found, factors = augment(pixels, how, seeded()), _draw(COUNT, how, seeded()).contrast.tolist()
        for image, each, factor in zip(pixels, found, factors, strict=True):
            expected = functional.adjust_contrast(image[None] / WHITE, factor)[0] * WHITE
            torch.testing.assert_close(each, expected, rtol=0, atol=1e-3)

    def test_contrast_comes_after_brightness_and_both_before_geometry(self) -> None:
        pixels, how = batch(), only("brightness", "contrast", "flip")
        found, drawn = augment(pixels, how, seeded()), _draw(COUNT, how, seeded())
        for row, image in enumerate(pixels):
            bright = functional.adjust_brightness(image[None] / WHITE, float(drawn.brightness[row]))
            expected = functional.adjust_contrast(bright, float(drawn.contrast[row]))[0] * WHITE
            torch.testing.assert_close(found[row], expected.flip(-1), rtol=0, atol=CLOSE)

    def test_what_comes_in_from_outside_is_black(self) -> None:
        grey = torch.full((COUNT, 32, 32), 128, dtype=torch.uint8)
        how = only("shift", "contrast", "brightness", shift=0.5)
        found, drawn = augment(grey, how, seeded()), _draw(COUNT, how, seeded())
        for each, right in zip(found, drawn.right.tolist(), strict=True):
            gone = int(abs(right) * 32)
            outside = each[:, :gone] if right > 0 else each[:, 32 - gone :]
            assert outside.eq(0).all()
            assert each.max() > 40


class TestNothing:
    @pytest.mark.parametrize(
        "how",
        [Augmentation(**OFF), Augmentation(**STRONG, probability=0), only()],
        ids=["all off", "probability 0", "all off, always"],
    )
    def test_pixels_are_as_they_were(self, how: Augmentation) -> None:
        pixels = batch()
        assert not how.changes_anything
        assert torch.equal(augment(pixels, how, seeded()), pixels.float())

    def test_an_image_to_which_nothing_happens_is_as_it_was(self) -> None:
        pixels, how = batch(count=100), Augmentation(**STRONG, probability=0.2)
        found, drawn = augment(pixels, how, seeded()), _draw(100, how, seeded())
        still = torch.ones(100, dtype=torch.bool)
        still[drawn.moved] = False
        still &= (drawn.brightness == 1) & (drawn.contrast == 1)
        assert 5 < int(still.sum()) < 50
        same = (found == pixels.float()).all(dim=(1, 2))
        assert torch.equal(same, still)

    @pytest.mark.parametrize("name", STRONG)
    def test_one_operation_is_something(self, name: str) -> None:
        assert only(name).changes_anything
        assert not torch.equal(augment(batch(), only(name), seeded()), batch().float())

    def test_an_empty_batch(self) -> None:
        assert augment(batch(count=0), Augmentation(), seeded()).shape == (0, 64, 64)


class TestChance:
    def test_a_seed_tells_the_batch_to_the_bit(self) -> None:
        first, again, other = (augment(batch(), Augmentation(), seeded(seed)) for seed in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_the_next_batch_of_a_generator_is_another(self) -> None:
        generator = seeded()
        assert not torch.equal(*(augment(batch(), Augmentation(), generator) for _ in range(2)))

    @pytest.mark.parametrize("name", [name for name in STRONG if name != "flip"])
    def test_every_image_has_parameters_of_its_own(self, name: str) -> None:
        same = batch(count=1).expand(COUNT, -1, -1)
        found = augment(same, only(name), seeded())
        assert len({each.numpy().tobytes() for each in found}) == COUNT

    @pytest.mark.parametrize("name", STRONG)
    def test_what_happens_to_an_image_does_not_depend_on_what_else_may(self, name: str) -> None:
        chance = {"probability": 0.5}
        alone, among = _draw(50, only(name, **chance), seeded()), _draw(50, only(*STRONG, **chance), seeded())
        attributes = {
            "shift": ("right", "down"), "zoom": ("scale",), "rotation": ("angle",), "elastic_alpha": ("alpha", "seed"),
        }.get(name, (name,))  # fmt: skip
        for each in attributes:
            assert torch.equal(getattr(alone, each), getattr(among, each))

    def test_as_much_is_drawn_whatever_is_switched_on(self) -> None:
        states = []
        for how in (only("rotation"), only(*STRONG)):
            generator = seeded()
            augment(batch(), how, generator)
            states.append(generator.get_state())
        assert torch.equal(*states)

    @pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
    def test_every_operation_happens_as_often_as_it_should(self, probability: float) -> None:
        count = 10_000
        drawn = _draw(count, only(*STRONG, probability=probability), seeded())
        happened = torch.stack([
            drawn.flip < 0, drawn.angle != 0, drawn.scale != 1, drawn.right != 0, drawn.down != 0, drawn.alpha > 0,
            drawn.brightness != 1, drawn.contrast != 1,
        ]).double()  # fmt: skip
        deviation = (probability * (1 - probability) / count) ** 0.5
        assert (happened.mean(dim=1) - probability).abs().max() < 4 * deviation
        assert torch.equal(happened[3], happened[4]), "a shift is along both axes"
        # Of two different operations both happen as often as chance has it.
        apart = happened[[0, 1, 2, 3, 5, 6, 7]]
        both = (apart @ apart.T / count - probability**2).triu(1).abs().max()
        assert both < 4 * (probability**2 * (1 - probability**2) / count) ** 0.5

    def test_amounts_fill_their_range_and_stay_in_it(self) -> None:
        drawn = _draw(10_000, only(*STRONG), seeded())
        ranges = {
            "angle": (-torch.pi / 3, torch.pi / 3), "scale": (0.6, 1.4), "right": (-0.3, 0.3), "down": (-0.3, 0.3),
            "alpha": (100, 300), "brightness": (0.4, 1.6), "contrast": (0.2, 1.8),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            share = (getattr(drawn, name) - low) / (high - low)
            assert 0 <= float(share.min()) < 0.001, name
            assert 0.999 < float(share.max()) <= 1, name
            assert float(share.mean()) == pytest.approx(0.5, abs=0.02), name


class TestResult:
    @pytest.mark.parametrize("extent", [*EXTENTS, (1, 1), (1, 9), (9, 2), (13, 13)])
    def test_grey_values_of_the_same_extent_without_a_graph(self, extent: tuple[int, int]) -> None:
        pixels = batch(extent)
        found = augment(pixels, only(*STRONG), seeded())
        assert found.shape == pixels.shape
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert not found.isnan().any()
        assert float(found.min()) >= 0
        assert float(found.max()) <= WHITE

    def test_white_stays_white_at_most(self) -> None:
        white = torch.full((COUNT, 64, 64), 255, dtype=torch.uint8)
        found = augment(white, only("rotation", "zoom", "elastic_alpha"), seeded())
        assert float(found.max()) == WHITE

    def test_the_batch_itself_is_left_alone(self) -> None:
        pixels = batch()
        augment(pixels, only(*STRONG), seeded())
        assert torch.equal(pixels, batch())

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_on_a_gpu_it_is_the_same_but_for_rounding(self) -> None:
        here, there = (augment(batch().to(device), Augmentation(), seeded()) for device in ("cpu", "cuda"))
        assert there.device.type == "cuda"
        torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1.0)


class TestBounds:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("probability", -0.1), ("probability", 1.1), ("shift", -0.1), ("shift", 0.6), ("zoom", 1.0), ("zoom", -1),
            ("rotation", -1), ("rotation", 181), ("elastic_sigma", 0), ("elastic_sigma", float("inf")),
            ("brightness", 1.1), ("brightness", -0.1), ("contrast", 1.1), ("contrast", -0.1), ("flip", "perhaps"),
            ("elastic_alpha", (-1, 2)), ("elastic_alpha", (3, 2)), ("elastic_alpha", (0, float("inf"))),
            ("elastic_alpha", (1,)), ("elastic_alpha", (float("nan"), 1)), ("sheer", 3),
            *((name, float("nan")) for name in ("probability", "shift", "zoom", "rotation", "elastic_sigma")),
        ],
    )  # fmt: skip
    def test_what_is_refused(self, name: str, value: object) -> None:
        with pytest.raises(ValidationError, match=name):
            Augmentation(**{name: value})

    def test_the_message_says_what_is_expected(self) -> None:
        with pytest.raises(ValidationError, match="two numbers from 0 to 10000, the smaller one first"):
            Augmentation(elastic_alpha=(40, 20))

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            Augmentation().flip = False

    def test_the_values_of_the_group(self) -> None:
        how = Augmentation()
        assert (how.probability, how.shift, how.zoom, how.rotation, how.flip) == (0.5, 0.1, 0.1, 10.0, True)
        assert (how.elastic_alpha, how.elastic_sigma) == ((20.0, 40.0), 7.0)
        assert Augmentation.model_validate_json(how.model_dump_json()) == how


def test_it_is_declared_without_torch() -> None:
    program = "import sys, peftbench.imaging.augmentation as a; a.Augmentation(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
