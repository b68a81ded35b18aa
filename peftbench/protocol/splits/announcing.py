"""What a user is told of a split before anything is done with it; and the split saved where others find it."""

from peftbench.protocol.progress import Progress
from peftbench.protocol.splits.split import Split
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace


def announce(rows: TaskRows, split: Split, seed: int, place: Workspace, told: Progress) -> None:
    """Tell of a split, and save it unless it is the user's own, which lies there since it was imported.

    Args:
        rows: the task's rows.
        split: their division.
        seed: that was asked for.
        place: the workspace.
        told: hears what the user must know.

    Raises:
        WorkspaceError: the workspace cannot be written.
    """
    for note in split.notes:
        told.note(note)
    if split.own and seed:
        told.note(f"{rows.task.name}: the split {split.scheme!r} is given, so --seed {seed} does not divide")
    place.ensure_writable()
    if not split.own:
        split.save(place.splits(rows.task.name))
