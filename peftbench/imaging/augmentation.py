"""Augmentation of chest X-rays while training: a batch at a time, on the device that trains.

Every image has parameters of its own, and all that moves pixels (flip, rotation, zoom, shift, elastic) is one
resampling, as is blur for blur what torchvision's transforms do. One after the other they would not serve: torchvision
draws one set of parameters for a whole batch, and resamples, so blurs, once for each transform.

Light comes before geometry, so that contrast is about the mean of the picture itself and what comes in from outside
stays black. Imports torch when it is used.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    import torch

WHITE = 255.0

_OPERATIONS = 7
"""Each happens to an image or not."""

_AMOUNTS = 7
"""Of those that have one; a shift has two, a flip none."""

_SEEDS = 2**53
"""Whole numbers that a double tells apart."""


class Augmentation(BaseModel):
    """What may happen to a training image: the values of the authors' group, brightness and contrast our own.

    Attributes:
        probability: of each operation, for each image.
        shift: along each axis, at most; share of the side.
        zoom: the scale is from 1 - zoom to 1 + zoom.
        rotation: to either side, at most; degrees.
        flip: whether images are mirrored, left to right.
        elastic_alpha: strength of elastic deformation, from and to, as torchvision counts it: in half pixels, of noise
            that was blurred; (0, 0) for none.
        elastic_sigma: of that blur, in pixels.
        brightness: pixels are multiplied by 1 - brightness to 1 + brightness.
        contrast: their distance from the image's mean by 1 - contrast to 1 + contrast.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    probability: float = Field(default=0.5, ge=0, le=1)
    shift: float = Field(default=0.1, ge=0, le=0.5)
    zoom: float = Field(default=0.1, ge=0, lt=1)
    rotation: float = Field(default=10.0, ge=0, le=180)
    flip: bool = True
    elastic_alpha: tuple[float, float] = (20.0, 40.0)
    elastic_sigma: float = Field(default=7.0, gt=0, le=100)
    brightness: float = Field(default=0.1, ge=0, le=1)
    contrast: float = Field(default=0.1, ge=0, le=1)

    @field_validator("elastic_alpha")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1] <= 10_000:
            raise ValueError("expected two numbers from 0 to 10000, the smaller one first")
        return value

    @property
    def changes_anything(self) -> bool:
        """Whether any operation is switched on."""
        amounts = (self.shift, self.zoom, self.rotation, self.elastic_alpha[1], self.brightness, self.contrast)
        return self.probability > 0 and (self.flip or any(amounts))


class _Drawn(NamedTuple):
    """What happens to the images of a batch: (n,) each, on the processor, in double precision.

    Attributes:
        flip: -1 where an image is mirrored, else 1.
        angle: in radians, clockwise.
        scale: above 1 the image grows.
        right: shift, as a share of the width.
        down: shift, as a share of the height.
        alpha: of the elastic deformation; 0 for none.
        brightness: factor.
        contrast: factor.
        seed: of the noise behind the elastic deformation.
    """

    flip: "torch.Tensor"
    angle: "torch.Tensor"
    scale: "torch.Tensor"
    right: "torch.Tensor"
    down: "torch.Tensor"
    alpha: "torch.Tensor"
    brightness: "torch.Tensor"
    contrast: "torch.Tensor"
    seed: "torch.Tensor"

    @property
    def moved(self) -> "torch.Tensor":
        """Positions of the images whose pixels move, increasing."""
        shifted = (self.right != 0) | (self.down != 0)
        return ((self.flip < 0) | (self.angle != 0) | (self.scale != 1) | shifted | (self.alpha > 0)).nonzero()[:, 0]

    def of(self, positions: "torch.Tensor") -> "_Drawn":
        """The same for some of the images."""
        return _Drawn(*(each[positions] for each in self))


def augment(pixels: "torch.Tensor", how: Augmentation, generator: "torch.Generator") -> "torch.Tensor":
    """Shaped pictures, each changed in its own way.

    Of the generator as much is drawn for every image, whatever is switched on: what happens to an image does not depend
    on the operations beside it.

    Args:
        pixels: (n, h, w) uint8, on any device.
        how: what may happen.
        generator: of the processor, whose state decides all.

    Returns:
        (n, h, w) float32 from 0 to 255, on the same device; where nothing happens the pixels as they are.
    """
    values = pixels.float()
    if not how.changes_anything or not len(pixels):
        return values
    drawn = _draw(len(pixels), how, generator)
    return _move(_light(values, drawn), drawn, how.elastic_sigma)


