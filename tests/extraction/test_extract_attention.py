"""Attention by matrix products: where it is chosen, that it is in the key, and what it keeps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from extraction_kit import run
from transformers import Dinov2Config, Dinov2Model
from vit_kit import VIT, WIDTH

from peftbench.backbones.cards import CARDS
from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import parse_backbone
from peftbench.backbones.vit import VisionTransformer
from peftbench.extraction.engine import Engine, graph_of
from peftbench.extraction.fidelity import cosines
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def tiny() -> VisionTransformer:
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=6, num_attention_heads=4, mlp_ratio=2, image_size=28, patch_size=7
    )
    return VisionTransformer(Dinov2Model, config, "layernorm", normed=True)


@pytest.fixture(autouse=True)
def unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CARDS, VIT.name, VIT.model_copy(update={"unfused": True, "loader": f"{__name__}:tiny"}))


def test_it_is_chosen_in_bf16_on_a_processor_alone() -> None:
    card = CARDS[VIT.name]
    assert graph_of(card, CPU, "bf16", compiled=False) == "unfused"
    assert graph_of(card, CPU, "bf16", compiled=True) == "unfused+compiled"
    assert graph_of(card, CPU, "fp32", compiled=False) == "eager"
    assert graph_of(card, GPU, "bf16", compiled=False) == "eager"
    assert graph_of(VIT, CPU, "bf16", compiled=False) == "eager"


@pytest.mark.parametrize("name", ["dinov2-s", "dinov2-b", "dinov2-l", "clip-large", "pubmedclip", "biomedclip"])
def test_it_is_chosen_for_vision_transformers_with_a_class_token(name: str) -> None:
    assert CARDS[name].unfused


def test_the_key_says_so(place: Workspace) -> None:
    graphs = [FeatureStore.open(Path(run(place, "vit@random:0", precision=each).store)).recipe.graph
              for each in ("bf16", "fp32")]  # fmt: skip
    assert graphs == ["unfused", "eager"]


def test_features_are_those_of_the_fused_kernel_and_the_encoder_stays_as_it_was() -> None:
    encoder = load_encoder(parse_backbone("vit@random:0"))
    crop = encoder.card.transform.crop
    pixels = torch.arange(2 * crop * crop).remainder(251).reshape(2, crop, crop).to(torch.uint8)
    exact = Engine(encoder, CPU, "fp32", 2)
    before = exact.embed(pixels)
    quick = Engine(encoder, CPU, "bf16", 2).embed(pixels)
    assert encoder.module.config._attn_implementation == "sdpa"
    for name, rows in exact.embed(pixels).items():
        np.testing.assert_array_equal(rows, before[name])
    assert cosines(before["embedding"], quick["embedding"]).min() > 0.999
