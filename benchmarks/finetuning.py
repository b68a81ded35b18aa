"""Fine-tuning: the training step against a bare loop and transformers' Trainer, the input pipeline, precision, memory.

    python benchmarks/finetuning.py --raw DIR [--json] [--rounds N] [--only steps|input|memory]

Weights are random: they change no time. All steps of a comparison take the same pictures, batch and precision, by
turns. Without `--raw` the generated phantom is used, whose small files decode faster than any hospital's.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Figure, arguments, interleaved, median_ratio, show
from torch import nn

import peftbench
from peftbench.backbones.device import Precision, autocast
from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import parse_backbone
from peftbench.cohorts.card import open_pictures
from peftbench.cohorts.registry import get_cohort
from peftbench.cohorts.rows import read_rows
from peftbench.finetuning.bench import Adaptation, Bench
from peftbench.finetuning.feed import Feed, Source
from peftbench.finetuning.trainer import Parts, Trainer
from peftbench.finetuning.training import training_of
from peftbench.imaging.decode import PixelPolicy, canonical_pixels
from peftbench.protocol.progress import Silent
from peftbench.protocol.workspace import Workspace

BATCH = 8
STEPS = 3
BACKBONES = ("dinov2-s@random:0", "resnet18@random:0")
CPU = torch.device("cpu")
MEMORY = [("FFT", None), ("LoRA", 8), ("BitFit", None)]


def bench_of(place: Workspace, cohort: str, backbone: str, precision: Precision, images: int | None = None) -> Bench:
    """A backbone with the first pictures of a cohort, shaped and in memory."""
    store = open_pictures(place, cohort)
    encoder = load_encoder(parse_backbone(backbone))
    feed = Feed(Source(store, store.images[:images], encoder.card.transform), CPU, Silent())
    feed.ready()
    return Bench(encoder, feed, CPU, precision, Silent())


class Ours:
    """The trainer's own epoch, without a look at a validation part."""

    def __init__(self, bench: Bench, adaptation: Adaptation, *, augmented: bool) -> None:
        sets = ["epochs=100000", "evaluate_every=1000", f"batch_size={BATCH}", "head_learning_rates=1e-3", "clip=none"]
        sets += [] if augmented else ["augmentation=none"]
        how = training_of("quick", sets, adaptation.strategy, "")
        classifier = bench.classifier(adaptation, how, ("benchmark",), heads=1)
        count = len(bench.feed)
        parts = Parts(np.arange(count) % 2, np.arange(count), np.arange(0))
        self.trainer = Trainer(classifier, bench.feed, parts, how, bench.precision, ("benchmark",), Silent())

    def __call__(self) -> float:
        """Images a second of an epoch."""
        start = time.perf_counter()
        self.trainer._epoch()  # noqa: SLF001 - one epoch is what is measured
        return BATCH * STEPS / (time.perf_counter() - start)


def bare(bench: Bench, adaptation: Adaptation) -> Callable[[], float]:
    """The least that training takes: forward, backward and step over tensors that are in memory as the model wants."""
    how = training_of("quick", [], adaptation.strategy, "")
    classifier = bench.classifier(adaptation, how, ("benchmark",), heads=1)
    classifier.set_modes(training=True)
    batches = list(bench.feed.batches([np.arange(i, i + BATCH) for i in range(0, BATCH * STEPS, BATCH)]))
    card = bench.encoder.card
    inputs = []
    for pixels in batches:
        empty = torch.empty((BATCH, 3, card.transform.crop, card.transform.crop), memory_format=classifier.layout)
        inputs.append(card.transform.normalise(pixels, empty))
    event = torch.arange(BATCH) % 2
    optimizer = torch.optim.AdamW([each for each in classifier.parameters() if each.requires_grad], fused=True)

    def epoch() -> float:
        start = time.perf_counter()
        for pixels in inputs:
            with autocast(CPU, bench.precision):
                embedding = classifier.loader.outputs(classifier.backbone, pixels)["embedding"]
                logits = classifier.heads[0](embedding)
            loss = nn.functional.cross_entropy(logits.float(), event)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return BATCH * STEPS / (time.perf_counter() - start)

    return epoch


