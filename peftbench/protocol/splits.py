"""Who trains, validates and tests: always by patient, decided here for every path of the benchmark.

Patients are ordered by a digest of (seed, task, purpose, patient), not by a generator's stream: the division depends
on nothing but those words, on any machine and under any version of numpy. A split is saved with its digest.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.errors import SplitError
from peftbench.protocol.tasks import TaskRows
from stores.atomic import write_atomic
from stores.keys import digest_of

Role = Literal["train", "validation", "test"]

ROLES: tuple[Role, ...] = ("train", "validation", "test")

VALIDATION_SHARE = 0.2
"""Share of all patients that validate in k-fold: with five folds 60/20/20, as in the paper."""

HONEST_TEST_EVENTS = 2
"""Patients of the rarer class that a test part needs at least: with one, a fold's score is one patient's."""

FEWEST_FOLDS = 3
"""Below three folds less than half of the patients train."""


@dataclass(frozen=True)
class Split:
    """A division of a task's patients.

    Attributes:
        task: its name.
        scheme: `k-fold`.
        seed: of the division.
        folds: how many.
        frame: one row an image and fold: `fold`, `role`, `sample_id`, `patient_id`, in the order of the task's rows.
        notes: what the user must know, e.g. that fewer folds were made than asked for.
    """

    task: str
    scheme: str
    seed: int
    folds: int
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the division."""
        return digest_of([self.task, self.scheme, self.seed, self.frame.to_numpy().tolist()])

    def positions(self, fold: int, role: Role) -> npt.NDArray[np.int64]:
        """Rows of the task's frame that play a role in a fold."""
        roles = self.frame.loc[self.frame["fold"] == fold, "role"].to_numpy()
        return np.flatnonzero(roles == role).astype(np.int64)

    def save(self, folder: Path) -> Path:
        """Write as Parquet under a name that holds the digest; answers the path."""
        path = folder / f"{self.scheme}-{self.folds}-seed{self.seed}-{self.digest[:12]}.parquet"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            self.frame.to_parquet(buffer, index=False)
            write_atomic(path, buffer.getvalue())
        return path


def k_fold(rows: TaskRows, folds: int = 5, seed: int = 0) -> Split:
    """Stratified k-fold by patient: each patient tests once; a fifth of all patients validate in each fold.

    A patient counts as an event if any image does. As many folds are made as the rarer class allows with
    `HONEST_TEST_EVENTS` patients a test part, at least `FEWEST_FOLDS`; fewer than asked for is said in `notes`.

    Args:
        rows: the task's rows.
        folds: how many are wanted, at least `FEWEST_FOLDS`.
        seed: another one gives another division.

    Raises:
        SplitError: too few folds are asked for, or a class has fewer patients than roles.
    """
    if folds < FEWEST_FOLDS:
        raise SplitError(f"k-fold needs at least {FEWEST_FOLDS} folds (train, validation, test), got {folds}")
    events = patient_events(rows.frame)
    made, notes = _honest_folds(rows, events, folds)
    tests = _test_folds(events, made, _salt(rows, seed, "test"))
    parts = []
    for fold in range(made):
        rest = {patient: event for patient, event in events.items() if tests[patient] != fold}
        share = VALIDATION_SHARE * len(events) / len(rest)
        validation = carve(rest, share, _salt(rows, seed, f"validation {fold}"))
        parts.append(_roles(rows.frame, fold, {p for p, test in tests.items() if test == fold}, validation))
    return Split(rows.task.name, "k-fold", seed, made, pd.concat(parts, ignore_index=True), notes)


def ratio_of_test_to_train(folds: int) -> float:
    """Size of a test part by size of a training part, of `k_fold` with so many folds."""
    test = 1.0 / folds
    return test / (1.0 - test - VALIDATION_SHARE)


def patient_events(frame: pd.DataFrame) -> dict[str, int]:
    """Patient to class: 1 if any of the patient's images has the event; in the sorted order of the names."""
    most = frame.groupby("patient_id")["event"].max()
    return dict(zip(map(str, most.index), map(int, most), strict=True))


def carve(events: Mapping[str, int], share: float, salt: str) -> set[str]:
    """A stratified part of the patients: of each class the nearest number to `share`, at least one, never all.

    Args:
        events: patient to class; at least two patients of each class.
        share: of each class, in (0, 1).
        salt: what the choice depends on.
    """
    chosen: set[str] = set()
    for event in (0, 1):
        members = shuffled((patient for patient, each in events.items() if each == event), salt)
        chosen.update(members[: min(max(1, round(share * len(members))), len(members) - 1)])
    return chosen


def shuffled(patients: Iterable[str], salt: str) -> list[str]:
    """Patients in an order that depends on their names and the salt alone."""
    return sorted(patients, key=lambda patient: hashlib.sha256(f"{salt}|{patient}".encode()).digest())


def _salt(rows: TaskRows, seed: int, purpose: str) -> str:
    return f"{seed}|{rows.task.name}|{purpose}"


def _honest_folds(rows: TaskRows, events: Mapping[str, int], wanted: int) -> tuple[int, tuple[str, ...]]:
    with_event = sum(events.values())
    rarer = min(with_event, len(events) - with_event)
    which = "have" if with_event == rarer else "do not have"
    told = f"{rows.task.name}: {rarer} of {len(events)} patients {which} the event"
    if rarer < FEWEST_FOLDS:
        raise SplitError(
            f"{told}, and training, validation and test need at least one each: "
            "take a task with more of them, or add patients to the cohort"
        )
    if rarer >= wanted * HONEST_TEST_EVENTS:
        return wanted, ()
    made = max(FEWEST_FOLDS, rarer // HONEST_TEST_EVENTS)
    alone = f"{rarer / wanted:.1f}".removesuffix(".0")
    note = f"{told}: {wanted} folds are not honest ({alone} of them in each test part); {made} folds are used"
    if rarer < made * HONEST_TEST_EVENTS:
        note += f", and a score that rests on {rarer} patients is an anecdote"
    return made, (note,)


def _test_folds(events: Mapping[str, int], folds: int, salt: str) -> dict[str, int]:
    """Patient to the fold that it tests in; classes follow each other, so that the parts' sizes differ by one."""
    order = [
        patient
        for event in (1, 0)
        for patient in shuffled((patient for patient, each in events.items() if each == event), salt)
    ]
    return {patient: position % folds for position, patient in enumerate(order)}


def _roles(frame: pd.DataFrame, fold: int, test: set[str], validation: set[str]) -> pd.DataFrame:
    patient = frame["patient_id"]
    role = np.where(patient.isin(test), "test", np.where(patient.isin(validation), "validation", "train"))
    return pd.DataFrame({"fold": fold, "role": role, "sample_id": frame["sample_id"], "patient_id": patient})
