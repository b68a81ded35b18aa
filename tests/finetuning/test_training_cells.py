"""A cell: one training from its pictures to the answer that is kept."""

import itertools
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_kit import (
    CPU,
    Shown,
    StoppedAt,
    adaptation_of,
    assert_same_tensors,
    bench_of,
    cell_of,
    encoder_of,
    parts_of,
    settings,
    statistics_of,
    timeless,
    trained,
)
from progress_kit import Ear

from peftbench.errors import DeviceError
from peftbench.finetuning import memory
from peftbench.finetuning.bench import Bench, reproducible
from peftbench.finetuning.cells import Answer, Cell, Follow, keep_answer, kept_answer, solve
from peftbench.finetuning.classifier import Classifier
from peftbench.finetuning.keeping import read_checkpoint
from peftbench.finetuning.trainer import Trainer, TrainingError
from peftbench.imaging.augmentation import Augmentation
from peftbench.protocol.kept import KEPT, forget
from stores.keys import file_digest

TOLD = {
    "chosen",
    "history",
    "seconds",
    "checkpoint",
    "idle",
    "energy_joules",
    "memory_mb",
    "gpu_memory_mb",
    "devices",
    "libraries",
}


def answer_of(shown: Shown, folder: Path, strategy: str, bench: Bench | None = None, **changes: Any) -> Answer:
    bench = bench or bench_of("dense", shown)
    return solve(cell_of(parts_of(shown), folder), bench, adaptation_of(strategy), settings(**changes))


def assert_same_answer(found: Answer, expected: Answer) -> None:
    np.testing.assert_array_equal(found.test, expected.test)
    np.testing.assert_array_equal(found.validation, expected.validation)
    np.testing.assert_equal(timeless(found.told["history"]), timeless(expected.told["history"]))
    for key in ("chosen", "checkpoint", "idle"):
        assert found.told[key] == expected.told[key]


@pytest.mark.parametrize("strategy", ["LP", "FFT", "LoRA", "BitFit", "IA3"])
def test_an_answer_is_what_the_best_head_says(shown: Shown, tmp_path: Path, strategy: str) -> None:
    how = {"head_learning_rates": (1e-2, 1e-1)}
    found = answer_of(shown, tmp_path, strategy, **how)
    parts = parts_of(shown)
    expected = trained(bench_of("dense", shown), strategy, settings(**how), parts, cached=strategy == "LP")
    scores = expected.scores[expected.at.best["head"]]
    np.testing.assert_allclose(found.test, scores[parts.train[:5]], atol=1e-6)
    np.testing.assert_allclose(found.validation, scores[parts.validation], atol=1e-6)
    assert timeless(found.told["history"]) == timeless(expected.at.history)
    assert found.told["chosen"]["head_learning_rate"] == how["head_learning_rates"][expected.at.best["head"]]


