"""What the verbs of `splits` answer: the objects behind `--json`, in the shape that is kept stable."""

import pandas as pd

from peftbench.protocol.results import Result


class FoldRole(Result):
    """Who plays a role in a fold.

    Attributes:
        patients: number of patients.
        images: number of images.
        event_patients: patients with the event in at least one of these images.
        centers: centre that a patient belongs to, to the number of such patients; empty where none is known.
    """

    patients: int
    images: int
    event_patients: int
    centers: dict[str, int]


class SplitFold(Result):
    """One fold of a split.

    Attributes:
        fold: from 0.
        name: the centre that tests in LOCO, else a label.
        roles: `train`, `validation` and `test` to who plays it.
    """

    fold: int
    name: str
    roles: dict[str, FoldRole]


class SplitsShowResult(Result):
    """How a task is divided.

    Attributes:
        task: the question.
        scheme: `k-fold`, `LOCO`, `hold-out`, or the name of an imported split.
        seed: of the division.
        digest: of the division.
        patients: of the task.
        units: of division: fewer than patients where patients who share images count as one.
        folds: one entry a fold.
        notes: what a reader must know.
        imported: names of the task's imported splits.
    """

    task: str
    scheme: str
    seed: int
    digest: str
    patients: int
    units: int
    folds: list[SplitFold]
    notes: list[str]
    imported: list[str]

    @property
    def frame(self) -> pd.DataFrame:
        """One row a fold and role: `fold`, `name`, `role`, `patients`, `images`, `event_patients`."""
        return pd.DataFrame(
            [
                {"fold": each.fold, "name": each.name, "role": role, **found.model_dump(exclude={"centers"})}
                for each in self.folds
                for role, found in each.roles.items()
            ]
        )


class SplitsExportResult(Result):
    """Where a split was written.

    Attributes:
        task: the question.
        scheme: of the split.
        seed: of the division.
        digest: of the division.
        path: of the file.
        format: `csv`, `parquet` or `json`.
        rows: of the table.
        draws: support sets among them.
        written: false where the file was there already, to the byte.
    """

    task: str
    scheme: str
    seed: int
    digest: str
    path: str
    format: str
    rows: int
    draws: int
    written: bool


class SplitsImportResult(Result):
    """What became of a user's split file.

    Attributes:
        task: the question.
        name: of the split, for `--split`.
        path: where it lies in the workspace.
        digest: of the division.
        folds: one entry a fold.
        notes: what a reader must know.
        written: false where the very same split was imported before.
    """

    task: str
    name: str
    path: str
    digest: str
    folds: list[SplitFold]
    notes: list[str]
    written: bool
