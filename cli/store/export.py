"""The verb `store export`."""

from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.store.options import StoreArgument, shapes


def export(
    store: StoreArgument,
    to: Annotated[str, typer.Option("--to", metavar="FILE", help="The file to write; its ending names the format.")],
    format: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option(
            "--format",
            help="hdf5, parquet, npy, h5ad, torch or safetensors.",
            show_default="by the file's ending: .h5, .parquet, .npy, .h5ad, .pt, .safetensors",
        ),
    ] = None,
    cohort: Annotated[
        str | None,
        typer.Option(help="Only this cohort's samples, with its manifest's columns.", show_default="all rows"),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", help="Name of a stored output; may be repeated.", show_default="all"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write stored features as a file that another tool reads, with what made them."""
    with reported(debug=debug):
        from peftbench import store as stores

        with TerminalProgress() as progress:
            done = stores.export(
                store,
                to,
                format=format,
                cohort=cohort,
                outputs=output or None,
                overwrite=overwrite,
                workspace=workspace,
                progress=progress,
            )
        rows = [(file, done.format, f"{done.rows:,}", shapes(done.outputs)) for file in done.files[:1]]
        rows += [(file, "", "", "") for file in done.files[1:]]
        answer(done.to_json(), as_json=as_json, table=Table("", ("file", "format", ">rows", "outputs"), rows))
