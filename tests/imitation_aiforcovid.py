"""An imitation of the AIforCOVID download: three sheets, three folders of DICOM files, 1585 patients of six hospitals.

Whatever is odd here is odd there: gaps in the numbering, hospitals in lower case, MONOCHROME1 beside MONOCHROME2, 12
bits beside 16, pixel arrays of three dimensions, a few compressed files, files that do not decode. How `Death` is
written is not known, so that is the caller's choice.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dicom_kit import Pixels, radiograph, write_dicom
from openpyxl import Workbook

HOSPITALS: Mapping[str, tuple[int, int]] = {
    "A": (35, 85),
    "B": (59, 45),
    "C": (70, 81),
    "D": (76, 63),
    "E": (55, 46),
    "F": (544, 426),
}
"""Mild and severe patients of each hospital."""


class Release(NamedTuple):
    """A series of numbered files: their folder, the sheet that lists them, the start of their names, how many."""

    folder: str
    sheet: str
    start: str
    files: int


RELEASES = (
    Release("imgs", "AIforCOVID.xlsx", "P_", 820),
    Release("imgs_r2", "AIforCOVID_r2.xlsx", "P_1_", 163),
    Release("imgs_r2", "AIforCOVID_r2.xlsx", "P_2_", 120),
    Release("imgs_r3", "AIforCOVID_r3.xlsx", "P_3_", 482),
)

LAST_INDEX = 844 / 820
"""The highest number in a folder for each of its files: the first release numbers 820 files from 1 to 844."""

COLUMNS = (
    "ImageFile", "Hospital", "Age", "Sex", "Positivity at admission", "Temp_C", "DaysFever", "Cough",
    "DifficultyInBreathing", "WBC", "RBC", "CRP", "Fibrinogen", "Glucose", "PCT", "LDH", "INR", "D-dimer",
    "Ox_percentage", "PaO2", "SaO2", "PaCO2", "pH", "CardiovascularDisease", "IschemicHeartDisease",
    "AtrialFibrillation", "HeartFailure", "Ictus", "HighBloodPressure", "Diabetes", "Dementia", "BPCO", "Cancer",
    "Chronic Kidney disease", "RespiratoryFailure", "Obesity", "Position", "Prognosis", "Death",
)  # fmt: skip

MEASURED: Mapping[str, tuple[float, float]] = {
    "Temp_C": (37.6, 0.8),
    "DaysFever": (4, 3),
    "WBC": (7.2, 3.0),
    "RBC": (4.6, 0.6),
    "CRP": (8.0, 6.0),
    "Fibrinogen": (580, 150),
    "Glucose": (125, 40),
    "PCT": (0.6, 0.8),
    "LDH": (340, 120),
    "INR": (1.2, 0.2),
    "D-dimer": (1100, 900),
    "Ox_percentage": (24, 6),
    "PaO2": (70, 16),
    "SaO2": (93, 4),
    "PaCO2": (34, 5),
    "pH": (7.44, 0.05),
}
"""Mean and standard deviation of the numeric columns; about a quarter of the values is missing."""

DEAD = 0.15
"""Share of the patients that died, all of them severe cases."""

DEATHS: Mapping[str, tuple[Any, Any]] = {
    "0/1": (0, 1),
    "Y/N": ("N", "Y"),
    "yes/no": ("no", "yes"),
    "True/False": (False, True),
    "ALIVE/DEATH": ("ALIVE", "DEATH"),
    "dates": (None, dt.date(2020, 3, 1)),
}
"""How the survivors and the dead may be written; a date is moved by some days."""

COMPRESSED = ("rle", "jpeg_ls", "jpeg_2000_lossless")


class Patient(NamedTuple):
    """What is true of a patient, however it is written."""

    image: str
    release: Release
    hospital: str
    severe: bool
    dead: bool

    @property
    def file(self) -> str:
        """Where the image lies, relative to the raw folder."""
        return f"{self.release.folder}/{self.image}.dcm"


def patients(scale: float = 1.0, seed: int = 0) -> list[Patient]:
    """All patients of an imitation in the order of their files: what `write` is to be read as."""
    rng = np.random.default_rng([seed, 1])
    cases = [
        (hospital, bool(severe))
        for hospital, counts in HOSPITALS.items()
        for severe, count in enumerate(counts)
        for _ in range(max(1, round(count * scale)))
    ]
    cases = [cases[place] for place in rng.permutation(len(cases))]
    severe_places = [place for place, case in enumerate(cases) if case[1]]
    dead = set(rng.choice(severe_places, max(1, round(DEAD * len(cases))), replace=False).tolist())
    names = _names(len(cases), rng)
    return [
        Patient(image, release, hospital, severe, place in dead)
        for place, ((image, release), (hospital, severe)) in enumerate(zip(names, cases, strict=True))
    ]


def _names(total: int, rng: np.random.Generator) -> list[tuple[str, Release]]:
    """File stems with gaps in their numbers, as many a release as its share of the total."""
    everything = sum(release.files for release in RELEASES)
    ends = np.rint(np.cumsum([release.files for release in RELEASES]) * total / everything).astype(int)
    names = []
    for release, count in zip(RELEASES, np.diff(ends, prepend=0), strict=True):
        last = int(np.ceil(count * LAST_INDEX))
        gaps = set(rng.choice(np.arange(1, last), last - count, replace=False).tolist())
        names += [(f"{release.start}{index}", release) for index in range(1, last + 1) if index not in gaps]
    return names


def write(
    folder: Path, *, scale: float = 1.0, size: int = 24, seed: int = 0, death: str = "yes/no", broken: int = 0
) -> Path:
    """Write the download.

    Args:
        folder: where to; it becomes the raw folder.
        scale: share of the patients of every hospital and outcome, at least one of each.
        size: shorter side of the pictures.
        seed: of everything random.
        death: how the column `Death` is written, one of `DEATHS`.
        broken: so many files end within their pixels.
    """
    everybody = patients(scale, seed)
    rng = np.random.default_rng([seed, 2])
    folder.mkdir(parents=True, exist_ok=True)
    for sheet in dict.fromkeys(release.sheet for release in RELEASES):
        _write_sheet(folder / sheet, [each for each in everybody if each.release.sheet == sheet], rng, death)
    lost = set(np.linspace(0, len(everybody) - 1, broken).astype(int).tolist())
    for place, patient in enumerate(everybody):
        path = folder / patient.file
        _write_image(path, np.random.default_rng([seed, 3, place]), size, severe=patient.severe, plain=place in lost)
        if place in lost:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) - size * size])
    return folder


def _write_sheet(path: Path, listed: Iterable[Patient], rng: np.random.Generator, death: str) -> None:
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    sheet.append(list(COLUMNS))
    for patient in listed:
        values = _values(patient, rng) | {"Death": _death(patient, rng, death)}
        sheet.append([values[column] for column in COLUMNS])
    book.save(path)


def _values(patient: Patient, rng: np.random.Generator) -> dict[str, Any]:
    """A row: plausible values, a quarter of the measured and a twentieth of the other ones missing."""
    values: dict[str, Any] = {column: int(rng.random() < 0.25) if rng.random() > 0.05 else None for column in COLUMNS}
    for column, (mean, deviation) in MEASURED.items():
        missing = rng.random() < 0.25
        values[column] = None if missing else round(max(0.0, rng.normal(mean, deviation)), 2)
    values["Age"] = int(np.clip(rng.normal(68 if patient.severe else 58, 14), 18, 98)) if rng.random() > 0.01 else None
    values["ImageFile"] = patient.image
    values["Hospital"] = _hospital(patient.hospital, rng)
    values["Prognosis"] = "SEVERE" if patient.severe else "MILD"
    return values


def _hospital(name: str, rng: np.random.Generator) -> str:
    """One in ten is in lower case, one in twenty has a blank beside it."""
    written = name.lower() if rng.random() < 0.1 else name
    return (f" {written}" if rng.random() < 0.5 else f"{written} ") if rng.random() < 0.05 else written


def _death(patient: Patient, rng: np.random.Generator, death: str) -> Any:
    written = DEATHS[death][patient.dead]
    return written + dt.timedelta(days=int(rng.integers(60))) if isinstance(written, dt.date) else written


def _write_image(path: Path, rng: np.random.Generator, size: int, *, severe: bool, plain: bool) -> None:
    bits = 12 if rng.random() < 0.6 else 16
    inverted = rng.random() < 0.3
    form, syntax = ("plain", "explicit") if plain else _form(rng)
    side = max(size, 32) if syntax == "jpeg_2000_lossless" else size
    samples = radiograph(rng, (side, side + int(rng.integers(size // 4 + 1))), bits, 0.5 if severe else 0.1)
    samples = np.uint16(2**bits - 1) - samples if inverted else samples
    stored = _stored(form, samples, bits, "MONOCHROME1" if inverted else "MONOCHROME2")
    write_dicom(
        path,
        **stored,
        transfer_syntax=syntax,
        window=(2 ** (bits - 1), 2**bits) if rng.random() < 0.6 else None,
        view=_one_of(rng, ("AP", "PA", "", None)),
        Modality=_one_of(rng, ("CR", "DX")),
        BodyPartExamined="CHEST",
        PatientName=f"ANON^{path.stem}",
        PatientID=path.stem,
    )


def _form(rng: np.random.Generator) -> tuple[str, str]:
    """How a picture is stored: mostly plainly; 2 % as one frame, 1 % as several, 1 % in colour, 6 % compressed."""
    syntax = _one_of(rng, ("explicit", "implicit"))
    chance = rng.random()
    if chance < 0.04:
        return ("one frame" if chance < 0.02 else "frames" if chance < 0.03 else "colour"), syntax
    return "plain", _one_of(rng, COMPRESSED) if chance < 0.10 else syntax


def _stored(form: str, samples: Pixels, bits: int, photometric: str) -> dict[str, Any]:
    """The picture in that form, as arguments of the writer."""
    if form == "colour":
        grey = (samples >> (bits - 8)).astype(np.uint8)
        return {"pixels": np.dstack([grey] * 3), "bits_stored": 8, "photometric": "RGB"}
    stored = {"pixels": samples, "bits_stored": bits, "photometric": photometric}
    if form == "frames":
        return stored | {"pixels": np.stack([samples, samples // 2, samples // 4]), "frames": 3}
    return stored | {"frames": 1} if form == "one frame" else stored


def _one_of(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]
