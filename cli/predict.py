"""The verb `predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import Table, TerminalProgress, answer, number, reported, say, spread
from cli.options import DebugOption, JsonOption

if TYPE_CHECKING:
    from peftbench.protocol.results import PredictResult, PredictRow

_MOST_SHOWN = 100
"""Rows of the table on a terminal; --out and --json have all."""

_MOST_NAMED = 20
"""Rejected files that are named."""


def predict(
    record: Annotated[
        Path, typer.Argument(help="Path of a record: `record` in what `probe --json` or `finetune --json` answers.")
    ],
    images: Annotated[list[str], typer.Argument(help="Files or folders: DICOM, PNG, JPEG, TIFF.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or fp16, of the forward pass.", show_default="the record's")
    ] = None,
    weights: Annotated[
        str,
        typer.Option(help="Of a backbone with weights of your own: their file (or its folder).", show_default=False),
    ] = "",
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            help="That holds the record's cohort; PEFTBENCH_WORKSPACE plays no part.",
            show_default="where the record lies",
        ),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Apply a record's models to new pictures; nothing of these is stored. Not for clinical use."""
    with reported(debug=debug):
        import peftbench

        with TerminalProgress() as progress:
            result = peftbench.predict(
                record,
                images,
                workspace=workspace,
                out=out,
                device=device,
                precision=precision,
                weights=weights,
                progress=progress,
            )
        _tell(result)
        answer(result.to_json(), as_json=as_json, table=_table(result))
        if not as_json:
            _explain(result)


def _tell(result: "PredictResult") -> None:
    """Rejected files."""
    for each in result.rejected[:_MOST_NAMED]:
        say(f"rejected {each.file}: {each.reason}")
    if len(result.rejected) > _MOST_NAMED:
        say(f"rejected {len(result.rejected) - _MOST_NAMED} more: --json and --out list all")


def _table(result: "PredictResult") -> Table:
    """Columns that say something in this answer."""
    several, seen = result.models > 1, any(row.seen for row in result.results)
    rejected = bool(result.rejected)
    columns = ["file", ">score", *([">lowest", ">highest"] if several else []), "decision"]
    columns += [*(["seen"] if seen else []), *(["fault"] if rejected else [])]
    cells = [_cells(row) for row in result.results[:_MOST_SHOWN]]
    title = f"{result.question} Probability by {_models(result)}"
    return Table(title, columns, [[each[name] for name in columns] for each in cells], whole=("file",))


def _cells(row: "PredictRow") -> dict[str, str]:
    return {
        "file": row.file,
        ">score": number(row.score, 3),
        ">lowest": number(row.lowest, 3),
        ">highest": number(row.highest, 3),
        "decision": row.decision or "-",
        "seen": "yes" if row.seen else "",
        "fault": row.fault,
    }


def _models(result: "PredictResult") -> str:
    how = result.probe if result.strategy == "probe" else result.strategy
    of = f"{how} on {result.backbone}"
    return of if result.models == 1 else f"{of}, mean of {result.models} models"


def _explain(result: "PredictResult") -> None:
    if len(result.results) > _MOST_SHOWN:
        where = result.out or "--out and --json have all"
        say(f"{len(result.results) - _MOST_SHOWN} more rows: {where}")
    if result.out:
        say(f"written: {result.out}")
    say(f"the record's MCC on its own test parts: {spread(result.mcc_mean, result.mcc_std)}")
    say(result.caveat)
