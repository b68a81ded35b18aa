"""Speed of probing: few-shot grids, the path of C on full data, against a streaming linear probe, and the verb.

    python benchmarks/probing.py [--only few-shot|full|streaming|verb] [--quick] [--raw DIR] [--json] [--rounds N]

Few-shot and full: seeded features of a falling spectrum, one BLAS thread for everybody unless a line says otherwise.
In one thread processor time is taken, which other work on the machine changes less; otherwise the time that passes.
The reference is scikit-learn's LogisticRegression (lbfgs, its own tolerance, balanced, from cold) on features that are
centred and scaled alike; scaling is on nobody's clock, the Gram matrix of all images on ours. The excess is that of our
objective over theirs, relative, the largest of all fits that were compared.

Streaming: a frozen ResNet-18 (torchvision, random weights) inside the training loop of a linear probe, 30 epochs in
batches of 32 over five folds, pictures decoded anew; measured for a few batches, and multiplied. All threads.

Verb: `peftbench probe` for two backbones, from process start to the printed answer; one reference is a limit of three
seconds, the other the time that Python needs to start and to import numpy, pandas and scikit-learn's logistic
regression. Features are made once before; records are made anew in every round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from common import Figure, arguments, interleaved, median_ratio, show
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import peftbench
from peftbench.cohorts.registry import get_cohort
from peftbench.cohorts.rows import read_rows
from peftbench.probing.families.logistic import COSTS, FEW_COSTS
from peftbench.probing.families.scaling import Scaler
from peftbench.probing.gram import Fits, GramSource, fit_costs, support_sets
from peftbench.probing.logistic import balanced_weights, fit_path
from peftbench.protocol.workspace import Workspace

Matrix = npt.NDArray[np.float64]
Events = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int64]

COHORTS = (120, 104, 151, 139, 101, 970)
"""Images of six cohorts, each of which is the test part once."""

SHOTS = (2, 4, 8, 16, 32)
DRAWS = 100
EPOCHS, FOLDS, BATCH_SIZE = 30, 5, 32

FEW_SHOT_AIM, FULL_AIM = 30.0, 3.0

BACKBONES = ("efficientnet-lite0", "resnet18@random:0")
LIMIT_SECONDS = 3.0
TASKS = {
    "hannover": ("HAN_icu", "HAN_icu_prospective", "HAN_icu_all", "HAN_m_all"),
    "phantom": ("PHA_icu", "PHA_icu_all"),
}


class Compared(NamedTuple):
    """One round of both contenders.

    Attributes:
        ours, theirs: seconds.
        excess: of our objective over theirs, relative, the largest.
    """

    ours: float
    theirs: float
    excess: float = -np.inf

    @classmethod
    def summed(cls, parts: "Sequence[Compared]") -> "Compared":
        """Of all parts together."""
        ours, theirs, over = zip(*parts, strict=True)
        return cls(sum(ours), sum(theirs), max(over))


def synthetic(rows: int, dim: int) -> tuple[Matrix, Events]:
    """Features whose spectrum falls with the rank, on noise, and an event that the first directions tell of."""
    random = np.random.default_rng([rows, dim])
    rank = min(200, dim)
    base = random.normal(size=(rows, rank)) / np.sqrt(np.arange(1, rank + 1))
    features = base @ random.normal(size=(rank, dim)) + 0.3 * random.normal(size=(rows, dim))
    logit = 1.2 * base[:, :8] @ random.normal(size=8)
    return features, (logit + random.logistic(size=rows) > 0.5).astype(np.int64)


def leave_one_out(sizes: Sequence[int]) -> Iterator[tuple[Positions, Positions]]:
    """Training and test positions, each cohort the test part once."""
    cohort = np.repeat(np.arange(len(sizes)), sizes)
    for number in range(len(sizes)):
        yield np.flatnonzero(cohort != number), np.flatnonzero(cohort == number)


def clocked(work: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> tuple[float, Any]:
    """Seconds that it took, and what it answered."""
    start = clock()
    answer = work()
    return clock() - start, answer


def cold(features: Matrix, event: Events, costs: Sequence[float]) -> list[LogisticRegression]:
    """scikit-learn's fits, one C after the other."""
    model = {"class_weight": "balanced", "max_iter": 1000}
    return [LogisticRegression(C=cost, **model).fit(features, event) for cost in costs]


def excess(features: Matrix, event: Events, ours: Sequence[float], theirs: Sequence[LogisticRegression]) -> float:
    """The largest of our objectives by theirs, minus one."""
    weight, sign = balanced_weights(event), 2 * event - 1
    found = []
    for own, model in zip(ours, theirs, strict=True):
        coefficient = model.coef_[0]
        loss = weight @ np.logaddexp(0, -sign * (features @ coefficient + model.intercept_[0]))
        found.append(own / (loss + coefficient @ coefficient / (2 * model.C)) - 1.0)
    return float(max(found))


