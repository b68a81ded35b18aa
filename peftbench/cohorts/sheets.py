"""Tables as text: CSV with any separator and encoding, XLSX, Parquet; what a sheet shows is what is read."""

import codecs
import csv
import datetime as dt
import io
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from peftbench.cohorts.declaration import Sheet
from peftbench.errors import MissingPackageError, RawDataError

LINE = "_line"
"""Column that holds a row's line in its file, from 1."""

FOLDER = "_folder"
"""Column that holds the folder of the row's table, in the raw folder."""

OURS = "peftbench-"
"""What begins the names of files that peftbench itself writes beside the raw data."""

_SEPARATORS = ",;\t|"

_TRIED = 20
"""Rows by which a separator is judged."""

_MOST_LISTED = 40


class Table(NamedTuple):
    """A table as read.

    Attributes:
        frame: all columns as text, empty for missing, with `LINE` and `FOLDER`.
        twice: columns that stand several times under one name; the first is in the frame under it.
        files: the columns of each file, by its name.
    """

    frame: pd.DataFrame
    twice: frozenset[str]
    files: dict[str, frozenset[str]]

    @property
    def name(self) -> str:
        """Of the file or files."""
        return " and ".join(self.files)


class _Row(NamedTuple):
    """A row of a file.

    Attributes:
        number: of the row, from 1, as its reader counts rows.
        line: at which its file shows it.
        cells: as text.
    """

    number: int
    line: int
    cells: list[str]


class _Grid(NamedTuple):
    """A header and the rows below it, each with its line."""

    header: list[str]
    rows: list[list[str]]
    lines: list[int]


def read_sheet(sheet: Sheet, raw: Path, title: str) -> Table:
    """Read all files of a sheet and put them below each other.

    Args:
        sheet: which.
        raw: the raw folder.
        title: of the cohort, for messages.

    Raises:
        RawDataError: no file is there, or one cannot be read as a table, or has no row.
    """
    found = [_read_file(path, sheet, raw) for path in _files_of(sheet, raw, title)]
    found = [_spelt_alike(each, found[0]) for each in found]
    frame = pd.concat([each.frame for each in found], ignore_index=True).fillna("")
    if frame.empty:
        raise RawDataError(f"{raw / found[0].name} has a header but no row: download {title} again")
    twice = frozenset().union(*(each.twice for each in found))
    return Table(frame, twice, {name: columns for each in found for name, columns in each.files.items()})


def _spelt_alike(table: Table, first: Table) -> Table:
    """A table with its columns called as in the first one, where they differ in case and spacing only."""
    own = Counter(_plain(str(name)) for name in table.frame.columns)
    names = {_plain(str(name)): str(name) for name in first.frame.columns}
    renamed = {
        str(name): names[_plain(str(name))]
        for name in table.frame.columns
        if name not in first.frame.columns and _plain(str(name)) in names and own[_plain(str(name))] == 1
    }
    columns = frozenset(renamed.get(name, name) for each in table.files.values() for name in each)
    return table._replace(frame=table.frame.rename(columns=renamed), files=dict.fromkeys(table.files, columns))


def require(table: Table, columns: Iterable[str], raw: Path, title: str, may_lack: Sequence[str] = ()) -> Table:
    """The table with these columns under exactly these names; other cases and spacings of them are understood.

    Args:
        table: as read.
        columns: that it must have.
        raw: the raw folder, for messages.
        title: of the cohort, for messages.
        may_lack: columns that are brought under their names if they are there.

    Raises:
        RawDataError: a column is missing or stands several times.
    """
    present: dict[str, list[str]] = defaultdict(list)
    for name in table.frame.columns:
        present[_plain(str(name))].append(str(name))
    renamed = {}
    absent = []
    optional = set(may_lack)
    for column in dict.fromkeys([*columns, *may_lack]):
        alike = [column] if column in table.frame.columns else present.get(_plain(column), [])
        if not alike:
            if column not in optional:
                absent.append(column)
            continue
        if len(alike) > 1 or alike[0] in table.twice:
            told = " and ".join(map(repr, alike)) + ("" if len(alike) > 1 else " several times")
            raise RawDataError(f"{raw / table.name} has the column {told}: which one is meant? rename the others")
        _refuse_partly(table, alike[0], raw, optional=column in optional)
        if alike[0] != column:
            renamed[alike[0]] = column
    if absent:
        has = [str(name) for name in table.frame.columns if name not in (LINE, FOLDER)]
        more = f" and {len(has) - _MOST_LISTED} more" if len(has) > _MOST_LISTED else ""
        raise RawDataError(
            f"{raw / table.name} lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}; "
            f"it has {', '.join(has[:_MOST_LISTED]) or 'none'}{more}: is this the table of {title}?"
        )
    return table._replace(frame=table.frame.rename(columns=renamed))


