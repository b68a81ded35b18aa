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
    "counts": ("strategy", ">rank", "targets", ">layers", ">parameters", ">percent", "note"),
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
        str | None,
        typer.Argument(
            help="Only this one, with all that is known of it; of strategies also a backbone: what they train of it.",
            show_default=False,
        ),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show everything of a kind that can be named, or one of them."""
    with reported(debug=debug):
        import peftbench

        listing = peftbench.list(kind.value, name, workspace=workspace)
        for_people, *more = _tables(kind, name, listing.entries)
        answer(listing.to_json(), as_json=as_json, table=for_people)
        for table in [] if as_json else more:
            table.show()
        for fault in listing.faults:
            say(f"note: {fault}")


def _tables(kind: Kind, name: str | None, entries: list[dict[str, Any]]) -> list[Table]:
    """What people read of an answer, one below the other."""
    if kind is Kind.strategies and name is None:
        return [_table("strategies", entries), _matrix(entries), _reasons(entries)]
    if kind is Kind.strategies and "strategy" in entries[0]:
        return [_counts(entries)]
    return [_table(kind.value, entries) if name is None else _card(entries[0])]


def _matrix(entries: list[dict[str, Any]]) -> Table:
    """Which strategies fit which backbones: a row a backbone."""
    columns = ("backbone", *(entry["name"] for entry in entries))
    first = entries[0]
    backbones = [*first["backbones"], *first["extensions"], *first["refused"]]
    rows = [(backbone, *(_fits(entry, backbone) for entry in entries)) for backbone in backbones]
    return Table("what fits what", columns, rows, whole=columns)


def _fits(entry: dict[str, Any], backbone: str) -> str:
    if backbone in entry["backbones"]:
        return "yes"
    return "extension" if backbone in entry["extensions"] else "no"


def _reasons(entries: list[dict[str, Any]]) -> Table:
    """Why a strategy does not fit, or what is different about an extension: a row a reason."""
    backbones: dict[tuple[str, str, str], list[str]] = {}
    for entry in entries:
        for word, standing in (("extension", "extensions"), ("no", "refused")):
            for backbone, reason in entry[standing].items():
                backbones.setdefault((entry["name"], word, reason), []).append(backbone)
    rows = [(name, word, ", ".join(found), reason) for (name, word, reason), found in backbones.items()]
    return Table("", ("strategy", "", "backbones", "reason"), rows, whole=("strategy", ""))


def _counts(entries: list[dict[str, Any]]) -> Table:
    """What strategies train of one backbone."""
    noted = [{**entry, "percent": _percent(entry["percent"])} for entry in entries]
    columns = [column for column in _SHOWN["counts"] if any(each[column.removeprefix(">")] for each in noted)]
    rows = [tuple(_or_nothing(entry[column.removeprefix(">")]) for column in columns) for entry in noted]
    title = f"{entries[0]['backbone']}: parameters that learn, with a head of two classes"
    return Table(title, columns, rows, whole=[column for column in columns if column != "note"])


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"


def _or_nothing(value: Any) -> str:
    return _cell(value) if value not in (None, "") else ""


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
