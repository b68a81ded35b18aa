"""A backbone that computes in milliseconds, and what the tests of the verb `predict` ask of a workspace."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from vit_kit import DEPTH, VIT

from peftbench.backbones.card import LayerGroup
from peftbench.backbones.registry import CARDS
from peftbench.benchmark.predict import Predicted, model_scores
from peftbench.benchmark.predicting_record import open_source
from peftbench.cohorts.crew import FEW
from peftbench.finetuning.finetune import finetune
from peftbench.probing.probe import probe
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.progress import Silent
from peftbench.protocol.records import Record, read_predictions, read_record
from peftbench.protocol.workspace import Workspace

TASK, BACKBONE = "PHA_icu_all", "small-vit"

_ATTENTION = r"model\.encoder\.layer\.\d+\.attention\."

SMALL_VIT = VIT.model_copy(
    update={
        "name": BACKBONE,
        "strategies": ("LP", "LoRA"),
        "layers": {
            "query": LayerGroup(_ATTENTION + "q_proj", DEPTH),
            "key": LayerGroup(_ATTENTION + "k_proj", DEPTH),
            "value": LayerGroup(_ATTENTION + "v_proj", DEPTH),
            "output": LayerGroup(_ATTENTION + "o_proj", DEPTH),
        },
    }
)
"""DINOv2's architecture, small, with weights of a seed in place of pretrained ones."""

SHORT = {
    "preset": "quick", "set_": ["epochs=2", "batch_size=8", "augmentation=none"], "split": "hold-out",
    "precision": "fp32", "device": "cpu", "permutations": 0,
}  # fmt: skip
"""A training of a moment."""


@contextmanager
def small_vit() -> Iterator[None]:
    """While it lasts the backbone is registered, and torch has one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CARDS, BACKBONE, SMALL_VIT)
        yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Made:
    """A workspace in which a phantom was prepared, embedded, probed and fine-tuned; no test writes to it.

    Attributes:
        place: the workspace.
        pictures: folder of the raw images.
        fresh: folder of images that no cohort holds.
        probe: folder of the record of a logistic probe.
        lora: of a fine-tuning by LoRA.
    """

    place: Workspace
    pictures: Path
    fresh: Path
    probe: Path
    lora: Path

    @property
    def some(self) -> list[Path]:
        """As many of the raw images as are decoded without processes of their own."""
        return sorted(self.pictures.iterdir())[: FEW - 1]

    def copied(self, folder: Path) -> "Made":
        """The same in a copy of the workspace, to write to."""
        place = Workspace(Path(shutil.copytree(self.place.root, folder)))
        moved = [place.root / each.relative_to(self.place.root) for each in (self.probe, self.lora)]
        return Made(place, self.pictures, self.fresh, *moved)


def probed(place: Workspace, backbone: str = BACKBONE, **options: Any) -> Path:
    """Folder of the record of one probe."""
    words = {"control": False, "workers": 1, "permutations": 0, **options}
    (row,) = probe(TASK, backbone, workspace=place, **words).results
    return Path(row.record)


def tuned(place: Workspace, backbone: str = BACKBONE, strategy: str = "lora", **options: Any) -> Path:
    """Folder of the record of one short training."""
    words: dict[str, Any] = {**SHORT, **options}
    (row,) = finetune(TASK, backbone, strategy, workspace=place, **words).results
    return Path(row.record)


def scores_of(record: Path, *named: Path, **options: Any) -> Predicted:
    """What each model of a record says of pictures."""
    return model_scores(open_source(record, None), named, Silent(), **{"device": "cpu", **options})


def recorded(folder: Path, place: Workspace, role: str) -> Mapping[tuple[int, str], float]:
    """Model and image to the score that a record holds of it."""
    record: Record = read_record(folder)
    frame = Manifest.read("phantom", place.manifest("phantom")).frame
    image = dict(zip(frame["sample_id"], frame["image_digest"], strict=True))
    table = read_predictions(folder).query("role == @role")
    model = table["fold"] * record.config.draws + table["draw"]
    return {
        (int(at), image[sample]): float(score)
        for at, sample, score in zip(model, table["sample_id"], table["score"], strict=True)
    }


def assert_as_recorded(found: Predicted, expected: Mapping[tuple[int, str], float]) -> None:
    """Every model says again of these pictures what the record holds of it."""
    column = {image: at for at, image in enumerate(found.images)}
    there = {(model, image): score for (model, image), score in expected.items() if image in column}
    assert {model for model, _ in there} == set(range(len(found.scores)))
    said: npt.NDArray[np.float64] = np.array([found.scores[model, column[image]] for model, image in there])
    np.testing.assert_allclose(said, list(there.values()), atol=1e-6, rtol=0)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Path below a folder to size and time of every file."""
    found = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (stat.st_size, stat.st_mtime_ns) for path, stat in found}
