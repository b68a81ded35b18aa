"""An imitation of the COVID-19 image data collection (ieee8023/covid-chestxray-dataset), typed in by many hands.

Whatever is odd here is odd there: an unnamed empty column, text that is not clean UTF-8, notes with commas, quotes and
line breaks, question marks for answers, CT among the films, rows whose files are missing, pictures of every mode,
extension and width, findings other than COVID-19; and pictures that are another data set's, re-saved, under numbers of
its own.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dicom_kit import radiograph
from PIL import Image

COLUMNS = (
    "patientid", "offset", "sex", "age", "finding", "survival", "intubated", "intubation_present", "went_icu", "in_icu",
    "needed_supplemental_O2", "extubated", "temperature", "pO2_saturation", "leukocyte_count", "neutrophil_count",
    "lymphocyte_count", "view", "modality", "date", "location", "folder", "filename", "doi", "url", "license",
    "clinical_notes", "other_notes", "",
)  # fmt: skip

SURVIVAL = ("Y", "Y", "Y", "N", "?", "")
WENT_ICU = ("Y", "Y", "N", "N", "?", "Would have been stated", "")
VIEWS = ("PA", "PA", "AP", "AP Supine", "L", "?", "")
COVID = ("Pneumonia/Viral/COVID-19", "Pneumonia/Viral/COVID-19", "COVID-19", "COVID-19, ARDS")
OTHER_FINDINGS = (
    "Pneumonia", "Pneumonia/Viral/SARS", "Pneumonia/Bacterial/Streptococcus", "Pneumonia/Fungal/Pneumocystis",
    "No Finding", "Tuberculosis", "todo",
)  # fmt: skip

LOCATIONS = (
    "Cho Ray Hospital, Ho Chi Minh City, Vietnam",
    "Wuhan Jinyintan Hospital, Wuhan, Hubei Province, China",
    "Snohomish County, Washington, USA",
    "Hôpital Saint-Éloi, Montpellier, France",
    "Hospital Universitario, São Paulo, Brazil",
    "Changhua Christian Hospital, Changhua City, Taiwan",
    "Università degli Studi, Italy",
    "Italy",
    "Sydney, Australia",
    "",
)

HANNOVER_LOCATION = "Hannover Medical School, Hannover, Germany"

NOTES = (
    "Fever of 38.5°C for 5 days, dry cough, dyspnea",
    'The patient said "I cannot breathe", and was admitted.\nFilm on day 3, then a second one.',
    "Presented with cough; SpO2 88 % in room air, 3 L/min O2.\r\n\r\nNo known contact.",
    "Temperatur 39°C \u2013 später Müdigkeit",
    "65-year-old, ARDS, ventilated",
    "",
)
"""Some hold degree signs and umlauts; a dash that Latin-1 lacks is always UTF-8."""

FORMS = (
    ("L", "jpg"), ("RGB", "jpg"), ("RGB", "jpeg"), ("L", "png"), ("RGBA", "png"), ("P", "png"), ("RGB", "PNG"),
    ("L", "jpeg"),
)  # fmt: skip
"""Mode and extension."""

NAMES = ("covid-19-pneumonia-{:d}", "nejmc{:06d}_f1a", "{:08X}-A1BF-49A8-A1D3-66FAFA4FAC5D", "10.1016-slash-j.{:d}-b")


class Picture(NamedTuple):
    """How a file is to be made: of a Hannover image, or of nothing."""

    mode: str
    source: Path | None
    width: float
    """In shares of the source's width, or of the usual one."""
    seed: int


class Entry(NamedTuple):
    """One row, and its file, unless it is missing."""

    cells: Mapping[str, Any]
    picture: Picture | None


def write(
    folder: Path,
    *,
    patients: int = 60,
    size: int = 96,
    seed: int = 0,
    hannover: Path | None = None,
    rt_pcr: bool = False,
) -> Path:
    """Write the collection.

    Args:
        folder: where to; it becomes the raw folder.
        patients: how many, the Hannover ones included.
        size: usual width of the pictures; they have from half of it to three times as much.
        seed: of everything random.
        hannover: a raw Hannover folder; about a third of the images are then its pictures, re-saved as JPEG, scaled to
            another width, or both, their stems the Hannover image ids.
        rt_pcr: with the column of later versions, RT_PCR_positive.
    """
    rng = np.random.default_rng([seed, 1])
    everybody = _everybody(patients, hannover, rng)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "volumes").mkdir(exist_ok=True)
    entries = [entry for entries in everybody for entry in entries]
    for entry in entries:
        if entry.picture is not None:
            path = folder / entry.cells["folder"] / entry.cells["filename"]
            _write_picture(path, entry.picture, size, np.random.default_rng([seed, 2, entry.picture.seed]))
    _write_volumes(folder, entries)
    columns = [*COLUMNS[:5], "RT_PCR_positive", *COLUMNS[5:]] if rt_pcr else list(COLUMNS)
    (folder / "metadata.csv").write_bytes(_table(columns, [entry.cells for entry in entries]))
    return folder


