"""Checkpoints in the layout of their publishers are read to the last tensor, and nothing else is.

What the loaded networks compute is compared with their originals in `test_parity.py`.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layout_kit import (
    PERIOD,
    Layout,
    computed,
    cut,
    described,
    grey_picture,
    layout,
    relative_position_index,
    seeded_pixels,
    seeded_tensors,
    shrunk,
    tiny_config,
    tower,
    write_checkpoint,
)
from transformers import SwinConfig, SwinModel

from peftbench.backbones import cnn, efficientnet_lite0, swin, vit
from peftbench.backbones.cards import CARDS
from peftbench.backbones.checkpoints import adopt
from peftbench.backbones.loading import find_loader, load_encoder
from peftbench.backbones.registry import parse_backbone
from peftbench.errors import WeightsError
from peftbench.protocol.progress import Silent
from stores.keys import file_digest

pytestmark = pytest.mark.slow

NAMES = list(CARDS)

HEADS = ("fc.", "classifier.", "_fc.", "visual.proj", "visual.head.", "visual_projection.")
HEADS += ("vision_model.projection_head.", "vision_model.model.fc.")
"""Of classification, or projection to where images and texts meet."""

UNLEARNT = ("running_mean", "running_var", "num_batches_tracked", "position_ids", "relative_position_index")


def prefix_of(name: str) -> str:
    checkpoint = CARDS[name].checkpoint
    assert checkpoint is not None
    return checkpoint.prefix


def count(listed: Layout) -> int:
    return sum(math.prod(shape) for name, _, shape in listed if not name.endswith(UNLEARNT))


class TestCards:
    """The lists are of the published files, so they say what the cards must."""

    @pytest.mark.parametrize("name", NAMES)
    def test_parameters_are_those_of_the_published_file(self, name: str) -> None:
        card, listed = CARDS[name], layout(name)
        heads = [each for each in listed if each[0].startswith(HEADS)]
        encoder = [each for each in listed if each[0].startswith(prefix_of(name)) and each not in heads]
        assert count(encoder) == card.parameters
        assert count(encoder) + count(heads) == card.parameters_with_head

    @pytest.mark.parametrize("name", NAMES)
    def test_megabytes_are_those_of_the_published_file(self, name: str) -> None:
        """To 3%: an archive of MedCLIP's is packed a little, and pickles name their tensors."""
        checkpoint = CARDS[name].checkpoint
        assert checkpoint is not None
        width = {"float32": 4, "int64": 8}
        found = sum(math.prod(shape) * width[kind] for _, kind, shape in layout(name)) / 1e6
        assert checkpoint.megabytes == pytest.approx(found, rel=0.03, abs=0.5)

    @pytest.mark.parametrize(
        ("name", "number", "some"),
        [
            ("resnet18", 102, ["bn1.running_var", "fc.bias"]),
            ("resnet50", 267, ["layer4.2.conv3.weight"]),
            ("densenet121", 606, ["features.denseblock1.denselayer1.norm.1.weight", "classifier.weight"]),
            ("dinov2-s", 223, ["embeddings.mask_token", "encoder.layer.11.attention.attention.query.weight"]),
            ("dinov2-l", 439, ["encoder.layer.23.layer_scale2.lambda1"]),
            ("clip-large", 446, ["visual.proj", "token_embedding.weight", "text_projection", "ln_final.bias"]),
            ("pubmedclip", 400, ["vision_model.embeddings.position_ids", "text_model.embeddings.position_ids"]),
            ("biomedclip", 352, ["visual.head.proj.weight", "text.transformer.embeddings.position_ids"]),
            ("medclip-resnet50", 521, ["vision_model.model.fc.weight", "text_model.projection_head.weight"]),
            ("medclip-swin", 434, ["vision_model.projection_head.weight", "vision_model.model.layernorm.weight"]),
            ("efficientnet-lite0", 296, ["_blocks.15._bn2.running_mean", "_fc.weight"]),
        ],
    )
    def test_the_lists_are_whole(self, name: str, number: int, some: list[str]) -> None:
        listed = [each for each, _, _ in layout(name)]
        assert len(listed) == number == len(set(listed))
        assert set(some) <= set(listed)


SUM_OF_WEIGHTS = 1.864658236503601
BIASES = [0.03155622258782387, 0.03910699114203453]


