"""A division as it is used, saved and checked, whichever scheme made it."""

import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from peftbench.errors import SplitError
from peftbench.protocol.splits.units import units
from peftbench.protocol.tasks import TaskRows
from stores.atomic import write_atomic
from stores.keys import canonical_json, digest_of

Role = Literal["train", "validation", "test"]

ROLES: tuple[Role, ...] = ("train", "validation", "test")

UNUSED = "unused"
"""Stands for a role where a row plays none in a fold: a user's own split need not name every row."""

COVERING = ("k-fold", "LOCO")
"""Schemes in which every unit tests exactly once."""

SHOWN = 3
"""Pseudonyms that a message shows."""

_ABOUT = b"peftbench.split"
_DIGEST = b"peftbench.digest"


@dataclass(frozen=True)
class Split:
    """A division of a task's patients.

    Attributes:
        task: its name.
        scheme: `k-fold`, `LOCO`, `hold-out`, or the name of a user's own split.
        seed: of the division.
        folds: how many.
        frame: one row an image and fold: `fold`, `role`, `sample_id`, `patient_id`, fold after fold, in the order of
            the task's rows. A row that plays no role in a fold has the role `unused`.
        notes: what the user must know, e.g. that fewer folds were made than asked for.
        names: of the folds: the centre that tests in LOCO; by default their numbers.
        rows_digest: of the task's rows, in a split that holds for no others; else empty.
    """

    task: str
    scheme: str
    seed: int
    folds: int
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    rows_digest: str = ""

    def __post_init__(self) -> None:
        if not self.names:
            object.__setattr__(self, "names", self._numbers)
        if len(self.names) != self.folds:
            raise ValueError(f"{self.folds} folds need as many names, got {self.names}")

    @property
    def _numbers(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.folds)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the division: task, scheme, seed, every row's role in every fold, and names that are no numbers.

        Names that are numbers add nothing, and so the digests of k-fold are those of the first version.
        """
        said: list[Any] = [self.task, self.scheme, self.seed, self.frame.to_numpy().tolist()]
        return digest_of(said if self.names == self._numbers else [*said, list(self.names)])

    def positions(self, fold: int, role: Role) -> npt.NDArray[np.int64]:
        """Rows of the task's frame that play a role in a fold, increasing.

        Raises:
            SplitError: there is no such fold.
        """
        if not 0 <= fold < self.folds:
            raise SplitError(f"{self.task}: fold {fold} does not exist, expected 0 to {self.folds - 1}")
        return np.flatnonzero(self._roles[fold] == role).astype(np.int64)

    @cached_property
    def _roles(self) -> list[npt.NDArray[np.object_]]:
        """Fold by fold the roles of the task's rows; asked for some thousand times, so read off the frame once."""
        fold, role = self.frame["fold"].to_numpy(), self.frame["role"].to_numpy(dtype=object)
        return [role[fold == each] for each in range(self.folds)]

    @property
    def own(self) -> bool:
        """Whether it is a user's own split, which lies in the workspace since it was imported."""
        return bool(self.rows_digest)

    def unit_counts(self, rows: TaskRows) -> dict[Role, list[int]]:
        """Role to the number of units (patients) that play it in each fold.

        Args:
            rows: the task's rows.
        """
        unit = units(rows.frame).to_numpy()
        folds = range(self.folds)
        return {role: [len(set(unit[self.positions(fold, role)])) for fold in folds] for role in ROLES}

    def check(self, rows: TaskRows) -> Self:
        """Hold the division against its law; answers itself.

        It divides these rows and no others. In a fold all rows of a unit that play a role play the same. Over the
        folds each unit tests at most once; in k-fold and LOCO exactly once, and every row plays a role.

        Args:
            rows: the task's rows, in the order in which they were divided.

        Raises:
            SplitError: it breaks the law; the message says where.
        """
        self._check_rows(rows)
        unit = np.tile(units(rows.frame).to_numpy(), self.folds)
        used = self.frame.assign(unit=unit)[self.frame["role"] != UNUSED]
        self._check_roles(used)
        tests = used[used["role"] == "test"].groupby("unit")["fold"].nunique()
        if (tests > 1).any():
            raise SplitError(
                f"{self.task}: {_listed(tests.index[tests > 1])} in the test part of more than one fold, so that "
                "scores would count them twice: let each test once, or keep repetitions as splits of their own names"
            )
        if self.scheme in COVERING and (len(used) != len(self.frame) or len(tests) != len(set(unit))):
            raise SplitError(
                f"{self.task}: a {self.scheme} split must test everybody once, this one tests {len(tests)} of "
                f"{len(set(unit))}: make it again"
            )
        return self

    def _check_rows(self, rows: TaskRows) -> None:
        expected = np.tile(rows.frame["sample_id"].to_numpy(dtype=object), self.folds)
        numbers = np.repeat(np.arange(self.folds), len(rows.frame))
        same = len(self.frame) == len(expected) and (
            (self.frame["sample_id"].to_numpy(dtype=object) == expected).all()
            and (self.frame["fold"].to_numpy() == numbers).all()
        )
        if rows.task.name != self.task or not same:
            raise SplitError(
                f"a split of {self.task} was made for other rows than these of {rows.task.name} "
                f"({len(rows.frame)} images): make it again"
            )

    def _check_roles(self, used: pd.DataFrame) -> None:
        unknown = sorted(set(used["role"]) - set(ROLES))
        if unknown:
            raise SplitError(f"{self.task}: unknown roles {', '.join(unknown)}, expected {', '.join(ROLES)}")
        roles = used.groupby(["unit", "fold"])["role"].nunique()
        torn = roles[roles > 1].reset_index()
        if len(torn):
            fold = int(torn["fold"].iloc[0])
            at = used[used["unit"].isin(torn.loc[torn["fold"] == fold, "unit"]) & (used["fold"] == fold)]
            joined = at.groupby("unit")["patient_id"].nunique().max() > 1
            why = " (patients who share images count as one)" if joined else ""
            raise SplitError(
                f"{self.task}, fold {self.names[fold]!r}: {_listed(at['patient_id'])} in more than one role{why}, so "
                "that what is learnt in training leaks into the test: give all images of a patient, and of patients "
                "who share images, the same role in a fold"
            )

    def save(self, folder: Path) -> Path:
        """Write as Parquet under a name that holds the digest; answers the path. What is there already stays."""
        path = folder / f"{self.scheme}-{self.folds}-seed{self.seed}-{self.digest[:12]}.parquet"
        if not self.lies_at(path):
            folder.mkdir(parents=True, exist_ok=True)
            self.write(path)
        return path

    def lies_at(self, path: Path) -> bool:
        """Whether this very division is what is saved there."""
        try:
            return path.is_file() and load(path).digest == self.digest
        except SplitError:
            return False

    def write(self, path: Path) -> None:
        """Save as Parquet, all or nothing; the file says what it is, and proves it by a digest."""
        about = {"task": self.task, "scheme": self.scheme, "seed": self.seed, "folds": self.folds}
        about |= {"names": list(self.names), "notes": list(self.notes), "rows_digest": self.rows_digest}
        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        said = {_ABOUT: canonical_json(about).encode(), _DIGEST: _seal(about, self.digest).encode()}
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **said}), buffer)
        write_atomic(path, buffer.getvalue())


