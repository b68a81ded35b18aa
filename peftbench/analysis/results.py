"""The results table: one row a record, each set against the strongest control of its task."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from peftbench.analysis.intervals import Interval, bootstrap_interval, corrected_interval
from peftbench.protocol.metrics import mean_and_std
from peftbench.protocol.names import (
    CLINICAL_CONTROL,
    CONTROL_PREFIX,
    COX,
    HEADLINE,
    LOGISTIC,
    RANDOM_MARK,
    TRAINED,
    WITH_CLINICAL,
)
from peftbench.protocol.records import Record
from peftbench.protocol.splits import ratio_of_test_to_train
from stores.keys import canonical_json

Loader = Callable[[Record], pd.DataFrame]
"""A record's predictions."""

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
    "external", "mcc_low", "mcc_high", "mcc_tuned_mean", "mcc_tuned_std", "brier_mean", "ece_mean",
    "p_value", "null_q95", "mcc_q05", "mcc_median", "mcc_q95", "mcc_worst_decile", "c_index_mean", "c_index_std",
    "trainable_parameters", "trainable_percent", "epochs", "seconds", "peak_memory_mb",
)  # fmt: skip
"""Of the results table. `gain` is the paired difference in MCC (of a Cox probe, in the c-index) to the strongest
`control`, with its 95 % interval; `events` counts images, `event_patients` patients; headline scores are in `unit`,
those of patients beside them. `mcc_low` and `mcc_high` are of external validations only. `p_value` and `null_q95` are
those under permuted labels; quantiles, median and worst decile are over draws. Parameters that learnt (and per cent of
all) and epochs (over all folds and draws) are of what was fine-tuned only; `seconds` are over all phases."""

COST = ("trainable_parameters", "trainable_percent", "epochs", "peak_memory_mb")
"""Columns that are the cost's own."""

STRATA_COLUMNS = (
    "task", "backbone", "probe", "regime", "shots", "external", "column", "value", "unit", "size", "events", "folds",
    "mcc_mean", "mcc_std", "pr_auc_mean", "pr_auc_std", "identity", "strategy",
)  # fmt: skip

CURVE_COLUMNS = (
    "task", "backbone", "probe", "regime", "shots", "draws", "scheme", "seed", "unit",
    "mean", "q05", "q95", "worst_decile", "identity", "strategy",
)  # fmt: skip


def results_table(records: Iterable[Record], predictions: Loader | None = None) -> pd.DataFrame:
    """One row a record: scores over folds, and the paired gain over the strongest control of its cell.

    A cell is what shares rows, split, regime, probe (or strategy) and external task. Controls are the `control:*`
    records (that of the clinical variables only for what was given them), and for a pretrained backbone the untrained
    ones of its architecture too. What was fine-tuned is set against the controls that were probed logistically on its
    folds: a control has nothing to fine-tune. Of several the one with the highest mean counts. As the luckiest of
    several is picked for the other side, the gain over it is, if anything, too small: the choice is conservative.

    Args:
        records: as read.
        predictions: of a record; intervals of external validations, a bootstrap by patient, need them and are NaN
            without.

    Returns:
        Columns as in `COLUMNS`, sorted by task, then the task's own test parts first, then controls last, then by MCC.
    """
    found = list(records)
    rivals = _rivals(found)
    rows = [_row(record, strongest_control(record, rivals(record)), predictions) for record in found]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    order = frame.assign(last=frame["backbone"].str.startswith(CONTROL_PREFIX))
    keys = ["task", "external", "last", "mcc_mean"]
    order = order.sort_values(keys, ascending=[True, True, True, False], kind="stable")
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


def strata_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record and stratum: scores within each view and each centre; columns as in `STRATA_COLUMNS`."""
    rows = [
        {**record.config.model_dump(), "unit": record.task["unit"], "identity": record.identity, **stratum}
        for record in records
        for stratum in record.strata
    ]
    return pd.DataFrame(rows, columns=list(STRATA_COLUMNS))


def curve_table(records: Iterable[Record]) -> pd.DataFrame:
    """Learning curves: one row a record of a regime with a number of images, its MCC over draws in the task's unit.

    Returns:
        Columns as in `CURVE_COLUMNS`, sorted by task, regime, backbone, probe, strategy and number of images. Quantiles
        are NaN where there is one draw only. External validations and Cox probes are left out.
    """
    rows = []
    for record in records:
        config, unit = record.config, record.task["unit"]
        if config.shots is None or config.external or headline_metric(record) != "mcc":
            continue
        told = _over_draws(record)
        row = {**config.model_dump(), "unit": unit, "identity": record.identity, "mean": record.score("mcc", unit)[0]}
        rows.append(row | {key: told[key] for key in ("q05", "q95", "worst_decile")})
    frame = pd.DataFrame(rows, columns=list(CURVE_COLUMNS))
    order = ["task", "regime", "backbone", "probe", "strategy", "shots"]
    return frame.sort_values(order, kind="stable").reset_index(drop=True)


def is_control(record: Record) -> bool:
    """Whether a record is of something that must be beaten for a score to mean anything."""
    return record.config.backbone.startswith(CONTROL_PREFIX)


def headline_metric(record: Record) -> str:
    """`mcc`; of a probe of a time `c_index`."""
    return "c_index" if record.config.probe == COX else "mcc"


def headline_unit(record: Record) -> str:
    """The task's unit; of a probe of a time `patient`, because two films of one patient make no pair."""
    return "patient" if headline_metric(record) == "c_index" else str(record.task["unit"])


