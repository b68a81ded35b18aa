"""Who is sick, and where, when and how each image is taken; all of it decided before a pixel is drawn."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from peftbench.cohorts.synthesis.config import PhantomConfig
from peftbench.cohorts.synthesis.streams import COHORT, PATIENT, stream

_MEAN_INTERVAL_DAYS = 3.0


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """All that must be known to draw one image: a row of phantom.csv before its pixels exist."""

    patient: int
    """Index of the patient, from 0."""
    image: int
    """Index of the image within the patient, from 0, in order of acquisition."""
    patient_id: str
    image_id: str
    center: str
    view: str
    """AP or PA."""
    day: int
    """Days since admission."""
    bits: int
    """8 or 16."""
    severity: float
    """Latent severity on this day, standard normal over patients on the first."""
    icu: int
    """1: the patient has the event."""


def plan_cohort(config: PhantomConfig) -> tuple[ImagePlan, ...]:
    """Decide who is sick, where and how each image was taken; patients in order, images in order of acquisition."""
    latent = np.array([stream(config, PATIENT, patient).standard_normal() for patient in range(config.patients)])
    events = _events(config, latent)
    courses = [_course(config, patient, latent[patient]) for patient in range(config.patients)]
    wards = _wards(config, events)
    names = _pseudonyms(config, config.patients + sum(map(len, courses)))
    patient_names = [next(names) for _ in courses]
    return tuple(
        ImagePlan(
            patient=patient,
            image=image,
            patient_id=patient_names[patient],
            image_id=next(names),
            center=wards[patient].center,
            view=_other_view(wards[patient].view) if visit.switches else wards[patient].view,
            day=visit.day,
            bits=wards[patient].bits,
            severity=visit.severity,
            icu=int(events[patient]),
        )
        for patient, course in enumerate(courses)
        for image, visit in enumerate(course)
    )


class _Visit(NamedTuple):
    day: int
    severity: float
    switches: bool


class _Ward(NamedTuple):
    center: str
    view: str
    bits: int


def _events(config: PhantomConfig, latent: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Who has the event: the top of effect * z + logistic noise, so that their number is fixed."""
    noise = np.array([stream(config, PATIENT, patient, 1).logistic() for patient in range(config.patients)])
    count = min(max(round(config.prevalence * config.patients), 1), config.patients - 1)
    events = np.zeros(config.patients, dtype=np.bool_)
    events[np.argsort(config.effect * latent + noise, kind="stable")[-count:]] = True
    return events


def _course(config: PhantomConfig, patient: int, severity: float) -> list[_Visit]:
    """The patient's visits: later images lie some days on, drift a little, and change the view now and then.

    The more the view tells the outcome, the fewer change it.
    """
    rng = stream(config, PATIENT, patient, 2)
    day = 0 if rng.random() < 0.85 else int(rng.integers(1, 4))
    visits = [_Visit(day, severity, switches=False)]
    for _ in range(int(rng.integers(1, config.images_per_patient + 1)) - 1):
        day += 1 + int(rng.poisson(_MEAN_INTERVAL_DAYS - 1))
        severity += float(rng.normal(0.0, 0.15))
        visits.append(_Visit(day, severity, switches=bool(rng.random() < 0.25 * (1.0 - config.confounder))))
    return visits


def _wards(config: PhantomConfig, events: npt.NDArray[np.bool_]) -> list[_Ward]:
    """Centre, view and bit depth of each patient, dealt out like cards within each class of the outcome.

    Dealing rather than drawing keeps small cohorts usable: every centre has its share of both classes, both depths
    occur, and the association of view and outcome is `confounder` itself and not that plus chance. Its price: a
    cross-validated score of centre or view alone lies a little *below* chance, since what one fold has too much of,
    the others have too little of.
    """
    rng = stream(config, COHORT, 0)
    centers, depths = np.empty(len(events), dtype=np.int64), np.empty(len(events), dtype=np.int64)
    centers[_shuffled_by_class(rng, events)] = np.arange(len(events)) % config.centers
    depths[_shuffled_by_class(rng, events)] = np.arange(len(events)) % 2
    frontal = _ap_patients(rng, events, config.confounder)
    return [
        _Ward("ABCDEFGH"[center], "AP" if ap else "PA", 8 + 8 * int(depth))
        for center, ap, depth in zip(centers, frontal, depths, strict=True)
    ]


def _shuffled_by_class(rng: np.random.Generator, events: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    return np.concatenate([rng.permutation(np.flatnonzero(events)), rng.permutation(np.flatnonzero(~events))])


def _ap_patients(rng: np.random.Generator, events: npt.NDArray[np.bool_], confounder: float) -> npt.NDArray[np.bool_]:
    """AP are (1 + confounder) / 2 of the events and (1 - confounder) / 2 of the others: `confounder` apart."""
    ap = np.zeros(len(events), dtype=np.bool_)
    for members, share in ((events, (1 + confounder) / 2), (~events, (1 - confounder) / 2)):
        shuffled = rng.permutation(np.flatnonzero(members))
        ap[shuffled[: round(share * len(shuffled))]] = True
    return ap


def _other_view(view: str) -> str:
    return "PA" if view == "AP" else "AP"


def _pseudonyms(config: PhantomConfig, count: int) -> Iterator[str]:
    """`count` distinct ids of 8 hex digits that start with a letter, lest a spreadsheet reads a number in 12345e67."""
    drawn = stream(config, COHORT, 1).choice(6 * 16**7, size=count, replace=False)
    return (f"{int(number) + 10 * 16**7:08x}" for number in drawn)
