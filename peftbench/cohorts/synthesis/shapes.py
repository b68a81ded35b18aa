"""The brushes: soft-edged shapes and smooth noise as maps over the picture, which know nothing of a chest."""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Field: TypeAlias = npt.NDArray[np.floating]
"""A picture-sized map, (height, width), in single precision throughout: Python numbers do not widen it."""


def step(distance: Field, width: float) -> Field:
    """0 where distance < -width, 1 where > width, a smooth ramp between: the edge of what ends at distance 0."""
    ramp = distance * (0.5 / width)
    ramp += 0.5
    # In place throughout: half the time of a picture is spent here.
    np.clip(ramp, 0.0, 1.0, out=ramp)
    cubic = ramp * ramp
    ramp *= -2.0
    ramp += 3.0
    cubic *= ramp
    return cubic


def bump(distance: Field, width: float) -> Field:
    """A bell of height 1 at distance 0; `width` is its standard deviation."""
    return np.exp(np.square(distance) * (-0.5 / width**2))


def ellipse(x: Field, y: Field, center: tuple[float, float], radii: tuple[float, float], angle: float) -> Field:
    """A soft-edged ellipse, turned by `angle` (radians, clockwise on the picture)."""
    cos, sin = math.cos(angle), math.sin(angle)
    dx, dy = x - center[0], y - center[1]
    along = (cos * dx + sin * dy) / radii[0]
    aside = (cos * dy - sin * dx) / radii[1]
    return step((1.0 - np.sqrt(along * along + aside * aside)) * min(radii), 0.016)


def union(one: Field, other: Field) -> Field:
    """Two maps as one: the larger value at each pixel."""
    larger: Field = np.maximum(one, other)
    return larger


def clouds(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Field:
    """Smooth noise of about unit variance; `cells` lumps across and down, the same lumps at every picture size."""
    # Blurred on a fine grid before it is enlarged: noise enlarged from one value a lump shows the grid.
    coarse = rng.standard_normal((3 * cells, 3 * cells), dtype=np.float32)
    lumps = ndimage.gaussian_filter(coarse, 1.3, mode="wrap", truncate=3.0)
    return enlarge(lumps, shape) * 4.6


def enlarge(drawn: Field, shape: tuple[int, int]) -> Field:
    """The map at another (height, width), cubically interpolated."""
    picture = Image.fromarray(drawn).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32)
