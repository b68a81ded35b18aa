"""Every output of one forward pass is stored, in the type asked for, under the row of its image."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from extraction_kit import TINY, TinyLoader, by_image, faults, images_of, run, stores_of
from torch import nn
from vit_kit import VIT

from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import CARDS, parse_backbone
from peftbench.extraction.embed import Engine
from peftbench.extraction.extract import open_pictures
from peftbench.protocol.workspace import Workspace
from stores.errors import NotFiniteError, StoreMismatchError
from stores.features import FeatureStore

pytestmark = pytest.mark.slow

Rows = dict[str, npt.NDArray[np.floating]]


def every_output(store: str) -> dict[str, Rows]:
    return {name: by_image(store, name) for name in FeatureStore.open(Path(store)).outputs}


def inputs_of(place: Workspace, backbone: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The backbone's module, and each image as it sees it, (1, 3, crop, crop)."""
    encoder, pictures = load_encoder(parse_backbone(backbone)), open_pictures(place, "phantom")
    transform = encoder.card.transform
    given = {}
    for image in images_of(place):
        buffer = torch.zeros((1, 3, transform.crop, transform.crop))
        given[image] = transform.normalise(transform.shape(pictures.gather([image])), buffer).clone()
    return encoder.module, given


@torch.inference_mode()
def answers(place: Workspace, backbone: str, *layers: str) -> list[dict[str, torch.Tensor]]:
    """What layers ("" is the module) answer in the module's own forward pass, image by image."""
    module, given = inputs_of(place, backbone)
    seen: dict[str, list[torch.Tensor]] = {layer: [] for layer in layers}

    def keep(layer: str, answer: Any) -> None:
        seen[layer].append((answer[0] if isinstance(answer, tuple) else answer)[0])

    hooks = [
        module.get_submodule(layer).register_forward_hook(lambda _m, _g, answer, layer=layer: keep(layer, answer))
        for layer in layers
    ]
    for pixels in given.values():
        module(pixels)
    for hook in hooks:
        hook.remove()
    return [dict(zip(given, rows, strict=True)) for rows in seen.values()]


