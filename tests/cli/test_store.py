"""The verbs of `peftbench store` as a user types them: tables, JSON, exit codes, one sentence for what is wrong."""

import shutil
from pathlib import Path

import pytest
from cli_kit import BACKBONE, PATIENTS, Done, invoke, rows_of

pytestmark = pytest.mark.slow

NAME = "resnet18-random-0"


@pytest.fixture
def place(answers: dict[str, Done], workspace: Path, tmp_path: Path) -> Path:
    """A copy of the finished workspace, to break."""
    assert answers["probe"].code == 0
    return Path(shutil.copytree(workspace, tmp_path / "copy"))


@pytest.fixture
def folder(place: Path) -> Path:
    (found,) = (place / "features" / NAME).iterdir()
    return found


def store(place: Path, *words: str) -> Done:
    return invoke("store", *words, "--workspace", str(place))


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def test_ls_shows_every_store(place: Path, folder: Path) -> None:
    shown = store(place, "ls")
    assert shown.code == 0
    for word in (NAME, folder.name, "phantom", "embedding 512, stages 960", "sound"):
        assert word in shown.stdout
    mine, pictures = store(place, "ls", "--json").answer["stores"]
    assert (mine["name"], mine["rows"], mine["dtype"]) == (NAME, PATIENTS, "float32")
    assert (pictures["kind"], pictures["rows"]) == ("images", PATIENTS)


def test_info_shows_the_recipe(place: Path, folder: Path) -> None:
    shown = store(place, "info", BACKBONE)
    assert shown.code == 0
    for word in ("torchvision:resnet18", "interpolation", "bilinear", "embedding: pooling", "avgpool", "library torch"):
        assert word in shown.stdout
    assert store(place, "info", folder.name, "--json").answer["key"].startswith(folder.name)


def test_info_of_two_names_the_ingredient_that_differs(place: Path, folder: Path) -> None:
    options = ("--backbone", BACKBONE, "--dtype", "float16", "--workspace", str(place), "--json")
    (other,) = rows_of(invoke("extract", "phantom", *options))
    shown = store(place, "info", folder.name, other["store"])
    assert "differs in: dtype" in shown.stdout
    assert "float16" in shown.stdout
    same = store(place, "info", folder.name, folder.name)
    assert "no difference" in same.stdout


class TestHealth:
    @pytest.mark.parametrize("words", [(), ("--deep",), (BACKBONE, "--deep"), ("phantom",)])
    def test_verify_exits_with_0_where_all_is_sound(self, place: Path, words: tuple[str, ...]) -> None:
        done = store(place, "verify", *words)
        assert (done.code, "sound" in done.stdout) == (0, True)

    @pytest.mark.parametrize("words", [(), ("--json",)])
    def test_verify_exits_with_1_and_names_what_is_damaged(
        self, place: Path, folder: Path, words: tuple[str, ...]
    ) -> None:
        flip(folder / "stages" / "c.0.0", 100)
        assert store(place, "verify").code == 0, "sizes do not tell"
        done = store(place, "verify", "--deep", *words)
        assert done.code == 1
        assert "stages/c.0.0" in done.stdout
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("lost", ["commit.json", "zarr.json", "image/c.0.0", "embedding/zarr.json"])
    def test_what_is_lost_is_found_without_reading_bytes(self, place: Path, folder: Path, lost: str) -> None:
        (folder / lost).unlink()
        done = store(place, "verify")
        assert done.code == 1
        assert lost.partition("/")[0] in done.stdout

    def test_after_a_repair_extract_makes_just_what_was_damaged(self, place: Path, folder: Path) -> None:
        flip(folder / "stages" / "c.0.0", 2 * 960 * 4 + 100)
        (mended, *_) = store(place, "repair", "--json").answer["stores"]
        assert (mended["kept"], mended["dropped"]) == (PATIENTS - 1, 1)
        options = ("--backbone", BACKBONE, "--workspace", str(place), "--json")
        (row,) = rows_of(invoke("extract", "phantom", *options))
        assert (row["embedded"], row["reused"]) == (1, PATIENTS - 1)
        assert store(place, "verify", "--deep").code == 0

    def test_extract_refuses_a_store_without_its_record_and_repair_brings_it_back(
        self, place: Path, folder: Path
    ) -> None:
        (folder / "commit.json").unlink()
        refused = invoke("extract", "phantom", "--backbone", BACKBONE, "--workspace", str(place))
        assert "lost its commit record: `peftbench store repair`" in refused.error
        (mended, *_) = store(place, "repair", "--json").answer["stores"]
        assert (mended["kept"], mended["dropped"]) == (PATIENTS, 0)
        options = ("--backbone", BACKBONE, "--workspace", str(place), "--json")
        assert rows_of(invoke("extract", "phantom", *options))[0]["reused"] == PATIENTS


def test_prune_says_what_it_would_remove_and_then_removes_it(place: Path, folder: Path) -> None:
    left = folder / "embedding" / ".c.0.0.x.part"
    left.write_bytes(b"half")
    dry = store(place, "prune", "--dry-run")
    assert "would be removed" in dry.stdout
    assert left.exists()
    assert [each["path"] for each in store(place, "prune", "--json").answer["removed"]] == [str(left)]
    assert not left.exists()
    assert "nothing to remove" in store(place, "prune").stdout


@pytest.mark.parametrize("verb", ["info", "verify", "repair"])
def test_a_store_that_is_not_there_is_one_sentence(place: Path, verb: str) -> None:
    assert "no store 'nonsense'" in store(place, verb, "nonsense").error


@pytest.mark.parametrize("verb", ["verify", "repair"])
def test_a_workspace_without_stores_names_the_next_step(tmp_path: Path, verb: str) -> None:
    assert "peftbench prepare" in store(tmp_path / "empty", verb).error