def few_shot(chosen: argparse.Namespace) -> list[Figure]:
    """All support sets of six folds by stacks, against single fits, of which a sample is measured and multiplied."""
    features, event = synthetic(sum(COHORTS), 1024)
    sample = 1 if chosen.quick else 3
    rounds: list[list[Compared]] = []
    with threadpool_limits(1):
        for _ in range(chosen.rounds):
            seconds, source = clocked(partial(GramSource.of, features))
            by_shots = [_few_shot(source, features, event, shots, sample) for shots in SHOTS]
            rounds.append([*by_shots, Compared.summed([*by_shots, Compared(seconds, 0.0)])])
    names = [*(f"k = {shots}" for shots in SHOTS), "all, and the Gram matrix"]
    aims = [*(None for _ in SHOTS), FEW_SHOT_AIM]
    figures = [_figure(*each) for each in zip(names, zip(*rounds, strict=True), aims, strict=True)]
    return [*figures, _excess("all", [found[-1] for found in rounds])]


def _few_shot(source: GramSource, features: Matrix, event: Events, shots: int, sample: int) -> Compared:
    found = []
    for number, (train, test) in enumerate(leave_one_out(COHORTS)):
        random = np.random.default_rng([shots, number])
        kinds = [train[event[train] == kind] for kind in (0, 1)]
        positions = np.array(
            [np.concatenate([random.choice(rows, shots, replace=False) for rows in kinds]) for _ in range(DRAWS)]
        )
        ours, fits = clocked(partial(_stacked, source, event, positions, test))
        parts = [_one_by_one(features, event, own, test) for own in positions[:sample]]
        over = [
            excess(part, event[own], [float(fit.objective[row]) for fit in fits], models)
            for row, (own, (_, part, models)) in enumerate(zip(positions[:sample], parts, strict=True))
        ]
        theirs = sum(seconds for seconds, _, _ in parts) * DRAWS / sample
        found.append(Compared(ours, theirs, max(over)))
    return Compared.summed(found)


def _stacked(source: GramSource, event: Events, positions: Positions, test: Positions) -> list[Fits]:
    support = support_sets(source, event, positions)
    fits = fit_costs(support, FEW_COSTS, left_out=False)
    source.predict(support, fits, test)
    return fits


def _one_by_one(
    features: Matrix, event: Events, own: Positions, test: Positions
) -> tuple[float, Matrix, list[LogisticRegression]]:
    scaler = Scaler.fit(features[own], "global")
    part, tested = scaler.apply(features[own]), scaler.apply(features[test])

    def fit() -> list[LogisticRegression]:
        models = cold(part, event[own], FEW_COSTS)
        for model in models:
            model.decision_function(tested)
        return models

    seconds, models = clocked(fit)
    return seconds, part, models


def _figure(what: str, found: Sequence[Compared], aim: float | None = None) -> Figure:
    ours, theirs, _ = zip(*found, strict=True)
    return Figure(what, statistics.median(ours), statistics.median(theirs), "s", median_ratio(theirs, ours), aim)


def _excess(what: str, found: Sequence[Compared]) -> Figure:
    value = max(one.excess for one in found)
    return Figure(f"{what}: objective, excess over theirs", value, 0.0, "", value, 0.0, at_most=True)


def full(chosen: argparse.Namespace) -> list[Figure]:
    """The path of C over six folds."""
    sixth = 13_639 // 6
    cases = ((COHORTS, 384), (COHORTS, 1024), ((sixth,) * 5 + (13_639 - 5 * sixth,), 1024))
    figures = []
    for sizes, dim in cases:
        trains = [train for train, _ in leave_one_out(sizes)]
        large = sum(sizes) > 2000
        some = trains[:1] if large and chosen.quick else trains
        figures += _full(sizes, dim, some, 1 if large else chosen.rounds, threads=not chosen.quick)
    return figures


def _full(sizes: Sequence[int], dim: int, trains: Sequence[Positions], rounds: int, *, threads: bool) -> list[Figure]:
    features, event = synthetic(sum(sizes), dim)
    parts = [(Scaler.fit(features[train], "feature").apply(features[train]), event[train]) for train in trains]
    what = f"{sum(sizes):,} x {dim}, {len(trains)} folds"
    alone = [Compared.summed([_in_one_thread(*part) for part in parts]) for _ in range(rounds)]
    figures = [_figure(f"{what}, one thread", alone, FULL_AIM), _excess(what, alone)]
    if threads:
        free = [Compared.summed([_in_all_threads(*part) for part in parts]) for _ in range(rounds)]
        figures.append(_figure(f"{what}, the reference in all threads", free))
    return figures


def _in_one_thread(scaled: Matrix, event: Events) -> Compared:
    with threadpool_limits(1):
        ours, fits = clocked(lambda: fit_path(scaled, event, COSTS))
        theirs, models = clocked(lambda: cold(scaled, event, COSTS))
    return Compared(ours, theirs, excess(scaled, event, [fit.objective for fit in fits], models))


def _in_all_threads(scaled: Matrix, event: Events) -> Compared:
    """The time that passes: ours in one thread, theirs in as many as it takes by itself."""
    with threadpool_limits(1):
        ours, _ = clocked(lambda: fit_path(scaled, event, COSTS), time.perf_counter)
    theirs, _ = clocked(lambda: cold(scaled, event, COSTS), time.perf_counter)
    return Compared(ours, theirs)


