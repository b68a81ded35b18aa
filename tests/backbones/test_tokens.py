"""What is stored of a Vision Transformer, against hooks in a real one."""

from collections.abc import Mapping

import pytest
import torch
from transformers import Dinov2Model
from vit_kit import DEPTH, WIDTH, dinov2

from peftbench.backbones.tokens import BLOCKS, token_outputs

PICTURES = 3


@pytest.fixture(scope="module")
def model() -> Dinov2Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dinov2()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(PICTURES, 3, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def tokens(model: Dinov2Model, pixels: torch.Tensor) -> list[torch.Tensor]:
    """All tokens behind each block, (n, 1 + patches, d), as hooks see them."""
    seen: list[torch.Tensor] = []

    def keep(_module: object, _given: object, answer: object) -> None:
        seen.append(answer[0] if isinstance(answer, tuple) else answer)

    hooks = [block.register_forward_hook(keep) for block in model.encoder.layer]
    with torch.inference_mode():
        model(pixel_values=pixels)
    for hook in hooks:
        hook.remove()
    assert len(seen) == DEPTH
    return seen


@pytest.fixture(scope="module")
def found(model: Dinov2Model, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
    with torch.inference_mode():
        return token_outputs(model, pixels, model.layernorm)


def test_the_embedding_is_what_the_model_itself_pools(
    model: Dinov2Model, pixels: torch.Tensor, found: Mapping[str, torch.Tensor]
) -> None:
    with torch.inference_mode():
        assert torch.equal(found["embedding"], model(pixel_values=pixels).pooler_output)
    assert found["embedding"].shape == (PICTURES, WIDTH)


@torch.inference_mode()
def test_the_patches_are_averaged_after_the_norm_and_without_the_class_token(
    model: Dinov2Model, tokens: list[torch.Tensor], found: Mapping[str, torch.Tensor]
) -> None:
    assert tokens[-1].shape == (PICTURES, 1 + 16, WIDTH)
    expected = model.layernorm(tokens[-1])[:, 1:].sum(dim=1) / 16
    torch.testing.assert_close(found["patch_mean"], expected)


@torch.inference_mode()
def test_the_class_tokens_are_those_of_the_last_blocks_in_their_order_after_the_norm(
    model: Dinov2Model, tokens: list[torch.Tensor], found: Mapping[str, torch.Tensor]
) -> None:
    assert found["block_cls"].shape == (PICTURES, BLOCKS, WIDTH)
    for place, block in enumerate(tokens[-BLOCKS:]):
        torch.testing.assert_close(found["block_cls"][:, place], model.layernorm(block)[:, 0])
    assert torch.equal(found["block_cls"][:, -1], found["embedding"])


def test_no_two_of_them_are_the_same(found: Mapping[str, torch.Tensor]) -> None:
    """Else the comparisons above would not tell one from the other."""
    every = [found["patch_mean"], *found["block_cls"].unbind(1)]
    for first, one in enumerate(every):
        for other in every[first + 1 :]:
            assert (one - other).abs().amax(dim=1).min() > 0.01


def test_one_forward_pass_gives_them_all(model: Dinov2Model, pixels: torch.Tensor) -> None:
    passes = []
    hooks = [block.register_forward_hook(lambda *_: passes.append(1)) for block in model.encoder.layer]
    with torch.inference_mode():
        token_outputs(model, pixels, model.layernorm)
    for hook in hooks:
        hook.remove()
    assert len(passes) == DEPTH


@pytest.mark.parametrize("blocks", [1, BLOCKS - 1])
def test_a_model_of_too_few_blocks_is_refused(pixels: torch.Tensor, blocks: int) -> None:
    shallow = dinov2(blocks)
    with pytest.raises(ValueError, match=f"the model has {blocks} blocks, {BLOCKS} are stored"):
        token_outputs(shallow, pixels, shallow.layernorm)


def test_as_many_blocks_as_are_stored_are_enough(pixels: torch.Tensor) -> None:
    shallow = dinov2(BLOCKS)
    with torch.inference_mode():
        assert token_outputs(shallow, pixels, shallow.layernorm)["block_cls"].shape == (PICTURES, BLOCKS, WIDTH)
