"""The verb `weights import`."""

from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.store.options import size


def import_(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE[#sha256=HEX]",
            help="An archive of `peftbench weights bundle`; HEX is the digest that it printed.",
            show_default=False,
        ),
    ],
    again: Annotated[bool, typer.Option("--again", help="Replace cached weights that differ.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,  # noqa: ARG001 - every verb takes it
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Take weights out of an archive: all of them, or none if anything about it is wrong. Needs no network."""
    with reported(debug=debug):
        from peftbench import weights

        with TerminalProgress() as progress:
            done = weights.import_(file, again=again, progress=progress)
        said = {"cached": "cached already"}
        rows = [
            (each.backbone, said.get(each.how, each.how), size(each.bytes), each.sha256[:8], each.source)
            for each in done.weights
        ]
        columns = ("backbone", "done", ">size", "sha256", "source")
        answer(done.to_json(), as_json=as_json, table=Table("", columns, rows, ("backbone",)))
