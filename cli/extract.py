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
            help="Name of a backbone, or timm:MODEL, torchvision:MODEL, hf:MODEL; behind it @random:SEED for it "
            "untrained, @file:PATH for a checkpoint. May be repeated.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        str, typer.Option(help="For all backbones: random:SEED, or a checkpoint's path.", show_default="pretrained")
    ] = "",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; cuda:0,cuda:1 or cuda:all work side by side.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto (bf16 where hardware and backbone allow it, else fp32), fp32, bf16 or fp16.")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(help="Of the stored features: float32, or float16 at half the size.")
    ] = "float32",
    batch_size: Annotated[
        int | None, typer.Option(help="Images in a forward pass.", show_default="found, as memory allows")
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Have torch compile the network first.")] = False,
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
                weights=weights,
                workspace=workspace,
                device=device,
                precision=precision,
                dtype=dtype,
                batch_size=batch_size,
                compiled=compiled,
                progress=progress,
            )
        rows = [
            (
                each.backbone,
                str(each.total),
                str(each.embedded),
                str(each.reused),
                str(each.dim),
                each.precision,
                number(each.seconds, 1),
                number(each.images_per_second, 1) if each.embedded else "-",
                each.store,
            )
            for each in result.results
        ]
        columns = ("backbone", ">images", ">embedded", ">reused", ">dim", "precision", ">seconds", ">images/s", "store")
        answer(result.to_json(), as_json=as_json, table=Table(f"features of {cohort}", columns, rows))
