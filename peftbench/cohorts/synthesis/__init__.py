"""A made-up chest radiograph cohort, written to disk as a user would have downloaded one.

The phantom exercises the whole house (prepare, extract, probe, finetune, report) with no patient data and no internet,
and it is the one cohort whose truth is known: the share of lung that is opacified drives the outcome, and by how much
is a setting. It must not know what is done with it: no manifest, no store, no task. It writes a raw folder and stops.

How a picture is made. Everything is drawn in *anatomy coordinates*: x grows towards the right edge of the picture (the
patient's left), y towards the feet, the midline is x = 0, and the chest spans about -1..1. A pose (magnification,
rotation, shift) maps the picture's pixels to these coordinates. Shapes are smooth functions of (x, y), and add up as
thicknesses do on the way of a ray:

    attenuation = body - air of the lungs * (1 - heart) * (1 - opacity) - airways + bones + vessels

A centre's film turns attenuation into grey: window, gamma, blur, quantum and electronic noise.

How the outcome is made. A patient's latent severity z is standard normal; the extent of opacity grows with z. The
events are the `round(prevalence * patients)` patients with the highest effect * z + e, e standard logistic: a logistic
model of the outcome on z with slope `effect`, conditioned on the number of events, which is known in advance.

Every random number comes from a stream of its own, keyed by (seed, what it is for, patient, image): a picture can be
drawn alone, in any order, and does not change because its neighbours do.
"""

from peftbench.cohorts.synthesis.config import DEFAULT_PHANTOM, GENERATOR_VERSION, PhantomConfig
from peftbench.cohorts.synthesis.folder import COLUMNS, PhantomFolderError, write_phantom
from peftbench.cohorts.synthesis.picture import Picture, render
from peftbench.cohorts.synthesis.plan import ImagePlan, plan_cohort

__all__ = [
    "COLUMNS",
    "DEFAULT_PHANTOM",
    "GENERATOR_VERSION",
    "ImagePlan",
    "PhantomConfig",
    "PhantomFolderError",
    "Picture",
    "plan_cohort",
    "render",
    "write_phantom",
]