def load(path: Path) -> Split:
    """A split that was saved.

    Raises:
        SplitError: there is none, it is damaged, or its digest is not that of its rows.
    """
    if not path.is_file():
        raise SplitError(f"there is no split {path}: run `peftbench probe` or `peftbench splits import`")
    try:
        table = pq.read_table(path)
        said = table.schema.metadata or {}
        about = json.loads(said[_ABOUT])
        words = {**about, "names": tuple(about["names"]), "notes": tuple(about["notes"])}
        split = Split(frame=table.to_pandas(), **words)
        sound = said[_DIGEST].decode() == _seal(about, split.digest)
    except (KeyError, ValueError, TypeError, OSError, pa.ArrowException) as error:
        raise _damaged(path, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    if not sound:
        raise _damaged(path, "its rows are not those that were written")
    return split


def _seal(about: dict[str, Any], digest: str) -> str:
    return digest_of([about, digest])


def _damaged(path: Path, what: str) -> SplitError:
    return SplitError(f"the split {path} is damaged, or of another version ({what}): delete it and make it again")


def roles_of(frame: pd.DataFrame, fold: int, test: set[str], validation: set[str]) -> pd.DataFrame:
    """One fold of a split's frame: units in `test` test, those in `validation` validate, all others train."""
    unit = units(frame)
    role = np.where(unit.isin(test), "test", np.where(unit.isin(validation), "validation", "train"))
    return fold_frame(frame, fold, role)


def fold_frame(frame: pd.DataFrame, fold: int, role: npt.NDArray[Any]) -> pd.DataFrame:
    """One fold of a split's frame, from a role for each of the task's rows."""
    return pd.DataFrame(
        {"fold": fold, "role": role, "sample_id": frame["sample_id"], "patient_id": frame["patient_id"]}
    )


def undefined_scores(rows: TaskRows, frame: pd.DataFrame, names: tuple[str, ...]) -> tuple[str, ...]:
    """A note for each kind of test part that has one class only, with the metrics that are undefined there.

    Args:
        rows: the task's rows.
        frame: of the split.
        names: of its folds.
    """
    event = frame["sample_id"].map(dict(zip(rows.frame["sample_id"], rows.frame["event"], strict=True)))
    tested = event[frame["role"] == "test"].groupby(frame["fold"]).agg(["min", "max"])
    notes = []
    for value, lacking, missed in ((0, "no image with the event", "sensitivity"), (1, "only the event", "specificity")):
        folds = [repr(names[int(fold)]) for fold in tested.index[(tested["min"] == value) & (tested["max"] == value)]]
        if folds:
            notes.append(
                f"{rows.task.name}: the test part of fold {', '.join(folds)} has {lacking}: MCC, PR-AUC, ROC-AUC, "
                f"balanced accuracy, F1 and {missed} are undefined there and left out of the means"
            )
    return tuple(notes)


def _listed(names: Any) -> str:
    """`3 patients (p-1, p-2, p-3) are`, of names that may repeat."""
    distinct = sorted(set(map(str, names)))
    more = ", ..." if len(distinct) > SHOWN else ""
    verb = "is" if len(distinct) == 1 else "are"
    return f"{len(distinct)} patient{'s' * (len(distinct) > 1)} ({', '.join(distinct[:SHOWN])}{more}) {verb}"
