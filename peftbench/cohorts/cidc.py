"""COVID-19 image data collection (ieee8023/covid-chestxray-dataset): gathered from publications and from Hannover.

Many of its images are Hannover's own, re-saved: `peftbench splits audit` finds them where both are prepared.
"""

from peftbench.cohorts.declaration import Cohort, Column, Keep, Label, Sheet
from peftbench.protocol.tasks import RowRule, Task

_FRONTAL = RowRule(column="view", values=("AP", "PA"), reason="lateral, or the view is not stated")
_UNSTATED = ("", "?", "Would have been stated", "unclear", "unknown")
_MEASURED = ("temperature", "pO2_saturation", "leukocyte_count", "neutrophil_count", "lymphocyte_count")
"""Of the image's own row; on which day they were measured the collection does not say. What is told of the whole
illness (`intubated`, `needed_supplemental_O2`) or is the outcome already seen (`in_icu`, `intubation_present`) is left
out."""

_CAVEAT = "images come from some fifty places, many as figures of articles; who was published is no random choice"

COHORT = Cohort(
    name="cidc",
    title="COVID-19 image data collection",
    source="Cohen et al., COVID-19 Image Data Collection: Prospective Predictions are the Future, arXiv 2006.11988",
    licence="per image, in its metadata.csv",
    table=Sheet(files=("metadata.csv",)),
    images=("images",),
    file="{folder}/{filename}",
    id="filename",
    patient="patientid",
    center=Column(column="location"),
    view=Column(
        column="view",
        values={"PA": "PA", "AP": "AP", "AP Supine": "AP", "AP Erect": "AP", "AP semi erect": "AP", "L": "LATERAL"},
        others="",
    ),
    order=Column(column="offset", kind="number"),
    keep=(
        Keep(column="modality", values=("X-ray",), reason="no radiograph: {value}"),
        Keep(column="finding", pattern="covid-19", reason="finding: {value}"),
    ),
    labels={
        "icu": Label(column="went_icu", event=("Y",), no_event=("N",), unknown=_UNSTATED),
        "death": Label(column="survival", event=("N",), no_event=("Y",), unknown=_UNSTATED),
    },
    covariates={
        "age": Column(column="age", kind="number", optional=True),
        "sex": Column(column="sex", optional=True),
        **{name: Column(column=name, kind="number", optional=True) for name in _MEASURED},
    },
    clinical=("age", "sex", *_MEASURED),
    tasks=(
        Task(
            name="CIDC_icu",
            cohort="cidc",
            question="Was or will the patient be in intensive care, from any frontal film?",
            label="icu",
            outcome="icu",
            rules=(_FRONTAL,),
            caveat=_CAVEAT,
        ),
        Task(
            name="CIDC_m",
            cohort="cidc",
            question="Will the patient die, from any frontal film?",
            label="death",
            outcome="death",
            rules=(_FRONTAL,),
            caveat=_CAVEAT,
        ),
    ),
    caveat="A collection of published cases. Many images are also in the Hannover set: never train on one and "
    "test on the other.",
)