class _Model(nn.Module):
    """What transformers' Trainer wants: a dictionary in, loss and logits out."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.classifier(self.classifier.embed(pixels))[0]
        return {"loss": nn.functional.cross_entropy(logits.float(), labels), "logits": logits}


def trainers(bench: Bench, adaptation: Adaptation, folder: str) -> Callable[[], float]:
    """Transformers' Trainer on the same pictures, shaped and in memory."""
    from transformers import Trainer as TheirTrainer
    from transformers import TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):  # type: ignore[misc]
        """From the first step to behind the last: what is set up before is not counted."""

        seconds = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.perf_counter() - self.start

    how = training_of("quick", [], adaptation.strategy, "")
    classifier = bench.classifier(adaptation, how, ("benchmark",), heads=1)
    pictures = next(bench.feed.batches([np.arange(BATCH * STEPS)]))
    rows = [{"pixels": picture, "labels": number % 2} for number, picture in enumerate(pictures)]
    asked = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        bf16=bench.precision == "bf16",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        optim="adamw_torch_fused",
        max_grad_norm=0.0,
        remove_unused_columns=False,
    )
    model = _Model(classifier)

    def epoch() -> float:
        clock = Clock()
        trainer = TheirTrainer(model=model, args=asked, train_dataset=rows, callbacks=[clock])
        with redirect_stdout(sys.stderr):
            trainer.train()
        return BATCH * STEPS / clock.seconds

    return epoch


def steps(place: Workspace, cohort: str, rounds: int) -> list[Figure]:
    """Throughput of a training step, in fp32 and bf16."""
    figures: list[Figure] = []
    for backbone in BACKBONES:
        speeds = {}
        for precision in ("fp32", "bf16"):
            bench = bench_of(place, cohort, backbone, precision, BATCH * STEPS)  # type: ignore[arg-type]
            found = _step_figures(bench, Adaptation("FFT"), rounds)
            figures += found
            speeds[precision] = found[0].value
        name = f"{backbone.partition('@')[0]} FFT, bf16 against fp32 (one after the other)"
        figures.append(Figure(name, speeds["bf16"], speeds["fp32"], "images/s", speeds["bf16"] / speeds["fp32"]))
    bench = bench_of(place, cohort, BACKBONES[0], "bf16", BATCH * STEPS)
    return figures + _step_figures(bench, Adaptation("LoRA", 8), rounds)


