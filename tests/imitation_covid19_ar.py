"""An imitation of the COVID-19-AR download: 105 patients' films among CT series, and a sheet with its header in row 2.

Whatever is odd here is odd there: laterals, scouts, localisers, reformats and secondary captures; films without a
ViewPosition or a series description; 8, 12 and 16 bits; folder names with and without `NA-`; several studies a patient,
whose dates do not sort as text; series numbers that do not either; patients without a usable film, one without a row.
"""

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dicom_kit import radiograph, uid_of, write_dicom
from nbia_kit import Series, write_index
from openpyxl import Workbook

MANIFEST = "manifest-1594658036421"
COLLECTION = "COVID-19-AR"
TABLE = "COVID_19_AR_ClinicalCorrelates_July202020.xlsx"
DOI = "10.7937/TCIA.2020.PY71-5978"

PATIENTS = 105
FILMS = 262
"""Images of the chest studies at full scale, laterals included."""

WITHOUT_FILM = 5
WITHOUT_ROW = 1
"""Made up: with both, 99 patients are left, as in the paper."""

ICU = 29
DEAD = 20
"""Patients in intensive care among the 99, as the paper's 29 %; how many died is made up."""

TITLE = "COVID-19-AR clinical correlates, July 2020"

COLUMNS = (
    "PATIENT_ID", "AGE", "SEX", "RACE", "ZIP", "LATEST_BMI", "LATEST WEIGHT", "LATEST HEIGHT", "TUBERCULOSIS",
    "SYSTEMIC LUPUS ERYTHMATOSUS", "RHEUMATOID ARTHRITIS", "EXTENSIVE BURNS", "ASPLENIA", "HYPOSPLENIA", "MEASLES",
    "CYTOMEGALOVIRUS", "CHICKEN POX", "HERPES ZOSTER", "MALNUTRITION", "CURRENT PREGNANT", "CHRONIC KIDNEY DISEASE",
    "DIABETES TYPE I", "DIABETES TYPE II", "TRANSPLANT", "HEMODIALYSIS PRE DIAGNOSIS", "HEMODIALYSIS POST DIAGNOSIS",
    "CANCER", "COVID TEST POSITIVE", "TEST NAME", "ICU Admit", "# ICU admits", "MORTALITY",
)  # fmt: skip

AP_STUDIES = ("XR CHEST AP PORTABLE", "XR CHEST AP ONLY")
BOTH = "XR CHEST PA AND LATERAL"
PA_ONLY = "XR CHEST PA ONLY"
ACUTE = "XR ACUTE ABDOMINAL SERIES W PA CHEST PORTABLE"
CT_STUDIES = ("CT PE CHEST", "CT CHEST WO CONTRAST", "CT ABDOMEN PELVIS W CONTRAST")


class Shot(NamedTuple):
    """One file of a series and what its header says of it."""

    series: Series
    image: int
    view: str | None
    lateral: bool
    kind: tuple[str, ...] = ("ORIGINAL", "PRIMARY")
    sop: str | None = None

    @property
    def chest_film(self) -> bool:
        """A projection radiograph of a chest study."""
        return self.series.modality in ("CR", "DX") and "CHEST" in self.series.study

    @property
    def file(self) -> str:
        """Where it lies, relative to the raw folder; numbers have as many digits as the series needs."""
        return f"{MANIFEST}/{self.series.location}/1-{self.image:0{len(str(self.series.images))}d}.dcm"


class Truth(NamedTuple):
    """What is to be read of a patient.

    `film` is that of modality CR or DX, with a chest description, not lateral, of the earliest date and in it of the
    lowest series number, relative to the raw folder; `None` where there is none. The outcomes are `None` for a patient
    without a row in the sheet.
    """

    film: str | None
    icu: bool | None
    dead: bool | None


