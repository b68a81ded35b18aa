"""An imitation of Stony Brook's download, COVID-19-NY-SBU: index, 14,132 films of 1365 patients, clinical table.

Whatever is odd here is odd there: most exposures are stored twice, raw and contrast-processed, as two series of one
study; not every copy says that it is one; abdominal films are among the chest's; the years are 1900 and 1901; the dead
have several times as many films as the survivors; one laboratory column stands twice in the table.
"""

import csv
import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from dicom_kit import Pixels, quick_dicom, radiograph, uid_of
from nbia_kit import Series, write_index

MANIFEST = "manifest-1628608914773"
COLLECTION = "COVID-19-NY-SBU"
TABLE = "deidentified_overlap_tcia.csv.cleaned.csv_20210806.csv"
DOI = "10.7937/TCIA.BBAG-2690"


class Counts(NamedTuple):
    """How much there is of what at full scale. An exposure is a pair (raw and processed) or a single film.

    The facts fix the sums: 6,892 pairs + 348 singles = 14,132 films, of which 13,639 of the chest, 487 of the abdomen
    and 6 others; 2,623 DX; 44 PA; 9 lateral; 4,903 chest films of 177 deceased patients (27.7 each) and 8,736 of 1188
    survivors (7.4 each). How these sums split into pairs and singles, and the other modalities, are made up.
    """

    dead: int = 177
    alive: int = 1188
    dead_without_films: int = 6
    alive_without_films: int = 13
    dead_pairs: int = 2392
    dead_singles: int = 119
    alive_pairs: int = 4260
    alive_singles: int = 216
    abdomen_pairs: int = 237
    abdomen_singles: int = 13
    other_pairs: int = 3
    dx_pairs: int = 1279
    dx_singles: int = 65
    pa_pairs: int = 22
    lateral_pairs: int = 4
    lateral_singles: int = 1
    ct: int = 2600
    mr: int = 420
    nm: int = 90
    pt: int = 60
    ot: int = 380
    sr: int = 269

    def scaled(self, scale: float) -> "Counts":
        """Proportionally fewer of everything, at least one."""
        return Counts(*(max(1, round(count * scale)) for count in self))


CHEST = ("CHEST AP PORT", "CHEST AP VIEWONLY")
CHEST_BOTH = "CHEST PA AND LATERAL"
ABDOMEN = "ABDOMEN AP PORT"
OTHER = "RIBS UNILATERAL W PA CHEST"
"""A film that is not of the chest series although the word is in its description."""

OTHER_STUDIES = {
    "CT": ("CT CHEST WO CONTRAST", "CHEST CT ANGIO FOR PE", "CT ABDOMEN AND PELVIS W CONTRAST", "CT HEAD WO CONTRAST"),
    "MR": ("MRI BRAIN W WO CONTRAST", "MRI LUMBAR SPINE"),
    "NM": ("NM LUNG VENTILATION PERFUSION",),
    "PT": ("PET CT SKULL TO THIGH",),
    "OT": ("CHEST AP PORT", "CT CHEST WO CONTRAST"),
    "SR": ("CT CHEST WO CONTRAST", "ECHO COMPLETE"),
}
"""Studies that are not films; some of their descriptions start with CHEST all the same."""

SERIES = {
    "CT": ("SCOUT", "AXIAL LUNG", "COR MPR", "SAG MPR"),
    "MR": ("AX T2", "SAG T1"),
    "NM": ("PERFUSION",),
    "PT": ("AC WB",),
    "OT": ("Screen Save", ""),
    "SR": ("Dose Report",),
}

PAIR_WITHIN = 5
"""Seconds between the acquisition times of a raw film and its copy, at most."""


class Patient(NamedTuple):
    """What is true of a patient."""

    name: str
    deceased: bool
    films: bool
    visit: dt.datetime


class Film(NamedTuple):
    """One CR or DX file."""

    series: Series
    patient: Patient
    instance_uid: str
    exposure: int
    processed: bool
    raw_uid: str
    """What the copy's ReferencedImageSequence names; empty if it has none."""
    derived: bool
    """Whether ImageType says that it is the processed one."""
    view: str
    acquired: dt.datetime

    @property
    def chest(self) -> bool:
        """A film of the chest by its study's description."""
        return self.series.study.startswith("CHEST")

    @property
    def file(self) -> str:
        """Where it lies, relative to the raw folder."""
        return f"{MANIFEST}/{self.series.location}/1-1.dcm"


