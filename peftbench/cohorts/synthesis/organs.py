"""Body, lungs and heart as soft-edged maps; where they lie decides what else is drawn where."""

from dataclasses import dataclass

import numpy as np

from peftbench.cohorts.synthesis.anatomy import Anatomy
from peftbench.cohorts.synthesis.config import PhantomConfig
from peftbench.cohorts.synthesis.frame import Frame
from peftbench.cohorts.synthesis.plan import ImagePlan
from peftbench.cohorts.synthesis.shapes import Field, bump, ellipse, step, union
from peftbench.cohorts.synthesis.streams import IMAGE, stream


@dataclass(frozen=True, slots=True)
class Organs:
    """Soft-edged maps, 0 outside and 1 inside, on the picture's pixels."""

    across: Field
    """|x|, used by all that is about the same on both sides."""
    right: Field
    """1 on the picture's right side, 0 on its left."""
    body: Field
    lungs: Field
    heart: Field
    cage: Field
    """Half width of the rib cage at each pixel's height."""
    dome: Field
    """y of the diaphragm at each pixel's |x|."""


def organs_of(config: PhantomConfig, plan: ImagePlan, frame: Frame, anatomy: Anatomy) -> Organs:
    """Lay out one patient's organs; how deep the breath was changes from image to image."""
    breath = float(stream(config, IMAGE, plan.patient, plan.image, 1).normal(0.0, 0.02))
    across, right = np.abs(frame.x), (frame.x > 0).astype(np.float32)
    top = by_side(right, anatomy.dome) + breath
    summit = 0.52 * anatomy.lung_half_width
    dome: Field = top + 1.75 * np.square(across - summit)
    cage = _cage(frame.y, anatomy)
    return Organs(
        across=across,
        right=right,
        body=_body(frame.y, across, anatomy),
        lungs=_lungs(frame.y, across, cage, dome, anatomy),
        heart=_heart(frame, anatomy, right),
        cage=cage,
        dome=dome,
    )


def by_side(right: Field, values: tuple[float, float]) -> Field:
    """The first value on the picture's left, the second on its right."""
    return right * (values[1] - values[0]) + values[0]


def _body(y: Field, across: Field, anatomy: Anatomy) -> Field:
    """Neck, sloping shoulders with the upper arms, flanks."""
    slope = np.maximum(across - 0.2, 0.0)
    shoulder = -0.93 + 0.42 * slope + 0.25 * slope * slope
    below_shoulder = step(y - shoulder, 0.02)
    neck = step((0.23 + 0.03 * anatomy.habitus) - across, 0.02)
    arms = 0.6 * step(-0.22 - y, 0.18)
    flank = step(anatomy.side + arms - across, 0.02)
    return union(below_shoulder, neck) * flank


def _cage(y: Field, anatomy: Anatomy) -> Field:
    """Half width of the rib cage: narrow at the top, widest above the diaphragm."""
    widening = step(y - (anatomy.apex + 0.26), 0.60)
    return anatomy.lung_half_width * (0.56 + 0.44 * widening)


def _lungs(y: Field, across: Field, cage: Field, dome: Field, anatomy: Anatomy) -> Field:
    """The two air-filled fields, with blurred outer borders (the wall curves away) and crisp domes."""
    rounding = np.sqrt(np.clip((y - anatomy.apex) / 0.30, 0.0, 1.0))
    outer = step(cage * rounding - across, 0.045)
    inner = step(across - (0.55 * anatomy.mediastinum), 0.05)
    above = step(dome - y, 0.014)
    # Lung also lies behind the dome, deeper into the back: a faint shade below the line.
    behind = 0.16 * step(dome + 0.09 - y, 0.09)
    return outer * inner * union(above, behind)


def _heart(frame: Frame, anatomy: Anatomy, right: Field) -> Field:
    """Great vessels and heart; the left ventricle reaches far to the picture's right."""
    x, y = frame.x, frame.y
    floor = max(anatomy.dome)
    size = anatomy.heart
    # The great vessels bulge the upper mediastinum: arch and pulmonary trunk on one side, caval vein on the other.
    bulge = anatomy.knob * bump(y + 0.33, 0.065)
    bulge += 0.040 * bump(y + 0.14, 0.085)
    vein = 0.022 * bump(y + 0.30, 0.16)
    upper = step(anatomy.mediastinum + vein + right * (bulge - vein) - np.abs(x), 0.018)
    ventricle = ellipse(x, y, (0.105 * size, floor - 0.185), (0.35 * size, 0.235 * size), 0.55)
    atrium = ellipse(x, y, (-0.06, floor - 0.20), (0.145 * size, 0.235), -0.1)
    outflow = ellipse(x, y, (0.075, floor - 0.36), (0.13 * size, 0.16), -0.35)
    # Sharp where they meet lung, yet one shadow where they meet each other.
    shadow: Field = 1.0 - (1.0 - upper) * (1.0 - ventricle) * (1.0 - atrium) * (1.0 - outflow)
    return shadow
