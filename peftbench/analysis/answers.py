"""From records to what a verb answers of their scores: the fields that probes and fine-tunings share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from peftbench.analysis.results import results_table
from peftbench.protocol.records import Record, read_predictions
from peftbench.protocol.workspace import Workspace

Compared = Mapping[str, "pd.Series[Any]"]
"""Identity of a record to its row of the results table."""


def compared(records: Sequence[Record], place: Workspace) -> Compared:
    """Records set against each other: each against the strongest control among them.

    Args:
        records: of one call, and controls that it is set against.
        place: the workspace.
    """
    table = results_table(records, lambda each: read_predictions(each.config.folder(place)))
    return {str(row["identity"]): row for _, row in table.iterrows()}


def score_fields(record: Record, row: "pd.Series[Any]", place: Workspace) -> dict[str, Any]:
    """The fields of a `ScoreRow`.

    Args:
        record: of a probe or a fine-tuning.
        row: of the results table.
        place: the workspace.
    """
    config, unit = record.config, record.task["unit"]
    told = record.distribution.get(unit, {}).get("mcc", {})
    values = {}
    for metric in ("mcc", "pr_auc", "mcc_tuned", "c_index"):
        # Two films of a patient make no pair of their own: a concordance is told of patients.
        of = "patient" if metric == "c_index" else unit
        values[f"{metric}_mean"], values[f"{metric}_std"] = record.score(metric, of)
    gain = {name: as_number(row[name]) for name in ("gain_mean", "gain_low", "gain_high", "mcc_low", "mcc_high")}
    quantiles = {f"mcc_{name}": as_number(told.get(name)) for name in ("q05", "q95", "worst_decile")}
    same = ("task", "backbone", "probe", "regime", "scheme", "folds", "shots", "draws", "external")
    return {
        **{name: getattr(config, name) for name in same},
        "prevalence": float(record.task["prevalence"]),
        "control": str(row["control"]),
        "p_value": as_number(record.null.get("p")),
        "record": str(config.folder(place)),
        **values,
        **gain,
        **quantiles,
    }


def as_number(value: object) -> float:
    """A number, or NaN where there is none."""
    return float(value) if isinstance(value, int | float | np.floating) else math.nan
