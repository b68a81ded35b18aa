"""The verb `finetune`: backbones adapted to a task, on streamed images, into the records that `probe` writes too."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
import numpy.typing as npt
import torch

from peftbench.backbones.device import Precision, check_precision, pick_device, pick_precision
from peftbench.backbones.loading import Encoder, load_encoder
from peftbench.backbones.registry import BackboneSpec, parse_backbone
from peftbench.cohorts.asked import task_rows
from peftbench.cohorts.card import open_pictures
from peftbench.errors import ConfigError, SplitError
from peftbench.extraction.fidelity import keeps_in_bf16
from peftbench.finetuning.answering import answer_rows
from peftbench.finetuning.bench import Bench
from peftbench.finetuning.external import ExternalTest
from peftbench.finetuning.feed import Feed, Source
from peftbench.finetuning.keeping import CHECKPOINTS
from peftbench.finetuning.runs import FinetuneRun
from peftbench.finetuning.tracking import Tracker, tracker_of
from peftbench.finetuning.training import training_of
from peftbench.finetuning.wanted import FinetuneOptions, Wanted, wanted
from peftbench.protocol.elsewhere import Elsewhere
from peftbench.protocol.options import several
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.records import Record
from peftbench.protocol.results import FinetuneResult
from peftbench.protocol.splits import Split, find_split
from peftbench.protocol.splits.announcing import announce
from peftbench.protocol.splits.supports import support_sets_of
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace
from peftbench.strategies.adapting import adapt
from peftbench.strategies.counting import shapes_of
from peftbench.strategies.matrix import refuse_unfit, standing
from peftbench.strategies.options import Options
from stores.images import ImageStore

Sets = Sequence[npt.NDArray[np.int64]]
"""(draws, m) positions a fold."""


def finetune(
    task: str | Sequence[str],
    backbone: str | Sequence[str],
    strategy: str | Sequence[str],
    *,
    workspace: str | Path | Workspace | None = None,
    split: str | None = None,
    external: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    track: str = "none",
    force: bool = False,
    progress: Progress | None = None,
    **options: Unpack[FinetuneOptions],
) -> FinetuneResult:
    """Adapt backbones to tasks and score them on the folds that probes are scored on.

    A record that is complete and was made with the same configuration is read instead of made again; of one that is
    not complete finished folds are kept, and the one that was under way goes on where it was stopped.

    Args:
        task: name or names (`peftbench.list("tasks")`).
        backbone: name or names (`peftbench.list("backbones")`); their features need not be stored.
        strategy: name or names, in any case: `lp`, `fft`, `lora`, `vera`, `bitfit`, `ia3`.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        split: `5-fold`, `LOCO`, `hold-out`, or the name of an imported split; by default the task's own scheme.
        external: task of another cohort, of the same outcome, to test the trained models on.
        device: `auto` (the first GPU, else the processor), `cpu`, `cuda` or `cuda:N`.
        precision: of the forward pass: `auto` (bf16 where the hardware has it and the backbone's features keep their
            direction in it; else fp32), `fp32`, `bf16` or `fp16`.
        track: `none`, or `wandb` (an extra).
        force: make records again that are complete.
        progress: who is told how far it is.
        options: rank, preset and settings, how much trains: see `peftbench.finetuning.wanted.FinetuneOptions`.

    Raises:
        UnknownNameError: there is no such task, backbone, strategy, preset, regime or split.
        ConfigError: an option is out of its range, or options contradict each other.
        StrategyError: a strategy does not fit a backbone, or a rank a layer.
        NotPreparedError: the cohort was not prepared.
        WeightsError: pretrained weights are absent or do not fit.
        DeviceError: the device or the precision is not to be had, or a step does not fit into memory.
        TrainingError: the loss is no number.
        SplitError: the task cannot be split or drawn from so.
    """
    asked = wanted(several(strategy), **options)
    place, told = Workspace.at(workspace), progress or Silent()
    specs = [parse_backbone(name) for name in dict.fromkeys(several(backbone))]
    where = pick_device(device)
    _refuse(specs, asked, external, precision, where, told)
    tracker = tracker_of(track, place.root, told)
    tasks = [task_rows(name, place) for name in dict.fromkeys(several(task))]
    divided = [(rows, find_split(rows, split, asked.seed, place.splits(rows.task.name))) for rows in tasks]
    plans = [_Plan.of(rows, division, asked, tracker, place) for rows, division in divided]
    there = None if external is None else task_rows(external, place)
    tests = [None if there is None else _Test.of(Elsewhere.of(rows, there, place), place) for rows in tasks]
    for plan in plans:
        announce(plan.rows, plan.split, asked.seed, place, told)
        for note in plan.notes:
            told.note(f"{plan.rows.task.name}: {note}")
    _announce(asked, where, told)
    records: list[Record] = []
    for spec in specs:
        told.start(f"loading {spec.title}", 1)
        encoder = load_encoder(spec, told)
        told.advance()
        exactness = pick_precision(precision, where, lambda encoder=encoder: keeps_in_bf16(encoder, where))  # type: ignore[misc]
        for plan, test in zip(plans, tests, strict=True):
            records += _records(plan, encoder, where, exactness, test, place, told, force=force)
    return FinetuneResult(results=answer_rows(records, place, told))


def _refuse(
    specs: Sequence[BackboneSpec],
    asked: Wanted,
    external: str | None,
    precision: str,
    device: torch.device,
    told: Progress,
) -> None:
    """What can be refused before anything is read."""
    if not specs:
        raise ConfigError("no backbone named: give at least one with --backbone; `peftbench list backbones` shows all")
    check_precision(precision, device)
    if external is not None and asked.regime != "full":
        raise ConfigError(f"--external tests models of the whole training part: leave --regime {asked.regime} out")
    if external is not None and asked.checkpoints == "none":
        raise ConfigError("--external tests the checkpoints that are kept: leave --checkpoints none out")
    for spec in specs:
        for adaptation in asked.adaptations:
            refuse_unfit(spec.card, adaptation.strategy)
            found = standing(spec.card, adaptation.strategy)
            if found.verdict == "extension":
                told.note(f"{adaptation.strategy} on {spec.name} goes beyond the paper: {found.reason}")
    for adaptation in asked.adaptations:
        training_of(asked.preset, asked.sets, adaptation.strategy, "")
    for spec in specs:
        _refuse_ranks(spec, asked)


def _refuse_ranks(spec: BackboneSpec, asked: Wanted) -> None:
    """A rank that does not fit, or targets that there are none of, before any backbone is trained."""
    adapters = [each for each in asked.adaptations if each.strategy not in {"LP", "FFT", "BitFit"}]
    shapes = shapes_of(spec.card) if adapters else None
    for each in adapters:
        how = training_of(asked.preset, asked.sets, each.strategy, "")
        adapt(copy.deepcopy(shapes), spec.card, each.strategy, Options(rank=each.rank, targets=how.targets))  # type: ignore[arg-type]


def _announce(asked: Wanted, device: torch.device, told: Progress) -> None:
    how = training_of(asked.preset, asked.sets, asked.adaptations[0].strategy, "")
    if how.epochs <= how.warmup_epochs:
        told.note(
            f"{how.epochs} epochs end within the warm-up of {how.warmup_epochs}: rates never reach what is set; "
            "add --set warmup_epochs=0, or more epochs"
        )
    if device.type == "cpu" and asked.preset == "paper":
        told.note("the paper's preset trains up to 1000 epochs: on a processor --preset quick gives a first answer")


@dataclass(frozen=True)
class _Plan:
    """A task, as far as it does not depend on a backbone.

    Attributes:
        rows: of the task.
        split: their division.
        asked: the options.
        tracker: follows the trainings.
        pictures: the cohort's image store.
        parts: size and support sets of each record: one without either for the whole training part.
        notes: what a reader must know.
    """

    rows: TaskRows
    split: Split
    asked: Wanted
    tracker: Tracker
    pictures: ImageStore
    parts: tuple[tuple[int | None, Sets | None], ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, rows: TaskRows, split: Split, asked: Wanted, tracker: Tracker, place: Workspace) -> "_Plan":
        """With its support sets drawn: what does not fit is refused before anything is trained."""
        pictures = open_pictures(place, rows.task.cohort)
        pictures.rows_of(rows.frame["image_digest"].tolist())
        _refuse_unusable(rows, split)
        if asked.regime == "full":
            return cls(rows, split, asked, tracker, pictures, ((None, None),), ())
        supports, notes = support_sets_of(rows, split, asked.regime, asked.sizes, asked.draws)
        return cls(rows, split, asked, tracker, pictures, tuple(supports.items()), tuple(notes))

    def runs(self, bench: Bench) -> Iterator[FinetuneRun]:
        """Every record to be made with a backbone."""
        for adaptation in self.asked.adaptations:
            how = training_of(self.asked.preset, self.asked.sets, adaptation.strategy, self.rows.task.name)
            for size, supports in self.parts:
                yield FinetuneRun(
                    self.rows,
                    self.split,
                    bench,
                    self.pictures.policy,
                    adaptation,
                    how,
                    self.asked,
                    self.tracker,
                    size,
                    supports,
                    self.notes,
                )


class _Test(NamedTuple):
    """What is tested on elsewhere.

    Attributes:
        there: the other cohort's task.
        pictures: its image store, opened before anything is trained.
    """

    there: Elsewhere
    pictures: ImageStore

    @classmethod
    def of(cls, there: Elsewhere, place: Workspace) -> "_Test":
        """With the images of the other cohort at hand."""
        pictures = open_pictures(place, there.rows.task.cohort)
        pictures.rows_of(there.rows.frame["image_digest"].tolist())
        return cls(there, pictures)


def _refuse_unusable(rows: TaskRows, split: Split) -> None:
    """Folds that nothing can be learnt or chosen on: those of a user's own split may be such."""
    event = rows.frame["event"].to_numpy()
    for fold, name in enumerate(split.names):
        classes = set(event[split.positions(fold, "train")].tolist())
        if len(classes) < 2:
            raise SplitError(
                f"{split.task}, fold {name!r} has {len(classes)} of the two classes in training, and both are needed: "
                "give patients of both the role train, or take --split hold-out"
            )
        if not len(split.positions(fold, "validation")):
            raise SplitError(
                f"{split.task}, fold {name!r} has no validation part, and the best epoch is chosen there: give some "
                "patients the role validation, or take --split hold-out"
            )


