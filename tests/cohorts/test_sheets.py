"""Tables as people have them: every form gives the same text, and what cannot be read for sure is refused."""

import datetime as dt
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook, load_workbook

from peftbench.cohorts.declaration import Sheet
from peftbench.cohorts.sheets import FOLDER, LINE, Table, as_text, read_sheet, require
from peftbench.errors import RawDataError

pytestmark = pytest.mark.slow

HEADER = ["patient", "exam", "day", "died"]
ROWS = [["P1", "x1", "2020-03-01", "yes"], ["P2", "x2", "", "no"], ["Müller", "12", "2020-12-31", ""]]


def read(raw: Path, files: str | tuple[str, ...], **more: Any) -> Table:
    return read_sheet(Sheet(files=files, **more), raw, "Mercy")


def cells(table: Table) -> list[list[str]]:
    frame = table.frame.drop(columns=[LINE, FOLDER])
    return [list(map(str, frame.columns)), *frame.to_numpy().tolist()]


def csv(path: Path, separator: str = ",", encoding: str = "utf-8", end: str = "\n", before: str = "") -> Path:
    text = before + end.join(separator.join(row) for row in [HEADER, *ROWS]) + end
    path.write_bytes(text.encode(encoding))
    return path


def workbook(path: Path, rows: list[list[Any]], before: int = 0, sheet: str = "") -> Path:
    book = Workbook()
    chosen = book.create_sheet(sheet) if sheet else book.active
    assert chosen is not None
    for row in [["Export of the ward"], ["of today", None, "x"]][:before] + rows:
        chosen.append(row)
    book.save(path)
    return path


