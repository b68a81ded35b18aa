"""The results table for a terminal: a few columns of text."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from peftbench.protocol.names import TRAINED
from peftbench.reporting.words import ABSENT, between, learner, number, shown, spread


class Brief(NamedTuple):
    """Column headings (those that begin with > are numbers) and rows of text.

    Attributes:
        columns: headings.
        rows: texts.
        left_out: rows of the table that are not among them.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left_out: int


MOST = 12
"""Rows of a task that a terminal shows."""

COLUMNS = (
    "task", "backbone", "strategy", "split", ">folds", ">patients (event)", "scores of", ">prevalence", ">MCC",
    ">PR-AUC", ">gain in MCC over control (95 %)",
)  # fmt: skip


def brief(csv: str | Path) -> Brief:
    """The table that `report` wrote, for a terminal.

    Of a task with many rows those of the linear probe, and of what was fine-tuned, come first.

    Args:
        csv: path of `results.csv`.
    """
    table = pd.read_csv(csv)
    usual = (table["strategy"] != "probe") & (table["regime"] == "full")
    task = [table["task"], table["external"].astype(object).where(table["external"].notna(), "")]
    # Stable: within each kind the rows keep their order.
    place = usual.map({True: 0, False: 1}).groupby(task).rank(method="first")
    shown = table[place <= MOST]
    return Brief(COLUMNS, [_row(row) for _, row in shown.iterrows()], len(table) - len(shown))


def _row(row: "pd.Series[Any]") -> tuple[str, ...]:
    value = {str(key): each for key, each in row.items()}
    figure = {key: float(str(each)) for key, each in value.items() if key.endswith(_FIGURES)}
    gained = value["control"] == value["control"]
    reach = between(figure["gain_low"], figure["gain_high"])
    return (
        _named(value),
        str(value["backbone"]),
        _how(value),
        str(value["scheme"]),
        str(value["folds"]),
        f"{value['patients']} ({value['event_patients']})",
        f"{value['unit']}s",
        number(figure["prevalence"]),
        _score(figure, "mcc"),
        _score(figure, "pr_auc"),
        f"{number(figure['gain_mean'], signed=True)} ({reach})" if gained else ABSENT,
    )


def _score(figure: Mapping[str, float], metric: str) -> str:
    """With its deviation over folds; where there are none to deviate, with its interval if it has one."""
    mean, std = figure[f"{metric}_mean"], figure[f"{metric}_std"]
    low, high = (figure.get(f"{metric}_{end}", math.nan) for end in ("low", "high"))
    if math.isnan(mean) or not math.isnan(std):
        return spread(mean, std)
    return number(mean) if math.isnan(low) else f"{number(mean)} ({between(low, high)})"


def _named(value: Mapping[str, Any]) -> str:
    """The task, with the other one that its models were tested on."""
    external = value.get("external")
    return f"{value['task']} on {external}" if isinstance(external, str) and external else str(value["task"])


def _how(value: Mapping[str, Any]) -> str:
    """`LP` for the usual probe on all of the training part; else what sets the row apart from it."""
    strategy, probe = str(value["strategy"]), str(value["probe"])
    told = [learner(strategy, probe) if strategy == "probe" or probe == TRAINED else strategy]
    if value["regime"] != "full":
        told.append(f"{value['regime']} {shown(float(str(value['shots'])))}")
    return ", ".join(told)


_FIGURES = ("_mean", "_std", "_low", "_high", "prevalence")