class TestSeededTensors:
    def test_they_are_the_same_everywhere(self) -> None:
        """Else the stored outputs would be those of other weights."""
        drawn = seeded_tensors([("a.weight", "float32", (2, 4)), ("a.bias", "float32", (2,))])
        assert drawn["a.weight"].double().sum().item() == SUM_OF_WEIGHTS
        assert drawn["a.bias"].tolist() == BIASES

    def test_they_depend_on_name_and_seed(self) -> None:
        listed: Layout = [(f"{name}.weight", "float32", (8, 8)) for name in "ab"]
        first, other = seeded_tensors(listed), seeded_tensors(listed, seed=1)
        assert not torch.equal(first["a.weight"], first["b.weight"])
        assert not torch.equal(first["a.weight"], other["a.weight"])
        assert torch.equal(seeded_tensors(listed[1:])["b.weight"], first["b.weight"])

    @pytest.mark.parametrize(
        ("name", "shape", "mean", "deviation"),
        [
            ("conv.weight", (64, 32, 3, 3), 0.0, 1 / math.sqrt(288)),
            ("norm.weight", (20_000,), 1.0, 0.1),
            ("norm.bias", (20_000,), 0.0, 0.1),
            ("bn.running_mean", (20_000,), 0.0, 0.1),
            ("bn.running_var", (20_000,), 1.0, 1 / math.sqrt(12)),
            ("layer_scale1.lambda1", (20_000,), 0.5, 0.1),
            ("embeddings.cls_token", (1, 1, 20_000), 0.0, 0.5),
            ("visual.positional_embedding", (257, 100), 0.0, 0.5),
        ],
    )
    def test_each_role_has_its_spread(self, name: str, shape: tuple[int, ...], mean: float, deviation: float) -> None:
        drawn = seeded_tensors([(name, "float32", shape)])[name]
        assert drawn.shape == shape
        assert drawn.dtype == torch.float32
        assert drawn.mean().item() == pytest.approx(mean, abs=0.03 * deviation + 0.002)
        assert drawn.std().item() == pytest.approx(deviation, rel=0.03)

    def test_what_is_computed_is_what_the_library_computes(self) -> None:
        config = SwinConfig(embed_dim=16, depths=[1], num_heads=[1], window_size=7, image_size=224)
        buffers = [each for name, each in SwinModel(config).named_buffers() if name.endswith("relative_position_index")]
        assert buffers
        assert all(torch.equal(each.flatten(), relative_position_index(7).flatten()) for each in buffers)
        ids = seeded_tensors([("embeddings.position_ids", "int64", (1, 50))])["embeddings.position_ids"]
        assert ids.tolist() == [list(range(50))]

    def test_stored_outputs_are_small_and_finite(self) -> None:
        for kind in ("dinov2", "clip", "swin", "medclip-resnet50", "efficientnet-lite0"):
            assert set(described(kind, "tiny")) == {"made_with", "config", "inputs", "tensors"}
            assert all(bool(each.isfinite().all()) and each.std() > 0.1 for each in computed(kind).values())

    def test_pictures_have_all_there_is_to_lose(self) -> None:
        picture = grey_picture(301, 233)
        assert picture.min() == 0
        assert picture.max() == 255
        assert picture.std() > 50


WIDE = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 5, "num_attention_heads": 2}

Case = tuple[Any, Layout, str]
"""A loader, the layout of a published file for it, and the prefix of the vision tower."""


def small(name: str) -> Case:
    """A backbone's own loader with a small architecture, and the names of its published file."""
    return CASES[name](), SMALL[name](), prefix_of(name)


CASES: dict[str, Callable[[], Any]] = {
    "resnet18": cnn.resnet18,
    "resnet50": cnn.resnet50,
    "densenet121": cnn.densenet121,
    "dinov2-s": lambda: shrunk(vit.dinov2_small(), image_size=70, **{**WIDE, "intermediate_size": None}),
    "clip-large": lambda: shrunk(vit.clip_large(), image_size=42, **WIDE),
    "pubmedclip": lambda: shrunk(vit.pubmedclip(), image_size=96, **WIDE),
    "biomedclip": lambda: shrunk(vit.biomedclip(), image_size=64, **WIDE),
    "medclip-swin": lambda: shrunk(swin.medclip_swin(), **tiny_config("swin")),
    "medclip-resnet50": cnn.resnet50,
    "efficientnet-lite0": efficientnet_lite0.efficientnet_lite0,
}

OF_TEXTS: Layout = [("logit_scale", "float32", ()), ("text_model.projection_head.weight", "float32", (4, 8))]

