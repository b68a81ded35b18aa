"""AIforCOVID: severity and mortality from the film at admission, six Italian hospitals, three releases.

Each release has a sheet and a folder; a sheet's `ImageFile` is the stem of a file's name. One patient a row.
"""

import pandas as pd

from peftbench.cohorts.declaration import Cohort, Column, Label, Sheet
from peftbench.protocol.tasks import Task

_DATE = r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[ T][\d:.]+)?"


def derive(table: pd.DataFrame) -> pd.DataFrame:
    """Hospitals in capitals; a date of death is a death, and its absence none, where the column holds dates."""
    death = table["Death"].str.strip()
    filled = death[death != ""]
    if len(filled) and filled.str.fullmatch(_DATE).all():
        death = death.map(lambda date: "yes" if date else "no")
    return table.assign(hospital=table["Hospital"].str.strip().str.upper(), died=death)


_MEASURED = {
    "temperature": "Temp_C",
    "days_of_fever": "DaysFever",
    "wbc": "WBC",
    "rbc": "RBC",
    "crp": "CRP",
    "fibrinogen": "Fibrinogen",
    "glucose": "Glucose",
    "pct": "PCT",
    "ldh": "LDH",
    "inr": "INR",
    "d_dimer": "D-dimer",
    "oxygen": "Ox_percentage",
    "pao2": "PaO2",
    "sao2": "SaO2",
    "paco2": "PaCO2",
    "ph": "pH",
}

_SAID = {
    "positive_at_admission": "Positivity at admission",
    "cough": "Cough",
    "difficulty_in_breathing": "DifficultyInBreathing",
    "cardiovascular_disease": "CardiovascularDisease",
    "ischemic_heart_disease": "IschemicHeartDisease",
    "atrial_fibrillation": "AtrialFibrillation",
    "heart_failure": "HeartFailure",
    "stroke": "Ictus",
    "high_blood_pressure": "HighBloodPressure",
    "diabetes": "Diabetes",
    "dementia": "Dementia",
    "copd": "BPCO",
    "cancer": "Cancer",
    "chronic_kidney_disease": "Chronic Kidney disease",
    "obesity": "Obesity",
    "position": "Position",
}
"""Findings and illnesses at admission, and how the patient lay for the film. `RespiratoryFailure` is left out: the
table does not say whether it is an illness from before or the failure that ventilation, the outcome, is for."""

_QUESTION = "from the film at admission, in a hospital that no training patient came from?"

COHORT = Cohort(
    name="aiforcovid",
    title="AIforCOVID imaging archive",
    source="Soda et al., AIforCOVID, Medical Image Analysis 74:102216, doi 10.1016/j.media.2021.102216",
    licence="on request from the AIforCOVID archive, for research",
    table=Sheet(files=("AIforCOVID*.xlsx",)),
    images=("imgs*",),
    file="{ImageFile}",
    id="ImageFile",
    patient="ImageFile",
    center=Column(column="hospital"),
    labels={
        "severity": Label(column="Prognosis", event=("SEVERE",), no_event=("MILD",)),
        "death": Label(
            column="died",
            event=("yes", "1", "y", "true", "death", "dead", "deceased", "died"),
            no_event=("no", "0", "n", "false", "alive", "survived", "discharged"),
        ),
    },
    covariates={
        "age": Column(column="Age", kind="number", optional=True),
        "sex": Column(column="Sex", optional=True),
        **{name: Column(column=column, kind="number", optional=True) for name, column in _MEASURED.items()},
        **{name: Column(column=column, kind="auto", optional=True) for name, column in _SAID.items()},
    },
    needs=("Hospital", "Death"),
    derives=("hospital", "died"),
    derive=derive,
    clinical=("age", "sex", *_MEASURED, *_SAID),
    tasks=(
        Task(
            name="AFC",
            cohort="aiforcovid",
            question=f"Will the course be severe (ventilation, intensive care or death), {_QUESTION}",
            label="severity",
            outcome="severity",
            scheme="LOCO",
            caveat="hospitals differ in prevalence and in their machines; F holds more patients than all others",
        ),
        Task(
            name="AFC_m",
            cohort="aiforcovid",
            question=f"Will the patient die, {_QUESTION}",
            label="death",
            outcome="death",
            scheme="LOCO",
            caveat="about one patient in seven died: small hospitals test on a few deaths",
        ),
    ),
    caveat="The view is not stated. Hospitals differ in prevalence: a model that recognises the hospital has learned "
    "something of the outcome.",
)
