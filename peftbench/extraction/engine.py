"""A frozen encoder on its device: shaped pictures in, all outputs of one forward pass out.

Every forward pass sees a batch of the same shape and, on the processor, runs in one thread, because libraries choose
their kernels by both: so a row depends neither on where an interrupted run took up again nor on the number of cores.
"""

import copy
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.device import Precision, autocast, sent_back
from peftbench.backbones.folding import folded
from peftbench.backbones.loading import Encoder

Outputs = dict[str, npt.NDArray[np.float32]]
"""Name of an output to its rows."""


def graph_of(card: BackboneCard, device: torch.device, precision: Precision, *, compiled: bool) -> str:
    """What was done to the network before it ran, as the recipe says it."""
    done = {"folded": card.folds, "unfused": is_unfused(card, device, precision), "compiled": compiled}
    return "+".join(step for step, was in done.items() if was) or "eager"


def is_unfused(card: BackboneCard, device: torch.device, precision: Precision) -> bool:
    """Whether attention is computed by matrix products: the fused kernel is slow in bf16 on a processor."""
    return card.unfused and device.type == "cpu" and precision == "bf16"


def _prepared(encoder: Encoder, device: torch.device, precision: Precision) -> nn.Module:
    """The module as it is to run; a copy where it is changed, since others may use it as it is."""
    if encoder.card.folds:
        return folded(encoder.module)
    if is_unfused(encoder.card, device, precision):
        module: Any = copy.deepcopy(encoder.module)
        module.set_attn_implementation("eager")
        unfused: nn.Module = module
        return unfused
    return encoder.module


class Launched(NamedTuple):
    """Outputs on their way: tensors in the processor's memory, and the moment from which on they are there.

    Attributes:
        outputs: (batch_size, ...) float32 of each output.
        arrived: of a GPU that is still computing; None where they are there.
    """

    outputs: dict[str, torch.Tensor]
    arrived: torch.cuda.Event | None

    def fetched(self) -> Outputs:
        """The outputs as arrays; waits until they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return {name: tensor.numpy() for name, tensor in self.outputs.items()}


class Engine:
    """Computes all outputs of the backbone's card from one forward pass; may be used by several threads.

    Args:
        encoder: the backbone.
        device: where it runs.
        precision: of the forward pass.
        batch_size: pictures in a forward pass.
        compiled: whether torch compiles the network first.
    """

    def __init__(
        self, encoder: Encoder, device: torch.device, precision: Precision, batch_size: int, *, compiled: bool = False
    ) -> None:
        self.encoder = encoder
        self.card = encoder.card
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.compiled = compiled
        self._layout = torch.channels_last if self.card.channels_last else torch.contiguous_format
        self._module = _prepared(encoder, device, precision).to(device)
        if self.card.channels_last:
            self._module = self._module.to(memory_format=torch.channels_last)
        self._outputs = torch.compile(self._uncompiled) if compiled else self._uncompiled
        self._own = threading.local()

    def embed(self, pixels: torch.Tensor) -> Outputs:
        """Shaped pictures (batch_size, crop, crop) uint8 to (batch_size, ...) float32 of each output."""
        return self.launch(pixels).fetched()

    def launch(self, pixels: torch.Tensor) -> Launched:
        """As `embed`, but does not wait for a GPU.

        The copy back is queued behind this forward pass, and so does not wait for the next one.
        """
        there = pixels.to(self.device, non_blocking=True)
        outputs = self.forward(self.card.transform.normalise(there, self._buffer()))
        if self.device.type != "cuda":
            # Copied: an output may be a view of the input, which the next batch overwrites, or hold a larger tensor.
            return Launched({name: each.to(torch.float32, copy=True) for name, each in outputs.items()}, None)
        here, arrived = sent_back([each.float() for each in outputs.values()])
        return Launched(dict(zip(outputs, here, strict=True)), arrived)

    @torch.inference_mode()
    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised input (batch_size, 3, crop, crop) to (batch_size, ...) of each output, on the device."""
        with autocast(self.device, self.precision):
            return dict(self._outputs(batch))

    def _uncompiled(self, batch: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return self.encoder.loader.outputs(self._module, batch)

    def _buffer(self) -> torch.Tensor:
        """The input, made once a thread."""
        if not hasattr(self._own, "buffer"):
            crop = self.card.transform.crop
            empty = torch.zeros((self.batch_size, 3, crop, crop), dtype=torch.float32, device=self.device)
            self._own.buffer = empty.to(memory_format=self._layout)
        buffer: torch.Tensor = self._own.buffer
        return buffer
