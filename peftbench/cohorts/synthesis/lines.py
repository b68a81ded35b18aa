"""What is drawn as lines with a pen: the lungs' vessels and the monitor's wires."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from peftbench.cohorts.synthesis.config import PhantomConfig
from peftbench.cohorts.synthesis.frame import Frame
from peftbench.cohorts.synthesis.plan import ImagePlan
from peftbench.cohorts.synthesis.shapes import Field, bump
from peftbench.cohorts.synthesis.streams import IMAGE, VESSELS, stream


def vessel_shadow(config: PhantomConfig, plan: ImagePlan, frame: Frame) -> Field:
    """The lungs' vessels: trees that spread from both hila and thin out, over a soft shadow of the hila themselves."""
    rng = stream(config, VESSELS, plan.patient)
    segments = [segment for side in (-1.0, 1.0) for segment in _hilum_tree(rng, side)]
    hila = bump(np.abs(frame.x) - 0.175, 0.045) * bump(frame.y + 0.06, 0.10)
    return 0.24 * _draw(segments, frame) + 0.20 * hila


def wire_shadow(config: PhantomConfig, plan: ImagePlan, frame: Frame) -> Field:
    """Monitor leads over the chest, in two of three AP pictures, whatever the outcome."""
    rng = stream(config, IMAGE, plan.patient, plan.image, 2)
    if plan.view != "AP" or rng.random() > 2 / 3:
        return np.zeros(frame.shape, dtype=np.float32)
    segments = [segment for _ in range(int(rng.integers(1, 4))) for segment in _wire(rng)]
    return 0.30 * _draw(segments, frame)


class _Segment(NamedTuple):
    start: tuple[float, float]
    end: tuple[float, float]
    width: float
    density: float


def _hilum_tree(rng: np.random.Generator, side: float) -> Iterator[_Segment]:
    """Trunks fan out from straight up to straight down, away from the midline; the lower ones are stronger."""
    for heading in np.linspace(-1.25, 1.35, 9).tolist():
        root = (side * float(rng.normal(0.155, 0.012)), float(rng.normal(-0.06 + 0.06 * heading, 0.015)))
        thickness = 0.020 + 0.006 * heading
        outwards = heading + float(rng.normal(0.0, 0.12))
        yield from _branch(rng, root, outwards, side=side, width=thickness, depth=5)


def _branch(
    rng: np.random.Generator, start: tuple[float, float], heading: float, *, side: float, width: float, depth: int
) -> Iterator[_Segment]:
    """One segment and, recursively, the two it forks into. `heading`: radians below the horizontal, outwards."""
    length = float(rng.uniform(0.07, 0.13)) * (0.7 + 0.07 * depth)
    end = (start[0] + side * length * math.cos(heading), start[1] + length * math.sin(heading))
    yield _Segment(start, end, width, min(1.0, 0.30 + 30 * width))
    if depth > 1:
        for turn in (float(rng.normal(-0.30, 0.15)), float(rng.normal(0.30, 0.15))):
            yield from _branch(rng, end, heading + turn, side=side, width=0.70 * width, depth=depth - 1)


def _wire(rng: np.random.Generator) -> list[_Segment]:
    """One lead: a slack curve from the picture's edge to an electrode."""
    start = np.array([rng.uniform(-1.0, 1.0), rng.choice([-1.1, 1.1])])
    end = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.45, 0.45)])
    slack = (start + end) / 2 + rng.normal(0.0, 0.25, size=2)
    along = np.linspace(0.0, 1.0, 25)[:, None]
    curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * slack + along**2 * end
    points = [(float(x), float(y)) for x, y in curve]
    lead = [_Segment(a, b, 0.010, 0.75) for a, b in pairwise(points)]
    x, y = points[-1]
    return [*lead, _Segment((x - 0.018, y), (x + 0.018, y), 0.036, 1.0)]


def _draw(segments: list[_Segment], frame: Frame) -> Field:
    """Lines as a map 0..1. Thinner than a pixel: drawn one pixel wide and paler, so that sizes agree."""
    canvas = Image.new("L", (frame.shape[1], frame.shape[0]))
    pen = ImageDraw.Draw(canvas)
    ends = frame.pixels(np.array([point for segment in segments for point in (segment.start, segment.end)]))
    # Faint ones first: a line overwrites what it crosses.
    for number in np.argsort([segment.density for segment in segments], kind="stable"):
        width = segments[number].width * frame.scale
        ink = round(255 * segments[number].density * min(width, 1.0))
        pen.line([tuple(ends[2 * number]), tuple(ends[2 * number + 1])], fill=ink, width=max(1, round(width)))
    drawn = np.asarray(canvas, dtype=np.float32) / 255
    return np.asarray(ndimage.gaussian_filter(drawn, 0.0045 * frame.scale, truncate=3.0), dtype=np.float32)