def write(folder: Path, *, patients: int = PATIENTS, size: int = 24, seed: int = 0) -> Path:
    """Write the download, and the truth about it beside the folder.

    Args:
        folder: where to; it becomes the raw folder, which holds the manifest's folder and the sheet.
        patients: how many there are; films, ICU patients and the rest are in proportion.
        size: shorter side of the pictures; CT slices have a half of it.
        seed: of everything random.
    """
    rng = np.random.default_rng([seed, 1])
    names = _names(patients, rng)
    shots = _download(names, rng)
    rows = _rows(names, np.random.default_rng([seed, 2]))
    for place, shot in enumerate(shots):
        _write_shot(folder / shot.file, shot, np.random.default_rng([seed, 3, place]), size)
    series = list(dict.fromkeys(shot.series for shot in shots))
    order = rng.permutation(len(series))
    write_index(folder / MANIFEST / "metadata.csv", (series[place] for place in order), doi=DOI, windows=True)
    _write_sheet(folder / TABLE, [rows[name] for name in sorted(rows)])
    found = {name: Truth(_expected(name, shots), *_outcomes(rows.get(name))) for name in names}
    _truth_file(folder).write_text(json.dumps({name: each._asdict() for name, each in found.items()}, indent=1))
    return folder


def truth(folder: Path) -> dict[str, Truth]:
    """The truth about a written download, by patient."""
    return {name: Truth(**each) for name, each in json.loads(_truth_file(folder).read_text()).items()}


def _truth_file(folder: Path) -> Path:
    """Beside the raw folder, where nobody who reads a download would look."""
    return folder.parent / f"{folder.name}.truth.json"


def _share(count: int, patients: int) -> int:
    return max(1, round(count * patients / PATIENTS))


def _names(patients: int, rng: np.random.Generator) -> list[str]:
    """Patients' names; the last few of them have no usable film, the one before these has no row in the sheet."""
    numbers = rng.choice(np.arange(16_400_000, 16_499_999), patients, replace=False)
    return [f"COVID-19-AR-{number}" for number in numbers]


def _outcomes(row: Mapping[str, Any] | None) -> tuple[bool | None, bool | None]:
    return (None, None) if row is None else (row["ICU Admit"] == "Y", row["MORTALITY"] == "Y")


def _expected(name: str, shots: Sequence[Shot]) -> str | None:
    fit = [shot for shot in shots if shot.series.patient == name and shot.chest_film and not shot.lateral]
    if not fit:
        return None
    return min(fit, key=lambda shot: (shot.series.date, shot.series.number, shot.image)).file


def _download(names: Sequence[str], rng: np.random.Generator) -> list[Shot]:
    """All files. The number of chest films comes out as in the collection: AP studies are added until it does."""
    filmless = _share(WITHOUT_FILM, len(names))
    shots: list[Shot] = []
    for place, name in enumerate(names):
        visit = Visit(name, "first", dt.date(2011, 12, 5) + dt.timedelta(days=int(rng.integers(20))), rng)
        with_film = place < len(names) - filmless
        shots += _with_film(visit, place) if with_film else _without_film(visit, place)
    missing = _share(FILMS, len(names)) - sum(shot.chest_film for shot in shots)
    for more in range(max(0, missing)):
        name = names[more % (len(names) - filmless)]
        shots += _ap_study(Visit(name, "later", dt.date(2012, 9, 1) + dt.timedelta(days=more), rng), 0, numbers=(1,))
    return shots


class Visit:
    """Makes the studies of one patient; `older` downloads have no `NA-` in the folders' names."""

    def __init__(self, name: str, label: str, start: dt.date, rng: np.random.Generator) -> None:
        self.name, self.label, self.start, self.rng = name, label, start, rng
        self.older = int(name[-1]) % 3 == 2
        self.studies = 0

    def study(self, description: str, day: int, modality: str) -> Series:
        """A study of that day, to be completed by `series`."""
        self.studies += 1
        date = self.start + dt.timedelta(days=day)
        study_uid = uid_of("ar", "study", self.name, self.label, self.studies)
        return Series(COLLECTION, self.name, study_uid, "", date, description, "", 0, modality, 1, self.older)

    def series(self, study: Series, number: int, description: str, images: int = 1) -> Series:
        """One series of the study."""
        series_uid = uid_of("ar", "series", study.study_uid, number)
        return study._replace(series_uid=series_uid, number=number, series=description, images=images)

    def one_of(self, choices: Sequence[Any]) -> Any:
        """One of them by chance."""
        return choices[int(self.rng.integers(len(choices)))]


