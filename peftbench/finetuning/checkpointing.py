"""Activations computed anew in the backward pass instead of being kept: a third more time, a fraction of the memory.

Models of the transformers library know how; of others each block of a stage is wrapped. A block that is run again must
not move the running statistics of its batch norms again.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.checkpoint import checkpoint


def save_memory(module: nn.Module) -> None:
    """Have a backbone keep the inputs of its blocks only; works while it trains."""
    known: Any = module
    options = {"use_reentrant": False}
    if hasattr(module, "activation_checkpointing_enable"):
        known.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    elif hasattr(module, "gradient_checkpointing_enable"):
        # As releases of transformers before 5.2 call it.
        known.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    else:
        for block in blocks_of(module):
            block.forward = functools.partial(_again, block, block.forward)
    # The library's Swin marks its stages and their blocks, which would then run three times.
    for stage in set(_marked(module)) - set(checkpointed(module)):
        stage.gradient_checkpointing = False  # type: ignore[assignment]


def checkpointed(module: nn.Module) -> list[nn.Module]:
    """The blocks that are computed anew, innermost only; none where `save_memory` was not asked for."""
    wrapped = [each for each in module.modules() if isinstance(vars(each).get("forward"), functools.partial)]
    return wrapped or [each for each in _marked(module) if len(_marked(each)) == 1]


def _marked(module: nn.Module) -> list[nn.Module]:
    """Whom the transformers library would run anew, the module itself among them."""
    return [each for each in module.modules() if getattr(each, "gradient_checkpointing", False)]


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a convolutional network: what stands in a sequence, is none itself, and has layers of its own.

    An adapter is a layer with layers inside, and no block.
    """
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, BaseTunerLayer):
            continue
        composite = any(True for _ in child.children()) and not isinstance(child, nn.Sequential)
        found += [child] if composite and isinstance(module, nn.Sequential) else blocks_of(child)
    return found


def _again(block: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    if not block.training:
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=functools.partial(_contexts, block))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_held(block)


@contextmanager
def _statistics_held(block: nn.Module) -> Iterator[None]:
    norms: list[Any] = [each for each in block.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted
