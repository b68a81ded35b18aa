"""Models of the user's own: which layers are found in them, what that allows, and that it trains."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from peftbench.backbones import own_layers
from peftbench.backbones.card import BackboneCard
from peftbench.backbones.loading import find_loader, untrained
from peftbench.backbones.own_layers import fit, watched
from peftbench.backbones.registry import parse_backbone
from peftbench.errors import StrategyError
from peftbench.strategies.adapting import adapt, set_modes
from peftbench.strategies.counting import count_all
from peftbench.strategies.guard import Guard
from peftbench.strategies.matrix import RANKED, standing
from peftbench.strategies.options import Options
from peftbench.strategies.registry import STRATEGIES

ADAPTERS = ("LoRA", "VeRA", "IA3")


def card_of(name: str) -> BackboneCard:
    return parse_backbone(name).card


def counts(card: BackboneCard) -> dict[str, int]:
    return {name: group.count for name, group in card.layers.items()}


def awaken(module: nn.Module) -> None:
    """As training would: libraries begin with the last norm of each block at zero, behind which nothing learns."""
    for name, parameter in module.named_parameters():
        if name.endswith("weight") and parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)


def train_all(card: BackboneCard) -> dict[str, int]:
    """A step of all strategies that run, under guard: how many layers each adapts."""
    loader, layers = find_loader(card), {}
    side = card.transform.crop
    pixels = torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(0))
    for strategy in card.extensions:
        module = untrained(loader, 0).eval()
        awaken(module)
        with torch.no_grad():
            before = loader.outputs(module, pixels)["embedding"]
            adapted = adapt(module, card, strategy, Options(rank=2 if strategy in RANKED else None))
            after = loader.outputs(module, pixels)["embedding"]
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
        set_modes(adapted, training=True)
        guard = Guard.of(module)
        loader.outputs(module, pixels)["embedding"].square().sum().backward()
        assert guard.check_gradients() == ()
        guard.check_unchanged()
        layers[strategy] = adapted.layers
    return layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("own") / "swinv2"
    config = transformers.Swinv2Config(
        image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, drop_path_rate=0.0
    )
    transformers.Swinv2Model(config).save_pretrained(place)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(place)
    return place


class TestTimm:
    def test_attention_that_is_one_layer(self) -> None:
        card = card_of("timm:test_vit")
        blocks = counts(card)["qkv"]
        assert counts(card) == dict.fromkeys(["qkv", "output", "fc1", "fc2"], blocks)
        assert card.strategies == ("LP", "FFT")
        assert list(card.extensions) == ["BitFit", "LoRA", "VeRA", "IA3"]
        assert "share A" in card.extensions["LoRA"]
        assert "queries are scaled as well" in card.extensions["IA3"]
        assert all("not in the paper" in each for each in card.extensions.values())
        assert train_all(card) == {"BitFit": pytest.approx(6 * blocks, abs=9), **dict.fromkeys(ADAPTERS, 2 * blocks)}

    def test_convolutions(self) -> None:
        card = card_of("timm:test_resnet")
        found = counts(card)
        assert set(found) == {"convolution", "any_convolution"}
        assert "VeRA" in card.refused
        layers = train_all(card)
        assert (layers["LoRA"], layers["IA3"]) == (found["convolution"], found["any_convolution"])

    def test_untrained_ones_that_begin_with_blocks_switched_off_cannot_be_adapted(self) -> None:
        card = card_of("timm:test_resnet")
        loader = find_loader(card)
        adapted = adapt(untrained(loader, 0), card, "LoRA", Options(rank=2))
        set_modes(adapted, training=True)
        loader.outputs(adapted.module, torch.randn(2, 3, 32, 32))["embedding"].square().sum().backward()
        with pytest.raises(StrategyError, match=r"gradients are zero in 9 of 15 adapted layers.*would never learn"):
            Guard.of(adapted.module).check_gradients()

    def test_there_is_no_preset_of_the_paper(self) -> None:
        card = card_of("timm:test_vit")
        with pytest.raises(
            StrategyError, match=r"no targets 'paper' for 'timm:test_vit'.*choose the targets 'attention'"
        ):
            adapt(untrained(find_loader(card), 0), card, "LoRA", Options(rank=2, targets="paper"))
        assert {each.targets for each in count_all(card)} == {None, "attention"}


@pytest.mark.slow
class TestTorchvision:
    @pytest.mark.parametrize(("name", "reason"), [("vit_b_16", "MultiheadAttention"), ("swin_t", "known name")])
    def test_attention_whose_layers_are_never_called_is_refused(self, name: str, reason: str) -> None:
        card = card_of(f"torchvision:{name}")
        assert counts(card) == {}
        assert set(card.refused) == set(ADAPTERS)
        assert all(reason in each for each in card.refused.values())
        assert list(card.extensions) == ["BitFit"]
        with pytest.raises(StrategyError, match=r"LoRA does not fit the backbone .*choose one of LP, FFT, BitFit"):
            adapt(untrained(find_loader(card), 0), card, "lora", Options(rank=2))

    def test_convolutions_with_groups_are_scaled_and_not_updated(self) -> None:
        card = card_of("torchvision:mobilenet_v3_small")
        assert counts(card) == {"convolution": 41, "any_convolution": 52}
        assert train_all(card)["LoRA"] == 41


def test_a_folder_with_names_of_an_earlier_version(folder: Path) -> None:
    card = card_of(f"hf:{folder}")
    assert counts(card) == dict.fromkeys(["query", "key", "value", "output", "fc1", "fc2"], 2)
    layers = train_all(card)
    assert (layers["LoRA"], layers["VeRA"], layers["IA3"]) == (8, 8, 6)


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_resnet"])
def test_every_strategy_is_in_one_place_of_the_card(name: str) -> None:
    card = card_of(name)
    assert sorted([*card.strategies, *card.extensions, *card.refused]) == sorted(STRATEGIES)
    assert all(standing(card, each).reason for each in STRATEGIES if each not in ("LP", "FFT"))


class _Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 3, bias=False)
        self.dilated = nn.Conv2d(4, 4, 3, dilation=2, bias=False)
        self.mirrored = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", bias=False)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2, bias=False)
        self.aside = nn.Conv2d(4, 4, 3, bias=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.grouped(self.mirrored(self.dilated(self.plain(pixels))))
        return found


class TestFound:
    def test_convolutions_whose_update_would_not_fit_are_left_out(self) -> None:
        """The library's update of a convolution has neither its dilation nor its padding mode."""
        module = _Convolutions()
        with watched(module) as called:
            module(torch.zeros(1, 3, 16, 16))
        found = fit(module, called)
        assert found.layers["convolution"].pattern == "plain"
        assert found.layers["any_convolution"].count == 4
        assert found.refused["BitFit"] == "it has no biases"
        assert not any(each._forward_hooks for each in module.modules()), "nothing is left behind"

    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("layers.0.attention.q_proj", "query"),
            ("blocks.1.attn.q", "query"),
            ("attention.self.key", "key"),
            ("v_proj", "value"),
            ("self_attn.out_proj", "output"),
            ("blocks.0.attn.proj", "output"),
            ("layer.0.attention.output.dense", "output"),
            ("layer.0.output.dense", "fc2"),
            ("output.dense", "fc2"),
            ("layer.0.intermediate.dense", "fc1"),
            ("mlp.fc1", "fc1"),
            ("mlp.down_proj", "fc2"),
            ("stage.proj", None),
            ("pooler.dense", None),
            ("downsample.reduction", None),
        ],
    )
    def test_a_name_has_one_part(self, name: str, part: str | None) -> None:
        found = own_layers._linear_groups({name: nn.Linear(2, 2)})
        assert list(found) == ([part] if part else [])
