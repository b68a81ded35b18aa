"""The verb `probe`."""

import math
from typing import TYPE_CHECKING

from cli.console import Table, TerminalProgress, answer, reported, say, spread
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
    ProbeOption,
    ReadingOption,
    WithOption,
    WorkersOption,
)
from cli.scores import GAIN, OVER_FOLDS, score_cells
from cli.shots import numbers_of
from cli.task_options import (
    ForceOption,
    PermutationsOption,
    RegimeOption,
    SeedOption,
    ShotsOption,
    SplitOption,
    TaskArgument,
)
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
    title = OVER_FOLDS
    if elsewhere:
        title = "fitted on the task's cohort, tested on another; 95 % interval by patients drawn anew"
    return Table(title, columns, [[cells[column] for column in columns] for cells in told], whole=("backbone", ">MCC"))


def _cells(row: "ProbeRow") -> dict[str, str]:
    return {**score_cells(row), ">C-index": spread(row.c_index_mean, row.c_index_std)}


def _explain(rows: "list[ProbeRow]") -> None:
    told = [row for row in rows if not math.isnan(row.p_value)]
    if any((row.probe != "logistic" or row.regime != "full") and not row.external for row in told):
        say("p: only logistic probes on the whole training part are fitted anew for it; the others' is a little low")
    if any(row.control for row in rows):
        of = "MCC (of cox in concordance)" if any(row.probe == COX for row in rows) else "MCC"
        say(f"gain: {GAIN.format(of)}")
    elif not any(row.backbone.startswith(CONTROL_PREFIX) for row in rows):
        say("no control was run: these scores cannot be told from a shortcut's")
