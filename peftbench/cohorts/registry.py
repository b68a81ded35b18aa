"""All cohorts and their tasks by name."""

from peftbench.cohorts.declaration import Cohort
from peftbench.cohorts.hannover import HANNOVER
from peftbench.cohorts.phantom import PHANTOM
from peftbench.errors import unknown_name
from peftbench.protocol.tasks import Task

COHORTS: dict[str, Cohort] = {cohort.name: cohort for cohort in (HANNOVER, PHANTOM)}

TASKS: dict[str, Task] = {task.name: task for cohort in COHORTS.values() for task in cohort.tasks}


def get_cohort(name: str) -> Cohort:
    """The cohort of that name.

    Raises:
        UnknownNameError: there is none; the message names the nearest.
    """
    if name not in COHORTS:
        raise unknown_name("cohort", name, COHORTS, "peftbench list cohorts")
    return COHORTS[name]


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UnknownNameError: there is none; the message names the nearest.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS, "peftbench list tasks")
    return TASKS[name]
