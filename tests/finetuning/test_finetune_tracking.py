"""`--track wandb` with a stand-in for the library: a run a cell, grouped by record; nobody else imports it."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from progress_kit import Ear
from verb_kit import CNN, TASK, VIT_NAME, Trainings, copied, lasting, record_of, records_in, row_of_call, rows_of_call

from peftbench.errors import ConfigError, MissingPackageError, PeftbenchError
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow


class Run:
    """What one run was told."""

    def __init__(self, **words: Any) -> None:
        self.words = words
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.summary: dict[str, Any] = {}
        self.finished = 0

    def log(self, row: dict[str, Any], step: int) -> None:
        self.logged.append((step, row))

    def finish(self) -> None:
        self.finished += 1


class StandIn(ModuleType):
    """The library, as far as it is used."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[Run] = []

    def init(self, **words: Any) -> Run:
        self.runs.append(Run(**words))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setenv("WANDB_SILENT", os.environ.get("WANDB_SILENT", "true"))
    return stand_in


def tracked(place: Workspace, strategy: str = "fft", **options: Any) -> Path:
    return Path(row_of_call(place, CNN, strategy, **{"track": "wandb", "split": "3-fold", **options}).record)


def test_every_fold_has_a_run_of_the_records_group(place: Workspace, wandb: StandIn) -> None:
    row = row_of_call(place, VIT_NAME, "lora", rank=4, split="3-fold", track="wandb")
    identity = record_of(row).identity
    assert [run.words["name"] for run in wandb.runs] == ["fold 0", "fold 1", "fold 2"]
    assert {run.words["group"] for run in wandb.runs} == {f"{TASK} {VIT_NAME} LoRA r4 {identity[:12]}"}
    assert {run.words["project"] for run in wandb.runs} == {"peftbench"}
    assert [run.words["id"] for run in wandb.runs] == [f"{identity[:24]}-{fold}-0" for fold in range(3)]
    for fold, run in enumerate(wandb.runs):
        assert run.words["config"]["settings"]["epochs"] == 2
        assert (run.words["config"]["task"], run.words["config"]["fold"]) == (TASK, fold)
        assert run.finished == 1


def test_it_hears_of_every_epoch_what_the_history_holds(place: Workspace, wandb: StandIn) -> None:
    history = pd.read_csv(tracked(place) / "history.csv")
    history = history[history["head_rate"] == 0.01].set_index(["fold", "epoch"])
    for fold, run in enumerate(wandb.runs):
        assert [step for step, _ in run.logged] == [1, 2]
        for step, row in run.logged:
            mine = history.loc[(fold, step)]
            assert row["train_loss_0.01"] == pytest.approx(mine["train_loss"])
            assert row["validation_loss_0.01"] == pytest.approx(mine["validation_loss"])
            assert row["rate"] == pytest.approx(mine["rate"])


def test_in_the_end_it_hears_what_was_chosen(place: Workspace, wandb: StandIn) -> None:
    record = record_of(row_of_call(place, track="wandb"))
    (run,) = wandb.runs
    assert run.summary == record.scores[0]["chosen"]


def test_a_draw_has_a_run_of_its_own(place: Workspace, wandb: StandIn) -> None:
    row_of_call(place, track="wandb", regime="few-shot", shots=2, draws=2)
    assert [run.words["name"] for run in wandb.runs] == ["fold 0", "fold 0, draw 1"]
    assert len({run.words["id"] for run in wandb.runs}) == 2


def test_what_is_not_trained_has_no_run(place: Workspace, wandb: StandIn) -> None:
    tracked(place)
    wandb.runs.clear()
    tracked(place)
    assert wandb.runs == []


def test_a_run_that_was_stopped_is_closed_and_goes_on_under_its_name(place: Workspace, wandb: StandIn) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log", stopped)
        with pytest.raises(KeyboardInterrupt):
            tracked(place)
    assert [(run.finished, run.summary) for run in wandb.runs] == [(1, {})]
    tracked(place)
    assert wandb.runs[0].words["id"] == wandb.runs[1].words["id"]
    assert {run.words["resume"] for run in wandb.runs} == {"allow"}


def test_it_changes_no_number_and_no_identity(place: Workspace, tmp_path: Path, wandb: StandIn) -> None:
    other = copied(place, tmp_path / "other")
    one = tracked(place)
    two = Path(row_of_call(other, CNN, "fft", split="3-fold").record)
    assert one.name == two.name
    assert lasting(one) == lasting(two)


def test_it_writes_below_the_workspace_alone(place: Workspace, wandb: StandIn) -> None:
    tracked(place)
    assert {run.words["dir"] for run in wandb.runs} == {str(place.root)}
    assert len(records_in(place)) == 1


def test_unless_asked_for_nobody_imports_it(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    rows_of_call(place, CNN, ["lp", "fft"])
    assert not (place.root / "wandb").exists()


def test_without_the_library_it_says_what_to_install(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_SILENT", "true")
    trainings = Trainings(monkeypatch)
    with pytest.raises(MissingPackageError, match=r"needs the package wandb.*pip install 'peftbench\[wandb\]'"):
        row_of_call(place, track="wandb")
    assert (len(trainings), place.results.exists()) == (0, False)


def test_another_tracker_is_refused(place: Workspace) -> None:
    with pytest.raises(ConfigError, match="--track is 'mlflow', expected none or wandb"):
        row_of_call(place, track="mlflow")
    assert not place.results.exists()


def fails(*_: Any, **__: Any) -> None:
    raise RuntimeError("no API key: call wandb.login()")


def test_an_account_that_is_missing_is_one_sentence_before_anything_is_trained(
    place: Workspace, wandb: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn, "init", fails)
    trainings = Trainings(monkeypatch)
    with pytest.raises(PeftbenchError, match=r"--track.*no API key.*WANDB_MODE=offline"):
        row_of_call(place, track="wandb")
    assert (len(trainings), records_in(place)) == (0, [])


@pytest.mark.parametrize("moment", ["log", "finish"])
def test_a_tracker_that_fails_later_costs_no_training(
    place: Workspace, wandb: StandIn, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Its server is away, its disk is full: the numbers are not its. What failed is said once."""
    monkeypatch.setattr(Run, moment, fails)
    ear = Ear()
    assert record_of(row_of_call(place, track="wandb", progress=ear)).status == "complete"
    assert len([note for note in ear.notes if "no API key" in note]) == 1


REAL = """
import sys
from pathlib import Path
from peftbench.finetuning.tracking import tracker_of
from peftbench.protocol.progress import Silent
from peftbench.protocol.records import read_record

folder, record = map(Path, sys.argv[1:])
tracker = tracker_of("wandb", folder, Silent())
tracker.begin(read_record(record).config, 0, 0)
for epoch in (1, 2):
    tracker.epoch({"epoch": epoch, "train_loss_0.01": 1.0 / epoch})
tracker.end({"epoch": 2, "validation_mcc": 0.5})
assert not tracker._failed
"""


def test_the_library_itself_writes_a_run_without_a_network(place: Workspace, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    record = row_of_call(place).record
    done = subprocess.run(
        [sys.executable, "-c", REAL, str(tmp_path / "wandb"), record],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "WANDB_MODE": "offline"},
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "wandb").rglob("*.wandb")
    assert run.stat().st_size > 0