def _refuse_partly(table: Table, column: str, raw: Path, *, optional: bool) -> None:
    """Refuse a column that some of the files lack: their rows would be taken for rows without a value."""
    lacking = [name for name, columns in table.files.items() if column not in columns]
    if lacking and not optional:
        raise RawDataError(
            f"{raw / lacking[0]} lacks the column {column!r}, which other tables of the cohort have: "
            "complete it, or take it out of the raw folder"
        )


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace(".", " ").casefold().split())


def _files_of(sheet: Sheet, raw: Path, title: str) -> list[Path]:
    if not raw.is_dir():
        raise RawDataError(f"the raw folder {raw} does not exist: give the download of {title} with --raw DIR")
    found = [path for pattern in sheet.files for path in _matching(raw, pattern) if path.is_file()]
    if not found:
        held = sorted(each.name for each in raw.iterdir())
        holds = f"it holds {', '.join(held[:5])}{' ...' if len(held) > 5 else ''}" if held else "it is empty"
        raise RawDataError(
            f"the raw folder {raw} has no {sheet} ({holds}): --raw takes the folder of {title} that holds {sheet}"
        )
    return list(dict.fromkeys(found))


def _matching(raw: Path, pattern: str) -> list[Path]:
    if Path(pattern).is_absolute():
        return [Path(pattern)]
    exact = raw / pattern
    if exact.is_file():
        return [exact]
    # Excel leaves a hidden lock file beside a workbook that is open.
    return sorted(path for path in raw.glob(pattern) if not path.name.startswith(("~$", ".", OURS)))


def _read_file(path: Path, sheet: Sheet, raw: Path) -> Table:
    reader = _READERS.get(path.suffix.lower(), _csv)
    try:
        grid = reader(path, sheet)
    except RawDataError:
        raise
    except (ValueError, KeyError, TypeError, OSError, csv.Error, zipfile.BadZipFile, pa.ArrowException) as error:
        kind = {"_xlsx": "an XLSX workbook", "_parquet": "a Parquet file"}.get(reader.__name__, "a CSV table")
        reason = str(error).strip("'\"").splitlines() or [type(error).__name__]
        raise RawDataError(f"{path} cannot be read as {kind} ({reason[0]}): download or export it again") from error
    taken = [name for name in grid.header if name.startswith("_") and name in (LINE, FOLDER, "_file", "_fault")]
    if taken:
        raise RawDataError(f"{path} has a column {taken[0]!r}, a name that peftbench needs for itself: rename it")
    counts = Counter(grid.header)
    seen: Counter[str] = Counter()
    names = []
    for name in grid.header:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    frame = pd.DataFrame(grid.rows, columns=names, dtype=str)
    inside = path.is_relative_to(raw)
    frame[LINE] = grid.lines
    frame[FOLDER] = path.parent.relative_to(raw).as_posix() if inside else "."
    twice = frozenset(name for name, count in counts.items() if count > 1 and name)
    return Table(frame, twice, {str(path.relative_to(raw)) if inside else str(path): frozenset(names)})


def _csv(path: Path, sheet: Sheet) -> _Grid:
    if path.suffix.lower() == ".xls":
        raise ValueError("it is a workbook of Excel 97: save it as XLSX or CSV")
    text = _decoded(path.read_bytes())
    separator = max(_SEPARATORS, key=lambda each: _fits(text, each, sheet.header))
    return _grid(_numbered(csv.reader(io.StringIO(text, newline=""), delimiter=separator)), sheet, path)


