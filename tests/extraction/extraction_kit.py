"""A convolutional network of some hundred parameters, and what the tests of extraction ask of a workspace."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.extraction.extract import extract
from peftbench.imaging.transform import InputTransform
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.results import ExtractRow
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore

TINY = BackboneCard(
    name="tiny",
    title="Tiny",
    family="CNN",
    architecture="test:tiny",
    pretraining="none",
    source="seeded",
    licence="none",
    parameters=648,
    parameters_with_head=648,
    embedding=16,
    output="avgpool",
    transform=InputTransform(36, 32, "bicubic", (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)),
    loader="extraction_kit:TinyLoader",
    libraries=("torch", "numpy"),
    channels_last=True,
)


class TinyLoader:
    """Pretrained weights are those of a seed that no test of untrained ones uses."""

    gain = 1.0

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, groups=4, bias=True),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def located(self) -> Path:
        return Path(__file__)

    def pretrained(self) -> Mapping[str, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(999)
            tensors = self.build().state_dict()
        tensors["0.weight"] *= self.gain
        return tensors


class InterruptedAfter:
    """A progress that gives up, as Ctrl-C would, once it was told of so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def start(self, label: str, total: int) -> None:
        pass

    def advance(self, count: int = 1) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def note(self, message: str) -> None:
        pass


def run(place: Workspace, backbone: str = "tiny", cohort: str = "phantom", **options: Any) -> ExtractRow:
    """Embed on the processor in fp32 unless stated, and answer for the one backbone."""
    (row,) = extract(cohort, backbone, workspace=place, **{"device": "cpu", "precision": "fp32", **options}).results
    return row


def images_of(place: Workspace, cohort: str = "phantom") -> list[str]:
    return list(dict.fromkeys(Manifest.read(cohort, place.manifest(cohort)).frame["image_digest"]))


def by_image(store: str | Path) -> dict[str, npt.NDArray[np.floating]]:
    """Image digest to row; fails if an image has two."""
    matrix, images = FeatureStore.open(Path(store)).load()
    assert len(set(images)) == len(images) == len(matrix)
    return dict(zip(images, matrix, strict=True))


def stores_of(place: Workspace, backbone: str = "tiny") -> list[Path]:
    folder = place.features_of(backbone)
    return sorted(folder.iterdir()) if folder.is_dir() else []


def assert_equal_to_the_bit(
    found: dict[str, npt.NDArray[np.floating]], expected: dict[str, npt.NDArray[np.floating]]
) -> None:
    assert found.keys() == expected.keys()
    for image, row in expected.items():
        np.testing.assert_array_equal(found[image], row)