def test_what_is_told_can_be_kept_as_json(shown: Shown, tmp_path: Path) -> None:
    told = answer_of(shown, tmp_path, "LoRA").told
    assert told.keys() == TOLD
    assert json.loads(json.dumps(told)) == told
    assert told["seconds"].keys() == {"load", "train", "validate", "predict"}
    assert all(each > 0 for each in told["seconds"].values())
    assert told["chosen"].keys() == {
        "head_learning_rate",
        "epoch",
        "epochs",
        "validation_log_loss",
        "validation_mcc",
    }
    assert (told["energy_joules"], told["gpu_memory_mb"], told["devices"]) == (None, None, ["cpu"])


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_batch_norms_begin_as_the_encoder_has_them(
    shown: Shown, tmp_path: Path, augmentation: Augmentation | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the memory of a step was asked for before."""
    from peftbench.finetuning import cells

    begun: list[dict[str, torch.Tensor]] = []

    class Noted(cells.Trainer):
        def run(self) -> Any:
            begun.append(statistics_of(self.classifier.backbone))
            return super().run()

    monkeypatch.setattr(cells, "Trainer", Noted)
    answer_of(shown, tmp_path, "FFT", augmentation=augmentation)
    for name, each in statistics_of(encoder_of("dense").module).items():
        assert torch.equal(begun[0][name], each), name


def test_its_answer_and_checkpoint_are_kept_and_its_state_is_gone(shown: Shown, tmp_path: Path) -> None:
    cell = cell_of(parts_of(shown), tmp_path)
    answer = solve(cell, bench_of("dense", shown), adaptation_of("LoRA"), settings(), Follow(state_seconds=0.0))
    kept = kept_answer(cell)
    assert kept is not None
    assert_same_answer(kept, answer)
    tensors, about = read_checkpoint(cell.checkpoint, answer.told["checkpoint"])
    assert about.items() >= cell.about.items()
    assert {"head.weight", "head.bias"} < tensors.keys()
    assert not cell.state_file.exists()
    forget(tmp_path)
    assert not (tmp_path / KEPT).exists()
    assert kept_answer(cell) is None
    assert cell.checkpoint.is_file()


def test_a_training_that_cannot_go_on_leaves_its_best_epoch(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, calls, embed = cell_of(parts_of(shown), tmp_path), itertools.count(), Classifier.embed

    def poisoned(self: Classifier, pixels: torch.Tensor) -> torch.Tensor:
        # Memory is asked for with two passes; an epoch has two steps and a look.
        return embed(self, pixels) * (float("nan") if next(calls) == 2 + 3 + 1 else 1.0)

    monkeypatch.setattr(Classifier, "embed", poisoned)
    with pytest.raises(TrainingError, match=r"epoch 2, step 2 .* the best epoch before, 1, is kept as .*failure"):
        solve(cell, bench_of("dense", shown), adaptation_of("LoRA"), settings())
    monkeypatch.undo()
    (path,) = cell.checkpoint.parent.iterdir()
    kept, about = read_checkpoint(path, file_digest(path))
    assert about["epoch"] == 1
    first = trained(bench_of("dense", shown), "LoRA", settings(epochs=1), parts_of(shown))
    assert_same_tensors(kept, first.tensors)
    assert kept_answer(cell) is None


def test_scores_that_are_no_numbers_are_told_and_not_kept(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, scores = cell_of(parts_of(shown), tmp_path), Trainer.scores

    def overflowing(self: Trainer, positions: Any) -> Any:
        found = scores(self, positions)
        found[:, 0] = np.nan if positions is cell.test else found[:, 0]
        return found

    monkeypatch.setattr(Trainer, "scores", overflowing)
    told = r"^densenet121 with LoRA r2: scores of 1 of \d+ pictures of the test part are no numbers in fp32: take"
    with pytest.raises(DeviceError, match=told):
        solve(cell, bench_of("dense", shown), adaptation_of("LoRA"), settings())
    assert kept_answer(cell) is None
    assert not cell.checkpoint.exists()


def test_a_gpu_without_room_is_a_sentence(shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "run", full)
    with pytest.raises(DeviceError, match=r"with LoRA r2: a pass of 8 images did not fit .*--set micro_batch=4"):
        answer_of(shown, tmp_path, "LoRA", batch_size=8)


def test_without_a_checkpoint_the_answer_is_kept_alone(shown: Shown, tmp_path: Path) -> None:
    cell = cell_of(parts_of(shown), tmp_path, keep=False)
    answer = solve(cell, bench_of("dense", shown), adaptation_of("LP"), settings())
    assert answer.told["checkpoint"] == ""
    assert not cell.checkpoint.exists()
    assert kept_answer(cell) is not None


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["LP", "LoRA"])
def test_stopped_at_any_moment_it_goes_on_to_the_same_answer(shown: Shown, tmp_path: Path, strategy: str) -> None:
    how = settings(epochs=2, augmentation=Augmentation() if strategy == "LoRA" else None)
    parts, adaptation = parts_of(shown), adaptation_of(strategy)
    expected = solve(cell_of(parts, tmp_path / "whole"), bench_of("dense", shown), adaptation, how)
    call = 0
    while True:
        call += 1
        cell = cell_of(parts, tmp_path / str(call))
        told = StoppedAt(call)
        try:
            solve(cell, bench_of("dense", shown, told=told), adaptation, how)
            break
        except KeyboardInterrupt:
            assert kept_answer(cell) is None
            assert not cell.checkpoint.exists()
        assert_same_answer(solve(cell, bench_of("dense", shown), adaptation, how), expected)
    # Pictures; two epochs of two steps and a look; both parts at the end.
    assert call > 1 + 2 * 3 + 2


def test_cells_of_one_bench_do_not_see_each_other(shown: Shown, tmp_path: Path) -> None:
    bench = bench_of("dense", shown)
    first = answer_of(shown, tmp_path / "a", "FFT", bench)
    answer_of(shown, tmp_path / "b", "LoRA", bench)
    answer_of(shown, tmp_path / "c", "LP", bench)
    assert_same_answer(answer_of(shown, tmp_path / "d", "FFT", bench), first)
    alone = answer_of(shown, tmp_path / "e", "LP")
    assert_same_answer(answer_of(shown, tmp_path / "f", "LP", bench), alone)


def test_the_callers_generators_and_settings_are_as_before(shown: Shown, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state, settled = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    answer_of(shown, tmp_path, "LoRA", dropout=0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.are_deterministic_algorithms_enabled() == settled
    with suppress(RuntimeError), reproducible(CPU):
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError
    assert torch.are_deterministic_algorithms_enabled() == settled


def test_epochs_are_followed(shown: Shown, tmp_path: Path) -> None:
    rows: list[Any] = []
    cell = cell_of(parts_of(shown), tmp_path)
    answer = solve(cell, bench_of("dense", shown), adaptation_of("LP"), settings(), Follow(rows.append))
    assert rows == answer.told["history"]


def test_it_tells_as_much_as_it_said_it_would(shown: Shown, tmp_path: Path) -> None:
    ear = Ear()
    answer_of(shown, tmp_path, "LoRA", bench_of("dense", shown, told=ear))
    # Twenty-four pictures are read, sixteen seen in each of three epochs.
    assert ear.expected == ear.done == 24 + 3 * 16
    assert not ear.notes


def test_a_step_that_does_not_fit_is_refused_before_the_training(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 4_000_000)
    with pytest.raises(DeviceError, match=r"densenet121 with LoRA r2: a pass of 16 images .*--set micro_batch="):
        answer_of(shown, tmp_path, "LoRA", bench_of("densenet", shown), batch_size=64)
    # What is frozen keeps nothing for a backward pass.
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    answer_of(shown, tmp_path, "LP")


def made(shown: Shown, folder: Path) -> tuple[Cell, Answer]:
    cell = cell_of(parts_of(shown), folder, keep=False)
    return cell, Answer(np.linspace(0, 1, 5), np.linspace(0, 1, 8), {"history": [], "nothing": None})


def test_an_answer_comes_back_to_the_bit(shown: Shown, tmp_path: Path) -> None:
    cell, answer = made(shown, tmp_path)
    keep_answer(cell.answer_file, answer)
    kept = kept_answer(cell)
    assert kept is not None
    np.testing.assert_array_equal(kept.test, answer.test)
    np.testing.assert_array_equal(kept.validation, answer.validation)
    assert kept.told == answer.told


def test_a_damaged_answer_is_none_or_says_the_same(shown: Shown, tmp_path: Path) -> None:
    cell, answer = made(shown, tmp_path)
    keep_answer(cell.answer_file, answer)
    content = cell.answer_file.read_bytes()
    for cut in (0, 1, len(content) // 2, len(content) - 1):
        cell.answer_file.write_bytes(content[:cut])
        assert kept_answer(cell) is None
    refused = 0
    # Not every byte of the format is checked: dates of members, for one.
    for at in range(0, len(content), 3):
        cell.answer_file.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        found = kept_answer(cell)
        refused += found is None
        if found is not None:
            np.testing.assert_array_equal(found.test, answer.test)
            np.testing.assert_array_equal(found.validation, answer.validation)
            assert found.told == answer.told
    assert refused > len(content) / 3 / 2


def test_an_answer_of_other_parts_is_none(shown: Shown, tmp_path: Path) -> None:
    cell, answer = made(shown, tmp_path)
    keep_answer(cell.answer_file, answer)
    assert kept_answer(replace(cell, test=np.arange(4))) is None
    assert kept_answer(replace(cell, parts=parts_of(shown, 24, 15))) is None
    assert kept_answer(replace(cell, keep=True)) is None


def test_names_tell_folds_and_draws() -> None:
    cell = Cell(2, 0, None, None, (), Path("record"), {}, keep=True)  # type: ignore[arg-type]
    drawn = replace(cell, draw=3)
    assert (cell.name, drawn.name) == ("fold-2", "fold-2-draw-3")
    paths = {each for one in (cell, drawn) for each in (one.checkpoint, one.answer_file, one.state_file)}
    assert len(paths) == 6
    assert cell.checkpoint == Path("record/checkpoints/fold-2.safetensors")


def test_forgetting_what_was_never_kept_says_nothing(tmp_path: Path) -> None:
    forget(tmp_path / "nowhere")
