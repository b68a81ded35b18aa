"""Options of the verbs that score a task: `probe` and `finetune`."""

from typing import Annotated

import typer

HOW, RUNNING = "How much trains", "Running"
"""Panels of the help that both verbs have."""

TaskArgument = Annotated[list[str], typer.Argument(help="Name or names of tasks: see `peftbench list tasks`.")]

SplitOption = Annotated[
    str | None,
    typer.Option(
        help="5-fold, LOCO (leave one centre out), hold-out, or the name of an imported split.",
        show_default="the task's own",
        rich_help_panel=HOW,
    ),
]

RegimeOption = Annotated[str, typer.Option(help="full, reduced, few-shot, or center-few-shot.", rich_help_panel=HOW)]

ShotsOption = Annotated[
    str | None,
    typer.Option(
        help="Images a class (and centre), separated by commas; images in all of `reduced`.",
        show_default="2,4,8,16,32 as far as there are so many; reduced: 256",
        rich_help_panel=HOW,
    ),
]

PermutationsOption = Annotated[
    int,
    typer.Option(help="Labellings of the null distribution behind the p value; 0 for none.", rich_help_panel=RUNNING),
]

SeedOption = Annotated[
    int, typer.Option(help="Seed of the division, and of whatever is random.", rich_help_panel=RUNNING)
]

ForceOption = Annotated[
    bool, typer.Option("--force", help="Make records again that are complete.", rich_help_panel=RUNNING)
]
