"""The verb `extract`."""

from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, number, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption


def extract(
    cohort: Annotated[str, typer.Argument(help="Name of a prepared cohort.")],
    backbone: Annotated[
        list[str],
        typer.Option(
            "--backbone",
            help="Name of a backbone, or NAME@random:SEED for it untrained; may be repeated.",
            show_default=False,
        ),
    ],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto (bf16 where hardware and backbone allow it, else fp32), fp32, bf16 or fp16.")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(help="Of the stored features: float32, or float16 at half the size.")
    ] = "float32",
    batch_size: Annotated[
        int | None, typer.Option(help="Images in a forward pass.", show_default="16, on a GPU 128")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Embed a prepared cohort with frozen backbones; images embedded before are reused."""
    with reported(debug=debug):
        import peftbench

        with TerminalProgress() as progress:
            result = peftbench.extract(
                cohort,
                backbone,
                workspace=workspace,
                device=device,
                precision=precision,
                dtype=dtype,
                batch_size=batch_size,
                progress=progress,
            )
        rows = [
            (
                each.backbone,
                str(each.total),
                str(each.embedded),
                str(each.reused),
                str(each.dim),
                number(each.seconds, 1),
                number(each.images_per_second, 1) if each.embedded else "-",
                each.store,
            )
            for each in result.results
        ]
        columns = ("backbone", ">images", ">embedded", ">reused", ">dim", ">seconds", ">images/s", "store")
        answer(result.to_json(), as_json=as_json, table=Table(f"features of {cohort}", columns, rows))
