"""From a raw folder to rows: tables read, images found, rows told apart into used, left out and rejected ones.

This is the one path of all cohorts. What is left out by a rule of the declaration is counted under its reason; what
cannot be used is listed.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.cohorts.columns import ColumnError, numbers, ordered, read_label
from peftbench.cohorts.declaration import DICOM, PATH, SECRET, Cohort, Keep
from peftbench.cohorts.filing import ENDINGS, Folders, Found
from peftbench.cohorts.headers import read_headers
from peftbench.cohorts.sheets import FOLDER, LINE, Table, read_sheet, require
from peftbench.errors import ConfigError, RawDataError
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.tasks import Exclusion

FILE = "_file"
"""Column that holds the path of a row's image in the raw folder."""

STEM, IN_FOLDER = "stem", "folder"
"""What of a file's path may equal the table's key."""

_FAULT = "_fault"

_ANY = re.compile(r"([*?[])")
"""Signs that a pattern of file names gives a meaning."""

_FIELD = re.compile(r"\{([^{}]+)\}")

_COPY = re.compile(r" ?\(\d+\)$")

_LAST_PART = re.compile(r"[-_. ()]+[^-_. ()]*[)]?$")

_MOST_REASONS = 6
"""Values of a rule that are told one by one; the others are counted together."""

Mask = npt.NDArray[np.bool_]

Read = TypeVar("Read")


class Rejection(NamedTuple):
    """A row or file that cannot be used.

    Attributes:
        file: path of the image in the raw folder.
        reason: why.
        line: of the row in its table; 0 where the row is a file.
    """

    file: str
    reason: str
    line: int = 0


class RawRows(NamedTuple):
    """The usable rows of a raw folder.

    Attributes:
        table: the raw columns, all text, empty for missing; only the usable rows.
        files: path of each row's image.
        rejected: the rows that cannot be used.
        source: what the rows are and how many there were at first.
        added: rows that came to be because a series holds several files.
        left_out: rows that the declaration leaves out, by reason, in the order of its rules.
        notes: what else was noticed: files that no row names, patients without an image.
    """

    table: pd.DataFrame
    files: list[Path]
    rejected: list[Rejection]
    source: str
    added: int
    left_out: list[Exclusion]
    notes: list[str]


class _Reading:
    """The rows so far, and what became of the others."""

    def __init__(self, declared: Cohort, raw: Path, told: Progress) -> None:
        self.declared = declared
        self.raw = raw
        self.told = told
        self.rows = pd.DataFrame()
        self.source = ""
        self.added = 0
        self.rejected: list[Rejection] = []
        self.left_out: list[Exclusion] = []
        self.notes: list[str] = []
        self.waiting = list(declared.keep)

    def drop(self, wrong: Mask, reasons: Sequence[str]) -> None:
        """Leave rows out, counted by reason."""
        if not wrong.any():
            return
        counts = Counter(reason for reason, each in zip(reasons, wrong, strict=True) if each)
        common = counts.most_common()
        shown = len(common) if len(common) <= _MOST_REASONS + 1 else _MOST_REASONS
        self.left_out += [Exclusion(reason, count) for reason, count in common[:shown]]
        if rest := sum(count for _, count in common[shown:]):
            what = common[0][0].partition(":")[0]
            self.left_out.append(Exclusion(f"{what}: {len(common) - shown} others", rest))
        self.rows = self.rows.loc[~wrong].reset_index(drop=True)

    def reject(self, faults: Sequence[str]) -> None:
        """List the rows that have a fault."""
        wrong = np.array([bool(fault) for fault in faults], dtype=bool)
        if not wrong.any():
            return
        names = self.rows[FILE] if FILE in self.rows.columns else self.rows[self.declared.patient]
        lines = self.rows[LINE] if LINE in self.rows.columns else [0] * len(self.rows)
        told = zip(names, faults, lines, strict=True)
        self.rejected += [
            Rejection(str(name) or f"line {line}", fault, int(line)) for name, fault, line in told if fault
        ]
        self.rows = self.rows.loc[~wrong].reset_index(drop=True)

    def sift(self) -> None:
        """Apply the rules whose columns are there by now."""
        for rule in [each for each in self.waiting if each.column in self.rows.columns]:
            self.waiting.remove(rule)
            kept = understood(self.declared, partial(_keeps, rule=rule), self.rows)
            values = self.rows[rule.column]
            self.drop(~kept, [rule.told(value, self.declared.identifiers) for value in values])


