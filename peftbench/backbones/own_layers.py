"""Which layers of a model of the user's own can be adapted, and which strategies that allows.

Layers are known by the names that timm and transformers give them. Only those count that a forward pass calls: an
adapter in the place of another, such as a projection inside torch's MultiheadAttention, would never learn.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn

from peftbench.backbones.card import LayerGroup, LayerKind
from peftbench.strategies.targets import PRESETS, present

_NAMES = {
    "query": r"(.*\.)?(q_proj|query|q)",
    "key": r"(.*\.)?(k_proj|key|k)",
    "value": r"(.*\.)?(v_proj|value|v)",
    "qkv": r"(.*\.)?qkv",
    "output": r"(.*\.)?(o_proj|out_proj|attn\.proj|attention\.output\.dense)",
    "fc1": r"(.*\.)?(fc1|up_proj|intermediate\.dense)",
    "fc2": r"(.*\.)?(fc2|down_proj|(?<!attention\.)output\.dense)",
}

_PLAIN = ("Conv2d", "Conv2dSame")
"""Classes of convolutions whose weight is used as it is; others standardise it, and an update of it as well."""

_PACKED = "its attention is packed in torch's MultiheadAttention, where an adapter would never learn"
_NONE = {
    "LoRA": "it has no layers of attention or feed-forward under a known name, nor is it a CNN of plain convolutions",
    "VeRA": "it has no linear layers of attention or feed-forward under a known name",
    "IA3": "it has no keys, values or second feed-forward layers under a known name, nor is it a CNN",
}
"""Layers that no forward pass calls count as none."""

_DOES = {"LoRA": "adapts", "VeRA": "adapts", "IA3": "scales"}
_FUSED = {
    "LoRA": "; query, key and value are one layer and share A",
    "VeRA": "; query, key and value are one layer",
    "IA3": "; queries are scaled as well, because query, key and value are one layer",
}


class Fit(NamedTuple):
    """What can be done to a model: the fields of a card."""

    layers: dict[str, LayerGroup]
    extensions: dict[str, str]
    refused: dict[str, str]


@contextmanager
def watched(module: nn.Module) -> Iterator[set[str]]:
    """The names of the layers that are called while the block runs."""
    called: set[str] = set()
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.add(name)) for name, layer in module.named_modules()
    ]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def fit(module: nn.Module, called: set[str]) -> Fit:
    """What can be done to a model.

    Args:
        module: the encoder.
        called: names of its layers that a forward pass calls.
    """
    layers = {name: layer for name, layer in module.named_modules() if name in called}
    groups = {**_linear_groups(layers), **(_convolution_groups(layers) if is_convolutional(module) else {})}
    extensions, refused = _biases(module)
    for strategy in PRESETS:
        if chosen := present(groups, PRESETS[strategy]):
            extensions[strategy] = _extension(strategy, {name: groups[name] for name in chosen})
        else:
            refused[strategy] = _reason(strategy, module)
    return Fit(groups, extensions, refused)


def is_convolutional(module: nn.Module) -> bool:
    """Whether there are more convolutions than linear layers."""
    layers = list(module.modules())
    return sum(isinstance(each, nn.Conv2d) for each in layers) > sum(isinstance(each, nn.Linear) for each in layers)


def _linear_groups(layers: dict[str, nn.Module]) -> dict[str, LayerGroup]:
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    found = {part: [name for name in linear if re.fullmatch(pattern, name)] for part, pattern in _NAMES.items()}
    return {part: _group(names, "linear") for part, names in found.items() if names}


def _convolution_groups(layers: dict[str, nn.Module]) -> dict[str, LayerGroup]:
    found = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Conv2d)}
    adaptable = [name for name, layer in found.items() if _is_adaptable(layer)]
    groups = {"any_convolution": _group(list(found), "any convolution")} if found else {}
    return {"convolution": _group(adaptable, "convolution"), **groups} if adaptable else groups


def _is_adaptable(layer: nn.Conv2d) -> bool:
    """Whether the library's update of a convolution, which has neither its dilation nor its padding mode, fits it."""
    is_plain = type(layer).__name__ in _PLAIN and layer.padding_mode == "zeros"
    return is_plain and layer.groups == 1 and layer.dilation == (1, 1)


def _group(names: list[str], kind: LayerKind) -> LayerGroup:
    """These layers and no others."""
    return LayerGroup("|".join(re.escape(name) for name in names), len(names), kind)


def _biases(module: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """Of BitFit: an extension, or refused."""
    number = sum(name.endswith("bias") for name, _ in module.named_parameters())
    if number:
        return {"BitFit": f"not in the paper: trains its {number} biases"}, {}
    return {}, {"BitFit": "it has no biases"}


def _extension(strategy: str, groups: dict[str, LayerGroup]) -> str:
    counted = " and ".join(f"{group.count} of {name.replace('_', ' ')}" for name, group in groups.items())
    fused = _FUSED[strategy] if "qkv" in groups else ""
    return f"not in the paper: {_DOES[strategy]} {counted}{fused}"


def _reason(strategy: str, module: nn.Module) -> str:
    if any(isinstance(layer, nn.MultiheadAttention) for layer in module.modules()):
        return _PACKED
    return _NONE[strategy]
