"""The verb `list`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from cli.console import Table, answer, reported, say
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption

_SHOWN = {
    "cohorts": ("name", "title", "tasks", "raw", "licence"),
    "tasks": ("name", "cohort", "question", "event", "unit"),
    "backbones": ("name", "family", "weights", ">parameters", ">embedding", "data"),
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
    name: Annotated[
        str | None, typer.Argument(help="Only this one, with all that is known of it.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show everything of a kind that can be named, or one of them."""
    with reported(debug=debug):
        import peftbench

        listing = peftbench.list(kind.value, name, workspace=workspace)
        table = _table(kind.value, listing.entries) if name is None else _card(listing.entries[0])
        answer(listing.to_json(), as_json=as_json, table=table)
        for fault in listing.faults:
            say(f"note: {fault}")


def _table(kind: str, entries: list[dict[str, Any]]) -> Table:
    columns = _SHOWN[kind]
    rows = [tuple(_cell(_short(column, entry[column.removeprefix(">")])) for column in columns) for entry in entries]
    return Table("", tuple(column.replace("_", " ") for column in columns), rows, whole=("name", ">parameters"))


def _short(column: str, value: Any) -> Any:
    """Of the data, their name: what they are stands on the card."""
    return str(value).partition(":")[0] if column == "data" else value


def _card(entry: dict[str, Any]) -> Table:
    """One entry, a line a fact; what is empty is left out, and of the checkpoint what its source does not say."""
    facts = {key: value for key, value in entry.items() if value not in (None, "", [], {}, False)}
    if checkpoint := facts.pop("checkpoint", None):
        published = {"revision": checkpoint["revision"], "published_sha256": checkpoint["sha256"]}
        facts = {**facts, **{key: value for key, value in published.items() if value and key not in facts}}
    rows = [(key.replace("_", " "), "yes" if value is True else _cell(value)) for key, value in facts.items()]
    return Table("", ("", entry["name"]), rows, whole=("",))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_cell(each)}" for name, each in value.items() if each not in (None, ""))
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n".join(_output(each) for each in value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value) if value not in (None, "") else "not in this version"


def _output(value: dict[str, Any]) -> str:
    shape = " x ".join(map(str, value["shape"]))
    return f"{value['name']} ({shape}): {value['tensor']}"