SMALL: dict[str, Callable[[], Layout]] = {
    **{name: lambda name=name: layout(name) for name in ("resnet18", "resnet50", "densenet121", "efficientnet-lite0")},
    "dinov2-s": lambda: cut(layout("dinov2-s"), 5, {384: 32, 1536: 128, 1370: 26}),
    "clip-large": lambda: cut(layout("clip-large"), 5, {1024: 32, 3072: 96, 4096: 128, 257: 10, 768: 16, 49408: 9}),
    "pubmedclip": lambda: cut(layout("pubmedclip"), 5, {768: 32, 3072: 128, 50: 10, 49408: 9}),
    "biomedclip": lambda: cut(layout("biomedclip"), 5, {768: 32, 2304: 96, 3072: 128, 197: 17, 30522: 9}),
    "medclip-swin": lambda: [
        *layout("swin", "tiny"),
        ("logit_scale", "float32", ()),
        ("text_model.a", "float32", (2,)),
    ],
    "medclip-resnet50": lambda: [each for each in layout("medclip-resnet50") if "text_model" not in each[0]],
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[Any, dict[str, torch.Tensor]]:
    """A loader and the tensors of its vision tower."""
    loader, listed, prefix = small(request.param)
    return loader, tower(listed, prefix)


class TestNames:
    """Of the published files, read by the loaders of the backbones."""

    def test_every_tensor_has_its_place(self, case: tuple[Any, dict[str, torch.Tensor]]) -> None:
        """Each tensor that was learnt, but for heads, is a parameter's or buffer's value, or a third of packed ones."""
        loader, tensors = case
        loaded = loader.load(tensors)
        left = {data(each) for each in loaded.state_dict().values()}
        for name, each in tensors.items():
            if not name.startswith(("fc.", "_fc.", "classifier.", "proj")) and not name.endswith(UNLEARNT[2:]):
                parts = each.chunk(3) if "in_proj" in name or ".qkv." in name else [each]
                assert all(data(part) in left for part in parts), name

    def test_all_that_is_left_untrained_is_counted_or_computed(self, case: tuple[Any, dict[str, torch.Tensor]]) -> None:
        loader, tensors = case
        own = {data(part) for each in tensors.values() if each.ndim for part in (each, *each.chunk(3))}
        for name, each in loader.load(tensors).state_dict().items():
            assert data(each) in own or name.endswith(UNLEARNT[2:]), name

    def test_loading_twice_is_loading_once(self, case: tuple[Any, dict[str, torch.Tensor]]) -> None:
        """What is loaded does not depend on chance."""
        loader, tensors = case
        one, other = (loader.load(tensors).state_dict() for _ in range(2))
        assert one.keys() == other.keys()
        assert all(torch.equal(each, other[name]) for name, each in one.items())

    def test_weights_are_float32(self, case: tuple[Any, dict[str, torch.Tensor]]) -> None:
        loader, tensors = case
        halves = {name: each.half() if each.is_floating_point() else each for name, each in tensors.items()}
        assert {each.dtype for each in loader.load(halves).parameters()} == {torch.float32}

    @pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
    def test_counters_of_newer_files_are_read(self, name: str) -> None:
        loader, tensors = CASES[name](), tower(layout(name), "")
        counters = {each.replace("running_var", "num_batches_tracked"): torch.tensor(7) for each in tensors}
        counters = {each: value for each, value in counters.items() if each.endswith("num_batches_tracked")}
        loaded = loader.load({**tensors, **counters}).state_dict()
        assert {int(value) for each, value in loaded.items() if each.endswith("num_batches_tracked")} == {7}
        without = loader.load(tensors).state_dict()
        assert all(torch.equal(each, loaded[key]) for key, each in without.items() if not key.endswith("tracked"))

    def test_densenets_newer_names_are_read(self) -> None:
        loader, tensors = cnn.densenet121(), tower(layout("densenet121"), "")
        newer = {re.sub(r"(norm|conv)\.([12])\.", r"\1\2.", name): each for name, each in tensors.items()}
        assert newer.keys() != tensors.keys()
        one, other = loader.load(tensors).state_dict(), loader.load(newer).state_dict()
        assert all(torch.equal(each, other[name]) for name, each in one.items())

    @pytest.mark.parametrize("name", ["pubmedclip", "medclip-swin"])
    def test_files_without_what_is_computed_are_read(self, name: str) -> None:
        """As transformers has saved them since 4.31."""
        loader, listed, prefix = small(name)
        tensors = tower(listed, prefix)
        newer = {each: value for each, value in tensors.items() if not each.endswith(UNLEARNT)}
        assert len(newer) < len(tensors)
        one, other = loader.load(tensors).state_dict(), loader.load(newer).state_dict()
        assert all(torch.equal(each, other[key]) for key, each in one.items())


def data(tensor: torch.Tensor) -> bytes:
    return f"{tuple(tensor.shape)}".encode() + tensor.detach().contiguous().numpy().tobytes()


class TestRefusals:
    """What does not fit is refused by name, whatever the library underneath forgives."""

    def test_a_missing_tensor(self, case: tuple[Any, dict[str, torch.Tensor]]) -> None:
        loader, tensors = case
        lost = weights_of(tensors)[3]
        with pytest.raises(WeightsError, match=r"do not fit the architecture: missing [\w.]+"):
            loader.load({name: each for name, each in tensors.items() if name != lost})

    def test_each_missing_tensor(self, case: tuple[Any, dict[str, torch.Tensor]]) -> None:
        loader, tensors = case
        every = weights_of(tensors)
        for lost in every[:: max(1, len(every) // 4)]:
            with pytest.raises(WeightsError, match="missing"):
                loader.load({name: each for name, each in tensors.items() if name != lost})

    @pytest.mark.parametrize("extra", ["encoder.layer.99.strange.weight", "strange", "fc2.weight"])
    def test_an_unexpected_tensor(self, case: tuple[Any, dict[str, torch.Tensor]], extra: str) -> None:
        loader, tensors = case
        with pytest.raises(WeightsError, match=r"unexpected .*(strange|fc2)"):
            loader.load({**tensors, extra: torch.ones(3)})

    def test_a_block_too_many(self, case: tuple[Any, dict[str, torch.Tensor]]) -> None:
        loader, tensors = case
        last = max(weights_of(tensors), key=lambda name: [int(each) for each in name.split(".") if each.isdigit()])
        part = max((each for each in last.split(".") if each.isdigit()), key=int)
        more = last.replace(f".{part}.", ".77.", 1)
        if more == last:
            more = f"{last}.77.weight"
        with pytest.raises(WeightsError, match=r"unexpected|a block too many"):
            loader.load({**tensors, more: tensors[last]})

    def test_another_shape(self, case: tuple[Any, dict[str, torch.Tensor]]) -> None:
        loader, tensors = case
        bent = next(name for name in weights_of(tensors) if tensors[name].ndim == 4)
        with pytest.raises(WeightsError, match=r"is \(.*\), expected \(.*\)"):
            loader.load({**tensors, bent: tensors[bent][:, :, :1]})

    @pytest.mark.parametrize("place", [1, -1])
    def test_another_length(self, case: tuple[Any, dict[str, torch.Tensor]], place: int) -> None:
        loader, tensors = case
        bent = [name for name in weights_of(tensors) if tensors[name].ndim == 1][place]
        with pytest.raises(WeightsError, match=r"is \(.*\), expected \(.*\)"):
            loader.load({**tensors, bent: torch.cat([tensors[bent], tensors[bent]])})

    def test_nothing_at_all(self, case: tuple[Any, dict[str, torch.Tensor]]) -> None:
        with pytest.raises(WeightsError, match=r"missing .*and \d+ more"):
            case[0].load({})

    @pytest.mark.parametrize("name", [each for each in CASES if "clip" in each and "resnet" not in each])
    def test_the_whole_file_with_its_texts(self, name: str) -> None:
        """The loader is given the vision tower alone; a prefix that is left on is no name of it."""
        loader, listed, _ = small(name)
        with pytest.raises(WeightsError, match=r"unexpected|missing"):
            loader.load(seeded_tensors(listed))


def weights_of(tensors: dict[str, torch.Tensor]) -> list[str]:
    """Names of what was learnt, but for heads."""
    return [
        name
        for name, each in tensors.items()
        if each.dtype == torch.float32 and not name.startswith(("fc.", "_fc.", "classifier.", "proj"))
    ]


class TestFiles:
    """Written as published, read from where the user or the cache has them."""

    @pytest.fixture
    def published(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[str, Path, dict[str, torch.Tensor]]:
        """A backbone that is small for this test, its file, and what the loader makes of the tower."""
        monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "weights"))
        name: str = request.param
        loader, listed, prefix = small(name)
        home, _, function = CARDS[name].loader.partition(":")
        monkeypatch.setattr(f"{home}.{function}", lambda: loader)
        assert find_loader(CARDS[name]) is loader
        path = write_checkpoint(tmp_path, "", seeded_tensors(listed), CARDS[name])
        return name, path, loader.load(tower(listed, prefix)).state_dict()

    @pytest.mark.parametrize("published", list(CASES), indirect=True)
    def test_as_a_file_of_the_users_own(self, published: tuple[str, Path, dict[str, torch.Tensor]]) -> None:
        name, path, expected = published
        found = load_encoder(parse_backbone(f"{name}@file:{path}")).module.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(each, expected[key]) for key, each in found.items())

    @pytest.mark.parametrize("published", list(CASES), indirect=True)
    def test_through_the_cache(self, published: tuple[str, Path, dict[str, torch.Tensor]]) -> None:
        name, path, expected = published
        card = CARDS[name]
        # Of seeded tensors, whose digest nobody published.
        checkpoint = card.checkpoint.model_copy(update={"sha256": ""}) if card.checkpoint else None
        adopt(str(path), card.model_copy(update={"checkpoint": checkpoint}), Silent(), sha256=file_digest(path))
        path.unlink()
        encoder = load_encoder(parse_backbone(name))
        found = encoder.module.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(each, expected[key]) for key, each in found.items())
        assert not any(each.requires_grad for each in encoder.module.parameters())
        assert not encoder.module.training

    @pytest.mark.parametrize("published", ["resnet18", "dinov2-s", "pubmedclip", "biomedclip"], indirect=True)
    def test_what_is_loaded_does_not_change_with_the_file(
        self, published: tuple[str, Path, dict[str, torch.Tensor]]
    ) -> None:
        """A file of the user's own may be written anew while a long run goes on."""
        name, path, expected = published
        found = load_encoder(parse_backbone(f"{name}@file:{path}")).module.state_dict()
        with path.open("r+b") as stream:
            stream.write(bytes(path.stat().st_size))
        assert all(torch.equal(each, expected[key]) for key, each in found.items())

    @pytest.mark.parametrize("published", ["clip-large"], indirect=True)
    @pytest.mark.parametrize("wrap", [False, True], ids=["tensors", "in a training run's wrapping"])
    def test_open_clips_files_may_be_those_of_a_training_run(
        self, published: tuple[str, Path, dict[str, torch.Tensor]], wrap: bool
    ) -> None:
        """open_clip itself reads both."""
        name, path, expected = published
        if wrap:
            tensors = torch.load(path, weights_only=True)
            inner = {f"module.{key}": each for key, each in tensors.items()}
            torch.save({"epoch": 32, "name": "ViT-L-14", "state_dict": inner}, path)
        found = load_encoder(parse_backbone(f"{name}@file:{path}")).module.state_dict()
        assert all(torch.equal(each, expected[key]) for key, each in found.items())

    @pytest.mark.parametrize("published", ["dinov2-s", "medclip-swin", "pubmedclip"], indirect=True)
    def test_the_file_is_of_the_published_form(self, published: tuple[str, Path, dict[str, torch.Tensor]]) -> None:
        name, path, _ = published
        checkpoint = CARDS[name].checkpoint
        assert checkpoint is not None
        assert path.name == checkpoint.file
        head = path.read_bytes()[:9]
        assert head[8:] == b"{" if path.suffix == ".safetensors" else head.startswith(b"PK")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "dinov2-l"])
