"""The verb `store verify`."""

from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, number, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.store.options import StoresArgument

DAMAGED = 1
"""Exit code where something is damaged."""


def verify(
    stores: StoresArgument = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte and hold it against its checksums.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Look for damage in stores. Exits with 0 if all are sound, with 1 if anything is damaged."""
    with reported(debug=debug):
        from peftbench import store

        with TerminalProgress() as progress:
            found = store.verify(stores or [], deep=deep, workspace=workspace, progress=progress)
        rows = []
        for each in found.stores:
            told = [("sound", "")] if each.sound else [(fault.what, _rows(fault.rows)) for fault in each.faults]
            rows += [
                (each.path, each.kind, f"{each.rows:,}", number(each.seconds, 3), *fault)
                if first
                else ("", "", "", "", *fault)
                for first, fault in zip([True, *[False] * len(told)], told, strict=False)
            ]
        columns = ("store", "kind", ">rows", ">seconds", "found", "rows concerned")
        answer(found.to_json(), as_json=as_json, table=Table("", columns, rows))
        if not found.sound:
            raise typer.Exit(DAMAGED)


def _rows(rows: list[int] | None) -> str:
    if rows is None:
        return ""
    start, stop = rows
    return str(start) if stop == start + 1 else f"{start} to {stop - 1}"
