"""The verb `store repair`."""

import typer

from cli.console import USER_ERROR, Table, TerminalProgress, answer, reported, say
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.store.options import StoresArgument

SHOWN = 3
"""Faults of a store in the table."""


def repair(
    stores: StoresArgument = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Drop the damaged rows of stores and keep the others; `extract` or `prepare` then makes just these again."""
    with reported(debug=debug):
        from peftbench import store

        with TerminalProgress() as progress:
            done = store.repair(stores or [], workspace=workspace, progress=progress)
        rows = [
            (
                each.path,
                f"{each.kept:,}",
                f"{each.dropped:,}",
                _told([fault.what for fault in each.faults]),
            )
            for each in done.stores
        ]
        answer(done.to_json(), as_json=as_json, table=Table("", ("store", ">kept", ">dropped", "found"), rows))
        if not all(each.mended for each in done.stores):
            say("error: some stores could not be mended; the table says why")
            raise typer.Exit(USER_ERROR)


def _told(faults: list[str]) -> str:
    """The first faults for people; `--json` has them all."""
    more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return "; ".join([*faults[:SHOWN], *more]) or "sound"
