"""Each backbone computes what its original computes, and its input is made as its original makes it.

The originals are the libraries in which the weights were published: as installed, and, where their code has changed
since, as they were, by outputs stored in `layouts/tiny` (see `layouts/make_legacy.py`). The weights are drawn from the
names (`layout_kit`), so a tensor in the wrong place shows.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
import transformers
from layout_kit import (
    LAYOUTS,
    PERIOD,
    computed,
    cut,
    described,
    grey_picture,
    layout,
    layout_of,
    seeded_pixels,
    seeded_tensors,
    shrunk,
    tiny_config,
    tower,
)
from open_clip.model import CLIP
from open_clip.timm_model import TimmModel
from PIL import Image
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from peftbench.backbones import cnn, efficientnet_lite0, swin, vit
from peftbench.backbones.cards import CARDS
from peftbench.backbones.loading import find_loader
from peftbench.backbones.tokens import BLOCKS
from peftbench.imaging.transform import InputTransform

pytestmark = pytest.mark.slow

CLOSE = 1e-5
"""Largest difference of two float32 computations of the same."""

DIFFERENT = 1e-3
"""Smallest difference that a wrong model makes here."""

Found = Mapping[str, torch.Tensor]


@torch.inference_mode()
def outputs(loader: Any, tensors: Found, pixels: torch.Tensor) -> Found:
    found: Found = loader.outputs(loader.load(tensors).eval(), pixels)
    return found


def fill(module: nn.Module) -> dict[str, torch.Tensor]:
    """Give a module of an installed library seeded tensors; answers them under that library's names."""
    listed = layout_of(module.state_dict())
    tensors = seeded_tensors(listed)
    module.load_state_dict(tensors)
    module.eval()
    return tensors


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


def assert_same(found: Found, expected: Found, within_: float = CLOSE) -> None:
    differences = {name: apart(found[name], value) for name, value in expected.items()}
    assert max(differences.values()) < within_, differences


def stored(kind: str, case: str = "native") -> dict[str, torch.Tensor]:
    """Outputs of the original library, by name."""
    return {
        name.partition("/")[2]: value for name, value in computed(kind).items() if name.startswith(f"{case}/")
    }  # fmt: skip


def given(kind: str, case: str = "native") -> torch.Tensor:
    """The input of the original library."""
    return seeded_pixels(tuple(described(kind, "tiny")["inputs"][case]))


