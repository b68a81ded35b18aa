"""The verb `phantom`: its answer, its settings, and what it says when it cannot."""

import inspect
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import cli.phantom
import peftbench
from cli.main import app
from peftbench.cohorts.synthesis import PhantomConfig, PhantomFolderError
from peftbench.errors import ConfigError, WorkspaceError

SMALL: dict[str, Any] = {"patients": 6, "images_per_patient": 1, "size": 64}
OPTIONS = ["--patients", "6", "--images-per-patient", "1", "--size", "64"]

WRONG = [
    ("patients", 5, "a whole number from 6 to 1000000"),
    ("patients", 7.5, "a whole number from 6 to 1000000"),
    ("centers", 9, "a whole number from 1 to 8"),
    ("images_per_patient", 0, "a whole number from 1 to 64"),
    ("prevalence", 0.99, "a number from 0.05 to 0.95"),
    ("effect", -1.0, "a number from 0.0 to 100.0"),
    ("effect", float("nan"), "a number from 0.0 to 100.0"),
    ("confounder", 1.5, "a number from 0.0 to 1.0"),
    ("size", 63, "a whole number from 64 to 4096"),
    ("seed", -1, "a whole number from 0 to below 9223372036854775808"),
]


def run(*words: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["phantom", *words])


class TestVerb:
    def test_it_says_what_the_folder_holds(self, tmp_path: Path) -> None:
        result = peftbench.phantom(tmp_path / "phantom", patients=9, confounder=1.0, size=64, seed=2)
        table = pd.read_csv(tmp_path / "phantom" / "phantom.csv")
        assert result.raw == str(tmp_path / "phantom")
        assert (result.images, result.patients) == (len(table), table.patient_id.nunique()) == (len(table), 9)
        assert result.events == table[table.icu == 1].patient_id.nunique()
        assert result.confounder == 1.0
        assert set(table[table.icu == 1]["view"]) == {"AP"}

    def test_every_setting_is_recorded(self, tmp_path: Path) -> None:
        asked = {"centers": 2, "prevalence": 0.3, "effect": 1.0, "confounder": 0.5, "seed": 11, **SMALL}
        peftbench.phantom(str(tmp_path / "phantom"), **asked)
        assert json.loads((tmp_path / "phantom" / "phantom.json").read_text())["config"] == asked

    def test_defaults_are_the_same_everywhere(self) -> None:
        defaults = PhantomConfig().model_dump()
        for verb in (peftbench.phantom, cli.phantom.phantom):
            parameters = inspect.signature(verb).parameters
            assert {name: parameters[name].default for name in defaults} == defaults

    @pytest.mark.parametrize(("name", "value", "expected"), WRONG)
    def test_a_wrong_setting_is_one_sentence(self, tmp_path: Path, name: str, value: float, expected: str) -> None:
        with pytest.raises(ConfigError) as caught:
            peftbench.phantom(tmp_path / "phantom", **{name: value})
        assert str(caught.value) == f"--{name.replace('_', '-')} is {value!r}, expected {expected}"
        assert list(tmp_path.iterdir()) == []

    def test_two_wrong_settings_are_both_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"--patients is 1, .*; --size is 8, "):
            peftbench.phantom(tmp_path / "phantom", patients=1, size=8)

    def test_a_parent_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(WorkspaceError, match=r"cannot be written to .*phantom \(Not a directory\): name a folder"):
            peftbench.phantom(tmp_path / "file" / "phantom", **SMALL)

    def test_a_folder_of_somebody_else(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("two years of work")
        with pytest.raises(PhantomFolderError, match="choose another folder"):
            peftbench.phantom(tmp_path, **SMALL)


class TestCommand:
    def test_json_is_the_answer(self, tmp_path: Path) -> None:
        done = run(str(tmp_path / "phantom"), *OPTIONS, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout.splitlines()[-1]) == {
            "raw": str(tmp_path / "phantom"),
            "images": 6,
            "patients": 6,
            "events": 2,
            "confounder": 0.0,
        }
        assert "drawing phantom: 6" in done.stderr

    def test_again_it_draws_nothing(self, tmp_path: Path) -> None:
        first, again = (run(str(tmp_path / "phantom"), *OPTIONS) for _ in range(2))
        assert again.exit_code == 0
        assert again.stdout == first.stdout
        assert again.stderr == ""

    def test_it_writes_nothing_to_the_workspace(self, tmp_path: Path) -> None:
        done = run(str(tmp_path / "phantom"), *OPTIONS, "--workspace", str(tmp_path / "workspace"))
        assert done.exit_code == 0
        assert [path.name for path in tmp_path.iterdir()] == ["phantom"]

    @pytest.mark.parametrize("words", [("--patients", "5"), ("--confounder", "2"), ("--seed", "-1")])
    def test_a_wrong_option_is_one_sentence_and_code_2(self, tmp_path: Path, words: tuple[str, str]) -> None:
        done = run(str(tmp_path / "phantom"), *words)
        assert done.exit_code == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"error: {words[0]} is {words[1]}")
        assert done.stderr.count("\n") == 1

    def test_an_unwritable_place_is_one_sentence_and_code_2(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        done = run(str(tmp_path / "file" / "phantom"), *OPTIONS)
        assert done.exit_code == 2
        assert "error: the phantom cannot be written to" in done.stderr

    def test_help_shows_the_defaults(self) -> None:
        done = run("--help")
        assert done.exit_code == 0
        for default in ("[default: 120]", "[default: 0.4]", "[default: 512]"):
            assert default in done.output
