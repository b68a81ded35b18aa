"""Hannover: the COVID-19 image repository of the Hannover Medical School (CC BY 3.0).

Offsets in its table are days relative to the exam, negative before it.
"""

import pandas as pd

from peftbench.cohorts.columns import mapped, numbers
from peftbench.cohorts.declaration import Cohort
from peftbench.protocol.tasks import RowRule, Task

_VIEW_CAVEAT = "patients in intensive care are filmed lying down (AP): the view alone tells much of the outcome"


def harmonise(table: pd.DataFrame) -> pd.DataFrame:
    """The table's columns as canonical ones; a patient ever admitted to the ICU carries the event in every image."""
    to_icu = numbers(table, "icu_admission_offset")
    to_death = numbers(table, "death_offset")
    patient = table["patient_id"]
    return pd.DataFrame(
        {
            "patient": patient,
            "center": "Hannover",
            "view": mapped(table, "projection", {"ap": "AP", "pa": "PA", "": None}),
            "acquired": -numbers(table, "admission_offset"),
            "icu": to_icu.notna().groupby(patient).transform("any").map({True: "yes", False: "no"}),
            "death": to_death.notna().groupby(patient).transform("any").map({True: "yes", False: "no"}),
            "days_to_icu": to_icu,
            "days_to_death": to_death,
            "sex": table["sex"],
            "modality": table["modality"],
        }
    )


HANNOVER = Cohort(
    name="hannover",
    title="Hannover, COVID-19 image repository",
    source="Winther et al., COVID-19 Image Repository, Hannover Medical School, doi 10.6084/m9.figshare.12275009",
    licence="CC BY 3.0",
    table="data.csv",
    id_column="image_id",
    patient_column="patient_id",
    required=(
        "patient_id",
        "image_id",
        "admission_offset",
        "icu_admission_offset",
        "death_offset",
        "projection",
        "sex",
        "modality",
    ),
    file="png/{image_id}.png",
    harmonise=harmonise,
    tasks=(
        Task(
            name="HAN_icu",
            cohort="hannover",
            question="Will the patient be admitted to intensive care, from the first image?",
            label="icu",
            event="yes",
            no_event="no",
            outcome="icu",
            first_image_only=True,
            caveat=f"{_VIEW_CAVEAT}; some first images were taken after admission to the ICU",
        ),
        Task(
            name="HAN_icu_prospective",
            cohort="hannover",
            question="Will the patient be admitted to intensive care, from images up to the day of admission?",
            label="icu",
            event="yes",
            no_event="no",
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
            event="yes",
            no_event="no",
            outcome="icu",
            caveat=f"{_VIEW_CAVEAT}; most images were taken in the ICU and show its tubes and lines",
        ),
        Task(
            name="HAN_m_all",
            cohort="hannover",
            question="Will the patient die, from any image?",
            label="death",
            event="yes",
            no_event="no",
            outcome="death",
            caveat="five patients died: any score rests on a handful of people",
        ),
    ),
    caveat="One hospital, 71 patients. View and outcome go together: 179 of the 194 AP images are of ICU patients, "
    "7 of the 49 PA images.",
)
