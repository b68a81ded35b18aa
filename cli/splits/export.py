"""The verb `splits export`."""

from typing import Annotated

import typer

from cli.console import Table, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.splits.options import SeedOption, SplitOption, TaskArgument


def export(
    task: TaskArgument,
    to: Annotated[str, typer.Option("--to", metavar="FILE", help="The file to write: .csv, .parquet or .json.")],
    split: SplitOption = None,
    seed: SeedOption = 0,
    shots: Annotated[
        list[int] | None,
        typer.Option("--shots", help="Add few-shot support sets of so many images a class; may be repeated."),
    ] = None,
    center_shots: Annotated[
        list[int] | None,
        typer.Option("--center-shots", help="Add center few-shot support sets: images a class and centre."),
    ] = None,
    images: Annotated[
        list[int] | None,
        typer.Option("--images", help="Add reduced support sets of so many images in all; may be repeated."),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", help="Support sets a fold and size.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there and differs.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a task's division, and support sets drawn from it, as a table that another tool reads."""
    with reported(debug=debug):
        from peftbench import splits

        done = splits.export(
            task,
            to,
            split=split,
            seed=seed,
            shots=shots or (),
            center_shots=center_shots or (),
            images=images or (),
            draws=draws,
            force=force,
            workspace=workspace,
        )
        wrote = "written" if done.written else "there already, the same"
        row = (done.path, wrote, f"{done.rows:,}", f"{done.draws:,}", done.scheme, done.digest[:12])
        columns = ("file", "done", ">rows", ">support sets", "split", "digest")
        answer(done.to_json(), as_json=as_json, table=Table("", columns, [row]))
