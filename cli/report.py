"""The verb `report`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.scores import OVER_FOLDS


def report(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to.", show_default="<workspace>/report")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the results of all records as Markdown, CSV and one self-contained HTML page."""
    with reported(debug=debug):
        import peftbench
        from peftbench.reporting.brief import brief

        with TerminalProgress() as progress:
            result = peftbench.report(workspace=workspace, out=out, progress=progress)
        shown = brief(next(path for path in result.tables if path.endswith(".csv")))
        table = Table(OVER_FOLDS, shown.columns, shown.rows)
        answer(result.to_json(), as_json=as_json, table=table)
        if not as_json and shown.left_out:
            typer.echo(f"{shown.left_out} more rows are in the tables")
        if not as_json:
            typer.echo(f"{result.records} records; tables: {', '.join(result.tables)}; the report: {result.html}")
