"""A training that was stopped goes on as if it had not been; what is kept for that is whole, or is not believed."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from finetune_kit import (
    CPU,
    Remembering,
    Shown,
    StoppedAt,
    Trained,
    assert_same_tensors,
    assert_same_training,
    bench_of,
    finished,
    parts_of,
    settings,
    trained,
    trainer_of,
)
from progress_kit import Ear

from peftbench.finetuning import keeping
from peftbench.finetuning.bench import reproducible
from peftbench.finetuning.keeping import StateFile
from peftbench.finetuning.trainer import Trainer, TrainingError
from peftbench.finetuning.training import Training
from peftbench.imaging.augmentation import Augmentation
from peftbench.protocol.progress import Progress, Silent

NEVER = 1e9
"""Seconds between two states: only what stops a training has it kept."""

RANDOM: dict[str, Any] = {"augmentation": Augmentation(probability=0.9), "dropout": 0.4, "balance": "both"}

PLATEAU: dict[str, Any] = {"schedule": "plateau", "plateau_patience": 1, "plateau_factor": 0.3, "warmup_epochs": 1}
COSINE: dict[str, Any] = {"schedule": "cosine", "warmup_epochs": 1, "clip": 0.5}


class Case(NamedTuple):
    """A training, on 12 pictures in two steps an epoch; 8 validate, in one batch."""

    backbone: str
    strategy: str
    changes: dict[str, Any]
    cached: bool = False

    @property
    def how(self) -> Training:
        plain = {"epochs": 3, "batch_size": 6, "head_learning_rates": (1e-1, 1e-2), "learning_rate": 1e-2}
        return settings(**{**plain, **self.changes})

    def trainer(self, shown: Shown, told: Progress, state: StateFile | None) -> Trainer:
        bench = bench_of(self.backbone, shown, 20, told=told)
        return trainer_of(bench, self.strategy, self.how, self.parts(shown), keeper=state, cached=self.cached)

    def parts(self, shown: Shown) -> Any:
        return parts_of(shown, 20, 12)

    def run(self, shown: Shown, told: Progress, state: StateFile | None) -> Trained:
        """With fresh objects, as another process would have them."""
        return finished(self.trainer(shown, told, state))


CASES = {
    "LoRA": Case("vit", "LoRA", {**RANDOM, **COSINE}),
    "full": Case("dense", "FFT", {**RANDOM, **PLATEAU, "micro_batch": 3}),
    "probe": Case("dense", "LP", {**PLATEAU, "balance": "sampler"}, cached=True),
    "probe on augmented pictures": Case("dense", "LP", {**RANDOM, **COSINE}),
    "VeRA": Case("vit", "VeRA", {**RANDOM, **PLATEAU}),
    "BitFit": Case("dense", "BitFit", {**RANDOM, **COSINE, "checkpointing": True}),
    "IA3": Case("vit", "IA3", {**RANDOM, **COSINE, "micro_batch": 3}),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def stopped_and_resumed(case: Case, shown: Shown, call: int, path: Path) -> Trained | None:
    """What comes of a training that is stopped at a call and goes on; None where it ends before that call."""
    told = StoppedAt(call)
    try:
        case.run(shown, told, StateFile(path, told, NEVER))
    except KeyboardInterrupt:
        return case.run(shown, Silent(), StateFile(path, Silent(), NEVER))
    return None


@pytest.mark.slow
def test_stopped_at_any_safe_moment_it_goes_on_as_if_never_stopped(case: Case, shown: Shown, tmp_path: Path) -> None:
    expected, call = case.run(shown, Silent(), None), 0
    while (found := stopped_and_resumed(case, shown, call + 1, tmp_path / f"{call + 1}.state")) is not None:
        call += 1
        assert_same_training(found, expected)
    # Three epochs of two steps and a look, the pictures before them, and the prediction behind them.
    assert call >= 3 * 3 + 2


@pytest.mark.parametrize("name", ["LoRA", "full"])
def test_stopped_again_and_again_it_comes_to_the_same_end(shown: Shown, tmp_path: Path, name: str) -> None:
    case, path, starts = CASES[name], tmp_path / "cell.state", 0
    expected, found = case.run(shown, Silent(), None), None
    while found is None:
        starts += 1
        assert starts < 20
        # It is told of the pictures, of what was done before, of four steps or batches of a look; then it is stopped.
        told = StoppedAt(7)
        with suppress(KeyboardInterrupt):
            found = case.run(shown, told, StateFile(path, told, NEVER))
    assert starts > 2
    assert_same_training(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LoRA", "full"])
def test_a_state_kept_on_the_way_is_as_good_as_one_kept_when_stopped(shown: Shown, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    expected = case.run(shown, Silent(), None)
    keeper = Remembering(always=True)
    with reproducible(CPU):
        trainer = case.trainer(shown, Silent(), None)
        trainer.keeper = keeper
        trainer.run()
    # Behind each step and each epoch.
    assert len(keeper.states) == 3 * 3
    for number, state in enumerate(keeper.states):
        kept = StateFile(tmp_path / f"{number}.state", Silent())
        kept.write(state)
        assert_same_training(case.run(shown, Silent(), kept), expected)


def test_a_training_that_goes_on_tells_how_far_it_was(shown: Shown, tmp_path: Path) -> None:
    case, path = CASES["LoRA"], tmp_path / "cell.state"
    told = StoppedAt(1 + 3 + 1)
    with pytest.raises(KeyboardInterrupt):
        case.run(shown, told, StateFile(path, told, NEVER))
    ear = Ear()
    trainer = case.trainer(shown, ear, StateFile(path, ear, NEVER))
    trainer.feed.ready()
    before = ear.done
    with reproducible(CPU):
        trainer.run()
    assert ear.done - before == 3 * 12
    assert not ear.notes


def kept_state(shown: Shown, path: Path, case: Case) -> None:
    told = StoppedAt(6)
    with pytest.raises(KeyboardInterrupt):
        case.run(shown, told, StateFile(path, told, NEVER))


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half a digest": lambda content: content[:30],
    "a digest alone": lambda content: content[:64],
    "its first half": lambda content: content[: len(content) // 2],
    "its last byte gone": lambda content: content[:-1],
    "a byte more": lambda content: content + b"\0",
    "a bit of the digest": lambda content: flipped(content, 3),
    "the first bit": lambda content: flipped(content, 64),
    "a bit in the midst": lambda content: flipped(content, len(content) // 2),
    "the last bit": lambda content: flipped(content, len(content) - 1),
    "zeros": lambda content: bytes(len(content)),
    "another file": lambda _: b"not a state at all",
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_not_believed_and_the_training_begins_anew(
    shown: Shown, tmp_path: Path, damage: str
) -> None:
    case, path = CASES["probe"], tmp_path / "cell.state"
    kept_state(shown, path, case)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    ear = Ear()
    found = case.run(shown, ear, StateFile(path, ear, NEVER))
    assert ear.notes == ["the kept state cell.state is damaged: this part of the training begins anew"]
    assert_same_training(found, case.run(shown, Silent(), None))


def test_every_damaged_byte_of_a_state_is_found(tmp_path: Path) -> None:
    ear = Ear()
    kept = StateFile(tmp_path / "cell.state", ear)
    kept.write({"weight": torch.arange(6.0), "epoch": 3})
    content = kept.path.read_bytes()
    for at in range(0, len(content), 7):
        kept.path.write_bytes(flipped(content, at))
        assert kept.read() is None
    kept.path.write_bytes(content)
    state = kept.read()
    assert state is not None
    assert torch.equal(state["weight"], torch.arange(6.0))


def test_where_nothing_was_kept_nothing_is_said(tmp_path: Path) -> None:
    ear = Ear()
    assert StateFile(tmp_path / "cell.state", ear).read() is None
    assert not ear.notes


def test_a_state_that_cannot_be_written_leaves_the_one_before(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = StateFile(tmp_path / "cell.state", Silent())
    kept.write({"epoch": 1})

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        kept.write({"epoch": 2})
    assert kept.read() == {"epoch": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["cell.state"]


KILLED = """
import os, sys, time
from pathlib import Path
import torch
from peftbench.finetuning.keeping import StateFile
from peftbench.protocol.progress import Silent
kept = StateFile(Path(sys.argv[1]), Silent())
kept.write({"epoch": 1, "weight": torch.ones(1000)})
fsync = os.fsync
def slow(handle):
    print("writing", flush=True)
    time.sleep(60)
    fsync(handle)
