"""A user's split file as a table of text: which id plays which role in which fold. Knows nothing of a task's rows."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
import pyarrow as pa

from peftbench.errors import SplitError
from peftbench.protocol.splits.split import Role

Kind = Literal["sample", "patient"]

ID_COLUMNS: dict[str, tuple[Kind, ...]] = {
    "sample_id": ("sample",),
    "sample": ("sample",),
    "patient_id": ("patient",),
    "patient": ("patient",),
    "id": ("sample", "patient"),
}
"""Columns that may hold the ids, the most telling first, and what their ids may be of."""

FOLD_COLUMNS = ("fold_name", "fold")
"""Columns that may hold a fold's label, the most telling first."""

ROLE_WORDS: dict[str, Role] = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Words for a role, in any case."""

ONE_FOLD = "0"
"""Label of the fold of a file that has none."""

SHOWN = 5
"""Values that a message shows."""


class OwnTable(NamedTuple):
    """A split file, read.

    Attributes:
        path: of the file.
        kinds: what its ids may be of.
        entries: one row a row of the file: `id`, `role`, `fold` (text), indexed by line.
    """

    path: Path
    kinds: tuple[Kind, ...]
    entries: pd.DataFrame


def read_own(path: Path) -> OwnTable:
    """Read a split file: CSV (comma, semicolon or tab) or Parquet.

    Raises:
        SplitError: it cannot be read, lacks a column or a row, or names a role that there is not.
    """
    table = _read(path)
    found = {str(column).strip().casefold(): column for column in reversed(table.columns)}
    ids = next((name for name in ID_COLUMNS if name in found), None)
    if ids is None or "role" not in found:
        raise SplitError(
            f"{path} lacks {'a column of ids (sample_id or patient_id)' if ids is None else 'the column role'}; it has "
            f"{', '.join(map(str, table.columns)) or 'none'}: name its columns patient_id or sample_id, role and, "
            "for several folds, fold"
        )
    if table.empty:
        raise SplitError(f"{path} has a header but no row: give every patient a role (train, validation, test)")
    fold = next((found[name] for name in FOLD_COLUMNS if name in found), None)
    labels = ONE_FOLD if fold is None else table[fold].str.strip()
    role = table[found["role"]].str.strip()
    entries = pd.DataFrame({"id": table[found[ids]].str.strip(), "role": role, "fold": labels}, index=table.index)
    return OwnTable(path, ID_COLUMNS[ids], entries.assign(role=_roles(path, role)))


def _roles(path: Path, said: "pd.Series[str]") -> "pd.Series[str]":
    role = said.str.casefold().map(lambda word: ROLE_WORDS.get(word, ""))
    unknown = said[role == ""]
    if len(unknown):
        counts = unknown.value_counts()
        told = ", ".join(f"{value!r} ({count} times)" for value, count in counts.head(SHOWN).items())
        more = f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
        raise SplitError(
            f"{path} has unknown roles: {told}{more}, first in line {unknown.index[0]}; expected "
            f"{', '.join(ROLE_WORDS)} in any case: correct them"
        )
    return role


def _read(path: Path) -> pd.DataFrame:
    """All cells as text, empty for missing values; the index counts lines, those of Parquet as if under a header."""
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SplitError(f"{path} does not end like a split file: expected .csv or .parquet")
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise SplitError(f"there is no file {path}: give the split file's path") from error
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise SplitError(
            f"{path} cannot be read as a table ({str(error).splitlines()[0]}): save it again as CSV in UTF-8, or as "
            "Parquet"
        ) from error


def _read_csv(path: Path) -> pd.DataFrame:
    text = path.read_bytes().decode("utf-8-sig")
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    columns = next(reader, [])
    cells, lines = [], []
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(columns):
            raise ValueError(f"line {reader.line_num} has {len(row)} cells, the header {len(columns)}")
        cells.append(row)
        lines.append(reader.line_num)
    return _text_frame(columns, cells, lines)


def _read_parquet(path: Path) -> pd.DataFrame:
    found = pd.read_parquet(path).reset_index(drop=True)
    plain = found.astype(object).where(found.notna(), None)
    cells = [[_text(value) for value in row] for row in plain.to_numpy().tolist()]
    return _text_frame(list(map(str, found.columns)), cells, range(2, len(found) + 2))


def _text_frame(columns: Sequence[str], cells: Sequence[Sequence[str]], lines: Sequence[int]) -> pd.DataFrame:
    twice = [name for position, name in enumerate(columns) if name in columns[:position]]
    if twice:
        raise ValueError(f"it has several columns {twice[0]!r}")
    return pd.DataFrame(cells, columns=list(columns), index=pd.Index(list(lines), name="line"), dtype=str)


def _text(value: object) -> str:
    """A cell as CSV would have it: a whole number without a point, nothing for what is missing."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