def _fits(text: str, separator: str, header: int) -> tuple[int, int]:
    """How well a separator fits: how many of the first rows have as many cells as the header, and how many it has."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    below = [len(row) for row in islice(rows, header - 1, header + _TRIED) if row]
    named = below[0] if below else 0
    return (sum(length == named for length in below) if named > 1 else 0, named)


def _decoded(content: bytes) -> str:
    """Text in UTF-8, UTF-16 (by its mark), or what Windows calls ANSI; a byte without a meaning stays recognisable."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    if content[:4] == b"PK\x03\x04" or content[:4096].count(0) > len(content[:4096]) // 10:
        raise ValueError("it holds bytes that no text has")
    return content.decode("utf-8-sig", errors=_ELSE)


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    """What is no UTF-8 within a text is read as Windows-1252: some tables mix both."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", errors="replace"), error.end


_ELSE = "peftbench.cp1252"

codecs.register_error(_ELSE, _as_windows)


def _numbered(rows: Any) -> Iterator[_Row]:
    for number, row in enumerate(rows, 1):
        yield _Row(number, rows.line_num, row)


def _xlsx(path: Path, sheet: Sheet) -> _Grid:
    try:
        import openpyxl  # noqa: PLC0415 - only for workbooks
    except ImportError as error:
        raise MissingPackageError(f"reading {path.name} needs openpyxl: pip install openpyxl") from error
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        if sheet.sheet and sheet.sheet not in book.sheetnames:
            raise ValueError(f"it has no sheet {sheet.sheet!r}, only {', '.join(book.sheetnames)}")
        chosen = book[sheet.sheet] if sheet.sheet else book.worksheets[0]
        # Some programs state an extent that is not the sheet's.
        chosen.reset_dimensions()
        cells = [list(row) for row in chosen.iter_rows(values_only=True)]
        title = chosen.title
    finally:
        book.close()
    _refuse_uncomputed(path, title, cells)
    rows = [_Row(line, line, [as_text(cell) for cell in row]) for line, row in enumerate(cells, 1)]
    return _grid(iter(_squared(rows, sheet.header)), sheet, path)


def _refuse_uncomputed(path: Path, title: str, cells: list[list[Any]]) -> None:
    """Refuse formulas without a value: a program has written them, and no spreadsheet has computed them yet."""
    import openpyxl  # noqa: PLC0415 - only for workbooks

    with zipfile.ZipFile(path) as parts:
        if not any(b"<f" in parts.read(name) for name in parts.namelist() if name.startswith("xl/worksheets/")):
            return
    book = openpyxl.load_workbook(path, read_only=True)
    try:
        book[title].reset_dimensions()
        for line, row in enumerate(book[title].iter_rows(values_only=True)):
            for column, cell in enumerate(row):
                if isinstance(cell, str) and cell.startswith("=") and cells[line][column] is None:
                    raise ValueError(
                        f"line {line + 1}, column {column + 1} is the formula {cell!r} that was never computed: "
                        "open it in a spreadsheet program and save it"
                    )
    finally:
        book.close()


def _squared(rows: list[_Row], header: int) -> list[_Row]:
    """Rows of a workbook, cut or filled to the header's width: what lies to its right has no name."""
    named = next((row.cells for row in rows if row.number == header), [])
    width = max((number for number, cell in enumerate(named, 1) if cell), default=0)
    return [row._replace(cells=[*row.cells, *[""] * width][:width]) for row in rows if row.number >= header]


def _parquet(path: Path, sheet: Sheet) -> _Grid:  # noqa: ARG001 - as the other readers
    table = pq.read_table(path)
    columns = [[as_text(cell) for cell in column.to_pylist()] for column in table.columns]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return _Grid([str(name) for name in table.column_names], rows, list(range(1, len(rows) + 1)))


_READERS: dict[str, Callable[[Path, Sheet], _Grid]] = {
    ".xlsx": _xlsx,
    ".xlsm": _xlsx,
    ".parquet": _parquet,
    ".pq": _parquet,
}


def as_text(cell: Any) -> str:
    """A cell as its sheet shows it: 12 for 12.0, ISO 8601 for dates, empty for missing."""
    if cell is None or (isinstance(cell, float) and cell != cell):  # noqa: PLR0124 - NaN
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    if isinstance(cell, dt.datetime):
        return cell.date().isoformat() if cell.time() == dt.time() else cell.isoformat(" ")
    return str(cell)


def _grid(rows: Iterator[_Row], sheet: Sheet, path: Path) -> _Grid:
    """Header and rows; rows that are shorter or longer than the header are refused, empty lines passed over."""
    header: Sequence[str] = ()
    kept: list[list[str]] = []
    lines: list[int] = []
    for number, line, row in rows:
        if not header:
            if number == sheet.header:
                header = [cell.strip() for cell in row]
            continue
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise RawDataError(
                f"{path} is no whole table: line {line} has {len(row)} cells, the header {len(header)}: "
                "was it cut short? download it again"
            )
        kept.append(row)
        lines.append(line)
    if not any(header):
        raise ValueError(f"no columns are named in row {sheet.header}")
    return _Grid(list(header), kept, lines)
