"""The verbs of `peftbench splits` as a user types them: tables, JSON, files, one sentence for what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from cli_kit import Done, invoke

import peftbench
from peftbench.cohorts.asked import task_rows
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.protocol.splits import Draws, k_fold, load, make_split
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow

TASK = "PHA_icu_all"

Verb = Callable[..., Done]

COLUMNS = ["fold", "fold_name", "role", "sample_id", "patient_id", "event", "center"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("splits")
    raw = write_phantom(folder / "raw", PhantomConfig(patients=40, size=64, seed=2))
    peftbench.prepare("phantom", raw, workspace=folder / "workspace")
    return Workspace(folder / "workspace")


@pytest.fixture
def splits(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> Verb:
    monkeypatch.setenv("PEFTBENCH_WORKSPACE", str(place.root))
    return lambda *words: invoke("splits", *words)


class TestShow:
    def test_the_answer(self, splits: Verb, place: Workspace) -> None:
        answer = splits("show", TASK, "--json").answer
        split = k_fold(task_rows(TASK, place))
        keys = {"task", "scheme", "seed", "digest", "patients", "units", "folds", "notes", "imported"}
        assert set(answer) == keys
        assert (answer["task"], answer["scheme"], answer["digest"]) == (TASK, "k-fold", split.digest)
        assert answer["patients"] == answer["units"] == 40
        assert [each["name"] for each in answer["folds"]] == ["0", "1", "2", "3", "4"]
        for each in answer["folds"]:
            assert set(each) == {"fold", "name", "roles"}
            assert sum(role["patients"] for role in each["roles"].values()) == 40
            assert all(sum(role["centers"].values()) == role["patients"] for role in each["roles"].values())

    @pytest.mark.parametrize("scheme", ["LOCO", "hold-out", "3-fold"])
    def test_the_counts_are_those_of_the_split(self, splits: Verb, place: Workspace, scheme: str) -> None:
        rows = task_rows(TASK, place)
        split = make_split(rows, scheme, 5)
        for each in splits("show", TASK, "--split", scheme, "--seed", "5", "--json").answer["folds"]:
            for role, found in each["roles"].items():
                part = rows.frame.iloc[split.positions(each["fold"], role)]
                assert found["images"] == len(part)
                assert found["patients"] == part["patient_id"].nunique()
                assert found["event_patients"] == part.loc[part["event"] == 1, "patient_id"].nunique()

    def test_for_people_a_line_a_fold_with_its_centres(self, splits: Verb) -> None:
        done = splits("show", TASK, "--split", "LOCO")
        assert done.code == 0
        lines = [line.split() for line in done.stdout.splitlines()]
        assert [line[0] for line in lines if line and line[0] in "ABC"] == ["A", "B", "C"]
        assert [line[0] for line in lines if line and line[0] in ("validation", "test")] == ["validation", "test"] * 3
        assert "patients by centre" in done.stdout
        assert f"{TASK}: LOCO, seed 0, of 40 patients; digest" in done.stdout

    def test_it_writes_nothing(self, splits: Verb, place: Workspace) -> None:
        before = sorted(place.root.rglob("*"))
        assert splits("show", TASK, "--split", "hold-out", "--seed", "9").code == 0
        assert sorted(place.root.rglob("*")) == before

    def test_from_python(self, place: Workspace) -> None:
        found = peftbench.splits.show(TASK, workspace=place)
        assert len(found.frame) == 15
        assert {"show", "export", "import_"} <= set(dir(peftbench.splits))
        with pytest.raises(AttributeError, match="no attribute 'shuffle'"):
            _ = peftbench.splits.shuffle


class TestExport:
    @pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
    def test_the_division_as_a_table(self, splits: Verb, place: Workspace, ending: str) -> None:
        path = Path(f"split.{ending}")
        answer = splits("export", TASK, "--to", str(path), "--split", "LOCO", "--json").answer
        rows = task_rows(TASK, place)
        split = make_split(rows, "LOCO")
        keys = {"task", "scheme", "seed", "digest", "path", "format", "rows", "draws", "written"}
        assert set(answer) == keys
        assert (answer["written"], answer["format"], answer["digest"]) == (True, ending, split.digest)
        table = read(path)
        assert list(table.columns) == COLUMNS
        assert len(table) == answer["rows"] == rows.images * 3
        assert table["sample_id"].tolist() == split.frame["sample_id"].tolist()
        assert table["role"].tolist() == split.frame["role"].tolist()
        assert table["fold_name"].tolist() == [split.names[fold] for fold in table["fold"]]
        assert table["event"].tolist() == rows.frame["event"].tolist() * 3
        assert table["center"].tolist() == rows.frame["center"].tolist() * 3

    def test_json_and_parquet_say_what_they_are(self, splits: Verb) -> None:
        for ending in ("json", "parquet"):
            assert splits("export", TASK, "--to", f"split.{ending}").code == 0
        told = json.loads(Path("split.json").read_text())
        assert set(told) == {"task", "scheme", "seed", "digest", "names", "notes", "rows"}
        told.pop("rows")
        assert json.loads(pq.read_schema("split.parquet").metadata[b"peftbench.split"]) == told

    @pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
    def test_support_sets(self, splits: Verb, place: Workspace, ending: str) -> None:
        words = ("--shots", "1", "--shots", "2", "--center-shots", "1", "--images", "6", "--draws", "3")
        answer = splits("export", TASK, "--to", f"draws.{ending}", *words, "--split", "3-fold", "--json").answer
        assert answer["draws"] == 4 * 3 * 3
        table = read(Path(f"draws.{ending}"))
        assert list(table.columns) == ["regime", "shots", "draw", *COLUMNS]
        rows = task_rows(TASK, place)
        split = make_split(rows, "3-fold")
        whole = table[table["regime"] == "full"]
        assert whole["shots"].isna().all()
        assert whole["draw"].isna().all()
        assert len(whole) == rows.images * 3
        draws = Draws(rows, split)
        for (regime, size, draw, fold), part in table[table["regime"] != "full"].groupby(
            ["regime", "shots", "draw", "fold"]
        ):
            expected = rows.frame.iloc[draws.of(regime, int(fold), int(size), int(draw))]
            assert part["sample_id"].tolist() == expected["sample_id"].tolist()
            assert set(part["role"]) == {"train"}

    def test_a_file_that_is_there_is_replaced_only_by_force(self, splits: Verb) -> None:
        words = ("export", TASK, "--to", "split.csv")
        assert splits(*words).code == 0
        before = Path("split.csv").stat()
        assert splits(*words, "--json").answer["written"] is False
        assert Path("split.csv").stat().st_mtime_ns == before.st_mtime_ns
        assert (
            "holds something else: name another file, or replace it with --force" in splits(*words, "--seed", "1").error
        )
        assert Path("split.csv").stat().st_size == before.st_size
        assert splits(*words, "--seed", "1", "--force", "--json").answer["written"] is True
        assert list(Path().iterdir()) == [Path("split.csv")]


class TestImport:
    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    @pytest.mark.parametrize("words", [(), ("--shots", "2", "--draws", "2")])
    def test_what_was_exported_comes_back(
        self, splits: Verb, place: Workspace, ending: str, words: tuple[str, ...]
    ) -> None:
        path = f"split.{ending}"
        assert splits("export", TASK, "--to", path, "--split", "LOCO", *words).code == 0
        answer = splits("import", TASK, path, "--name", "back", "--force", "--json").answer
        assert set(answer) == {"task", "name", "path", "digest", "folds", "notes", "written"}
        split = load(Path(answer["path"]))
        expected = make_split(task_rows(TASK, place), "LOCO")
        pd.testing.assert_frame_equal(split.frame, expected.frame)
        assert split.names == expected.names
        shown = splits("show", TASK, "--split", "back", "--json").answer
        assert (shown["scheme"], shown["folds"]) == ("back", answer["folds"])
        assert "back" in shown["imported"]

    def test_the_same_again_is_free_and_another_needs_force(self, splits: Verb) -> None:
        for seed in ("0", "1"):
            assert splits("export", TASK, "--to", f"{seed}.csv", "--seed", seed).code == 0
        words = ("--name", "mine")
        assert splits("import", TASK, "0.csv", *words, "--json").answer["written"] is True
        assert splits("import", TASK, "0.csv", *words, "--json").answer["written"] is False
        assert f"{TASK} has another imported split called 'mine'" in splits("import", TASK, "1.csv", *words).error
        done = splits("import", TASK, "1.csv", *words, "--force")
        assert f"use it with `peftbench probe {TASK} --split mine`" in done.stdout

    def test_notes_are_told(self, splits: Verb) -> None:
        assert splits("export", TASK, "--to", "split.csv", "--split", "hold-out").code == 0
        lines = Path("split.csv").read_text().splitlines()
        Path("split.csv").write_text("\n".join([*lines, "0,hold-out,test,nobody,nobody,0,A"]))
        done: Done = splits("import", TASK, "split.csv", "--name", "noted")
        assert "note: PHA_icu_all: 1 of" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "PHA_ice"), "unknown task 'PHA_ice': did you mean PHA_icu"),
        (("show", TASK, "--split", "hold-up"), "unknown split 'hold-up': did you mean hold-out"),
        (("show", TASK, "--split", "2-fold"), "at least 3 folds"),
        (("show", TASK, "--seed", "-1"), "--seed is -1, expected 0 or more"),
        (("show", TASK, "--workspace", "empty"), "`peftbench prepare phantom"),
        (("export", TASK, "--to", "split.txt"), "names no format: expected one of .csv, .parquet, .json"),
        (("export", TASK, "--to", "nowhere/split.csv"), "does not exist: make it first"),
        (("export", TASK, "--to", "x.csv", "--shots", "500"), "500 shots are asked for: ask for at most"),
        (("export", TASK, "--to", "x.csv", "--shots", "0"), "expected at least 1"),
        (("export", TASK, "--to", "x.csv", "--shots", "1", "--draws", "0"), "--draws is 0, expected 1 or more"),
        (("import", TASK, "nothing.csv", "--name", "x"), "there is no file nothing.csv"),
        (("import", TASK, "bad.csv", "--name", "x"), "bad.csv lacks the column role"),
        (("import", TASK, "bad.csv", "--name", "../x"), "a split cannot be called '../x'"),
        (("import", TASK, "bad.csv", "--name", "loco"), "which is a scheme"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_what_is_wrong_is_one_sentence(splits: Verb, words: tuple[str, ...], said: str) -> None:
    Path("bad.csv").write_text("patient_id\np-1\n")
    assert said in splits(*words).error
    assert list(Path().iterdir()) == [Path("bad.csv")]


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".json":
        return pd.DataFrame(json.loads(path.read_text())["rows"])[order]
    return pd.read_csv(path, dtype={"fold_name": str}) if path.suffix == ".csv" else pd.read_parquet(path)


def order(table: pd.DataFrame) -> list[str]:
    """Columns as the other formats have them: JSON's keys are sorted."""
    return [*([] if "regime" not in table else ["regime", "shots", "draw"]), *COLUMNS]
