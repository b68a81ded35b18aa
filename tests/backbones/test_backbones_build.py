"""Every backbone is built, and answers what its card says: small ones always, those of full size where asked for.

What they compute is held against their originals in `test_parity.py`, and against what they computed before in
`test_golden_features.py`.
"""

import itertools
from collections.abc import Mapping

import pytest
import torch
from layout_kit import layout, seeded_pixels
from tiny_kit import NAMES, Tiny, golden_pixels, tiny
from torch import nn

from peftbench.backbones import loading
from peftbench.backbones.cards import CARDS
from peftbench.backbones.loading import find_loader, load_encoder, tensors_digest, untrained
from peftbench.backbones.registry import BackboneSpec, parse_backbone

pytestmark = pytest.mark.slow

Outputs = Mapping[str, torch.Tensor]

WITH_TOKENS = [name for name in NAMES if CARDS[name].outputs[-1].name == "block_cls"]
CLIPS = ["clip-large", "pubmedclip"]
LARGEST = ["dinov2-l", "clip-large"]
NORMED = [name for name in NAMES if name.startswith(("resnet", "densenet", "medclip-resnet", "efficientnet"))]
"""With batch norms."""


@pytest.fixture(scope="module", params=NAMES)
def backbone(request: pytest.FixtureRequest) -> Tiny:
    return tiny(request.param)


@pytest.fixture(scope="module")
def module(backbone: Tiny) -> nn.Module:
    return backbone.module()


@pytest.fixture(scope="module")
def pixels(backbone: Tiny) -> torch.Tensor:
    return golden_pixels(backbone.card)


@pytest.fixture(scope="module")
def found(backbone: Tiny, module: nn.Module, pixels: torch.Tensor) -> Outputs:
    return backbone.outputs(module, pixels)


def test_all_of_the_registry_are_here() -> None:
    assert list(CARDS) == NAMES
    assert WITH_TOKENS == ["dinov2-s", "dinov2-b", "dinov2-l", "clip-large", "pubmedclip", "biomedclip"]
    assert len(NORMED) == 5


class TestOutputs:
    def test_they_have_the_names_and_shapes_of_the_card(self, backbone: Tiny, found: Outputs) -> None:
        assert {name: tuple(value.shape[1:]) for name, value in found.items()} == {
            output.name: output.shape for output in backbone.card.outputs
        }
        assert list(found) == [output.name for output in backbone.card.outputs]
        assert {len(value) for value in found.values()} == {3}
        assert {value.dtype for value in found.values()} == {torch.float32}

    def test_every_picture_has_its_own(self, found: Outputs) -> None:
        for value in found.values():
            rows = value.flatten(1)
            assert bool(rows.isfinite().all())
            apart = min(float((rows[a] - rows[b]).abs().max()) for a, b in itertools.combinations(range(len(rows)), 2))
            assert apart > 1e-3

    def test_a_picture_does_not_depend_on_its_neighbours(
        self, backbone: Tiny, module: nn.Module, pixels: torch.Tensor, found: Outputs
    ) -> None:
        alone = backbone.outputs(module, pixels[1:2])
        for name, value in found.items():
            torch.testing.assert_close(alone[name], value[1:2], rtol=1e-4, atol=1e-5)

    def test_asking_again_changes_nothing(
        self, backbone: Tiny, module: nn.Module, pixels: torch.Tensor, found: Outputs
    ) -> None:
        before = tensors_digest(module.state_dict())
        again = backbone.outputs(module, pixels)
        assert all(torch.equal(again[name], value) for name, value in found.items())
        assert tensors_digest(module.state_dict()) == before

    @pytest.mark.parametrize("name", WITH_TOKENS)
    def test_the_last_blocks_class_token_is_the_embedding(self, name: str) -> None:
        backbone = tiny(name)
        found = backbone.outputs(backbone.module(), golden_pixels(backbone.card))
        torch.testing.assert_close(found["block_cls"][:, -1], found["embedding"], rtol=0, atol=1e-6)
        for block in range(3):
            assert float((found["block_cls"][:, block] - found["embedding"]).abs().max()) > 0.01

    @pytest.mark.parametrize("name", CLIPS)
    def test_clips_embedding_is_its_class_token_after_the_last_norm(self, name: str) -> None:
        """`last_hidden_state` of CLIP has not passed it; of all others it has."""
        backbone = tiny(name)
        module, pixels = backbone.module(), golden_pixels(backbone.card)
        embedding = backbone.outputs(module, pixels)["embedding"]
        with torch.inference_mode():
            answer = module(pixel_values=pixels)
        assert torch.equal(embedding, answer.pooler_output)
        assert float((embedding - answer.last_hidden_state[:, 0]).abs().max()) > 0.01

    @pytest.mark.parametrize("name", [name for name in WITH_TOKENS if name not in CLIPS])
    def test_of_the_others_it_is_the_last_hidden_states(self, name: str) -> None:
        backbone = tiny(name)
        module, pixels = backbone.module(), golden_pixels(backbone.card)
        with torch.inference_mode():
            answer = module(pixel_values=pixels)
        assert torch.equal(backbone.outputs(module, pixels)["embedding"], answer.last_hidden_state[:, 0])

    def test_swins_stages_are_the_means_over_what_each_stage_passes_on(self) -> None:
        backbone = tiny("medclip-swin")
        module, pixels = backbone.module(), golden_pixels(backbone.card)
        found = backbone.outputs(module, pixels)
        with torch.inference_mode():
            answer = module(pixel_values=pixels, output_hidden_states=True)
        assert torch.equal(found["embedding"], answer.pooler_output)
        expected = torch.cat([each.mean(1) for each in answer.hidden_states[-4:]], dim=1)
        assert torch.equal(found["stages"], expected)
        assert len(answer.hidden_states) == 5


