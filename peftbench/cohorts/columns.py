"""Reading a raw column: what is not understood is named, with where it stands and what was expected."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from peftbench.cohorts.declaration import DICOM, REFUSED, Column, Label
from peftbench.cohorts.sheets import LINE

_COMPACT = re.compile(r"(19|20)\d{6}")

_DASHED = re.compile(r"\d{4}-\d{2}-\d{2}")

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([ T].*)?|\d{8}(T.*)?")
"""Dates that cannot be misread (ISO 8601); all others need their format said."""

_MOST_SHOWN = 8

_MOST_WORDS = 20
"""More different values than this are no outcome's: somebody may have named the wrong column."""


class ColumnError(ValueError):
    """A raw column holds values that are not understood.

    Args:
        column: its name.
        counts: the values, the commonest first, with the number of their rows.
        where: the first one's place, as the end of a phrase; may be empty.
        expected: instead.
        telling: whether they are words of an outcome, which are told to anybody, rather than numbers or dates.
    """

    def __init__(self, column: str, counts: "pd.Series[int]", where: str, expected: str, *, telling: bool) -> None:
        self.column = column
        self.counts = counts
        self.where = where
        self.expected = expected
        self.telling = telling
        super().__init__(self.told(masked=False))

    def told(self, *, masked: bool) -> str:
        """The sentence.

        Args:
            masked: whether values that may identify somebody are told by their shape: 99/99/9999 for 31/12/2020.
        """
        hidden = masked and not (self.telling and len(self.counts) <= _MOST_WORDS)
        counts = (
            self.counts.groupby([_shape(str(value)) for value in self.counts.index]).sum() if hidden else self.counts
        )
        shown = counts.sort_values(ascending=False, kind="stable").head(_MOST_SHOWN)
        more = f" and {len(counts) - _MOST_SHOWN} other values" if len(counts) > _MOST_SHOWN else ""
        told = ", ".join(f"{value!r} ({count} rows)" for value, count in shown.items()) + more
        form = " (9 for a digit, x for a letter)" if hidden else ""
        return f"the column {self.column!r} holds {told}{form}{self.where}; expected {self.expected}"


def _shape(value: str) -> str:
    return "".join("9" if sign.isdigit() else "x" if sign.isalpha() else sign for sign in value)


def numbers(table: pd.DataFrame, column: str, *, strict: bool = True) -> "pd.Series[float]":
    """A text column as numbers, empty cells as NaN.

    Args:
        table: raw columns.
        column: which.
        strict: whether a cell that is no number is refused; else it is NaN.

    Raises:
        ColumnError: a cell is neither empty nor a number.
    """
    text = table[column].str.strip()
    parsed = pd.to_numeric(text.where(text != ""), errors="coerce")
    if strict:
        _refuse(table, column, parsed.isna() & (text != ""), "a number or nothing")
    return parsed.astype("float64")


def mapped(table: pd.DataFrame, column: str, meaning: Mapping[str, str | None]) -> pd.Series:
    """A text column, each value by its meaning; upper and lower case are one.

    Raises:
        ColumnError: a cell holds another value.
    """
    folded = {value.strip().lower(): meant for value, meant in meaning.items()}
    text = table[column].str.strip().str.lower()
    expected = ", ".join(value or "nothing" for value in folded)
    _refuse(table, column, ~text.isin(list(folded)), f"one of {expected}", telling=True)
    return text.map(folded)


def days(table: pd.DataFrame, column: str, formats: Sequence[str] = (), *, strict: bool = True) -> "pd.Series[float]":
    """A text column of dates as days since 1900-01-01, fractions for times; empty cells as NaN.

    Args:
        table: raw columns.
        column: which.
        formats: of the dates, as `strptime` writes them; ISO 8601 and YYYYMMDD where none is given.
        strict: whether a cell that is no date is refused; else it is NaN.

    Raises:
        ColumnError: a cell is neither empty nor a date in one of the formats.
    """
    text = table[column].str.strip()
    parsed = pd.Series(pd.NaT, index=table.index, dtype="datetime64[us]")
    for form in formats:
        rest = parsed.isna() & (text != "")
        parsed = parsed.where(~rest, _moments(text.where(rest), form))
    if not formats:
        parsed = _moments(text.where(text.str.fullmatch(_ISO)), "ISO8601")
    expected = (
        f"a date like {' or '.join(formats)}"
        if formats
        else "a date like 2020-12-31 (name another with its format, e.g. %d/%m/%Y)"
    )
    if strict:
        _refuse(table, column, parsed.isna() & (text != ""), expected)
    return (parsed - pd.Timestamp("1900-01-01")) / pd.Timedelta(days=1)


