"""Hannover: the COVID-19 image repository of the Hannover Medical School (CC BY 3.0).

Offsets in its table are days relative to the exam, negative before it.
"""

import pandas as pd

from peftbench.cohorts.columns import numbers
from peftbench.cohorts.declaration import Cohort, Column, Label, Sheet
from peftbench.protocol.tasks import RowRule, Task, TimeToEvent

LABS = ("crp", "d-dimer", "factor_xii", "ldh", "lymphocytes", "neutrophils", "pco2", "po2")
"""Blood values; each has a value (minus or plus infinity beyond the limits of detection) and the day it was drawn."""

_VIEW_CAVEAT = "patients in intensive care are filmed lying down (AP): the view alone tells much of the outcome"


_FOLLOW_UP = (
    "days from the film's day; without the event the observation ends on the last day from which the patient has a "
    "film, a blood value, a discharge from the ICU or a death: nothing is known of those who left after one film, so "
    "that few of the patients who recovered are counted"
)


def derive(table: pd.DataFrame) -> pd.DataFrame:
    """The outcomes, the day, how long the patient was still seen, and the blood values known on the film's day.

    A patient ever admitted to the ICU, or who died, carries the event in every image.
    """
    patient = table["patient_id"]
    ever = {
        name: numbers(table, column).notna().groupby(patient).transform("any").map({True: "yes", False: "no"})
        for name, column in (("icu", "icu_admission_offset"), ("death", "death_offset"))
    }
    days = -numbers(table, "admission_offset")
    return table.assign(
        **ever,
        **_known_labs(table),
        days_since_admission=_texts(days),
        days_observed=_texts(_last_day(table, days).groupby(patient).transform("max") - days),
    )


def _texts(values: "pd.Series[float]") -> pd.Series:
    return values.map(lambda value: "" if pd.isna(value) else repr(float(value)))


def _known_labs(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Blood values drawn before the film or on its day; the table also holds some drawn up to two weeks after it."""
    known = {}
    for lab in LABS:
        if {f"{lab}_val", f"{lab}_offset"} <= set(table.columns):
            drawn = numbers(table, f"{lab}_offset", strict=False) <= 0
            known[f"{lab}_known"] = table[f"{lab}_val"].where(drawn, "")
    return known


def _last_day(table: pd.DataFrame, days: "pd.Series[float]") -> "pd.Series[float]":
    """The last day, since admission, on which a row shows its patient under observation."""
    seen = ["icu_admission_offset", "icu_release_offset", "death_offset", *(f"{lab}_offset" for lab in LABS)]
    later = [numbers(table, column, strict=False) for column in seen if column in table.columns]
    return days + pd.concat(later, axis=1).max(axis=1).clip(lower=0).fillna(0)


def _lab_name(lab: str) -> str:
    return lab.replace("-", "_")


def _time(event: str) -> TimeToEvent:
    return TimeToEvent(event=f"days_to_{event}", censored="days_observed", origin=_FOLLOW_UP)


COHORT = Cohort(
    name="hannover",
    title="Hannover, COVID-19 image repository",
    source="Winther et al., COVID-19 Image Repository, Hannover Medical School, doi 10.6084/m9.figshare.12275009",
    licence="CC BY 3.0",
    table=Sheet(files=("data.csv",)),
    images=("png",),
    file="{image_id}.png",
    id="image_id",
    patient="patient_id",
    center=Column(constant="Hannover"),
    view=Column(column="projection", values={"ap": "AP", "pa": "PA"}),
    order=Column(column="days_since_admission", kind="number"),
    labels={
        "icu": Label(column="icu", event=("yes",), no_event=("no",)),
        "death": Label(column="death", event=("yes",), no_event=("no",)),
    },
    covariates={
        "days_to_icu": Column(column="icu_admission_offset", kind="number"),
        "days_to_death": Column(column="death_offset", kind="number"),
        "sex": Column(column="sex"),
        "modality": Column(column="modality"),
        "days_observed": Column(column="days_observed", kind="number"),
        # Redacted in the versions published so far: the columns are there and empty.
        **{name: Column(column=name, kind="number", optional=True) for name in ("age", "size", "weight")},
        **{_lab_name(lab): Column(column=f"{lab}_known", kind="number", optional=True) for lab in LABS},
    },
    needs=("admission_offset", "icu_admission_offset", "death_offset"),
    derives=("icu", "death", "days_since_admission", "days_observed"),
    derive=derive,
    clinical=("sex", "age", "size", "weight", *map(_lab_name, LABS)),
    tasks=(
        Task(
            name="HAN_icu",
            cohort="hannover",
            question="Will the patient be admitted to intensive care, from the first image?",
            label="icu",
            outcome="icu",
            time=_time("icu"),
            first_image_only=True,
            caveat=f"{_VIEW_CAVEAT}; some first images were taken after admission to the ICU",
        ),
        Task(
            name="HAN_icu_prospective",
            cohort="hannover",
            question="Will the patient be admitted to intensive care, from images up to the day of admission?",
            label="icu",
            outcome="icu",
            time=_time("icu"),
            rules=(
                RowRule(
                    column="days_to_icu",
                    minimum=0,
                    keep_missing=True,
                    reason="taken after admission to the ICU",
                ),
            ),
            caveat=f"{_VIEW_CAVEAT}, even before the ICU",
        ),
        Task(
            name="HAN_icu_all",
            cohort="hannover",
            question="Was or will the patient be in intensive care, from any image?",
            label="icu",
            outcome="icu",
            time=_time("icu"),
            caveat=f"{_VIEW_CAVEAT}; most images were taken in the ICU and show its tubes and lines",
        ),
        Task(
            name="HAN_m_all",
            cohort="hannover",
            question="Will the patient die, from any image?",
            label="death",
            outcome="death",
            time=_time("death"),
            caveat="five patients died: any score rests on a handful of people",
        ),
    ),
    caveat="One hospital, 71 patients. View and outcome go together: 179 of the 194 AP images are of ICU patients, "
    "7 of the 49 PA images.",
)
