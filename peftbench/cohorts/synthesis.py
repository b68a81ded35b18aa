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

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pandas as pd
import pydantic
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.special import ndtr

from peftbench.errors import PeftbenchError

GENERATOR_VERSION = 1
"""Raise it whenever a configuration would give other bytes: folders written before are then refused, not reused."""

COLUMNS = ("patient_id", "image_id", "center", "view", "day", "bits", "opacity_extent", "icu")
"""The columns of phantom.csv, in order; one row an image."""

_MOST_EXTENT = 0.62
"""Share of the lung field that is opacified in the sickest patient."""

_MEAN_INTERVAL_DAYS = 3.0
_TWELVE_BITS = 4095

_DRAWN_SHARE = 2 / 3
"""Anatomy is drawn at this share of the final size and enlarged before noise is added: its edges are soft anyway."""

_CHEST_ABOVE_CENTER = 0.06
"""How far the anatomy's origin lies below the picture's middle: little belly is shown, and little neck."""

# One number for each kind of random stream; part of every stream's key, so never renumber.
_COHORT, _PATIENT, _IMAGE, _CENTER, _PIXELS, _ANATOMY, _TEXTURE, _VESSELS = range(8)

Field: TypeAlias = npt.NDArray[np.floating]
"""A picture-sized map, (height, width), in single precision throughout: Python numbers do not widen it."""


class PhantomFolderError(PeftbenchError, ValueError):
    """The folder asked for holds something other than the phantom asked for."""


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


# ---------------------------------------------------------------- the folder


