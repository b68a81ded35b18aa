"""The verb `fidelity`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, number, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption


def fidelity(
    cohort: Annotated[str, typer.Argument(help="Name of a prepared cohort.")],
    backbone: Annotated[
        list[str],
        typer.Option("--backbone", help="As given to `extract`. May be repeated.", show_default=False),
    ],
    raw: Annotated[
        Path | None, typer.Option(help="Folder of the download, to compare with the raw files.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="Held against fp32: bf16 or fp16.")] = "bf16",
    images: Annotated[int, typer.Option(help="To compare, evenly chosen.")] = 100,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare embeddings of lower precision, and of the image store, with those of fp32 and of the raw files."""
    with reported(debug=debug):
        import peftbench

        with TerminalProgress() as progress:
            result = peftbench.fidelity(
                cohort,
                backbone,
                raw=raw,
                workspace=workspace,
                device=device,
                precision=precision,
                images=images,
                progress=progress,
            )
        rows = [
            (
                each.backbone,
                each.comparison,
                str(each.images),
                number(each.lowest, 5),
                number(each.median, 5),
                f"{100 * each.share:.0f} %",
            )
            for each in result.results
        ]
        columns = ("backbone", "embeddings of", ">images", ">lowest cosine", ">median", f">share >= {result.aim:g}")
        answer(result.to_json(), as_json=as_json, table=Table(f"fidelity on {cohort}", columns, rows))
