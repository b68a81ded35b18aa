"""Batch norms folded into convolutions: every pair, the same function, and the module that was given left as it was."""

import pytest
import torch
from tiny_kit import NAMES, Tiny, golden_pixels, tiny
from torch import nn

from peftbench.backbones.cards import CARDS
from peftbench.backbones.folding import folded
from peftbench.backbones.loading import Encoder, find_loader, tensors_digest
from peftbench.backbones.registry import BackboneSpec
from peftbench.extraction.engine import Engine, graph_of

pytestmark = pytest.mark.slow

CLOSE = 1e-5

FOLDS = [name for name in NAMES if CARDS[name].folds]


@pytest.fixture(params=FOLDS)
def backbone(request: pytest.FixtureRequest) -> Tiny:
    return tiny(request.param)


def count(module: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(each, kind) for each in module.modules())


@pytest.mark.parametrize(
    ("name", "norms", "left"),
    [
        # A norm for each convolution.
        ("resnet18", 20, 0),
        ("resnet50", 53, 0),
        ("medclip-resnet50", 53, 0),
        ("efficientnet-lite0", 49, 0),
        # norm0 and the second norm of each of 58 layers follow a convolution; the others come before theirs.
        ("densenet121", 121, 121 - 59),
    ],
)
def test_every_norm_that_follows_its_convolution_is_folded(name: str, norms: int, left: int) -> None:
    module = find_loader(CARDS[name]).build().eval()
    assert count(module, nn.BatchNorm2d) == norms
    assert count(folded(module), nn.BatchNorm2d) == left


def test_it_computes_the_same(backbone: Tiny) -> None:
    module, pixels = backbone.module(), golden_pixels(backbone.card)
    expected, found = backbone.outputs(module, pixels), backbone.outputs(folded(module), pixels)
    for name, value in expected.items():
        assert float((found[name] - value).abs().max() / value.abs().max()) < CLOSE
    assert not all(torch.equal(found[name], value) for name, value in expected.items()), "folding is in the key"


def test_activations_inside_a_norm_are_kept() -> None:
    """timm's norms hold theirs; without them a negative number would come through."""
    backbone = tiny("efficientnet-lite0")
    module, slim = backbone.module(), folded(backbone.module())
    assert count(slim, nn.ReLU6) == count(module, nn.ReLU6) == 33
    pixels = golden_pixels(backbone.card, 1)
    with torch.inference_mode():
        stem = slim.bn1(slim.conv_stem(pixels))  # type: ignore[operator]
    assert float(stem.min()) == 0
    assert float(stem.max()) <= 6


def test_the_module_that_was_given_is_left_as_it_was(backbone: Tiny) -> None:
    module, pixels = backbone.module(), golden_pixels(backbone.card, 1)
    before, names = tensors_digest(module.state_dict()), [name for name, _ in module.named_modules()]
    expected = backbone.outputs(module, pixels)
    slim = folded(module)
    with torch.no_grad():
        for each in slim.parameters():
            each.zero_()
    assert tensors_digest(module.state_dict()) == before
    assert [name for name, _ in module.named_modules()] == names
    found = backbone.outputs(module, pixels)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_is_frozen_stays_frozen(backbone: Tiny) -> None:
    module = backbone.module().requires_grad_(requires_grad=False)
    assert not any(each.requires_grad for each in folded(module).parameters())


def test_a_norm_after_anything_else_is_left_alone() -> None:
    """Behind a rectifier, and a norm without statistics."""
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4, track_running_stats=False),
    ).eval()
    pixels = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    slim = folded(module)
    assert count(slim, nn.BatchNorm2d) == 2
    with torch.inference_mode():
        assert torch.equal(slim(pixels), module(pixels))


class TestGraph:
    @staticmethod
    def encoder(name: str, module: nn.Module) -> Encoder:
        backbone = tiny(name)
        return Encoder(BackboneSpec(name), backbone.card, backbone.loader, module, "0" * 64)

    @pytest.mark.parametrize("name", NAMES)
    def test_the_recipe_says_so_where_a_card_does(self, name: str) -> None:
        encoder = self.encoder(name, nn.Identity())
        found = [graph_of(encoder.card, torch.device("cpu"), "fp32", compiled=each) for each in (False, True)]
        assert found == (["folded", "folded+compiled"] if CARDS[name].folds else ["eager", "compiled"])

    @pytest.mark.parametrize("folds", [True, False])
    def test_only_what_a_card_promises_is_folded(self, folds: bool) -> None:
        encoder = self.encoder("resnet18", tiny("resnet18").module())
        object.__setattr__(encoder, "card", encoder.card.model_copy(update={"folds": folds}))
        engine = Engine(encoder, torch.device("cpu"), "fp32", 1)
        assert (count(engine._module, nn.BatchNorm2d) == 0) is folds
        assert count(encoder.module, nn.BatchNorm2d) == 12

    def test_the_convolutional_ones_fold_and_no_other(self) -> None:
        assert FOLDS == ["resnet18", "resnet50", "densenet121", "medclip-resnet50", "efficientnet-lite0"]
