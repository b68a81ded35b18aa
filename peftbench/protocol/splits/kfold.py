"""k-fold: every unit tests once, a fifth of all validate in each fold."""

import pandas as pd

from peftbench.errors import SplitError
from peftbench.protocol.splits.dealing import carve, deal, rarer_class, salt_of
from peftbench.protocol.splits.split import Split, roles_of
from peftbench.protocol.splits.units import unit_centers, unit_events, unit_word
from peftbench.protocol.tasks import TaskRows

VALIDATION_SHARE = 0.2
"""Share of all patients that validate in k-fold and hold-out: with five folds 60/20/20, as in the paper."""

HONEST_TEST_EVENTS = 2
"""Patients of the rarer class that a test part needs at least: with one, a fold's score is one patient's."""

FEWEST_FOLDS = 3
"""Below three folds less than half of the patients train."""


def k_fold(rows: TaskRows, folds: int = 5, seed: int = 0) -> Split:
    """Stratified k-fold by patient: each patient tests once; a fifth of all patients validate in each fold.

    A patient counts as an event if any image does. Test and validation parts are stratified by outcome and, where
    there are several centres, by centre as well. As many folds are made as the rarer class allows with
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
    events, centers = unit_events(rows.frame), unit_centers(rows.frame)
    made, notes = _honest_folds(rows, folds)
    task = rows.task.name
    tests = deal(events, made, salt_of(seed, task, "test"), centers)
    parts = []
    for fold in range(made):
        rest = {unit: event for unit, event in events.items() if tests[unit] != fold}
        share = VALIDATION_SHARE * len(events) / len(rest)
        validation = carve(rest, share, salt_of(seed, task, f"validation {fold}"), centers)
        parts.append(roles_of(rows.frame, fold, {unit for unit, test in tests.items() if test == fold}, validation))
    return Split(task, "k-fold", seed, made, pd.concat(parts, ignore_index=True), notes)


def ratio_of_test_to_train(folds: int) -> float:
    """Size of a test part by size of a training part, of `k_fold` with so many folds."""
    test = 1.0 / folds
    return test / (1.0 - test - VALIDATION_SHARE)


def refuse_few(rows: TaskRows) -> tuple[int, str]:
    """Size of the rarer class in units, and a sentence's start that tells it.

    Raises:
        SplitError: it is too small for three roles.
    """
    events = unit_events(rows.frame)
    rarer, which = rarer_class(events.values())
    told = f"{rows.task.name}: {rarer} of {len(events)} {unit_word(rows.frame)} {which} the event"
    if rarer < FEWEST_FOLDS:
        raise SplitError(
            f"{told}, and training, validation and test need at least one each: "
            "take a task with more of them, or add patients to the cohort"
        )
    return rarer, told


def _honest_folds(rows: TaskRows, wanted: int) -> tuple[int, tuple[str, ...]]:
    rarer, told = refuse_few(rows)
    if rarer >= wanted * HONEST_TEST_EVENTS:
        return wanted, ()
    made = max(FEWEST_FOLDS, rarer // HONEST_TEST_EVENTS)
    alone = f"{rarer / wanted:.1f}".removesuffix(".0")
    note = f"{told}: {wanted} folds are not honest ({alone} of them in each test part); {made} folds are used"
    if rarer < made * HONEST_TEST_EVENTS:
        note += f", and a score that rests on {rarer} patients is an anecdote"
    return made, (note,)