def write_phantom(folder: Path, config: PhantomConfig = DEFAULT_PHANTOM) -> Path:
    """Write the cohort to `folder` and return it; a folder that already holds this very cohort is left as it is.

    Writes `phantom.csv` (COLUMNS), `images/<image_id>.png` (8 bit: mode L; 16 bit: mode I;16, values 0..4095) and
    `phantom.json` (generator, version, resolved configuration). The same configuration gives the same bytes, as long
    as numpy, scipy and Pillow are the same.

    The folder appears by one rename of a finished sibling, so a run cut short leaves no folder of this name; killed
    outright, it may leave `.<name>.<random>.partial` beside it, which nobody reads. Nothing is flushed to the disk by
    force: a power cut right after the rename may still lose data.

    Raises:
        PhantomFolderError: `folder` exists and holds anything but this cohort, whole.
    """
    if _holds_anything(folder):
        _require_same(folder, config)
        return folder
    place = folder.resolve()
    partial = place.with_name(f".{place.name}.{uuid4().hex}.partial")
    try:
        _write_into(partial, config)
        _publish(partial, place, config)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _holds_anything(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _publish(partial: Path, folder: Path, config: PhantomConfig) -> None:
    """Rename the finished folder into place; a rival that finished the same cohort first has won, which is as good."""
    try:
        partial.rename(folder)
    except OSError:
        if not _holds_anything(folder):
            raise
        _require_same(folder, config)


def _write_into(folder: Path, config: PhantomConfig) -> None:
    images = folder / "images"
    images.mkdir(parents=True)
    rows = []
    for plan in plan_cohort(config):
        picture = render(config, plan)
        _save_picture(picture, images / f"{plan.image_id}.png")
        rows.append(_csv_row(plan, picture))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.to_csv(folder / "phantom.csv", index=False, lineterminator="\n")
    (folder / "phantom.json").write_text(_identity(config), encoding="utf-8", newline="\n")


def _identity(config: PhantomConfig) -> str:
    record = {"generator": "phantom", "version": GENERATOR_VERSION, "config": config.model_dump(mode="json")}
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


def _require_same(folder: Path, config: PhantomConfig) -> None:
    found = _describe_difference(folder, config)
    if found:
        expected = f"a whole phantom cohort of version {GENERATOR_VERSION} with the configuration"
        raise PhantomFolderError(
            f"{folder} {found}, but {expected} {config.model_dump_json()} was expected there; "
            "choose another folder, or move this one away and run again."
        )


def _describe_difference(folder: Path, config: PhantomConfig) -> str:
    """What `folder` holds instead of this cohort, as a verb phrase; empty if it holds this cohort."""
    record = folder / "phantom.json"
    if not folder.is_dir():
        return "is a file"
    if not record.is_file():
        return "holds files but no phantom.json"
    found = record.read_text(encoding="utf-8", errors="replace")
    if found != _identity(config):
        return f"holds a phantom.json that says {' '.join(found.split())[:400]}"
    missing = [name for name in _expected_files(config) if not (folder / name).is_file()]
    return f"lacks {len(missing)} of its files ({missing[0]} for one)" if missing else ""


def _expected_files(config: PhantomConfig) -> Iterator[str]:
    yield "phantom.csv"
    yield from (f"images/{plan.image_id}.png" for plan in plan_cohort(config))


def _save_picture(picture: "Picture", path: Path) -> None:
    # Level 1: noise does not compress, higher levels cost more time than drawing the picture.
    Image.fromarray(picture.pixels).save(path, compress_level=1)


def _csv_row(plan: "ImagePlan", picture: "Picture") -> tuple[str | int | float, ...]:
    extent = round(picture.opacity_extent, 5)
    return plan.patient_id, plan.image_id, plan.center, plan.view, plan.day, plan.bits, extent, plan.icu


# ---------------------------------------------------------------- the cohort


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
    latent = np.array([_stream(config, _PATIENT, patient).standard_normal() for patient in range(config.patients)])
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


def _stream(config: PhantomConfig, *key: int) -> np.random.Generator:
    """The random stream of one purpose; streams with different keys are independent."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=key))


def _events(config: PhantomConfig, latent: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Who has the event: the top of effect * z + logistic noise, so that their number is fixed."""
    noise = np.array([_stream(config, _PATIENT, patient, 1).logistic() for patient in range(config.patients)])
    count = min(max(round(config.prevalence * config.patients), 1), config.patients - 1)
    events = np.zeros(config.patients, dtype=np.bool_)
    events[np.argsort(config.effect * latent + noise, kind="stable")[-count:]] = True
    return events


def _course(config: PhantomConfig, patient: int, severity: float) -> list[_Visit]:
    """The patient's visits: later images lie some days on, drift a little, and change the view now and then.

    The more the view tells the outcome, the fewer change it.
    """
    rng = _stream(config, _PATIENT, patient, 2)
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
    rng = _stream(config, _COHORT, 0)
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
    drawn = _stream(config, _COHORT, 1).choice(6 * 16**7, size=count, replace=False)
    return (f"{int(number) + 10 * 16**7:08x}" for number in drawn)


# ---------------------------------------------------------------- one picture


class Picture(NamedTuple):
    """A finished picture and the truth about it."""

    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    """(height, width); 8 bit, or 16 bit with values 0..4095; bright is dense."""
    opacity_extent: float
    """Share of the lung field's pixels that lie inside an opacity, 0..1."""


def render(config: PhantomConfig, plan: ImagePlan) -> Picture:
    """Draw one image; it depends on the configuration's seed and size and on its own plan alone."""
    frame = _frame(config, plan)
    anatomy = _anatomy(_stream(config, _ANATOMY, plan.patient), plan.view)
    organs = _organs(config, plan, frame, anatomy)
    opacity, extent = _opacity(config, plan, frame, organs)
    attenuation = _attenuation(config, plan, frame, anatomy, organs, opacity=opacity)
    attenuation = _enlarge(attenuation, _shape(config, plan))
    style = _film_style(config, plan.center)
    grey = _expose(_stream(config, _PIXELS, plan.patient, plan.image), attenuation, style, config.size, plan.view)
    _stamp_marker(grey, plan.view)
    return Picture(_quantise(grey, plan.bits), extent)


def _shape(config: PhantomConfig, plan: ImagePlan) -> tuple[int, int]:
    """Height and width of the picture: portrait for PA, landscape for AP, which is taken in bed."""
    rng = _stream(config, _IMAGE, plan.patient, plan.image, 3)
    short = round(config.size * rng.uniform(0.82, 0.92))
    return (short, config.size) if plan.view == "AP" else (config.size, short)


def _enlarge(drawn: Field, shape: tuple[int, int]) -> Field:
    picture = Image.fromarray(drawn).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32)


