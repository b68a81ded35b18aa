"""An imitation of CoCross: a table with `ID` and `ICU Outcome`, and a folder of .jpeg pictures.

No public copy of the X-rays is known, so the shape of the table is the caller's choice; all but these names is made up.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dicom_kit import radiograph
from openpyxl import Workbook
from PIL import Image

IMAGES = "images"
DEATHS = 0.37
"""Share of the images whose patient died. That the smaller part are the deaths is by analogy with the other cohorts."""


class Film(NamedTuple):
    """One picture."""

    patient: str
    stem: str
    died: bool

    @property
    def file(self) -> str:
        """Where it lies, relative to the raw folder."""
        return f"{IMAGES}/{self.stem}.jpeg"


def films(images: int = 389, patients: int = 150, seed: int = 0) -> list[Film]:
    """All pictures, patient by patient: the first is named as the patient, the next `<patient>_2`, and so on."""
    rng = np.random.default_rng([seed, 1])
    dead = max(1, round(patients * DEATHS))
    images_of_the_dead = max(dead, round(images * DEATHS))
    many = [*_shares(dead, images_of_the_dead, rng), *_shares(patients - dead, images - images_of_the_dead, rng)]
    order = rng.permutation(patients)
    return [
        Film(name, name if place == 0 else f"{name}_{place + 1}", bool(patient < dead))
        for name, patient in ((f"CC{number + 1:03d}", patient) for number, patient in enumerate(order))
        for place in range(many[patient])
    ]


def _shares(patients: int, images: int, rng: np.random.Generator) -> list[int]:
    """At least one image for each."""
    return (1 + rng.multinomial(max(0, images - patients), np.full(patients, 1 / patients))).tolist()


def write(
    folder: Path,
    *,
    images: int = 389,
    patients: int = 150,
    sheet: str = "csv",
    rows: str = "patient",
    size: int = 24,
    seed: int = 0,
) -> Path:
    """Write table and pictures.

    Args:
        folder: where to; it becomes the raw folder.
        images: how many pictures.
        patients: of how many patients.
        sheet: `csv` (cocross.csv) or `xlsx` (cocross.xlsx).
        rows: `patient`: one row a patient, whose pictures are named `ID`, `ID_2`, ...; `image`: one row a picture, `ID`
            is its stem, and a column `Patient` says whose it is.
        size: shorter side of the pictures.
        seed: of everything random.
    """
    everything = films(images, patients, seed)
    rng = np.random.default_rng([seed, 2])
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    for place, film in enumerate(everything):
        _write_picture(folder / film.file, np.random.default_rng([seed, 3, place]), size, died=film.died)
    listed = everything if rows == "image" else [film for film in everything if film.stem == film.patient]
    _write_table(folder / f"cocross.{sheet}", [_row(film, rng, rows) for film in listed])
    return folder


def _row(film: Film, rng: np.random.Generator, rows: str) -> dict[str, Any]:
    identity = {"ID": film.stem, "Patient": film.patient} if rows == "image" else {"ID": film.patient}
    return identity | {
        "Age": int(rng.integers(30, 90)),
        "Sex": "M" if rng.random() < 0.6 else "F",
        "ICU Outcome": "Death" if film.died else "Alive",
    }


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows(table)
        return
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    for cells in table:
        sheet.append(cells)
    book.save(path)


def _write_picture(path: Path, rng: np.random.Generator, size: int, *, died: bool) -> None:
    pixels = radiograph(rng, (size, size + int(rng.integers(size // 4 + 1))), 8, 0.5 if died else 0.1)
    image = Image.fromarray(pixels)
    image = image.convert("RGB") if rng.random() < 0.2 else image
    image.save(path, "JPEG", quality=90)
