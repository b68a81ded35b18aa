"""MedCLIP's Swin Transformer: windows instead of a class token, four stages of falling resolution."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import SwinConfig, SwinModel

from peftbench.backbones import transformer
from peftbench.backbones.loading import StateDict


@dataclass(frozen=True)
class Swin:
    """Loader of a Swin Transformer.

    Attributes:
        config: its architecture; by default the tiny one, patches of 4, windows of 7.
    """

    config: SwinConfig = field(default_factory=SwinConfig)

    def build(self) -> nn.Module:
        """The encoder, untrained."""
        return transformer.build(SwinModel, self.config, transformer.FUSED)

    def load(self, tensors: StateDict) -> nn.Module:
        """The encoder with the published tensors."""
        return transformer.load(SwinModel, self.config, transformer.FUSED, tensors)

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """The mean of the normed tokens, and the mean of the tokens after each of the stages."""
        answer: Any = module(pixel_values=pixels, output_hidden_states=True)
        # The first hidden state is what goes into the first stage.
        stages = [each.mean(dim=1) for each in answer.hidden_states[1:]]
        return {"embedding": answer.pooler_output, "stages": torch.cat(stages, dim=1)}


def medclip_swin() -> Swin:
    """Swin-T."""
    return Swin()
