"""From a task's name to its rows: what every verb that takes a TASK asks first."""

from peftbench.cohorts.registry import get_task
from peftbench.protocol import groups
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.tasks import TaskRows, rows_of
from peftbench.protocol.workspace import Workspace


def task_rows(name: str, place: Workspace) -> TaskRows:
    """The rows of a task in a workspace.

    Args:
        name: of the task (`peftbench list tasks`).
        place: the workspace in which its cohort was prepared.

    Raises:
        UnknownNameError: there is no such task.
        NotPreparedError: the cohort was not prepared, or its manifest is damaged.
        EmptyTaskError: the task has no row left.
        LabelError: a label is neither the event nor its absence.
        GroupsError: the file of the cohort's groups is damaged.
    """
    task = get_task(name, place)
    rows = rows_of(task, Manifest.read(task.cohort, place.manifest(task.cohort)))
    # Patients who share images are kept together, where an audit has joined them.
    return rows._replace(frame=groups.apply_groups(rows.frame, groups.read(place.cohort(task.cohort))))