class Download(NamedTuple):
    """All that an imitation holds."""

    patients: list[Patient]
    films: list[Film]
    others: list[Series]


def download(scale: float = 1.0, seed: int = 0) -> Download:
    """What `write` writes, and how it is to be read."""
    counts = Counts() if scale == 1 else Counts().scaled(scale)
    rng = np.random.default_rng([seed, 1])
    everybody = _patients(counts, rng)
    exposures = _exposures(counts, everybody, rng)
    films = list(_films(exposures, everybody, rng))
    return Download(everybody, films, list(_others(counts, everybody, rng)))


def first_films(films: Sequence[Film]) -> dict[str, Film]:
    """Each patient's earliest raw frontal chest film: by date, then acquisition time, then series number."""
    chosen: dict[str, Film] = {}
    wanted = [film for film in films if film.chest and not film.processed and film.view != "LATERAL"]
    for film in sorted(wanted, key=lambda each: (each.series.date, each.acquired, each.series.number)):
        chosen.setdefault(film.patient.name, film)
    return chosen


def write(folder: Path, *, scale: float = 1.0, size: int = 8, seed: int = 0, ct: bool = True) -> Path:
    """Write the download.

    Args:
        folder: where to; it becomes the raw folder, which holds the manifest's folder and the clinical table.
        scale: share of the patients, films and other series.
        size: side of the pictures.
        seed: of everything random.
        ct: below full scale, write files of the other series too, one to three each. At full scale there are none.
    """
    content = download(scale, seed)
    others = content.others
    root = folder / MANIFEST
    if ct and scale < 1:
        others = [series._replace(images=min(series.images, 3)) for series in others]
        for number, series in enumerate(others):
            _write_other(root / series.location, series, np.random.default_rng([seed, 5, number]), size)
    rows = [film.series for film in content.films] + others
    order = np.random.default_rng([seed, 2]).permutation(len(rows))
    write_index(root / "metadata.csv", (rows[place] for place in order), doi=DOI, windows=False)
    _write_table(folder / TABLE, content.patients, np.random.default_rng([seed, 3]))
    for film in content.films:
        path = folder / film.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_film_bytes(film, size, seed))
    return folder


def _patients(counts: Counts, rng: np.random.Generator) -> list[Patient]:
    """The dead, then the survivors, then those of either without a film; their names tell nothing of that."""
    kinds = [
        *[(True, True)] * counts.dead,
        *[(False, True)] * counts.alive,
        *[(True, False)] * counts.dead_without_films,
        *[(False, False)] * counts.alive_without_films,
    ]
    names = rng.choice(np.arange(1, 2600), len(kinds), replace=False)
    start = dt.datetime(1900, 1, 1, 6)  # noqa: DTZ001
    return [
        Patient(f"A{name:06d}", deceased, films, start + dt.timedelta(days=int(rng.integers(545))))
        for name, (deceased, films) in zip(names, kinds, strict=True)
    ]


def _exposures(counts: Counts, everybody: Sequence[Patient], rng: np.random.Generator) -> pd.DataFrame:
    """One row an exposure: patient's place, description, whether paired, modality, view; a patient's in their order."""
    dead, alive = np.arange(counts.dead), counts.dead + np.arange(counts.alive)
    frame = pd.concat(
        [
            _shared_out(dead, counts.dead_pairs, counts.dead_singles, "", rng),
            _shared_out(alive, counts.alive_pairs, counts.alive_singles, "", rng),
            _scattered(len(dead) + len(alive), counts.abdomen_pairs, counts.abdomen_singles, ABDOMEN, rng),
            _scattered(len(dead) + len(alive), counts.other_pairs, 0, OTHER, rng),
        ]
    )
    frame = frame.iloc[rng.permutation(len(frame))].sort_values("patient", kind="stable").reset_index(drop=True)
    frame["chest"] = frame["study"] == ""
    frame.loc[frame["chest"], "study"] = rng.choice(CHEST, int(frame["chest"].sum()))
    frame["modality"] = "CR"
    for paired, count in ((True, counts.dx_pairs), (False, counts.dx_singles)):
        rows = np.flatnonzero(frame["paired"] == paired)
        frame.loc[rng.choice(rows, min(count, len(rows)), replace=False), "modality"] = "DX"
    frame["view"] = "AP"
    _set_views(frame, counts, rng)
    return frame