def published(tensors: Found, prefix: str) -> Found:
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def blocks_of(module: nn.Module, blocks: Any, norm: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is stored of a Vision Transformer of any library, by hooks: class tokens and patches after the norm."""
    seen: list[torch.Tensor] = []
    hooks = [each.register_forward_hook(lambda _m, _g, answer: seen.append(answer)) for each in blocks]
    module(pixels)
    for hook in hooks:
        hook.remove()
    normed = [norm(each) for each in seen]
    last = normed[-1]
    classes = torch.stack([each[:, 0] for each in normed[-BLOCKS:]], dim=1)
    return {"embedding": last[:, 0], "patch_mean": last[:, 1:].mean(1), "block_cls": classes}


class TestStoredOutputs:
    """Against the libraries as they were when the checkpoints were published."""

    def test_dinov2(self) -> None:
        loader = shrunk(vit.dinov2_small(), **tiny_config("dinov2"))
        expected = stored("dinov2")
        assert expected.keys() == {"embedding", "patch_mean", "block_cls"}
        assert_same(outputs(loader, tower(layout("dinov2", "tiny"), ""), given("dinov2")), expected)

    def test_dinov2_with_position_embeddings_resampled(self) -> None:
        """The library has changed how it resamples; the rest is the same, so the difference stays small."""
        loader = shrunk(vit.dinov2_small(), **tiny_config("dinov2"))
        tensors, pixels = tower(layout("dinov2", "tiny"), ""), given("dinov2", "smaller")
        found, expected = outputs(loader, tensors, pixels), stored("dinov2", "smaller")
        assert apart(found["embedding"], expected["embedding"]) < RESAMPLED
        # With the old resampling in the checkpoint itself, all is as it was.
        native = "embeddings.position_embeddings"
        small = shrunk(loader, image_size=pixels.shape[-1])
        old = resampled_as_before(tensors[native], pixels.shape[-1] // 14)
        assert_same(outputs(small, {**tensors, native: old}, pixels), expected)

    def test_clip(self) -> None:
        loader = shrunk(vit.pubmedclip(), **without_activation(tiny_config("clip")))
        expected = stored("clip")
        assert expected.keys() == {"embedding", "patch_mean", "block_cls"}
        assert_same(outputs(loader, tower(layout("clip", "tiny"), "vision_model."), given("clip")), expected)

    def test_another_activation_would_be_noticed(self) -> None:
        loader = shrunk(vit.pubmedclip(), **{**tiny_config("clip"), "hidden_act": "gelu"})
        found = outputs(loader, tower(layout("clip", "tiny"), "vision_model."), given("clip"))
        assert all(apart(found[name], value) > DIFFERENT for name, value in stored("clip").items())

    def test_medclip_swin(self) -> None:
        loader = shrunk(swin.medclip_swin(), **tiny_config("swin"))
        listed, expected = layout("swin", "tiny"), stored("swin")
        found = outputs(loader, tower(listed, "vision_model.model."), given("swin"))
        assert_same(found, {name: expected[name] for name in ("embedding", "stages")})
        projection = seeded_tensors(listed)["vision_model.projection_head.weight"]
        assert apart(found["embedding"] @ projection.T, expected["projected"]) < CLOSE

    def test_medclip_resnet50(self) -> None:
        listed = layout("medclip-resnet50", "tiny")
        found = outputs(cnn.resnet50(), tower(listed, "vision_model.model."), given("medclip-resnet50"))
        projection = seeded_tensors(listed)["vision_model.model.fc.weight"]
        assert apart(found["embedding"] @ projection.T, stored("medclip-resnet50")["projected"]) < CLOSE

    def test_efficientnet_lite0(self) -> None:
        tensors = tower(layout("efficientnet-lite0", "tiny"), "")
        found = outputs(efficientnet_lite0.efficientnet_lite0(), tensors, given("efficientnet-lite0"))
        expected = stored("efficientnet-lite0")
        assert_same(found, {name: expected[name] for name in ("embedding", "stages")})
        logits = found["embedding"] @ tensors["_fc.weight"].T + tensors["_fc.bias"]
        assert apart(logits, expected["logits"]) < CLOSE


RESAMPLED = 0.1
"""Of embeddings whose deviation is 1, with rough position embeddings on a grid of 5: the change between versions."""


def without_activation(config: dict[str, Any]) -> dict[str, Any]:
    """So that the loader's own activation is used."""
    return {name: value for name, value in config.items() if name != "hidden_act"}


def resampled_as_before(embeddings: torch.Tensor, side: int) -> torch.Tensor:
    """As transformers 4.41 and DINOv2's own code do it: by a factor that is a little too large."""
    grid = int((embeddings.shape[1] - 1) ** 0.5)
    patches = embeddings[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    factor = (side + 0.1) / grid
    resized = nn.functional.interpolate(patches, scale_factor=(factor, factor), mode="bicubic", align_corners=False)
    assert resized.shape[-1] == side
    return torch.cat([embeddings[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


class TestInstalledLibraries:
    """Against the libraries of the publishers as installed."""

    @pytest.fixture
    def clip(self) -> CLIP:
        text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
        size = {"image_size": 42, "patch_size": 14, "layers": 5, "width": 32, "head_width": 16}
        config = open_clip.get_model_config("ViT-L-14")
        # All else as open_clip has it for this model.
        return CLIP(**{**config, "embed_dim": 16, "vision_cfg": {**config["vision_cfg"], **size}, "text_cfg": text})

    @torch.inference_mode()
    def test_open_clip(self, clip: CLIP) -> None:
        tensors, pixels = fill(clip), seeded_pixels((2, 3, 42, 42))
        visual = clip.visual
        expected = blocks_of(visual, visual.transformer.resblocks, visual.ln_post, pixels)
        found = outputs(self.tiny_clip_large(), published(tensors, "visual."), pixels)
        assert_same(found, expected)
        assert apart(found["embedding"] @ tensors["visual.proj"], clip.encode_image(pixels)) < CLOSE
        visual.proj = None
        assert apart(found["embedding"], clip.encode_image(pixels)) < CLOSE

    def test_openais_activation_would_be_noticed(self, clip: CLIP) -> None:
        tensors, pixels = published(fill(clip), "visual."), seeded_pixels((2, 3, 42, 42))
        exact = outputs(self.tiny_clip_large(), tensors, pixels)
        quick = outputs(shrunk(self.tiny_clip_large(), hidden_act="quick_gelu"), tensors, pixels)
        assert all(apart(exact[name], quick[name]) > DIFFERENT for name in exact)

    def tiny_clip_large(self) -> Any:
        size = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 5, "num_attention_heads": 2}
        return shrunk(vit.clip_large(), **size, image_size=42)

    @torch.inference_mode()
    def test_timm_through_open_clip(self) -> None:
        """With a smaller trunk of the same code and the settings of BioMedCLIP's configuration."""
        original = TimmModel("vit_tiny_patch16_224", embed_dim=16, image_size=224, pool="", proj="linear")
        tensors, pixels = fill(original), seeded_pixels((1, 3, 224, 224))
        loader = shrunk(vit.biomedclip(), hidden_size=192, intermediate_size=768, num_attention_heads=3)
        trunk = original.trunk
        found = outputs(loader, published(tensors, "trunk."), pixels)
        assert_same(found, blocks_of(trunk, trunk.blocks, trunk.norm, pixels))
        assert apart(found["embedding"], trunk(pixels)) < CLOSE
        assert apart(found["embedding"] @ tensors["head.proj.weight"].T, original(pixels)) < CLOSE

    @pytest.mark.parametrize("name", ["resnet18", "resnet50"])
    @torch.inference_mode()
    def test_torchvision_resnet(self, name: str) -> None:
        original = getattr(torchvision.models, name)()
        tensors, pixels = fill(original), seeded_pixels((2, 3, 96, 80))
        stages = create_feature_extractor(original, [f"layer{stage}" for stage in (1, 2, 3, 4)])(pixels)
        expected = {"stages": torch.cat([each.mean((2, 3)) for each in stages.values()], dim=1)}
        found = outputs(getattr(cnn, name)(), tensors, pixels)
        assert_same(found, expected)
        assert apart(found["embedding"] @ tensors["fc.weight"].T + tensors["fc.bias"], original(pixels)) < CLOSE

    @torch.inference_mode()
    def test_torchvision_densenet(self) -> None:
        original = torchvision.models.densenet121()
        tensors, pixels = fill(original), seeded_pixels((2, 3, 96, 80))
        stages = create_feature_extractor(original, [f"features.denseblock{block}" for block in (1, 2, 3, 4)])(pixels)
        expected = {"stages": torch.cat([each.mean((2, 3)) for each in stages.values()], dim=1)}
        found = outputs(cnn.densenet121(), tensors, pixels)
        assert_same(found, expected)
        logits = found["embedding"] @ tensors["classifier.weight"].T + tensors["classifier.bias"]
        assert apart(logits, original(pixels)) < CLOSE

    @torch.inference_mode()
    def test_densenet_under_its_old_names(self) -> None:
        """The file that torchvision downloads, read by torchvision's own code and by the loader."""
        listed = layout("densenet121")
        old, pixels = seeded_tensors(listed), seeded_pixels((1, 3, 64, 64))
        original = torchvision.models.densenet121()
        weights = type("Downloaded", (), {"get_state_dict": lambda *_, **__: dict(old)})()
        torchvision.models.densenet._load_state_dict(original, weights, progress=False)
        expected = original.eval()(pixels)
        found = outputs(cnn.densenet121(), old, pixels)["embedding"]
        assert apart(found @ old["classifier.weight"].T + old["classifier.bias"], expected) < CLOSE

    @torch.inference_mode()
    def test_timm_efficientnet(self) -> None:
        loader = efficientnet_lite0.efficientnet_lite0()
        tensors, pixels = tower(layout("efficientnet-lite0"), ""), seeded_pixels((2, 3, 128, 96))
        original = timm.create_model("tf_efficientnet_lite0", num_classes=0)
        original.load_state_dict(loader.load(tensors).state_dict())
        stages = original.eval().forward_intermediates(pixels, intermediates_only=True)
        expected = {
            "embedding": original(pixels),
            "stages": torch.cat([each.mean((2, 3)) for each in stages[-4:]], dim=1),
        }
        assert_same(outputs(loader, tensors, pixels), expected)


class TestTransformersOwnLoading:
    """Against `from_pretrained` of a folder with a checkpoint of the time in it."""

    def test_dinov2(self, tmp_path: Path) -> None:
        config = transformers.Dinov2Config(**tiny_config("dinov2"))
        tensors = tower(layout("dinov2", "tiny"), "")
        original = from_folder(tmp_path, transformers.Dinov2Model, config, tensors)
        pixels = given("dinov2", "smaller")
        found = outputs(shrunk(vit.dinov2_small(), **tiny_config("dinov2")), tensors, pixels)
        with torch.inference_mode():
            expected = blocks_of(original, layers_of(original), original.layernorm, pixels)
        assert_same(found, expected)

    def test_clip(self, tmp_path: Path) -> None:
        config = transformers.CLIPVisionConfig(**tiny_config("clip"))
        listed = layout("clip", "tiny")
        whole = seeded_tensors(each for each in listed if not each[0].endswith("position_ids"))
        original = from_folder(tmp_path, transformers.CLIPVisionModel, config, whole)
        pixels = given("clip")
        with torch.inference_mode():
            answer = original(pixels)
            norm = dict(original.named_modules())
            post = next(module for name, module in norm.items() if name.endswith("post_layernorm"))
            expected = blocks_of(original, layers_of(original), post, pixels)
        loader = shrunk(vit.pubmedclip(), **without_activation(tiny_config("clip")))
        found = outputs(loader, tower(listed, "vision_model."), pixels)
        assert_same(found, expected)
        assert apart(found["embedding"], answer.pooler_output) < CLOSE

    def test_swin(self, tmp_path: Path) -> None:
        config = transformers.SwinConfig(**tiny_config("swin"))
        tensors = tower(layout("swin", "tiny"), "vision_model.model.")
        original = from_folder(tmp_path, transformers.SwinModel, config, tensors)
        pixels = given("swin")
        with torch.inference_mode():
            answer = original(pixels, output_hidden_states=True)
        expected = {
            "embedding": answer.pooler_output,
            "stages": torch.cat([each.mean(1) for each in answer.hidden_states[1:]], dim=1),
        }
        assert_same(outputs(shrunk(swin.medclip_swin(), **tiny_config("swin")), tensors, pixels), expected)


def from_folder(folder: Path, kind: Any, config: Any, tensors: Found) -> Any:
    config.save_pretrained(folder)
    torch.save(dict(tensors), folder / "pytorch_model.bin")
    model, told = kind.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    return model.eval()


def layers_of(model: nn.Module) -> Any:
    """The blocks, under whichever name this version keeps them."""
    lists = [each for each in model.modules() if isinstance(each, nn.ModuleList)]
    assert len(lists) == 1
    return lists[0]


@pytest.mark.slow
class TestFullSize:
    """At the backbones' own size, whose settings leave no trace in the names: the number of heads above all."""

    @pytest.mark.parametrize("name", ["dinov2-s", "dinov2-b", "dinov2-l", "pubmedclip", "medclip-swin"])
    def test_stored_outputs(self, name: str) -> None:
        checkpoint = CARDS[name].checkpoint
        assert checkpoint is not None
        loader, listed = find_loader(CARDS[name]), layout(name)
        if name.startswith("dinov2"):
            # Position embeddings for 224 pixels, so that nothing is resampled.
            loader = shrunk(loader, image_size=224)
            listed = cut(listed, blocks=99, extents={1370: 257})
        found = outputs(loader, tower(listed, checkpoint.prefix), seeded_pixels((1, 3, 224, 224)))
        assert_same(found, computed(name, "full"))

    @torch.inference_mode()
    def test_open_clip(self) -> None:
        with torch.device("meta"):
            original = CLIP(**open_clip.get_model_config("ViT-L-14")).visual
        # Both sides are given the same, so values may repeat within a tensor: no two tensors are alike.
        tensors = seeded_tensors(layout_of(original.state_dict()), period=PERIOD)
        original.load_state_dict(tensors, assign=True)
        original.eval()
        pixels = seeded_pixels((1, 3, 224, 224))
        expected = blocks_of(original, original.transformer.resblocks, original.ln_post, pixels)
        assert_same(outputs(vit.clip_large(), tensors, pixels), expected)

    @torch.inference_mode()
    def test_timm(self) -> None:
        original = timm.create_model("vit_base_patch16_224", num_classes=0)
        tensors, pixels = fill(original), seeded_pixels((1, 3, 224, 224))
        expected = blocks_of(original, original.blocks, original.norm, pixels)
        assert_same(outputs(vit.biomedclip(), tensors, pixels), expected)


EXTENTS = [(256, 256), (301, 233), (230, 516), (224, 224), (101, 150), (1024, 770)]
"""Odd and even, larger and smaller than the input, tall and wide."""

GREY_LEVELS = 1
"""PIL and torch resize 8-bit pictures with antialiasing by fixed-point weights of different precision, and round."""

Preprocessing = Callable[[Image.Image], torch.Tensor]


def shaped(transform: InputTransform, picture: np.ndarray) -> torch.Tensor:
    grey: torch.Tensor = transform.shape([picture])[0]
    return grey


def normalised(transform: InputTransform, grey: torch.Tensor) -> torch.Tensor:
    return transform.normalise(grey[None], torch.empty(1, 3, *grey.shape))[0]


def levels_apart(transform: InputTransform, picture: np.ndarray, expected: torch.Tensor) -> float:
    """Largest difference of the input to the original's, in grey levels."""
    found = normalised(transform, shaped(transform, picture))
    assert found.shape == expected.shape
    return float(((found - expected).abs().amax((1, 2)) * torch.tensor(transform.std) * 255).max())


def torchvision_own(name: str) -> Preprocessing:
    steps: Preprocessing = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
    return steps


def dinov2_processor() -> Any:
    """preprocessor_config.json of facebook/dinov2-*."""
    return transformers.BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )


def clip_processor() -> Any:
    """The class's own values are those of OpenAI's models, and PubMedCLIP's preprocessor_config.json repeats them."""
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})


def in_transformers(processor: Any, picture: Image.Image | np.ndarray, **options: Any) -> torch.Tensor:
    rgb = (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).convert("RGB")
    pixels: torch.Tensor = processor(rgb, return_tensors="pt", **options)["pixel_values"][0]
    return pixels


def open_clip_own() -> Preprocessing:
    steps: Preprocessing = open_clip.image_transform(224, is_train=False)
    return steps


def lite0_own() -> Preprocessing:
    """As the code that the weights come from evaluates: shorter side 256, bicubic, centre 224, mean and std 0.5."""
    v2 = torchvision.transforms.v2
    bicubic = v2.InterpolationMode.BICUBIC
    return v2.Compose(
        [
            v2.Resize(256, interpolation=bicubic),
            v2.CenterCrop(224),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


ORIGINALS: dict[str, Callable[[], Preprocessing]] = {
    **{name: partial(torchvision_own, name) for name in ("resnet18", "resnet50", "densenet121")},
    **{f"dinov2-{size}": lambda: partial(in_transformers, dinov2_processor()) for size in "sbl"},
    "clip-large": open_clip_own,
    "biomedclip": open_clip_own,
    "pubmedclip": lambda: partial(in_transformers, clip_processor()),
    "efficientnet-lite0": lite0_own,
}
"""Preprocessing of each original: an RGB picture to its normalised input."""


class TestTransforms:
    """Against the preprocessing that each original is published with, on grey pictures of 8 bits."""

    @pytest.mark.parametrize("extent", EXTENTS, ids=str)
    @pytest.mark.parametrize("name", ORIGINALS)
    def test_input_is_the_originals(self, name: str, extent: tuple[int, int]) -> None:
        picture = grey_picture(*extent)
        expected = ORIGINALS[name]()(Image.fromarray(picture).convert("RGB"))
        assert levels_apart(CARDS[name].transform, picture, expected) < GREY_LEVELS + 0.01

    @pytest.mark.parametrize("name", ["dinov2-s", "pubmedclip"])
    def test_half_a_pixel_of_margin_is_rounded_as_torchvision_does(self, name: str) -> None:
        """torchvision, with which DINOv2 and CLIP were published, rounds it to even; transformers cuts it off."""
        picture, transform = grey_picture(230, 517), CARDS[name].transform
        height, width = transform.resized_extent(230, 517)
        margin = (width - transform.crop) / 2
        assert round(margin) == margin + 0.5, "an extent where it matters"
        processor: Any = {"dinov2-s": dinov2_processor, "pubmedclip": clip_processor}[name]()
        whole = in_transformers(processor, picture, do_center_crop=False)
        assert whole.shape == (3, height, width)
        top = (height - transform.crop) // 2
        rows, left = slice(top, top + transform.crop), round(margin)
        expected = whole[:, rows, left : left + transform.crop]
        assert levels_apart(transform, picture, expected) < GREY_LEVELS + 0.01
        aside = whole[:, rows, left - 1 : left - 1 + transform.crop]
        assert torch.equal(in_transformers(processor, picture), aside), "transformers does as it did"

    def test_openclips_values_are_the_ones_of_biomedclips_configuration(self) -> None:
        assert CARDS["biomedclip"].transform == CARDS["clip-large"].transform == CARDS["pubmedclip"].transform
        assert CARDS["biomedclip"].transform.mean == open_clip.OPENAI_DATASET_MEAN
        assert CARDS["biomedclip"].transform.std == open_clip.OPENAI_DATASET_STD

    @pytest.mark.parametrize("extent", [(101, 150), (301, 233), (230, 517)], ids=str)
    @pytest.mark.parametrize("name", ["medclip-resnet50", "medclip-swin"])
    def test_input_is_medclips(self, name: str, extent: tuple[int, int]) -> None:
        """As the package's own feature extractor made it, stored as grey levels."""
        picture, transform = grey_picture(*extent), CARDS[name].transform
        with np.load(LAYOUTS / "tiny" / "medclip_transform.npz") as kept:
            expected = kept[f"{extent[0]}x{extent[1]}"]
        assert np.array_equal(expected, medclips(picture)), "PIL does as it did"
        grey = shaped(transform, picture)
        assert int((grey.int() - torch.from_numpy(expected).int()).abs().max()) <= GREY_LEVELS
        own = (torch.from_numpy(expected).double() / 255 - 0.5862785803043838) / 0.27950088968644304
        assert apart(normalised(transform, torch.from_numpy(expected))[1].double(), own) < 1e-6

    @pytest.mark.parametrize("extent", [(225, 224), (400, 401), (37, 1000)], ids=str)
    def test_medclips_square_at_odd_margins(self, extent: tuple[int, int]) -> None:
        picture, transform = grey_picture(*extent), CARDS["medclip-swin"].transform
        difference = shaped(transform, picture).int() - torch.from_numpy(medclips(picture)).int()
        assert int(difference.abs().max()) <= GREY_LEVELS


def medclips(picture: np.ndarray) -> np.ndarray:
    """medclip.dataset.MedCLIPFeatureExtractor without its normalisation: in the middle of a black square, resized."""
    height, width = picture.shape
    side = max(224, width, height)
    square = Image.new("L", (side, side), 0)
    square.paste(Image.fromarray(picture), (int((side - width) / 2), int((side - height) / 2)))
    return np.array(square.resize((224, 224), resample=Image.Resampling.BICUBIC))