def read_rows(declared: Cohort, raw: Path, told: Progress | None = None, avoid: Path | None = None) -> RawRows:
    """Read a cohort's tables, find its images, and tell its rows apart.

    Args:
        declared: the cohort.
        raw: the raw folder.
        told: who is told how far the reading of headers is.
        avoid: a folder in which no image is looked for: the workspace.

    Raises:
        RawDataError: the folder or a table is missing, empty, or not this cohort's.
    """
    reading = _Reading(declared, raw, told or Silent())
    tables = _tables(declared, raw)
    folders = Folders(raw, declared.images, avoid)
    if declared.rows_are_files:
        _rows_of_files(reading, folders)
    else:
        _rows_of_table(reading, tables[-1], folders)
    _add_headers(reading)
    if declared.joined:
        _join(reading, tables[0])
    reading.rows[declared.patient] = reading.rows[declared.patient].str.strip()
    reading.reject(_faults(reading))
    if declared.derive is not None:
        reading.rows = understood(declared, declared.derive, reading.rows)
    reading.sift()
    reading.reject(_contradictions(reading))
    _lacking(reading)
    _count_unnamed(reading, folders)
    files = [raw / name for name in reading.rows[FILE]]
    return RawRows(
        reading.rows.drop(columns=[_FAULT], errors="ignore"),
        files,
        reading.rejected,
        reading.source,
        reading.added,
        reading.left_out,
        reading.notes,
    )


def _tables(declared: Cohort, raw: Path) -> list[Table]:
    """The clinical table, and the index where there is one, with the columns that are asked of either."""
    title = declared.title or declared.name
    of_files = {FILE, declared.match} if declared.match in (STEM, IN_FOLDER) else {FILE}
    asked = [name for name in declared.columns() if not name.startswith((DICOM, PATH)) and name not in of_files]
    fields = [name for name in _FIELD.findall(declared.file) if name not in (FOLDER, LINE)]
    table = read_sheet(declared.table, raw, title)
    if declared.index is None:
        own = [*asked, *fields, *([declared.join_key] if declared.joined else [])]
        return [require(table, own, raw, title, declared.optional_columns)]
    index = require(read_sheet(declared.index, raw, title), [declared.match, *fields], raw, title)
    of_index = set(map(str, index.frame.columns))
    of_table = [name for name in asked if name not in of_index]
    return [require(table, [declared.join_key, *of_table], raw, title, declared.optional_columns), index]


def _rows_of_files(reading: _Reading, folders: Folders) -> None:
    declared = reading.declared
    paths = folders.files
    reading.source = f"{len(paths):,} files in {', '.join(declared.images)}"
    if not paths:
        raise RawDataError(
            f"{reading.raw} has no image file in {', '.join(declared.images)}: name the folder of the images"
        )
    reading.rows = pd.DataFrame({FILE: paths}, dtype=str)
    if declared.path:
        pattern = re.compile(declared.path)
        found = [pattern.fullmatch(path) or pattern.search(path) for path in paths]
        for name in pattern.groupindex:
            reading.rows[PATH + name] = [(each[name] or "") if each else "" for each in found]
        reading.drop(np.array([each is None for each in found]), [f"path is not like {declared.path}"] * len(paths))
    reading.sift()


def _rows_of_table(reading: _Reading, table: Table, folders: Folders) -> None:
    declared = reading.declared
    what = "series" if declared.index is not None else "rows"
    reading.source = f"{len(table.frame):,} {what} in {table.name}"
    reading.rows = table.frame
    reading.sift()
    if not declared.file:
        raise ConfigError(
            f"the cohort {declared.name!r} does not say which file belongs to a row: "
            "give `file` (a row an image) or `match` (a row a patient)"
        )
    several = "*" in declared.file
    names = _filled(declared.file, reading.rows, escaped=several)
    if "*" in declared.file:
        found = [folders.matching(name) for name in names]
        reading.rows = reading.rows.loc[np.repeat(np.arange(len(found)), [len(each) for each in found])]
        reading.rows = reading.rows.reset_index(drop=True)
        reading.added = len(reading.rows) - len(found)
        _place(reading, [one for each in found for one in each])
    else:
        _place(reading, [folders.named(name) for name in names])


