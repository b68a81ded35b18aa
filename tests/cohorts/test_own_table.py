"""Anybody's own table and images: however they are written and described, the cohort is the same; and what is wrong."""

import csv
import datetime as dt
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dicom_kit import radiograph, write_dicom
from numpy.random import default_rng
from openpyxl import Workbook
from PIL import Image

from peftbench.cohorts.describe import describe
from peftbench.cohorts.prepare import prepare
from peftbench.errors import ConfigError, PeftbenchError, RawDataError, UnknownNameError
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.results import PrepareResult
from peftbench.protocol.splits import make_split
from peftbench.protocol.tasks import rows_of
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow

COLUMNS = ("patient", "exam", "day", "site", "projection", "age", "died", "note")

Row = tuple[str, ...]

ROWS: tuple[Row, ...] = (
    ("P1", "x1", "2020-03-05", "Nord", "AP", "61", "yes", "Fieber, Husten"),
    ("P1", "x2", "2020-03-01", "Nord", "PA", "61", "yes", ""),
    ("P2", "x3", "2020-03-02", "Süd", "AP", "47.5", "no", "ärztlich"),
    ("P3", "x4", "2020-12-31", "Süd", "lateral", "", "no", ""),
    ("P4", "x5", "2020-04-01", "Nord", "", "80", "", ""),
    ("P5", "x6", "2020-04-02", "Süd", "LL", "33", "?", ""),
)

USUAL: dict[str, Any] = {
    "name": "mercy", "table": "t.csv", "images": "films", "file": "{exam}", "patient": "patient", "center": "site",
    "view": "projection", "order": "day", "label": "died", "event": "yes", "no_event": "no", "unknown": "?",
    "covariates": ("age",),
}  # fmt: skip


def write_csv(path: Path, rows: Sequence[Row] = ROWS, columns: Sequence[str] = COLUMNS, **options: Any) -> Path:
    encoding = options.pop("encoding", "utf-8")
    with path.open("w", newline="", encoding=encoding) as stream:
        csv.writer(stream, **options).writerows([columns, *rows])
    return path


