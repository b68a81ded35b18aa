"""A centre's machine: attenuation becomes grey, and grey the whole numbers of a file."""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from peftbench.cohorts.synthesis.config import PhantomConfig
from peftbench.cohorts.synthesis.plan import ImagePlan
from peftbench.cohorts.synthesis.shapes import Field
from peftbench.cohorts.synthesis.streams import CENTER, PIXELS, stream

_TWELVE_BITS = 4095

Pixels: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""(height, width); 8 bit, or 16 bit with values 0..4095; bright is dense."""


def develop(config: PhantomConfig, plan: ImagePlan, attenuation: Field) -> Pixels:
    """Attenuation on the final picture's pixels to what its file holds."""
    style = _film_style(config, plan.center)
    grey = _expose(stream(config, PIXELS, plan.patient, plan.image), attenuation, style, config.size, plan.view)
    _stamp_marker(grey, plan.view)
    return _quantise(grey, plan.bits)


class _Style(NamedTuple):
    """How a centre's machine turns attenuation into grey."""

    black: float
    """Attenuation shown black."""
    white: float
    """Attenuation shown white."""
    gamma: float
    noise: float
    """Standard deviation of the grain at the darkest point, in grey."""
    blur: float
    """Standard deviation of the focal spot's blur, in anatomy units."""


def _film_style(config: PhantomConfig, center: str) -> _Style:
    rng = stream(config, CENTER, ord(center) - ord("A"))
    return _Style(
        black=float(rng.uniform(-0.02, 0.06)),
        white=float(rng.uniform(1.10, 1.30)),
        gamma=float(rng.uniform(0.80, 1.25)),
        noise=float(rng.uniform(0.006, 0.016)),
        blur=float(rng.uniform(0.0015, 0.0045)),
    )


def _expose(rng: np.random.Generator, attenuation: Field, style: _Style, size: int, view: str) -> Field:
    """Attenuation to grey 0..1: blur, exposure, quantum noise (grows with what was absorbed), window and gamma."""
    bedside = view == "AP"
    sigma = style.blur * size / 2 * (1.3 if bedside else 1.0)
    blurred = ndimage.gaussian_filter(attenuation, sigma, truncate=3.0)
    exposure = rng.normal(0.0, 0.025)
    contrast = rng.normal(0.88 if bedside else 1.0, 0.03)
    grain = rng.standard_normal(blurred.shape, dtype=np.float32)
    # Quanta that arrive fall off exponentially and relative noise is the root of their inverse; the constant part is
    # electronic.
    spread = style.noise * (0.5 + 0.5 * np.exp(0.8 * blurred))
    signal = (blurred - 0.62) * contrast + 0.62 + exposure + spread * grain
    window = np.clip((signal - style.black) / (style.white - style.black), 0.0, 1.0)
    return np.asarray(np.power(window, style.gamma), dtype=np.float32)


def _stamp_marker(grey: Field, view: str) -> None:
    """A lead marker in the upper corner, in place: a bar for PA on the left, a disc for AP on the right. No text."""
    height, width = grey.shape
    unit = max(height, width) / 100
    row = np.arange(height, dtype=np.float32)[:, None]
    column = np.arange(width, dtype=np.float32)[None, :]
    if view == "PA":
        inside = (np.abs(row - 6 * unit) < 2.5 * unit) & (np.abs(column - 5 * unit) < 0.7 * unit)
    else:
        inside = np.hypot(row - 6 * unit, column - (width - 6 * unit)) < 1.6 * unit
    grey[inside] = 0.97


def _quantise(grey: Field, bits: int) -> Pixels:
    """Grey 0..1 to whole numbers. The deep pictures keep room at both ends, as those for processing do."""
    if bits == 8:
        return np.asarray(np.rint(grey * 255.0), dtype=np.uint8)
    return np.asarray(np.rint((0.03 + 0.92 * grey) * _TWELVE_BITS), dtype=np.uint16)
