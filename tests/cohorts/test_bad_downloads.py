"""Every way in which a download can be bad has its message, and none leaves a cohort half prepared."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hannover_kit import COLUMNS, ROWS, Row, image_file, picture, write_hannover, write_table
from PIL import Image

from peftbench.cohorts.prepare import prepare
from peftbench.errors import RawDataError
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.results import PrepareResult
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow

TITLE = "Hannover, COVID-19 image repository"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_hannover(tmp_path / "raw")


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def refused(raw: Path, place: Workspace, *parts: str) -> None:
    """Assert that preparing fails with a message that holds the parts, and leaves nothing that looks prepared."""
    with pytest.raises(RawDataError) as caught:
        prepare("hannover", raw, workspace=place)
    for part in parts:
        assert part in str(caught.value)
    assert not place.manifest("hannover").exists()
    assert not place.card("hannover").exists()


class TestTable:
    def test_a_folder_that_does_not_exist(self, tmp_path: Path, place: Workspace) -> None:
        refused(tmp_path / "gone", place, f"{tmp_path / 'gone'} does not exist", TITLE, "--raw DIR")

    def test_a_file_instead_of_a_folder(self, raw: Path, place: Workspace) -> None:
        refused(raw / "data.csv", place, str(raw / "data.csv"), "--raw")

    def test_an_empty_folder(self, tmp_path: Path, place: Workspace) -> None:
        (tmp_path / "empty").mkdir()
        refused(tmp_path / "empty", place, "has no data.csv (it is empty)", "--raw takes the folder", TITLE)
        assert not place.root.exists(), "nothing was touched"

    def test_a_folder_without_the_table(self, raw: Path, place: Workspace) -> None:
        (raw / "data.csv").unlink()
        refused(raw, place, "has no data.csv (it holds png)")

    def test_the_folder_above_the_download(self, raw: Path, place: Workspace) -> None:
        refused(raw.parent, place, "has no data.csv", "it holds raw")

    def test_missing_columns_are_named_beside_those_that_are_there(self, raw: Path, place: Workspace) -> None:
        text = (raw / "data.csv").read_text()
        text = text.replace("icu_admission_offset", "icu").replace("projection", "view")
        (raw / "data.csv").write_text(text)
        refused(raw, place, "lacks the columns icu_admission_offset, projection", "it has patient_id, image_id", TITLE)

    def test_one_missing_column_is_spoken_of_as_one(self, raw: Path, place: Workspace) -> None:
        (raw / "data.csv").write_text((raw / "data.csv").read_text().replace("patient_id", "patient"))
        refused(raw, place, "lacks the column patient_id;")

    def test_a_header_without_rows(self, raw: Path, place: Workspace) -> None:
        write_table(raw, ())
        refused(raw, place, "has a header but no row")

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"\n\n", id="blank lines"),
            pytest.param(("\ufeff" + ",".join(COLUMNS)).encode("utf-16"), id="utf-16"),
            pytest.param(
                ",".join(COLUMNS).encode() + b"\na,b,c,d,e,f,g,h,i,j\na,b" + b"," * 30 + b"\n", id="a row too long"
            ),
            pytest.param(b"PK\x03\x04" + bytes(range(256)) * 8, id="a spreadsheet"),
        ],
    )
    def test_a_table_that_cannot_be_read(self, raw: Path, place: Workspace, content: bytes) -> None:
        (raw / "data.csv").write_bytes(content)
        refused(raw, place, str(raw / "data.csv"))

    @pytest.mark.parametrize("separator", [";", "\t", "|"])
    def test_a_table_with_another_separator_is_the_same_table(
        self, raw: Path, place: Workspace, tmp_path: Path, separator: str
    ) -> None:
        prepare("hannover", raw, workspace=tmp_path / "commas")
        (raw / "data.csv").write_text((raw / "data.csv").read_text().replace(",", separator))
        prepare("hannover", raw, workspace=place)
        commas = Workspace(tmp_path / "commas")
        assert place.manifest("hannover").read_bytes() == commas.manifest("hannover").read_bytes()

    @pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
    def test_a_table_in_another_encoding_is_the_same_table(
        self, raw: Path, place: Workspace, tmp_path: Path, encoding: str
    ) -> None:
        text = (raw / "data.csv").read_text().replace(",f,", ",f\u00e9minin,")
        (raw / "data.csv").write_bytes(text.encode())
        prepare("hannover", raw, workspace=tmp_path / "utf8")
        (raw / "data.csv").write_bytes(text.encode(encoding))
        prepare("hannover", raw, workspace=place)
        assert set(Manifest.read("hannover", place.manifest("hannover")).frame["sex"]) == {"f\u00e9minin"}
        utf8 = Workspace(tmp_path / "utf8")
        assert place.manifest("hannover").read_bytes() == utf8.manifest("hannover").read_bytes()

    @pytest.mark.filterwarnings("ignore::pandas.errors.ParserWarning")
    @pytest.mark.parametrize("extra", ["", "x"])
    def test_a_cell_too_many_in_every_row_does_not_shift_the_columns(
        self, raw: Path, place: Workspace, extra: str
    ) -> None:
        """pandas would take the first column for an index and move all others by one, without a word."""
        lines = (raw / "data.csv").read_text().splitlines()
        (raw / "data.csv").write_text("\n".join([lines[0], *(f"{line},{extra}" for line in lines[1:])]) + "\n")
        try:
            result = prepare("hannover", raw, workspace=place)
        except RawDataError as error:
            assert "data.csv" in str(error)  # noqa: PT017 - reading it rightly is as good as refusing it
        else:
            assert (result.images, result.tasks["HAN_icu_all"].events) == (6, 3)

    @pytest.mark.parametrize("cells", [3, 7, len(COLUMNS) - 1])
    def test_a_table_that_was_cut_short_is_refused(self, raw: Path, place: Workspace, cells: int) -> None:
        """Padded with empty cells, a patient of the ICU would become one who never was there."""
        lines = (raw / "data.csv").read_text().splitlines()
        lines[-1] = ",".join(lines[-1].split(",")[:cells])
        (raw / "data.csv").write_text("\n".join(lines))
        refused(raw, place, "data.csv", f"line {len(lines)} has {cells} cells, the header {len(COLUMNS)}")

    @pytest.mark.parametrize("column", ["icu_admission_offset", "death_offset", "admission_offset"])
    def test_an_offset_that_is_no_number_is_named(self, raw: Path, place: Workspace, column: str) -> None:
        lines = (raw / "data.csv").read_text().splitlines()
        cells = lines[3].split(",")
        cells[COLUMNS.index(column)] = "3 days"
        lines[3] = ",".join(cells)
        (raw / "data.csv").write_text("\n".join(lines) + "\n")
        refused(raw, place, "data.csv of hannover has a value that is not understood", "3 days", TITLE)


class TestFiles:
    """One file of six is bad: five are used, and the sixth is named with the reason."""

    @staticmethod
    def cut(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])

    @staticmethod
    def whiten(path: Path) -> None:
        Image.new("L", (40, 48), 255).save(path)

    @staticmethod
    def replace_by_folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    @pytest.mark.parametrize(
        ("break_it", "reason"),
        [
            pytest.param(Path.unlink, "file is missing", id="missing"),
            pytest.param(lambda path: path.write_bytes(b""), r"file is empty \(0 bytes\)", id="0 bytes"),
            pytest.param(cut, "cannot be decoded: .*truncated", id="truncated"),
            pytest.param(lambda path: path.write_text("<html>"), "is a web page, not an image", id="html"),
            pytest.param(whiten, "holds nothing to see: every sample is 255", id="constant"),
            pytest.param(replace_by_folder, ".+", id="a folder"),
        ],
    )
    def test_a_bad_file_is_rejected_alone(
        self, raw: Path, place: Workspace, break_it: Callable[[Path], None], reason: str
    ) -> None:
        break_it(image_file(raw, "b0000003"))
        result = prepare("hannover", raw, workspace=place)
        assert [each.file for each in result.rejected] == ["png/b0000003.png"]
        assert re.fullmatch(f"{reason}.*", result.rejected[0].reason)
        assert "b0000003" not in result.rejected[0].reason
        assert result.images == len(ROWS) - 1
        assert len(Manifest.read("hannover", place.manifest("hannover")).frame) == len(ROWS) - 1

    def test_a_file_mended_later_joins_the_others(self, raw: Path, place: Workspace) -> None:
        path = image_file(raw, "b0000003")
        whole = path.read_bytes()
        self.cut(path)
        assert prepare("hannover", raw, workspace=place).images == len(ROWS) - 1
        path.write_bytes(whole)
        result = prepare("hannover", raw, workspace=place)
        assert (result.images, result.rejected) == (len(ROWS), [])

    def test_when_every_file_is_bad_the_first_is_named(self, raw: Path, place: Workspace) -> None:
        for row in ROWS:
            image_file(raw, row.image).write_bytes(b"")
        refused(
            raw, place, "none of the 6 images of hannover can be used", "the first, png/b0000001.png: file is empty"
        )

    def test_when_the_picture_folder_is_missing(self, tmp_path: Path, place: Workspace) -> None:
        write_table(tmp_path / "raw")
        refused(tmp_path / "raw", place, "none of the 6 images", "png/b0000001.png: file is missing")


class TestRows:
    @staticmethod
    def prepared(tmp_path: Path, place: Workspace, *rows: Row) -> PrepareResult:
        return prepare("hannover", write_hannover(tmp_path / "raw", rows), workspace=place)

    def test_of_equal_rows_the_first_is_used(self, tmp_path: Path, place: Workspace) -> None:
        result = self.prepared(tmp_path, place, *ROWS, ROWS[0])
        assert result.images == len(ROWS)
        assert [each.reason for each in result.rejected] == ["image_id stands in several equal rows; the first is used"]

    def test_of_rows_that_differ_none_is_used(self, tmp_path: Path, place: Workspace) -> None:
        result = self.prepared(tmp_path, place, *ROWS, ROWS[0]._replace(patient="aa000009"))
        assert result.images == len(ROWS) - 1
        assert [each.file for each in result.rejected] == ["png/b0000001.png"] * 2
        assert {each.reason for each in result.rejected} == {
            "image_id stands in several rows that differ; none of them is used"
        }

    def test_equal_rows_beside_one_that_differs_are_not_used_either(self, tmp_path: Path, place: Workspace) -> None:
        result = self.prepared(tmp_path, place, *ROWS, ROWS[0], ROWS[0]._replace(icu=""))
        assert result.images == len(ROWS) - 1
        assert len(result.rejected) == 3

    @pytest.mark.parametrize("empty", ["", "  "])
    def test_a_row_without_an_image(self, tmp_path: Path, place: Workspace, empty: str) -> None:
        result = self.prepared(tmp_path, place, *ROWS, Row("aa000009", empty))
        assert result.images == len(ROWS)
        assert [each.reason for each in result.rejected] == ["the row has no image_id"]

    @pytest.mark.parametrize("image", ["../../outside", "../../../../../../../../etc/outside", "x/../../../outside"])
    def test_a_path_that_leads_out_of_the_download_is_not_followed(
        self, tmp_path: Path, place: Workspace, image: str
    ) -> None:
        Image.fromarray(picture(77)).save(tmp_path / "outside.png")
        result = self.prepared(tmp_path, place, *ROWS, Row("aa000009", image))
        assert result.images == len(ROWS)
        assert [each.reason for each in result.rejected] == ["the path leads out of the raw folder"]

    def test_a_link_to_another_disk_is_followed(self, raw: Path, place: Workspace) -> None:
        """Downloads kept by DataLad or on a cluster are folders of links; what may not lead out is the table's text."""
        elsewhere = raw.parent / "elsewhere.png"
        Image.fromarray(picture(77)).save(elsewhere)
        image_file(raw, "b0000003").unlink()
        image_file(raw, "b0000003").symlink_to(elsewhere)
        result = prepare("hannover", raw, workspace=place)
        assert (result.images, result.rejected) == (len(ROWS), [])

    @pytest.mark.parametrize("image", ["x" * 300, "con\x01trol", "tab\there", "b0000001\x00"])
    def test_a_name_that_no_file_can_have_is_rejected_like_any_other(
        self, raw: Path, place: Workspace, image: str
    ) -> None:
        write_table(raw, (*ROWS, Row("aa000009", image)))
        result = prepare("hannover", raw, workspace=place)
        assert result.images >= len(ROWS) - 1
        assert len(result.rejected) == 7 - result.images > 0

    def test_a_row_without_a_patient_is_rejected(self, tmp_path: Path, place: Workspace) -> None:
        """Two such rows would be one patient to every split."""
        result = self.prepared(tmp_path, place, *ROWS, Row("", "b0000007"), Row("", "b0000008"))
        assert result.patients == 4
        assert [each.file for each in result.rejected] == ["png/b0000007.png", "png/b0000008.png"]
