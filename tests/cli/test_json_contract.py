"""`--json`: the last line of stdout is one object with exactly the documented keys; all else goes to stderr."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from cli_kit import BACKBONE, PATIENTS, Done, invoke, rows_of, run

from peftbench.backbones.cards import CARDS

EXTRACT_KEYS = {
    "cohort", "backbone", "total", "embedded", "reused", "dim", "precision", "batch_size", "seconds",
    "images_per_second", "store",
}  # fmt: skip

PROBE_KEYS = {
    "task", "backbone", "probe", "regime", "scheme", "folds", "shots", "draws", "external", "mcc_mean", "mcc_std",
    "mcc_low", "mcc_high", "mcc_tuned_mean", "mcc_tuned_std", "mcc_q05", "mcc_q95", "mcc_worst_decile",
    "pr_auc_mean", "pr_auc_std",
    "c_index_mean", "c_index_std", "prevalence", "control", "gain_mean", "gain_low", "gain_high", "p_value", "record",
}  # fmt: skip

CONTROLS = ["control:view", "control:center", "control:metadata"]
"""Of the small phantom, which has one image a patient."""

DOCTOR_KEYS = {"versions", "devices", "threads", "workspace", "weights", "advice"}


class TestPrepare:
    def test_the_answer(self, answers: dict[str, Done], raw: Path) -> None:
        table = pd.read_csv(raw / "phantom.csv")
        event = table["icu"] == 1
        counts = {
            "images": PATIENTS,
            "patients": PATIENTS,
            "events": int(event.sum()),
            "event_patients": int(event.sum()),
            "left_out": {},
            "views": {
                view: [int((of_view & event).sum()), int((of_view & ~event).sum())]
                for view, of_view in ((name, table["view"].str.upper() == name) for name in ("AP", "PA"))
            },
        }
        assert answers["prepare"].answer == {
            "cohort": "phantom",
            "images": PATIENTS,
            "patients": PATIENTS,
            "centers": 3,
            "rejected": [],
            "source": f"{PATIENTS} rows in phantom.csv",
            "further_files": 0,
            "left_out": {},
            "notes": [],
            "private": "",
            "tasks": {"PHA_icu": counts, "PHA_icu_all": counts},
        }

    def test_rejected_files_are_listed_in_it_and_told_on_stderr(self, raw: Path, tmp_path: Path) -> None:
        bad = Path(shutil.copytree(raw, tmp_path / "raw"))
        first, second = sorted((bad / "images").iterdir())[:2]
        first.write_bytes(b"")
        second.unlink()
        done = invoke("prepare", "phantom", "--raw", str(bad), "--json")
        rejected = sorted(done.answer["rejected"], key=lambda each: each["file"])
        assert rejected == [
            {"file": f"images/{first.name}", "reason": "file is empty (0 bytes)"},
            {"file": f"images/{second.name}", "reason": "file is missing"},
        ]
        assert done.answer["images"] == PATIENTS - 2
        assert f"rejected images/{first.name}: file is empty (0 bytes)" in done.stderr


class TestExtract:
    def test_the_answer(self, answers: dict[str, Done], workspace: Path) -> None:
        (row,) = rows_of(answers["extract"])
        assert set(answers["extract"].answer) == {"results"}
        assert set(row) == EXTRACT_KEYS
        assert (row["cohort"], row["backbone"], row["dim"]) == ("phantom", BACKBONE, 512)
        assert (row["total"], row["embedded"], row["reused"]) == (PATIENTS, PATIENTS, 0)
        assert row["seconds"] > 0
        assert Path(row["store"]).is_relative_to(workspace)
        assert (Path(row["store"]) / "commit.json").is_file()

    def test_the_answer_when_nothing_is_left_to_do(self, answers: dict[str, Done], workspace: Path) -> None:
        (first,) = rows_of(answers["extract"])
        words = ("extract", "phantom", "--backbone", BACKBONE, "--workspace", str(workspace), "--json")
        (row,) = rows_of(invoke(*words))
        assert (row["embedded"], row["reused"], row["images_per_second"]) == (0, PATIENTS, 0)
        assert row["store"] == first["store"]


class TestProbe:
    def test_the_answer(self, answers: dict[str, Done], workspace: Path) -> None:
        rows = rows_of(answers["probe"])
        assert set(answers["probe"].answer) == {"results"}
        assert [set(row) for row in rows] == [PROBE_KEYS] * (1 + len(CONTROLS))
        assert [row["backbone"] for row in rows] == [BACKBONE, *CONTROLS]
        for row in rows:
            assert (row["task"], row["probe"], row["regime"]) == ("PHA_icu", "logistic", "full")
            assert (row["shots"], row["draws"]) == (None, 1)
            assert 2 <= row["folds"] <= 5
            assert -1 <= row["mcc_mean"] <= 1
            assert 0 <= row["pr_auc_mean"] <= 1
            assert 0 < row["prevalence"] < 1
            assert 0.01 <= row["p_value"] <= 1
            assert (row["external"], row["c_index_mean"], row["mcc_worst_decile"]) == ("", None, None)
            assert (row["control"] in CONTROLS) == (row["backbone"] == BACKBONE)
            assert workspace / "results" in Path(row["record"]).parents
            assert (Path(row["record"]) / "record.json").is_file()

    def test_asked_again_it_answers_the_same_from_its_records(self, answers: dict[str, Done], workspace: Path) -> None:
        rows = rows_of(answers["probe"])
        times = [(Path(row["record"]) / "record.json").stat().st_mtime_ns for row in rows]
        words = ("probe", "PHA_icu", "--backbone", BACKBONE, "--workspace", str(workspace), "--json")
        again = rows_of(invoke(*words))
        assert again == rows
        assert [(Path(row["record"]) / "record.json").stat().st_mtime_ns for row in again] == times

    def test_without_a_backbone_the_controls_alone_are_scored(self, answers: dict[str, Done], workspace: Path) -> None:
        rows = rows_of(invoke("probe", "PHA_icu", "--workspace", str(workspace), "--json"))
        assert [row["backbone"] for row in rows] == CONTROLS


class TestReport:
    def test_the_answer(self, answers: dict[str, Done], workspace: Path, tmp_path: Path) -> None:
        pytest.importorskip("peftbench.reporting.report")
        done = invoke("report", "--workspace", str(workspace), "--out", str(tmp_path / "out"), "--json")
        assert set(done.answer) == {"records", "tables", "html"}
        assert done.answer["records"] == 1 + len(CONTROLS)
        paths = [*done.answer["tables"], done.answer["html"]]
        assert {Path(path).suffix for path in paths} == {".md", ".csv", ".html"}
        assert all(Path(path).is_file() and Path(path).parent == tmp_path / "out" for path in paths)

    def test_for_people_it_prints_the_table(self, answers: dict[str, Done], workspace: Path, tmp_path: Path) -> None:
        pytest.importorskip("peftbench.reporting.report")
        done = invoke("report", "--workspace", str(workspace), "--out", str(tmp_path / "out"))
        assert done.code == 0
        assert "PHA_icu" in done.stdout
        assert str(tmp_path / "out") in done.stdout


class TestList:
    @pytest.mark.parametrize(
        ("kind", "name", "keys"),
        [
            ("cohorts", "hannover", {"name", "title", "tasks", "raw", "licence", "source"}),
            ("tasks", "HAN_icu", {"name", "cohort", "question", "event", "unit", "scheme", "caveat"}),
            (
                "backbones",
                "resnet18",
                {
                    "name", "family", "pretraining", "parameters", "parameters_with_head", "embedding", "transform",
                    "licence", "source", "notes", "data", "strategies", "weights",
                },
            ),
            ("strategies", "LP", {"name", "title", "learns", "source", "runs_in"}),
            ("probes", "logistic", {"name", "kind", "what"}),
        ],
    )  # fmt: skip
    def test_the_answer(self, kind: str, name: str, keys: set[str]) -> None:
        answer = invoke("list", kind, "--json").answer
        assert set(answer) == {kind}
        assert all(keys <= set(entry) for entry in answer[kind])
        assert name in [entry["name"] for entry in answer[kind]]

    @pytest.mark.parametrize("kind", ["cohorts", "tasks", "backbones", "strategies", "probes"])
    def test_for_people_every_name_is_in_the_table(self, kind: str) -> None:
        names = [entry["name"] for entry in invoke("list", kind, "--json").answer[kind]]
        shown = invoke("list", kind)
        assert shown.code == 0
        assert [name for name in names if name not in shown.stdout] == []


class TestDoctor:
    def test_the_answer_in_an_empty_workspace(self, tmp_path: Path) -> None:
        answer = invoke("doctor", "--workspace", str(tmp_path / "new"), "--json").answer
        assert set(answer) == DOCTOR_KEYS
        assert answer["versions"]["torch"]
        assert answer["devices"][0]["device"] == "cpu"
        assert set(answer["weights"]) == set(CARDS)
        assert answer["weights"]["efficientnet-lite0"]["present"] is True
        assert answer["workspace"]["writable"] is True
        assert answer["workspace"]["cohorts"] == []
        assert any("peftbench prepare phantom" in each for each in answer["advice"])

    def test_it_counts_what_the_workspace_holds(self, answers: dict[str, Done], workspace: Path) -> None:
        assert answers["probe"].code == 0
        held = invoke("doctor", "--workspace", str(workspace), "--json").answer["workspace"]
        assert held["cohorts"] == ["phantom"]
        assert len(held["features"]) == 1
        assert held["records"] == 1 + len(CONTROLS)

    def test_a_workspace_that_cannot_be_is_a_finding_not_a_failure(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        answer = invoke("doctor", "--workspace", str(tmp_path / "file"), "--json").answer
        assert answer["workspace"]["writable"] is False
        assert any("cannot be written" in each for each in answer["advice"])


class TestStreams:
    def test_for_people_progress_is_on_stderr_and_the_table_on_stdout(self, raw: Path, tmp_path: Path) -> None:
        done = invoke("prepare", "phantom", "--raw", str(raw), "--workspace", str(tmp_path / "w"))
        assert done.code == 0
        assert "PHA_icu" in done.stdout
        assert "decoding" in done.stderr
        assert "decoding" not in done.stdout

    @pytest.mark.slow
    def test_as_a_process_of_its_own_stdout_is_the_object_alone(self, raw: Path, tmp_path: Path) -> None:
        done = run("prepare", "phantom", "--raw", str(raw), "--workspace", str(tmp_path / "w"), "--json")
        assert done.answer["images"] == PATIENTS
        assert f"decoding: {PATIENTS}" in done.stderr
        assert "\x1b" not in done.stdout + done.stderr

    @pytest.mark.slow
    def test_names_outside_ascii_survive_a_pipe_without_a_locale(self, tmp_path: Path, raw: Path) -> None:
        folder = tmp_path / "räume-肺"
        words = ("prepare", "phantom", "--raw", str(raw), "--workspace", str(folder), "--json")
        done = run(*words, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="")
        assert done.answer["images"] == PATIENTS
        assert (folder / "cohorts" / "phantom" / "manifest.parquet").is_file()

    def test_the_object_is_one_line_even_where_values_hold_line_breaks(self) -> None:
        """JSON escapes them; a reader that takes the last line must find it whole."""
        done = invoke("list", "tasks", "--json")
        assert json.loads(done.stdout.splitlines()[-1]) == done.answer
