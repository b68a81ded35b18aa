"""The verb `weights bundle`."""

from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.store.options import size
from cli.weights.options import NamesArgument


def bundle(
    to: Annotated[str, typer.Option("--to", metavar="FILE.tar", help="The archive to write.", show_default=False)],
    names: NamesArgument = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the archive if it is there.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,  # noqa: ARG001 - every verb takes it
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Pack cached weights with their cards and digests into one archive, for a machine without a network."""
    with reported(debug=debug):
        from peftbench import weights

        with TerminalProgress() as progress:
            done = weights.bundle(names or (), to, overwrite=overwrite, progress=progress)
        rows = [("archive", done.path), ("size", size(done.bytes)), ("backbones", ", ".join(done.backbones)),
                ("sha256", done.sha256)]  # fmt: skip
        answer(done.to_json(), as_json=as_json, table=Table("", ("what", "value"), rows, ("value",)))
