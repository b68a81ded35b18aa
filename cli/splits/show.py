"""The verb `splits show`."""

from cli.console import answer, reported, say
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.splits.options import SeedOption, SplitOption, TaskArgument, folds_table


def show(
    task: TaskArgument,
    split: SplitOption = None,
    seed: SeedOption = 0,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show who trains, validates and tests in each fold of a task. Writes nothing."""
    with reported(debug=debug):
        from peftbench import splits

        found = splits.show(task, split=split, seed=seed, workspace=workspace)
        for note in found.notes:
            say(f"note: {note}")
        of = f"{found.patients:,} patients"
        if found.units != found.patients:
            of += f" in {found.units:,} units (patients who share images count as one)"
        scheme = f"{len(found.folds)}-fold" if found.scheme == "k-fold" else found.scheme
        title = f"{found.task}: {scheme}, seed {found.seed}, of {of}; digest {found.digest[:12]}"
        if found.imported:
            title += f"; imported splits: {', '.join(found.imported)}"
        answer(found.to_json(), as_json=as_json, table=folds_table(title, found.folds))