def _draw(count: int, how: Augmentation, generator: "torch.Generator") -> _Drawn:
    import torch  # noqa: PLC0415 - the module must import without torch

    table = torch.rand((count, _OPERATIONS + _AMOUNTS + 1), dtype=torch.float64, generator=generator)
    flips, turns, zooms, shifts, bends, lights, contrasts = (table[:, :_OPERATIONS] < how.probability).double().T
    either = 2 * table[:, _OPERATIONS:-1] - 1
    angle, scale, right, down, _, brightness, contrast = either.T
    weakest, strongest = how.elastic_alpha
    alpha = weakest + (strongest - weakest) * table[:, _OPERATIONS + 4]
    return _Drawn(
        flip=1 - 2 * flips if how.flip else torch.ones_like(flips),
        angle=turns * angle * torch.pi * how.rotation / 180,
        scale=1 + zooms * scale * how.zoom,
        right=shifts * right * how.shift,
        down=shifts * down * how.shift,
        alpha=bends * alpha,
        brightness=1 + lights * brightness * how.brightness,
        contrast=1 + contrasts * contrast * how.contrast,
        seed=(table[:, -1] * _SEEDS).long(),
    )


def _light(values: "torch.Tensor", drawn: _Drawn) -> "torch.Tensor":
    """Brightness, then contrast about the image's mean; a factor of 1 changes nothing."""
    brightness, contrast = (each.to(values)[:, None, None] for each in (drawn.brightness, drawn.contrast))
    bright = (values * brightness).clamp_(0, WHITE)
    mean = bright.mean(dim=(1, 2), keepdim=True)
    return (bright * contrast + mean * (1 - contrast)).clamp_(0, WHITE)


def _move(values: "torch.Tensor", drawn: _Drawn, sigma: float) -> "torch.Tensor":
    """Geometry, in place: every image that moves is resampled once, outside of it is black."""
    from torch.nn import functional  # noqa: PLC0415

    moved = drawn.moved
    if not len(moved):
        return values
    some = drawn.of(moved)
    height, width = values.shape[1:]
    origin = _origins(some, height, width, values)
    bent = some.alpha.nonzero()[:, 0]
    if len(bent):
        origin[bent.to(values.device)] += _displacements(some.of(bent), sigma, height, width, values)
    at = moved.to(values.device)
    found = functional.grid_sample(values[at, None], origin.permute(0, 2, 3, 1), align_corners=False)
    values[at] = found[:, 0].clamp_(0, WHITE)
    return values


def _origins(drawn: _Drawn, height: int, width: int, like: "torch.Tensor") -> "torch.Tensor":
    """Where each pixel comes from by flip, rotation, zoom and shift, in this order: (n, 2, h, w), x before y.

    Coordinates are those of torch's `grid_sample`: -1 and 1 are the outer edges. The inverse of the rotation is written
    in them, which is why it knows the ratio of the sides.
    """
    import torch  # noqa: PLC0415

    ratio = height / width
    cos, sin = torch.cos(drawn.angle) / drawn.scale, torch.sin(drawn.angle) / drawn.scale
    by_x = torch.stack([drawn.flip * cos, -sin / ratio], dim=1)
    by_y = torch.stack([drawn.flip * sin * ratio, cos], dim=1)
    start = -2 * (by_x * drawn.right[:, None] + by_y * drawn.down[:, None])
    by_x, by_y, start = (each.to(like)[:, :, None, None] for each in (by_x, by_y, start))
    return by_x * _centres(width).to(like) + by_y * _centres(height).to(like)[:, None] + start


def _centres(side: int) -> "torch.Tensor":
    """(side,) where the centres of pixels lie between the outer edges, -1 and 1."""
    import torch  # noqa: PLC0415

    return (2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1


def _displacements(drawn: _Drawn, sigma: float, height: int, width: int, like: "torch.Tensor") -> "torch.Tensor":
    """How far elastic deformation takes each pixel's origin: (n, 2, h, w), x before y.

    As torchvision's `ElasticTransform`: uniform noise from -1 to 1, blurred, times alpha, over the side.
    """
    import torch  # noqa: PLC0415

    # On the device: drawn on the processor it would take longer than a step of a small network takes a large GPU.
    noise = torch.empty((len(drawn.seed), 2, height, width), device=like.device)
    source = torch.Generator(like.device if like.device.type == "cuda" else "cpu")
    for each, seed in zip(noise, drawn.seed.tolist(), strict=True):
        each.uniform_(-1, 1, generator=source.manual_seed(seed))
    strength = drawn.alpha[:, None] / torch.tensor([width, height], dtype=torch.float64)
    blurred = _blur(height, sigma).to(like).T @ noise.to(like) @ _blur(width, sigma).to(like)
    return blurred * strength.to(like)[:, :, None, None]


@lru_cache(maxsize=16)
def _blur(side: int, sigma: float) -> "torch.Tensor":
    """The Gaussian blur of torchvision, of a row, as a matrix: (side, side), `row @ matrix` is the blurred row.

    It is what the blur makes of the identity. Two products with it take a fiftieth of the time of the blur itself,
    which goes over a square of 8 sigma for every pixel.
    """
    import torch  # noqa: PLC0415
    from torchvision.transforms.v2.functional import gaussian_blur  # noqa: PLC0415

    # Noise is mirrored at the edges: a small picture has not enough of it for the whole kernel.
    reach = min(int(8 * sigma + 1) // 2, side - 1)
    blurred: torch.Tensor = gaussian_blur(torch.eye(side)[None], [2 * reach + 1, 1], [sigma, sigma])
    return blurred[0]