def _quantise(grey: Field, bits: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Grey 0..1 to whole numbers. The deep pictures keep room at both ends, as those for processing do."""
    if bits == 8:
        return np.asarray(np.rint(grey * 255.0), dtype=np.uint8)
    return np.asarray(np.rint((0.03 + 0.92 * grey) * _TWELVE_BITS), dtype=np.uint16)


@dataclass(frozen=True, slots=True)
class _Frame:
    """The picture's pixels in anatomy coordinates, and the way back."""

    x: Field
    """(height, width) of anatomy x at each pixel."""
    y: Field
    """(height, width) of anatomy y at each pixel."""
    forward: npt.NDArray[np.float64]
    """(2, 3): takes (x, y, 1) to (column, row), the slight bending of the body apart."""
    scale: float
    """Pixels per unit of anatomy."""

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.x.shape
        return height, width

    def pixels(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(n, 2) anatomy x, y to (n, 2) column, row."""
        return points @ self.forward[:, :2].T + self.forward[:, 2]


def _frame(config: PhantomConfig, plan: ImagePlan) -> _Frame:
    """How the patient stands before the plate; in AP larger and more often askew."""
    rng = _stream(config, _IMAGE, plan.patient, plan.image)
    habit = _stream(config, _ANATOMY, plan.patient, 1)
    bedside = plan.view == "AP"
    height, width = (round(length * _DRAWN_SHARE) for length in _shape(config, plan))
    half_height = 0.84 if bedside else 0.88
    magnification = habit.normal(1.0, 0.025) * rng.normal(1.08 if bedside else 1.0, 0.015)
    angle = math.radians(rng.normal(0.0, 2.5 if bedside else 1.0))
    shift = rng.normal(0.0, (0.05, 0.03) if bedside else (0.025, 0.02))
    scale = magnification * height / (2 * half_height)
    rotation = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    offset = np.array([width / 2, height / 2]) + scale * (shift + np.array([0.0, _CHEST_ABOVE_CENTER])) - 0.5
    return _grid(habit, (height, width), np.column_stack([rotation, offset]), scale)


def _grid(rng: np.random.Generator, shape: tuple[int, int], forward: npt.NDArray[np.float64], scale: float) -> _Frame:
    """Invert the pose for every pixel, then bend the body: no line is straight, no side the other's mirror."""
    inverse = np.linalg.inv(forward[:, :2])
    column = np.arange(shape[1], dtype=np.float64) - forward[0, 2]
    row = np.arange(shape[0], dtype=np.float64) - forward[1, 2]
    x = inverse[0, 0] * column[None, :] + inverse[0, 1] * row[:, None]
    y = inverse[1, 0] * column[None, :] + inverse[1, 1] * row[:, None]
    bend_x, bend_y = (0.016 * _clouds(rng, shape, 5) for _ in range(2))
    return _Frame(x.astype(np.float32) + bend_x, y.astype(np.float32) + bend_y, forward, scale)


def _clouds(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Field:
    """Smooth noise of about unit variance; `cells` lumps across and down, the same lumps at every picture size."""
    # Blurred on a fine grid before it is enlarged: noise enlarged from one value a lump shows the grid.
    coarse = rng.standard_normal((3 * cells, 3 * cells), dtype=np.float32)
    lumps = ndimage.gaussian_filter(coarse, 1.3, mode="wrap", truncate=3.0)
    return _enlarge(lumps, shape) * 4.6


def _step(distance: Field, width: float) -> Field:
    """0 where distance < -width, 1 where > width, a smooth ramp between: the edge of what ends at distance 0."""
    ramp = distance * (0.5 / width)
    ramp += 0.5
    # In place throughout: half the time of a picture is spent here.
    np.clip(ramp, 0.0, 1.0, out=ramp)
    cubic = ramp * ramp
    ramp *= -2.0
    ramp += 3.0
    cubic *= ramp
    return cubic


def _bump(distance: Field, width: float) -> Field:
    """A bell of height 1 at distance 0; `width` is its standard deviation."""
    return np.exp(np.square(distance) * (-0.5 / width**2))


# ---------------------------------------------------------------- anatomy


@dataclass(frozen=True, slots=True)
class _Anatomy:
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


def _anatomy(rng: np.random.Generator, view: str) -> _Anatomy:
    """Draw a patient. The draws do not depend on the view, so that both views of one patient show the same patient."""
    draw = rng.standard_normal(18).tolist()
    female, bubble = rng.random(2).tolist()
    bedside = view == "AP"
    dome = 0.36 + 0.045 * draw[0] - (0.05 if bedside else 0.0)
    clavicle = -0.53 + 0.02 * draw[1] - (0.05 if bedside else 0.0)
    return _Anatomy(
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


@dataclass(frozen=True, slots=True)
class _Organs:
    """Soft-edged maps, 0 outside and 1 inside, on the picture's pixels."""

    across: Field
    """|x|, used by all that is about the same on both sides."""
    right: Field
    """1 on the picture's right side, 0 on its left."""
    body: Field
    lungs: Field
    heart: Field
    cage: Field
    """Half width of the rib cage at each pixel's height."""
    dome: Field
    """y of the diaphragm at each pixel's |x|."""


def _organs(config: PhantomConfig, plan: ImagePlan, frame: _Frame, anatomy: _Anatomy) -> _Organs:
    breath = float(_stream(config, _IMAGE, plan.patient, plan.image, 1).normal(0.0, 0.02))
    across, right = np.abs(frame.x), (frame.x > 0).astype(np.float32)
    top = _by_side(right, anatomy.dome) + breath
    summit = 0.52 * anatomy.lung_half_width
    dome: Field = top + 1.75 * np.square(across - summit)
    cage = _cage(frame.y, anatomy)
    return _Organs(
        across=across,
        right=right,
        body=_body(frame.y, across, anatomy),
        lungs=_lungs(frame.y, across, cage, dome, anatomy),
        heart=_heart(frame, anatomy, right),
        cage=cage,
        dome=dome,
    )


def _by_side(right: Field, values: tuple[float, float]) -> Field:
    """The first value on the picture's left, the second on its right."""
    return right * (values[1] - values[0]) + values[0]


def _body(y: Field, across: Field, anatomy: _Anatomy) -> Field:
    """Neck, sloping shoulders with the upper arms, flanks."""
    slope = np.maximum(across - 0.2, 0.0)
    shoulder = -0.93 + 0.42 * slope + 0.25 * slope * slope
    below_shoulder = _step(y - shoulder, 0.02)
    neck = _step((0.23 + 0.03 * anatomy.habitus) - across, 0.02)
    arms = 0.6 * _step(-0.22 - y, 0.18)
    flank = _step(anatomy.side + arms - across, 0.02)
    return _union(below_shoulder, neck) * flank


def _cage(y: Field, anatomy: _Anatomy) -> Field:
    """Half width of the rib cage: narrow at the top, widest above the diaphragm."""
    widening = _step(y - (anatomy.apex + 0.26), 0.60)
    return anatomy.lung_half_width * (0.56 + 0.44 * widening)


def _lungs(y: Field, across: Field, cage: Field, dome: Field, anatomy: _Anatomy) -> Field:
    """The two air-filled fields, with blurred outer borders (the wall curves away) and crisp domes."""
    rounding = np.sqrt(np.clip((y - anatomy.apex) / 0.30, 0.0, 1.0))
    outer = _step(cage * rounding - across, 0.045)
    inner = _step(across - (0.55 * anatomy.mediastinum), 0.05)
    above = _step(dome - y, 0.014)
    # Lung also lies behind the dome, deeper into the back: a faint shade below the line.
    behind = 0.16 * _step(dome + 0.09 - y, 0.09)
    return outer * inner * _union(above, behind)


def _heart(frame: _Frame, anatomy: _Anatomy, right: Field) -> Field:
    """Great vessels and heart; the left ventricle reaches far to the picture's right."""
    x, y = frame.x, frame.y
    floor = max(anatomy.dome)
    size = anatomy.heart
    # The great vessels bulge the upper mediastinum: arch and pulmonary trunk on one side, caval vein on the other.
    bulge = anatomy.knob * _bump(y + 0.33, 0.065)
    bulge += 0.040 * _bump(y + 0.14, 0.085)
    vein = 0.022 * _bump(y + 0.30, 0.16)
    upper = _step(anatomy.mediastinum + vein + right * (bulge - vein) - np.abs(x), 0.018)
    ventricle = _ellipse(x, y, (0.105 * size, floor - 0.185), (0.35 * size, 0.235 * size), 0.55)
    atrium = _ellipse(x, y, (-0.06, floor - 0.20), (0.145 * size, 0.235), -0.1)
    outflow = _ellipse(x, y, (0.075, floor - 0.36), (0.13 * size, 0.16), -0.35)
    # Sharp where they meet lung, yet one shadow where they meet each other.
    shadow: Field = 1.0 - (1.0 - upper) * (1.0 - ventricle) * (1.0 - atrium) * (1.0 - outflow)
    return shadow


def _union(one: Field, other: Field) -> Field:
    """Two maps as one: the larger value at each pixel."""
    larger: Field = np.maximum(one, other)
    return larger


def _ellipse(x: Field, y: Field, center: tuple[float, float], radii: tuple[float, float], angle: float) -> Field:
    """A soft-edged ellipse, turned by `angle` (radians, clockwise on the picture)."""
    cos, sin = math.cos(angle), math.sin(angle)
    dx, dy = x - center[0], y - center[1]
    along = (cos * dx + sin * dy) / radii[0]
    aside = (cos * dy - sin * dx) / radii[1]
    return _step((1.0 - np.sqrt(along * along + aside * aside)) * min(radii), 0.016)


# ---------------------------------------------------------------- what is summed along the ray


def _attenuation(
    config: PhantomConfig, plan: ImagePlan, frame: _Frame, anatomy: _Anatomy, organs: _Organs, *, opacity: Field
) -> Field:
    """The sum along the ray; 0 is open air, 1 about the mediastinum."""
    air = organs.lungs * (1.0 - 0.80 * organs.heart) * (1.0 - opacity)
    central = _bump(frame.x, 0.24) * organs.body
    soft = _soft_tissue(frame, anatomy, organs) + 0.05 * organs.heart + 0.10 * central
    bones = _ribs(frame, anatomy, organs) + _clavicles(frame, anatomy, organs) + _shoulders(frame, anatomy, organs)
    bones += _spine(frame, anatomy)
    # Vessels show against air alone: not on the heart, and less in an opacity.
    against_air = organs.lungs * (1.0 - 0.9 * organs.heart) * (1.0 - 0.5 * opacity)
    vessels = against_air * _vessels(_stream(config, _VESSELS, plan.patient), frame)
    gas = _airways(frame, organs) + _stomach(frame, anatomy)
    devices = _wires(config, plan, frame)
    total: Field = soft - 0.60 * air + anatomy.bone * bones * organs.body + vessels - gas + devices
    return total


def _soft_tissue(frame: _Frame, anatomy: _Anatomy, organs: _Organs) -> Field:
    """Thickness of muscle and fat: more below the diaphragm and at the shoulders, thinning towards the skin."""
    y, across = frame.y, organs.across
    rounding = np.sqrt(np.clip(1.0 - np.square(across / (anatomy.side + 0.30)), 0.0, 1.0))
    trunk = 0.50 + 0.30 * rounding
    belly = 0.14 * _step(y - organs.dome - 0.05, 0.12)
    girdle = 0.16 * _step(-0.28 - y, 0.25) * _step(across - 0.45, 0.25)
    neck = -0.10 * _step(-0.75 - y, 0.2)
    wall: Field = organs.body * anatomy.habitus * (trunk + belly + girdle + neck)
    return wall + _breasts(frame, anatomy, organs)


def _breasts(frame: _Frame, anatomy: _Anatomy, organs: _Organs) -> Field:
    """Two veils over the lower fields that fade upwards and end in a curve below."""
    if anatomy.breasts == 0:
        return np.zeros(frame.shape, dtype=np.float32)
    dx, dy = organs.across - 0.44, frame.y - (min(anatomy.dome) - 0.19)
    reach = np.sqrt(np.square(dx / 0.30) + np.square(dy / 0.25))
    return anatomy.breasts * _step(1.0 - reach, 0.10) * _step(dy + 0.05, 0.25)


def _ribs(frame: _Frame, anatomy: _Anatomy, organs: _Organs) -> Field:
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
    phase = _by_side(organs.right, anatomy.rib_phase)
    back = wide * slope * relative * (0.10 + 0.32 * relative * relative)
    turn = wide * slope * 0.42
    front = turn + slope * inward * (0.55 + 0.25 * inward)
    per_rib = 1.0 / anatomy.rib_spacing
    posterior = _bands((frame.y - first - back) * per_rib + phase, 11.0, 0.21)
    anterior = _bands((frame.y - first - front) * per_rib + phase, 7.0, 0.25)
    # Towards the flank the ray runs along the rib and meets more bone.
    tangent = 0.70 + 0.9 * np.square(np.square(relative))
    posterior *= _step(across - 0.05, 0.03) * tangent
    anterior *= _step(across - 0.30, 0.09)
    inside = _step(wide - across, 0.012) * (1.0 - 0.7 * _union(_step(frame.y - organs.dome, 0.03), organs.heart))
    return inside * (0.15 * posterior + 0.085 * anterior)


def _bands(count: Field, last: float, half_width: float) -> Field:
    """Bright bands around each half-number of `count` from 0 to `last`, with the denser rims that bone has."""
    offset = np.abs(count - np.floor(count) - 0.5)
    flat = _step(half_width - offset, 0.05)
    rim = _bump(offset - (half_width - 0.04), 0.035)
    return (0.62 * flat + 0.38 * rim) * _step(count, 0.1) * _step(last - count, 0.1)


def _clavicles(frame: _Frame, anatomy: _Anatomy, organs: _Organs) -> Field:
    """Two slender S-shaped bones from the breast bone to the shoulders."""
    across = organs.across
    start = _by_side(organs.right, anatomy.clavicle)
    run = (across - 0.07) / 0.70
    wave = 0.022 * np.sin(2 * math.pi * run)
    middle = start - anatomy.clavicle_rise * run + wave
    # Thick at the inner end, slender in the middle.
    half = 0.026 + 0.010 * np.square(run * 2 - 1)
    distance = half - np.abs(frame.y - middle)
    ends = _step(across - 0.07, 0.015) * _step(0.77 - across, 0.03)
    return ends * (0.14 * _step(distance, 0.010) + 0.07 * _bump(distance - 0.008, 0.007))


def _shoulders(frame: _Frame, anatomy: _Anatomy, organs: _Organs) -> Field:
    """Shoulder blades (over the lungs in AP, turned outwards in PA) and the heads of the upper arms."""
    y, across = frame.y, organs.across
    inner = anatomy.scapula + 0.16 * np.square(y + 0.25)
    outer = (anatomy.scapula + 0.27) - 0.55 * (y + 0.45)
    edge = np.minimum(np.minimum(across - inner, outer - across), np.minimum(y + 0.66, 0.12 - y))
    blade: Field = 0.055 * _step(edge, 0.014) + 0.06 * _bump(edge - 0.012, 0.012)
    head = _ellipse(across, y, (0.93, -0.53), (0.105, 0.115), 0.0)
    shaft = _step(0.06 - np.abs(across - 1.0 - 0.12 * (y + 0.5)), 0.015)
    return blade + 0.12 * _union(head, shaft * _step(y + 0.5, 0.05))


def _spine(frame: _Frame, anatomy: _Anatomy) -> Field:
    """A column of vertebrae with discs between, their arches' rims, and a row of spinous processes."""
    x = frame.x - anatomy.sway * np.sin(2.2 * frame.y)
    height = (frame.y + 1.0) / 0.135
    within = np.abs(height - np.floor(height) - 0.5)
    waist = 0.082 + 0.012 * within
    column = _step(waist - np.abs(x), 0.014)
    rims = _bump(np.abs(x) - 0.075, 0.010)
    body: Field = column * (0.06 - 0.04 * _bump(within - 0.5, 0.05))
    process = _bump(x, 0.014) * _bump(within, 0.16)
    pedicles = _bump(np.abs(x) - 0.05, 0.013) * _bump(within - 0.15, 0.09)
    return body + 0.03 * rims + 0.05 * process + 0.045 * pedicles


def _airways(frame: _Frame, organs: _Organs) -> Field:
    """Windpipe and the two main bronchi: dark bands in the mediastinum."""
    x, y = frame.x, frame.y
    carina = -0.24
    pipe = _step(0.036 - np.abs(x + 0.006), 0.016) * _step(carina - y, 0.03)
    drop = y - carina
    fork = _by_side(organs.right, (0.62, 0.90))
    bronchus = _step(0.024 - np.abs(organs.across - fork * drop - 0.012), 0.014)
    bronchus *= _step(drop, 0.02) * _step(0.15 - drop, 0.05)
    return 0.15 * _union(pipe, 0.55 * bronchus)


def _stomach(frame: _Frame, anatomy: _Anatomy) -> Field:
    """A gas bubble under the dome on the picture's right, in some."""
    if anatomy.stomach == 0:
        return np.zeros(frame.shape, dtype=np.float32)
    center = (0.36, anatomy.dome[1] + 0.05 + anatomy.stomach)
    return 0.22 * _ellipse(frame.x, frame.y, center, (1.5 * anatomy.stomach, anatomy.stomach), 0.1)


# ---------------------------------------------------------------- vessels and wires: drawn as lines


class _Segment(NamedTuple):
    start: tuple[float, float]
    end: tuple[float, float]
    width: float
    density: float


def _vessels(rng: np.random.Generator, frame: _Frame) -> Field:
    """The lungs' vessels: trees that spread from both hila and thin out, over a soft shadow of the hila themselves."""
    segments = [segment for side in (-1.0, 1.0) for segment in _hilum_tree(rng, side)]
    hila = _bump(np.abs(frame.x) - 0.175, 0.045) * _bump(frame.y + 0.06, 0.10)
    return 0.24 * _draw(segments, frame) + 0.20 * hila


def _hilum_tree(rng: np.random.Generator, side: float) -> Iterator[_Segment]:
    """Trunks fan out from straight up to straight down, away from the midline; the lower ones are stronger."""
    for heading in np.linspace(-1.25, 1.35, 9).tolist():
        root = (side * float(rng.normal(0.155, 0.012)), float(rng.normal(-0.06 + 0.06 * heading, 0.015)))
        thickness = 0.020 + 0.006 * heading
        outwards = heading + float(rng.normal(0.0, 0.12))
        yield from _branch(rng, root, outwards, side=side, width=thickness, depth=5)


def _branch(
    rng: np.random.Generator, start: tuple[float, float], heading: float, *, side: float, width: float, depth: int
) -> Iterator[_Segment]:
    """One segment and, recursively, the two it forks into. `heading`: radians below the horizontal, outwards."""
    length = float(rng.uniform(0.07, 0.13)) * (0.7 + 0.07 * depth)
    end = (start[0] + side * length * math.cos(heading), start[1] + length * math.sin(heading))
    yield _Segment(start, end, width, min(1.0, 0.30 + 30 * width))
    if depth > 1:
        for turn in (float(rng.normal(-0.30, 0.15)), float(rng.normal(0.30, 0.15))):
            yield from _branch(rng, end, heading + turn, side=side, width=0.70 * width, depth=depth - 1)


def _draw(segments: list[_Segment], frame: _Frame) -> Field:
    """Lines as a map 0..1. Thinner than a pixel: drawn one pixel wide and paler, so that sizes agree."""
    canvas = Image.new("L", (frame.shape[1], frame.shape[0]))
    pen = ImageDraw.Draw(canvas)
    ends = frame.pixels(np.array([point for segment in segments for point in (segment.start, segment.end)]))
    # Faint ones first: a line overwrites what it crosses.
    for number in np.argsort([segment.density for segment in segments], kind="stable"):
        width = segments[number].width * frame.scale
        ink = round(255 * segments[number].density * min(width, 1.0))
        pen.line([tuple(ends[2 * number]), tuple(ends[2 * number + 1])], fill=ink, width=max(1, round(width)))
    drawn = np.asarray(canvas, dtype=np.float32) / 255
    return np.asarray(ndimage.gaussian_filter(drawn, 0.0045 * frame.scale, truncate=3.0), dtype=np.float32)


def _wires(config: PhantomConfig, plan: ImagePlan, frame: _Frame) -> Field:
    """Monitor leads over the chest, in two of three AP pictures, whatever the outcome."""
    rng = _stream(config, _IMAGE, plan.patient, plan.image, 2)
    if plan.view != "AP" or rng.random() > 2 / 3:
        return np.zeros(frame.shape, dtype=np.float32)
    segments = [segment for _ in range(int(rng.integers(1, 4))) for segment in _wire(rng)]
    return 0.30 * _draw(segments, frame)


def _wire(rng: np.random.Generator) -> list[_Segment]:
    """One lead: a slack curve from the picture's edge to an electrode."""
    start = np.array([rng.uniform(-1.0, 1.0), rng.choice([-1.1, 1.1])])
    end = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.45, 0.45)])
    slack = (start + end) / 2 + rng.normal(0.0, 0.25, size=2)
    along = np.linspace(0.0, 1.0, 25)[:, None]
    curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * slack + along**2 * end
    points = [(float(x), float(y)) for x, y in curve]
    lead = [_Segment(a, b, 0.010, 0.75) for a, b in pairwise(points)]
    x, y = points[-1]
    return [*lead, _Segment((x - 0.018, y), (x + 0.018, y), 0.036, 1.0)]


# ---------------------------------------------------------------- disease


def _opacity(config: PhantomConfig, plan: ImagePlan, frame: _Frame, organs: _Organs) -> tuple[Field, float]:
    """How much air the disease has displaced at each pixel (0..1), and the share of the lung field that it covers.

    A smooth score of likelihood (clouds, more at the base and the periphery) is cut at the level above which the
    wanted share of the lung field lies, so that extent is set and not left to the clouds.
    """
    field = organs.lungs * (1.0 - organs.heart) > 0.5
    wanted = _extent(plan.severity)
    score = _likelihood(config, plan, frame, organs)
    inside = score[field]
    level = float(np.quantile(inside, 1.0 - wanted))
    covered = _step(score - level, 0.55)
    density = _ground_glass(config, plan, frame)
    return covered * density, float(np.mean(inside > level))


def _extent(severity: float) -> float:
    """Share of lung opacified at this severity: 0.2 in the middling patient, near 0 in the healthy, bounded."""
    return float(_MOST_EXTENT * ndtr(severity) ** 1.6)


def _likelihood(config: PhantomConfig, plan: ImagePlan, frame: _Frame, organs: _Organs) -> Field:
    """Where disease sits. Most of it is the patient's own and stays; a little changes from image to image."""
    own, now = _stream(config, _TEXTURE, plan.patient), _stream(config, _TEXTURE, plan.patient, plan.image)
    basal = np.clip((frame.y + 0.1) * 1.6, -1.0, 1.0)
    peripheral = np.clip(organs.across / organs.cage, 0.0, 1.0) * 2 - 1
    base_weight, rim_weight = own.uniform(0.2, 0.9), own.uniform(0.2, 0.8)
    clouds = _clouds(own, frame.shape, 6) + 0.7 * _clouds(own, frame.shape, 13)
    passing = 0.35 * _clouds(now, frame.shape, 9)
    score: Field = clouds + passing + base_weight * basal + rim_weight * peripheral
    return score


def _ground_glass(config: PhantomConfig, plan: ImagePlan, frame: _Frame) -> Field:
    """Density inside the opacities: a veil with patches and grain, thinner or thicker from patient to patient."""
    rng = _stream(config, _TEXTURE, plan.patient, plan.image, 1)
    veil = _stream(config, _TEXTURE, plan.patient, 0, 2).uniform(0.38, 0.62)
    patches = 0.13 * _clouds(rng, frame.shape, 22) + 0.09 * _clouds(rng, frame.shape, 60)
    return np.clip(patches + veil, 0.10, 0.90)


# ---------------------------------------------------------------- the film


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
    rng = _stream(config, _CENTER, ord(center) - ord("A"))
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
