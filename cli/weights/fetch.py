"""The verb `weights fetch`."""

from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.store.options import size
from cli.weights.options import NamesArgument


def fetch(
    names: NamesArgument = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE[#sha256=HEX]",
            help="Where the published file lies on this machine; its digest is compared with HEX.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All backbones that have pretrained weights.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Replace what is cached.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,  # noqa: ARG001 - every verb takes it
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Bring pretrained weights into the cache, from this machine or from the network; goes on where it stopped."""
    with reported(debug=debug):
        from peftbench import weights

        with TerminalProgress() as progress:
            done = weights.fetch(names or (), file=source, everything=everything, again=again, progress=progress)
        said = {"cached": "cached already"}
        rows = [
            (each.backbone, said.get(each.how, each.how), size(each.bytes), f"{each.tensors:,}", each.source)
            for each in done.weights
        ]
        columns = ("backbone", "done", ">size", ">tensors", "source")
        answer(done.to_json(), as_json=as_json, table=Table("", columns, rows, ("backbone",)))
