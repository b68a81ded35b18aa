"""All stored outputs come from one forward pass, and are the tensors that the card names."""

from collections import Counter

import pytest
import torch
from torch import nn

from peftbench.backbones.card import BackboneCard, Output
from peftbench.backbones.cards import CARDS
from peftbench.backbones.loading import Encoder, load_encoder
from peftbench.backbones.registry import parse_backbone

pytestmark = pytest.mark.slow

PICTURES = 2


@pytest.fixture(scope="module", params=["resnet18@random:0", "densenet121@random:0", "efficientnet-lite0"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return load_encoder(parse_backbone(request.param))


@pytest.fixture(scope="module")
def pixels(encoder: Encoder) -> torch.Tensor:
    crop = encoder.card.transform.crop
    return torch.randn(PICTURES, 3, crop, crop, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def found(encoder: Encoder, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return dict(encoder.loader.outputs(encoder.module, pixels))


def hooked(module: nn.Module, pixels: torch.Tensor, names: list[str]) -> list[torch.Tensor]:
    """What the named layers answer in the module's own forward pass."""
    seen: dict[str, torch.Tensor] = {}

    def keeper(name: str) -> object:
        return lambda _module, _given, answer: seen.__setitem__(name, answer)

    hooks = [module.get_submodule(name).register_forward_hook(keeper(name)) for name in names]
    with torch.inference_mode():
        module(pixels)
    for hook in hooks:
        hook.remove()
    return [seen[name] for name in names]


def test_they_have_the_names_and_shapes_of_the_card(encoder: Encoder, found: dict[str, torch.Tensor]) -> None:
    assert list(found) == [output.name for output in encoder.card.outputs]
    for output in encoder.card.outputs:
        assert found[output.name].shape == (PICTURES, *output.shape)
        assert found[output.name].dtype == torch.float32


def test_the_embedding_is_the_modules_own_answer(
    encoder: Encoder, pixels: torch.Tensor, found: dict[str, torch.Tensor]
) -> None:
    with torch.inference_mode():
        assert torch.equal(found["embedding"], encoder.module(pixels))


def test_the_stages_are_the_averages_of_the_layers_that_the_card_names(
    encoder: Encoder, pixels: torch.Tensor, found: dict[str, torch.Tensor]
) -> None:
    tensors = {output.name: output.tensor for output in encoder.card.outputs}
    layers, pooling = tensors["stages"].split("|")
    assert pooling == "avgpool,concatenated"
    named = [name for name, _ in encoder.module.named_modules()]
    # DenseNet's blocks lie one module deeper than the card has to say.
    full = [next(name for name in named if name in {layer, f"features.{layer}"}) for layer in layers.split("+")]
    maps = hooked(encoder.module, pixels, full)
    sides = [each.shape[-1] for each in maps]
    assert sides == sorted(set(sides), reverse=True), "each stage is coarser than the one before"
    expected = torch.cat([each.flatten(2).sum(2) / each[0, 0].numel() for each in maps], dim=1)
    torch.testing.assert_close(found["stages"], expected, rtol=1e-4, atol=1e-5)


def test_every_convolution_is_computed_once(encoder: Encoder, pixels: torch.Tensor) -> None:
    passes: Counter[str] = Counter()
    layers = {name: each for name, each in encoder.module.named_modules() if isinstance(each, nn.Conv2d)}
    hooks = [each.register_forward_hook(lambda *_, name=name: passes.update([name])) for name, each in layers.items()]
    with torch.inference_mode():
        encoder.loader.outputs(encoder.module, pixels)
    for hook in hooks:
        hook.remove()
    assert passes == dict.fromkeys(layers, 1)


class TestCard:
    @pytest.mark.parametrize(
        "outputs",
        [
            (),
            (Output("stages", "layer1|avgpool", (64,)),),
            (Output("stages", "layer1|avgpool", (64,)), Output("embedding", "layer4|avgpool", (512,))),
            (Output("embedding", "layer4", (512, 7, 7)),),
            (Output("embedding", "layer4|avgpool", ()),),
        ],
    )
    def test_the_first_output_is_a_vector_called_embedding(self, outputs: tuple[Output, ...]) -> None:
        with pytest.raises(ValueError, match="first output of 'resnet18' must be a vector called 'embedding'"):
            BackboneCard(**{**dict(CARDS["resnet18"]), "outputs": outputs})
