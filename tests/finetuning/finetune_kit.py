"""Small encoders of every architecture, pictures whose class can be seen, and trainings of the one on the other."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchvision.models import DenseNet, ResNet
from torchvision.models.resnet import BasicBlock
from transformers import SwinConfig

from peftbench.backbones import cnn, efficientnet_lite0, swin, vit
from peftbench.backbones.card import Output
from peftbench.backbones.cards import CARDS
from peftbench.backbones.device import Precision
from peftbench.backbones.loading import Encoder, tensors_digest, untrained
from peftbench.backbones.registry import BackboneSpec
from peftbench.finetuning.bench import Adaptation, Bench, reproducible
from peftbench.finetuning.cells import Cell
from peftbench.finetuning.feed import Feed, Source
from peftbench.finetuning.predicting import Scores
from peftbench.finetuning.trainer import Keeper, Parts, Standing, Trainer
from peftbench.finetuning.training import Training
from peftbench.imaging.transform import InputTransform
from peftbench.protocol.progress import Progress, Silent
from peftbench.strategies.layers import find_layers
from peftbench.strategies.matrix import RANKED
from stores.images import ImageStore
from stores.keys import digest_of

CPU = torch.device("cpu")

WORDS = ("task", "backbone", "strategy", 0)
"""That tell a cell from others."""

BLOCKS, WIDTH, RANK = 4, 16, 2

TIMES = ("seconds", "images_per_second")
"""Of a row of the history; all else is the same on every run."""

SIDE = 80
"""Of the canvas of the store; pictures are smaller."""


@dataclass(frozen=True)
class Build:
    """A small architecture.

    Attributes:
        of: the backbone of the registry that has the architecture.
        loader: with fewer and narrower layers.
        side: of its pictures.
    """

    of: str
    loader: Any
    side: int


def dense(growth: int, layers: Sequence[int], width: int) -> Build:
    """A DenseNet."""
    return Build("densenet121", cnn.DenseNet(partial(DenseNet, growth, tuple(layers), width)), 32)


def vit_of(of: str, loader: vit.VisionTransformer, side: int, **sizes: Any) -> Build:
    config = copy.deepcopy(loader.config)
    narrow = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "image_size": side}
    for name, value in {**narrow, **sizes}.items():
        setattr(config, name, value)
    return Build(of, replace(loader, config=config), side)


_SWIN = SwinConfig(image_size=32, embed_dim=WIDTH, depths=[2, 2], num_heads=[2, 2], window_size=4)

BUILDS = {
    "dense": dense(4, (2, 2), 8),
    "resnet": Build("resnet18", cnn.ResNet(partial(ResNet, BasicBlock, [1, 1, 1, 1])), 64),
    "densenet": Build("densenet121", cnn.DenseNet(partial(DenseNet, 8, (2, 2, 2, 2), 16)), 64),
    "lite0": Build("efficientnet-lite0", efficientnet_lite0.efficientnet_lite0(), 64),
    "dinov2": vit_of("dinov2-s", vit.dinov2_small(), 28),
    "clip": vit_of("clip-large", vit.clip_large(), 28, intermediate_size=4 * WIDTH),
    "vit": vit_of("biomedclip", vit.biomedclip(), 32, intermediate_size=4 * WIDTH),
    "swin": Build("medclip-swin", swin.Swin(_SWIN), 32),
}
"""Every architecture of the benchmark, small; `dense` has some thousand parameters, where many trainings are needed."""


class Shown(NamedTuple):
    """Pictures in an image store.

    Attributes:
        store: it.
        images: digests.
        pictures: (height, width) each.
        event: (n,) 0 or 1.
    """

    store: ImageStore
    images: Sequence[str]
    pictures: Sequence[npt.NDArray[np.uint8]]
    event: npt.NDArray[np.int64]

    def source(self, transform: InputTransform, count: int | None = None) -> Source:
        return Source(self.store, self.images[:count], transform)


def shown_in(folder: Path, count: int, signal: float = 60.0, noise: float = 40.0, seed: int = 0) -> Shown:
    """Generated pictures of several extents; those with the event are brighter below, the others above."""
    random = np.random.default_rng(seed)
    event = np.arange(count, dtype=np.int64) % 2
    pictures = []
    for each in event:
        height, width = random.integers(64, SIDE, 2)
        below = np.where(np.arange(height) < height // 2, -1.0, 1.0)[:, None]
        levels = 120.0 + signal * (below if each else -below) + random.normal(0.0, noise, (height, width))
        pictures.append(levels.clip(0, 255).astype(np.uint8))
    store = ImageStore.create(folder, "policy", SIDE)
    return Shown(store, store.append([digest_of(number) for number in range(count)], pictures), pictures, event)


@cache
def encoder_of(name: str) -> Encoder:
    """A small architecture as the loading of backbones answers it."""
    return encoder(BUILDS[name])


def encoder(build: Build, seed: int = 0) -> Encoder:
    """With batch norms that have seen data, and a card that says what there is."""
    module = untrained(build.loader, seed).eval().requires_grad_(requires_grad=False)
    _let_norms_see(module, seed)
    with torch.no_grad():
        width = build.loader.outputs(module, torch.zeros((1, 3, build.side, build.side)))["embedding"].shape[1]
    card = CARDS[build.of]
    changed = {
        "outputs": (Output("embedding", "as the loader says", (width,)),),
        "transform": InputTransform(build.side + 4, build.side, "bilinear", (0.5, 0.4, 0.6), (0.25, 0.3, 0.2)),
        "layers": {key: replace(each, count=len(find_layers(module, each))) for key, each in card.layers.items()},
    }
    changed["layers"] = {key: each for key, each in changed["layers"].items() if each.count}
    digest = tensors_digest(module.state_dict())
    return Encoder(BackboneSpec(build.of), card.model_copy(update=changed), build.loader, module, digest)


def _let_norms_see(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.1, generator=generator)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)


def bench_of(
    name: str | Encoder,
    shown: Shown,
    count: int = 24,
    told: Progress | None = None,
    precision: Precision = "fp32",
    **feed: Any,
) -> Bench:
    """A bench with the first pictures."""
    encoder, told = encoder_of(name) if isinstance(name, str) else name, told or Silent()
    return Bench(encoder, Feed(shown.source(encoder.card.transform, count), CPU, told, **feed), CPU, precision, told)


def adaptation_of(strategy: str) -> Adaptation:
    """With a rank where there is one."""
    return Adaptation(strategy, RANK if strategy in RANKED else None)


def settings(**changes: Any) -> Training:
    """Under which nothing is random but the first weights and the order of the pictures; changed."""
    plain = {
        "epochs": 3,
        "batch_size": 8,
        "head_learning_rates": (1e-2,),
        "learning_rate": 1e-3,
        "schedule": "constant",
        "warmup_epochs": 0,
        "early_stop": 1000,
        "augmentation": None,
        "dropout": 0.0,
    }
    return Training(**{**plain, **changes})


def parts_of(shown: Shown, count: int = 24, train: int = 16) -> Parts:
    """The first train, the others validate."""
    numbers = np.arange(count)
    return Parts(shown.event[:count], numbers[:train], numbers[train:])


def trainer_of(
    bench: Bench,
    strategy: str,
    how: Training,
    parts: Parts,
    *,
    words: Sequence[object] = WORDS,
    keeper: Keeper | None = None,
    cached: bool = False,
) -> Trainer:
    """A trainer with a fresh classifier; `cached` embeds once with the frozen backbone."""
    classifier = bench.classifier(adaptation_of(strategy), how, words, len(how.head_learning_rates))
    embeddings = bench.embeddings(classifier) if cached else None
    return Trainer(classifier, bench.feed, parts, how, bench.precision, words, bench.told, keeper, embeddings)


class Trained(NamedTuple):
    """What a training left.

    Attributes:
        trainer: that did it.
        at: how far it is.
        tensors: of the best epoch.
        scores: (heads, n) of all pictures, afterwards.
    """

    trainer: Trainer
    at: Standing
    tensors: dict[str, torch.Tensor]
    scores: Scores

    def losses(self, rate: float = 1e-2, of: str = "train_loss") -> list[float]:
        """A head's, epoch by epoch."""
        return [row[f"{of}_{rate:g}"] for row in self.at.history]


