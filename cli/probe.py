"""The verb `probe`."""

import math
from typing import TYPE_CHECKING

from cli.console import Table, TerminalProgress, answer, number, reported, say, spread
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.probe_options import (
    BackboneOption,
    CalibrateOption,
    ChooseByOption,
    ChooseOnOption,
    ClassWeightOption,
    ControlOption,
    DrawsOption,
    ExternalOption,
    FeaturesOption,
    FoldModelsOption,
    ForceOption,
    PermutationsOption,
    ProbeOption,
    ReadingOption,
    RegimeOption,
    SeedOption,
    ShotsOption,
    SplitOption,
    TaskArgument,
    WithOption,
    WorkersOption,
)
from cli.shots import numbers_of
from peftbench.protocol.names import CONTROL_PREFIX, COX

if TYPE_CHECKING:
    from peftbench.protocol.results import ProbeRow


def probe(
    task: TaskArgument,
    backbone: BackboneOption = None,
    probe: ProbeOption = None,
    with_: WithOption = None,
    reading: ReadingOption = "embedding",
    external: ExternalOption = None,
    fold_models: FoldModelsOption = "averaged",
    features: FeaturesOption = None,
    control: ControlOption = True,
    split: SplitOption = None,
    regime: RegimeOption = "full",
    shots: ShotsOption = None,
    draws: DrawsOption = None,
    choose_on: ChooseOnOption = None,
    choose_by: ChooseByOption = "log-loss",
    class_weight: ClassWeightOption = "balanced",
    calibrate: CalibrateOption = "none",
    permutations: PermutationsOption = 99,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    force: ForceOption = False,
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
                shots=None if shots is None else numbers_of("--shots", shots),
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
    control = row.control.removeprefix(CONTROL_PREFIX)
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
    told = [row for row in rows if not math.isnan(row.p_value)]
    if any((row.probe != "logistic" or row.regime != "full") and not row.external for row in told):
        say("p: only logistic probes on the whole training part are fitted anew for it; the others' is a little low")
    if any(row.control for row in rows):
        of = "MCC (of cox in concordance)" if any(row.probe == COX for row in rows) else "MCC"
        say(f"gain: paired difference in {of} to the strongest control on the same folds, with its 95 % interval")
    elif not any(row.backbone.startswith(CONTROL_PREFIX) for row in rows):
        say("no control was run: these scores cannot be told from a shortcut's")