os.fsync = slow
kept.write({"epoch": 2, "weight": torch.zeros(1000)})
"""


@pytest.mark.slow
def test_killed_while_a_state_is_written_the_one_before_is_there(tmp_path: Path) -> None:
    path = tmp_path / "cell.state"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    state = StateFile(path, Silent()).read()
    assert state is not None
    assert state["epoch"] == 1
    assert torch.equal(state["weight"], torch.ones(1000))


def test_states_are_kept_so_often_and_no_oftener_than_writing_them_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    kept = StateFile(tmp_path / "cell.state", Silent(), seconds=30.0)
    assert not kept.due()
    clock[0] += 30.0
    assert kept.due()
    kept.write({})
    assert not kept.due()
    clock[0] += 30.0
    assert kept.due()
    save = torch.save

    def slow(*given: Any) -> None:
        clock[0] += 5.0
        save(*given)

    monkeypatch.setattr(torch, "save", slow)
    kept.write({})
    clock[0] += 99.0
    assert not kept.due()
    clock[0] += 1.0
    assert kept.due()


def test_a_state_is_gone_when_it_is_forgotten(tmp_path: Path) -> None:
    kept = StateFile(tmp_path / "folder" / "cell.state", Silent())
    kept.forget()
    kept.write({"epoch": 1})
    kept.forget()
    assert kept.read() is None
    kept.forget()


def poison(trainer: Trainer, call: int) -> None:
    """What a damaged picture or an overflow does: the embeddings of the n-th batch are no numbers."""
    embed, left = trainer.classifier.embed, [call]

    def poisoned(pixels: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        return embed(pixels) * (float("nan") if left[0] == 0 else 1.0)

    trainer.classifier.embed = poisoned  # type: ignore[method-assign]


def test_a_loss_that_is_no_number_stops_the_training_and_leaves_what_was_kept(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, path = CASES["LoRA"], tmp_path / "cell.state"
    monkeypatch.setattr(keeping, "STATE_SHARE", 0.0)
    trainer = case.trainer(shown, Silent(), StateFile(path, Silent(), 0.0))
    # Two steps and a look: the fifth batch is the second step of the second epoch.
    poison(trainer, 5)
    with pytest.raises(TrainingError) as caught:
        finished(trainer)
    told = str(caught.value)
    for part in ("nan", "epoch 2, step 2", "head rate 0.1", "backbone rate 0.01", "fp32", "--set learning_rate="):
        assert part in told
    assert "\n" not in told
    state = StateFile(path, Silent()).read()
    assert state is not None
    assert (state["standing"]["epoch"], state["standing"]["step"]) == (1, 1)
    assert all(bool(torch.isfinite(each).all()) for each in [*state["backbone"].values(), *state["heads"].values()])
    found = case.run(shown, Silent(), StateFile(path, Silent(), NEVER))
    assert_same_training(found, case.run(shown, Silent(), None))


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("batch_size", [6, 12])
def test_rates_that_are_far_too_high_end_in_an_error_and_not_in_predictions(
    shown: Shown, epochs: int, batch_size: int
) -> None:
    # With two steps an epoch the loss of the second is no number; with one, what the validation part is told.
    how = {"epochs": epochs, "batch_size": batch_size, "learning_rate": 10.0, "batch_norm": "frozen"}
    with pytest.raises(TrainingError, match=r"epoch [12].*backbone rate 10"):
        trained(bench_of("resnet", shown, 20), "FFT", settings(**how), parts_of(shown, 20, 12))


def test_a_state_holds_copies(shown: Shown) -> None:
    keeper = Remembering(always=True)
    with reproducible(CPU):
        trainer = trainer_of(bench_of("vit", shown), "LoRA", settings(epochs=1), parts_of(shown), keeper=keeper)
        trainer.run()
    first, second = keeper.states[0]["backbone"], keeper.states[1]["backbone"]
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert_same_tensors(second, keeper.states[2]["backbone"])