class TestWeights:
    def test_the_card_counts_the_parameters(self, backbone: Tiny, module: nn.Module) -> None:
        assert sum(each.numel() for each in module.parameters()) == backbone.card.parameters

    def test_all_that_learns_is_loaded_and_nothing_is_left_as_it_was_made(self, backbone: Tiny) -> None:
        one, other = (dict(backbone.module(seed).named_parameters()) for seed in (0, 1))
        same = [name for name in one if torch.equal(one[name], other[name])]
        assert same == []

    def test_a_seed_alone_decides_untrained_weights(self, backbone: Tiny) -> None:
        digests = []
        for state, seed in ((1, 0), (2, 0), (2, 7)):
            torch.manual_seed(state)
            digests.append(tensors_digest(untrained(backbone.loader, seed).state_dict()))
        assert digests[0] == digests[1] != digests[2]

    def test_the_callers_generator_is_left_alone(self, backbone: Tiny) -> None:
        before = torch.get_rng_state()
        untrained(backbone.loader, 0)
        assert torch.equal(torch.get_rng_state(), before)

    def test_untrained_features_are_finite_and_tell_pictures_apart(self, backbone: Tiny, pixels: torch.Tensor) -> None:
        """The control that weights are measured against must not be a constant."""
        found = backbone.outputs(untrained(backbone.loader, 0).eval(), pixels)["embedding"]
        assert bool(found.isfinite().all())
        assert float((found[0] - found[1]).abs().max()) > 1e-6

    @pytest.mark.parametrize("name", NORMED)
    def test_batch_norms_stay_untouched_by_loading_and_embedding(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backbone = tiny(name)
        monkeypatch.setattr(loading, "find_loader", lambda _: backbone.loader)
        encoder = load_encoder(parse_backbone(f"{name}@random:0"))
        norms = [each for each in encoder.module.modules() if isinstance(each, nn.BatchNorm2d)]
        assert norms
        assert not any(each.training for each in norms)
        before = [each.running_mean.clone() for each in norms if each.running_mean is not None]
        backbone.outputs(encoder.module, golden_pixels(backbone.card))
        assert all(torch.equal(each.running_mean, old) for each, old in zip(norms, before, strict=True))
        assert {int(each.num_batches_tracked) for each in norms if each.num_batches_tracked is not None} == {0}
        assert not any(each.requires_grad for each in encoder.module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_of_full_size_it_is_what_the_card_says(name: str) -> None:
    card = CARDS[name]
    assert BackboneSpec(name, random_seed=0).card is card
    loader = find_loader(card)
    with torch.device("meta"):
        counted = sum(each.numel() for each in loader.build().parameters())
    assert counted == card.parameters
    crop = card.transform.crop
    # The largest are drawn and computed by the code of their smaller siblings: their shapes tell all that is theirs.
    with torch.device("meta" if name in LARGEST else "cpu"), torch.inference_mode():
        module = (loader.build() if name in LARGEST else untrained(loader, 0)).eval()
        found = loader.outputs(module, seeded_pixels((1, 3, crop, crop)).to(next(module.parameters()).device))
    assert {each: tuple(value.shape[1:]) for each, value in found.items()} == {
        output.name: output.shape for output in card.outputs
    }
    assert name in LARGEST or all(bool(value.isfinite().all()) for value in found.values())


def test_all_that_is_published_of_the_largest_dinov2_fits() -> None:
    """Its file is written and read as that of dinov2-b is (`test_layouts.py`): here are its names and shapes."""
    loader, listed = find_loader(CARDS["dinov2-l"]), layout("dinov2-l")
    module = loader.load({name: torch.zeros(()).expand(shape) for name, _, shape in listed})
    assert sum(each.numel() for each in module.parameters()) == CARDS["dinov2-l"].parameters
