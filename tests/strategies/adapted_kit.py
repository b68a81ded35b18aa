"""The registered backbones, small, to be adapted: their own loaders with narrow and shallow architectures."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torchvision.models import DenseNet, ResNet
from torchvision.models.resnet import BasicBlock
from transformers import SwinConfig

from peftbench.backbones import cnn, efficientnet_lite0, swin, vit
from peftbench.backbones.card import BackboneCard
from peftbench.backbones.cards import CARDS
from peftbench.backbones.loading import untrained
from peftbench.strategies.adapting import Adapted, adapt
from peftbench.strategies.matrix import RANKED, standing
from peftbench.strategies.options import Options
from peftbench.strategies.registry import STRATEGIES

BLOCKS, WIDTH, RANK = 4, 16, 2

NAMES = ["resnet18", "densenet121", "efficientnet-lite0", "dinov2-s", "clip-large", "biomedclip", "medclip-swin"]
"""One of each architecture."""

STAGES = [1, 1, 1, 1]

_COUNTS = {
    "resnet18": {"convolution": 12, "any_convolution": 12, "first_convolution": 5},
    "densenet121": {"convolution": 20, "any_convolution": 20, "first_convolution": 8},
    "efficientnet-lite0": {"convolution": 33, "any_convolution": 49},
}
"""Of the small networks; transformers have as many of all as they have blocks."""


class Small(NamedTuple):
    """A small backbone."""

    card: BackboneCard
    loader: Any
    side: int

    def module(self, seed: int = 0) -> nn.Module:
        """In evaluation mode, with batch norms that have seen data."""
        module = untrained(self.loader, seed).eval()
        generator = torch.Generator().manual_seed(seed)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.normal_(0, 0.1, generator=generator)
                norm.running_var.uniform_(0.5, 1.5, generator=generator)
        return module

    def pixels(self, seed: int = 1) -> torch.Tensor:
        return torch.randn((2, 3, self.side, self.side), generator=torch.Generator().manual_seed(seed))

    def embedding(self, module: nn.Module, pixels: torch.Tensor | None = None) -> torch.Tensor:
        outputs: Mapping[str, torch.Tensor] = self.loader.outputs(module, self.pixels() if pixels is None else pixels)
        return outputs["embedding"]

    def adapted(self, strategy: str, **options: Any) -> Adapted:
        return adapt(self.module(), self.card, strategy, options_for(strategy, **options))


def options_for(strategy: str, **options: Any) -> Options:
    """With a rank where there is one."""
    return Options(**{"rank": RANK if strategy in RANKED else None, **options})


def small(name: str) -> Small:
    """A backbone of the registry, small."""
    loader, side = _MADE[name]
    counts = _COUNTS.get(name, dict.fromkeys(CARDS[name].layers, BLOCKS))
    layers = {each: replace(group, count=counts[each]) for each, group in CARDS[name].layers.items()}
    return Small(CARDS[name].model_copy(update={"layers": layers}), loader, side)


def _vit(loader: vit.VisionTransformer, side: int, **sizes: Any) -> tuple[Any, int]:
    narrow = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "image_size": side}
    config = copy.deepcopy(loader.config)
    for name, value in {**narrow, **sizes}.items():
        setattr(config, name, value)
    return replace(loader, config=config), side


_MADE: dict[str, tuple[Any, int]] = {
    "resnet18": (cnn.ResNet(partial(ResNet, BasicBlock, STAGES)), 32),
    "densenet121": (cnn.DenseNet(partial(DenseNet, 8, (2, 2, 2, 2), 16)), 64),
    "efficientnet-lite0": (efficientnet_lite0.efficientnet_lite0(), 64),
    "dinov2-s": _vit(vit.dinov2_small(), 28),
    "clip-large": _vit(vit.clip_large(), 28, intermediate_size=4 * WIDTH),
    "biomedclip": _vit(vit.biomedclip(), 32, intermediate_size=4 * WIDTH),
    "medclip-swin": (
        swin.Swin(SwinConfig(image_size=32, embed_dim=WIDTH, depths=[2, 2], num_heads=[2, 2], window_size=4)),
        32,
    ),
}


class Cell(NamedTuple):
    """A strategy on a backbone, with a preset of targets."""

    backbone: str
    strategy: str
    targets: str

    def adapted(self) -> Adapted:
        return small(self.backbone).adapted(self.strategy, targets=self.targets)

    def __str__(self) -> str:
        return "-".join(self)


CELLS = [
    Cell(name, strategy, targets)
    for name in NAMES
    for strategy in STRATEGIES
    for targets in (("attention", "paper") if strategy in ("LoRA", "VeRA", "IA3") else ("attention",))
    if standing(CARDS[name], strategy).verdict != "refused"
]
"""Every cell of the matrix that runs."""
