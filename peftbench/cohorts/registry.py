"""All cohorts and their tasks by name: those that peftbench knows, and those that a workspace was taught."""

import json
from functools import cache
from importlib import import_module
from typing import NamedTuple

from pydantic import ValidationError

from peftbench.cohorts.declaration import Cohort
from peftbench.errors import NotPreparedError, unknown_name
from peftbench.protocol.tasks import Task
from peftbench.protocol.workspace import Workspace

_MODULES = ("aiforcovid", "covid19_ar", "stony_brook", "cocross", "hannover", "cidc", "phantom")
"""One file a cohort; each holds its declaration as `COHORT`."""


@cache
def _declared() -> dict[str, Cohort]:
    found = (import_module(f"peftbench.cohorts.{module}").COHORT for module in _MODULES)
    return {cohort.name: cohort for cohort in found}


COHORTS: dict[str, Cohort] = _declared()

TASKS: dict[str, Task] = {task.name: task for cohort in COHORTS.values() for task in cohort.tasks}


class _Described(NamedTuple):
    """Cohorts that a workspace was taught.

    Attributes:
        cohorts: by name.
        faults: why a description cannot be read.
    """

    cohorts: dict[str, Cohort]
    faults: list[NotPreparedError]


def _described(place: Workspace | None) -> _Described:
    found = _Described({}, [])
    for path in sorted((place.root / "cohorts").glob("*/cohort.json")) if place is not None else ():
        try:
            cohort = Cohort.model_validate(json.loads(path.read_text()))
        except (ValidationError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            found.faults.append(
                NotPreparedError(
                    f"the description {path} cannot be read ({reason}): "
                    "run the `peftbench prepare` that made it again, or delete its folder"
                )
            )
            continue
        builtin = COHORTS.get(cohort.name)
        # A function is not written down; that of a known cohort is known.
        found.cohorts[cohort.name] = cohort.model_copy(update={"derive": builtin.derive}) if builtin else cohort
    return found


def known_cohorts(place: Workspace | None = None) -> dict[str, Cohort]:
    """All cohorts by name, with those described in the workspace; a description that is damaged is passed over."""
    return {**COHORTS, **_described(place).cohorts}


def known_tasks(place: Workspace | None = None) -> dict[str, Task]:
    """All tasks by name, with those of cohorts described in the workspace."""
    own = _described(place).cohorts.values()
    return {**TASKS, **{task.name: task for cohort in own for task in cohort.tasks}}


def get_cohort(name: str, place: Workspace | None = None) -> Cohort:
    """The cohort of that name.

    Args:
        name: of a cohort that peftbench knows, or that was described when it was prepared.
        place: the workspace it was prepared in.

    Raises:
        UnknownNameError: there is none; the message names the nearest.
        NotPreparedError: there is none, and a description in the workspace is damaged.
    """
    known = known_cohorts(place)
    if name not in known:
        _raise_faults(place)
        raise unknown_name("cohort", name, known, "peftbench list cohorts")
    return known[name]


def get_task(name: str, place: Workspace | None = None) -> Task:
    """The task of that name.

    Args:
        name: of a task.
        place: the workspace in which its cohort was described.

    Raises:
        UnknownNameError: there is none; the message names the nearest.
        NotPreparedError: there is none, and a description in the workspace is damaged.
    """
    known = known_tasks(place)
    if name not in known:
        _raise_faults(place)
        raise unknown_name("task", name, known, "peftbench list tasks")
    return known[name]


def _raise_faults(place: Workspace | None) -> None:
    """What is not found may stand in a description that cannot be read."""
    for fault in _described(place).faults:
        raise fault
