"""The verb `finetune`."""

from pathlib import Path
from typing import TYPE_CHECKING

from cli.console import PREEMPTED, Table, TerminalProgress, answer, number, reported, say
from cli.finetune_options import (
    BackboneOption,
    CheckpointsOption,
    DeviceOption,
    DrawsOption,
    ExternalOption,
    PrecisionOption,
    PresetOption,
    RankOption,
    SetOption,
    StrategyOption,
    TrackOption,
)
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
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

if TYPE_CHECKING:
    from peftbench.protocol.results import FinetuneRow


def finetune(
    task: TaskArgument,
    backbone: BackboneOption,
    strategy: StrategyOption,
    rank: RankOption = None,
    external: ExternalOption = None,
    split: SplitOption = None,
    regime: RegimeOption = "full",
    shots: ShotsOption = None,
    draws: DrawsOption = None,
    preset: PresetOption = "paper",
    set_: SetOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    permutations: PermutationsOption = 99,
    seed: SeedOption = 0,
    checkpoints: CheckpointsOption = "auto",
    track: TrackOption = "none",
    force: ForceOption = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Adapt backbones to tasks on streamed images, by six strategies, on the folds that probes are scored on.

    Stopped by SIGTERM or SIGUSR1, which a cluster sends before it takes a machine away, it keeps its state and exits
    with 75: run the same command again, and it goes on.
    """
    with reported(debug=debug, preempted=PREEMPTED):
        import peftbench
        from peftbench.reporting.training import write_curve

        with TerminalProgress() as progress:
            result = peftbench.finetune(
                task,
                backbone,
                strategy,
                workspace=workspace,
                rank=rank,
                external=external,
                split=split,
                regime=regime,
                shots=None if shots is None else numbers_of("--shots", shots),
                draws=draws,
                preset=preset,
                set_=set_ or (),
                device=device,
                precision=precision,
                permutations=permutations,
                seed=seed,
                checkpoints=checkpoints,
                track=track,
                force=force,
                progress=progress,
            )
        answer(result.to_json(), as_json=as_json, table=_table(result.results))
        for row in result.results:
            write_curve(Path(row.record))
        if any(row.control for row in result.results):
            say(f"gain: {GAIN.format('MCC')}")
        if not as_json:
            for row in result.results:
                say(f"record of {row.backbone}, {_strategy(row)}: {row.record}")


def _table(rows: "list[FinetuneRow]") -> Table:
    """Columns that say something in this answer."""
    drawn, elsewhere = any(row.shots is not None for row in rows), any(row.external for row in rows)
    columns = ["task", *(["tested on"] if elsewhere else []), "backbone", "strategy", "split"]
    columns += [*([">shots"] if drawn else []), ">folds", ">MCC", ">PR-AUC", ">prevalence", ">p"]
    columns += [">gain over the strongest control", ">learns", ">epochs in all", ">minutes", ">images/s"]
    cells = [_cells(row) for row in rows]
    return Table(OVER_FOLDS, columns, [[each[name] for name in columns] for each in cells], whole=("backbone", ">MCC"))


def _cells(row: "FinetuneRow") -> dict[str, str]:
    return {
        **score_cells(row),
        "strategy": _strategy(row),
        ">learns": f"{row.trainable_parameters:,} ({number(row.trainable_percent)} %)",
        ">epochs in all": str(row.epochs),
        ">minutes": number(row.seconds / 60, 1),
        ">images/s": number(row.images_per_second, 1),
    }


def _strategy(row: "FinetuneRow") -> str:
    return row.strategy if row.rank is None else f"{row.strategy} r{row.rank}"
