"""The verb `splits import`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.console import answer, reported, say
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.splits.options import TaskArgument, folds_table


def import_(
    task: TaskArgument,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="CSV or Parquet with the columns patient_id or sample_id, role, and for several folds fold.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the split, for `peftbench probe TASK --split NAME`.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace an imported split of that name that differs.")
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file",
            help="Secret that the cohort's pseudonyms were made with, if the file holds raw ids of your own patients.",
            show_default=False,
        ),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Bring your own division of a task; it is refused if a patient would be in two roles of a fold."""
    with reported(debug=debug):
        from peftbench import splits

        done = splits.import_(task, file, name, force=force, workspace=workspace, key_file=key_file)
        for note in done.notes:
            say(f"note: {note}")
        what = "imported" if done.written else "imported already"
        title = f"{done.task}: {what} as {done.name}; use it with `peftbench probe {done.task} --split {done.name}`"
        answer(done.to_json(), as_json=as_json, table=folds_table(title, done.folds))