def _with_film(visit: Visit, place: int) -> Iterator[Shot]:
    """The ten kinds of patients with a usable film, in turn."""
    kind = place % 10
    if kind < 4:
        yield from _ap_study(visit, 0)
    elif kind < 7:
        yield from _lateral_study(visit, 0, kind)
    elif kind == 7:
        yield from _acute_study(visit, 0)
        yield from _ap_study(visit, 3)
    elif kind == 8:
        # The earliest study is of the year before: as text, its date sorts last. CT of an earlier day is no film.
        yield from _ct_study(visit, -2)
        yield from _ap_study(visit, 60)
        yield from _ap_study(visit, 0)
    else:
        yield from _pa_study(visit, 1)
        yield from _kub_study(visit, 0)
    if place % 4 == 1:
        yield from _ct_study(visit, 5)
    if place % 5 == 0:
        yield from _ap_study(visit, 9)


def _without_film(visit: Visit, place: int) -> Iterator[Shot]:
    """Patients that have only CT, only a lateral, or only an abdomen, besides what is no picture of a patient."""
    kind = place % 3
    if kind == 0:
        yield from _ct_study(visit, 0)
    elif kind == 1:
        lateral = visit.series(visit.study(BOTH, 0, "DX"), 2, "LATERAL")
        yield Shot(lateral, 1, "LL", lateral=True)
    else:
        yield from _kub_study(visit, 0)


def _ap_study(visit: Visit, day: int, numbers: Sequence[int] = ()) -> Iterator[Shot]:
    """A frontal film, sometimes without a view or a description; sometimes two, whose numbers do not sort as text."""
    numbers = numbers or visit.one_of(((1,), (1001,), (1,), (2, 1001), (1, 2)))
    study = visit.study(visit.one_of(AP_STUDIES), day, visit.one_of(("CR", "DX")))
    described = visit.one_of(("AP", "AP", "PORTABLE", ""))
    view = visit.one_of(("AP", "AP", "", None))
    for number in numbers[::-1]:
        yield Shot(visit.series(study, number, described), 1, view, lateral=False)


def _pa_study(visit: Visit, day: int) -> Iterator[Shot]:
    study = visit.study(PA_ONLY, day, "DX")
    yield Shot(visit.series(study, 1, "PA"), 1, visit.one_of(("PA", None)), lateral=False)


def _lateral_study(visit: Visit, day: int, kind: int) -> Iterator[Shot]:
    """PA and lateral: the lateral first, or told by its description alone, or both views in one series."""
    study = visit.study(BOTH, day, "DX" if kind < 6 else "CR")
    if kind == 4:
        yield Shot(visit.series(study, 1, "LATERAL"), 1, visit.one_of(("LL", "RL", "LATERAL")), lateral=True)
        yield Shot(visit.series(study, 2, "PA"), 1, "PA", lateral=False)
    elif kind == 5:
        yield Shot(visit.series(study, 1001, "PA"), 1, None, lateral=False)
        yield Shot(
            visit.series(study, 1002, visit.one_of(("LATERAL", "LAT", "W034 Chest Lat."))), 1, None, lateral=True
        )
    else:
        both = visit.series(study, 1, "PA AND LATERAL", images=2)
        yield Shot(both, 1, "LL", lateral=True)
        yield Shot(both, 2, "PA", lateral=False)


def _acute_study(visit: Visit, day: int) -> Iterator[Shot]:
    """An abdominal series that has a film of the chest, which comes first."""
    study = visit.study(ACUTE, day, "CR")
    yield Shot(visit.series(study, 1, "PA CHEST"), 1, "PA", lateral=False)
    yield Shot(visit.series(study, 2, "ABDOMEN ERECT"), 1, "AP", lateral=False)


def _kub_study(visit: Visit, day: int) -> Iterator[Shot]:
    study = visit.study("XR ABDOMEN 1 VIEW PORTABLE", day, "CR")
    yield Shot(visit.series(study, 1, "AP"), 1, "AP", lateral=False)