def save(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF"}.get(path.suffix.lower(), "PNG")
    Image.fromarray(radiograph(default_rng(number), (24, 20), 8)).save(path, kind)


def write(raw: Path, rows: Sequence[Row] = ROWS, name: str = "films/{exam}.png") -> Path:
    for number, row in enumerate(rows):
        save(raw / name.format(**dict(zip(COLUMNS, row, strict=True))), number)
    write_csv(raw / "t.csv", rows)
    return raw


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write(tmp_path / "raw")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """One key for all folders of a test, so that pseudonyms can be compared."""
    (tmp_path / "keys").mkdir()
    return tmp_path / "keys" / "key"


def prepared(raw: Path, place: Workspace | Path, key: Path | None = None, **more: Any) -> PrepareResult:
    options = {word: value for word, value in {**USUAL, **more}.items() if value is not None}
    return prepare(describe("table", **options), raw, workspace=place, key_file=key, workers=1, side=32)


def frame_of(place: Workspace) -> pd.DataFrame:
    return Manifest.read("mercy", place.manifest("mercy")).frame


def write_films(raw: Path, days: Sequence[str]) -> Path:
    """A folder of DICOM files of one patient each two, with the study dates given, and a table a patient."""
    for number, day in enumerate(days):
        film = radiograph(default_rng(number), (24, 20), 12)
        path = raw / "films" / f"{number:03}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(path, film, PatientID=f"P{number // 2}", StudyDate=day)
    rows = [(f"P{number}", "yes" if number % 2 else "no") for number in range((len(days) + 1) // 2)]
    write_csv(raw / "t.csv", rows, ("patient", "died"))
    return raw


FILMS = {
    "file": None, "match": "dicom:PatientID", "center": None, "view": None, "order": "dicom:StudyDate", "unknown": None,
    "covariates": None,
}  # fmt: skip


class TestHeaders:
    def test_a_date_that_is_none_rejects_its_file_alone(self, tmp_path: Path, place: Workspace) -> None:
        """Taken for a number, it would come first, and the other dates would stand in the manifest."""
        raw = write_films(tmp_path / "raw", ["20210310", "00000000", "20210305", "2021.03.01", "20210308", "20210307"])
        result = prepared(raw, place, **FILMS)
        assert [each.reason for each in result.rejected] == ["its StudyDate is neither date nor number"] * 2
        assert sorted(frame_of(place)["acquired"]) == [0.0, 0.0, 0.0, 1.0]

    def test_a_file_without_a_date_comes_last_of_its_patient(self, tmp_path: Path, place: Workspace) -> None:
        raw = write_films(tmp_path / "raw", ["", "20210310", "20210305", "20210306"])
        prepared(raw, place, **FILMS)
        assert frame_of(place)["acquired"].isna().tolist() in ([False, True, False, False], [False, False, False, True])


class TestKept:
    def test_policy_and_side_stay_unless_others_are_named(self, raw: Path, place: Workspace, key: Path) -> None:
        prepare(describe("table", **USUAL), raw, workspace=place, key_file=key, policy="equalize", side=64)
        first = frame_of(place)
        prepare(describe("mercy", workspace=place), raw, workspace=place, key_file=key)
        pd.testing.assert_frame_equal(frame_of(place), first)
        prepare(describe("mercy", workspace=place), raw, workspace=place, key_file=key, policy="minmax")
        assert not frame_of(place)["image_digest"].equals(first["image_digest"])

    def test_a_damaged_description_does_not_stop_the_preparation_that_mends_it(
        self, raw: Path, place: Workspace, key: Path
    ) -> None:
        prepared(raw, place, key)
        place.description("mercy").write_text("{")
        with pytest.raises(PeftbenchError, match="cannot be read"):
            describe("mercy", workspace=place)
        assert prepared(raw, place, key).images == len(ROWS)
        assert describe("mercy", workspace=place).name == "mercy"

    def test_without_key_and_card_no_other_key_is_drawn(self, raw: Path, place: Workspace) -> None:
        prepared(raw, place)
        (raw / "peftbench-pseudonyms.key").unlink()
        place.card("mercy").write_text("x")
        with pytest.raises(ConfigError, match="--key-file"):
            prepared(raw, place)
        assert not (raw / "peftbench-pseudonyms.key").exists()


class TestTasks:
    def test_a_rule_on_a_bare_covariate_of_numbers_compares_numbers(
        self, raw: Path, place: Workspace, key: Path
    ) -> None:
        told = {**USUAL, "label": None, "event": None, "no_event": None, "unknown": None}
        words = {
            "labels": {"died": {"column": "died", "event": "yes", "no_event": "no", "unknown": "?"}},
            "tasks": [{"name": "old", "label": "died", "rules": [{"column": "age", "minimum": 50, "reason": "young"}]}],
        }
        declared = describe("table", words, **{word: value for word, value in told.items() if value is not None})
        result = prepare(declared, raw, workspace=place, key_file=key, side=32)
        assert (result.tasks["old"].images, result.tasks["old"].left_out) == (2, {"no label": 2, "young": 2})

    def test_a_number_asked_of_text_is_refused_before_anything_is_written(self, raw: Path, place: Workspace) -> None:
        words = {
            "labels": {"died": {"column": "died", "event": "yes", "no_event": "no", "unknown": "?"}},
            "tasks": [{"name": "old", "label": "died", "rules": [{"column": "note", "minimum": 5, "reason": "few"}]}],
        }
        told = {**USUAL, "label": None, "event": None, "no_event": None, "unknown": None, "covariates": ("note",)}
        declared = describe("table", words, **{word: value for word, value in told.items() if value is not None})
        with pytest.raises(ConfigError, match="'note' with a number, and it holds text"):
            prepare(declared, raw, workspace=place)
        assert not place.root.exists()

    def test_a_task_without_a_label_says_why_it_is_empty(self, raw: Path, place: Workspace, key: Path) -> None:
        write_csv(raw / "t.csv", [(*row[:6], "", row[7]) for row in ROWS])
        assert prepared(raw, place, key).tasks["mercy_died"].left_out == {"no label": 6}


def test_the_same_number_of_signs_in_words_does_not_decide_the_separator(
    raw: Path, place: Workspace, tmp_path: Path, key: Path
) -> None:
    prepared(raw, tmp_path / "plain", key)
    columns = ("patient", "exam", "day", "site", "projection", "age", "died", "note, in words, at discharge, final, so")
    write_csv(raw / "t.csv", ROWS, columns, delimiter=";")
    prepared(raw, place, key)
    pd.testing.assert_frame_equal(frame_of(place), frame_of(Workspace(tmp_path / "plain")))


def typed(row: Row) -> list[Any]:
    """A row as a program would keep it: dates as dates, numbers as numbers, nothing as nothing."""
    values: list[Any] = [value or None for value in row]
    values[2] = dt.date.fromisoformat(row[2])
    values[5] = float(row[5]) if row[5] else None
    return values


def write_workbook(path: Path, before: int = 0, sheet: str = "Sheet1") -> Path:
    book = Workbook()
    book.create_sheet("Legende").append(["nothing", "here"])
    chosen = book.create_sheet(sheet, 0)
    for row in [*[["Ward 3, exported today"]] * before, [*COLUMNS], *map(typed, ROWS), *[[None] * 11] * 3]:
        chosen.append(row)
    book.save(path)
    return path


def write_parquet(path: Path, *, died: bool = False) -> Path:
    frame = pd.DataFrame([typed(row) for row in ROWS], columns=list(COLUMNS))
    if died:
        frame["died"] = frame["died"].map({"yes": True, "no": False}).astype("boolean")
    frame.to_parquet(path)
    return path


FORMS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "semicolon": (lambda raw: write_csv(raw / "t.csv", delimiter=";"), {}),
    "tab": (lambda raw: write_csv(raw / "t.tsv", delimiter="\t"), {}),
    "BOM": (lambda raw: write_csv(raw / "t.csv", encoding="utf-8-sig"), {}),
    "cp1252": (lambda raw: write_csv(raw / "t.csv", encoding="cp1252", delimiter=";"), {}),
    "utf-16": (lambda raw: write_csv(raw / "t.csv", encoding="utf-16", delimiter="\t"), {}),
    "xlsx": (lambda raw: write_workbook(raw / "t.xlsx"), {}),
    "xlsx with a title": (lambda raw: write_workbook(raw / "t.xlsx", before=3), {"header": 4}),
    "another sheet": (lambda raw: write_workbook(raw / "t.xlsx", sheet="Daten"), {"sheet": "Daten"}),
    "parquet": (lambda raw: write_parquet(raw / "t.parquet"), {}),
    "parquet with booleans": (
        lambda raw: write_parquet(raw / "t.parquet", died=True),
        {"event": ("True",), "no_event": ("false",)},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_content_gives_the_same_manifest_in_every_form(
    raw: Path, place: Workspace, key: Path, tmp_path: Path, form: str
) -> None:
    plain = Workspace(tmp_path / "plain")
    prepared(raw, plain, key, covariates=("age", "note"))
    (raw / "t.csv").unlink()
    write_form, options = FORMS[form]
    path = write_form(raw)
    prepared(raw, place, key, **{"table": path.name, "covariates": ("age", "note"), **options})
    pd.testing.assert_frame_equal(frame_of(place), frame_of(plain))


def test_what_the_manifest_says(raw: Path, place: Workspace) -> None:
    result = prepared(raw, place)
    frame = frame_of(place)
    assert (result.images, result.patients, result.centers) == (6, 5, 2)
    assert set(frame["center"]) == {"Nord", "Süd"}
    assert frame["view"].value_counts().to_dict() == {"AP": 2, "PA": 1, "LATERAL": 2}
    first = frame[frame["patient_id"].duplicated(keep=False)]
    assert first["acquired"].tolist() == [0, 4]
    assert first["view"].tolist() == ["PA", "AP"], "sorted by date, not as in the table"
    assert frame["died"].fillna("unknown").value_counts().to_dict() == {"yes": 2, "no": 2, "unknown": 2}
    assert result.tasks["mercy_died"].model_dump(include={"images", "patients", "events", "left_out"}) == {
        "images": 3, "patients": 3, "events": 1, "left_out": {"no label": 2, "not the patient's first image": 1},
    }  # fmt: skip


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("films/{exam}.png", {"file": "{exam}.png"}),
            ("films/{exam}.PNG", {}),
            ("films/{exam}.PNG", {"file": "{exam}.png"}),
            ("films/{exam}.Jpeg", {}),
            ("films/{exam}.tif", {"images": None}),
            ("films/{exam}", {}),
            ("films/{site}/{patient}/{exam}.png", {}),
            ("films/{site}/{patient}/{exam}.png", {"file": "films/{site}/{patient}/{exam}", "images": None}),
            ("{site}/{exam}.png", {"images": ("Nord", "Süd")}),
            ("{exam}.png", {"images": None}),
            ("films/{patient}_{exam}.png", {"file": "{patient}_{exam}"}),
            ("films/{patient}_{exam}.png", {"file": "films/*_{exam}.*"}),
        ],
    )
    def test_a_row_an_image_by_its_name(
        self, tmp_path: Path, place: Workspace, name: str, options: dict[str, Any]
    ) -> None:
        raw = write(tmp_path / "raw", ROWS, name)
        result = prepared(raw, place, **options)
        assert (result.images, result.rejected) == (6, [])

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("films/{patient}_{exam}.png", {"match": "stem"}),
            ("films/{patient} {exam}.PNG", {"match": "stem"}),
            ("films/{patient}/{exam}.png", {"match": "folder"}),
            ("films/{patient}/2020/03/{exam}.png", {"match": "folder"}),
            ("films/a_{patient}_{exam}.png", {"match": "path:who", "path": "films/a_(?P<who>[^_]+)_.*"}),
        ],
    )
    def test_a_row_a_patient_by_the_files_path(
        self, tmp_path: Path, place: Workspace, name: str, options: dict[str, Any]
    ) -> None:
        raw = write(tmp_path / "raw", ROWS, name)
        write_csv(raw / "t.csv", [("P1", "yes"), ("P2", "no"), ("P3", "no"), ("P9", "no")], ("patient", "died"))
        save(raw / "films" / "nobody.png", 99)
        alone = dict.fromkeys(("file", "center", "view", "order", "covariates"))
        result = prepared(raw, place, **{**alone, "covariates": (), **options})
        assert (result.images, result.patients, result.tasks["mercy_died_all"].events) == (4, 3, 2)
        assert sum(result.left_out.values()) == 3
        assert "1 of 4 rows of t.csv have no image" in result.notes

    def test_a_row_a_patient_by_the_files_header(self, tmp_path: Path, place: Workspace) -> None:
        raw = tmp_path / "raw"
        for number, (patient, day) in enumerate([("P1", "20200305"), ("P1", "20200301"), ("P2", "19000102")]):
            write_dicom(raw / f"IM{number}", radiograph(default_rng(number), (24, 20)), PatientID=patient,
                        StudyDate=day, view=("AP", "PA", None)[number])  # fmt: skip
        write_csv(raw / "t.csv", [("P1", "yes"), ("P2", "no")], ("patient", "died"))
        options = {"match": "dicom:PatientID", "order": "dicom:StudyDate", "view": "dicom:ViewPosition"}
        result = prepared(raw, place, **{**options, "file": None, "center": None, "images": None, "covariates": ()})
        assert (result.images, result.patients) == (3, 2)
        assert sorted(zip(frame_of(place)["acquired"], frame_of(place)["view"].fillna(""), strict=True)) == [
            (0, ""), (0, "PA"), (4, "AP"),
        ]  # fmt: skip

    def test_labels_of_images_differ_within_a_patient_where_that_is_said(self, raw: Path, place: Workspace) -> None:
        rows = [(*row[:6], "no" if row[1] == "x2" else row[6], row[7]) for row in ROWS]
        write_csv(raw / "t.csv", rows)
        assert prepared(raw, place, per_image=True).tasks["mercy_died_all"].events == 1
        assert sorted(frame_of(place)["died"].dropna()) == ["no", "no", "no", "yes"]

    def test_files_that_no_row_names_are_counted(self, raw: Path, place: Workspace) -> None:
        for number in range(3):
            save(raw / "films" / f"y{number}.png", number)
        assert prepared(raw, place).notes == ["3 files in films belong to no row that is used"]


class TestOrder:
    @pytest.mark.parametrize(
        ("days", "options"),
        [
            (["2020-03-05", "2020-03-01"], {}),
            (["2020-03-05 10:30", "2020-03-05 09:00:00"], {}),
            (["2020-03-05T10:30:00.250", "2020-03-05T10:30:00.125"], {}),
            (["2020-03-05 10:30:00+01:00", "2020-03-05 10:30:00+02:00"], {}),
            (["20200305", "20200301"], {}),
            (["19010305", "19000301"], {}),
            (["20200305", "2020-03-01"], {}),
            (["05.03.2020", "01.03.2020"], {"order_format": "%d.%m.%Y"}),
            (["03/05/20", "01.03.2020"], {"order_format": ("%d.%m.%Y", "%m/%d/%y")}),
            (["10", "9"], {}),
            (["2.5", "-3"], {}),
        ],
    )
    def test_days_and_numbers_put_a_patients_images_in_order(
        self, raw: Path, place: Workspace, days: list[str], options: dict[str, Any]
    ) -> None:
        write_csv(raw / "t.csv", [(*row[:2], day, *row[3:]) for row, day in zip(ROWS, days, strict=False)])
        prepared(raw, place, **options)
        frame = frame_of(place)
        assert frame["view"].tolist() == ["PA", "AP"]
        assert frame["acquired"].iloc[0] == 0 < frame["acquired"].iloc[1]

    @pytest.mark.parametrize(
        ("day", "shape"),
        [("05.03.2020", "99.99.9999"), ("2020-13-01", "9999-99-99"), ("soon", "xxxx"), ("20209999", "99999999")],
    )
    def test_a_day_that_is_not_understood_is_told_by_its_line_and_shape(
        self, raw: Path, place: Workspace, day: str, shape: str
    ) -> None:
        """A date may tell who somebody is: what it looks like is enough to mend it."""
        write_csv(raw / "t.csv", [*ROWS[1:], (*ROWS[0][:2], day, *ROWS[0][3:])])
        told = refused(raw, place, shape, "first in line 7", "'day'", "date")
        assert day not in told


def refused(raw: Path, place: Workspace, *parts: str, **options: Any) -> str:
    """What is said, after checking that it holds the parts and that nothing looks prepared."""
    with pytest.raises(PeftbenchError) as caught:
        prepared(raw, place, **options)
    told = str(caught.value)
    assert [part for part in parts if part not in told] == []
    assert not [path for path in place.root.rglob("*") if path.name in ("manifest.parquet", "card.json", "cohort.json")]
    return told


class TestRules:
    def test_rules_leave_rows_out_and_are_counted(self, raw: Path, place: Workspace) -> None:
        result = prepared(raw, place, keep=("site=süd", "projection=AP,PA,lateral"))
        assert result.images == 2
        assert sorted(result.left_out.values()) == [1, 3]

    def test_a_task_of_ones_own(self, raw: Path, place: Workspace) -> None:
        rows = [(f"P{n}", f"x{n}", "", "NSE"[n % 3], ("AP", "LL")[n % 5 == 0], "", ("yes", "no")[n % 2], "")
                for n in range(24)]  # fmt: skip
        write(raw, rows)
        own = {"name": "frontal", "label": "died", "scheme": "LOCO",
               "rules": [{"column": "view", "values": ["AP", "PA"], "reason": "not frontal"}]}  # fmt: skip
        words = {"labels": {"died": {"column": "died", "event": "yes", "no_event": "no"}}, "tasks": [own]}
        declared = describe("table", words, **{**USUAL, "label": None, "event": (), "no_event": (), "unknown": ()})
        result = prepare(declared, raw, workspace=place, workers=1, side=32)
        assert result.tasks["frontal"].left_out == {"not frontal": 5}
        rows_used = rows_of(declared.tasks[0], Manifest.read("mercy", place.manifest("mercy")))
        split = make_split(rows_used, "LOCO", 0)
        assert dict(zip(split.names, split.unit_counts(rows_used)["test"], strict=True)) == (
            rows_used.frame["center"].value_counts().sort_index().to_dict()
        )


def claim(path: Path, side: int) -> None:
    """A PNG whose header claims so many pixels a side."""
    content = path.read_bytes()
    head = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    path.write_bytes(content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:])


