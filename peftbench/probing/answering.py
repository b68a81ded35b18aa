"""From records to the rows that `probe` answers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from peftbench.analysis.results import results_table
from peftbench.protocol.records import Record, read_predictions
from peftbench.protocol.results import ProbeRow
from peftbench.protocol.workspace import Workspace


def answer_rows(records: Sequence[Record], place: Workspace) -> list[ProbeRow]:
    """One row a record, in the order given; each set against the strongest control among them.

    Args:
        records: of one call.
        place: the workspace.
    """
    table = {
        str(row["identity"]): row
        for _, row in results_table(records, lambda each: read_predictions(each.config.folder(place))).iterrows()
    }
    return [_row(record, table[record.identity], place) for record in records]


def _row(record: Record, compared: "pd.Series[Any]", place: Workspace) -> ProbeRow:
    config, unit = record.config, record.task["unit"]
    told = record.distribution.get(unit, {}).get("mcc", {})
    values = {}
    for metric in ("mcc", "pr_auc", "mcc_tuned", "c_index"):
        # Two films of a patient make no pair of their own: a concordance is told of patients.
        of = "patient" if metric == "c_index" else unit
        values[f"{metric}_mean"], values[f"{metric}_std"] = record.score(metric, of)
    gain = {name: _number(compared[name]) for name in ("gain_mean", "gain_low", "gain_high", "mcc_low", "mcc_high")}
    quantiles = {f"mcc_{name}": _number(told.get(name)) for name in ("q05", "q95", "worst_decile")}
    return ProbeRow(
        task=config.task,
        backbone=config.backbone,
        probe=config.probe,
        regime=config.regime,
        scheme=config.scheme,
        folds=config.folds,
        shots=config.shots,
        draws=config.draws,
        external=config.external,
        prevalence=float(record.task["prevalence"]),
        control=str(compared["control"]),
        p_value=_number(record.null.get("p")),
        record=str(config.folder(place)),
        **values,
        **gain,
        **quantiles,
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float | np.floating) else math.nan
