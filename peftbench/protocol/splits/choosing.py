"""The one door to a split: from the name of a scheme, or of a user's own split, to the division of a task's rows."""

import re
from pathlib import Path

from peftbench.errors import unknown_name
from peftbench.protocol.splits.holdout import hold_out
from peftbench.protocol.splits.kfold import k_fold
from peftbench.protocol.splits.loco import loco
from peftbench.protocol.splits.own import load_own, own_names
from peftbench.protocol.splits.split import Split
from peftbench.protocol.tasks import TaskRows

SCHEMES = ("5-fold", "LOCO", "hold-out")
"""Schemes that a task may have; `3-fold`, `10-fold` and so on may be asked for as well."""


def make_split(rows: TaskRows, scheme: str, seed: int = 0) -> Split:
    """Divide a task's rows by a scheme; what is answered was held against its law.

    Args:
        rows: the task's rows.
        scheme: `5-fold` (or another number of folds), `LOCO` or `hold-out`, in any case.
        seed: another one gives another division.

    Raises:
        UnknownNameError: there is no such scheme.
        SplitError: the rows cannot be divided so.
    """
    name = scheme.casefold()
    if counted := re.fullmatch(r"(\d{1,6})-fold", name):
        return k_fold(rows, int(counted[1]), seed).check(rows)
    made = {"loco": loco, "hold-out": hold_out}.get(name)
    if made is None:
        raise unknown_name("split", scheme, SCHEMES, f"peftbench splits show {rows.task.name}")
    return made(rows, seed).check(rows)


def is_scheme(name: str) -> bool:
    """Whether `make_split` knows this name, or a split that it makes has it."""
    return bool(re.fullmatch(r"(\d+|k)-fold|loco|hold-out", name.casefold()))


def find_split(rows: TaskRows, asked: str | None, seed: int, folder: Path) -> Split:
    """The split that a user asks for.

    Args:
        rows: the task's rows.
        asked: a scheme, the name of an imported split, or None for the task's own scheme.
        seed: of the division; plays no part in an imported split.
        folder: of the task's saved splits.

    Raises:
        UnknownNameError: there is neither a scheme nor an imported split of that name.
        SplitError: the rows cannot be divided so, or the imported split is of other rows.
    """
    name = asked or rows.task.scheme
    if is_scheme(name):
        return make_split(rows, name, seed)
    if name not in own_names(folder):
        known = [*SCHEMES, *own_names(folder)]
        raise unknown_name("split", name, known, f"peftbench splits show {rows.task.name}")
    return load_own(rows, name, folder)
