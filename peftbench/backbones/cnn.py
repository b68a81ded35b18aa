"""torchvision's convolutional networks: ResNet and DenseNet, without their classification layer."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from peftbench.backbones.loading import StateDict, load_strictly

_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)")
"""Names from before torchvision 0.3: the files that it downloads still have them."""


@dataclass(frozen=True)
class ResNet:
    """Loader of ResNets, wherever they were trained.

    Attributes:
        make: the network, untrained, with any classification layer.
    """

    make: Callable[[], nn.Module]

    def build(self) -> nn.Module:
        """The encoder, untrained: (n, 3, height, width) to (n, d), average-pooled."""
        module = self.make()
        module.fc = nn.Identity()
        return module

    def load(self, tensors: StateDict) -> nn.Module:
        """The encoder with these tensors; a classification or projection layer `fc` is left behind."""
        return load_strictly(self.build(), _without(tensors, "fc."))

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The embedding, and the average over each of the four stages."""
        each, pooled = pixels, []
        for name, layer in module.named_children():
            if name == "avgpool":
                break
            each = layer(each)
            if name.startswith("layer"):
                pooled.append(_average(each))
        return {"embedding": pooled[-1], "stages": torch.cat(pooled, dim=1)}


@dataclass(frozen=True)
class DenseNet:
    """Loader of DenseNets.

    Attributes:
        make: the network, untrained, with any classification layer.
    """

    make: Callable[[], nn.Module]

    def build(self) -> nn.Module:
        """The encoder, untrained: (n, 3, height, width) to (n, d), average-pooled after the last rectifier."""
        module = self.make()
        module.classifier = nn.Identity()
        return module

    def load(self, tensors: StateDict) -> nn.Module:
        """The encoder with these tensors, under today's names or those of the downloaded files."""
        named = {_OLD_DENSENET.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
        return load_strictly(self.build(), _without(named, "classifier."))

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The embedding, and the average over each of the four dense blocks."""
        each, pooled = pixels, []
        for name, layer in module.get_submodule("features").named_children():
            each = layer(each)
            if name.startswith("denseblock"):
                pooled.append(_average(each))
        return {"embedding": _average(torch.relu(each)), "stages": torch.cat(pooled, dim=1)}


def resnet18() -> ResNet:
    """Of ImageNet."""
    return ResNet(torchvision.models.resnet18)


def resnet50() -> ResNet:
    """Of ImageNet, and MedCLIP's."""
    return ResNet(torchvision.models.resnet50)


def densenet121() -> DenseNet:
    """Of ImageNet."""
    return DenseNet(torchvision.models.densenet121)


def _without(tensors: StateDict, head: str) -> StateDict:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(head)}


def _average(maps: torch.Tensor) -> torch.Tensor:
    return torch.flatten(nn.functional.adaptive_avg_pool2d(maps, 1), 1)
