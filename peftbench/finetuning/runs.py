"""Runs: a strategy on a backbone under a regime, as cells to train, and the record that their answers make."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.backbones.device import device_kind
from peftbench.backbones.loading import library_versions
from peftbench.finetuning.bench import Adaptation, Bench
from peftbench.finetuning.cells import Answer, Cell, Follow, kept_answer, solve, sweep
from peftbench.finetuning.classifier import CLASSES
from peftbench.finetuning.cost import LIBRARIES, most, total
from peftbench.finetuning.history import HISTORY_FILE, history_table
from peftbench.finetuning.keeping import CHECKPOINTS, STATE_SECONDS
from peftbench.finetuning.tracking import Tracker
from peftbench.finetuning.trainer import Parts
from peftbench.finetuning.training import Training
from peftbench.finetuning.wanted import Wanted
from peftbench.protocol import provenance
from peftbench.protocol.judging import (
    JUDGING,
    ground_of,
    judge,
    null_of_test_labels,
    prediction_rows,
    split_facts,
    task_facts,
    write_complete,
)
from peftbench.protocol.kept import forget
from peftbench.protocol.metrics import METRICS_SCHEMA
from peftbench.protocol.names import TRAINED
from peftbench.protocol.progress import Progress, patience
from peftbench.protocol.records import RECORD_FILE, Record, RunConfig, finished, read_predictions
from peftbench.protocol.splits import Split
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace
from stores.atomic import write_atomic
from stores.keys import digest_of
from stores.lock import is_locked, writer_lock

FINETUNE_SCHEMA = 1
"""Raised whenever the same pictures, split and settings would give other predictions."""


@dataclass(frozen=True)
class FinetuneRun:
    """One record to be made.

    Attributes:
        rows: the task's rows.
        split: their division.
        bench: backbone, pictures, device; its feed has the task's rows in their order.
        policy: how files became the pictures.
        adaptation: which parameters learn.
        how: the settings.
        wanted: the options.
        tracker: hears of epochs besides the record's own history.
        size: of the support sets; None for the whole training part.
        supports: (draws, m) positions a fold; None for the whole training part.
        notes: what a reader must know.
    """

    rows: TaskRows
    split: Split
    bench: Bench
    policy: str
    adaptation: Adaptation
    how: Training
    wanted: Wanted
    tracker: Tracker
    size: int | None = None
    supports: Sequence[npt.NDArray[np.int64]] | None = None
    notes: tuple[str, ...] = ()
    state_seconds: float = STATE_SECONDS

    @cached_property
    def config(self) -> RunConfig:
        """All that decides its numbers."""
        encoder = self.bench.encoder
        return RunConfig(
            **ground_of(self.rows, self.split),
            backbone=encoder.spec.name,
            strategy=self.adaptation.label,
            probe=TRAINED,
            regime=self.wanted.regime_name,
            shots=self.size,
            draws=self.wanted.draws,
            seed=self.wanted.seed,
            settings=self._settings(),
            features=digest_of([encoder.card.architecture, encoder.weights_digest, str(encoder.card.transform)]),
            features_digest=digest_of(self.rows.frame["image_digest"].tolist()),
        )

    def _settings(self) -> dict[str, Any]:
        return {
            **self.how.model_dump(mode="json"),
            "strategy": self.adaptation.strategy,
            "rank": self.adaptation.rank,
            "precision": self.bench.precision,
            # The processor's last bits are not a GPU's; which GPU it was stands in the provenance.
            "device": self.bench.device.type,
            "finetune_schema": FINETUNE_SCHEMA,
            "metrics_schema": METRICS_SCHEMA,
        }

    def cells(self, folder: Path) -> list[Cell]:
        """One a fold and support set, in the order in which they are trained."""
        event = self.rows.frame["event"].to_numpy(dtype=np.int64)
        keep = self.wanted.keeps(self.adaptation)
        found = []
        for fold in range(self.split.folds):
            whole = [self.split.positions(fold, "train")]
            sets = whole if self.supports is None else list(self.supports[fold])
            for draw, train in enumerate(sets):
                parts = Parts(event, train, self.split.positions(fold, "validation"))
                words = (*self._words, self.split.names[fold], draw)
                about = {**self.about, "fold": fold, "draw": draw}
                test = self.split.positions(fold, "test")
                found.append(Cell(fold, draw, parts, test, words, folder, about, keep))
        return found

    @property
    def _words(self) -> tuple[object, ...]:
        """What tells its cells from those of other runs; not the settings: two rates begin alike."""
        name, label = self.bench.encoder.spec.name, self.adaptation.label
        return (self.rows.task.name, name, label, self.wanted.regime_name, self.size, self.wanted.seed)

    @property
    def about(self) -> dict[str, Any]:
        """What the header of its checkpoints says."""
        card, config = self.bench.encoder.card, self.config
        return {
            "format": 1,
            "identity": config.identity,
            "backbone": config.backbone,
            "weights": self.bench.encoder.weights_digest,
            "transform": str(card.transform),
            "strategy": self.adaptation.strategy,
            "rank": self.adaptation.rank,
        }

    def finished(self, place: Workspace) -> Record | None:
        """Its record, if that is complete; whether its checkpoints were kept is another question."""
        folder = self.config.folder(place)
        record = finished(folder)
        if record is None:
            return None
        if not is_locked(folder):
            # Left there where a process died between the record's last byte and this.
            forget(folder)
        return self._with_null(record, folder)

    def _with_null(self, record: Record, folder: Path) -> Record:
        """The record with as many permutations as are wanted: for other ones nothing is trained again."""
        asked, unit = self.wanted, self.rows.task.unit
        mcc = record.score("mcc", unit)[0]
        if record.null.get("permutations", 0) == asked.permutations or math.isnan(mcc):
            return record
        null = null_of_test_labels(read_predictions(folder), unit, asked.permutations, asked.seed, mcc)
        if null == record.null:
            return record
        judged = record.model_copy(update={"null": null})
        judged.write(folder)
        return judged

    def make(self, place: Workspace, told: Progress, *, force: bool = False) -> Record:
        """Train what is not trained yet, and write the record; one process at a time.

        Raises:
            TrainingError: the loss is no number.
            StrategyError: the strategy does not fit.
            DeviceError: a step does not fit into memory.
        """
        folder = self.config.folder(place)
        with ExitStack() as stack:
            stack.enter_context(writer_lock(folder, patience(told)))
            # Another process may have made it while this one waited.
            if not force and (record := self.finished(place)) is not None:
                return record
            sweep(folder)
            if force and (folder / RECORD_FILE).is_file():
                # From now on it is not complete: its checkpoints are about to be replaced. Asked for once more after
                # an interruption, it goes on.
                (folder / RECORD_FILE).unlink()
                forget(folder)
                for old in (folder / CHECKPOINTS).glob("*.safetensors"):
                    # Whether new ones take their place is another question.
                    old.unlink()
            answers = []
            for cell in self.cells(folder):
                answer = kept_answer(cell)
                answers.append((cell, answer or self._solve(cell)))
            record = self._record(answers, place)
            forget(folder)
        return record

    def _solve(self, cell: Cell) -> Answer:
        chosen: Mapping[str, Any] = {}
        self.tracker.begin(self.config, cell.fold, cell.draw)
        try:
            follow = Follow(self.tracker.epoch, self.state_seconds)
            answer = solve(cell, self.bench, self.adaptation, self.how, follow)
            chosen = answer.told["chosen"]
        finally:
            self.tracker.end(chosen)
        return answer

    def _record(self, answers: Sequence[tuple[Cell, Answer]], place: Workspace) -> Record:
        folder, rows = self.config.folder(place), self.rows
        watch = provenance.Stopwatch()
        for _, answer in answers:
            for phase, seconds in answer.told["seconds"].items():
                watch.seconds[phase] = watch.seconds.get(phase, 0.0) + seconds
        with watch.phase(JUDGING):
            predictions = pd.concat([self._predicted(*each) for each in answers], ignore_index=True)
            judged = judge(predictions, {(cell.fold, cell.draw): told.told["chosen"] for cell, told in answers}, rows)
            unit, asked = rows.task.unit, self.wanted
            null = null_of_test_labels(predictions, unit, asked.permutations, asked.seed, judged.mcc(unit))
            table = history_table([(cell.fold, cell.draw, answer.told["history"]) for cell, answer in answers])
            write_atomic(folder / HISTORY_FILE, table.to_csv(index=False))
        return write_complete(
            self.config,
            place,
            predictions,
            judged.scores,
            [*self.split.notes, *self.notes, *_remarks([answer for _, answer in answers])],
            self._origin(answers),
            self._cost(answers),
            watch,
            task=task_facts(rows),
            null=null,
            **judged.told(),
        )

    def _predicted(self, cell: Cell, answer: Answer) -> pd.DataFrame:
        at = np.concatenate([cell.parts.validation, cell.test])
        role = np.array(["validation"] * len(answer.validation) + ["test"] * len(answer.test), dtype=object)
        score = np.concatenate([answer.validation, answer.test])
        return prediction_rows(self.rows.frame.iloc[at], cell.fold, role, score, cell.draw)

    def _origin(self, answers: Sequence[tuple[Cell, Answer]]) -> dict[str, Any]:
        encoder, bench = self.bench.encoder, self.bench
        recipe = {
            "architecture": encoder.card.architecture,
            "weights": encoder.weights_digest,
            "transform": str(encoder.card.transform),
            "precision": bench.precision,
            "device": device_kind(bench.device),
            "libraries": library_versions(encoder.card),
            "pixels": self.policy,
        }
        digests = {cell.checkpoint.name: answer.told["checkpoint"] for cell, answer in answers}
        return {
            "features": {"recipe": recipe},
            "split": split_facts(self.rows, self.split),
            "training": {"settings": self.how.model_dump(mode="json"), "libraries": provenance.versions(LIBRARIES)},
            "checkpoints": {name: digest for name, digest in digests.items() if digest},
        }

    def _cost(self, answers: Sequence[tuple[Cell, Answer]]) -> dict[str, Any]:
        told = [answer.told for _, answer in answers]
        learning, every = self.parameters
        images = sum(
            each["chosen"]["epochs"] * len(cell.parts.train) for (cell, _), each in zip(answers, told, strict=True)
        )
        trained = sum(each["seconds"]["train"] for each in told)
        return {
            "device": ", ".join(dict.fromkeys(device for each in told for device in each["devices"])),
            "peak_memory_mb": most([each["memory_mb"] for each in told]),
            "precision": self.bench.precision,
            "trainable_parameters": learning,
            "trainable_percent": 100.0 * learning / every,
            "epochs": sum(each["chosen"]["epochs"] for each in told),
            "images_per_second": images / trained if trained else None,
            "gpu_memory_mb": most([each["gpu_memory_mb"] for each in told]),
            "energy_joules": total([each["energy_joules"] for each in told]),
        }

    @property
    def parameters(self) -> tuple[int, int]:
        """How many parameters learn, with the one head that is kept, and how many there are in all."""
        encoder = self.bench.encoder
        adapted, total = self.bench.count(self.adaptation, self.how)
        head = (encoder.card.embedding + 1) * CLASSES
        return adapted + head, total + head


def _remarks(answers: Sequence[Answer]) -> list[str]:
    """What a reader must know of the trainings."""
    idle = sorted({name for answer in answers for name in answer.told["idle"]})
    notes = [f"the forward pass does not use {', '.join(idle)}, which therefore did not learn"] if idle else []
    for what, key in (("on several devices", "devices"), ("with several versions of libraries", "libraries")):
        found = sorted({each for answer in answers for each in answer.told[key]})
        if len(found) > 1:
            notes.append(f"trained {what} ({'; '.join(found)}), whose last bits differ")
    return notes
