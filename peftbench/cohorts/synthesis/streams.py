"""Where every random number comes from: a stream of its own for each purpose, patient and image."""

import numpy as np

from peftbench.cohorts.synthesis.config import PhantomConfig

# One number for each kind of random stream; part of every stream's key, so never renumber.
COHORT, PATIENT, IMAGE, CENTER, PIXELS, ANATOMY, TEXTURE, VESSELS = range(8)


def stream(config: PhantomConfig, *key: int) -> np.random.Generator:
    """The random stream of one purpose; streams with different keys are independent."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=key))