def _shared_out(
    patients: npt.NDArray[np.int64], pairs: int, singles: int, study: str, rng: np.random.Generator
) -> pd.DataFrame:
    """Exposures of a group: one for each patient, the rest in very unequal shares."""
    share = rng.gamma(0.9, size=len(patients))
    more = rng.choice(patients, max(0, pairs + singles - len(patients)), p=share / share.sum())
    owners = np.concatenate([patients, more])
    paired = rng.permutation(np.arange(len(owners)) >= singles)
    return pd.DataFrame({"patient": owners, "paired": paired, "study": study})


def _scattered(patients: int, pairs: int, singles: int, study: str, rng: np.random.Generator) -> pd.DataFrame:
    owners = rng.integers(patients, size=pairs + singles)
    return pd.DataFrame({"patient": owners, "paired": np.arange(len(owners)) >= singles, "study": study})


def _set_views(frame: pd.DataFrame, counts: Counts, rng: np.random.Generator) -> None:
    """A few exposures are lateral, where possible right after one that is PA; every patient keeps a frontal one."""
    chests = frame["chest"].groupby(frame["patient"]).transform("sum")
    follows = (frame["patient"].shift() == frame["patient"]) & frame["chest"].shift(fill_value=False)
    for paired, count in ((True, counts.lateral_pairs), (False, counts.lateral_singles)):
        fit = frame["chest"] & follows & (chests >= 8) & (frame["paired"] == paired)
        rows = np.flatnonzero(fit)
        frame.loc[rng.choice(rows, min(count, len(rows)), replace=False), "view"] = "LATERAL"
    before = np.flatnonzero((frame["view"].shift(-1) == "LATERAL") & frame["paired"] & (frame["view"] == "AP"))
    others = np.flatnonzero(frame["chest"] & frame["paired"] & (frame["view"] == "AP"))
    others = rng.permutation(np.setdiff1d(others, before))
    rows = np.concatenate([before, others])[: counts.pa_pairs]
    frame.loc[rows, "view"] = "PA"
    frame.loc[frame["view"] != "AP", "study"] = CHEST_BOTH


def _films(exposures: pd.DataFrame, everybody: Sequence[Patient], rng: np.random.Generator) -> Iterator[Film]:
    used = defaultdict[str, int](int)
    many = exposures["patient"].value_counts()
    previous, moment, study_uid = None, dt.datetime.min, ""  # noqa: DTZ901
    for place, row in enumerate(exposures.itertuples(index=False)):
        patient = everybody[row.patient]
        same = previous is not None and previous.patient == row.patient
        soon = moment + dt.timedelta(seconds=90)
        joins = same and row.study == previous.study and (row.view == "LATERAL" or rng.random() < 0.08)
        if joins and soon.date() == moment.date() and not _near_midnight(soon):
            moment = soon
        else:
            moment = _next_moment(moment if same else patient.visit, int(many[row.patient]), rng)
            study_uid = uid_of("sbu", "study", place)
        previous = row
        blank = Series(COLLECTION, patient.name, study_uid, "", moment.date(), row.study, row.view, 0, row.modality)
        raw = Film(
            blank, patient, "", place, processed=False, raw_uid="", derived=False, view=row.view, acquired=moment
        )
        for film in _copies(raw, rng) if row.paired else (_numbered(raw, 1),):
            number = used[study_uid] + film.series.number
            yield film._replace(series=film.series._replace(number=number))
        used[study_uid] += 2 if row.paired else 1


def _near_midnight(moment: dt.datetime) -> bool:
    return moment.time() > dt.time(23, 59, 40)


def _next_moment(moment: dt.datetime, exposures: int, rng: np.random.Generator) -> dt.datetime:
    """At least 20 minutes later, on average most of a day; a pair never falls into two days."""
    days = min(0.8, 150 / exposures)
    later = moment + dt.timedelta(minutes=20, seconds=int(rng.uniform(0, 2 * days) * 86400))
    return later - dt.timedelta(seconds=30) if _near_midnight(later) else later


