"""The registered backbones, small: their own loaders with narrow and shallow architectures, cards to match.

What is not size stays as it is: activation, norms, patches, the input transform, the names of the published tensors.
"""

from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import torch
from layout_kit import Layout, cut, layout, layout_of, shrunk, tiny_config, tower
from torch import nn
from torchvision.models import DenseNet, ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from peftbench.backbones import cnn, efficientnet_lite0, swin, vit
from peftbench.backbones.card import BackboneCard
from peftbench.backbones.cards import CARDS
from peftbench.backbones.golden import golden_pictures

BLOCKS, WIDTH = 5, 32

STAGES = [1, 1, 1, 1]

_NARROW: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
}
_DINO = {**_NARROW, "intermediate_size": None}


class Tiny(NamedTuple):
    """A small backbone: its loader, its card, and the tensors that its publisher would ship for it."""

    card: BackboneCard
    loader: Any
    published: Layout

    def tensors(self, seed: int = 0) -> dict[str, torch.Tensor]:
        """Of the vision tower, drawn from the names."""
        return {name: tensor.clone() for name, tensor in _drawn(self.card.name, seed).items()}

    def module(self, seed: int = 0) -> nn.Module:
        module: nn.Module = self.loader.load(self.tensors(seed)).eval()
        return module

    @torch.inference_mode()
    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        found: Mapping[str, torch.Tensor] = self.loader.outputs(module, pixels)
        return found


def golden_pixels(card: BackboneCard, number: int | None = None) -> torch.Tensor:
    """The golden pictures as a backbone's input; the first `number` of them."""
    pictures = card.transform.shape(golden_pictures()[:number])
    crop = card.transform.crop
    return card.transform.normalise(pictures, torch.empty((len(pictures), 3, crop, crop)))


@lru_cache(maxsize=24)
def _drawn(name: str, seed: int) -> dict[str, torch.Tensor]:
    checkpoint = CARDS[name].checkpoint
    assert checkpoint is not None
    return tower(tiny(name).published, checkpoint.prefix, seed)


@cache
def tiny(name: str) -> Tiny:
    """A backbone of the registry, small."""
    loader, published = _MADE[name]()
    card = CARDS[name]
    widths = _widths(name, loader)
    outputs = tuple(each._replace(shape=widths[each.name]) for each in card.outputs)
    parameters = sum(each.numel() for each in loader.build().parameters())
    changed = {"outputs": outputs, "parameters": parameters, "parameters_with_head": parameters}
    return Tiny(card.model_copy(update=changed), loader, published)


def _widths(name: str, loader: Any) -> dict[str, tuple[int, ...]]:
    if isinstance(loader, vit.VisionTransformer):
        width = loader.config.hidden_size
        return {"embedding": (width,), "patch_mean": (width,), "block_cls": (4, width)}
    embedding, stages = _CONVOLUTIONAL[name]
    return {"embedding": (embedding,), "stages": (stages,)}


_CONVOLUTIONAL = {
    "resnet18": (512, 960),
    "resnet50": (2048, 3840),
    "medclip-resnet50": (2048, 3840),
    "densenet121": (32, 4 * 32),
    "medclip-swin": (128, 352),
    "efficientnet-lite0": (1280, 496),
}
"""Length of the embedding and of the stages; what is not a transformer with a class token."""

_Made = tuple[Any, Layout]


def _torchvision(loader: Any, prefix: str = "") -> _Made:
    listed = layout_of(loader.build().state_dict())
    return loader, [(f"{prefix}{name}", kind, shape) for name, kind, shape in listed]


def _resnet(block: Any, prefix: str = "") -> _Made:
    return _torchvision(cnn.ResNet(partial(ResNet, block, STAGES)), prefix)


def _vit(name: str, loader: vit.VisionTransformer, config: dict[str, Any]) -> _Made:
    width, small = loader.config.hidden_size, config["hidden_size"]
    extents = {width: small, 3 * width: 3 * small, 4 * width: 4 * small}
    return shrunk(loader, **config), cut(layout(name), config["num_hidden_layers"], extents)


_MADE: dict[str, Callable[[], _Made]] = {
    "resnet18": lambda: _resnet(BasicBlock),
    "resnet50": lambda: _resnet(Bottleneck),
    "densenet121": lambda: _torchvision(cnn.DenseNet(partial(DenseNet, 8, (2, 2, 2, 2), 16))),
    "dinov2-s": lambda: _vit("dinov2-s", vit.dinov2_small(), _DINO),
    "dinov2-b": lambda: _vit("dinov2-b", vit.dinov2_base(), {**_DINO, "num_attention_heads": 4}),
    "dinov2-l": lambda: _vit("dinov2-l", vit.dinov2_large(), {**_DINO, "num_hidden_layers": 6, "hidden_size": 48}),
    "clip-large": lambda: _vit("clip-large", vit.clip_large(), _NARROW),
    "medclip-resnet50": lambda: _resnet(Bottleneck, "vision_model.model."),
    "medclip-swin": lambda: (shrunk(swin.medclip_swin(), **tiny_config("swin")), layout("swin", "tiny")),
    "pubmedclip": lambda: _vit("pubmedclip", vit.pubmedclip(), _NARROW),
    "biomedclip": lambda: _vit("biomedclip", vit.biomedclip(), _NARROW),
    "efficientnet-lite0": lambda: (efficientnet_lite0.efficientnet_lite0(), layout("efficientnet-lite0")),
}

NAMES = list(_MADE)