def _records(
    plan: _Plan,
    encoder: Encoder,
    device: torch.device,
    precision: Precision,
    test: _Test | None,
    place: Workspace,
    told: Progress,
    *,
    force: bool,
) -> list[Record]:
    """The records of a task and a backbone: complete ones are read, and no picture for them."""
    feed = _feed(plan.pictures, plan.rows, encoder, device, told)
    bench = Bench(encoder, feed, device, precision, told, plan.asked.seed)
    found = []
    for run in plan.runs(bench):
        record = None if force else run.finished(place)
        record = record or run.make(place, told, force=force)
        found.append(record)
        name, kept = f"{encoder.spec.name} with {run.adaptation.label}", record.provenance["checkpoints"]
        if plan.asked.checkpoints == "all" and not kept:
            told.note(f"{name}: its record was made without checkpoints: --force trains it again and keeps them")
        folder = record.config.folder(place) / CHECKPOINTS
        if gone := [each for each in kept if not (folder / each).is_file()]:
            told.note(
                f"{name}: its scores are whole, but {', '.join(gone)} is no longer in {folder}, so it cannot predict: "
                "--force trains it again"
            )
        if test is not None:
            feed = _feed(test.pictures, test.there.rows, encoder, device, told)
            elsewhere = ExternalTest(record, plan.rows, test.there, bench, feed, plan.asked.permutations)
            found.append(elsewhere.make(place, told, force=force))
    return found


def _feed(pictures: ImageStore, rows: TaskRows, encoder: Encoder, device: torch.device, told: Progress) -> Feed:
    images: Sequence[str] = rows.frame["image_digest"].tolist()
    return Feed(Source(pictures, images, encoder.card.transform), device, told)