def _everybody(patients: int, hannover: Path | None, rng: np.random.Generator) -> list[list[Entry]]:
    """The rows of every patient. Hannover's replace the last of the own until a third of the images is theirs."""
    own = [_own_patient(number, rng) for number in range(patients)]
    if hannover is None:
        return own
    theirs = _hannover_patients(hannover)
    borrowed = 0
    while borrowed < min(len(theirs), patients) - 1 and 2 * sum(map(len, theirs[:borrowed])) < sum(
        entry.picture is not None for entries in own[: patients - borrowed] for entry in entries
    ):
        borrowed += 1
    kept = own[: patients - borrowed]
    return kept + [
        _hannover_patient(patients + place, rows, hannover, rng) for place, rows in enumerate(theirs[:borrowed])
    ]


def _own_patient(number: int, rng: np.random.Generator) -> list[Entry]:
    """One to five rows; some patients have CT besides, or nothing else."""
    shared = _patient_cells(number, rng)
    rows = 1 if rng.random() < 0.6 else int(rng.integers(2, 6))
    entries = [_film(shared, 10 * number + row, rng) for row in range(rows)]
    if number % 6 == 2:
        entries.append(_ct(shared, 10 * number + 8, rng))
    if number % 12 == 5:
        return [_ct(shared, 10 * number + 9, rng)]
    return entries


