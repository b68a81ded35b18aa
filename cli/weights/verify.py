"""The verb `weights verify`."""

import typer

from cli.console import Table, TerminalProgress, answer, number, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.store.options import size
from cli.weights.options import NamesArgument

DAMAGED = 1
"""Exit code where something is damaged."""


def verify(
    names: NamesArgument = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,  # noqa: ARG001 - every verb takes it
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Read cached weights and compare them with their records. Exits with 0 if all are sound, with 1 if not."""
    with reported(debug=debug):
        from peftbench import weights

        with TerminalProgress() as progress:
            found = weights.verify(names or (), progress=progress)
        rows = [
            (
                each.backbone,
                size(each.bytes),
                str(each.tensors),
                number(each.seconds),
                "; ".join(each.faults) or "sound",
            )
            for each in found.weights
        ]
        columns = ("backbone", ">size", ">tensors", ">seconds", "found")
        answer(found.to_json(), as_json=as_json, table=Table("", columns, rows, ("backbone",)))
        if not found.sound:
            raise typer.Exit(DAMAGED)
