"""What the verbs of `splits` have in common."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from cli.console import Table

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", help="Name of a task: see `peftbench list tasks`.", show_default=False)
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="5-fold, LOCO (leave one centre out), hold-out, or the name of an imported split.",
        show_default="the task's own",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the division into folds.")]

ROLES = ("train", "validation", "test")

MOST_CENTERS = 10
"""Centres of a role that are told one by one."""


def folds_table(title: str, folds: Sequence[Any]) -> Table:
    """A line a fold and role: patients, those with the event, images; centres where there are several.

    Args:
        title: above it.
        folds: as in the answers of the verbs.
    """
    centers = {center for fold in folds for role in fold.roles.values() for center in role.centers}
    columns = [
        "fold",
        "role",
        ">patients",
        ">with event",
        ">images",
        *(["patients by centre"] if len(centers) > 1 else []),
    ]
    rows = []
    for fold in folds:
        for role in ROLES:
            found = fold.roles[role]
            counts = [f"{count:,}" for count in (found.patients, found.event_patients, found.images)]
            line = [fold.name if role == ROLES[0] else "", role, *counts, _centers(found.centers)]
            rows.append(line[: len(columns)])
    return Table(title, columns, rows, ("fold",))


def _centers(counts: Mapping[str, int]) -> str:
    if len(counts) > MOST_CENTERS:
        return f"{len(counts)} centres"
    return ", ".join(f"{center} {count:,}" for center, count in counts.items()) or "-"
