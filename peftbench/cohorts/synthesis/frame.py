"""How the patient stands before the plate: the picture's pixels in anatomy coordinates, and the way back."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peftbench.cohorts.synthesis.config import PhantomConfig
from peftbench.cohorts.synthesis.plan import ImagePlan
from peftbench.cohorts.synthesis.shapes import Field, clouds
from peftbench.cohorts.synthesis.streams import ANATOMY, IMAGE, stream

_DRAWN_SHARE = 2 / 3
"""Anatomy is drawn at this share of the final size and enlarged before noise is added: its edges are soft anyway."""

_CHEST_ABOVE_CENTER = 0.06
"""How far the anatomy's origin lies below the picture's middle: little belly is shown, and little neck."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The picture's pixels in anatomy coordinates, and the way back."""

    x: Field
    """(height, width) of anatomy x at each pixel."""
    y: Field
    """(height, width) of anatomy y at each pixel."""
    forward: npt.NDArray[np.float64]
    """(2, 3): takes (x, y, 1) to (column, row), the slight bending of the body apart."""
    scale: float
    """Pixels per unit of anatomy."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.x.shape
        return height, width

    def pixels(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(n, 2) anatomy x, y to (n, 2) column, row."""
        return points @ self.forward[:, :2].T + self.forward[:, 2]


def frame_of(config: PhantomConfig, plan: ImagePlan) -> Frame:
    """How the patient stands before the plate; in AP larger and more often askew."""
    rng = stream(config, IMAGE, plan.patient, plan.image)
    habit = stream(config, ANATOMY, plan.patient, 1)
    bedside = plan.view == "AP"
    height, width = (round(length * _DRAWN_SHARE) for length in picture_shape(config, plan))
    half_height = 0.84 if bedside else 0.88
    magnification = habit.normal(1.0, 0.025) * rng.normal(1.08 if bedside else 1.0, 0.015)
    angle = math.radians(rng.normal(0.0, 2.5 if bedside else 1.0))
    shift = rng.normal(0.0, (0.05, 0.03) if bedside else (0.025, 0.02))
    scale = magnification * height / (2 * half_height)
    rotation = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    offset = np.array([width / 2, height / 2]) + scale * (shift + np.array([0.0, _CHEST_ABOVE_CENTER])) - 0.5
    return _grid(habit, (height, width), np.column_stack([rotation, offset]), scale)


def picture_shape(config: PhantomConfig, plan: ImagePlan) -> tuple[int, int]:
    """Height and width of the picture: portrait for PA, landscape for AP, which is taken in bed."""
    rng = stream(config, IMAGE, plan.patient, plan.image, 3)
    short = round(config.size * rng.uniform(0.82, 0.92))
    return (short, config.size) if plan.view == "AP" else (config.size, short)


def _grid(rng: np.random.Generator, shape: tuple[int, int], forward: npt.NDArray[np.float64], scale: float) -> Frame:
    """Invert the pose for every pixel, then bend the body: no line is straight, no side the other's mirror."""
    inverse = np.linalg.inv(forward[:, :2])
    column = np.arange(shape[1], dtype=np.float64) - forward[0, 2]
    row = np.arange(shape[0], dtype=np.float64) - forward[1, 2]
    x = inverse[0, 0] * column[None, :] + inverse[0, 1] * row[:, None]
    y = inverse[1, 0] * column[None, :] + inverse[1, 1] * row[:, None]
    bend_x, bend_y = (0.016 * clouds(rng, shape, 5) for _ in range(2))
    return Frame(x.astype(np.float32) + bend_x, y.astype(np.float32) + bend_y, forward, scale)
