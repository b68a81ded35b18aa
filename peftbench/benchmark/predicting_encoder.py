"""The backbone of a record as it is here, held against the recipe that the record was made by.

What makes another model is refused; what makes other last bits is said.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from peftbench.backbones.device import Precision, check_precision
from peftbench.backbones.loading import Encoder, load_encoder
from peftbench.backbones.registry import BackboneSpec, parse_backbone
from peftbench.errors import ConfigError, DeviceError, RecordError
from peftbench.protocol.progress import Progress

_OWN_FOLDER = re.compile(r"hf:[^/]+-[0-9a-f]{8}")
"""A model that lay in a local folder, as records name it."""

Recipe = Mapping[str, Any]
"""What made a record's features, as its provenance has it."""

DECISIVE = ("architecture", "weights", "transform", "outputs", "schema")
"""Ingredients of which another value makes another model; of all others it makes other last bits."""


def loaded(name: str, weights: str, recipe: Recipe, told: Progress) -> Encoder:
    """A record's backbone, after it was found to be the one that the record was made with.

    Args:
        name: as the record has it.
        weights: path of its checkpoint, or folder of its model, where it is a file of the user's own; else empty.
        recipe: of the record.
        told: hears how far it is.

    Raises:
        ConfigError: weights are named of a backbone that has none of its own.
        WeightsError: the weights are absent, or known by a label alone.
        RecordError: it is another backbone, or has other weights or another transform.
    """
    spec = _spec_of(name, weights)
    told.start(f"loading {spec.title}", 1)
    encoder = load_encoder(spec, told)
    told.advance()
    card = encoder.card
    here = {"architecture": card.architecture, "weights": encoder.weights_digest, "transform": str(card.transform)}
    refuse_another({**recipe, **here}, recipe, name)
    return encoder


def _spec_of(name: str, weights: str) -> BackboneSpec:
    base, _, behind = name.partition("@")
    untrained = behind.startswith("random:")
    if not weights:
        if _OWN_FOLDER.fullmatch(base) or (behind and not untrained):
            raise ConfigError(
                f"the record was made with {name}, weights of your own, which it knows by this label alone: name their "
                "file (of an hf: model its folder) with --weights PATH"
            )
        return parse_backbone(name)
    if untrained:
        raise ConfigError(
            f"the record was made with {name}, untrained weights, which need no file: leave --weights out"
        )
    path = Path(weights.removeprefix("file:")).expanduser()
    if path.is_dir():
        return parse_backbone(f"hf:{path.absolute()}")
    return parse_backbone(base, f"file:{path}")


def precision_of(asked: str | None, recorded: str, device: torch.device) -> Precision:
    """The precision of the forward pass.

    Args:
        asked: by the user; None for the record's.
        recorded: of the record.
        device: where it is to run.

    Raises:
        ConfigError: there is no such precision.
        DeviceError: the device does not compute in it.
    """
    wanted = asked or recorded
    if wanted not in get_args(Precision):
        raise ConfigError(f"unknown precision {wanted!r}: expected {', '.join(get_args(Precision))}")
    if asked is None and recorded == "fp16" and device.type == "cpu":
        raise DeviceError(
            "the record was made in fp16, which needs a GPU: predict where there is one, or add --precision fp32, "
            "whose scores are nearly the same"
        )
    check_precision(wanted, device)
    return next(each for each in get_args(Precision) if each == wanted)


def refuse_another(here: Recipe, recorded: Recipe, name: str) -> None:
    """Nothing where the ingredients that make a model are those of the record.

    Raises:
        RecordError: one is another.
    """
    wrong = [each for each in DECISIVE if each in recorded and here.get(each) != recorded[each]]
    if wrong:
        told = "; ".join(f"its {each}: {_short(here.get(each))} here, {_short(recorded[each])} there" for each in wrong)
        raise RecordError(
            f"{name} is not here what the record was made with ({told}): bring the weights of the record (`peftbench "
            "weights verify`; --weights PATH names a file of your own), or make the record again"
        )


def differences(here: Recipe, recorded: Recipe) -> str:
    """A sentence on what differs here and changes the last digits of a score; empty where nothing does.

    Args:
        here: recipe of the predictions.
        recorded: of the record.
    """
    mine, theirs = _flat(here), _flat(recorded)
    names = [name for name in theirs if name in mine and mine[name] != theirs[name] and name not in DECISIVE]
    if not names:
        return ""
    told = "; ".join(f"{name}: {mine[name]} here, {theirs[name]} there" for name in names)
    return f"computed otherwise than the record, so that the last digits of scores may differ ({told})"


def _flat(recipe: Recipe) -> dict[str, Any]:
    libraries = {f"version of {name}": each for name, each in recipe.get("libraries", {}).items()}
    return {**{name.replace("_", " "): each for name, each in recipe.items() if name != "libraries"}, **libraries}


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text
