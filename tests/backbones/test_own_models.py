"""Models that nobody registered: of timm, torchvision and transformers, with the embeddings that those libraries give.

Real architectures, small; no network. Folders are those that `save_pretrained` writes.
"""

import json
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import torchvision
import transformers
from huggingface_hub import constants
from torch import nn

from peftbench.backbones import own, own_hub, own_transformers
from peftbench.backbones.loading import Encoder, load_encoder, tensors_digest
from peftbench.backbones.registry import parse_backbone
from peftbench.errors import ConfigError, PeftbenchError, UnknownNameError, WeightsError
from peftbench.imaging.transform import InputTransform

pytestmark = pytest.mark.slow

CLOSE = 1e-5

TIMM = ["test_resnet", "test_vit"]
TORCHVISION = ["shufflenet_v2_x0_5", "mobilenet_v3_small"]

VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {**VIT, "vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {name: value for name, value in TEXT.items() if name not in {"image_size", "patch_size"}}
NARROW = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SQUARE = {"size": {"height": 32, "width": 32}}
CUT = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}

Made = tuple[nn.Module, Any]


def _clip() -> nn.Module:
    config = transformers.CLIPConfig(vision_config=VIT, text_config=TEXT, projection_dim=16)
    return transformers.CLIPModel(config)


FOLDERS: dict[str, Callable[[], Made]] = {
    "vit": lambda: (transformers.ViTModel(transformers.ViTConfig(**VIT)), transformers.ViTImageProcessor(**SQUARE)),
    "vit-bare": lambda: (
        transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=False),
        transformers.ViTImageProcessor(**SQUARE),
    ),
    "vit-classifier": lambda: (
        transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)),
        transformers.ViTImageProcessor(**SQUARE),
    ),
    "dinov2": lambda: (
        transformers.Dinov2Model(
            transformers.Dinov2Config(**{k: v for k, v in VIT.items() if k != "intermediate_size"})
        ),
        transformers.BitImageProcessor(**CUT),
    ),
    "swin": lambda: (
        transformers.SwinModel(
            transformers.SwinConfig(image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
        ),
        transformers.ViTImageProcessor(**SQUARE),
    ),
    "convnext": lambda: (
        transformers.ConvNextModel(transformers.ConvNextConfig(**NARROW)),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    ),
    "resnet": lambda: (
        transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, layer_type="basic", **NARROW)),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    ),
    "clip": lambda: (_clip(), transformers.CLIPImageProcessor(**CUT)),
    "masked": lambda: (
        transformers.ViTMAEModel(
            transformers.ViTMAEConfig(
                **VIT, decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_num_hidden_layers=1
            )
        ),
        transformers.ViTImageProcessor(**SQUARE),
    ),
    "text": lambda: (
        transformers.BertModel(transformers.BertConfig(**{**TEXT, "num_hidden_layers": 1})),
        transformers.CLIPImageProcessor(),
    ),
}

PICTURED = [name for name in FOLDERS if name not in {"masked", "text"}]
POOLED = {"dinov2", "swin", "convnext", "resnet", "clip"}


class Session:
    """Of the hub's package; counts how often it is asked."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.asked: list[float] = []

    def head(self, _: str, timeout: float) -> None:
        self.asked.append(timeout)
        if not self.answers:
            raise ConnectionError


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Session]:
    """One that cannot be reached, and caches of nobody."""
    session = Session(answers=False)
    own_hub._answers.cache_clear()
    monkeypatch.setattr(own_hub, "get_session", lambda: session)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    yield session
    own_hub._answers.cache_clear()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each, with seeded weights no part of which is what a fresh model has."""
    place = tmp_path_factory.mktemp("somewhere")
    with torch.random.fork_rng(devices=[]):
        for seed, (name, make) in enumerate(FOLDERS.items()):
            torch.manual_seed(seed)
            model, processor = make()
            for parameter in model.parameters():
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
            model.save_pretrained(place / name)  # type: ignore[operator]
            processor.save_pretrained(place / name)
    return place


@pytest.fixture(autouse=True)
def fresh_cards() -> Iterator[None]:
    own.own_card.cache_clear()
    yield
    own.own_card.cache_clear()


