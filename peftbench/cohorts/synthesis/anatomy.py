"""One patient's measures: the lengths and densities from which all organs and bones are drawn."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One patient's chest as seen in one view; lengths in anatomy units."""

    lung_half_width: float
    apex: float
    """y of the top of the lungs."""
    dome: tuple[float, float]
    """y of the top of the diaphragm, on the picture's left and right."""
    mediastinum: float
    """Half width of the upper mediastinum."""
    heart: float
    """Size of the heart, 1 on average in PA."""
    knob: float
    """Size of the aortic arch's bulge."""
    habitus: float
    """Thickness of the chest wall, 1 on average."""
    side: float
    """x of the flank."""
    breasts: float
    """Thickness of the breast shadows, 0 for none."""
    rib_spacing: float
    rib_phase: tuple[float, float]
    """Where the ribs begin, in spacings, on the picture's left and right."""
    rib_slope: float
    bone: float
    """Density of bone, 1 on average."""
    clavicle: tuple[float, float]
    """y of the inner end of the collar bones, left and right."""
    clavicle_rise: float
    """How far the outer end of the collar bone lies above the inner."""
    scapula: float
    """x of the shoulder blade's inner border."""
    sway: float
    """Sideways bend of the spine."""
    stomach: float
    """Size of the gas bubble under the left dome, 0 for none."""


def anatomy_of(rng: np.random.Generator, view: str) -> Anatomy:
    """Draw a patient. The draws do not depend on the view, so that both views of one patient show the same patient."""
    draw = rng.standard_normal(18).tolist()
    female, bubble = rng.random(2).tolist()
    bedside = view == "AP"
    dome = 0.36 + 0.045 * draw[0] - (0.05 if bedside else 0.0)
    clavicle = -0.53 + 0.02 * draw[1] - (0.05 if bedside else 0.0)
    return Anatomy(
        lung_half_width=0.655 + 0.025 * draw[2],
        apex=-0.74 + 0.025 * draw[3],
        dome=(dome, dome + 0.055 + 0.02 * draw[4]),
        mediastinum=(0.135 if bedside else 0.115) + 0.012 * draw[5],
        heart=(1.18 if bedside else 1.0) * float(np.clip(1.0 + 0.08 * draw[6], 0.8, 1.25)),
        knob=float(np.clip(0.055 + 0.012 * draw[7], 0.03, 0.09)),
        habitus=float(np.clip(1.0 + 0.12 * draw[8], 0.75, 1.35)),
        side=0.83 + 0.03 * draw[8],
        breasts=float(0.05 + 0.04 * abs(draw[9])) if female < 0.5 else 0.0,
        rib_spacing=0.128 + 0.006 * draw[10],
        rib_phase=(0.06 * draw[11], 0.06 * draw[12]),
        rib_slope=float(np.clip(1.0 + 0.15 * draw[13], 0.6, 1.4)) * (0.9 if bedside else 1.1),
        bone=float(np.clip(1.0 + 0.15 * draw[14], 0.6, 1.4)),
        clavicle=(clavicle + 0.012 * draw[15], clavicle - 0.012 * draw[15]),
        clavicle_rise=(0.06 if bedside else 0.12) + 0.02 * draw[15],
        scapula=(0.50 if bedside else 0.68) + 0.02 * draw[16],
        sway=0.012 * draw[17],
        stomach=0.05 + 0.08 * (bubble - 0.4) if bubble > 0.4 else 0.0,
    )
