"""One picture, from its plan to its pixels: the order in which the rest of this package is called."""

from typing import NamedTuple

from peftbench.cohorts.synthesis.anatomy import anatomy_of
from peftbench.cohorts.synthesis.attenuation import attenuation_of
from peftbench.cohorts.synthesis.config import PhantomConfig
from peftbench.cohorts.synthesis.disease import opacity_of
from peftbench.cohorts.synthesis.film import Pixels, develop
from peftbench.cohorts.synthesis.frame import frame_of, picture_shape
from peftbench.cohorts.synthesis.organs import organs_of
from peftbench.cohorts.synthesis.plan import ImagePlan
from peftbench.cohorts.synthesis.shapes import enlarge
from peftbench.cohorts.synthesis.streams import ANATOMY, stream


class Picture(NamedTuple):
    """A finished picture and the truth about it."""

    pixels: Pixels
    """(height, width); 8 bit, or 16 bit with values 0..4095; bright is dense."""
    opacity_extent: float
    """Share of the lung field's pixels that lie inside an opacity, 0..1."""


def render(config: PhantomConfig, plan: ImagePlan) -> Picture:
    """Draw one image; it depends on the configuration's seed and size and on its own plan alone."""
    frame = frame_of(config, plan)
    anatomy = anatomy_of(stream(config, ANATOMY, plan.patient), plan.view)
    organs = organs_of(config, plan, frame, anatomy)
    opacity, extent = opacity_of(config, plan, frame, organs)
    attenuation = attenuation_of(config, plan, frame, anatomy, organs, opacity=opacity)
    enlarged = enlarge(attenuation, picture_shape(config, plan))
    return Picture(develop(config, plan, enlarged), extent)
