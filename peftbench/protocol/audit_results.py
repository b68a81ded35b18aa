"""What `splits audit` answers."""

from typing import Literal

import pandas as pd

from peftbench.protocol.results import Result

Kind = Literal["identical", "near", "features"]


class Torn(Result):
    """A unit (patient, or patients who share images) with several roles in a fold."""

    unit: str
    fold: str
    roles: list[str]


class AuditPair(Result):
    """Two images that are copies of one film, or seem to be.

    Attributes:
        kind: `identical` (the same canonical pixels), `near` (pixels say that they are copies), or `features` (pixels
            do not, but the embeddings are each other's nearest by far: look at them).
        sample: an image of the task.
        patient: its patient.
        other_cohort: of the other image; the task's own for pairs within it.
        other_sample: the other image.
        other_patient: its patient.
        score: 1 for identical images; correlation of the aligned pictures; cosine of the centred embeddings.
        mirrored: whether left and right are exchanged.
        inverted: whether black and white are.
        joined: whether their patients are one unit, so that no split parts them.
        folds_apart: folds in which they play different roles; null across cohorts.
        folds_leaking: those of them in which one tests and the other trains or validates; null across cohorts.
    """

    kind: Kind
    sample: str
    patient: str
    other_cohort: str
    other_sample: str
    other_patient: str
    score: float
    mirrored: bool = False
    inverted: bool = False
    joined: bool = False
    folds_apart: int | None = None
    folds_leaking: int | None = None


class SharedCounts(Result):
    """How many images of the task another cohort holds as well.

    Attributes:
        cohort: the other.
        named: whether the question was asked of it by name, so that a shared image counts for the verdict.
        images: images of the task that have an identical or near-identical one there.
        identical, near, features: pairs of each kind.
    """

    cohort: str
    named: bool
    images: int
    identical: int
    near: int
    features: int


class Grouping(Result):
    """Patients who are joined.

    Attributes:
        groups: how many.
        patients: who are in one of them.
        written: whether this run joined them.
        removed: whether this run undid an earlier joining.
        path: of the file.
    """

    groups: int
    patients: int
    written: bool
    removed: bool
    path: str


class AuditResult(Result):
    """What an audit found.

    Attributes:
        task, cohort: what was asked.
        scheme, seed, folds: of the division.
        images, patients, units: of the task.
        torn: units with several roles in a fold.
        within: pairs across the task's patients; leaking ones first.
        within_patient: pairs of identical or near-identical images of one patient, which harm nobody.
        across: pairs with other cohorts.
        shared: the same, counted by cohort.
        grouping: who is joined.
        backbones: cohort to the backbone whose features were asked (the task's own cohort: within it).
        thresholds: from which scores on pairs are listed.
        trust_features: whether `features` pairs count for verdict and grouping.
        leaking: number of torn units and of pairs that leak.
        clean: whether nothing leaks, and no cohort asked about by name shares an image with the task.
        seconds: of each phase.
    """

    task: str
    cohort: str
    scheme: str
    seed: int
    folds: int
    images: int
    patients: int
    units: int
    torn: list[Torn]
    within: list[AuditPair]
    within_patient: int
    across: list[AuditPair]
    shared: list[SharedCounts]
    grouping: Grouping
    backbones: dict[str, str]
    thresholds: dict[str, float]
    trust_features: bool
    leaking: int
    clean: bool
    seconds: dict[str, float]

    @property
    def frame(self) -> pd.DataFrame:
        """All pairs, one row each: within the task first."""
        rows = [pair.model_dump() for pair in (*self.within, *self.across)]
        return pd.DataFrame(rows, columns=list(AuditPair.model_fields))