def _numbered(film: Film, number: int) -> Film:
    """The film with its identifiers and its number among the series of the exposure."""
    words = (film.exposure, film.processed)
    series = film.series._replace(series_uid=uid_of("sbu", "series", *words), number=number)
    return film._replace(series=series, instance_uid=uid_of("sbu", "instance", *words))


def _copies(raw: Film, rng: np.random.Generator) -> tuple[Film, Film]:
    """The raw film and its copy. A copy that nothing tells as one comes second; of the others a few come first."""
    references, derived = bool(rng.random() < 0.7), bool(rng.random() < 0.5)
    later = raw.acquired + dt.timedelta(seconds=int(rng.integers(PAIR_WITHIN)))
    first = (references or derived) and rng.random() < 0.15
    times = (later, raw.acquired) if first else (raw.acquired, later)
    film = _numbered(raw._replace(acquired=times[0]), 2 if first else 1)
    copy = raw._replace(
        processed=True, raw_uid=film.instance_uid if references else "", derived=derived, acquired=times[1]
    )
    return film, _numbered(copy, 1 if first else 2)


def _others(counts: Counts, everybody: Sequence[Patient], rng: np.random.Generator) -> Iterator[Series]:
    """CT, MR and the rest; patients without a film have at least one CT."""
    bare = [patient for patient in everybody if not patient.films]
    for modality in OTHER_STUDIES:
        left, study = getattr(counts, modality.lower()), 0
        while left > 0:
            needy = modality == "CT" and study < len(bare)
            patient = bare[study] if needy else everybody[int(rng.integers(len(everybody)))]
            many = 1 if needy else min(left, int(rng.integers(1, 6)))
            yield from _other_study(modality, study, patient, many, rng)
            left, study = left - many, study + 1


def _other_study(modality: str, study: int, patient: Patient, many: int, rng: np.random.Generator) -> Iterator[Series]:
    date = (patient.visit + dt.timedelta(days=int(rng.integers(20)))).date()
    description = str(rng.choice(OTHER_STUDIES[modality]))
    for number in range(1, many + 1):
        yield Series(
            COLLECTION,
            patient.name,
            uid_of("sbu", modality, study),
            uid_of("sbu", modality, study, number),
            date,
            description,
            str(rng.choice(SERIES[modality])),
            number,
            modality,
            images=1 if modality in ("SR", "OT") else int(rng.integers(2, 300)),
        )


def _film_bytes(film: Film, size: int, seed: int) -> bytes:
    rng = np.random.default_rng([seed, 4, film.exposure])
    pixels = radiograph(rng, (size, size), 12, 0.5 if film.patient.deceased else 0.1)
    if film.processed:
        pixels = tone_curve(pixels, rng.uniform(0.4, 0.7))
    time = f"{film.acquired:%H%M%S}.{film.exposure % 1000:03d}"
    more: dict[str, Any] = {"PresentationIntentType": "FOR PRESENTATION"} if film.series.modality == "DX" else {}
    if film.raw_uid:
        referred = {"ReferencedSOPClassUID": film.series.headers()["SOPClassUID"]}
        more["ReferencedImageSequence"] = [referred | {"ReferencedSOPInstanceUID": film.raw_uid}]
    return quick_dicom(
        pixels,
        **film.series.headers(),
        **more,
        SOPInstanceUID=film.instance_uid,
        ImageType=("DERIVED" if film.derived else "ORIGINAL", "PRIMARY"),
        AcquisitionDate=f"{film.acquired:%Y%m%d}",
        AcquisitionTime=time,
        ViewPosition=film.view,
        InstanceNumber=1,
        WindowCenter=2048,
        WindowWidth=4096,
    )


def tone_curve(pixels: Pixels, gamma: float) -> Pixels:
    """12-bit samples through a rising curve, as contrast processing does."""
    return np.rint(4095 * (pixels / 4095) ** gamma).astype(np.uint16)


