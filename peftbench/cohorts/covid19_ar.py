"""COVID-19-AR: rural patients in Arkansas, from The Cancer Imaging Archive: chest films among CT and laterals."""

import pandas as pd

from peftbench.cohorts import nbia
from peftbench.cohorts.declaration import Cohort, Column, Keep, Label, Sheet
from peftbench.protocol.tasks import RowRule, Task

_VIEW = "dicom:ViewPosition"

_ILLNESSES = {
    "tuberculosis": "TUBERCULOSIS",
    "chronic_kidney_disease": "CHRONIC KIDNEY DISEASE",
    "diabetes_1": "DIABETES TYPE I",
    "diabetes_2": "DIABETES TYPE II",
    "transplant": "TRANSPLANT",
    "dialysis": "HEMODIALYSIS PRE DIAGNOSIS",
    "cancer": "CANCER",
}
"""From before the diagnosis. Weight and body mass index are the latest ones, which may be from after the film."""


def derive(table: pd.DataFrame) -> pd.DataFrame:
    """The view, by header or by the series' name; films in the order of their dates, then of their series."""
    described = zip(table[_VIEW], table["Series Description"], table["Study Description"], strict=True)
    views = []
    for position, series, study in described:
        view = nbia.view_of(position, series)
        # In a study with a lateral film, one that says nothing of its view may be that one.
        views.append(view or ("unstated" if "LATERAL" in study.upper() else ""))
    day = nbia.moments(table, "Study Date", "dicom:AcquisitionTime").round(6)
    number = table["dicom:SeriesNumber"].map(nbia.series_number)
    ordered = table.assign(film=views, day=day.map(repr), _day=day // 1, _number=number)
    # The whole day counts, then the series: clocks of different machines differ.
    ordered = ordered.sort_values(["_day", "_number", "day"], kind="stable", ignore_index=True)
    return ordered.assign(day=ordered["_day"].map(repr)).drop(columns=["_day", "_number"])


COHORT = Cohort(
    name="covid19-ar",
    title="COVID-19-AR",
    source="Desai et al., Chest imaging with clinical and genomic correlates representing a rural COVID-19 positive "
    "population, The Cancer Imaging Archive, doi 10.7937/TCIA.2020.PY71-5978",
    licence="CC BY 4.0",
    table=Sheet(files=("COVID_19_AR_ClinicalCorrelates*.xlsx", "*/COVID_19_AR_ClinicalCorrelates*.xlsx"), header=2),
    index=nbia.INDEX,
    file=nbia.FILE,
    match="Subject ID",
    key="PATIENT_ID",
    id="dicom:SOPInstanceUID",
    patient="Subject ID",
    center=Column(constant="Arkansas"),
    view=Column(column="film", values={"AP": "AP", "PA": "PA", "LATERAL": "LATERAL", "unstated": "unstated"}),
    order=Column(column="day", kind="order"),
    keep=(
        Keep(column="Modality", values=("CR", "DX"), reason="no radiograph: {value}"),
        Keep(column="Study Description", pattern="chest", reason="not of the chest: {value}"),
    ),
    labels={
        "icu": Label(
            column="ICU Admit",
            event=("Y", "yes", "1", "true"),
            no_event=("N", "no", "0", "false"),
            unknown=("", "?", "unknown", "n/a", "na"),
            per="patient",
        )
    },
    covariates={
        "age": Column(column="AGE", kind="number", optional=True),
        "sex": Column(column="SEX", optional=True),
        **{name: Column(column=column, optional=True) for name, column in _ILLNESSES.items()},
    },
    clinical=("age", "sex", *_ILLNESSES),
    needs=(
        "Series Description",
        "Study Description",
        "Study Date",
        _VIEW,
        "dicom:AcquisitionTime",
        "dicom:SeriesNumber",
    ),
    derives=("film", "day"),
    derive=derive,
    tasks=(
        Task(
            name="CAR",
            cohort="covid19-ar",
            question="Will the patient be admitted to intensive care, from the first frontal chest film?",
            label="icu",
            outcome="icu",
            rules=(
                RowRule(column="view", drop=("LATERAL",), reason="lateral"),
                RowRule(column="view", drop=("unstated",), reason="view not stated in a study with a lateral film"),
            ),
            first_image_only=True,
            caveat="about a hundred patients: a fold tests on some twenty",
        ),
    ),
    caveat="The paper keeps 99 films by a rule that it does not state; here it is each patient's earliest frontal one.",
)
