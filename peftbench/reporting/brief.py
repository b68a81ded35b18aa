"""The results table for a terminal: a few columns of text."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from peftbench.reporting.words import ABSENT, between, number, spread


class Brief(NamedTuple):
    """Column headings (those that begin with > are numbers) and rows of text."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


COLUMNS = (
    "task", "backbone", "strategy", "split", ">folds", ">patients (event)", "scores of", ">prevalence", ">MCC",
    ">PR-AUC", ">gain in MCC over control (95 %)",
)  # fmt: skip


def brief(csv: str | Path) -> Brief:
    """The table that `report` wrote, for a terminal.

    Args:
        csv: path of `results.csv`.
    """
    return Brief(COLUMNS, [_row(row) for _, row in pd.read_csv(csv).iterrows()])


def _row(row: "pd.Series[Any]") -> tuple[str, ...]:
    value = {str(key): each for key, each in row.items()}
    figure = {key: float(str(each)) for key, each in value.items() if key.endswith(_FIGURES)}
    gained = value["control"] == value["control"]
    reach = between(figure["gain_low"], figure["gain_high"])
    return (
        str(value["task"]),
        str(value["backbone"]),
        str(value["strategy"]),
        str(value["scheme"]),
        str(value["folds"]),
        f"{value['patients']} ({value['event_patients']})",
        f"{value['unit']}s",
        number(figure["prevalence"]),
        spread(figure["mcc_mean"], figure["mcc_std"]),
        spread(figure["pr_auc_mean"], figure["pr_auc_std"]),
        f"{number(figure['gain_mean'], signed=True)} ({reach})" if gained else ABSENT,
    )


_FIGURES = ("_mean", "_std", "_low", "_high", "prevalence")
