"""The sum along the ray: soft tissue, air and gas, bones, vessels and wires."""

import numpy as np

from peftbench.cohorts.synthesis.anatomy import Anatomy
from peftbench.cohorts.synthesis.bones import bone_shadow
from peftbench.cohorts.synthesis.config import PhantomConfig
from peftbench.cohorts.synthesis.frame import Frame
from peftbench.cohorts.synthesis.lines import vessel_shadow, wire_shadow
from peftbench.cohorts.synthesis.organs import Organs, by_side
from peftbench.cohorts.synthesis.plan import ImagePlan
from peftbench.cohorts.synthesis.shapes import Field, bump, ellipse, step, union


def attenuation_of(
    config: PhantomConfig, plan: ImagePlan, frame: Frame, anatomy: Anatomy, organs: Organs, *, opacity: Field
) -> Field:
    """The sum along the ray; 0 is open air, 1 about the mediastinum."""
    air = organs.lungs * (1.0 - 0.80 * organs.heart) * (1.0 - opacity)
    central = bump(frame.x, 0.24) * organs.body
    soft = _soft_tissue(frame, anatomy, organs) + 0.05 * organs.heart + 0.10 * central
    bones = bone_shadow(frame, anatomy, organs)
    # Vessels show against air alone: not on the heart, and less in an opacity.
    against_air = organs.lungs * (1.0 - 0.9 * organs.heart) * (1.0 - 0.5 * opacity)
    vessels = against_air * vessel_shadow(config, plan, frame)
    gas = _airways(frame, organs) + _stomach(frame, anatomy)
    devices = wire_shadow(config, plan, frame)
    total: Field = soft - 0.60 * air + anatomy.bone * bones * organs.body + vessels - gas + devices
    return total


def _soft_tissue(frame: Frame, anatomy: Anatomy, organs: Organs) -> Field:
    """Thickness of muscle and fat: more below the diaphragm and at the shoulders, thinning towards the skin."""
    y, across = frame.y, organs.across
    rounding = np.sqrt(np.clip(1.0 - np.square(across / (anatomy.side + 0.30)), 0.0, 1.0))
    trunk = 0.50 + 0.30 * rounding
    belly = 0.14 * step(y - organs.dome - 0.05, 0.12)
    girdle = 0.16 * step(-0.28 - y, 0.25) * step(across - 0.45, 0.25)
    neck = -0.10 * step(-0.75 - y, 0.2)
    wall: Field = organs.body * anatomy.habitus * (trunk + belly + girdle + neck)
    return wall + _breasts(frame, anatomy, organs)


def _breasts(frame: Frame, anatomy: Anatomy, organs: Organs) -> Field:
    """Two veils over the lower fields that fade upwards and end in a curve below."""
    if anatomy.breasts == 0:
        return np.zeros(frame.shape, dtype=np.float32)
    dx, dy = organs.across - 0.44, frame.y - (min(anatomy.dome) - 0.19)
    reach = np.sqrt(np.square(dx / 0.30) + np.square(dy / 0.25))
    return anatomy.breasts * step(1.0 - reach, 0.10) * step(dy + 0.05, 0.25)


def _airways(frame: Frame, organs: Organs) -> Field:
    """Windpipe and the two main bronchi: dark bands in the mediastinum."""
    x, y = frame.x, frame.y
    carina = -0.24
    pipe = step(0.036 - np.abs(x + 0.006), 0.016) * step(carina - y, 0.03)
    drop = y - carina
    fork = by_side(organs.right, (0.62, 0.90))
    bronchus = step(0.024 - np.abs(organs.across - fork * drop - 0.012), 0.014)
    bronchus *= step(drop, 0.02) * step(0.15 - drop, 0.05)
    return 0.15 * union(pipe, 0.55 * bronchus)


def _stomach(frame: Frame, anatomy: Anatomy) -> Field:
    """A gas bubble under the dome on the picture's right, in some."""
    if anatomy.stomach == 0:
        return np.zeros(frame.shape, dtype=np.float32)
    center = (0.36, anatomy.dome[1] + 0.05 + anatomy.stomach)
    return 0.22 * ellipse(frame.x, frame.y, center, (1.5 * anatomy.stomach, anatomy.stomach), 0.1)
