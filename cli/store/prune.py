"""The verb `store prune`."""

from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.store.options import size


def prune(
    superseded: Annotated[
        bool,
        typer.Option(
            "--superseded",
            help="Also remove feature stores that are neither the newest of their backbone nor named by a record.",
        ),
    ] = False,
    withdrawn: Annotated[
        bool, typer.Option("--withdrawn", help="Also remove rows of images that no prepared cohort holds.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Remove what interrupted writes left behind; on demand, stores and rows that nothing needs."""
    with reported(debug=debug):
        from peftbench import store

        with TerminalProgress() as progress:
            done = store.prune(
                superseded=superseded, withdrawn=withdrawn, dry_run=dry_run, workspace=workspace, progress=progress
            )
        rows = [
            (each.path, each.what, f"{each.rows:,}" if each.rows else "-", size(each.bytes)) for each in done.removed
        ]
        total = size(sum(each.bytes for each in done.removed))
        title = f"{total} {'would be' if done.dry_run else 'were'} removed" if rows else "nothing to remove"
        answer(done.to_json(), as_json=as_json, table=Table(title, ("what lies at", "is", ">rows", ">size"), rows))
