"""The verb `store info`."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import Table, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.store.options import StoreArgument, shapes

if TYPE_CHECKING:
    from peftbench.store.results import StoreInfo


def info(
    store: StoreArgument,
    other: Annotated[
        str | None,
        typer.Argument(metavar="[OTHER]", help="Another feature store, to compare it with.", show_default=False),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what made a store, ingredient by ingredient; with a second one, in what it differs."""
    with reported(debug=debug):
        from peftbench import store as stores

        found = stores.info(store, other, workspace=workspace)
        answer(found.to_json(), as_json=as_json, table=_facts(found) if other is None else _comparison(found))


def _facts(found: "StoreInfo") -> Table:
    facts = {"store": found.path, "rows": f"{found.rows:,}", "outputs": shapes(found.outputs), "digest": found.digest}
    if found.key:
        facts = {"key": found.key, **facts}
    return Table("", ("what", "value"), [*facts.items(), ("", ""), *found.recipe.items()])


def _comparison(found: "StoreInfo") -> Table:
    named = ", ".join(each.ingredient for each in found.differs_in)
    title = f"differs in: {named}" if named else "no difference: the same recipe"
    rows = [(each.ingredient, each.mine or "-", each.theirs or "-") for each in found.differs_in]
    return Table(title, ("ingredient", found.path, str(found.compared_with)), rows)