def _filled(pattern: str, rows: pd.DataFrame, *, escaped: bool) -> list[str]:
    """A pattern with each row's values in the braces; a value that is empty makes the name empty.

    Args:
        pattern: text and columns in braces.
        rows: with those columns.
        escaped: whether signs in the values that would match other names are to match themselves only.
    """
    # Text and columns take turns.
    parts = _FIELD.split(pattern)
    columns = [[str(value).strip().replace("\\", "/") for value in rows[name]] for name in parts[1::2]]
    names = []
    for values in zip(*columns, strict=True) if columns else [()] * len(rows):
        plain = [_ANY.sub(r"[\1]", value) if escaped else value for value in values]
        filled = "".join(text + value for text, value in zip(parts[::2], (*plain, ""), strict=True))
        names.append(str(PurePosixPath(filled)) if all(values) else "")
    return names


def _place(reading: _Reading, found: Sequence[Found]) -> None:
    reading.rows = reading.rows.assign(**{FILE: [each.path for each in found], _FAULT: [each.fault for each in found]})


def _add_headers(reading: _Reading) -> None:
    """Read the headers' tags that are asked for; files without a header are rejected."""
    tags = reading.declared.tags()
    if not tags:
        return
    if _FAULT in reading.rows.columns:
        reading.reject(reading.rows[_FAULT].tolist())
    headers = read_headers([reading.raw / name for name in reading.rows[FILE]], tags, reading.told)
    for tag in tags:
        reading.rows[DICOM + tag] = [each.tags.get(tag, "") for each in headers]
    reading.reject([each.fault for each in headers])
    reading.reject(_undated(reading))
    reading.sift()


def _undated(reading: _Reading) -> list[str]:
    """Files whose header's date is none: one of them must not stop the others, nor be taken for the first."""
    told = reading.declared.order
    if not told.column.startswith(DICOM) or not len(reading.rows):
        return []
    text = reading.rows[told.column].str.strip()
    wrong = ordered(reading.rows, told, strict=False).isna() & (text != "")
    return [f"its {told.column.removeprefix(DICOM)} is neither date nor number" if each else "" for each in wrong]


def _join(reading: _Reading, table: Table) -> None:
    """Each row's patient in the clinical table, by `match` and `key`."""
    declared = reading.declared
    used = [name for name in dict.fromkeys([declared.join_key, *declared.columns()]) if name in table.frame.columns]
    clinical = table.frame.assign(**{declared.join_key: table.frame[declared.join_key].str.strip()})
    distinct = clinical.drop_duplicates(subset=used)
    twice = set(distinct.loc[distinct[declared.join_key].duplicated(), declared.join_key])
    distinct = distinct.drop_duplicates(subset=[declared.join_key]).drop(columns=[FOLDER])
    known = set(distinct[declared.join_key]) - {""}
    if reading.declared.rows_are_files and declared.match in (STEM, IN_FOLDER):
        owner = _owner_by_stem if declared.match == STEM else _owner_by_folder
        reading.rows[declared.match] = [owner(path, known) for path in reading.rows[FILE]]
        _note_beginnings(reading)
    wanted = reading.rows[declared.match].str.strip()
    reading.drop(~wanted.isin(known).to_numpy(dtype=bool), [f"no row in {table.name}"] * len(wanted))
    wanted = reading.rows[declared.match].str.strip()
    without = len(known - set(wanted))
    if without:
        reading.notes.append(f"{without} of {len(known)} rows of {table.name} have no image")
    reading.reject(
        [f"its patient stands in several rows of {table.name} that differ" if each in twice else "" for each in wanted]
    )
    wanted = reading.rows[declared.match].str.strip()
    distinct = distinct.set_index(declared.join_key, drop=False)
    added = [name for name in distinct.columns if name not in reading.rows.columns or name == LINE]
    joined = distinct[added].loc[wanted.tolist()].reset_index(drop=True)
    reading.rows = pd.concat([reading.rows.drop(columns=[LINE], errors="ignore"), joined], axis=1)
    reading.sift()


def _stem(path: str) -> str:
    name = PurePosixPath(path)
    return name.name.removesuffix(name.suffix if name.suffix.lower() in ENDINGS else "")


def _owner_by_stem(path: str, known: set[str]) -> str:
    """The key that a file's name is, or begins with before its last separator; the mark of a copy, (2), set aside."""
    stem = _COPY.sub("", _stem(path))
    return next((name for name in (stem, _LAST_PART.sub("", stem)) if name in known), "")


def _note_beginnings(reading: _Reading) -> None:
    """Say how many files are a patient's by the beginning of their name: 12-34 may be the film of 12, or not."""
    if reading.declared.match != STEM:
        return
    owned = zip(reading.rows[FILE], reading.rows[STEM], strict=True)
    count = sum(owner not in ("", _COPY.sub("", _stem(path))) for path, owner in owned)
    if count:
        reading.notes.append(
            f"{count:,} files belong to a patient by the beginning of their name, before the last separator"
        )