def _patient_cells(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """What all rows of a patient share."""
    covid = rng.random() < 0.75
    # Every eighth patient shows the next variant, so that all occur however few there are.
    survival = SURVIVAL[number // 8 % len(SURVIVAL)] if number % 8 == 0 else _one_of(rng, SURVIVAL)
    return {
        "patientid": number + 2,
        "sex": _one_of(rng, ("M", "F", "")),
        "age": _one_of(rng, (int(rng.integers(18, 94)), "")),
        "finding": _one_of(rng, COVID if covid else OTHER_FINDINGS),
        "RT_PCR_positive": _one_of(rng, ("Y", "Unclear", "")) if covid else "",
        "survival": survival,
        "intubated": _one_of(rng, ("Y", "N", "")),
        "went_icu": WENT_ICU[number % len(WENT_ICU)],
        "needed_supplemental_O2": _one_of(rng, ("Y", "N", "")),
        "extubated": _one_of(rng, ("Y", "", "")),
        "date": _one_of(rng, ("January 22, 2020", "2020", "Mar 5, 2020", "")),
        "location": LOCATIONS[number % len(LOCATIONS)],
        "doi": f"10.1056/nejmc2{number:06d}",
        "url": f"https://example.org/cases/{number}",
        "license": _one_of(rng, ("CC BY-NC-SA", "CC BY 4.0", "CC0", "")),
        "other_notes": _one_of(rng, ("", "Credit to the authors")),
    }


def _row_cells(rng: np.random.Generator) -> dict[str, Any]:
    """What differs from image to image."""
    return {
        "offset": _one_of(rng, (int(rng.integers(0, 20)), int(rng.integers(-3, 3)), "")),
        "intubation_present": _one_of(rng, ("Y", "N", "")),
        "in_icu": _one_of(rng, ("Y", "N", "")),
        "temperature": _one_of(rng, (round(float(rng.normal(38, 0.8)), 1), "")),
        "pO2_saturation": _one_of(rng, (int(rng.integers(70, 100)), "")),
        "leukocyte_count": _one_of(rng, (round(float(rng.gamma(4, 2)), 2), "")),
        "neutrophil_count": "",
        "lymphocyte_count": _one_of(rng, (round(float(rng.gamma(2, 0.5)), 2), "")),
        "clinical_notes": _one_of(rng, NOTES),
    }


def _film(shared: Mapping[str, Any], number: int, rng: np.random.Generator) -> Entry:
    """A radiograph; one in sixteen is named but not there."""
    mode, extension = FORMS[number // 10 % len(FORMS)] if number % 10 == 0 else _one_of(rng, FORMS)
    cells = {
        **shared,
        **_row_cells(rng),
        "view": VIEWS[number % len(VIEWS)],
        "modality": "X-ray",
        "folder": "images",
        "filename": f"{NAMES[number % len(NAMES)].format(number)}.{extension}",
    }
    missing = number % 16 == 10
    return Entry(cells, None if missing else Picture(mode, None, float(rng.uniform(0.5, 3)), number))


def _ct(shared: Mapping[str, Any], number: int, rng: np.random.Generator) -> Entry:
    """A CT: a volume, of which half are there, or a picture of a slice among the films."""
    volume = rng.random() < 0.6
    cells = {
        **shared,
        **_row_cells(rng),
        "view": _one_of(rng, ("Axial", "Coronal")),
        "modality": "CT",
        "folder": "volumes" if volume else "images",
        "filename": f"radiopaedia_{number}_case.nii.gz" if volume else f"ct-slice-{number}.jpg",
    }
    return Entry(cells, None if volume else Picture("L", None, 1.0, number))


def _hannover_patients(hannover: Path) -> list[list[dict[str, str]]]:
    """The rows of Hannover's table whose picture is there, patient by patient."""
    found: dict[str, list[dict[str, str]]] = {}
    with (hannover / "data.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            if (hannover / "png" / f"{row['image_id']}.png").is_file():
                found.setdefault(row["patient_id"], []).append(row)
    return list(found.values())


def _hannover_patient(
    number: int, rows: Sequence[Mapping[str, str]], hannover: Path, rng: np.random.Generator
) -> list[Entry]:
    shared = {
        **_patient_cells(number, rng),
        "sex": rows[0]["sex"].upper(),
        "finding": COVID[0],
        "survival": "N" if any(row["death_offset"] for row in rows) else "",
        "went_icu": "Y" if any(row["icu_admission_offset"] for row in rows) else "N",
        "location": HANNOVER_LOCATION,
        "license": "CC BY 3.0",
        "url": "https://github.com/ml-workgroup/covid-19-image-repository",
    }
    return [
        _borrowed(shared, 1000 * number + place, row, hannover / "png" / f"{row['image_id']}.png", rng)
        for place, row in enumerate(rows)
    ]


def _borrowed(
    shared: Mapping[str, Any], number: int, row: Mapping[str, str], source: Path, rng: np.random.Generator
) -> Entry:
    """A Hannover picture as JPEG, as JPEG of another width, or as PNG of another width, in turn."""
    form = number % 3
    cells = {
        **shared,
        **_row_cells(rng),
        "view": row["projection"].upper(),
        "modality": "X-ray",
        "folder": "images",
        "filename": f"{row['image_id']}.{('jpg', 'jpeg', 'png')[form]}",
    }
    width = 1.0 if form == 0 else float(_one_of(rng, (rng.uniform(0.7, 0.95), rng.uniform(1.05, 1.5))))
    return Entry(cells, Picture("L", source, width, number))


def _write_picture(path: Path, picture: Picture, size: int, rng: np.random.Generator) -> None:
    if picture.source is not None:
        with Image.open(picture.source) as source:
            image = source.convert("L")
        extent = (round(image.width * picture.width), round(image.height * picture.width))
        image = image.resize(extent, Image.Resampling.BICUBIC) if picture.width != 1 else image
    else:
        width = max(8, round(size * picture.width))
        image = Image.fromarray(radiograph(rng, (round(width * rng.uniform(0.8, 1.2)), width), 8))
    image = image.convert(picture.mode)
    if path.suffix.lower() == ".png":
        image.save(path, "PNG")
    else:
        image.save(path, "JPEG", quality=int(rng.integers(80, 96)))


def _write_volumes(folder: Path, entries: Sequence[Entry]) -> None:
    """Every second volume; the first bytes of a gzip file, which nobody is to read as a picture."""
    named = [entry.cells for entry in entries if entry.cells["folder"] == "volumes"]
    for cells in named[::2]:
        (folder / "volumes" / cells["filename"]).write_bytes(b"\x1f\x8b\x08" + bytes(61))


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    """CSV in UTF-8, save that the notes of every second row are in Latin-1 where they can be."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(_written(columns, row, place) for place, row in enumerate(rows))
    return stream.getvalue().encode("utf-8", "surrogateescape")


def _written(columns: Sequence[str], row: Mapping[str, Any], place: int) -> Iterator[Any]:
    for column in columns:
        value = row.get(column, "")
        if column == "clinical_notes" and place % 2 == 0:
            value = _in_latin_1(value)
        yield value


def _in_latin_1(text: str) -> str:
    """Text that becomes Latin-1 bytes when it is encoded as UTF-8 with surrogates."""
    try:
        return text.encode("latin-1").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text


def _one_of(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]
