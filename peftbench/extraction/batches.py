"""How many pictures go into a forward pass: as many as pay off and fit into memory.

The number is part of a store's key. So where features of the same recipe exist already, their number is taken again,
however much memory happens to be free today.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peftbench.backbones.loading import Encoder
from peftbench.backbones.memory import free_memory
from peftbench.errors import DeviceError
from peftbench.extraction.engine import Engine
from stores.errors import StoreError
from stores.features import FeatureStore
from stores.recipe import FeatureRecipe

CPU_BATCH = 16
"""On a processor larger ones are no faster."""

GPU_BATCH = 256

ALIVE = 4
"""Tensors of the size of a layer's largest output that a forward pass holds at a time, about."""

SHARE = 0.5
"""Of the free memory that extraction may take."""


def stored_batch_size(folders: list[Path], recipe_with: Callable[[int], FeatureRecipe]) -> int | None:
    """The batch size of the fullest store that differs from a recipe in nothing else; None where there is none."""
    fullest: tuple[int, int] | None = None
    for folder in folders:
        with contextlib.suppress(StoreError):
            store = FeatureStore.open(folder)
            size = store.recipe.batch_size
            if recipe_with(size).key == store.recipe.key:
                fullest = max(fullest or (0, 0), (len(store), size))
    return fullest[1] if fullest else None


def fitting_batch_size(encoder: Encoder, engine_of: Callable[[int], Engine], device: torch.device, threads: int) -> int:
    """The largest power of two that pays off and whose forward pass fits into memory.

    Args:
        encoder: the backbone.
        engine_of: makes an engine of a batch size.
        device: where it runs.
        threads: forward passes that run at a time on the processor.

    Raises:
        DeviceError: not even one picture fits.
    """
    if device.type == "cuda":
        return _fits_on_gpu(engine_of)
    free = free_memory()
    if free is None:
        return CPU_BATCH
    size = CPU_BATCH
    each = threads * ALIVE * largest_output(encoder)
    while size > 1 and size * each > SHARE * free:
        size //= 2
    return size


def _fits_on_gpu(engine_of: Callable[[int], Engine]) -> int:
    size = GPU_BATCH
    while size:
        try:
            _try(engine_of(size), size)
        except torch.cuda.OutOfMemoryError:
            size //= 2
            continue
        finally:
            torch.cuda.empty_cache()
        return size
    raise DeviceError("the backbone does not fit into the GPU's free memory: free some, or use --device cpu")


def _try(engine: Engine, size: int) -> None:
    """Two batches at once: one is fetched while the next one is computed."""
    crop = engine.card.transform.crop
    held = [engine.launch(torch.zeros((size, crop, crop), dtype=torch.uint8)) for _ in range(2)]
    for each in held:
        each.fetched()


def largest_output(encoder: Encoder) -> int:
    """Bytes of the largest tensor that any layer answers for one picture, in fp32."""
    sizes = [0]

    def note(_module: nn.Module, _inputs: Any, answer: Any) -> None:
        if isinstance(answer, torch.Tensor):
            sizes.append(answer.numel() * 4)

    leaves = [each for each in encoder.module.modules() if not list(each.children())]
    handles = [leaf.register_forward_hook(note) for leaf in leaves]
    crop = encoder.card.transform.crop
    try:
        with torch.inference_mode():
            encoder.loader.outputs(encoder.module, torch.zeros(1, 3, crop, crop))
    finally:
        for handle in handles:
            handle.remove()
    return max(sizes)
