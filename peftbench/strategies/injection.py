"""Adapters of the PEFT library, put into a module in place."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

_KNOWN = ("Specified to not save vera_A and vera_B", "`is_gradient_checkpointing` is deprecated")


def inject(module: nn.Module, config: PeftConfig, seed: int) -> nn.Module:
    """The same module, with adapters in the place of its targets; what is drawn for them follows from the seed.

    Adapters are drawn on the processor wherever the module is, so that a seed means the same on every device. The
    processor's random state stays as it was.
    """
    with torch.random.fork_rng(devices=[]), without_known_warnings():
        torch.manual_seed(seed)
        wrapped: Any = get_peft_model(module, config).base_model
    adapted: nn.Module = wrapped.model
    return adapted


def adapters_of(module: nn.Module) -> dict[str, BaseTunerLayer]:
    """The adapted layers, by their dotted names."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """Without what is meant so (VeRA's shared matrices are not saved), or is between two libraries and not our call."""
    with warnings.catch_warnings():
        for message in _KNOWN:
            warnings.filterwarnings("ignore", message=message)
        yield
