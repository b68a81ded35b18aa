"""A convolutional network of some hundred parameters, and what the tests of extraction ask of a workspace."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from peftbench.backbones.card import BackboneCard, Output
from peftbench.backbones.loading import StateDict, load_strictly
from peftbench.extraction.extract import extract
from peftbench.imaging.transform import InputTransform
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.results import ExtractRow
from peftbench.protocol.workspace import Workspace
from stores.errors import StoreNotFoundError
from stores.features import FeatureStore
from stores.verify import Fault, verify

if TYPE_CHECKING:
    from forking import Forked

TINY = BackboneCard(
    name="tiny",
    title="Tiny",
    family="CNN",
    architecture="test:tiny",
    pretraining="none",
    data="none",
    checkpoint=None,
    found_by="a seed",
    licence="none",
    parameters=648,
    parameters_with_head=648,
    outputs=(Output("embedding", "4|avgpool", (16,)), Output("stages", "2+4|avgpool,concatenated", (24,))),
    transform=InputTransform(36, 32, "bicubic", (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)),
    loader="extraction_kit:TinyLoader",
    libraries=("torch", "numpy"),
    channels_last=True,
    folds=True,
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

    def load(self, tensors: StateDict) -> nn.Module:
        return load_strictly(self.build(), tensors)

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        early = module[:3](pixels)
        late = module[3:](early)
        return {"embedding": late, "stages": torch.cat([early.mean((2, 3)), late], dim=1)}

    def pretrained(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(999)
            module = self.build()
            # A norm that does nothing would hide one that was folded wrongly, or not at all.
            for each in (module[1].weight, module[1].bias, module[1].running_mean):
                nn.init.normal_(each)
            nn.init.uniform_(module[1].running_var, 0.5, 2.0)
        with torch.no_grad():
            module[0].weight *= self.gain
        return module


class InterruptedAfter:
    """A progress that gives up, as Ctrl-C would, once it was told of so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def start(self, label: str, total: int) -> None:
        pass

    def advance(self, count: int = 1) -> None:
        # Nothing is what is said while waiting.
        self.left -= count > 0
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


def by_image(store: str | Path, output: str = "embedding") -> dict[str, npt.NDArray[np.floating]]:
    """Image digest to row; fails if an image has two."""
    matrix, images = FeatureStore.open(Path(store)).load(output=output)
    assert len(set(images)) == len(images) == len(matrix)
    return dict(zip(images, matrix, strict=True))


def faults(store: str | Path) -> list[Fault]:
    """What is wrong with a store when every byte of it is read."""
    return [fault for verdict in verify(Path(store), deep=True) for fault in verdict.faults]


def stores_of(place: Workspace, backbone: str = "tiny") -> list[Path]:
    folder = place.features_of(backbone)
    return sorted(folder.iterdir()) if folder.is_dir() else []


def assert_equal_to_the_bit(
    found: dict[str, npt.NDArray[np.floating]], expected: dict[str, npt.NDArray[np.floating]]
) -> None:
    assert found.keys() == expected.keys()
    for image, row in expected.items():
        np.testing.assert_array_equal(found[image], row)


PROGRAM = """
import sys, time
import torch
from peftbench.extraction import embed
embed.COMMIT_SECONDS = 0.0
original = embed.Engine.embed
def embed_slowly(self, pixels):
    time.sleep(0.1)
    return original(self, pixels)
embed.Engine.embed = embed_slowly
torch.set_num_threads(1)
from cli.main import main
sys.argv = ["peftbench", *sys.argv[1:]]
main()
"""
"""The command line, slow and committing every batch: an ordinary run of a small cohort ends before its first commit."""

SLOWER = "resnet18@random:0"
"""A backbone with which a small cohort takes long enough to be stopped in its midst."""

BATCH = 3


def extraction(place: Workspace, *more: str) -> "Forked":
    """A process of its own that embeds the phantom."""
    # Programs outside pytest import this file as well, with nothing beside it on their path.
    from forking import fork

    options = ["--device", "cpu", "--precision", "fp32", "--batch-size", str(BATCH), "--workspace", str(place.root)]
    return fork(PROGRAM, "extract", "phantom", "--backbone", SLOWER, *options, *more, OMP_NUM_THREADS="1")


def committed(place: Workspace) -> int:
    """Rows of the slower backbone's one store."""
    try:
        return sum(len(FeatureStore.open(folder)) for folder in stores_of(place, SLOWER))
    except StoreNotFoundError:
        return 0


def saved_weights(path: Path, seed: int, **more: torch.Tensor) -> Path:
    """A checkpoint for the tiny network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save({**TinyLoader().build().state_dict(), **more}, path)
    return path


class WideLoader(TinyLoader):
    """Answers so much for a picture that a pipe cannot take a batch of it."""

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"embedding": module(pixels).repeat(1, WIDTH // 16)}


WIDTH = 1 << 15
"""128 KiB a row; a pipe holds 64."""

WIDE = TINY.model_copy(
    update={
        "name": "wide",
        "loader": "extraction_kit:WideLoader",
        "outputs": (Output("embedding", "4|avgpool, repeated", (WIDTH,)),),
    }
)