def pack(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.dcm", b"x")


class TestBad:
    @pytest.mark.parametrize(
        ("harm", "reason"),
        [
            (Path.unlink, "file is missing"),
            (lambda path: path.write_bytes(b""), "file is empty (0 bytes)"),
            (pack, "is a ZIP archive, not an image: unpack it"),
            (lambda path: claim(path, 60_000), "claims"),
            (lambda path: path.write_text("x"), "is not a picture"),
            (lambda path: path.write_bytes(b"\0" * 128 + b"DICM" + bytes(40)), ""),
        ],
    )
    def test_a_file_is_rejected_alone(self, raw: Path, place: Workspace, harm: Any, reason: str) -> None:
        harm(raw / "films" / "x3.png")
        result = prepared(raw, place)
        assert result.images == 5
        (rejected,) = result.rejected
        assert rejected.file == "line 4"
        assert reason in rejected.reason

    @pytest.mark.parametrize(
        "name", ["../x9", "../../x9", "/etc/x9.png", "..\\x9", "C:\\x9.png", "\\\\server\\x9", "films/../../x9", "a\0b"]
    )  # fmt: skip
    def test_a_name_in_the_table_does_not_lead_out(self, tmp_path: Path, place: Workspace, name: str) -> None:
        raw = write(tmp_path / "raw")
        save(tmp_path / "x9.png", 9)
        write_csv(raw / "t.csv", [*ROWS, ("P9", name, *ROWS[0][2:])])
        result = prepared(raw, place)
        assert result.images == 6
        assert [each.file for each in result.rejected] == ["line 8"]

    @pytest.mark.parametrize("other", ["P1", "P1 ", " P1"])
    def test_a_patient_with_two_outcomes_is_rejected_and_the_others_used(
        self, raw: Path, place: Workspace, other: str
    ) -> None:
        save(raw / "films" / "x9.png", 9)
        write_csv(raw / "t.csv", [*ROWS, (other, "x9", *ROWS[0][2:6], "no", "")])
        result = prepared(raw, place)
        assert (result.images, len(result.rejected)) == (4, 3)
        assert {each.reason for each in result.rejected} == {
            "its patient has two outcomes (died: both with and without)"
        }

    def test_a_patient_in_two_rows_that_differ_is_rejected(self, tmp_path: Path, place: Workspace) -> None:
        raw = write(tmp_path / "raw", ROWS, "films/{patient}_{exam}.png")
        write_csv(raw / "t.csv", [("P1", "yes"), ("P1", "no"), ("P2", "no"), ("P2", "no")], ("patient", "died"))
        alone = dict.fromkeys(("file", "center", "view", "order"))
        result = prepared(raw, place, **{**alone, "covariates": (), "match": "stem"})
        assert (result.images, len(result.rejected)) == (1, 2)
        assert {each.reason for each in result.rejected} == {"its patient stands in several rows of t.csv that differ"}

    def test_values_that_are_not_understood_are_listed_with_their_counts(self, raw: Path, place: Workspace) -> None:
        rows = [(*row[:6], "maybe" if row[0] == "P1" else "dead", row[7]) for row in ROWS]
        write_csv(raw / "t.csv", rows)
        refused(raw, place, "'died'", "'maybe' (2 rows)", "'dead' (4 rows)", "expected one of", "yes", "no")

    @pytest.mark.parametrize("option", ["patient", "center", "view", "order", "label", "covariates", "id"])
    def test_a_column_that_is_not_there_is_named(self, raw: Path, place: Workspace, option: str) -> None:
        refused(raw, place, "t.csv lacks the column nosuch; it has patient, exam", **{option: "nosuch"})

    def test_a_column_of_the_files_name_that_is_not_there(self, raw: Path, place: Workspace) -> None:
        refused(raw, place, "lacks the column nosuch", file="{nosuch}.png")

    def test_ids_that_match_no_file(self, raw: Path, place: Workspace) -> None:
        write_csv(raw / "t.csv", [(row[0], f"y{row[1]}", *row[2:]) for row in ROWS])
        refused(raw, place, "none of the 6 images of mercy can be used", "line 2", "file is missing", "--raw")
        refused(raw, place, "no row in t.csv", "--raw", file=None, match="stem")

    @pytest.mark.parametrize(
        ("options", "parts"),
        [
            ({"table": "gone.csv"}, ["has no gone.csv", "it holds", "t.csv"]),
            ({"images": "gone"}, ["none of the 6 images", "file is missing"]),
            ({"images": "gone", "file": None, "match": "stem"}, ["no image file in gone"]),
            ({"sheet": "Daten", "table": "t.xlsx"}, ["has no t.xlsx"]),
            ({"header": 3}, ["lacks the columns"]),
            ({"header": 99}, ["no columns are named in row 99"]),
            ({"keep": "site=West"}, ["no image of mercy is left", "check the rules"]),
        ],
    )
    def test_what_is_not_there_is_named(
        self, raw: Path, place: Workspace, options: dict[str, Any], parts: list[str]
    ) -> None:
        refused(raw, place, *parts, **options)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"max_rejected": 1.5}, ConfigError),
            ({"max_rejected": -0.1}, ConfigError),
            ({"max_rejected": float("nan")}, ConfigError),
            ({"workers": 0}, ConfigError),
            ({"policy": "minimax"}, UnknownNameError),
            ({"side": 31}, ConfigError),
            ({"side": 4097}, ConfigError),
        ],
    )
    def test_an_option_out_of_its_range_costs_nothing(
        self, raw: Path, place: Workspace, options: dict[str, Any], error: type[Exception]
    ) -> None:
        (word, value) = next(iter(options.items()))
        with pytest.raises(error, match=f"{word.replace('_', '-')}|{value}"):
            prepare(describe("table", **USUAL), raw, workspace=place, **options)
        assert not place.root.exists()
        assert not list(raw.glob("peftbench-*"))

    @pytest.mark.parametrize(
        ("allowed", "passes"), [(0.0, False), (0.1, False), (0.2, True), (1.0, True), (None, True)]
    )
    def test_more_rejected_files_than_are_allowed(
        self, raw: Path, place: Workspace, allowed: float | None, passes: bool
    ) -> None:
        (raw / "films" / "x3.png").unlink()
        run = lambda: prepare(describe("table", **USUAL), raw, workspace=place, max_rejected=allowed)  # noqa: E731
        if passes:
            assert run().images == 5
            return
        with pytest.raises(
            RawDataError, match=rf"1 of 6 images of mercy are rejected, more than .* {allowed:g}.*rejected"
        ):
            run()
        assert not place.manifest("mercy").exists()


