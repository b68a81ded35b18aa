"""Stony Brook, COVID-19-NY-SBU: 1,384 inpatients, from The Cancer Imaging Archive.

Almost every exposure is stored twice, raw and as processed for reading: the same moment, two series. The outcome is the
patient's, and the sicker a patient, the more films.
"""

import pandas as pd

from peftbench.cohorts import nbia
from peftbench.cohorts.columns import numbers
from peftbench.cohorts.declaration import Cohort, Column, Keep, Label, Sheet
from peftbench.protocol.tasks import RowRule, Task, TimeToEvent

SAME_EXPOSURE = 5.0
"""Seconds within which two films of a patient are one exposure."""

_TAGS = tuple(
    f"dicom:{tag}"
    for tag in ("ViewPosition", "AcquisitionTime", "SeriesNumber", "ImageType", "ReferencedImageSequence")
)


_BEFORE = (
    "htn", "dm", "cad", "hf_ef", "ckd", "malignancies", "copd", "other_lung_disease", "kidney_transplant",
    "smoking_status", "cough", "dyspnea", "nausea", "vomiting", "diarrhea", "abdominal_pain", "fever",
)  # fmt: skip
"""Illnesses and complaints that a patient came with. The laboratory's columns do not say on which day of the stay they
were measured, and dialysis may have begun in it: they are left out."""

_STAY = "length_of_stay"

_TIME = TimeToEvent(
    event="days_to_end_of_stay",
    censored="days_to_end_of_stay",
    origin="days from the film's day to the end of the stay, in death or in discharge; counted as if the patient's "
    "first film were of the day of admission, because the table's dates may be shifted otherwise than the films'. Who "
    "was discharged was not withdrawn by chance: it is the risk of death in hospital, not of death",
)


def derive(table: pd.DataFrame) -> pd.DataFrame:
    """Films in the order of their exposures, of each exposure the raw one first: its copies serve where it cannot."""
    moment = nbia.moments(table, "Study Date", "dicom:AcquisitionTime")
    films = table.assign(
        film=[nbia.view_of(position) for position in table["dicom:ViewPosition"]],
        _moment=moment,
        _timed=table["dicom:AcquisitionTime"].map(nbia.seconds).notna(),
        _number=table["dicom:SeriesNumber"].map(nbia.series_number),
    ).sort_values(["Subject ID", "_moment", "_number"], kind="stable", ignore_index=True)
    # In whole milliseconds: fractions of a day are not exact.
    gap = (films.groupby("Subject ID")["_moment"].diff() * 86_400_000).round() / 1000
    # Films without a time of day cannot be told to be one exposure.
    films["_exposure"] = (~(gap <= SAME_EXPOSURE) | ~films["_timed"]).cumsum()
    referring = films["dicom:ReferencedImageSequence"] != ""
    films["_processed"] = referring | films["dicom:ImageType"].str.upper().str.startswith("DERIVED")
    films = films.sort_values(["_exposure", "_processed", "_number"], kind="stable", ignore_index=True)
    exposures = films.groupby("_exposure")["_moment"].transform("min")
    number = films["_exposure"] - films.groupby("Subject ID")["_exposure"].transform("min") + 1
    films = films.assign(moment=exposures.map(repr), exposure=number.astype(str), stay_left=_stay_left(films))
    return films.drop(columns=["_moment", "_timed", "_number", "_exposure", "_processed"])


def _stay_left(films: pd.DataFrame) -> pd.Series:
    """Days from a film's day to the end of its patient's stay, the first film being of the first day."""
    if _STAY not in films.columns:
        return pd.Series([""] * len(films), index=films.index)
    day = films["_moment"] // 1
    since_first = day - day.groupby(films["Subject ID"]).transform("min")
    left = numbers(films, _STAY, strict=False) - since_first
    return left.map(lambda days: "" if pd.isna(days) else repr(float(days)))


_FRONTAL = RowRule(column="view", drop=("LATERAL",), reason="lateral")
_MANY = "the sicker a patient, the more films: prevalence by film is not that by patient"


def _task(name: str, label: str, *, once: bool = False, first: bool = False) -> Task:
    films = "the first frontal film" if first else "any film, each exposure once" if once else "any film"
    question = "Will the patient die in hospital" if label == "death" else "Will the patient need intensive care"
    return Task(
        name=name,
        cohort="stony-brook",
        question=f"{question}, from {films}?",
        label=label,
        outcome=label,
        rules=(_FRONTAL,) if first else (),
        once_per="exposure" if once or first else "",
        first_image_only=first,
        time=_TIME if label == "death" else None,
        caveat="" if first else _MANY if once else f"{_MANY}; almost every exposure is there twice",
    )


COHORT = Cohort(
    name="stony-brook",
    title="Stony Brook University COVID-19 positive cases (COVID-19-NY-SBU)",
    source="Saltz et al., Stony Brook University COVID-19 Positive Cases, The Cancer Imaging Archive, "
    "doi 10.7937/TCIA.BBAG-2690",
    licence="CC BY 4.0",
    table=Sheet(files=("deidentified_overlap_tcia*.csv", "*/deidentified_overlap_tcia*.csv")),
    index=nbia.INDEX,
    file=nbia.FILE,
    match="Subject ID",
    key="to_patient_id",
    id="dicom:SOPInstanceUID",
    patient="Subject ID",
    center=Column(constant="Stony Brook"),
    view=Column(column="film", values={"AP": "AP", "PA": "PA", "LATERAL": "LATERAL"}),
    order=Column(column="moment", kind="order"),
    keep=(
        Keep(column="Modality", values=("CR", "DX"), reason="no radiograph: {value}"),
        Keep(column="Study Description", pattern="^chest", reason="not of the chest: {value}"),
    ),
    labels={
        "death": Label(column="last.status", event=("deceased",), no_event=("discharged",), per="patient"),
        "icu": Label(column="is_icu", event=("True", "yes", "1"), no_event=("False", "no", "0"), per="patient"),
    },
    covariates={
        "exposure": Column(column="exposure"),
        "age": Column(column="age.splits", optional=True),
        "sex": Column(column="gender_concept_name", optional=True),
        "ventilated": Column(column="was_ventilated", optional=True),
        "days_to_end_of_stay": Column(column="stay_left", kind="number"),
        **{name: Column(column=f"{name}_v", optional=True) for name in _BEFORE},
    },
    clinical=("age", "sex", *_BEFORE),
    needs=("Study Date", *_TAGS),
    derives=("film", "moment", "exposure", "stay_left"),
    derive=derive,
    tasks=(
        _task("NY_small", "death", first=True),
        _task("NY_icu", "icu", first=True),
        _task("NY_all", "death"),
        _task("NY_all_dedup", "death", once=True),
        _task("NY_all_icu", "icu"),
        _task("NY_all_icu_dedup", "icu", once=True),
    ),
    caveat="Almost every exposure is stored twice, and patients who died have several times as many films as those who "
    "did not.",
)
