"""What is stored of a Vision Transformer: the outputs that DINOv2's linear evaluation reads.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023: a linear head on the class token, on
it and the mean patch token, or on the class tokens of the last four blocks, each after the final norm.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

BLOCKS = 4
"""Blocks whose class tokens are stored, counted from the last."""


def token_outputs(
    model: nn.Module, pixels: torch.Tensor, norm: nn.Module, prefix: int = 1, *, normed: bool = True
) -> Mapping[str, torch.Tensor]:
    """The outputs of one forward pass of a transformers vision model with a class token.

    Args:
        model: answers `last_hidden_state` and, asked for them, `hidden_states`.
        pixels: (n, 3, height, width).
        norm: the model's final norm, which the hidden states of its blocks have not passed.
        prefix: tokens before those of the patches: the class token, and registers where there are any.
        normed: whether its last hidden state has passed the final norm (DINOv2's has, CLIP's has not).

    Returns:
        `embedding` (n, d): the class token; `patch_mean` (n, d): the mean of the patch tokens; `block_cls` (n, 4, d):
        the class tokens of the last four blocks, the last one last, which equals `embedding`.

    Raises:
        ValueError: the model has fewer blocks.
    """
    answer: Any = model(pixel_values=pixels, output_hidden_states=True)
    # The first hidden state is what goes into the first block.
    blocks = answer.hidden_states[1:]
    if len(blocks) < BLOCKS:
        raise ValueError(f"the model has {len(blocks)} blocks, {BLOCKS} are stored")
    last = answer.last_hidden_state if normed else norm(answer.last_hidden_state)
    return {
        "embedding": last[:, 0],
        "patch_mean": last[:, prefix:].mean(dim=1),
        "block_cls": torch.stack([norm(block[:, 0]) for block in blocks[-BLOCKS:]], dim=1),
    }
