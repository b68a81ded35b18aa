"""The verb `weights ls`."""

from typing import TYPE_CHECKING

from cli.console import Table, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.store.options import size
from cli.weights.options import NamesArgument

if TYPE_CHECKING:
    from peftbench.weights.results import WeightsListing, WeightsRow


def ls(
    names: NamesArgument = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,  # noqa: ARG001 - every verb takes it
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List pretrained weights: whether they are on this machine, where they come from, and under which licence."""
    with reported(debug=debug):
        from peftbench import weights

        listing = weights.ls(names or ())
        answer(listing.to_json(), as_json=as_json, table=_table(listing))


def _table(listing: "WeightsListing") -> Table:
    """A line a backbone; of a single one, a line a fact."""
    title, rows = f"weights in {listing.folder}", [_facts(each) for each in listing.weights]
    if len(rows) == 1:
        return Table(title, ("", rows[0]["backbone"]), list(rows[0].items()), whole=("",))
    columns = ("backbone", "state", ">size", "licence", "sha256", "marks")
    chosen = [tuple(row[column.removeprefix(">")] for column in columns) for row in rows]
    return Table(title, columns, chosen, whole=("backbone", ">size", "sha256"))


def _facts(each: "WeightsRow") -> dict[str, str]:
    # Of absent weights, the size of what would have to come.
    count = each.bytes if each.bytes is not None else (each.megabytes or 0) * 1_000_000
    return {
        "backbone": each.backbone,
        "state": f"{each.state}: {each.where}" if each.state in {"found", "damaged"} else each.state,
        "size": size(count) if count else "-",
        "source": each.source,
        "revision": each.revision or "-",
        "licence": each.licence,
        "sha256": (each.sha256 or each.stated_sha256)[:8] or "-",
        "file": each.path or "-",
        "marks": ", ".join(each.marks) or "-",
    }
