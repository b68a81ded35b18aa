"""Another cohort's task to test on: what both cohorts hold is left out, so that nothing tested was fitted on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from peftbench.errors import ConfigError
from peftbench.protocol.judging import task_facts
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace

FoldModels = Literal["averaged", "refitted"]
"""The mean score of the models of all folds; or one model, fitted on the whole cohort but for a validation part."""

TOLD_ELSEWHERE = frozenset({"fold_models", "models"})
"""Settings that a record of a test elsewhere has beside those of the record at home: which models spoke."""


def settings_at_home(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings of a test elsewhere those that decided its models; those of any other record as they are."""
    return {name: value for name, value in settings.items() if name not in TOLD_ELSEWHERE}


@dataclass(frozen=True)
class Elsewhere:
    """Another cohort's task, as far as it can be tested on.

    Attributes:
        rows: of the other task, without patients that the first cohort holds as well.
        removed_images: how many of its images were left out.
        removed_patients: of how many patients.
    """

    rows: TaskRows
    removed_images: int
    removed_patients: int

    @classmethod
    def of(cls, fitted: TaskRows, other: TaskRows, place: Workspace) -> "Elsewhere":
        """Leave out what both cohorts hold, by the digests of their pictures.

        A patient of the other cohort goes as a whole if any image of the patient's, used by the task or not, is one of
        the first cohort's.

        Args:
            fitted: rows of the task that is fitted on.
            other: rows of the task that is tested on.
            place: the workspace of both.

        Raises:
            ConfigError: the tasks ask for different outcomes or of the same cohort, or nothing is left.
        """
        ours, theirs = fitted.task, other.task
        if ours.outcome != theirs.outcome:
            raise ConfigError(
                f"--external {theirs.name}: its event is {theirs.outcome!r}, that of {ours.name} is {ours.outcome!r}: "
                "name a task with the same event (`peftbench list tasks`)"
            )
        if ours.cohort == theirs.cohort:
            raise ConfigError(
                f"--external {theirs.name}: it is of the cohort {ours.cohort!r}, as is {ours.name}: name a task of "
                "another cohort"
            )
        known = set(_manifest(ours.cohort, place)["image_digest"])
        frame = _manifest(theirs.cohort, place)
        shared = set(frame.loc[frame["image_digest"].isin(known), "patient_id"])
        gone = other.frame["patient_id"].isin(shared).to_numpy(dtype=bool)
        kept = other._replace(frame=other.frame.loc[~gone].reset_index(drop=True))
        if not 0 < kept.events < kept.images:
            raise ConfigError(
                f"--external {theirs.name}: without the {len(shared)} patients whose images {ours.cohort!r} holds "
                f"as well "
                f"{kept.images} images are left, {kept.events} with the event: both outcomes are needed"
            )
        return cls(kept, int(gone.sum()), int(other.frame.loc[gone, "patient_id"].nunique()))

    def remarks(self, fitted: str) -> list[str]:
        """What a reader must know: how much was left out of the test, if anything.

        Args:
            fitted: the cohort that is fitted on.
        """
        if not self.removed_images:
            return []
        return [
            f"{self.removed_images} images of {self.removed_patients} patients of {self.rows.task.name} are left out: "
            f"{fitted} holds some of their images as well"
        ]

    def facts(self, fitted: TaskRows, fold_models: FoldModels) -> dict[str, Any]:
        """What a record's provenance says of the test.

        Args:
            fitted: rows of the task that was fitted on.
            fold_models: which models speak.
        """
        return {
            "how": fold_models,
            "removed_images": self.removed_images,
            "removed_patients": self.removed_patients,
            "fitted_on": task_facts(fitted),
        }


def _manifest(cohort: str, place: Workspace) -> pd.DataFrame:
    return Manifest.read(cohort, place.manifest(cohort)).frame
