"""Tasks: a question asked of a cohort, as a declaration; and the rows that it uses, with the reasons for the rest."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict

from peftbench.errors import PeftbenchError
from peftbench.protocol.manifest import Manifest, cells
from stores.keys import digest_of

Unit = Literal["image", "patient"]


class EmptyTaskError(PeftbenchError, ValueError):
    """No row of the cohort is left for the task.

    Args:
        message: the sentence.
        exclusions: why the rows are left out.
    """

    def __init__(self, message: str, exclusions: "Sequence[Exclusion]" = ()) -> None:
        super().__init__(message)
        self.exclusions = tuple(exclusions)


class LabelError(PeftbenchError, ValueError):
    """A label holds a value that is neither class of its task."""


class RowRule(BaseModel):
    """A reason to leave rows of the manifest out.

    Attributes:
        column: of the manifest.
        reason: why a row that fails is left out, as printed in the flow of exclusions.
        minimum: keep rows whose value is at least this.
        values: keep rows whose value is one of these.
        drop: leave rows out whose value is one of these; rows without a value stay.
        keep_missing: whether rows without a value stay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    reason: str
    minimum: float | None = None
    values: tuple[str, ...] | None = None
    drop: tuple[str, ...] | None = None
    keep_missing: bool = False

    def keeps(self, frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Which rows stay, as a boolean vector."""
        if self.column not in frame.columns:
            raise LabelError(
                f"a rule names the column {self.column!r}, which the manifest lacks; it has "
                f"{', '.join(map(str, frame.columns))}: "
                "correct the rule, or name the column among the covariates, and prepare again"
            )
        column = frame[self.column]
        if self.drop is not None:
            return ~column.isin(self.drop).to_numpy(dtype=bool)
        kept: npt.NDArray[np.bool_] = column.notna().to_numpy(dtype=bool, copy=True)
        if self.minimum is not None:
            kept &= (column >= self.minimum).to_numpy(dtype=bool)
        if self.values is not None:
            kept &= column.isin(self.values).to_numpy(dtype=bool)
        if self.keep_missing:
            kept |= column.isna().to_numpy(dtype=bool)
        return kept


class TimeToEvent(BaseModel):
    """How long after the film the event came, or how long the patient was watched without it.

    Attributes:
        event: column of the manifest: days from the film to the event, of rows with the event.
        censored: column of the manifest: days from the film to the last day on which the patient is known to have been
            under observation, of rows without the event.
        origin: what the days are counted from and what ends the observation, as a sentence; with what a reader must
            know before believing a hazard.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: str
    censored: str
    origin: str = ""

    @property
    def columns(self) -> tuple[str, str]:
        """Both columns."""
        return self.event, self.censored


class Task(BaseModel):
    """A question asked of a cohort.

    Attributes:
        name: e.g. `HAN_icu`.
        cohort: whose manifest it reads.
        question: in a sentence.
        label: column of the manifest.
        event: the value of the label that is the positive class, always the adverse outcome.
        no_event: the value of the label that is the negative class; any other is refused.
        outcome: what the event is, comparable across cohorts (`icu`, `death`, `severity`).
        unit: what a headline score counts: images, or patients (mean score of a patient's images).
        rules: rows to leave out.
        once_per: column of the manifest; of a patient's images with one value only the first is kept.
        first_image_only: keep the earliest image of each patient.
        scheme: how patients are divided: `5-fold` (60/20/20, as many folds as the events allow), `LOCO` (each centre
            tests once), or `hold-out` (60/20/20, once).
        caveat: what a reader must know before believing a score.
        time: when the event came, where the cohort tells it; None where it does not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    cohort: str
    question: str
    label: str
    event: str = "yes"
    no_event: str = "no"
    outcome: str
    unit: Unit = "image"
    rules: tuple[RowRule, ...] = ()
    once_per: str = ""
    first_image_only: bool = False
    scheme: Literal["5-fold", "LOCO", "hold-out"] = "5-fold"
    caveat: str = ""
    time: TimeToEvent | None = None


class Exclusion(NamedTuple):
    """So many images left out, and why."""

    reason: str
    images: int


class TaskRows(NamedTuple):
    """What a task uses of a cohort.

    Attributes:
        task: the question.
        frame: its rows of the manifest, in the manifest's order, with `event` (0 or 1) as a column.
        exclusions: why the other rows are left out, in the order in which the rules were applied.
    """

    task: Task
    frame: pd.DataFrame
    exclusions: tuple[Exclusion, ...]

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.frame)

    @property
    def patients(self) -> int:
        """Number of patients."""
        return int(self.frame["patient_id"].nunique())

    @property
    def events(self) -> int:
        """Images with the event."""
        return int(self.frame["event"].sum())

    @property
    def event_patients(self) -> int:
        """Patients with the event in at least one image."""
        return int(self.frame.loc[self.frame["event"] == 1, "patient_id"].nunique())

    @property
    def prevalence(self) -> float:
        """Share of the images with the event, or of the patients where the task counts these: the chance of PR-AUC."""
        if self.task.unit == "patient":
            return self.event_patients / self.patients
        return self.events / self.images

    @property
    def digest(self) -> str:
        """SHA-256 over the task's rows: who, which picture, which label."""
        columns = ["sample_id", "patient_id", "view", "image_digest", "event"]
        return digest_of([self.task.name, cells(self.frame[columns])])


def rows_of(task: Task, manifest: Manifest) -> TaskRows:
    """The rows of a manifest that a task uses, and why the others are left out.

    Raises:
        EmptyTaskError: none is left.
        LabelError: a label is neither the event nor its absence, or a rule's column is missing.
    """
    frame = manifest.frame
    exclusions = []
    centered = (RowRule(column="center", reason="no centre"),) if task.scheme == "LOCO" else ()
    for rule in (RowRule(column=task.label, reason="no label"), *centered, *task.rules):
        kept = rule.keeps(frame)
        exclusions.append(Exclusion(rule.reason, int((~kept).sum())))
        frame = frame.loc[kept]
    if task.once_per:
        again = frame.duplicated(["patient_id", task.once_per]) & frame[task.once_per].notna()
        exclusions.append(Exclusion(f"another image of the same {task.once_per}", int(again.sum())))
        frame = frame.loc[~again]
    if task.first_image_only:
        later = frame["patient_id"].duplicated().to_numpy(dtype=bool)
        exclusions.append(Exclusion("not the patient's first image", int(later.sum())))
        frame = frame.loc[~later]
    if frame.empty:
        told = "; ".join(f"{each.reason}: {each.images}" for each in exclusions)
        raise EmptyTaskError(f"the task {task.name!r} has no image left of cohort {task.cohort!r} ({told})", exclusions)
    label = frame[task.label].astype(str)
    strange = sorted(set(label) - {task.event, task.no_event})
    if strange:
        raise LabelError(
            f"the label {task.label!r} of cohort {task.cohort!r} holds {', '.join(map(repr, strange[:5]))}, "
            f"expected {task.event!r} or {task.no_event!r}: prepare the cohort again"
        )
    events = (label == task.event).astype(np.int64)
    frame = frame.assign(event=events).reset_index(drop=True)
    return TaskRows(task, frame, tuple(each for each in exclusions if each.images))