def strongest_control(record: Record, cell: Iterable[Record]) -> Record | None:
    """Of the controls of a record the one with the highest mean; None for a control, or where none was run.

    Args:
        record: what is set against it.
        cell: records of the same rows, split, regime, probe and external task.
    """
    if is_control(record):
        return None
    rivals = [each for each in cell if _must_be_beaten(each.config.backbone, record.config.backbone)]
    return min(rivals, key=_weakness, default=None)


def gain(record: Record, control: Record) -> Interval:
    """Paired difference over the folds of two records of the same split, in the task's unit.

    In MCC, of Cox probes in the c-index. A fold counts once, as the mean of its draws: draws of one fold share the test
    part and are not independent.
    """
    ours, theirs = (by_fold(each) for each in (record, control))
    shared = sorted(ours.keys() & theirs.keys())
    return corrected_interval([ours[fold] - theirs[fold] for fold in shared], ratio_of_parts(record))


def by_fold(record: Record) -> dict[int, float]:
    """The headline metric of each fold, the mean of its draws, in the headline's unit; NaN where it is not defined."""
    unit, metric = headline_unit(record), headline_metric(record)
    draws: dict[int, list[float]] = {}
    for score in record.scores:
        if score["unit"] == unit:
            value = score["metrics"].get(metric)
            draws.setdefault(score["fold"], []).append(math.nan if value is None else float(value))
    return {fold: mean_and_std(values)[0] for fold, values in draws.items()}


def external_interval(record: Record, control: Record | None, predictions: Loader | None) -> Interval:
    """MCC on another cohort's task, or its difference to a control's there, with a bootstrap interval by patient.

    Args:
        record: of an external validation.
        control: of the same one; None for the MCC itself.
        predictions: of a record; None leaves the interval open.
    """
    unit, sides = record.task["unit"], [record] if control is None else [record, control]
    means = [each.score(headline_metric(each), unit)[0] for each in sides]
    if predictions is None or headline_metric(record) != "mcc":
        return Interval(means[0] - sum(means[1:]), math.nan, math.nan, 0)
    wide = [_wide(predictions(each)) for each in sides]
    shared = wide[0].index.intersection(wide[-1].index)
    if not len(shared):
        return Interval(math.nan, math.nan, math.nan, 0)
    scores = [each.loc[shared].drop(columns=["patient_id", "event"]).to_numpy(dtype=np.float64) for each in wide]
    rows = wide[0].loc[shared]
    return bootstrap_interval(rows["patient_id"], rows["event"], *scores, unit=unit, seed=record.config.seed)


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


def _must_be_beaten(rival: str, backbone: str) -> bool:
    """Whether a rival, by its name, is a control of a backbone."""
    if rival.startswith(CONTROL_PREFIX):
        return rival != CLINICAL_CONTROL or backbone.endswith(WITH_CLINICAL)
    name, clinical = _without_clinical(backbone)
    other, other_clinical = _without_clinical(rival)
    untrained = RANDOM_MARK in other and RANDOM_MARK not in name
    return untrained and clinical == other_clinical and other.partition(RANDOM_MARK)[0] == name


def _without_clinical(backbone: str) -> tuple[str, bool]:
    return backbone.removesuffix(WITH_CLINICAL), backbone.endswith(WITH_CLINICAL)


def _weakness(record: Record) -> tuple[float, bool, str, str]:
    """Sorts controls: the strongest first, of equals those that see less; what has no score last."""
    mean = record.score(headline_metric(record), headline_unit(record))[0]
    config = record.config
    return math.inf if math.isnan(mean) else -mean, not is_control(record), config.backbone, record.identity