def _owner_by_folder(path: str, known: set[str]) -> str:
    """The key that one of a file's folders is, the innermost first."""
    return next((part for part in reversed(PurePosixPath(path).parts[:-1]) if part in known), "")


def _faults(reading: _Reading) -> list[str]:
    """For each row why it cannot be used; an empty text where it can."""
    declared, rows = reading.declared, reading.rows
    id_column = declared.id or FILE
    called = declared.id or "its file"
    ids = rows[id_column].astype(str)
    same = [name for name in rows.columns if name not in (LINE, FOLDER)]
    distinct = rows.drop_duplicates(subset=same)[id_column]
    ambiguous = set(distinct[distinct.duplicated()])
    repeated = rows.duplicated(subset=same)
    filed = rows[_FAULT] if _FAULT in rows.columns else [""] * len(rows)
    faults = []
    for raw_id, patient, again, fault in zip(ids, rows[declared.patient], repeated, filed, strict=True):
        if not raw_id.strip() or not patient.strip():
            faults.append(f"the row has no {declared.patient if raw_id.strip() else declared.id or 'file'}")
        elif fault:
            faults.append(fault)
        elif raw_id in ambiguous:
            faults.append(f"{called} stands in several rows that differ; none of them is used")
        else:
            faults.append(f"{called} stands in several equal rows; the first is used" if again else "")
    return faults


def _contradictions(reading: _Reading) -> list[str]:
    """Rows whose patient has two outcomes, where an outcome is the patient's."""
    rows = reading.rows
    patient = rows[reading.declared.patient]
    faults = [""] * len(rows)
    for name, label in reading.declared.labels.items():
        if label.per == "image":
            continue
        outcome = understood(reading.declared, partial(read_label, label=label), rows)
        several = outcome.groupby(patient).transform("nunique").gt(1).to_numpy(dtype=bool)
        told = f"its patient has two outcomes ({name}: both with and without)"
        faults = [fault or (told if wrong else "") for fault, wrong in zip(faults, several, strict=True)]
    return faults


def understood(declared: Cohort, read: Callable[[pd.DataFrame], Read], rows: pd.DataFrame) -> Read:
    """What a function reads from raw rows.

    Raises:
        RawDataError: a value is not understood.
    """
    try:
        return read(rows)
    except ColumnError as error:
        secret = declared.identifiers == SECRET
        hint = (
            "say in the description what it means, or mend the table"
            if secret
            else f"compare it with the published table of {declared.title}"
        )
        raise RawDataError(
            f"{declared.table} of {declared.name} has a value that is not understood: "
            f"{error.told(masked=secret)}: {hint}"
        ) from error


def _lacking(reading: _Reading) -> None:
    if reading.waiting:
        columns = ", ".join(repr(rule.column) for rule in reading.waiting)
        raise ConfigError(f"`keep` names the column {columns}, which neither table nor files have: see its spelling")


def _count_unnamed(reading: _Reading, folders: Folders) -> None:
    """Files that no row names; only where the folders were looked through or are the user's own."""
    declared = reading.declared
    if declared.rows_are_files or declared.index is not None or declared.images == (".",):
        return
    named = {*reading.rows[FILE], *(each.file for each in reading.rejected)}
    unnamed = [path for path in folders.files if path not in named]
    if unnamed:
        reading.notes.append(f"{len(unnamed):,} files in {', '.join(declared.images)} belong to no row that is used")


def _keeps(rows: pd.DataFrame, rule: Keep) -> Mask:
    text = rows[rule.column].str.strip()
    folded = text.str.lower()
    kept = np.ones(len(rows), dtype=bool)
    if rule.values is not None:
        kept &= folded.isin([value.strip().lower() for value in rule.values]).to_numpy(dtype=bool)
    if rule.drop is not None:
        kept &= ~folded.isin([value.strip().lower() for value in rule.drop]).to_numpy(dtype=bool)
    if rule.pattern:
        kept &= text.str.contains(rule.pattern, case=False, regex=True).to_numpy(dtype=bool)
    if rule.minimum is not None or rule.maximum is not None:
        value = numbers(rows, rule.column)
        if rule.minimum is not None:
            kept &= (value >= rule.minimum).to_numpy(dtype=bool)
        if rule.maximum is not None:
            kept &= (value <= rule.maximum).to_numpy(dtype=bool)
    return kept
