"""The results table: one row a record, each set against the control of its task."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from peftbench.analysis.intervals import Interval, corrected_interval
from peftbench.protocol.records import Record
from peftbench.protocol.splits import ratio_of_test_to_train

CONTROL_PREFIX = "control:"

FROM_CONFIG = (
    "task",
    "backbone",
    "strategy",
    "probe",
    "regime",
    "scheme",
    "folds",
    "shots",
    "draws",
    "seed",
    "version",
)
"""Columns that are the configuration's own."""

COLUMNS = (
    *FROM_CONFIG, "cohort", "unit",
    "images", "patients", "events", "event_patients", "prevalence",
    "mcc_mean", "mcc_std", "pr_auc_mean", "pr_auc_std", "roc_auc_mean", "roc_auc_std",
    "patient_mcc_mean", "patient_mcc_std", "patient_pr_auc_mean", "patient_pr_auc_std",
    "gain_mean", "gain_low", "gain_high", "control", "precision", "features", "identity",
)  # fmt: skip
"""Of the results table. `gain` is the paired difference in MCC to the control, with its 95 % interval; `events` counts
images, `event_patients` patients; headline scores are in `unit`, those of patients beside them."""


def results_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record: scores over folds, and the paired gain over the task's control.

    Returns:
        Columns as in `COLUMNS`, sorted by task, then controls last, then by MCC.
    """
    found = list(records)
    controls = {_cell(record): record for record in found if is_control(record)}
    rows = [_row(record, controls.get(_cell(record))) for record in found]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    order = frame.assign(last=frame["backbone"].str.startswith(CONTROL_PREFIX))
    order = order.sort_values(["task", "last", "mcc_mean"], ascending=[True, True, False], kind="stable")
    return order.drop(columns="last").reset_index(drop=True)


def folds_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record, unit, fold and draw: `identity`, task, backbone, unit, fold, draw, size, events and metrics."""
    rows = [
        {
            "identity": record.identity,
            "task": record.config.task,
            "backbone": record.config.backbone,
            **{key: score[key] for key in ("unit", "fold", "draw", "size", "events")},
            **score["metrics"],
        }
        for record in records
        for score in record.scores
    ]
    return pd.DataFrame(rows)


def is_control(record: Record) -> bool:
    """Whether a record is of something that must be beaten for a score to mean anything."""
    return record.config.backbone.startswith(CONTROL_PREFIX)


def gain(record: Record, control: Record) -> Interval:
    """Paired difference in MCC over the folds of two records of the same split, in the task's unit."""
    ours, theirs = (_by_fold(each) for each in (record, control))
    shared = sorted(ours.keys() & theirs.keys())
    differences = [ours[cell] - theirs[cell] for cell in shared]
    return corrected_interval(differences, ratio_of_parts(record))


def ratio_of_parts(record: Record) -> float:
    """Size of a test part by size of a training part, in units (patients), as the correction of intervals needs it.

    Of k-fold it follows from the number of folds. Of other splits it is the mean size of the test parts by that of the
    training parts, as the record tells them; NaN (and so no interval) where it does not.
    """
    if record.config.scheme == "k-fold":
        return ratio_of_test_to_train(record.config.folds)
    units = record.provenance.get("split", {}).get("units", {})
    train = sum(units.get("train", []))
    return sum(units["test"]) / train if train else math.nan


def _by_fold(record: Record) -> dict[tuple[int, int], float]:
    unit = record.task["unit"]
    cells = {}
    for score in record.scores:
        if score["unit"] == unit:
            value = score["metrics"]["mcc"]
            cells[score["fold"], score["draw"]] = np.nan if value is None else float(value)
    return cells


def _cell(record: Record) -> tuple[object, ...]:
    config = record.config
    sampled = (config.regime, config.shots, config.draws)
    return (config.split_digest, config.task_digest, *sampled, config.probe, config.version)


def _row(record: Record, control: Record | None) -> dict[str, object]:
    config, unit = record.config, record.task["unit"]
    row: dict[str, object] = {**config.model_dump(include=set(FROM_CONFIG)), "identity": record.identity, "unit": unit}
    row |= {key: record.task[key] for key in ("cohort", "images", "patients", "events", "event_patients", "prevalence")}
    for metric in ("mcc", "pr_auc", "roc_auc"):
        row[f"{metric}_mean"], row[f"{metric}_std"] = record.score(metric, unit)
    for metric in ("mcc", "pr_auc"):
        row[f"patient_{metric}_mean"], row[f"patient_{metric}_std"] = record.score(metric, "patient")
    against = control if control is not None and not is_control(record) else None
    interval = Interval(np.nan, np.nan, np.nan, 0) if against is None else gain(record, against)
    recipe = record.provenance["features"].get("recipe", {})
    return row | {
        "gain_mean": interval.mean,
        "gain_low": interval.low,
        "gain_high": interval.high,
        "control": "" if against is None else against.config.backbone,
        "precision": recipe.get("precision", ""),
        "features": config.features[:16],
    }
