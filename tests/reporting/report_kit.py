"""Records made up for the tests of the report: no store, no fit, every number chosen."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peftbench.analysis.results import results_table
from peftbench.finetuning.history import HISTORY_FILE, history_table
from peftbench.protocol import metrics
from peftbench.protocol.names import TRAINED
from peftbench.protocol.records import FoldScore, Record, RunConfig, write_predictions
from peftbench.protocol.scoring import distribution, reliability_curve, summarise
from peftbench.protocol.workspace import Workspace
from peftbench.reporting.content import Section, sections
from peftbench.reporting.courses import courses_of

FACTS = {
    "question": "Why?", "cohort": "made-up", "unit": "image", "caveat": "few patients", "images": 50, "patients": 40,
    "events": 20, "event_patients": 16, "prevalence": 0.4,
}  # fmt: skip

SOFTWARE = {"peftbench": "1", "commit": None, "python": "3", "platform": "P", "packages": {"numpy": "2"}}

RECIPE = {"precision": "fp32", "device": "cpu", "weights": "w", "transform": "t", "libraries": {"l": "1"}}

NULL = {
    "how": "labels of the test patients were permuted", "metric": "mcc", "unit": "image", "permutations": 99,
    "mean": 0.0, "std": 0.1, "q95": 0.15, "p": 0.01,
}  # fmt: skip

STRATA = [
    {"column": column, "value": value, "unit": "image", "size": 25, "events": 10, "folds": 5, "mcc_mean": mean,
     "mcc_std": 0.05, "pr_auc_mean": 0.5, "pr_auc_std": 0.1}
    for column, value, mean in (("view", "AP", 0.1), ("view", "PA", 0.0), ("center", "A", 0.2), ("center", "B", None))
]  # fmt: skip


SKILLS = {"efficientnet-lite0": 0.4, "resnet18": 0.2}
"""What the external predictions of a backbone know."""


def scores(values: Sequence[Sequence[float]], names: Sequence[str], *, first: int = 0) -> list[FoldScore]:
    """Fold scores whose metrics all are values[fold][draw], at image and patient level alike."""
    return [
        FoldScore(unit, fold + first, draw, 10, 4, dict.fromkeys(names, value),
                  {"mcc": "none of the 10 has the event"} if math.isnan(value) else {}, {})
        for fold, row in enumerate(values)
        for draw, value in enumerate(row)
        for unit in ("image", "patient")
    ]  # fmt: skip


def record(backbone: str, mcc: Sequence[float], **changes: Any) -> Record:
    """A record of a probe with these MCCs by fold; `draws` values about each where more than one are asked for."""
    random = np.random.default_rng(0)
    settings: dict[str, Any] = {
        "task": "T", "backbone": backbone, "strategy": "LP", "probe": "logistic", "regime": "full",
        "scheme": "k-fold", "folds": len(mcc), "shots": None, "draws": 1, "seed": 0, "settings": {"C": [0.1, 1.0]},
        "task_digest": "t", "split_digest": "s", "features": "f" * 64, "features_digest": "d" * 64, "version": "1",
        "external": "", "external_digest": "",
    }  # fmt: skip
    config = RunConfig(**{**settings, **{key: value for key, value in changes.items() if key in settings}})
    names = ("c_index",) if config.probe == "cox" else (*metrics.NAMES, *metrics.TUNED_NAMES)
    values = [[value + 0.1 * step for step in random.normal(size=config.draws)] for value in mcc]
    values = [[value] for value in mcc] if config.draws == 1 else values
    told = scores(values, names)
    if config.external:
        parts = outcomes(changes.get("skill", 0.2), seed=len(backbone))
        told += scores([[metrics.evaluate(parts["event"], parts["score"]).values["mcc"]]], names, first=-1)  # noqa: PD011
    headline = [score for score in told if score.fold == -1] or told
    beside = {key: changes[key] for key in ("null", "strata", "reliability") if key in changes}
    provenance = {**SOFTWARE, "features": {} if backbone.startswith("control") else {"recipe": RECIPE}}
    return Record(
        identity=config.identity, config=config, task={**FACTS, **changes.get("facts", {})},
        scores=[score._asdict() for score in told], summary=summarise(headline), distribution=distribution(told),
        notes=changes.get("notes", []), cost={}, predictions_digest="", status="complete",
        provenance={**provenance, **changes.get("provenance", {})}, **beside,
    )  # fmt: skip


RATES = (0.01, 0.001)
"""Of the heads of a training; the first is kept."""

COST = {
    "device": "cpu", "precision": "fp32", "trainable_parameters": 2562, "trainable_percent": 0.0759, "epochs": 30,
    "images_per_second": 12.5, "gpu_memory_mb": None, "energy_joules": None, "peak_memory_mb": 1500.0,
    "seconds": {"train": 100.0, "validate": 20.0},
}  # fmt: skip


def tuned(backbone: str, mcc: Sequence[float], strategy: str = "LoRA r8", *, kept: int = 3, **changes: Any) -> Record:
    """A record of a fine-tuning; `kept` is the epoch that was kept in every fold, `set_` what its settings say else."""
    name, _, rank = strategy.partition(" r")
    settings = {
        "strategy": name, "rank": int(rank) if rank else None, "epochs": 6, "learning_rate": 1e-3,
        "choose_by": "log-loss", "augmentation": None, "head_learning_rates": list(RATES), **changes.pop("set_", {}),
    }  # fmt: skip
    cost = {**COST, **changes.pop("cost", {})}
    made = record(backbone, mcc, probe=TRAINED, strategy=strategy, settings=settings, **changes)
    chosen = {"epoch": kept, "epochs": settings["epochs"], "head_learning_rate": RATES[0]}
    told = [{**score, "chosen": chosen} for score in made.scores]
    return made.model_copy(update={"scores": told, "cost": cost})


def history_of(made: Record, *, epochs: int = 6) -> pd.DataFrame:
    """A history of every fold and draw of a record: losses fall to the kept epoch, and rise behind it."""
    cells = {(score["fold"], score["draw"]): score["chosen"]["epoch"] for score in made.scores}
    rows = []
    for (fold, draw), kept in cells.items():
        told = []
        for epoch in range(1, epochs + 1):
            row: dict[str, Any] = {"epoch": epoch, "rate": 1e-3, "seconds": 1.0, "images_per_second": 10.0}
            for at, rate in enumerate(RATES):
                off = 0.01 * fold + 0.001 * draw + 0.2 * at
                row |= {f"train_loss_{rate:g}": 0.7 / epoch + off, f"validation_mcc_{rate:g}": 0.5 - off}
                row[f"validation_loss_{rate:g}"] = 0.4 + off + 0.05 * abs(epoch - kept)
            told.append(row)
        rows.append((fold, draw, told))
    return history_table(rows)


def tuned_sections(records: Sequence[Record]) -> list[Section]:
    """The sections of a report of records, those that were fine-tuned with their histories."""
    found = [each for each in records if each.config.probe == TRAINED and not each.config.external]
    courses = {each.identity: courses_of(history_of(each), each) for each in found}
    return sections(records, results_table(records, load), {}, courses)


def write(made: Record, place: Workspace, *, history: pd.DataFrame | None = None) -> Path:
    """Put a record into a workspace, with its history if it has one; answers its folder."""
    folder = made.config.folder(place)
    digest = write_predictions(folder, outcomes(0.3))
    made.model_copy(update={"predictions_digest": digest}).write(folder)
    if history is not None:
        history.to_csv(folder / HISTORY_FILE, index=False)
    return folder


def fine_tuned() -> list[Record]:
    """One task, a backbone probed and fine-tuned in several ways, on all of the training part and on few images."""
    beside = {"null": NULL, "strata": STRATA, "reliability": curve()}
    levels = {"LP": 0.35, "FFT": 0.5, "LoRA r4": 0.45, "LoRA r8": 0.48, "BitFit": 0.4, "IA3": 0.42}
    shifts = (0.02, -0.02, 0.01, -0.01, 0.0)

    def folds(level: float) -> list[float]:
        return [level + each for each in shifts]

    made = [tuned("resnet18", folds(level), strategy, **beside) for strategy, level in levels.items()]
    made += [tuned("resnet18@random:0", folds(0.2), "FFT", **beside)]
    probed = {"resnet18": 0.36, "resnet18@random:0": 0.15, "control:view": 0.1, "control:center": 0.12}
    made += [record(name, folds(level), **beside) for name, level in probed.items()]
    for size in (2, 4, 8):
        few = {"regime": "few-shot", "shots": size, "draws": 4}
        made += [tuned("resnet18", folds(0.1 * math.log2(size)), "LoRA r8", **few)]
        made += [record(name, folds(level * math.log2(size)), **few) for name, level in
                 (("resnet18", 0.08), ("control:view", 0.03))]  # fmt: skip
    return made


def outcomes(skill: float, *, seed: int = 0, patients: int = 60, fold: int = -1) -> pd.DataFrame:
    """Test predictions of two images a patient that know `skill` of the truth."""
    random = np.random.default_rng(0)
    event = np.repeat(random.permutation(np.arange(patients) % 2), 2)
    score = np.clip(0.5 + skill * (event - 0.5) + 0.2 * np.random.default_rng(seed + 1).normal(size=2 * patients), 0, 1)
    names = [f"s-{at}" for at in range(2 * patients)]
    who = np.repeat([f"p-{at}" for at in range(patients)], 2)
    columns = {"sample_id": names, "patient_id": who, "event": event, "score": score}
    return pd.DataFrame({"fold": fold, "draw": 0, "role": "test", **columns})


def curve(skill: float = 0.6) -> list[dict[str, float | int]]:
    """A reliability curve."""
    return reliability_curve(outcomes(skill, fold=0), "image")


def load(each: Record) -> pd.DataFrame:
    """Predictions of an external record of `everything`."""
    return outcomes(SKILLS.get(each.config.backbone, 0.1), seed=len(each.config.backbone))


def sections_of(records: Sequence[Record]) -> list[Section]:
    """The sections of a report."""
    return sections(records, results_table(records, load), {})


def everything() -> list[Record]:
    """One task with all that a record can hold: many probes and regimes, controls, strata, other cohorts, Cox."""
    random = np.random.default_rng(3)
    levels = {
        "efficientnet-lite0": 0.45, "resnet18": 0.35, "efficientnet-lite0@random:0": 0.25, "resnet18@random:0": 0.2,
        "efficientnet-lite0 + clinical": 0.5, "control:view": 0.15, "control:center": 0.2, "control:images": 0.02,
        "control:metadata": 0.22, "control:clinical": 0.4,
    }  # fmt: skip

    def folds(level: float) -> list[float]:
        return [float(level + 0.05 * step) for step in random.normal(size=5)]

    made = []
    for number, probe in enumerate(("logistic", "ridge", "knn", "centroid", "random-forest", "svm-rbf")):
        for name, level in levels.items():
            how = {"probe": probe, "strategy": "LP" if probe == "logistic" else "probe"}
            beside = {"null": NULL, "strata": STRATA, "reliability": curve(level)}
            made.append(record(name, folds(level - 0.01 * number), **how, **beside))
    for regime, sizes, draws in (("few-shot", (2, 4, 8, 16, 32), 20), ("reduced", (32, 128, 512), 5)):
        for at, size in enumerate(sizes):
            for name, level in levels.items():
                share = (at + 1) / len(sizes)
                made.append(record(name, folds(level * share), regime=regime, shots=size, draws=draws))
    elsewhere = {"external": "OTHER", "external_digest": "o", "facts": {"question": "And there?", "images": 120,
                 "patients": 60, "event_patients": 30, "cohort": "other"}}  # fmt: skip
    origin = {"external": {"removed_images": 3, "removed_patients": 2, "how": "averaged"}}
    made += [
        record(name, folds(level), skill=SKILLS.get(name, 0.1), provenance=origin, **elsewhere)
        for name, level in levels.items()
    ]
    made += [record(name, folds(0.5 + level / 3), probe="cox", strategy="probe") for name, level in levels.items()]
    return made
