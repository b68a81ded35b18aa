"""The verb `probe`."""

from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, number, reported, spread
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption


def probe(
    task: Annotated[list[str], typer.Argument(help="Name or names of tasks: see `peftbench list tasks`.")],
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", help="Name of an extracted backbone; may be repeated.", show_default=False),
    ] = None,
    probe: Annotated[str, typer.Option("--probe", help="Which probe: see `peftbench list probes`.")] = "logistic",
    split: Annotated[
        str | None,
        typer.Option(
            help="5-fold, LOCO (leave one centre out), hold-out, or the name of an imported split.",
            show_default="the task's own",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the division into folds.")] = 0,
    features: Annotated[
        str | None,
        typer.Option(help="Start of the key of the feature store to use, where several would serve."),
    ] = None,
    control: Annotated[bool, typer.Option(help="Whether to run the control that sees only the view.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Make records again that are complete.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Score backbones on tasks by a linear probe on their stored features, beside a control."""
    with reported(debug=debug):
        import peftbench

        with TerminalProgress() as progress:
            result = peftbench.probe(
                task,
                backbone or [],
                workspace=workspace,
                probe=probe,
                split=split,
                seed=seed,
                features=features,
                control=control,
                force=force,
                progress=progress,
            )
        rows = [
            (
                each.task,
                each.backbone,
                each.probe,
                each.scheme,
                str(each.folds),
                spread(each.mcc_mean, each.mcc_std),
                spread(each.pr_auc_mean, each.pr_auc_std),
                number(each.prevalence),
            )
            for each in result.results
        ]
        columns = ("task", "backbone", "probe", "split", ">folds", ">MCC", ">PR-AUC", ">prevalence")
        title = "mean ± standard deviation over folds; folds are divided by patient"
        answer(result.to_json(), as_json=as_json, table=Table(title, columns, rows))
