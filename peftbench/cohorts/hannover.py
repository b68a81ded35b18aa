"""Hannover: the COVID-19 image repository of the Hannover Medical School (CC BY 3.0).

Offsets in its table are days relative to the exam, negative before it.
"""

import pandas as pd

from peftbench.cohorts.columns import numbers
from peftbench.cohorts.declaration import Cohort, Column, Label, Sheet
from peftbench.protocol.tasks import RowRule, Task

_VIEW_CAVEAT = "patients in intensive care are filmed lying down (AP): the view alone tells much of the outcome"


def derive(table: pd.DataFrame) -> pd.DataFrame:
    """A patient ever admitted to the ICU, or who died, carries the event in every image."""
    patient = table["patient_id"]
    ever = {
        name: numbers(table, column).notna().groupby(patient).transform("any").map({True: "yes", False: "no"})
        for name, column in (("icu", "icu_admission_offset"), ("death", "death_offset"))
    }
    days = -numbers(table, "admission_offset")
    return table.assign(**ever, days_since_admission=days.map(lambda day: "" if pd.isna(day) else repr(float(day))))


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
    },
    needs=("admission_offset", "icu_admission_offset", "death_offset"),
    derives=("icu", "death", "days_since_admission"),
    derive=derive,
    tasks=(
        Task(
            name="HAN_icu",
            cohort="hannover",
            question="Will the patient be admitted to intensive care, from the first image?",
            label="icu",
            outcome="icu",
            first_image_only=True,
            caveat=f"{_VIEW_CAVEAT}; some first images were taken after admission to the ICU",
        ),
        Task(
            name="HAN_icu_prospective",
            cohort="hannover",
            question="Will the patient be admitted to intensive care, from images up to the day of admission?",
            label="icu",
            outcome="icu",
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
            caveat=f"{_VIEW_CAVEAT}; most images were taken in the ICU and show its tubes and lines",
        ),
        Task(
            name="HAN_m_all",
            cohort="hannover",
            question="Will the patient die, from any image?",
            label="death",
            outcome="death",
            caveat="five patients died: any score rests on a handful of people",
        ),
    ),
    caveat="One hospital, 71 patients. View and outcome go together: 179 of the 194 AP images are of ICU patients, "
    "7 of the 49 PA images.",
)
