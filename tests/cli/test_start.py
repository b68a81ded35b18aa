"""The command line starts light: help, listings and analyses wait for no model library."""

import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
from cli_kit import Done, invoke, run

VERBS = ("phantom", "prepare", "extract", "probe", "finetune", "predict", "report", "list", "doctor")

HEAVY = {"torch", "torchvision", "timm", "transformers", "peft", "open_clip"}

REPORT_MODULES = """
import json, sys
try:
    {statement}
except SystemExit:
    pass
sys.stderr.write("\\n" + json.dumps(sorted(sys.modules)))
"""


SEVERAL_VERBS = """
    from cli.main import app
    place = ["--workspace", sys.argv[1]]
    for words in (
        ["list", "backbones"],
        ["list", "tasks"],
        ["list", "backbones", "dinov2-l"],
        ["prepare", "phantom", "--raw", sys.argv[1]],
        ["probe", "PHA_icu", "--backbone", "resnet18@random:0", *place],
        ["report", *place, "--out", sys.argv[1] + "-report"],
    ):
        app(words, standalone_mode=False)
"""


def imported_by(statement: str, *words: str) -> set[str]:
    done = run(*words, program=REPORT_MODULES.format(statement=statement))
    return set(json.loads(done.stderr.splitlines()[-1]))


class TestHelp:
    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_explains_itself(self, verb: str) -> None:
        done = invoke(verb, "--help")
        assert done.code == 0
        assert f"Usage: peftbench {verb}" in done.stdout.replace("root ", "peftbench ")
        for option in ("--workspace", "--json", "--debug", "PEFTBENCH_WORKSPACE"):
            assert option in done.stdout

    def test_the_whole_names_every_verb(self) -> None:
        done = invoke("--help")
        assert done.code == 0
        assert all(verb in done.stdout for verb in VERBS)

    @pytest.mark.parametrize(
        ("verb", "options"),
        [
            ("prepare", ["--raw"]),
            ("extract", ["--backbone", "--weights", "--device", "--precision", "--dtype", "--batch-size", "--compile"]),
            ("probe", ["--backbone", "--probe", "--seed", "--features", "--control", "--no-control", "--force"]),
            ("report", ["--out"]),
        ],
    )
    def test_a_verbs_own_options_are_named(self, verb: str, options: list[str]) -> None:
        text = invoke(verb, "--help").stdout
        assert [option for option in options if option not in text] == []

    def test_without_a_verb_the_help_is_shown(self) -> None:
        done = invoke()
        assert "Usage:" in done.stdout + done.stderr

    def test_the_console_script_is_this_command_line(self) -> None:
        (script,) = metadata.entry_points(group="console_scripts", name="peftbench")
        assert script.value == "cli.main:main"


class TestLightImports:
    @pytest.mark.parametrize("module", ["stores", "peftbench", "cli.main"])
    def test_importing(self, module: str) -> None:
        loaded = imported_by(f"import {module}")
        assert module in loaded
        assert loaded.isdisjoint(HEAVY)

    def test_help_waits_for_no_numerical_library(self) -> None:
        loaded = imported_by("from cli.main import main; main()", "extract", "--help")
        assert "cli.main" in loaded
        assert loaded.isdisjoint(HEAVY | {"numpy", "pandas", "zarr", "scipy", "sklearn"})

    @pytest.mark.slow
    def test_verbs_that_embed_nothing(self, answers: dict[str, Done], workspace: Path) -> None:
        """All in one process: what none of them imports, each of them does not."""
        assert answers["probe"].code == 0
        loaded = imported_by(SEVERAL_VERBS, str(workspace))
        assert {"peftbench.cohorts.prepare", "peftbench.probing.probe", "peftbench.benchmark.catalogue"} <= loaded
        assert loaded.isdisjoint(HEAVY)


@pytest.mark.slow
@pytest.mark.parametrize("regime", [(), ("--regime", "few-shot", "--draws", "2", "--shots", "2")], ids=["full", "few"])
def test_the_logistic_probe_waits_for_no_other_library(
    answers: dict[str, Done], workspace: Path, tmp_path: Path, regime: tuple[str, ...]
) -> None:
    assert answers["probe"].code == 0
    place = shutil.copytree(workspace, tmp_path / "copy")
    words = ("probe", "PHA_icu", "--backbone", "resnet18@random:0", *regime, "--workspace", str(place))
    loaded = imported_by("from cli.main import app; app(sys.argv[1:], standalone_mode=False)", *words)
    assert "peftbench.probing.families.logistic" in loaded
    assert loaded.isdisjoint(HEAVY | {"sklearn", "xgboost", "lifelines"})


def test_extraction_without_the_model_libraries_says_what_to_install(workspace: Path) -> None:
    """A base install has no torch; the import is made to fail as it would there."""
    program = "import sys; sys.modules['torch'] = None; from cli.main import main; main()"
    done = run("extract", "phantom", "--backbone", "resnet18", "--workspace", str(workspace), program=program)
    assert "torch" in done.error
    assert "pip install 'peftbench[models,offline]'" in done.error


def test_the_interpreter_is_the_one_that_runs_the_tests() -> None:
    """A `peftbench` found on the path could be another installation."""
    done = run(program="import sys; print(sys.executable)")
    assert done.stdout.strip() == sys.executable
