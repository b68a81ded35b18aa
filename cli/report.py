"""The verb `report`."""

import csv
from pathlib import Path
from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, number, reported, spread
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption


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

        with TerminalProgress() as progress:
            result = peftbench.report(workspace=workspace, out=out, progress=progress)
        table = _table(next(Path(path) for path in result.tables if path.endswith(".csv")))
        answer(result.to_json(), as_json=as_json, table=table)
        if not as_json:
            typer.echo(f"{result.records} records; tables: {', '.join(result.tables)}; the report: {result.html}")


def _table(path: Path) -> Table:
    with path.open(newline="") as stream:
        rows = [
            (
                row["task"],
                row["backbone"],
                row["strategy"],
                row["folds"],
                f"{row['patients']} ({row['event_patients']})",
                number(_float(row["prevalence"])),
                spread(_float(row["mcc_mean"]), _float(row["mcc_std"])),
                spread(_float(row["pr_auc_mean"]), _float(row["pr_auc_std"])),
                _gain(row),
            )
            for row in csv.DictReader(stream)
        ]
    columns = (
        "task", "backbone", "strategy", ">folds", ">patients (event)", ">prevalence", ">MCC", ">PR-AUC",
        ">gain in MCC over control (95 %)",
    )  # fmt: skip
    return Table("mean ± standard deviation over folds, by patient", columns, rows)


def _gain(row: dict[str, str]) -> str:
    low, high = _float(row["gain_low"]), _float(row["gain_high"])
    return f"{_float(row['gain_mean']):+.2f} ({low:+.2f} to {high:+.2f})" if row["gain_low"] else "-"


def _float(text: str) -> float:
    return float(text or "nan")