def test_the_whole_published_file_is_read_at_full_size(name: str, tmp_path: Path) -> None:
    """That all of dinov2-l has its place is in `test_backbones_build.py`: its file is of the form of dinov2-b's."""
    card, listed, prefix = CARDS[name], layout(name), prefix_of(name)
    tensors = {each: torch.zeros(shape) for each, _, shape in listed if not each.startswith(prefix)}
    tensors |= seeded_tensors((each for each in listed if each[0].startswith(prefix)), period=PERIOD)
    path = write_checkpoint(tmp_path, "", tensors, card)
    del tensors
    try:
        encoder = load_encoder(parse_backbone(f"{name}@file:{path}"))
    finally:
        path.unlink()
    assert sum(each.numel() for each in encoder.module.parameters()) == card.parameters
    with torch.inference_mode():
        found = encoder.loader.outputs(encoder.module, seeded_pixels((1, 3, card.transform.crop, card.transform.crop)))
    assert {each: tuple(value.shape[1:]) for each, value in found.items()} == {
        each.name: each.shape for each in card.outputs
    }
    assert list(found) == [each.name for each in card.outputs]
    assert found["embedding"].shape == (1, card.embedding)
    assert all(bool(each.isfinite().all()) and float(each.std()) > 1e-3 for each in found.values())