def finished(trainer: Trainer) -> Trained:
    """Train to the end, and predict all pictures."""
    with reproducible(CPU):
        at = trainer.run()
        return Trained(trainer, at, trainer.best, trainer.scores(np.arange(len(trainer.feed))))


def trained(bench: Bench, strategy: str, how: Training, parts: Parts, **options: Any) -> Trained:
    """A fresh training, to the end."""
    return finished(trainer_of(bench, strategy, how, parts, **options))


def timeless(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A history without what no two runs share."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in history]


def assert_same_training(found: Trained, expected: Trained) -> None:
    """To the bit, apart from times."""
    np.testing.assert_equal(timeless(found.at.history), timeless(expected.at.history))
    assert found.at.best == expected.at.best
    assert_same_tensors(found.tensors, expected.tensors)
    np.testing.assert_array_equal(found.scores, expected.scores)


def assert_same_tensors(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    differ = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    assert not differ


def assert_close_tensors(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], *, atol: float
) -> None:
    assert found.keys() == expected.keys()
    far = {name: float((found[name].double() - each.double()).abs().max()) for name, each in expected.items()}
    assert not {name: distance for name, distance in far.items() if not distance <= atol}


def gradients_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Of all that has one: copies."""
    return {name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None}


def statistics_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The running statistics of batch norms: copies."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {name: each.clone() for name, each in module.named_buffers() if name.endswith(names)}


def cell_of(parts: Parts, folder: Path, *, keep: bool = True, draw: int = 0) -> Cell:
    """A cell that is tested on some of its training part."""
    return Cell(0, draw, parts, parts.train[:5], WORDS, folder, {"strategy": "as asked"}, keep)


class Remembering:
    """Keeps in memory each state that it is given."""

    def __init__(self, *, always: bool = False) -> None:
        self.always = always
        self.states: list[dict[str, Any]] = []

    def read(self) -> dict[str, Any] | None:
        return None

    def due(self) -> bool:
        return self.always

    def write(self, state: dict[str, Any]) -> None:
        # As it is now: who keeps it in a file has a copy as well.
        self.states.append(copy.deepcopy(state))


class StoppedAt:
    """A progress that stops what it hears of, as Ctrl-C would, when it is told for the n-th time of an advance."""

    def __init__(self, call: int) -> None:
        self.left = call

    def start(self, label: str, total: int) -> None:
        pass

    def advance(self, count: int = 1) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def status(self, message: str) -> None:
        pass

    def note(self, message: str) -> None:
        pass
