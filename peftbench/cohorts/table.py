"""The raw table: found, read, and its rows told apart into usable and rejected ones."""

import csv
import io
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from peftbench.cohorts.declaration import Cohort
from peftbench.errors import RawDataError


class Rejection(NamedTuple):
    """A row or file that cannot be used.

    Attributes:
        file: path of the image in the raw folder.
        reason: why.
    """

    file: str
    reason: str


class RawRows(NamedTuple):
    """The usable rows of a raw table.

    Attributes:
        table: the raw columns, all text, empty for missing; only the usable rows.
        files: path of each row's image.
        rejected: the other rows.
    """

    table: pd.DataFrame
    files: list[Path]
    rejected: list[Rejection]


def read_rows(cohort: Cohort, raw: Path) -> RawRows:
    """Read a cohort's table and reject rows that are ambiguous or point out of the raw folder.

    Raises:
        RawDataError: the folder or the table is missing, empty, or not this cohort's.
    """
    table = read_table(cohort, raw)
    names = file_names(cohort, table)
    faults = _faults(cohort, table, names)
    rejected = [Rejection(name, fault) for name, fault in zip(names, faults, strict=True) if fault]
    usable = [not fault for fault in faults]
    files = [raw / name for name, keep in zip(names, usable, strict=True) if keep]
    return RawRows(table[usable].reset_index(drop=True), files, rejected)


def read_table(cohort: Cohort, raw: Path) -> pd.DataFrame:
    """Read a cohort's table as text.

    Raises:
        RawDataError: the folder or the table is missing, empty, or lacks columns.
    """
    path = raw / cohort.table
    if not raw.is_dir():
        raise RawDataError(f"the raw folder {raw} does not exist: give the download of {cohort.title} with --raw DIR")
    if not path.is_file():
        held = sorted(each.name for each in raw.iterdir())
        found = f"it holds {', '.join(held[:5])}{' ...' if len(held) > 5 else ''}" if held else "it is empty"
        raise RawDataError(
            f"the raw folder {raw} has no {cohort.table} ({found}): "
            f"--raw takes the folder of {cohort.title} that holds {cohort.table}"
        )
    table = _parse(path)
    absent = [column for column in cohort.required if column not in table.columns]
    if absent:
        raise RawDataError(
            f"{path} lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}; "
            f"it has {', '.join(map(str, table.columns)) or 'none'}: "
            f"is this the table of {cohort.title}?"
        )
    if table.empty:
        raise RawDataError(f"{path} has a header but no row: download {cohort.title} again")
    return table


def _parse(path: Path) -> pd.DataFrame:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        _refuse_ragged(path, text)
        return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, index_col=False)
    except (UnicodeDecodeError, csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise RawDataError(f"{path} cannot be read as a CSV table ({error}): download it again") from error


def _refuse_ragged(path: Path, text: str) -> None:
    """Refuse rows that are shorter or longer than the header: pandas would fill up the ones and cut the others."""
    rows = csv.reader(io.StringIO(text, newline=""))
    header = next(rows, [])
    for row in rows:
        if row and len(row) != len(header):
            raise RawDataError(
                f"{path} is no whole table: line {rows.line_num} has {len(row)} cells, the header {len(header)}: "
                "was it cut short? download it again"
            )


def _faults(cohort: Cohort, table: pd.DataFrame, names: list[str]) -> list[str]:
    """For each row why it cannot be used; an empty text where it can."""
    ids = table[cohort.id_column]
    distinct = table.drop_duplicates()[cohort.id_column]
    ambiguous = set(distinct[distinct.duplicated()])
    repeated = table.duplicated()
    faults = []
    patients = table[cohort.patient_column]
    for name, raw_id, patient, again in zip(names, ids, patients, repeated, strict=True):
        if not raw_id.strip() or not patient.strip():
            faults.append(f"the row has no {cohort.patient_column if raw_id.strip() else cohort.id_column}")
        elif "\0" in name:
            faults.append("no file can have this name")
        elif PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            # By its name only: links in a download are its owner's, and clusters are full of them.
            faults.append("the path leads out of the raw folder")
        elif raw_id in ambiguous:
            faults.append(f"{cohort.id_column} stands in several rows that differ; none of them is used")
        else:
            faults.append(f"{cohort.id_column} stands in several equal rows; the first is used" if again else "")
    return faults


def file_names(cohort: Cohort, table: pd.DataFrame) -> list[str]:
    """Path of each row's image in the raw folder."""
    columns = [str(column) for column in table.columns]
    rows = table.to_numpy().tolist()
    return [cohort.file.format(**dict(zip(columns, row, strict=True))) for row in rows]