class TestText:
    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_separators_encodings_and_ends_of_lines_make_no_difference(
        self, tmp_path: Path, separator: str, encoding: str, end: str
    ) -> None:
        csv(tmp_path / "t.csv", separator, encoding, end)
        assert cells(read(tmp_path, "t.csv")) == [HEADER, *ROWS]

    @pytest.mark.parametrize("name", ["t.tsv", "t.txt", "T.CSV", "t"])
    def test_the_ending_makes_no_difference(self, tmp_path: Path, name: str) -> None:
        csv(tmp_path / name, "\t")
        assert cells(read(tmp_path, name)) == [HEADER, *ROWS]

    @pytest.mark.parametrize(
        ("before", "header"),
        [
            ("Export of today,,,\n", 2),
            ("Export\n\nof today\n", 4),
            pytest.param('"Export\nof today",,,\n', 2, id="a title of two lines is one row"),
        ],
    )
    def test_rows_above_the_header(self, tmp_path: Path, before: str, header: int) -> None:
        csv(tmp_path / "t.csv", before=before)
        assert cells(read(tmp_path, "t.csv", header=header)) == [HEADER, *ROWS]

    def test_quoted_line_breaks_separators_and_quotes_are_text(self, tmp_path: Path) -> None:
        note = 'He said "no",\r\nthen; yes'
        pd.DataFrame([["P1", note], ["P2", "x"]], columns=["patient", "note"]).to_csv(tmp_path / "t.csv", index=False)
        table = read(tmp_path, "t.csv")
        assert table.frame["note"].tolist() == [note, "x"]
        assert table.frame[LINE].tolist() == [3, 4]

    def test_one_bad_byte_spoils_no_other_cell(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_bytes("a,b\nSão Paulo,38".encode() + b"\xb0C\n" + "São Paulo,°\n".encode())
        assert cells(read(tmp_path, "t.csv"))[1:] == [["São Paulo", "38°C"], ["São Paulo", "°"]]

    def test_what_means_missing_elsewhere_is_text_here(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("a,b\nNA,None\nnan,007\n")
        assert cells(read(tmp_path, "t.csv"))[1:] == [["NA", "None"], ["nan", "007"]]


TYPED: list[list[Any]] = [
    ["P1", "x1", dt.datetime.fromisoformat("2020-03-01"), "yes"],
    ["P2", "x2", None, "no"],
    ["Müller", 12.0, dt.date(2020, 12, 31), None],
]
"""The rows as a workbook holds them."""


class TestWorkbook:
    @pytest.mark.parametrize("before", [0, 1, 2])
    @pytest.mark.parametrize("sheet", ["", "Daten 2020"])
    def test_what_a_sheet_shows_is_read(self, tmp_path: Path, before: int, sheet: str) -> None:
        workbook(tmp_path / "t.xlsx", [HEADER, *TYPED], before, sheet)
        assert cells(read(tmp_path, "t.xlsx", header=before + 1, sheet=sheet)) == [HEADER, *ROWS]

    def test_empty_rows_and_columns_around_the_table_are_passed_over(self, tmp_path: Path) -> None:
        padded = [[*row, None, ""] for row in [HEADER, *TYPED[:1], [None] * 4, *TYPED[1:], ["", None]]]
        workbook(tmp_path / "t.xlsx", padded)
        book = load_workbook(tmp_path / "t.xlsx")
        book.worksheets[0].cell(40, 9, " ")
        book.save(tmp_path / "t.xlsx")
        assert cells(read(tmp_path, "t.xlsx")) == [HEADER, *ROWS]

    def test_a_sheet_that_is_not_there_is_answered_with_those_that_are(self, tmp_path: Path) -> None:
        workbook(tmp_path / "t.xlsx", [HEADER, *TYPED], sheet="Daten")
        with pytest.raises(RawDataError, match="no sheet 'daten', only Sheet, Daten"):
            read(tmp_path, "t.xlsx", sheet="daten")

    def test_a_formula_that_was_never_computed_is_no_empty_cell(self, tmp_path: Path) -> None:
        workbook(tmp_path / "t.xlsx", [HEADER, ["P1", "x1", "", '=IF(1=1,"yes","no")'], ["P2", "x2", "", "no"]])
        with pytest.raises(RawDataError, match=r"t\.xlsx.*formula"):
            read(tmp_path, "t.xlsx")

    def test_an_extent_that_the_workbook_states_wrongly_hides_nothing(self, tmp_path: Path) -> None:
        """Exporters of some hospital systems always write A1."""
        workbook(tmp_path / "whole.xlsx", [HEADER, *TYPED])
        with zipfile.ZipFile(tmp_path / "whole.xlsx") as old, zipfile.ZipFile(tmp_path / "t.xlsx", "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name).replace(b'<dimension ref="A1:D4"', b'<dimension ref="A1"'))
        assert cells(read(tmp_path, "t.xlsx")) == [HEADER, *ROWS]

    def test_a_date_of_1900_is_that_of_the_text(self, tmp_path: Path) -> None:
        days = [dt.date(1900, 1, 5), dt.date(1900, 2, 28), dt.date(1900, 3, 1), dt.date(1901, 7, 4)]
        workbook(tmp_path / "t.xlsx", [["patient", "day"], *[["P", day] for day in days]])
        assert read(tmp_path, "t.xlsx").frame["day"].tolist() == [day.isoformat() for day in days]


def test_parquet_of_any_type_is_the_text_that_a_sheet_would_show(tmp_path: Path) -> None:
    columns = {
        "whole": pa.array([1, None], pa.int64()),
        "float": pa.array([12.0, 0.5]),
        "flag": pa.array([True, None]),
        "day": pa.array([dt.date(1900, 1, 2), None]),
        "time": pa.array([1_583_020_800 * 10**9, 1_583_058_600 * 10**9], pa.timestamp("ns")),
        "text": pa.array(["a", None]),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "price": pa.array([Decimal("1.50"), None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert cells(read(tmp_path, "t.parquet")) == [
        list(columns),
        ["1", "12", "True", "1900-01-02", "2020-03-01", "a", "x", "1.50"],
        ["", "0.5", "", "", "2020-03-01 10:30:00", "", "y", ""],
    ]


@pytest.mark.parametrize(
    ("cell", "text"),
    [(12.0, "12"), (12.5, "12.5"), (float("nan"), ""), (None, ""), (True, "True"), (-0.0, "0"), (1e300, "1e+300")],
)
def test_a_cell_as_text(cell: object, text: str) -> None:
    assert as_text(cell) == text


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


UNREADABLE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty": ("t.csv", lambda path: path.write_bytes(b""), "no columns are named"),
    "only a header": ("t.csv", lambda path: path.write_text("a,b\n"), "has a header but no row"),
    "a workbook called csv": ("t.csv", lambda path: workbook(path.with_suffix(".xlsx"), [HEADER]).rename(path), ""),
    "pixels": ("t.csv", lambda path: path.write_bytes(bytes(range(8)) * 999), "bytes that no text has"),
    "text called xlsx": ("t.xlsx", lambda path: path.write_text("a,b\n1,2\n"), "XLSX workbook"),
    "a cut workbook": ("t.xlsx", lambda path: (workbook(path, [HEADER, *ROWS]), cut(path)), "XLSX workbook"),
    "an empty workbook": ("t.xlsx", lambda path: workbook(path, []), "no columns are named"),
    "Excel 97": ("t.xls", lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0" * 99), "save it as XLSX or CSV"),
    "a cut Parquet": ("t.parquet", lambda path: path.write_bytes(b"PAR1" + bytes(50)), "Parquet"),
    "a row too short": ("t.csv", lambda path: path.write_text("a,b\n1,2\n3\n"), "line 3 has 1 cells, the header 2"),
    "a row too long": ("t.csv", lambda path: path.write_text("a,b\n1,2\n3,4,5\n"), "line 3 has 3 cells"),
    "a header beyond the end": ("t.csv", lambda path: path.write_text(""), "no columns are named in row"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_table_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, case: str) -> None:
    name, write, reason = UNREADABLE[case]
    write(tmp_path / name)
    with pytest.raises(RawDataError) as caught:
        read(tmp_path, name)
    assert str(tmp_path / name) in str(caught.value)
    assert reason in str(caught.value)


class TestSeveral:
    def test_all_that_match_are_read_with_their_folders(self, tmp_path: Path) -> None:
        for folder in ("b", "a"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "t.csv").write_text(f"patient,died\n{folder},yes\n")
        table = read(tmp_path, "*/t.csv")
        assert table.frame[["patient", FOLDER]].to_numpy().tolist() == [["a", "a"], ["b", "b"]]

    def test_a_workbook_that_is_open_leaves_a_file_that_is_no_table(self, tmp_path: Path) -> None:
        workbook(tmp_path / "t.xlsx", [HEADER, *ROWS])
        (tmp_path / "~$t.xlsx").write_bytes(b"owner")
        assert cells(read(tmp_path, "*.xlsx")) == [HEADER, *ROWS]

    def test_one_that_lacks_a_used_column_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("patient,died\nP1,yes\n")
        (tmp_path / "b.csv").write_text("patient,sex\nP2,f\n")
        with pytest.raises(RawDataError, match=r"b\.csv lacks the column '?died"):
            require(read(tmp_path, "*.csv"), ["patient", "died"], tmp_path, "Mercy")
        assert require(read(tmp_path, "*.csv"), ["patient"], tmp_path, "Mercy").frame["sex"].tolist() == ["", "f"]


class TestColumns:
    @staticmethod
    def required(raw: Path, header: str, *asked: str) -> list[str]:
        (raw / "t.csv").write_text(f"{header}\n{','.join('x' * len(header.split(',')))}\n")
        return list(require(read(raw, "t.csv"), asked, raw, "Mercy").frame.columns)

    @pytest.mark.parametrize("written", ["Patient ID", " patient_id ", "PATIENT.ID", "patient  id"])
    def test_case_and_spacing_of_a_name_are_the_tables(self, tmp_path: Path, written: str) -> None:
        assert "patient_id" in self.required(tmp_path, f"{written},died", "patient_id", "died")

    def test_a_column_that_stands_twice_is_refused_if_it_is_used(self, tmp_path: Path) -> None:
        assert "patient" in self.required(tmp_path, "patient,crp,died,crp", "patient", "died")
        with pytest.raises(RawDataError, match="has the column 'crp' several times: which one is meant"):
            self.required(tmp_path, "patient,crp,died,crp", "patient", "crp")

    def test_two_that_differ_in_case_alone_are_told_apart_or_refused(self, tmp_path: Path) -> None:
        assert "died" in self.required(tmp_path, "patient,died,Died", "patient", "died")
        with pytest.raises(RawDataError, match=r"(?i)died"):
            self.required(tmp_path, "patient,died,Died", "patient", "DIED")

    def test_what_is_missing_is_named_beside_what_is_there(self, tmp_path: Path) -> None:
        with pytest.raises(RawDataError, match="lacks the columns exam, died; it has patient, dead: is this the"):
            self.required(tmp_path, "patient,dead", "patient", "exam", "died")

    def test_of_a_very_wide_table_not_every_column_is_listed(self, tmp_path: Path) -> None:
        with pytest.raises(RawDataError, match="and 60 more"):
            self.required(tmp_path, ",".join(f"c{number}" for number in range(100)), "patient")