def _step_figures(bench: Bench, adaptation: Adaptation, rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        measures = [
            Ours(bench, adaptation, augmented=False),
            Ours(bench, adaptation, augmented=True),
            bare(bench, adaptation),
            trainers(bench, adaptation, folder),
        ]
        interleaved(1, *measures)
        plain, augmented, least, theirs = interleaved(rounds, *measures)
    name = f"{bench.encoder.spec.base} {adaptation.label} {bench.precision}"

    def figure(what: str, values: Sequence[float], references: Sequence[float], aim: float | None) -> Figure:
        medians = statistics.median(values), statistics.median(references)
        return Figure(f"{name}, {what}", *medians, "images/s", median_ratio(values, references), aim)

    return [
        figure("against a bare loop", plain, least, 0.95),
        figure("augmented, against a bare loop", augmented, least, None),
        figure("against transformers' Trainer", plain, theirs, 1.0),
    ]


def pipeline(place: Workspace, cohort: str, files: Sequence[Path], rounds: int, consumed: float | None) -> list[Figure]:
    """Pictures a second that are delivered, one thread: streamed from the store, from memory, and decoded anew."""
    encoder = load_encoder(parse_backbone(BACKBONES[1]))
    store = open_pictures(place, cohort)
    source = Source(store, store.images, encoder.card.transform)
    streamed, resident = Feed(source, CPU, Silent(), resident_bytes=0), Feed(source, CPU, Silent())
    resident.ready()
    order = np.random.default_rng(0).permutation(len(store.images))
    batches = np.array_split(order, -(-len(order) // BATCH))
    policy = PixelPolicy()

    def speed(feed: Feed) -> float:
        start = time.perf_counter()
        count = sum(len(batch) for batch in feed.batches(batches))
        return count / (time.perf_counter() - start)

    def decoded() -> float:
        start = time.perf_counter()
        for batch in batches:
            encoder.card.transform.shape([canonical_pixels(files[number], policy) for number in batch])
        return len(order) / (time.perf_counter() - start)

    measures = [lambda: speed(streamed), lambda: speed(resident), decoded]
    interleaved(1, *measures)
    stream, memory, raw = interleaved(rounds, *measures)
    middle = statistics.median
    return [
        Figure("streamed from the store, against decoding", middle(stream), middle(raw), "images/s",
               median_ratio(stream, raw), 10.0),
        Figure("from memory, against decoding", middle(memory), middle(raw), "images/s", median_ratio(memory, raw)),
    ] + ([] if consumed is None else [
        Figure("streamed, against what the fastest step takes", middle(stream), consumed, "images/s",
               middle(stream) / consumed),
    ])  # fmt: skip


def memory(folder: Path, cohort: str) -> list[Figure]:
    """Peak memory of two steps of dinov2-s, each in a process of its own, against full fine-tuning."""
    found: dict[tuple[str, bool], float] = {}
    for strategy, _ in MEMORY:
        for saved in (False, True):
            words = [sys.executable, __file__, "--child", str(folder), cohort, strategy, str(int(saved))]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found[strategy, saved] = float(json.loads(done.stdout.splitlines()[-1]))
    whole = found["FFT", False]
    return [
        Figure(f"dinov2-s {strategy}, batch 16" + (", checkpointing" if saved else ""), value, whole, "MB",
               value / whole)
        for (strategy, saved), value in found.items()
    ]  # fmt: skip


def child(folder: str, cohort: str, strategy: str, saved: str) -> None:
    """Print the megabytes that two steps add to what the process held before."""
    torch.set_num_threads(1)
    bench = bench_of(Workspace.at(folder), cohort, BACKBONES[0], "fp32", 32)
    adaptation = Adaptation(strategy, dict(MEMORY)[strategy])
    sets = ["epochs=1", "batch_size=16", "head_learning_rates=1e-3", "augmentation=none", "evaluate_every=1000"]
    how = training_of("quick", [*sets, f"checkpointing={'true' if saved == '1' else 'false'}"], strategy, "")
    classifier = bench.classifier(adaptation, how, ("benchmark",), heads=1)
    parts = Parts(np.arange(32) % 2, np.arange(32), np.arange(2))
    trainer = Trainer(classifier, bench.feed, parts, how, "fp32", ("benchmark",), Silent())
    before = _held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    trainer._epoch()  # noqa: SLF001
    print(json.dumps(_held("VmHWM") - before))


def _held(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=("steps", "input", "memory"), default=None, help="one part alone")


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    chosen = arguments(__doc__ or "", _more)
    cohort = "hannover" if chosen.raw else "phantom"
    torch.set_num_threads(1)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.at(folder)
        peftbench.prepare(cohort, chosen.raw, workspace=place)
        if chosen.only in (None, "steps"):
            figures += steps(place, cohort, chosen.rounds)
        if chosen.only in (None, "input"):
            files = list(read_rows(get_cohort(cohort), chosen.raw or place.raw(cohort)).files)
            fastest = max((each.value for each in figures if each.unit == "images/s"), default=None)
            figures += pipeline(place, cohort, files, chosen.rounds, fastest)
        if chosen.only in (None, "memory"):
            figures += memory(place.root, cohort)
    show(f"Fine-tuning, {cohort}, one thread, batch {BATCH}", figures, as_json=chosen.json, reference="reference")


if __name__ == "__main__":
    main()
