"""The bones: ribs, collar bones, shoulder blades with upper arms, and the spine."""

import math

import numpy as np

from peftbench.cohorts.synthesis.anatomy import Anatomy
from peftbench.cohorts.synthesis.frame import Frame
from peftbench.cohorts.synthesis.organs import Organs, by_side
from peftbench.cohorts.synthesis.shapes import Field, bump, ellipse, step, union


def bone_shadow(frame: Frame, anatomy: Anatomy, organs: Organs) -> Field:
    """What all bones add along the ray, for a patient of average bone density."""
    bones = _ribs(frame, anatomy, organs) + _clavicles(frame, anatomy, organs) + _shoulders(frame, anatomy, organs)
    bones += _spine(frame, anatomy)
    return bones


def _ribs(frame: Frame, anatomy: Anatomy, organs: Organs) -> Field:
    """All ribs at once, as one periodic band along a bent vertical coordinate.

    A rib leaves the spine, sinks towards the flank (posterior part, distinct), turns round and sinks further towards
    the breast bone (anterior part, faint, ending in cartilage that no X-ray shows). With w the cage's half width and
    r = |x| / w: posterior  c(r) = w * slope * (0.10 r + 0.32 r^3), anterior  c(1) + slope * (0.55 (w - |x|) +
    0.25 (w - |x|)^2); (y - c) / spacing counts the ribs, and both parts meet at r = 1.
    """
    across, cage = organs.across, organs.cage
    wide, slope = cage + 0.03, anatomy.rib_slope
    relative = np.minimum(across / wide, 1.0)
    inward = np.maximum(wide - across, 0.0)
    first = anatomy.apex + 0.02
    phase = by_side(organs.right, anatomy.rib_phase)
    back = wide * slope * relative * (0.10 + 0.32 * relative * relative)
    turn = wide * slope * 0.42
    front = turn + slope * inward * (0.55 + 0.25 * inward)
    per_rib = 1.0 / anatomy.rib_spacing
    posterior = _bands((frame.y - first - back) * per_rib + phase, 11.0, 0.21)
    anterior = _bands((frame.y - first - front) * per_rib + phase, 7.0, 0.25)
    # Towards the flank the ray runs along the rib and meets more bone.
    tangent = 0.70 + 0.9 * np.square(np.square(relative))
    posterior *= step(across - 0.05, 0.03) * tangent
    anterior *= step(across - 0.30, 0.09)
    inside = step(wide - across, 0.012) * (1.0 - 0.7 * union(step(frame.y - organs.dome, 0.03), organs.heart))
    return inside * (0.15 * posterior + 0.085 * anterior)


def _bands(count: Field, last: float, half_width: float) -> Field:
    """Bright bands around each half-number of `count` from 0 to `last`, with the denser rims that bone has."""
    offset = np.abs(count - np.floor(count) - 0.5)
    flat = step(half_width - offset, 0.05)
    rim = bump(offset - (half_width - 0.04), 0.035)
    return (0.62 * flat + 0.38 * rim) * step(count, 0.1) * step(last - count, 0.1)


def _clavicles(frame: Frame, anatomy: Anatomy, organs: Organs) -> Field:
    """Two slender S-shaped bones from the breast bone to the shoulders."""
    across = organs.across
    start = by_side(organs.right, anatomy.clavicle)
    run = (across - 0.07) / 0.70
    wave = 0.022 * np.sin(2 * math.pi * run)
    middle = start - anatomy.clavicle_rise * run + wave
    # Thick at the inner end, slender in the middle.
    half = 0.026 + 0.010 * np.square(run * 2 - 1)
    distance = half - np.abs(frame.y - middle)
    ends = step(across - 0.07, 0.015) * step(0.77 - across, 0.03)
    return ends * (0.14 * step(distance, 0.010) + 0.07 * bump(distance - 0.008, 0.007))


def _shoulders(frame: Frame, anatomy: Anatomy, organs: Organs) -> Field:
    """Shoulder blades (over the lungs in AP, turned outwards in PA) and the heads of the upper arms."""
    y, across = frame.y, organs.across
    inner = anatomy.scapula + 0.16 * np.square(y + 0.25)
    outer = (anatomy.scapula + 0.27) - 0.55 * (y + 0.45)
    edge = np.minimum(np.minimum(across - inner, outer - across), np.minimum(y + 0.66, 0.12 - y))
    blade: Field = 0.055 * step(edge, 0.014) + 0.06 * bump(edge - 0.012, 0.012)
    head = ellipse(across, y, (0.93, -0.53), (0.105, 0.115), 0.0)
    shaft = step(0.06 - np.abs(across - 1.0 - 0.12 * (y + 0.5)), 0.015)
    return blade + 0.12 * union(head, shaft * step(y + 0.5, 0.05))


def _spine(frame: Frame, anatomy: Anatomy) -> Field:
    """A column of vertebrae with discs between, their arches' rims, and a row of spinous processes."""
    x = frame.x - anatomy.sway * np.sin(2.2 * frame.y)
    height = (frame.y + 1.0) / 0.135
    within = np.abs(height - np.floor(height) - 0.5)
    waist = 0.082 + 0.012 * within
    column = step(waist - np.abs(x), 0.014)
    rims = bump(np.abs(x) - 0.075, 0.010)
    body: Field = column * (0.06 - 0.04 * bump(within - 0.5, 0.05))
    process = bump(x, 0.014) * bump(within, 0.16)
    pedicles = bump(np.abs(x) - 0.05, 0.013) * bump(within - 0.15, 0.09)
    return body + 0.03 * rims + 0.05 * process + 0.045 * pedicles
