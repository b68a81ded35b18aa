"""What the transformers library does for all its vision models: build one, and load tensors of any age into it.

The library knows the names that its models had in earlier versions and renames them. It forgives what is missing or
too much; here both are errors.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from peftbench.backbones.loading import StateDict, refuse_faults

FUSED = {"attn_implementation": "sdpa"}
"""Option of a model: torch's fused attention, the fastest that is everywhere."""

COUNTERS = ("position_ids", "relative_position_index")
"""What older versions saved though it is computed: nothing that was learnt."""


def build(kind: type[PreTrainedModel], config: PretrainedConfig, options: Mapping[str, Any]) -> nn.Module:
    """An untrained model."""
    make: Any = kind._from_config  # noqa: SLF001 - no public name
    module: nn.Module = make(config, **options)
    return module


def load(
    kind: type[PreTrainedModel], config: PretrainedConfig, options: Mapping[str, Any], tensors: StateDict
) -> nn.Module:
    """A model with these tensors, under today's names or those of earlier versions.

    Raises:
        WeightsError: some are missing, unexpected or of another shape; the message lists them.
    """
    # Copied, because tensors may be views of a file: whoever rewrites that would change the model under our hands.
    learnt = {name: tensor.clone() for name, tensor in tensors.items() if not name.endswith(COUNTERS)}
    make: Any = kind.from_pretrained
    with quiet():
        module, told = make(
            None,
            config=config,
            state_dict=learnt,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    refuse_faults(faults_of(told))
    loaded: nn.Module = module
    return loaded


def faults_of(told: Mapping[str, Any]) -> list[str]:
    """What the library said of a load: tensors that are missing, unexpected, or of another shape."""
    return [
        *(f"missing {name}" for name in sorted(told["missing_keys"])),
        *(f"unexpected {name}" for name in sorted(told["unexpected_keys"])),
        *(f"{name} is {tuple(is_)}, expected {tuple(of)}" for name, is_, of in sorted(told["mismatched_keys"])),
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's own bar and warnings: what is wrong is raised."""
    library: Any = logging
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
