"""Vision Transformers with a class token: DINOv2, CLIP, PubMedCLIP, BioMedCLIP.

All are built by the transformers library, so that one set of layer names serves all. CLIP-Large and BioMedCLIP were
published for open_clip and timm: their tensors are renamed, and the packed projections of attention cut in three.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    PretrainedConfig,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

from peftbench.backbones import transformer
from peftbench.backbones.loading import StateDict
from peftbench.backbones.tokens import token_outputs

_OPEN_CLIP = (
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^ln_post\.", "post_layernorm."),
    (r"^transformer\.resblocks\.(\d+)\.", r"encoder.layers.\1."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.attn\.in_proj_(weight|bias)$", r".self_attn.{}_proj.\1"),
)
_TIMM = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.(\d+)\.", r"layers.\1."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.qkv\.(weight|bias)$", r".attention.{}_proj.\1"),
)


def from_open_clip(tensors: StateDict) -> StateDict:
    """open_clip's vision tower under the names of `CLIPVisionModel`; the projection is left behind."""
    return _renamed({name: tensor for name, tensor in tensors.items() if name != "proj"}, _OPEN_CLIP)


def from_timm(tensors: StateDict) -> StateDict:
    """Timm's Vision Transformer under the names of `ViTModel`."""
    return _renamed(tensors, _TIMM)


def _renamed(tensors: StateDict, rules: tuple[tuple[str, str], ...]) -> StateDict:
    """Names by rules, one after the other; where a new name has a gap, the tensor is q, k and v one below the other."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901 - each rule goes on from the last
        if "{}" in name:
            found |= {name.format(part): piece for part, piece in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            found[name] = tensor
    return found


def _same(tensors: StateDict) -> StateDict:
    return tensors


@dataclass(frozen=True)
class VisionTransformer:
    """Loader of a Vision Transformer.

    Attributes:
        kind: class of the transformers library.
        config: its architecture.
        norm: name of the final norm.
        normed: whether the model's last hidden state has passed it.
        renamed: the published tensors under names that the library knows.
        options: of the class.
    """

    kind: type[PreTrainedModel]
    config: PretrainedConfig
    norm: str
    normed: bool
    renamed: Callable[[StateDict], StateDict] = _same
    options: Mapping[str, Any] = field(default_factory=lambda: transformer.FUSED)

    def build(self) -> nn.Module:
        """The encoder, untrained."""
        return transformer.build(self.kind, self.config, self.options)

    def load(self, tensors: StateDict) -> nn.Module:
        """The encoder with the published tensors."""
        return transformer.load(self.kind, self.config, self.options, self.renamed(tensors))

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """The class token, the mean patch token, and the class tokens of the last four blocks."""
        return token_outputs(module, pixels, module.get_submodule(self.norm), normed=self.normed)


def _dinov2(hidden_size: int, num_hidden_layers: int, num_attention_heads: int) -> VisionTransformer:
    config = Dinov2Config(
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        image_size=518,
        patch_size=14,
    )
    return VisionTransformer(Dinov2Model, config, norm="layernorm", normed=True)


def dinov2_small() -> VisionTransformer:
    """ViT-S/14."""
    return _dinov2(384, 12, 6)


def dinov2_base() -> VisionTransformer:
    """ViT-B/14."""
    return _dinov2(768, 12, 12)


def dinov2_large() -> VisionTransformer:
    """ViT-L/14."""
    return _dinov2(1024, 24, 16)


def _clip(
    width: int, layers: int, patch: int, activation: str, renamed: Callable[[StateDict], StateDict] = _same
) -> VisionTransformer:
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        image_size=224,
        patch_size=patch,
        hidden_act=activation,
    )
    return VisionTransformer(CLIPVisionModel, config, "post_layernorm", normed=False, renamed=renamed)


def clip_large() -> VisionTransformer:
    """ViT-L/14 as open_clip trained it: with the exact gelu, where OpenAI's own has quick_gelu."""
    return _clip(1024, 24, 14, "gelu", from_open_clip)


def pubmedclip() -> VisionTransformer:
    """ViT-B/32, fine-tuned from OpenAI's CLIP and so with its quick_gelu."""
    return _clip(768, 12, 32, "quick_gelu")


def biomedclip() -> VisionTransformer:
    """ViT-B/16 as timm has it: norms with 1e-6, no pooling layer."""
    config = ViTConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=224,
        patch_size=16,
        layer_norm_eps=1e-6,
    )
    options = {**transformer.FUSED, "add_pooling_layer": False}
    return VisionTransformer(ViTModel, config, "layernorm", normed=True, renamed=from_timm, options=options)