class TestAgain:
    @pytest.mark.parametrize("options", [{}, {"table": "*.csv"}, {"file": None, "match": "stem", "key": "exam"}])
    @pytest.mark.parametrize("where", ["beside", "in the raw folder"])
    def test_what_the_first_run_left_is_no_part_of_the_second(
        self, raw: Path, tmp_path: Path, where: str, options: dict[str, Any]
    ) -> None:
        """Key, mapping and perhaps the workspace lie in the raw folder."""
        place = Workspace((raw if where == "in the raw folder" else tmp_path) / "workspace")
        keep_key = tmp_path / "key" if where == "in the raw folder" else None
        words = {**USUAL, "images": (), **options}
        declared = describe("table", **{word: value for word, value in words.items() if value is not None})
        first = prepare(declared, raw, workspace=place, key_file=keep_key, workers=1, side=32)
        assert first.images == 6
        assert prepare(declared, raw, workspace=place, key_file=keep_key, workers=1, side=32) == first
        assert prepare("mercy", raw, workspace=place, key_file=keep_key, workers=1, side=32) == first

    def test_a_second_description_replaces_the_first(self, raw: Path, place: Workspace) -> None:
        prepared(raw, place)
        before = set(frame_of(place)["patient_id"])
        result = prepared(raw, place, label="site", event="Nord", no_event="Süd", unknown=())
        assert list(result.tasks) == ["mercy_site", "mercy_site_all"]
        assert set(frame_of(place)["patient_id"]) == before
