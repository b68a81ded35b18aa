"""What the phantom can be asked to be like; it must not know how any of it is brought about."""

from typing import Annotated

import pydantic

GENERATOR_VERSION = 1
"""Raise it whenever a configuration would give other bytes: folders written before are then refused, not reused."""


class PhantomConfig(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What the phantom cohort is like; its canonical JSON is the cohort's identity."""

    patients: Annotated[int, pydantic.Field(ge=6, le=1_000_000)] = 120
    """Number of patients."""
    centers: Annotated[int, pydantic.Field(ge=1, le=8)] = 3
    """Number of centres, named A, B, ...; each gets its share of the events and of the others."""
    images_per_patient: Annotated[int, pydantic.Field(ge=1, le=64)] = 3
    """Most images of one patient; each patient has 1 to this many, all numbers equally likely."""
    prevalence: Annotated[float, pydantic.Field(ge=0.05, le=0.95)] = 0.4
    """Share of patients with the event; at least one patient has it and at least one has not."""
    effect: Annotated[float, pydantic.Field(ge=0.0, le=100.0)] = 5.0
    """Log odds of the event per standard deviation of latent severity; 0: the pictures do not tell the outcome."""
    confounder: Annotated[float, pydantic.Field(ge=0.0, le=1.0)] = 0.0
    """0: the view is independent of the outcome; 1: every event is AP and every other patient PA."""
    size: Annotated[int, pydantic.Field(ge=64, le=4096)] = 512
    """Long side of the pictures in pixels."""
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)] = 0
    """Seed of everything."""


DEFAULT_PHANTOM = PhantomConfig()
