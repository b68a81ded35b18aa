"""What docs/cohorts.md shows is what the program takes."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from peftbench.cohorts.declaration import Cohort
from peftbench.cohorts.describe import describe
from peftbench.cohorts.registry import COHORTS, TASKS

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "cohorts.md").read_text()
COMMANDS = re.findall(
    r"^ {4}(peftbench (?:.*\\\n)*.*)$",
    TEXT + (DOCS / "splits.md").read_text() + (DOCS / "probing.md").read_text() + (DOCS / "finetuning.md").read_text(),
    flags=re.MULTILINE,
)


def test_the_yaml_is_understood(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    (tmp_path / "mercy.yaml").write_text(block)
    found = describe("table", tmp_path / "mercy.yaml")
    assert [task.name for task in found.tasks] == ["mercy_death"]
    assert set(yaml.safe_load(block)) <= set(Cohort.model_fields)


def test_every_word_of_a_description_is_told() -> None:
    own = set(Cohort.model_fields) - {
        "index",
        "needs",
        "derives",
        "derive",
        "source",
        "licence",
        "caveat",
        "name",
        "title",
    }
    table = TEXT.partition("| word | means |")[2]
    assert not [word for word in own if f"`{word}`" not in table]


def test_every_cohort_and_task_is_in_the_table() -> None:
    assert not [name for name in COHORTS if f"`{name}`" not in TEXT]
    assert not [
        name for name in TASKS if name not in TEXT and name.replace("NY_all_icu_dedup", "NY_all_dedup") not in TEXT
    ]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_have_options_that_exist(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is prepared here, so each ends with a sentence of its own, never with one of an option's."""
    monkeypatch.setenv("PEFTBENCH_WORKSPACE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.replace("\\\n", " "), comments=True)[1:]
    done = CliRunner().invoke(app, words)
    assert "No such option" not in done.output
    assert "Usage" not in done.output
    assert done.exit_code in {0, 2}
