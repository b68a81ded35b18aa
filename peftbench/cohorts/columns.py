"""Reading a raw column: what is not understood is named, with where it stands and what was expected."""

from collections.abc import Mapping

import pandas as pd


class ColumnError(ValueError):
    """A raw column holds a value that is not understood."""


def numbers(table: pd.DataFrame, column: str) -> "pd.Series[float]":
    """A text column as numbers, empty cells as NaN.

    Raises:
        ColumnError: a cell is neither empty nor a number.
    """
    text = table[column].str.strip()
    parsed = pd.to_numeric(text.where(text != ""), errors="coerce")
    _refuse(table, column, parsed.isna() & (text != ""), "a number or nothing")
    return parsed.astype("float64")


def mapped(table: pd.DataFrame, column: str, meaning: Mapping[str, str | None]) -> pd.Series:
    """A text column, each value by its meaning; upper and lower case are one.

    Raises:
        ColumnError: a cell holds another value.
    """
    text = table[column].str.strip().str.lower()
    expected = ", ".join(value or "nothing" for value in meaning)
    _refuse(table, column, ~text.isin(list(meaning)), f"one of {expected}")
    return text.map(meaning)


def _refuse(table: pd.DataFrame, column: str, wrong: "pd.Series[bool]", expected: str) -> None:
    if not wrong.any():
        return
    counts = table.loc[wrong, column].value_counts()
    told = ", ".join(f"{value!r} ({count} rows)" for value, count in counts.head(5).items())
    # The header is line 1 of the file.
    line = int(wrong.to_numpy().argmax()) + 2
    raise ColumnError(f"the column {column!r} holds {told}, first in line {line}; expected {expected}")
