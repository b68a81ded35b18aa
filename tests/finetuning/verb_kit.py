"""Backbones that learn in milliseconds, and what the tests of the verb `finetune` ask of a workspace."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from vit_kit import DEPTH, VIT

from peftbench.backbones.card import BackboneCard, LayerGroup, Output
from peftbench.backbones.loading import StateDict, load_strictly
from peftbench.finetuning import runs
from peftbench.finetuning.cells import Answer, Cell
from peftbench.finetuning.finetune import finetune
from peftbench.imaging.transform import InputTransform
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.records import Record, read_predictions, read_record
from peftbench.protocol.results import FinetuneRow
from peftbench.protocol.workspace import Workspace

TASK = "PHA_icu_all"

CNN = "tiny-cnn"
VIT_NAME = "tiny-vit"

WIDTH = 12

PRETRAINED_SEED = 999

TINY_CNN = BackboneCard(
    name=CNN,
    title="Tiny CNN",
    family="CNN",
    architecture="test:cnn",
    pretraining="none",
    data="none",
    checkpoint=None,
    found_by="a seed",
    licence="none",
    parameters=1_000,
    parameters_with_head=1_000,
    outputs=(Output("embedding", "last|avgpool", (WIDTH,)),),
    transform=InputTransform(36, 32, "bicubic", (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)),
    loader="verb_kit:TinyCNN",
    libraries=("torch",),
    strategies=("LP", "FFT", "LoRA", "BitFit"),
    extensions={"IA3": "it scales channels of convolutions"},
    refused={"VeRA": "it has convolutions alone"},
    layers={
        "convolution": LayerGroup(r"[03]", 2, "convolution"),
        "any_convolution": LayerGroup(r"[03]", 2, "any convolution"),
    },
    channels_last=True,
)
"""Two convolutions with batch norms: some hundred parameters."""

_ATTENTION = r"model\.encoder\.layer\.\d+\.attention\."

TINY_VIT = VIT.model_copy(
    update={
        "name": VIT_NAME,
        "strategies": ("LP", "FFT", "LoRA", "VeRA", "BitFit", "IA3"),
        "layers": {
            "query": LayerGroup(_ATTENTION + "q_proj", DEPTH),
            "key": LayerGroup(_ATTENTION + "k_proj", DEPTH),
            "value": LayerGroup(_ATTENTION + "v_proj", DEPTH),
            "output": LayerGroup(_ATTENTION + "o_proj", DEPTH),
            "fc2": LayerGroup(r"model\.encoder\.layer\.\d+\.mlp\.fc2", DEPTH),
        },
        "paper_targets": ("query", "key", "value"),
    }
)
"""DINOv2's architecture, small; all strategies fit."""

CARDS_OF_TESTS = (TINY_CNN, TINY_VIT)


class TinyCNN:
    """Loader of `TINY_CNN`; pretrained weights are those of a seed that no test of untrained ones uses."""

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, WIDTH, 3, stride=2),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def load(self, tensors: StateDict) -> nn.Module:
        return load_strictly(self.build(), tensors)

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return {"embedding": module(pixels)}

    def pretrained(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(PRETRAINED_SEED)
            return self.build()


SHORT = ("epochs=2", "batch_size=8", "augmentation=none")
"""Settings on top of `quick`: a training of a moment."""

QUICK: Mapping[str, Any] = {
    "split": "hold-out",
    "preset": "quick",
    "set_": SHORT,
    "device": "cpu",
    "precision": "fp32",
    "permutations": 9,
}
"""What every call of the tests says unless it says otherwise."""

WORDS = ("--split", "hold-out", "--preset", "quick", "--device", "cpu", "--precision", "fp32", "--permutations", "9")
"""The same on the command line, but for the settings."""

SETS = tuple(word for each in SHORT for word in ("--set", each))


def rows_of_call(place: Workspace, backbone: str = CNN, strategy: str = "lp", **options: Any) -> list[FinetuneRow]:
    """Fine-tune as briefly as can be, and answer the rows."""
    words: dict[str, Any] = {"task": TASK, **QUICK, **options}
    return finetune(words.pop("task"), backbone, strategy, workspace=place, **words).results


def row_of_call(place: Workspace, backbone: str = CNN, strategy: str = "lp", **options: Any) -> FinetuneRow:
    (row,) = rows_of_call(place, backbone, strategy, **options)
    return row


def record_of(row: FinetuneRow) -> Record:
    return read_record(Path(row.record))


def images_in(folder: str | Path, role: str = "test") -> set[tuple[int, str]]:
    """Fold and image of every prediction of a role."""
    held = read_predictions(Path(folder)).query("role == @role")
    return set(zip(held["fold"], held["sample_id"], strict=True))


def copied(place: Workspace, root: Path) -> Workspace:
    """A copy to write to."""
    return Workspace(Path(shutil.copytree(place.root, root)))


def manifest_of(place: Workspace, cohort: str = "phantom") -> Manifest:
    return Manifest.read(cohort, place.manifest(cohort))


def records_in(place: Workspace) -> list[Path]:
    """Folders of complete records."""
    return sorted(path.parent for path in place.results.glob("*/*/*/*/record.json"))


TIMES = {"seconds", "images_per_second"}
"""Columns of a history that are never the same twice."""


def lasting(folder: str | Path) -> dict[str, bytes]:
    """Of a record all that two trainings of one configuration must agree in: predictions, checkpoints, history."""
    folder = Path(folder)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.safetensors")}
    found["predictions.parquet"] = (folder / "predictions.parquet").read_bytes()
    lines = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    kept = [column for column, name in enumerate(lines[0]) if name not in TIMES]
    found["history.csv"] = "\n".join(",".join(line[column] for column in kept) for line in lines).encode()
    return found


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class Trainings:
    """Counts the trainings of a test, and remembers who trained in each."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.cells: list[Cell] = []
        original = runs.solve

        def counted(cell: Cell, *words: Any) -> Answer:
            self.cells.append(cell)
            return original(cell, *words)

        patch.setattr(runs, "solve", counted)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def names(self) -> list[str]:
        return [cell.name for cell in self.cells]