def _write_other(folder: Path, series: Series, rng: np.random.Generator, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in range(1, series.images + 1):
        pixels = None if series.modality == "SR" else radiograph(rng, (size, size))
        content = quick_dicom(
            pixels,
            **series.headers(),
            SOPInstanceUID=uid_of(series.series_uid, image),
            ImageType=("ORIGINAL", "PRIMARY", "LOCALIZER" if series.series == "SCOUT" else "AXIAL"),
            InstanceNumber=image,
        )
        (folder / f"1-{image:0{len(str(series.images))}d}.dcm").write_bytes(content)


ANALYTES = (
    "Oral temperature", "Heart rate", "Respiratory rate", "Systolic blood pressure", "Diastolic blood pressure",
    "Mean blood pressure", "Body mass index", "Oxygen saturation by Pulse oximetry", "Leukocytes", "Lymphocytes",
    "Neutrophils", "Monocytes", "Eosinophils", "Basophils", "Hemoglobin", "Hematocrit", "Platelets", "Erythrocytes",
    "Sodium", "Potassium", "Chloride", "Bicarbonate", "Calcium", "Magnesium", "Phosphate", "Urea nitrogen",
    "Creatinine", "Glucose", "Albumin", "Protein", "Bilirubin total", "Aspartate aminotransferase",
    "Alanine aminotransferase", "Alkaline phosphatase", "Lactate dehydrogenase", "Lactate", "C reactive protein",
    "Procalcitonin", "Ferritin", "Fibrin D-dimer DDU", "Fibrinogen", "INR", "aPTT", "Troponin T",
    "Natriuretic peptide B prohormone", "Interleukin 6", "Creatine kinase", "Hemoglobin A1c", "Triglyceride",
    "Cholesterol", "pH", "Carbon dioxide", "Oxygen", "Base excess",
)  # fmt: skip

COMORBIDITIES = (
    "kidney_replacement_therapy", "kidney_transplant", "htn", "dm", "cad", "hf_ef", "ckd", "malignancies", "copd",
    "other_lung_disease", "smoking_status", "cough", "dyspnea", "nausea", "vomiting", "diarrhea", "abdominal_pain",
    "fever",
)  # fmt: skip

TABLE_WIDTH = 131


def _columns() -> list[str]:
    first = [
        "to_patient_id", "covid19_statuses", "last.status", "age.splits", "gender_concept_name", "visit_start_datetime",
        "visit_concept_name", "is_icu", "was_ventilated", "invasive_vent_days", "length_of_stay",
        "Acute.Hepatic.Injury..during.hospitalization.", "Acute.Kidney.Injury..during.hospitalization.",
    ]  # fmt: skip
    first += [f"{name}_v" for name in COMORBIDITIES]
    specimens = ("Blood", "Serum or Plasma")
    labs = [
        f"{2000 + 37 * place}-{place % 10}_{analyte} in {specimen}"
        for place, (specimen, analyte) in enumerate((one, other) for one in specimens for other in ANALYTES)
    ]
    labs = labs[: TABLE_WIDTH - len(first) - 1]
    # One of them stands twice, far from itself.
    return [*first, *labs, labs[9]]


def _write_table(path: Path, patients: Sequence[Patient], rng: np.random.Generator) -> None:
    columns = _columns()
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(_clinical(patients[place], columns, rng) for place in rng.permutation(len(patients)))


def _clinical(patient: Patient, columns: Sequence[str], rng: np.random.Generator) -> list[Any]:
    icu = bool(rng.random() < (0.75 if patient.deceased else 0.15))
    ventilated = icu and bool(rng.random() < 0.8)
    age = rng.choice(["[18,59]", "(59,74]", "(74,90]"], p=(0.15, 0.35, 0.5) if patient.deceased else (0.5, 0.3, 0.2))
    first: dict[str, Any] = {
        "to_patient_id": patient.name,
        "covid19_statuses": "positive",
        "last.status": "deceased" if patient.deceased else "discharged",
        "age.splits": age,
        "gender_concept_name": "MALE" if rng.random() < 0.57 else "FEMALE",
        "visit_start_datetime": f"{patient.visit:%m/%d/%Y}",
        "visit_concept_name": "Inpatient Visit" if rng.random() < 0.8 else "Emergency Room Visit",
        "is_icu": icu,
        "was_ventilated": "Yes" if ventilated else "No",
        "invasive_vent_days": int(rng.integers(1, 40)) if ventilated else "",
        "length_of_stay": int(rng.integers(1, 60)),
    }
    row = list(first.values())
    for column in columns[len(row) :]:
        missing = rng.random() < 0.3
        told = "Yes" if rng.random() < 0.2 else "No"
        value = told if column.endswith(("_v", ".")) else f"{rng.gamma(4, 5):.1f}"
        row.append("" if missing else value)
    return row
