"""The verb `probe`: linear probes on stored features, beside the control that must be beaten."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from peftbench.cohorts.asked import task_rows
from peftbench.errors import ConfigError, unknown_name
from peftbench.probing.cells import COSTS, PROBE_SCHEMA, Cell, probe_fold
from peftbench.probing.inputs import ProbeInput, stored_features, view_control
from peftbench.probing.registry import PROBES
from peftbench.protocol import provenance
from peftbench.protocol.metrics import METRICS_SCHEMA
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.records import (
    Record,
    RunConfig,
    finished,
    score_folds,
    summarise,
    write_predictions,
)
from peftbench.protocol.results import ProbeResult, ProbeRow
from peftbench.protocol.splits import Split, find_split
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace


def probe(
    task: str | Sequence[str],
    backbone: str | Sequence[str] = (),
    *,
    workspace: str | Path | Workspace | None = None,
    probe: str = "logistic",
    split: str | None = None,
    seed: int = 0,
    features: str | None = None,
    control: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> ProbeResult:
    """Score backbones on tasks by a linear probe on their stored features.

    Every task is also probed with what a control sees (only the view), because a score means nothing alone.
    A record that is complete and was made with the same configuration is read instead of made again.

    Args:
        task: name or names (`peftbench.list("tasks")`).
        backbone: name or names, as given to `extract`.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        probe: `logistic`: L2-regularised logistic regression with balanced classes.
        split: `5-fold`, `LOCO`, `hold-out`, or the name of an imported split; by default the task's own scheme.
        seed: of the division into folds.
        features: start of the key of the feature store to use, where several would serve.
        control: whether to run the control beside the backbones.
        force: make records again that are complete.
        progress: who is told how far it is.

    Raises:
        UnknownNameError: there is no such task, backbone, probe or split.
        NotPreparedError: the cohort was not prepared, or features are missing.
        SplitError: the task cannot be split so: too few patients of a class or too few centres, or an imported split
            is of other rows.
    """
    backbones = list(dict.fromkeys([backbone] if isinstance(backbone, str) else backbone))
    if probe not in PROBES:
        raise unknown_name("probe", probe, PROBES, "peftbench list probes")
    if seed < 0:
        raise ConfigError(f"--seed is {seed}, expected 0 or more")
    if not backbones and not control:
        raise ConfigError("nothing to probe: name a backbone with --backbone, or leave the control on")
    place, told = Workspace.at(workspace), progress or Silent()
    asked = [task_rows(name, place) for name in ([task] if isinstance(task, str) else task)]
    divided = [(rows, find_split(rows, split, seed, place.splits(rows.task.name))) for rows in asked]
    results = []
    # More BLAS threads make small problems slower, and the last bits depend on their number.
    with threadpool_limits(1):
        for rows, division in divided:
            inputs = [stored_features(rows, name, place, told, features) for name in backbones]
            inputs += [view_control(rows)] if control else []
            results += _probe_task(rows, division, inputs, place, told, seed, force=force)
    return ProbeResult(results=results)


def _probe_task(
    rows: TaskRows, split: Split, inputs: list[ProbeInput], place: Workspace, told: Progress, seed: int, *, force: bool
) -> list[ProbeRow]:
    for note in split.notes:
        told.note(note)
    if split.own and seed:
        told.note(f"{rows.task.name}: the split {split.scheme!r} is given, so --seed {seed} changes nothing")
    place.ensure_writable()
    if not split.own:
        split.save(place.splits(rows.task.name))
    told.start(f"probing {rows.task.name}", len(inputs) * split.folds)
    return [_probe_input(rows, split, each, place, told, force=force) for each in inputs]


def _probe_input(
    rows: TaskRows, split: Split, given: ProbeInput, place: Workspace, told: Progress, *, force: bool
) -> ProbeRow:
    config = _config(rows, split, given)
    folder = config.folder(place)
    record = None if force else finished(folder)
    if record is None:
        watch = provenance.Stopwatch()
        with watch.phase("fit and predict"):
            cells = _fit_folds(rows, split, given, told)
        record = _write(rows, split, given, config, cells, watch, folder)
    else:
        told.advance(split.folds)
    return _row(rows, record, folder)


def _fit_folds(rows: TaskRows, split: Split, given: ProbeInput, told: Progress) -> list[Cell]:
    cells = []
    for fold in range(split.folds):
        cells.append(probe_fold(rows, split, fold, given.matrix))
        told.advance()
    return cells


def _config(rows: TaskRows, split: Split, given: ProbeInput) -> RunConfig:
    return RunConfig(
        task=rows.task.name,
        backbone=given.name,
        strategy="LP",
        probe="logistic",
        regime="full",
        scheme=split.scheme,
        folds=split.folds,
        shots=None,
        draws=1,
        seed=split.seed,
        settings={
            "C": list(COSTS),
            "class_weight": "balanced",
            "standardised": True,
            "chosen_on": "balanced log loss",
            "probe_schema": PROBE_SCHEMA,
            "metrics_schema": METRICS_SCHEMA,
        },
        task_digest=rows.digest,
        split_digest=split.digest,
        features=given.identity,
        features_digest=given.digest,
        version=provenance.version(),
    )


def _write(
    rows: TaskRows,
    split: Split,
    given: ProbeInput,
    config: RunConfig,
    cells: list[Cell],
    watch: provenance.Stopwatch,
    folder: Path,
) -> Record:
    with watch.phase("score and write"):
        predictions = pd.concat([cell.predictions for cell in cells], ignore_index=True)
        scores = score_folds(predictions, {(fold, 0): cell.chosen for fold, cell in enumerate(cells)})
        digest = write_predictions(folder, predictions)
    record = Record(
        identity=config.identity,
        config=config,
        task=task_facts(rows),
        scores=[score._asdict() for score in scores],
        summary=summarise(scores),
        notes=[*split.notes],
        provenance={**provenance.provenance(), "features": given.origin, "split": split_facts(rows, split)},
        cost={
            "seconds": watch.seconds,
            "device": "cpu",
            "peak_memory_mb": provenance.peak_memory_mb(),
            "trainable_parameters": given.matrix.shape[1] + 1,
        },
        predictions_digest=digest,
        status="complete",
    )
    record.write(folder)
    return record


def task_facts(rows: TaskRows) -> dict[str, Any]:
    """What a record says of its task."""
    return {
        "question": rows.task.question,
        "cohort": rows.task.cohort,
        "unit": rows.task.unit,
        "caveat": rows.task.caveat,
        "images": rows.images,
        "patients": rows.patients,
        "events": rows.events,
        "event_patients": rows.event_patients,
        "prevalence": rows.prevalence,
    }


def split_facts(rows: TaskRows, split: Split) -> dict[str, Any]:
    """What a record says of its split: names of the folds, and units (patients) of each role fold by fold."""
    return {"names": list(split.names), "units": dict(split.unit_counts(rows))}


def _row(rows: TaskRows, record: Record, folder: Path) -> ProbeRow:
    mcc, pr_auc = (record.score(metric, rows.task.unit) for metric in ("mcc", "pr_auc"))
    config = record.config
    return ProbeRow(
        task=config.task,
        backbone=config.backbone,
        probe=config.probe,
        regime=config.regime,
        scheme=config.scheme,
        folds=config.folds,
        shots=config.shots,
        draws=config.draws,
        mcc_mean=mcc[0],
        mcc_std=mcc[1],
        pr_auc_mean=pr_auc[0],
        pr_auc_std=pr_auc[1],
        prevalence=rows.prevalence,
        record=str(folder),
    )