def _ct_study(visit: Visit, day: int) -> Iterator[Shot]:
    """A scout, slices, a reformat of them, and a secondary capture."""
    study = visit.study(visit.one_of(CT_STUDIES), day, "CT")
    parts = (
        (1, "SCOUT", 2, ("ORIGINAL", "PRIMARY", "LOCALIZER")),
        (2, "AXIAL LUNG", int(visit.rng.integers(3, 12)), ("ORIGINAL", "PRIMARY", "AXIAL")),
        (601, "COR MPR", 3, ("DERIVED", "SECONDARY", "REFORMATTED")),
    )
    for number, description, images, kind in parts:
        series = visit.series(study, number, description, images)
        for image in range(1, images + 1):
            yield Shot(series, image, None, lateral=False, kind=kind)
    capture = visit.series(study._replace(modality="OT"), 999, "")
    yield Shot(capture, 1, None, lateral=False, kind=("DERIVED", "SECONDARY", "SCREEN SAVE"))


def _write_shot(path: Path, shot: Shot, rng: np.random.Generator, size: int) -> None:
    film = shot.series.modality in ("CR", "DX")
    bits = int(rng.choice([8, 10, 12, 12, 16])) if film else 12
    side = size if film else max(4, size // 2)
    pixels = radiograph(rng, (side, side + int(rng.integers(size // 4 + 1)) * film), bits)
    inverted = film and rng.random() < 0.2
    headers = shot.series.headers()
    headers.pop("SOPClassUID")
    write_dicom(
        path,
        pixels.dtype.type(2**bits - 1) - pixels if inverted else pixels,
        photometric="MONOCHROME1" if inverted else "MONOCHROME2",
        bits_stored=bits,
        window=(2 ** (bits - 1), 2**bits) if rng.random() < 0.5 else None,
        rescale=(1, -1024) if shot.series.modality == "CT" else None,
        view=shot.view,
        **headers,
        SOPInstanceUID=uid_of("ar", "instance", shot.series.series_uid, shot.image),
        ImageType=list(shot.kind),
        InstanceNumber=shot.image,
        AcquisitionDate=f"{shot.series.date:%Y%m%d}" if rng.random() < 0.8 else None,
    )


def _rows(names: Sequence[str], rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """The sheet's rows; the outcomes are counted among the patients that have a film."""
    filmless = _share(WITHOUT_FILM, len(names))
    with_film, without = names[: len(names) - filmless - WITHOUT_ROW], names[len(names) - filmless :]
    icu = set(rng.choice(with_film, _share(ICU, len(names)), replace=False).tolist())
    dead = set(rng.choice(with_film, _share(DEAD, len(names)), replace=False).tolist())
    return {name: _row(name, rng, icu=name in icu, dead=name in dead) for name in [*with_film, *without]}


def _row(name: str, rng: np.random.Generator, *, icu: bool, dead: bool) -> dict[str, Any]:
    row: dict[str, Any] = {column: "Y" if rng.random() < 0.1 else "N" for column in COLUMNS}
    height = int(rng.integers(58, 76))
    weight = int(rng.integers(110, 320))
    return row | {
        "PATIENT_ID": name,
        "AGE": int(rng.integers(19, 91)),
        "SEX": "F" if rng.random() < 0.55 else "M",
        "RACE": str(rng.choice(["Black or African American", "White", "Other", "Unknown"])),
        "ZIP": f"72{int(rng.integers(1000)):03d}",
        "LATEST_BMI": round(703 * weight / height**2, 1) if rng.random() > 0.1 else None,
        "LATEST WEIGHT": weight,
        "LATEST HEIGHT": height,
        "COVID TEST POSITIVE": "Y",
        "TEST NAME": "SARS-CoV-2 (COVID-19) by NAA",
        "ICU Admit": "Y" if icu else "N",
        "# ICU admits": int(rng.integers(1, 4)) if icu else 0,
        "MORTALITY": "Y" if dead else "N",
    }


def _write_sheet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    book = Workbook()
    sheet = book.active
    sheet.title = "Sheet1"
    sheet.append([TITLE])
    sheet.append(list(COLUMNS))
    for row in rows:
        sheet.append([row[column] for column in COLUMNS])
    book.save(path)
