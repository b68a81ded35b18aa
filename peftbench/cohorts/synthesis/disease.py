"""Opacities: where in the lungs they lie, how much of the field they cover, and how dense they are."""

import numpy as np
from scipy.special import ndtr

from peftbench.cohorts.synthesis.config import PhantomConfig
from peftbench.cohorts.synthesis.frame import Frame
from peftbench.cohorts.synthesis.organs import Organs
from peftbench.cohorts.synthesis.plan import ImagePlan
from peftbench.cohorts.synthesis.shapes import Field, clouds, step
from peftbench.cohorts.synthesis.streams import TEXTURE, stream

_MOST_EXTENT = 0.62
"""Share of the lung field that is opacified in the sickest patient."""


def opacity_of(config: PhantomConfig, plan: ImagePlan, frame: Frame, organs: Organs) -> tuple[Field, float]:
    """How much air the disease has displaced at each pixel (0..1), and the share of the lung field that it covers.

    A smooth score of likelihood (clouds, more at the base and the periphery) is cut at the level above which the
    wanted share of the lung field lies, so that extent is set and not left to the clouds.
    """
    field = organs.lungs * (1.0 - organs.heart) > 0.5
    wanted = _extent(plan.severity)
    score = _likelihood(config, plan, frame, organs)
    inside = score[field]
    level = float(np.quantile(inside, 1.0 - wanted))
    covered = step(score - level, 0.55)
    density = _ground_glass(config, plan, frame)
    return covered * density, float(np.mean(inside > level))


def _extent(severity: float) -> float:
    """Share of lung opacified at this severity: 0.2 in the middling patient, near 0 in the healthy, bounded."""
    return float(_MOST_EXTENT * ndtr(severity) ** 1.6)


def _likelihood(config: PhantomConfig, plan: ImagePlan, frame: Frame, organs: Organs) -> Field:
    """Where disease sits. Most of it is the patient's own and stays; a little changes from image to image."""
    own, now = stream(config, TEXTURE, plan.patient), stream(config, TEXTURE, plan.patient, plan.image)
    basal = np.clip((frame.y + 0.1) * 1.6, -1.0, 1.0)
    peripheral = np.clip(organs.across / organs.cage, 0.0, 1.0) * 2 - 1
    base_weight, rim_weight = own.uniform(0.2, 0.9), own.uniform(0.2, 0.8)
    lasting = clouds(own, frame.shape, 6) + 0.7 * clouds(own, frame.shape, 13)
    passing = 0.35 * clouds(now, frame.shape, 9)
    score: Field = lasting + passing + base_weight * basal + rim_weight * peripheral
    return score


def _ground_glass(config: PhantomConfig, plan: ImagePlan, frame: Frame) -> Field:
    """Density inside the opacities: a veil with patches and grain, thinner or thicker from patient to patient."""
    rng = stream(config, TEXTURE, plan.patient, plan.image, 1)
    veil = stream(config, TEXTURE, plan.patient, 0, 2).uniform(0.38, 0.62)
    patches = 0.13 * clouds(rng, frame.shape, 22) + 0.09 * clouds(rng, frame.shape, 60)
    return np.clip(patches + veil, 0.10, 0.90)
