"""The verb `probe`."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import Table, TerminalProgress, answer, number, reported, say, spread
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from peftbench.protocol.results import ProbeRow

_WHAT, _HOW, _CHOICE, _RUN = "What is probed", "How much trains", "How settings are chosen", "Running"


def probe(
    task: Annotated[list[str], typer.Argument(help="Name or names of tasks: see `peftbench list tasks`.")],
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            help="Name of an extracted backbone; may be repeated.",
            show_default=False,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            "--probe",
            help="logistic, ridge, knn, centroid, cox, one of the classical set, `classical`, `all` (see `peftbench "
            'list probes`), or a classifier by its import path: "sklearn.svm.SVC(C=10)". May be repeated.',
            show_default="logistic",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="`clinical`: clinical variables alone, and beside the features.",
            show_default=False,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    reading: Annotated[
        str,
        typer.Option(
            help="`embedding`, or `blocks`: the last block or the last four, with and without the mean patch token, "
            "chosen on validation.",
            rich_help_panel=_WHAT,
        ),
    ] = "embedding",
    external: Annotated[
        str | None,
        typer.Option(
            help="A task of another cohort with the same outcome: fit here, test there.",
            show_default=False,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    fold_models: Annotated[
        str,
        typer.Option(
            help="With --external: `averaged`, the mean score of the folds' models, or `refitted`, one model of all.",
            rich_help_panel=_WHAT,
        ),
    ] = "averaged",
    features: Annotated[
        str | None,
        typer.Option(
            help="Start of the key of the feature store to use, where several would serve.",
            show_default=False,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    control: Annotated[
        bool,
        typer.Option(
            help="Whether to run the controls: view, centre, number of images, and untrained weights if stored.",
            rich_help_panel=_WHAT,
        ),
    ] = True,
    split: Annotated[
        str | None,
        typer.Option(
            help="5-fold, LOCO (leave one centre out), hold-out, or the name of an imported split.",
            show_default="the task's own",
            rich_help_panel=_HOW,
        ),
    ] = None,
    regime: Annotated[
        str, typer.Option(help="full, reduced, few-shot, or center-few-shot.", rich_help_panel=_HOW)
    ] = "full",
    shots: Annotated[
        str | None,
        typer.Option(
            help="Images a class (and centre), separated by commas; images in all of `reduced`.",
            show_default="2,4,8,16,32 as far as there are so many; reduced: 256",
            rich_help_panel=_HOW,
        ),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(help="Support sets a fold and number of shots.", show_default="100", rich_help_panel=_HOW),
    ] = None,
    choose_on: Annotated[
        str | None,
        typer.Option(
            help="`validation`, or `support`: each image of the support set by the fit without it.",
            show_default="support where a part of the training part is used",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    choose_by: Annotated[
        str, typer.Option(help="`log-loss` (balanced) or `mcc`.", rich_help_panel=_CHOICE)
    ] = "log-loss",
    class_weight: Annotated[
        str, typer.Option(help="`balanced`: both classes weigh the same; or `none`.", rich_help_panel=_CHOICE)
    ] = "balanced",
    calibrate: Annotated[
        str, typer.Option(help="`none`, or `temperature`: scores scaled on validation.", rich_help_panel=_CHOICE)
    ] = "none",
    permutations: Annotated[
        int,
        typer.Option(help="Labellings of the null distribution behind the p value; 0 for none.", rich_help_panel=_RUN),
    ] = 99,
    seed: Annotated[
        int, typer.Option(help="Seed of the division, and of whatever is random.", rich_help_panel=_RUN)
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Processes at most.", show_default="one a core", rich_help_panel=_RUN)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Make records again that are complete.", rich_help_panel=_RUN)
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Score backbones on tasks by probes on their stored features, beside the controls that must be beaten."""
    with reported(debug=debug):
        import peftbench

        with TerminalProgress() as progress:
            result = peftbench.probe(
                task,
                backbone or [],
                workspace=workspace,
                probe=probe or "logistic",
                split=split,
                regime=regime,
                shots=None if shots is None else _numbers(shots),
                draws=draws,
                with_=with_ or (),
                external=external,
                fold_models=fold_models,
                reading=reading,
                choose_on=choose_on,
                choose_by=choose_by,
                class_weight=class_weight,
                calibrate=calibrate,
                permutations=permutations,
                seed=seed,
                features=features,
                control=control,
                workers=workers,
                force=force,
                progress=progress,
            )
        answer(result.to_json(), as_json=as_json, table=_table(result.results))
        _explain(result.results)


def _numbers(text: str) -> list[int]:
    from peftbench.errors import ConfigError

    try:
        return [int(each) for each in text.split(",") if each.strip()]
    except ValueError as error:
        raise ConfigError(f"--shots is {text!r}, expected whole numbers separated by commas, e.g. 2,4,8") from error


def _table(rows: "list[ProbeRow]") -> Table:
    """Columns that say something in this answer."""
    cox = any(row.c_index_mean == row.c_index_mean for row in rows)
    drawn = any(row.shots is not None for row in rows)
    elsewhere = any(row.external for row in rows)
    columns = ["task", *(["tested on"] if elsewhere else []), "backbone", "probe"]
    columns += ["split", *([">shots"] if drawn else []), *([] if elsewhere else [">folds"]), ">MCC"]
    columns += [">5-95 % of draws", ">worst tenth"] if drawn else []
    columns += [">PR-AUC", ">prevalence", ">p", ">gain over the strongest control"]
    columns += [">C-index"] if cox else []
    told = [_cells(row) for row in rows]
    title = "mean ± standard deviation over folds; folds are divided by patient"
    if elsewhere:
        title = "fitted on the task's cohort, tested on another; 95 % interval by patients drawn anew"
    return Table(title, columns, [[cells[column] for column in columns] for cells in told], whole=("backbone", ">MCC"))


def _cells(row: "ProbeRow") -> dict[str, str]:
    control = row.control.removeprefix("control:")
    gain = f"{number(row.gain_mean)} ({number(row.gain_low)} to {number(row.gain_high)}), {control}"
    return {
        "task": row.task,
        "tested on": row.external,
        "backbone": row.backbone,
        "probe": row.probe,
        "split": row.scheme,
        ">shots": "-" if row.shots is None else str(row.shots),
        ">folds": str(row.folds),
        ">MCC": _mcc(row),
        ">5-95 % of draws": f"{number(row.mcc_q05)} to {number(row.mcc_q95)}",
        ">worst tenth": number(row.mcc_worst_decile),
        ">PR-AUC": spread(row.pr_auc_mean, row.pr_auc_std),
        ">prevalence": number(row.prevalence),
        ">p": number(row.p_value),
        ">gain over the strongest control": gain if control else "",
        ">C-index": spread(row.c_index_mean, row.c_index_std),
    }


def _mcc(row: "ProbeRow") -> str:
    """With its deviation over folds; of a test elsewhere with its interval."""
    if row.external:
        return f"{number(row.mcc_mean)} ({number(row.mcc_low)} to {number(row.mcc_high)})"
    return spread(row.mcc_mean, row.mcc_std)


def _explain(rows: "list[ProbeRow]") -> None:
    if any(row.control for row in rows):
        of = "MCC (of cox in concordance)" if any(row.probe == "cox" for row in rows) else "MCC"
        say(f"gain: paired difference in {of} to the strongest control on the same folds, with its 95 % interval")
    elif not any(row.backbone.startswith("control:") for row in rows):
        say("no control was run: these scores cannot be told from a shortcut's")
