"""The unit of work: one training on one fold and support set, and what it says of validation and test part.

A finished cell is kept, so that a call that was stopped goes on behind it; an unfinished one goes on from its state.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from peftbench.errors import DeviceError
from peftbench.finetuning.bench import Adaptation, Bench, reproducible
from peftbench.finetuning.classifier import Classifier
from peftbench.finetuning.cost import Meter
from peftbench.finetuning.feed import Positions
from peftbench.finetuning.keeping import CHECKPOINTS, STATE_SECONDS, StateFile, write_checkpoint
from peftbench.finetuning.memory import did_not_fit, refuse_too_large
from peftbench.finetuning.predicting import refuse_no_number
from peftbench.finetuning.trainer import Parts, Standing, Trainer, TrainingError
from peftbench.finetuning.training import Training
from peftbench.protocol.kept import KEPT, keep, read_kept
from peftbench.strategies.adapting import shared_digest
from stores.atomic import SCRATCH_SUFFIX


@dataclass(frozen=True)
class Cell:
    """One training to be done.

    Attributes:
        fold: of the split.
        draw: of a support set; 0 for the whole training part.
        parts: who trains and validates.
        test: positions that are only predicted.
        words: that tell it from all others, for its seeds.
        folder: of the record.
        about: what its checkpoint's header says.
        keep: whether the checkpoint is kept.
    """

    fold: int
    draw: int
    parts: Parts
    test: Positions
    words: Sequence[object]
    folder: Path
    about: Mapping[str, Any]
    keep: bool

    @property
    def name(self) -> str:
        """In names of files."""
        return f"fold-{self.fold}" if not self.draw else f"fold-{self.fold}-draw-{self.draw}"

    @property
    def checkpoint(self) -> Path:
        """Where its checkpoint lies."""
        return self.folder / CHECKPOINTS / f"{self.name}.safetensors"

    @property
    def answer_file(self) -> Path:
        """Where its answer lies until the record is complete."""
        return self.folder / KEPT / f"{self.name}.npz"

    @property
    def state_file(self) -> Path:
        """Where its state lies while it is trained."""
        return self.folder / KEPT / f"{self.name}.state"


class Answer(NamedTuple):
    """What a cell found.

    Attributes:
        test: (tested,) probability of the event.
        validation: (v,) of the validation part.
        told: `chosen`, `history`, `seconds`, `idle`, `checkpoint` (SHA-256, or empty), and what `Meter` tells.
    """

    test: npt.NDArray[np.float64]
    validation: npt.NDArray[np.float64]
    told: dict[str, Any]


class Follow(NamedTuple):
    """How a cell is followed and kept while it is trained.

    Attributes:
        epoch: hears the row of each epoch.
        state_seconds: between two states on the disk, at least.
    """

    epoch: Callable[[Mapping[str, Any]], None] = lambda _: None
    state_seconds: float = STATE_SECONDS


def solve(cell: Cell, bench: Bench, adaptation: Adaptation, how: Training, follow: Follow | None = None) -> Answer:
    """Do one cell, from its state if there is one; the answer is kept before it is told.

    Args:
        cell: what.
        bench: the backbone, the pictures, the device.
        adaptation: which parameters learn.
        how: the settings.
        follow: how it is followed and kept.

    Raises:
        TrainingError: the loss is no number.
        StrategyError: the strategy does not fit, or what is frozen changed.
        DeviceError: a step does not fit into memory, or the precision gives scores that are no numbers.
    """
    follow, start = follow or Follow(), time.perf_counter()
    meter = Meter(bench.device)
    state = StateFile(cell.state_file, bench.told, follow.state_seconds)
    name = f"{bench.encoder.spec.name} with {adaptation.label}"
    try:
        bench.feed.ready()
        with reproducible(bench.device):
            classifier = bench.classifier(adaptation, how, cell.words, len(how.head_learning_rates))
            if classifier.learns:
                refuse_too_large(bench.need(classifier, adaptation, how), _pass_of(cell, how), bench.device, name)
            trainer = _trainer(cell, bench, how, classifier, name, state, meter, follow)
            loading = time.perf_counter() - start
            at = trainer.run()
            start = time.perf_counter()
            held, test = (trainer.scores(each)[at.best["head"]] for each in (cell.parts.validation, cell.test))
            refuse_no_number({"for validation": held, "of the test part": test}, name, bench.precision)
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise DeviceError(did_not_fit(_pass_of(cell, how), name)) from error
    except TrainingError as error:
        raise TrainingError(f"{error}{_rescued(cell, trainer)}") from error
    seconds = {"load": loading, **at.seconds, "predict": time.perf_counter() - start}
    answer = Answer(test, held, _told(at, how, seconds, meter))
    if cell.keep:
        about = {**cell.about, "shared": shared_digest(classifier.backbone)}
        answer.told["checkpoint"] = write_checkpoint(cell.checkpoint, trainer.best, about)
    keep_answer(cell.answer_file, answer)
    state.forget()
    return answer


def _trainer(
    cell: Cell,
    bench: Bench,
    how: Training,
    classifier: Classifier,
    name: str,
    state: StateFile,
    meter: Meter,
    follow: Follow,
) -> Trainer:
    frozen = not classifier.learns
    embeddings = bench.embeddings(classifier) if frozen and how.augmentation is None else None
    bench.told.start(f"training {name}, {cell.name.replace('-', ' ')}", how.epochs * len(cell.parts.train))
    return Trainer(
        classifier,
        bench.feed,
        cell.parts,
        how,
        bench.precision,
        cell.words,
        bench.told,
        state,
        embeddings,
        follow.epoch,
        meter,
    )


def _rescued(cell: Cell, trainer: Trainer) -> str:
    """Keep the best epoch of a training that cannot go on; what is to be said of it."""
    if not trainer.best:
        return ""
    path = cell.checkpoint.with_name(f"{cell.name}-before-failure.safetensors")
    write_checkpoint(path, trainer.best, {**cell.about, "epoch": trainer.at.best["epoch"]})
    return f"; the best epoch before, {trainer.at.best['epoch']}, is kept as {path}"


def _pass_of(cell: Cell, how: Training) -> int:
    return min(how.micro_batch or how.batch_size, how.batch_size, len(cell.parts.train))


def _told(at: Standing, how: Training, seconds: Mapping[str, float], meter: Meter) -> dict[str, Any]:
    best = at.best
    chosen = {
        "head_learning_rate": how.head_learning_rates[best["head"]],
        "epoch": best["epoch"],
        "epochs": at.epoch,
        "validation_log_loss": best["log_loss"],
        "validation_mcc": best["mcc"],
    }
    cost = {"chosen": chosen, "history": at.history, "seconds": dict(seconds), "idle": at.idle, "checkpoint": ""}
    return {**cost, **meter.told()}


def keep_answer(path: Path, answer: Answer) -> None:
    """Keep a cell's answer, all or nothing."""
    keep(path, {"test": answer.test, "validation": answer.validation}, answer.told)


def kept_answer(cell: Cell) -> Answer | None:
    """The answer of a cell that was finished; None where there is none, it is damaged, or its checkpoint is gone."""
    kept = read_kept(cell.answer_file)
    if kept is None or set(kept.arrays) != {"test", "validation"}:
        return None
    if cell.keep and not cell.checkpoint.is_file():
        return None
    answer = Answer(kept.arrays["test"], kept.arrays["validation"], kept.told)
    whole = len(answer.test) == len(cell.test) and len(answer.validation) == len(cell.parts.validation)
    return answer if whole else None


def sweep(folder: Path) -> None:
    """Delete what a killed process left half-written; to be called by the one that may write here."""
    for room in ("", KEPT, CHECKPOINTS):
        for path in (folder / room).glob(f".*{SCRATCH_SUFFIX}"):
            path.unlink(missing_ok=True)