def _wide(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row an image of the headline: patient, event, and the score of each draw."""
    rows = predictions[(predictions["fold"] == HEADLINE) & (predictions["role"] == "test")]
    who = rows.drop_duplicates("sample_id").set_index("sample_id")[["patient_id", "event"]]
    return who.join(rows.pivot_table(index="sample_id", columns="draw", values="score"))


NOT_COMPARED = frozenset({"permutations"})
"""Settings that may differ between records that are set against each other: they change no score."""

LAST_BITS = frozenset({"precision", "device"})
"""Settings of a fine-tuning in which its control, untrained weights, may differ from it."""


def _rivals(records: Iterable[Record]) -> Callable[[Record], list[Record]]:
    """Record to what shares its cell; of what was fine-tuned with the controls of its folds beside."""
    cells: dict[tuple[object, ...], list[Record]] = {}
    controls: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        cells.setdefault(_cell(record), []).append(record)
        if is_control(record) and record.config.probe == LOGISTIC:
            controls.setdefault(_ground(record), []).append(record)

    def of(record: Record) -> list[Record]:
        trained = record.config.probe == TRAINED
        return cells[_cell(record)] + (controls.get(_ground(record), []) if trained else [])

    return of


def _ground(record: Record) -> tuple[object, ...]:
    """What records must share whatever predicted: rows, folds, how much trained, and where it was tested."""
    config = record.config
    same = (config.split_digest, config.task_digest, config.seed, config.version)
    return (*same, config.regime, config.shots, config.external, config.external_digest)


def _cell(record: Record) -> tuple[object, ...]:
    config = record.config
    return (*_ground(record), config.probe, config.strategy, config.draws, how(record, NOT_COMPARED | LAST_BITS))


def how(record: Record, without: frozenset[str] = NOT_COMPARED) -> str:
    """What else must agree before two records are set against each other: how settings are chosen and scores made.

    Canonical JSON of the settings, but for some; by default the number of permutations.
    """
    settings = record.config.settings
    return canonical_json({name: settings[name] for name in sorted(settings) if name not in without})


def _row(record: Record, control: Record | None, predictions: Loader | None) -> dict[str, object]:
    config, unit = record.config, record.task["unit"]
    row: dict[str, object] = {**config.model_dump(include=set(FROM_CONFIG)), "identity": record.identity, "unit": unit}
    row |= {key: record.task[key] for key in ("cohort", "images", "patients", "events", "event_patients", "prevalence")}
    recipe = record.provenance["features"].get("recipe", {})
    row |= {"precision": recipe.get("precision", ""), "features": config.features[:16], "external": config.external}
    return row | _scores(record) | _intervals(record, control, predictions) | _resampled(record) | _cost(record)


def _scores(record: Record) -> dict[str, object]:
    """Means and standard deviations over folds."""
    unit, row = record.task["unit"], {}
    for metric in ("mcc", "pr_auc", "roc_auc", "mcc_tuned", "brier", "ece", "c_index"):
        row[f"{metric}_mean"], row[f"{metric}_std"] = record.score(metric, "patient" if metric == "c_index" else unit)
    for metric in ("mcc", "pr_auc"):
        row[f"patient_{metric}_mean"], row[f"patient_{metric}_std"] = record.score(metric, "patient")
    return {name: value for name, value in row.items() if name in COLUMNS}


def _intervals(record: Record, control: Record | None, predictions: Loader | None) -> dict[str, object]:
    own = gained = Interval(math.nan, math.nan, math.nan, 0)
    if record.config.external:
        own = external_interval(record, None, predictions)
    if control is not None:
        elsewhere = bool(record.config.external)
        gained = external_interval(record, control, predictions) if elsewhere else gain(record, control)
    return {
        "gain_mean": gained.mean, "gain_low": gained.low, "gain_high": gained.high,
        "control": "" if control is None else control.config.backbone, "mcc_low": own.low, "mcc_high": own.high,
    }  # fmt: skip


def _resampled(record: Record) -> dict[str, object]:
    """What is known from permuted labels and from several draws."""
    told = _over_draws(record)
    names = {"q05": "mcc_q05", "median": "mcc_median", "q95": "mcc_q95", "worst_decile": "mcc_worst_decile"}
    null = {"p_value": _number(record.null.get("p")), "null_q95": _number(record.null.get("q95"))}
    return {**null, **{column: told[name] for name, column in names.items()}}


def _cost(record: Record) -> dict[str, object]:
    """What learnt, for how long, and what it held in memory, as far as the record says it."""
    cost = record.cost
    row: dict[str, object] = {name: _number(cost.get(name)) for name in COST}
    return {**row, "seconds": sum(cost["seconds"].values()) if "seconds" in cost else math.nan}


def _over_draws(record: Record) -> dict[str, float]:
    found = record.distribution.get(record.task["unit"], {}).get("mcc", {})
    return {name: _number(found.get(name)) for name in ("q05", "median", "q95", "worst_decile")}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