def assert_close(found: Rows, expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for image, row in expected.items():
        np.testing.assert_allclose(found[image], row.numpy(), rtol=2e-5, atol=2e-5)


class TestAllOfOnePass:
    def test_a_batch_passes_each_layer_once_and_all_outputs_are_there(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        passes = []
        build = TinyLoader.build

        def counted(self: TinyLoader) -> nn.Module:
            module = build(self)
            for name in (0, 3):
                module[name].register_forward_hook(lambda *_, name=name: passes.append(name))
            return module

        monkeypatch.setattr(TinyLoader, "build", counted)
        # Of published weights a golden embedding is computed as well.
        store = run(place, "tiny@random:0", batch_size=4).store
        batches = -(-len(images_of(place)) // 4)
        assert passes == [0, 3] * batches
        found = every_output(store)
        assert {name: next(iter(rows.values())).shape for name, rows in found.items()} == {
            output.name: output.shape for output in TINY.outputs
        }
        assert all(set(rows) == set(images_of(place)) for rows in found.values())

    @pytest.mark.parametrize(
        "backbone",
        ["tiny", "vit", "efficientnet-lite0", pytest.param("resnet18@random:0", marks=pytest.mark.slow)],
    )
    def test_the_embedding_is_the_modules_own_answer(self, place: Workspace, backbone: str) -> None:
        store = run(place, backbone, batch_size=3).store
        (expected,) = answers(place, backbone, "")
        assert_close(by_image(store), expected)

    @pytest.mark.parametrize(
        ("backbone", "layers"),
        [
            ("tiny", ["2", "4"]),
            ("efficientnet-lite0", ["blocks.1", "blocks.2", "blocks.4", "blocks.6"]),
            pytest.param("resnet18@random:0", [f"layer{number}" for number in range(1, 5)], marks=pytest.mark.slow),
        ],
    )
    def test_the_stages_are_the_averages_of_their_layers(
        self, place: Workspace, backbone: str, layers: list[str]
    ) -> None:
        store = run(place, backbone, batch_size=3).store
        maps = answers(place, backbone, *layers)
        expected = {image: torch.cat([each[image].mean((1, 2)) for each in maps]) for image in images_of(place)}
        assert_close(by_image(store, "stages"), expected)


class TestVisionTransformer:
    def test_its_tokens_are_stored_as_the_card_says(self, place: Workspace) -> None:
        store = run(place, "vit", batch_size=3).store
        assert FeatureStore.open(Path(store)).outputs == {output.name: output.shape for output in VIT.outputs}
        assert faults(store) == []
        (tokens,) = answers(place, "vit", "model.layernorm")
        assert_close(by_image(store, "patch_mean"), {image: rows[1:].mean(0) for image, rows in tokens.items()})
        assert_close(by_image(store), {image: rows[0] for image, rows in tokens.items()})

    @torch.inference_mode()
    def test_the_class_tokens_of_its_last_blocks_are_one_array_of_blocks(self, place: Workspace) -> None:
        store = run(place, "vit", batch_size=3).store
        found, embedding = by_image(store, "block_cls"), by_image(store)
        module, _ = inputs_of(place, "vit")
        norm = module.get_submodule("model.layernorm")
        blocks = answers(place, "vit", *(f"model.encoder.layer.{number}" for number in (2, 3, 4, 5)))
        for number, tokens in enumerate(blocks):
            rows = {image: row[number] for image, row in found.items()}
            assert_close(rows, {image: norm(each)[0] for image, each in tokens.items()})
        for image, row in found.items():
            assert row.shape == (4, 32)
            np.testing.assert_array_equal(row[-1], embedding[image])


class TestFloat16:
    @pytest.mark.parametrize("backbone", ["tiny", "vit"])
    def test_rows_are_those_of_float32_cast_in_a_store_of_their_own(self, place: Workspace, backbone: str) -> None:
        whole, half = (run(place, backbone, batch_size=4, dtype=name).store for name in ("float32", "float16"))
        assert whole != half
        recipes = [FeatureStore.open(Path(store)).recipe for store in (whole, half)]
        assert [each.ingredient for each in recipes[0].differences(recipes[1])] == ["dtype"]
        expected, found = every_output(whole), every_output(half)
        assert expected.keys() == found.keys()
        for name, rows in expected.items():
            assert rows.keys() == found[name].keys()
            for image, row in rows.items():
                assert (row.dtype, found[name][image].dtype) == (np.float32, np.float16)
                np.testing.assert_array_equal(found[name][image], row.astype(np.float16))

    def test_a_second_run_reuses_them(self, place: Workspace) -> None:
        first, again = (run(place, dtype="float16") for _ in range(2))
        assert (again.reused, again.embedded, again.store) == (first.total, 0, first.store)

    def test_what_float16_cannot_hold_is_refused_and_the_way_out_named(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TinyLoader, "gain", 1e9)
        with pytest.raises(NotFiniteError, match=r"NaN or infinity as float16 .*try .*--dtype float32"):
            run(place, dtype="float16")
        assert all(rows == {} for rows in every_output(str(stores_of(place)[0])).values())
        assert run(place, dtype="float32").embedded == len(images_of(place))


class TestPrecision:
    def test_all_outputs_of_a_bf16_pass_are_stored_as_float32(self, place: Workspace) -> None:
        exact, rough = (every_output(run(place, "vit", precision=name).store) for name in ("fp32", "bf16"))
        for name, rows in exact.items():
            for image, row in rows.items():
                assert rough[name][image].dtype == np.float32
                assert 0 < np.abs(rough[name][image] - row).max() < 0.2

    def test_the_engine_answers_every_output_of_the_card(self) -> None:
        engine = Engine(load_encoder(parse_backbone("vit")), torch.device("cpu"), "fp32", 2)
        found = engine.embed(torch.zeros((2, 28, 28), dtype=torch.uint8))
        assert {name: rows.shape for name, rows in found.items()} == {
            output.name: (2, *output.shape) for output in VIT.outputs
        }
        assert {rows.dtype for rows in found.values()} == {np.dtype("float32")}


def test_a_card_that_names_other_outputs_than_its_loader_answers_stores_nothing(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CARDS, "tiny", TINY.model_copy(update={"outputs": TINY.outputs[:1]}))
    with pytest.raises(StoreMismatchError, match=r"expected the outputs \['embedding'\], got .*'stages'"):
        run(place)
    assert by_image(stores_of(place)[0]) == {}
