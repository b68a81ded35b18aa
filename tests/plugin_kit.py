"""Distributions with backbones of their own, installed into a folder as an installer would: metadata beside modules."""

import sys
from pathlib import Path

from peftbench.backbones.plugins import GROUP

NAME = "tiny-plugged"
"""Of the good plug-in's backbone."""

WIDTH = 8

GOOD = f'''
"""A backbone of another package: a card here, what needs torch in the loader's module."""

from peftbench.backbones.card import BackboneCard, Output
from peftbench.imaging.transform import InputTransform

CARD = BackboneCard(
    name="{NAME}",
    title="Tiny, plugged in",
    family="own",
    architecture="lab:Tiny",
    pretraining="none",
    data="none",
    checkpoint=None,
    licence="MIT",
    parameters=3 * {WIDTH} + {WIDTH},
    parameters_with_head=3 * {WIDTH} + {WIDTH},
    outputs=(Output("embedding", "conv|avgpool", ({WIDTH},)),),
    transform=InputTransform(16, 16, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    loader="lab_backbones_loader:tiny",
    libraries=("torch",),
)


def cards():
    return [CARD.model_copy(update={{"name": f"{NAME}-{{each}}"}}) for each in "ab"]
'''

LOADER = f"""
import torch
from torch import nn

from peftbench.backbones.loading import load_strictly


class Tiny:
    def build(self):
        return nn.Sequential(nn.Conv2d(3, {WIDTH}, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def load(self, tensors):
        return load_strictly(self.build(), tensors)

    def outputs(self, module, pixels):
        return {{"embedding": module(pixels)}}


def tiny():
    return Tiny()
"""

BROKEN = {
    "raises": ("raise RuntimeError('its library\\n   is too old')", "", "its library is too old"),
    "exits": ("raise SystemExit(3)", "", "3"),
    "nonsense": ("CARD = 42", ":CARD", "expected a BackboneCard, got int"),
    "words": ("CARD = ['resnet']", ":CARD", "expected a BackboneCard, got str"),
    "missing": ("", ":CARD", "module 'lab_missing' has no attribute 'CARD'"),
    "taken": (
        "from lab_good import CARD\nCARD = CARD.model_copy(update={'name': 'resnet18'})",
        ":CARD",
        "the name 'resnet18' is taken",
    ),
    "twice": ("from lab_good import CARD\nCARDS = [CARD.model_copy(update={'name': 'same'})] * 2", ":CARDS",
              "the name 'same' is taken"),
    "unsafe": ("from lab_good import CARD\nCARD = CARD.model_copy(update={'name': '../up@1'})", ":CARD",
               "the name '../up@1' is not of letters"),
    "library": ("from lab_good import CARD\nCARD = CARD.model_copy(update={'name': 'l', 'libraries': ('no-lib',)})",
                ":CARD", "No package metadata was found for no-lib"),
}  # fmt: skip
"""Name of an entry point: its module, what it names in it, and what is said of it."""


def install(folder: Path, *broken: str, good: bool = True) -> Path:
    """Put distributions into a folder: `lab-good` with a backbone, `lab-broken` with entry points of `BROKEN`.

    Returns:
        The folder, to be put on the path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lab_good.py").write_text(GOOD)
    (folder / "lab_backbones_loader.py").write_text(LOADER)
    entries = ["one = lab_good:CARD", "several = lab_good:cards"] if good else []
    _distribution(folder, "lab-good", entries)
    for name in broken:
        (folder / f"lab_{name}.py").write_text(BROKEN[name][0])
    _distribution(folder, "lab-broken", [f"{name} = lab_{name}{BROKEN[name][1]}" for name in broken])
    return folder


def forget() -> None:
    """Forget what was imported from such a folder."""
    for name in [each for each in sys.modules if each.startswith("lab_")]:
        del sys.modules[name]


def _distribution(folder: Path, name: str, entries: list[str]) -> None:
    if not entries:
        return
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *entries]) + "\n")