@torch.inference_mode()
def embed(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    return encoder.loader.outputs(encoder.module, pixels)["embedding"]


def pixels_of(encoder: Encoder) -> torch.Tensor:
    crop = encoder.card.transform.crop
    return torch.randn(2, 3, crop, crop, generator=torch.Generator().manual_seed(0))


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


def shaken(module: nn.Module) -> nn.Module:
    """Other weights and statistics than a fresh one has, and finite ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.1 if "running" in name else 0.02)
    return module.eval()


class TestTimm:
    @pytest.mark.parametrize("name", TIMM)
    def test_the_embedding_is_what_timm_calls_pre_logits(self, name: str, tmp_path: Path) -> None:
        whole = shaken(timm.create_model(name, pretrained=False))
        torch.save(whole.state_dict(), tmp_path / "mine.pt")
        encoder = load_encoder(parse_backbone(f"timm:{name}@file:{tmp_path / 'mine.pt'}"))
        pixels = pixels_of(encoder)
        with torch.inference_mode():
            expected = whole.forward_head(whole.forward_features(pixels), pre_logits=True)  # type: ignore[operator]
        assert apart(embed(encoder, pixels), expected) < CLOSE
        assert encoder.card.outputs[0].tensor == "pre_logits"
        assert encoder.card.embedding == expected.shape[1]

    @pytest.mark.parametrize("name", TIMM)
    def test_the_card_says_what_timm_says(self, name: str) -> None:
        card = parse_backbone(f"timm:{name}").card
        facts = timm.data.resolve_data_config(pretrained_cfg=vars(timm.get_pretrained_cfg(name)))
        assert card.transform.crop == facts["input_size"][1]
        assert card.transform.resize == int(facts["input_size"][1] / facts["crop_pct"])
        assert (card.transform.mean, card.transform.std) == (facts["mean"], facts["std"])
        assert card.transform.interpolation == facts["interpolation"]
        assert card.licence == "apache-2.0"
        assert card.parameters == sum(each.numel() for each in timm.create_model(name, num_classes=0).parameters())
        assert card.channels_last is (name == "test_resnet")
        assert card.libraries == ("torch", "timm")
        assert not card.folds

    def test_one_of_several_weights_is_named_behind_a_dot(self) -> None:
        card = parse_backbone("timm:test_vit.r160_in1k@random:0").card
        assert card.pretraining == "r160_in1k"
        assert card.architecture == "timm:test_vit.r160_in1k"

    @pytest.mark.parametrize(
        ("wrong", "meant"),
        [("test_resnot", "did you mean test_resnet"), ("ResNet18", "did you mean resnet18"),
         ("test_vit.r160", r"did you mean test_vit\.r160_in1k"), ("resnet18.nosuch", r"did you mean resnet18\.")],
    )  # fmt: skip
    def test_a_wrong_name_is_answered_with_the_nearest(self, wrong: str, meant: str) -> None:
        with pytest.raises(UnknownNameError, match=rf"unknown timm model '{wrong}': {meant}"):
            _ = parse_backbone(f"timm:{wrong}").card

    def test_a_name_like_none_is_not_answered_with_a_thousand(self) -> None:
        with pytest.raises(UnknownNameError, match=r"none of timm's \d+ is like it\. `timm\.list_models") as caught:
            _ = parse_backbone("timm:zzzzzz").card
        assert len(str(caught.value)) < 200

    def test_an_input_that_cannot_be_described_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = timm.get_pretrained_cfg("test_vit")
        config.interpolation = "lanczos"
        monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: config)
        with pytest.raises(ConfigError, match=r"timm:test_vit cannot be used .*'lanczos'.*choose another model"):
            _ = parse_backbone("timm:test_vit").card

    def test_pretrained_weights_that_lack_a_part_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """timm itself forgives that where it is asked for a model without a classifier."""
        whole = timm.create_model("resnet10t", pretrained=False).state_dict()
        torch.save(whole, tmp_path / "whole.pth")
        torch.save({name: each for name, each in whole.items() if "layer4" not in name}, tmp_path / "cut.pth")
        create, file = timm.create_model, "whole.pth"

        def from_file(name: str, *, pretrained: bool, **options: object) -> torch.nn.Module:
            overlay = {"file": str(tmp_path / file)} if pretrained else None
            return create(name, pretrained=pretrained, pretrained_cfg_overlay=overlay, **options)

        monkeypatch.setattr(timm, "create_model", from_file)
        encoder = load_encoder(parse_backbone("timm:resnet10t"))
        kept = {name: each for name, each in whole.items() if not name.startswith("fc.")}
        assert encoder.weights_digest == tensors_digest(kept)
        file = "cut.pth"
        with pytest.raises(WeightsError, match=r"timm:resnet10t: .*layer4"):
            load_encoder(parse_backbone("timm:resnet10t"))

    def test_another_way_of_cropping_is_said(self) -> None:
        card = parse_backbone("timm:convnext_tiny.in12k_ft_in1k_384@random:0").card
        assert card.notes == "timm shapes a picture by 'squash'; here its centre is cut out."


class TestTorchvision:
    @pytest.mark.parametrize("name", TORCHVISION)
    def test_the_embedding_is_what_the_last_linear_layer_is_given(self, name: str, tmp_path: Path) -> None:
        whole = shaken(torchvision.models.get_model(name, weights=None))
        torch.save(whole.state_dict(), tmp_path / "mine.pt")
        encoder = load_encoder(parse_backbone(f"torchvision:{name}", str(tmp_path / "mine.pt")))
        last = [each for each in whole.modules() if isinstance(each, nn.Linear)][-1]
        seen: list[torch.Tensor] = []
        hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        pixels = pixels_of(encoder)
        with torch.inference_mode():
            whole(pixels)
        hook.remove()
        assert apart(embed(encoder, pixels), seen[0]) < CLOSE
        assert encoder.card.embedding == last.in_features

    def test_the_card_says_what_torchvision_says(self) -> None:
        card = parse_backbone("torchvision:mobilenet_v3_large").card
        weights = torchvision.models.get_model_weights("mobilenet_v3_large").DEFAULT
        facts = weights.transforms()
        assert (card.transform.resize, card.transform.crop) == (facts.resize_size[0], facts.crop_size[0]) == (232, 224)
        assert card.transform.interpolation == facts.interpolation.value
        assert card.pretraining == weights.name == "IMAGENET1K_V2"
        assert card.licence == "BSD-3-Clause"

    def test_pretrained_weights_are_those_of_torchs_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        name = TORCHVISION[0]
        whole = shaken(torchvision.models.get_model(name, weights=None))
        weights = torchvision.models.get_model_weights(name).DEFAULT
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / Path(weights.url).name
        torch.save(whole.state_dict(), path)
        encoder = load_encoder(parse_backbone(f"torchvision:{name}"))
        loaded, expected = encoder.module.state_dict(), whole.state_dict()
        path.unlink()
        assert len(loaded) == len(expected) - 2
        assert all(torch.equal(expected[each], tensor) for each, tensor in loaded.items())

    @pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
    def test_a_model_without_a_linear_layer_at_its_end_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"torchvision:{name} does not end with a linear layer: choose another"):
            _ = parse_backbone(f"torchvision:{name}").card

    @pytest.mark.parametrize("wrong", ["resnet81", "fasterrcnn_resnet50", "quantized_resnet18"])
    def test_a_wrong_name_is_answered_with_the_nearest(self, wrong: str) -> None:
        with pytest.raises(UnknownNameError, match=rf"unknown torchvision model '{wrong}': did you mean .*resnet"):
            _ = parse_backbone(f"torchvision:{wrong}").card

    def test_a_checkpoint_of_another_architecture_is_refused(self, tmp_path: Path) -> None:
        torch.save(torchvision.models.get_model(TORCHVISION[1]).state_dict(), tmp_path / "other.pt")
        with pytest.raises(WeightsError, match=r"the weights do not fit the architecture: missing conv1\.0\.weight"):
            load_encoder(parse_backbone(f"torchvision:{TORCHVISION[0]}@file:{tmp_path / 'other.pt'}"))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
    def test_a_checkpoint_of_the_published_ones_is_given_its_own_normalisation(self, name: str, tmp_path: Path) -> None:
        """Both normalise their input once more, which torchvision says with its weights alone."""
        whole = torchvision.models.get_model(name, weights=None, init_weights=False, transform_input=True).eval()
        torch.save(whole.state_dict(), tmp_path / "mine.pt")
        encoder = load_encoder(parse_backbone(f"torchvision:{name}@file:{tmp_path / 'mine.pt'}"))
        pixels = pixels_of(encoder)
        with torch.inference_mode():
            logits = embed(encoder, pixels) @ whole.fc.weight.T + whole.fc.bias  # type: ignore[union-attr, operator]
            assert apart(logits, whole(pixels)) < 1e-4


@torch.inference_mode()
def librarys_own(folder: Path, name: str, pixels: torch.Tensor) -> torch.Tensor:
    """By the library's classes for that very model."""
    kinds: Mapping[str, Any] = {
        "clip": transformers.CLIPModel,
        "vit-classifier": transformers.ViTForImageClassification,
    }
    model = kinds.get(name, transformers.AutoModel).from_pretrained(folder / name).eval()
    if name == "clip":
        return model.vision_model(pixel_values=pixels).pooler_output
    model = model.vit if name == "vit-classifier" else model
    answer = model(pixel_values=pixels)
    return answer.pooler_output.flatten(1) if name in POOLED else answer.last_hidden_state[:, 0]


class TestTransformers:
    @pytest.mark.parametrize("name", PICTURED)
    def test_the_embedding_is_the_librarys_own(self, folders: Path, name: str) -> None:
        encoder = load_encoder(parse_backbone(f"hf:{folders / name}"))
        pixels = pixels_of(encoder)
        assert apart(embed(encoder, pixels), librarys_own(folders, name, pixels)) < CLOSE
        expected = "pooler_output" if name in POOLED else "last_hidden_state|class token"
        assert encoder.card.outputs[0].tensor == expected
        assert encoder.card.embedding == 32

    @pytest.mark.parametrize("name", PICTURED)
    def test_no_name_holds_the_folders_place(self, folders: Path, name: str) -> None:
        """Names and recipes are written into stores and records, which are passed on."""
        spec = parse_backbone(f"hf:{folders / name}")
        card = spec.card
        assert spec.name == card.name
        assert re.fullmatch(f"hf:{name}-[0-9a-f]{{8}}", spec.name)
        assert str(folders.parent) not in repr(card.to_json()) + spec.title + spec.name
        seeded = parse_backbone(f"hf:{folders / name}@random:3")
        assert seeded.name == f"{spec.name}@random:3"

    def test_untrained_weights_are_of_the_same_architecture_and_a_seed(self, folders: Path) -> None:
        first, again, other = (
            load_encoder(parse_backbone(f"hf:{folders / 'dinov2'}@random:{seed}")) for seed in (0, 0, 1)
        )
        trained = load_encoder(parse_backbone(f"hf:{folders / 'dinov2'}"))
        assert first.weights_digest == again.weights_digest
        assert len({first.weights_digest, other.weights_digest, trained.weights_digest}) == 3
        assert first.module.state_dict().keys() == trained.module.state_dict().keys()

    def test_a_checkpoint_of_ones_own(self, folders: Path, tmp_path: Path) -> None:
        trained = load_encoder(parse_backbone(f"hf:{folders / 'swin'}"))
        torch.save({"state_dict": trained.module.state_dict()}, tmp_path / "mine.pt")
        loaded = load_encoder(parse_backbone(f"hf:{folders / 'swin'}@file:{tmp_path / 'mine.pt'}"))
        assert loaded.weights_digest == trained.weights_digest
        assert re.fullmatch("hf:swin-[0-9a-f]{8}@mine-[0-9a-f]{8}", loaded.spec.name)

    def test_of_a_model_of_pictures_and_texts_the_part_for_pictures_is_taken(self, folders: Path) -> None:
        encoder = load_encoder(parse_backbone(f"hf:{folders / 'clip'}"))
        assert type(encoder.module).__name__ == "CLIPVisionModel"
        assert not [name for name in encoder.module.state_dict() if "text" in name]

    def test_a_folder_that_lacks_a_part_of_the_model_is_refused(self, folders: Path, tmp_path: Path) -> None:
        model = transformers.AutoModel.from_pretrained(folders / "dinov2")
        kept = {name: each for name, each in model.state_dict().items() if "layer.2." not in name}
        model.save_pretrained(tmp_path / "cut", state_dict=kept)
        transformers.BitImageProcessor(**CUT).save_pretrained(tmp_path / "cut")
        with pytest.raises(WeightsError, match=r"hf:cut-\w+: the weights do not fit .*: missing \S*layer\.2"):
            load_encoder(parse_backbone(f"hf:{tmp_path / 'cut'}"))

    def test_a_folder_whose_shapes_do_not_fit_is_refused(self, folders: Path, tmp_path: Path) -> None:
        place = shutil.copytree(folders / "dinov2", tmp_path / "wide")
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, "mlp_ratio": 2 * config.get("mlp_ratio", 4)}))
        with pytest.raises(WeightsError, match=r"hf:wide-\w+: the weights do not fit .*fc1\.bias is \(\d+,\)"):
            load_encoder(parse_backbone(f"hf:{place}"))

    def test_code_that_a_model_brings_is_never_run(self, folders: Path, tmp_path: Path) -> None:
        place = shutil.copytree(folders / "vit", tmp_path / "coded")
        config = json.loads((place / "config.json").read_text())
        coded = {**config, "model_type": "mine", "auto_map": {"AutoConfig": "code.Mine", "AutoModel": "code.Mine"}}
        (place / "config.json").write_text(json.dumps(coded))
        (place / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
        with pytest.raises(WeightsError, match="transformers cannot get"):
            load_encoder(parse_backbone(f"hf:{place}"))
        assert not (tmp_path / "ran").exists()

    def test_a_folder_beside_a_name_of_the_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine").mkdir()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match=r"there is a folder mine here: name it hf:\./mine"):
            _ = parse_backbone("hf:mine").card

    def test_what_changes_in_a_folder_is_not_answered_from_memory(self, folders: Path, tmp_path: Path) -> None:
        place = shutil.copytree(folders / "vit", tmp_path / "changing")
        before = parse_backbone(f"hf:{place}").card
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
        after = parse_backbone(f"hf:{place}").card
        assert before.name != after.name
        assert before.architecture != after.architecture

    def test_what_the_weights_do_not_show_is_in_the_architecture(self, folders: Path, tmp_path: Path) -> None:
        """A number of heads leaves no trace in the weights, and would change features under one key."""
        found = {}
        for heads in (4, 2):
            model = transformers.Dinov2Model.from_pretrained(folders / "dinov2")
            model.config.num_attention_heads = heads
            model.save_pretrained(tmp_path / str(heads) / "same")
            transformers.BitImageProcessor(**CUT).save_pretrained(tmp_path / str(heads) / "same")
            found[heads] = load_encoder(parse_backbone(f"hf:{tmp_path / str(heads) / 'same'}"))
        one, other = found.values()
        assert one.weights_digest == other.weights_digest
        assert apart(embed(one, pixels_of(one)), embed(other, pixels_of(one))) > 1e-4
        assert one.card.architecture != other.card.architecture

    def test_the_same_model_elsewhere_has_the_same_architecture(self, folders: Path, tmp_path: Path) -> None:
        model = transformers.Dinov2Model.from_pretrained(folders / "dinov2")
        model.save_pretrained(tmp_path / "copied")
        transformers.BitImageProcessor(**CUT).save_pretrained(tmp_path / "copied")
        one, other = (parse_backbone(f"hf:{place}").card for place in (folders / "dinov2", tmp_path / "copied"))
        assert one.architecture == other.architecture

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("masked", r"hf:\S+masked answers the same picture otherwise each time: choose a model that does not draw"),
            ("text", r"hf:\S+text does not take a picture of 224 x 224 pixels alone \(You must specify"),
        ],
    )
    def test_what_makes_no_vector_of_a_picture_is_refused(self, folders: Path, name: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            _ = parse_backbone(f"hf:{folders / name}").card

    def test_a_folder_that_is_no_model_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(
            WeightsError, match=r"transformers cannot get .*expected a repository .*save_pretrained wrote"
        ):
            _ = parse_backbone(f"hf:{tmp_path / 'empty'}").card

    def test_a_folder_without_an_image_processor_is_refused(self, tmp_path: Path) -> None:
        transformers.ViTModel(transformers.ViTConfig(**VIT)).save_pretrained(tmp_path / "blind")
        with pytest.raises(PeftbenchError, match="transformers cannot get"):
            _ = parse_backbone(f"hf:{tmp_path / 'blind'}").card


class TestImageProcessors:
    """What they say, as input transforms; computed by them and by ours, the pictures are nearly the same."""

    @pytest.mark.parametrize(
        ("name", "resize", "crop", "interpolation", "notes"),
        [
            ("vit", 32, 32, "bilinear", True),
            ("dinov2", 40, 32, "bicubic", False),
            ("clip", 40, 32, "bicubic", False),
            # Of 224/256 of the side is kept.
            ("convnext", 36, 32, "bicubic", False),
            ("swin", 32, 32, "bilinear", True),
        ],
    )
    def test_what_they_say(
        self, folders: Path, name: str, resize: int, crop: int, interpolation: str, *, notes: bool
    ) -> None:
        card = parse_backbone(f"hf:{folders / name}").card
        found = card.transform
        assert (found.resize, found.crop, found.interpolation) == (resize, crop, interpolation)
        assert ("squeezes a picture into a square" in card.notes) is notes

    @pytest.mark.parametrize("name", ["vit", "dinov2", "clip", "convnext"])
    def test_a_square_picture_comes_out_as_the_librarys(self, folders: Path, name: str) -> None:
        from layout_kit import grey_picture

        picture = grey_picture(120, 120)
        transform = parse_backbone(f"hf:{folders / name}").card.transform
        processor = transformers.AutoImageProcessor.from_pretrained(folders / name)
        rgb = torch.from_numpy(picture)[None].repeat(3, 1, 1)
        expected = processor(rgb, return_tensors="pt")["pixel_values"]
        found = transform.normalise(transform.shape([picture]), torch.empty(1, 3, 32, 32))
        # One grey level of 256, in units of the deviation.
        assert apart(found, expected) < 1.5 / 255 / min(transform.std)

    @staticmethod
    def said(**facts: Any) -> tuple[InputTransform, str]:
        usual = {"size": {"height": 8, "width": 8}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        return own_transformers._transform(SimpleNamespace(**{**usual, **facts}))

    def test_one_that_does_not_normalise(self) -> None:
        transform, _ = self.said(do_normalize=False)
        assert (transform.mean, transform.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def test_a_large_one_of_convnexts_kind_squeezes(self) -> None:
        transform, notes = self.said(size={"shortest_edge": 384}, crop_pct=0.875)
        assert (transform.resize, transform.crop) == (384, 384)
        assert "squeezes" in notes

    @pytest.mark.parametrize(
        ("facts", "said"),
        [
            ({"size": {"longest_edge": 512}}, "resizes to .*longest_edge.*expected a shortest edge or a height"),
            ({"size": None}, "expected a shortest edge or a height"),
            ({"resample": 1}, "'lanczos', expected bilinear or bicubic"),
            ({"resample": 0}, "'nearest'"),
            ({"resample": None}, "expected bilinear or bicubic"),
            ({"resample": 5}, "'number 5'"),
            ({"rescale_factor": 1 / 127.5}, "expected 1/255"),
            ({"image_mean": None}, "says neither mean nor standard deviation"),
            ({"image_mean": [0.5], "image_std": [0.5]}, "three means"),
        ],
    )
    def test_what_no_input_transform_can_say_is_refused(self, facts: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            self.said(**facts)

    def test_the_refusal_names_the_model(self, tmp_path: Path) -> None:
        place = tmp_path / "sharp"
        transformers.ViTModel(transformers.ViTConfig(**VIT)).save_pretrained(place)
        transformers.ViTImageProcessor(**SQUARE, resample=1).save_pretrained(place)
        with pytest.raises(ConfigError, match=r"hf:\S+sharp cannot be used .*'lanczos'.*choose another model"):
            _ = parse_backbone(f"hf:{place}").card


class TestOffline:
    """Nothing is reached; what is said is one sentence, and it is said at once."""

    @pytest.fixture(autouse=True)
    def cut_off(self, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        asked: list[object] = []

        def refuse(*address: object, **_: object) -> None:
            asked.append(address)
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        monkeypatch.setattr(own_hub, "get_session", huggingface_hub.get_session)
        return asked

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("timm:test_resnet", r"timm cannot get the weights .*name a checkpoint as timm:test_resnet@file:PATH"),
            ("torchvision:shufflenet_v2_x0_5", r"torchvision cannot get https://\S+\.pth .*put that file into"),
            ("hf:facebook/dinov2-small", r"transformers cannot get 'facebook/dinov2-small' .*or a folder"),
        ],
    )
    @pytest.mark.parametrize("switched_off", [False, True], ids=["no network", "switched off"])
    def test_the_error_is_one_sentence_and_comes_at_once(
        self, name: str, said: str, monkeypatch: pytest.MonkeyPatch, cut_off: list[object], *, switched_off: bool
    ) -> None:
        if switched_off:
            monkeypatch.setenv("PEFTBENCH_OFFLINE", "1")
        start = time.monotonic()
        with pytest.raises(WeightsError, match=said) as caught:
            load_encoder(parse_backbone(name))
        assert time.monotonic() - start < 10
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
        assert (cut_off == []) is switched_off, "nobody is asked where the user forbids it"

    def test_untrained_ones_ask_nobody(self, cut_off: list[object], folders: Path) -> None:
        for name in ("timm:test_vit", "torchvision:shufflenet_v2_x0_5", f"hf:{folders / 'vit'}"):
            load_encoder(parse_backbone(f"{name}@random:0"))
        assert cut_off == []

    def test_a_folder_needs_no_network(self, cut_off: list[object], folders: Path) -> None:
        load_encoder(parse_backbone(f"hf:{folders / 'clip'}"))
        assert cut_off == []

    def test_the_libraries_words_do_not_reach_stdout(self, capfd: pytest.CaptureFixture[str]) -> None:
        """It belongs to the verb's answer; torch's hub prints there what it downloads."""
        with pytest.raises(WeightsError):
            load_encoder(parse_backbone("torchvision:shufflenet_v2_x0_5"))
        assert capfd.readouterr().out == ""


def raising() -> None:
    with own_hub.downloads_by_libraries():
        assert constants.HF_HUB_OFFLINE is True
        raise ZeroDivisionError


class TestHub:
    def test_it_is_asked_once_a_while_and_with_little_patience(self, hub: Session) -> None:
        assert [own_hub._answers(1), own_hub._answers(1), own_hub._answers(2)] == [False] * 3
        assert hub.asked == [own_hub.PATIENCE] * 2

    def test_where_it_answers_the_libraries_may_ask_it(self, hub: Session) -> None:
        hub.answers = True
        with own_hub.downloads_by_libraries():
            assert constants.HF_HUB_OFFLINE is False

    @pytest.mark.parametrize("name", ["PEFTBENCH_OFFLINE", "HF_HUB_OFFLINE"])
    def test_unless_the_user_forbids_it(self, hub: Session, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        hub.answers = True
        monkeypatch.setenv(name, "1")
        with own_hub.downloads_by_libraries():
            assert constants.HF_HUB_OFFLINE is True
        assert hub.asked == []

    def test_what_a_library_prints_goes_to_stderr(self, capsys: pytest.CaptureFixture[str]) -> None:
        with own_hub.downloads_by_libraries():
            sys.stdout.write("Downloading")
        assert capsys.readouterr() == ("", "Downloading")

    def test_the_switch_is_put_back(self) -> None:
        with pytest.raises(ZeroDivisionError):
            raising()
        assert constants.HF_HUB_OFFLINE is False

    @pytest.mark.parametrize(("length", "shown"), [(150, 150), (500, 200)])
    def test_what_a_library_says_is_cut_between_words(self, length: int, shown: int) -> None:
        told = own_hub.told_by(OSError(("word\n" * length)[:length]))
        assert "\n" not in told
        assert len(told) <= shown + 4
        assert told.removesuffix(" ...").endswith("word")


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:shufflenet_v2_x0_5"])
def test_untrained_weights_depend_on_the_seed_alone(name: str) -> None:
    digests = []
    for state, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        encoder = load_encoder(parse_backbone(f"{name}@random:{seed}"))
        assert torch.equal(torch.get_rng_state(), before)
        digests.append(tensors_digest(encoder.module.state_dict()))
    assert digests[0] == digests[1] != digests[2]


def test_a_card_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = parse_backbone("timm:test_vit").card
    monkeypatch.setattr(timm, "create_model", None)
    assert parse_backbone("timm:test_vit@random:4").card is first
