"""The verb `list`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from cli.console import Table, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption

_SHOWN = {
    "cohorts": ("name", "title", "tasks", "raw", "licence"),
    "tasks": ("name", "cohort", "question", "event", "unit"),
    "backbones": ("name", "family", "pretraining", "parameters", "embedding", "licence", "source"),
    "strategies": ("name", "title", "learns", "runs_in"),
    "probes": ("name", "kind", "what"),
}


class Kind(StrEnum):
    """What can be listed."""

    cohorts = "cohorts"
    tasks = "tasks"
    backbones = "backbones"
    strategies = "strategies"
    probes = "probes"


def list_names(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,  # noqa: ARG001 - every verb takes it
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show everything of a kind that can be named."""
    with reported(debug=debug):
        import peftbench

        listing = peftbench.list(kind.value)
        columns = _SHOWN[kind.value]
        rows = [tuple(_cell(entry[column]) for column in columns) for entry in listing.entries]
        headings = tuple(column.replace("_", " ") for column in columns)
        answer(listing.to_json(), as_json=as_json, table=Table("", headings, rows))


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    return str(value) or "not in this version"
