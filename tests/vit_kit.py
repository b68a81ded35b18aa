"""A real Vision Transformer, small: DINOv2's architecture from transformers, with seeded random weights."""

from collections.abc import Mapping

import torch
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from peftbench.backbones.card import BackboneCard, Output
from peftbench.backbones.loading import StateDict, load_strictly
from peftbench.backbones.tokens import BLOCKS, token_outputs
from peftbench.imaging.transform import InputTransform

WIDTH, DEPTH = 32, 6

VIT = BackboneCard(
    name="vit",
    title="Tiny Vision Transformer",
    family="FM",
    architecture="transformers:Dinov2Model(test)",
    pretraining="none",
    data="none",
    checkpoint=None,
    found_by="a seed",
    licence="none",
    parameters=57_056,
    parameters_with_head=57_056,
    outputs=(
        Output("embedding", "norm|cls", (WIDTH,)),
        Output("patch_mean", "norm|mean of patches", (WIDTH,)),
        Output("block_cls", "last 4 blocks, norm|cls", (BLOCKS, WIDTH)),
    ),
    transform=InputTransform(30, 28, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    loader="vit_kit:TinyViT",
    libraries=("torch", "transformers"),
)


def dinov2(blocks: int = DEPTH) -> Dinov2Model:
    """Untrained, for pictures of 28 pixels in patches of 7."""
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=blocks, num_attention_heads=4, mlp_ratio=2, image_size=28, patch_size=7
    )
    model = Dinov2Model(config)
    # A norm that does nothing and blocks that hardly do would let wrong tokens pass for right ones.
    for name, parameter in model.named_parameters():
        if "norm" in name or "layer_scale" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


class Pooled(nn.Module):
    """The model as an encoder: pictures to class tokens after the final norm."""

    def __init__(self, blocks: int = DEPTH) -> None:
        super().__init__()
        self.model = dinov2(blocks)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.model(pixel_values=pixels).pooler_output
        return pooled


class TinyViT:
    """Loader of `VIT`."""

    def build(self) -> nn.Module:
        return Pooled()

    def load(self, tensors: StateDict) -> nn.Module:
        return load_strictly(self.build(), tensors)

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return token_outputs(module.model, pixels, module.model.layernorm)

    def pretrained(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(999)
            return self.build()
