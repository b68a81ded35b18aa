"""Loading: strict to the last tensor, seeded where untrained, and a digest that proves the content."""

import dataclasses
import random
from importlib import metadata

import numpy as np
import pytest
import torch
from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.cards import CARDS
from peftbench.backbones.loading import (
    Encoder,
    find_loader,
    library_versions,
    load_encoder,
    load_strictly,
    tensors_digest,
)
from peftbench.backbones.registry import parse_backbone
from peftbench.errors import MissingPackageError, WeightsError


@pytest.fixture(scope="module", params=["resnet18@random:0", "efficientnet-lite0"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return load_encoder(parse_backbone(request.param))


class TestCards:
    def test_the_parameters_are_the_modules(self, encoder: Encoder) -> None:
        assert sum(each.numel() for each in encoder.module.parameters()) == encoder.card.parameters

    def test_the_head_accounts_for_the_rest(self, encoder: Encoder) -> None:
        classes = 1000
        head = classes * (encoder.card.embedding + 1)
        assert encoder.card.parameters + head == encoder.card.parameters_with_head

    def test_the_embedding_has_the_stated_length(self, encoder: Encoder) -> None:
        crop = encoder.card.transform.crop
        with torch.inference_mode():
            assert encoder.module(torch.zeros(2, 3, crop, crop)).shape == (2, encoder.card.embedding)

    def test_the_libraries_are_installed_and_their_versions_known(self, encoder: Encoder) -> None:
        versions = library_versions(encoder.card)
        assert versions == {name: metadata.version(name) for name in encoder.card.libraries}
        assert "torch" in versions

    def test_all_names_are_their_cards(self) -> None:
        assert all(name == card.name for name, card in CARDS.items())


class TestEncoder:
    def test_it_is_frozen_and_in_evaluation_mode(self, encoder: Encoder) -> None:
        assert not any(each.requires_grad for each in encoder.module.parameters())
        assert not any(each.training for each in encoder.module.modules())

    def test_a_forward_pass_leaves_its_weights_digest_true(self, encoder: Encoder) -> None:
        """Batch norm in training mode would move its statistics here."""
        encoder.module(torch.randn(2, 3, 64, 64))
        assert tensors_digest(encoder.module.state_dict()) == encoder.weights_digest

    def test_an_embedding_does_not_depend_on_its_neighbours(self, encoder: Encoder) -> None:
        batch = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            together, alone = encoder.module(batch), torch.cat([encoder.module(each[None]) for each in batch])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


class TestUntrainedWeights:
    @pytest.mark.parametrize("name", ["resnet18", "efficientnet-lite0"])
    def test_a_seed_is_a_digest(self, name: str) -> None:
        first, again, other = (
            load_encoder(parse_backbone(f"{name}@random:{seed}")).weights_digest for seed in (0, 0, 1)
        )
        assert first == again
        assert first != other

    def test_they_are_not_the_pretrained_ones(self) -> None:
        pretrained, untrained = (
            load_encoder(parse_backbone(f"efficientnet-lite0{suffix}")) for suffix in ("", "@random:0")
        )
        assert pretrained.weights_digest != untrained.weights_digest

    @pytest.mark.parametrize("text", ["resnet18@random:5", "efficientnet-lite0"])
    def test_the_callers_random_state_is_left_alone(self, text: str) -> None:
        torch.manual_seed(11)
        np.random.seed(12)  # noqa: NPY002 - the global state is what is watched
        random.seed(13)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        load_encoder(parse_backbone(text))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
        assert random.getstate() == before[2]

    def test_the_callers_random_state_plays_no_part(self) -> None:
        digests = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            digests.append(load_encoder(parse_backbone("resnet18@random:5")).weights_digest)
        assert digests[0] == digests[1]


TENSORS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor(7)}


class TestStrictLoad:
    @staticmethod
    def module() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    def test_tensors_that_fit_are_loaded(self) -> None:
        module, tensors = self.module(), self.module().state_dict()
        assert load_strictly(module, tensors) is module
        assert tensors_digest(module.state_dict()) == tensors_digest(tensors)

    def test_the_counters_that_older_checkpoints_lack_are_zeros(self) -> None:
        module = self.module()
        module.state_dict()["1.num_batches_tracked"].fill_(7)
        load_strictly(module, {n: t for n, t in self.module().state_dict().items() if not n.endswith("tracked")})
        assert module.state_dict()["1.num_batches_tracked"] == 0

    def test_every_fault_is_named_in_one_error(self) -> None:
        module = self.module()
        before = tensors_digest(module.state_dict())
        tensors = dict(self.module().state_dict())
        del tensors["0.bias"]
        tensors["head.weight"] = torch.zeros(1)
        tensors["1.weight"] = torch.zeros(7)
        with pytest.raises(WeightsError) as caught:
            load_strictly(module, tensors)
        message = str(caught.value)
        assert "missing 0.bias" in message
        assert "unexpected head.weight" in message
        assert "1.weight is (7,), expected (4,)" in message
        assert tensors_digest(module.state_dict()) == before, "nothing was loaded"

    def test_a_long_list_is_cut_and_counted(self) -> None:
        extra = {f"head.{index}": torch.zeros(1) for index in range(30)}
        with pytest.raises(WeightsError, match="; and 22 more"):
            load_strictly(self.module(), {**self.module().state_dict(), **extra})

    def test_no_tensors_at_all_are_refused(self) -> None:
        with pytest.raises(WeightsError, match=r"missing 0\.weight"):
            load_strictly(self.module(), {})

    def test_another_type_of_number_is_converted_not_lost(self) -> None:
        module = self.module()
        tensors = {
            name: tensor.double() if tensor.is_floating_point() else tensor
            for name, tensor in self.module().state_dict().items()
        }
        load_strictly(module, tensors)
        assert module.state_dict()["0.weight"].dtype == torch.float32
        torch.testing.assert_close(module.state_dict()["0.weight"].double(), tensors["0.weight"])


class TestTensorsDigest:
    @pytest.mark.parametrize(
        "changed",
        [
            pytest.param({"c": TENSORS["a"], "b": TENSORS["b"]}, id="name"),
            pytest.param({"a": TENSORS["a"].reshape(3, 2), "b": TENSORS["b"]}, id="shape"),
            pytest.param({"a": TENSORS["a"].double(), "b": TENSORS["b"]}, id="dtype"),
            pytest.param({"a": TENSORS["a"].view(torch.int32), "b": TENSORS["b"]}, id="dtype of the same bytes"),
            pytest.param({"a": TENSORS["a"] + 1e-6, "b": TENSORS["b"]}, id="bytes"),
            pytest.param({"a": TENSORS["a"]}, id="one less"),
            pytest.param({**TENSORS, "c": torch.tensor(0)}, id="one more"),
            pytest.param({"a": TENSORS["b"], "b": TENSORS["a"]}, id="names exchanged"),
        ],
    )
    def test_every_ingredient_counts(self, changed: dict[str, torch.Tensor]) -> None:
        assert tensors_digest(changed) != tensors_digest(TENSORS)

    def test_order_layout_and_gradient_do_not(self) -> None:
        expected = tensors_digest(TENSORS)
        assert tensors_digest({name: TENSORS[name] for name in ("b", "a")}) == expected
        strided = TENSORS["a"].t().contiguous().t()
        assert not strided.is_contiguous()
        assert tensors_digest({**TENSORS, "a": strided}) == expected
        assert tensors_digest({**TENSORS, "a": nn.Parameter(TENSORS["a"])}) == expected

    def test_types_that_numpy_does_not_know_are_digested(self) -> None:
        tensor = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
        assert tensors_digest({"a": tensor}) != tensors_digest({"a": tensor + 1})


def test_a_library_that_is_missing_is_named_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    card: BackboneCard = CARDS["resnet18"].model_copy(update={"loader": "no_such_library.models:Loader"})
    with pytest.raises(
        MissingPackageError,
        match=r"'resnet18' needs a package that cannot be imported .*'no_such_library'.*pip install",
    ):
        find_loader(card)


def test_an_encoder_cannot_be_exchanged_in_part(encoder: Encoder) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoder.weights_digest = "0" * 64  # type: ignore[misc]