def streaming(chosen: argparse.Namespace) -> list[Figure]:
    """A backbone in the training loop, against features that are computed once."""
    cohort = "hannover" if chosen.raw else "phantom"
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.at(folder)
        prepared, _ = clocked(lambda: peftbench.prepare(cohort, chosen.raw, workspace=place), time.perf_counter)
        files = list(read_rows(get_cohort(cohort), chosen.raw or place.raw(cohort)).files)
        taken = stream_seconds(files, 2 if chosen.quick else 5)

        def ours() -> None:
            peftbench.extract(cohort, BACKBONES[1:], workspace=place)
            peftbench.probe(TASKS[cohort][0], BACKBONES[1:], workspace=place)

        seconds, _ = clocked(ours, time.perf_counter)
    what = f"resnet18 on {len(files)} pictures, {EPOCHS} epochs, {FOLDS} folds"
    return [
        _figure(f"{what}: extract and probe", [Compared(seconds, taken)]),
        _figure(f"{what}: prepare, extract and probe", [Compared(prepared + seconds, taken)]),
    ]


def stream_seconds(files: Sequence[Path], batches: int) -> float:
    """Of training on four fifths of the pictures, in every epoch of every fold."""
    import torch
    from PIL import Image
    from torchvision.models import resnet18
    from torchvision.transforms import v2

    backbone = resnet18(weights=None).eval().requires_grad_(requires_grad=False)
    backbone.fc = torch.nn.Linear(512, 2)
    optimiser = torch.optim.Adam(backbone.fc.parameters())
    shape = v2.Compose([v2.Resize((224, 224)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])

    def train(batch: Sequence[Path]) -> None:
        pictures = torch.stack([shape(Image.open(file).convert("RGB")) for file in batch])
        labels = torch.arange(len(batch)) % 2
        loss = torch.nn.functional.cross_entropy(backbone(pictures), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    train(files[:BATCH_SIZE])
    order = np.random.default_rng(0).choice(len(files), batches * BATCH_SIZE)

    def epoch() -> None:
        for some in order.reshape(batches, BATCH_SIZE):
            train([files[at] for at in some])

    seconds, _ = clocked(epoch, time.perf_counter)
    return seconds / len(order) * len(files) * (FOLDS - 1) * EPOCHS


def seconds_of(command: Sequence[str]) -> float:
    """Wall time of a process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    return time.perf_counter() - start


def verb(chosen: argparse.Namespace) -> list[Figure]:
    """`peftbench probe` as a process."""
    cohort = "hannover" if chosen.raw else "phantom"
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        peftbench.prepare(cohort, chosen.raw, workspace=folder)
        peftbench.extract(cohort, BACKBONES, workspace=folder)
        options = ["--force", "--workspace", folder, *(f"--backbone={name}" for name in BACKBONES)]
        for tasks in (TASKS[cohort][:1], TASKS[cohort]):
            command = [sys.executable, "-m", "cli", "probe", *tasks, *options]
            figures += _verb(f"2 backbones and controls on {len(tasks)} of the tasks", command, chosen.rounds)
    return figures


def _verb(name: str, command: Sequence[str], rounds: int) -> list[Figure]:
    """One call of `probe`, against the limit and against the imports."""
    imports = [sys.executable, "-c", "import numpy, pandas, sklearn.linear_model"]
    seconds_of(command)
    seconds_of(imports)
    ours, theirs = interleaved(rounds, lambda: seconds_of(command), lambda: seconds_of(imports))
    taken = statistics.median(ours)
    return [
        Figure(f"{name}, against the limit", taken, LIMIT_SECONDS, "s", taken / LIMIT_SECONDS, 1.0, at_most=True),
        Figure(f"{name}, against the imports", taken, statistics.median(theirs), "s", median_ratio(ours, theirs)),
    ]


PARTS: dict[str, tuple[str, str, Callable[[argparse.Namespace], list[Figure]]]] = {
    "few-shot": (f"Few-shot, 6 folds, {DRAWS} draws, {len(FEW_COSTS)} C, scores included", "scikit-learn", few_shot),
    "full": (f"Full data, {len(COSTS)} C", "scikit-learn", full),
    "streaming": ("Against a streaming linear probe", "streaming", streaming),
    "verb": ("`peftbench probe` from process start", "reference", verb),
}
"""By `--only`: title, what the reference is called, and the measure."""


def options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    parser.add_argument("--only", choices=PARTS, default=None, help="one part of it")
    parser.add_argument(
        "--quick", action="store_true", help="smaller samples, one fold of the largest data, one thread"
    )


def main() -> None:
    """Measure and print."""
    chosen = arguments(__doc__ or "", options)
    for name, (title, reference, measure) in PARTS.items():
        if chosen.only not in {None, name}:
            continue
        try:
            figures = measure(chosen)
        except ImportError as error:
            print(f"## {title}\n\nSkipped: {error}")
            continue
        show(title, figures, as_json=chosen.json, reference=reference)


if __name__ == "__main__":
    main()
