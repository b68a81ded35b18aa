"""The verb `store ls`."""

from cli.console import Table, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.store.options import shapes, size


def ls(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the stores of the workspace, with what can be told of them without reading their bytes."""
    with reported(debug=debug):
        from peftbench import store

        listing = store.ls(workspace=workspace)
        rows = [
            (
                each.kind,
                each.name,
                each.key,
                "-" if each.rows is None else f"{each.rows:,}",
                shapes(each.outputs),
                each.dtype,
                size(each.bytes),
                str(each.files),
                each.state,
            )
            for each in listing.stores
        ]
        columns = ("kind", "name", "key", ">rows", "outputs", "dtype", ">size", ">files", "state")
        whole = ("kind", "name", "key", ">rows")
        answer(listing.to_json(), as_json=as_json, table=Table(f"stores in {workspace}", columns, rows, whole))