def _moments(text: pd.Series, form: str) -> "pd.Series[pd.Timestamp]":
    """Dates without a zone as they stand, those with one in UTC; NaT for what is not of the form."""
    found = pd.to_datetime(text, format=form, errors="coerce", utc=True)
    return found.dt.tz_localize(None).astype("datetime64[us]")


def ordered(table: pd.DataFrame, told: Column, *, strict: bool = True) -> "pd.Series[float]":
    """What a patient's images are ordered by, in days, from a column of dates or of numbers; NaN where unknown.

    Args:
        table: raw columns.
        told: which, and how it is to be read.
        strict: whether what is neither is refused; else it is NaN.

    Raises:
        ColumnError: a cell is neither.
    """
    if not told.column:
        return pd.Series(np.nan, index=table.index)
    if _is_dated(table[told.column].str.strip(), told):
        return days(table, told.column, told.formats, strict=strict)
    return numbers(table, told.column, strict=strict)


def _is_dated(text: pd.Series, told: Column) -> bool:
    """Whether a column holds dates: as it is said, or if anything in it looks like one, so that no date is a number."""
    if told.kind == "date" or told.formats or (told.column.startswith(DICOM) and told.column.endswith("Date")):
        return True
    filled = text[text != ""]
    if told.kind == "number" or filled.empty:
        return False
    looks = filled.str.match(_DASHED) | filled.str.fullmatch(_COMPACT)
    return bool(looks.any() or pd.to_numeric(filled, errors="coerce").isna().all())


def read_column(table: pd.DataFrame, told: Column) -> pd.Series:
    """A column as its declaration says; None or NaN where it is unknown.

    Raises:
        ColumnError: a cell is not understood.
    """
    if not told.column or (told.optional and told.column not in table.columns):
        return pd.Series([told.constant or None] * len(table), index=table.index, dtype=object)
    if told.optional and told.kind == "number":
        return pd.to_numeric(table[told.column].str.strip(), errors="coerce").astype("float64")
    if told.kind == "number":
        return numbers(table, told.column)
    if told.kind == "auto":
        found = numbers(table, told.column, strict=False)
        return found if found[table[told.column].str.strip() != ""].notna().all() else _words(table, told)
    return ordered(table, told) if told.kind in ("date", "order") else _words(table, told)


def _words(table: pd.DataFrame, told: Column) -> pd.Series:
    text = table[told.column].str.strip()
    if told.values is None:
        return text.astype(object).where(text != "", None)
    meaning = {"": None, **told.values}
    if told.others == REFUSED:
        return mapped(table, told.column, meaning)
    folded = {value.strip().lower(): meant for value, meant in meaning.items()}
    return text.str.lower().map(lambda value: folded.get(value, told.others or None))


def read_label(table: pd.DataFrame, label: Label) -> pd.Series:
    """An outcome as `yes`, `no` or None.

    Raises:
        ColumnError: a cell holds a value that the label does not list; all such values are told with their counts.
    """
    meaning: dict[str, str | None] = dict.fromkeys(label.unknown)
    meaning |= dict.fromkeys(label.event, "yes") | dict.fromkeys(label.no_event, "no")
    return mapped(table, label.column, meaning)


def _refuse(
    table: pd.DataFrame, column: str, wrong: "pd.Series[bool]", expected: str, *, telling: bool = False
) -> None:
    if not wrong.any():
        return
    at = int(wrong.to_numpy().argmax())
    # A header's tag stands in no line; without a note of the line the header is line 1 of the file.
    line = table[LINE].iloc[at] if LINE in table.columns else at + 2
    where = "" if column.startswith(DICOM) else f", first in line {line}"
    raise ColumnError(column, table.loc[wrong, column].value_counts(), where, expected, telling=telling)
