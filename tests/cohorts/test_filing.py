"""From a row's words to its file: whatever way a name is written, and never out of the raw folder."""

import os
import time
from pathlib import Path

import pytest

from peftbench.cohorts.filing import Folders, unusable

MANY = 50_000
"""Files of a large hospital's export."""


def touch(raw: Path, *names: str) -> Path:
    for name in names:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).touch()
    return raw


@pytest.mark.parametrize(
    ("files", "images", "name", "found"),
    [
        pytest.param(["x1.png"], ".", "x1.png", "x1.png", id="with ending"),
        pytest.param(["x1.png"], ".", "x1", "x1.png", id="without ending"),
        pytest.param(["x1.DCM"], ".", "x1", "x1.DCM", id="ending in capitals"),
        pytest.param(["x1.PNG"], ".", "x1.png", "x1.PNG", id="ending in other capitals than told"),
        pytest.param(["x1"], ".", "x1", "x1", id="a DICOM file without ending"),
        pytest.param(["1.2.840.1"], ".", "1.2.840.1", "1.2.840.1", id="dots are no ending"),
        pytest.param(["1.2.840.1.dcm"], ".", "1.2.840.1", "1.2.840.1.dcm", id="dots and an ending"),
        pytest.param(["films/x1.png"], "films", "x1", "films/x1.png", id="in a folder"),
        pytest.param(["films/x1.png"], ".", "films/x1", "films/x1.png", id="by its path"),
        pytest.param(["films/x1.png"], "films", "films/x1.png", "films/x1.png", id="by its path in the raw folder"),
        pytest.param(["films/2020/03/x1.png"], "films", "x1", "films/2020/03/x1.png", id="somewhere below"),
        pytest.param(["films/2020/03/x1.png"], "films", "03/x1", "films/2020/03/x1.png", id="by part of its path"),
        pytest.param(["a/x1.png", "b/x2.png"], "?", "x2", "b/x2.png", id="in folders by pattern"),
        pytest.param(["films [1]/x1.png"], "films [1]", "x1", "films [1]/x1.png", id="a folder with brackets"),
        pytest.param(["Ärzte/Röntgen 1.png"], "Ärzte", "Röntgen 1", "Ärzte/Röntgen 1.png", id="umlauts and blanks"),
    ],
)
def test_a_row_names_its_file(tmp_path: Path, files: list[str], images: str, name: str, found: str) -> None:
    touch(tmp_path, *files, "other/y1.png")
    assert Folders(tmp_path, [images]).named(name) == (found, "")


@pytest.mark.parametrize("name", ["x2", "x", "1", "films/x2.png", "", "x1.jpg"])
def test_a_name_that_no_file_has_leads_nowhere(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "films/x1.png")
    assert not (tmp_path / Folders(tmp_path, ["films"]).named(name).path).is_file()


def test_a_name_that_several_files_have_is_no_guess(tmp_path: Path) -> None:
    touch(tmp_path, "films/a/x1.png", "films/b/x1.png")
    folders = Folders(tmp_path, ["films"])
    assert folders.named("x1").fault == "2 files have this name"
    assert folders.named("b/x1") == ("films/b/x1.png", "")


@pytest.mark.parametrize(
    "name",
    ["../x1", "films/../../x1", "/etc/passwd", "//server/share/x1", "C:\\x1", "c:/x1", "\\\\server\\share\\x1", "..",
     "a\0b"],
)  # fmt: skip
def test_no_name_leads_out_of_the_raw_folder(tmp_path: Path, name: str) -> None:
    raw = touch(tmp_path / "raw", "films/x1.png")
    touch(tmp_path, "x1", "x1.png")
    assert unusable(name)
    folders = Folders(raw, ["films"])
    assert folders.named(name).fault
    assert [each.fault for each in folders.matching(f"{name}*")] == [unusable(f"{name}*")]


def test_hidden_files_and_tables_are_no_images(tmp_path: Path) -> None:
    touch(
        tmp_path, ".DS_Store", ".thumbs/x.png", "t.csv", "t.XLSX", "readme.md", "peftbench-pseudonyms.key", "a.png", "b"
    )
    assert Folders(tmp_path, ["."]).files == ["a.png", "b"]


def test_a_link_that_leads_back_up_is_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "films/x1.png")
    (tmp_path / "films" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(Folders(tmp_path, ["films"]).files) <= 2


class TestPattern:
    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("s1/*.dcm", ["s1/1-1.dcm", "s1/1-2.dcm"]),
            ("s1/*", ["s1/1-1.dcm", "s1/1-2.dcm"]),
            ("s [1]/*.dcm", ["s [1]/1-1.dcm"]),
            ("what?/*.dcm", ["what?/1-1.dcm"]),
        ],
    )
    def test_every_file_that_matches(self, tmp_path: Path, pattern: str, found: list[str]) -> None:
        touch(tmp_path, "s1/1-2.dcm", "s1/1-1.dcm", "s1/.hidden", "s [1]/1-1.dcm", "what?/1-1.dcm")
        assert [each.path for each in Folders(tmp_path, ["."]).matching(pattern)] == found

    @pytest.mark.parametrize("pattern", ["s2/*.dcm", "s1/*.png", "s1/1-1.dcm/*"])
    def test_where_none_does_it_is_named_as_looked_for(self, tmp_path: Path, pattern: str) -> None:
        touch(tmp_path, "s1/1-1.dcm")
        assert [each.path for each in Folders(tmp_path, ["."]).matching(pattern)] == [pattern]


@pytest.mark.slow
class TestMany:
    @pytest.fixture(scope="class")
    @staticmethod
    def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
        raw = tmp_path_factory.mktemp("many")
        for folder in range(10):
            (raw / str(folder)).mkdir()
            for number in range(MANY // 10):
                os.close(os.open(raw / str(folder) / f"x{folder}_{number}.dcm", os.O_CREAT))
        return raw

    def test_all_are_found_in_seconds(self, raw: Path) -> None:
        begin = time.process_time()
        folders = Folders(raw, ["."])
        assert len(folders.files) == MANY
        assert all(folders.named(f"x{number % 10}_{number // 10}").path for number in range(MANY))
        assert time.process_time() - begin < 10

    def test_a_pattern_a_row_does_not_read_the_folder_for_every_row(self, raw: Path) -> None:
        begin = time.process_time()
        folders = Folders(raw, ["."])
        found = [folders.matching(f"3/x3_{number}.*") for number in range(1000)]
        assert [each[0].path for each in found] == [f"3/x3_{number}.dcm" for number in range(1000)]
        assert time.process_time() - begin < 4
