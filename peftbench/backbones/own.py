"""The user's own choice: any image model of timm, torchvision or transformers, named `LIBRARY:MODEL`.

The card says what the library says of the model. One output is stored: what goes into the model's last linear layer, or
what the library calls its pooled output.
"""

from functools import cache
from typing import Protocol

import torch
from torch import nn

from peftbench.backbones.card import BackboneCard, Output
from peftbench.backbones.loading import Loader, find_loader, untrained
from peftbench.backbones.own_hub import told_by
from peftbench.backbones.own_layers import fit, is_convolutional, watched
from peftbench.backbones.registry import own_library
from peftbench.errors import ConfigError
from peftbench.imaging.transform import InputTransform

_HOMES = {
    "timm": "peftbench.backbones.own_timm:TimmModel",
    "torchvision": "peftbench.backbones.own_torchvision:TorchvisionModel",
    "hf": "peftbench.backbones.own_transformers:TransformersModel",
}
_PACKAGES = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}


class OwnLoader(Loader, Protocol):
    """A loader that also knows what its library says of the model.

    Attributes:
        transform: canonical pixels to input.
        licence: of the weights, as far as the library says.
        pretraining: name of the weights.
        architecture: what is built; the name that the user gave is not enough where that can mean another tomorrow.
        notes: what else a reader must know.
    """

    transform: InputTransform
    licence: str
    pretraining: str
    architecture: str
    notes: str

    def tensor_of(self, module: nn.Module, pixels: torch.Tensor) -> str:
        """Layer and pooling of the embedding."""


@cache
def own_card(base: str, name: str) -> BackboneCard:
    """The card of a model that is named `LIBRARY:MODEL`.

    Args:
        base: as the user names it.
        name: as it is called in tables. That of a folder holds a digest of its files: what changes in it is another
            name, and so not answered from memory.

    Raises:
        UnknownNameError: the library has no such model.
        ConfigError: it is no model that makes one vector of a picture.
        MissingPackageError: the library is not installed.
        WeightsError: what describes the model is neither on this machine nor to be had.
    """
    library = own_library(base)
    model = base.partition(":")[2]
    stub = _stub(name, f"{_HOMES[library]}:{model}", ("torch", _PACKAGES[library]))
    loader: OwnLoader = find_loader(stub)  # type: ignore[assignment]
    module, pixels = untrained(loader, 0).eval(), _picture(loader.transform.crop)
    with watched(module) as called:
        width = _width(base, loader, module, pixels)
    fits = fit(module, called)
    facts = {
        "pretraining": loader.pretraining,
        "architecture": loader.architecture,
        "found_by": f"{_PACKAGES[library]}, by the name {stub.name.partition(':')[2]}",
        "licence": loader.licence,
        "parameters": sum(each.numel() for each in module.parameters()),
        "outputs": (Output("embedding", loader.tensor_of(module, pixels), (width,)),),
        "transform": loader.transform,
        "channels_last": is_convolutional(module),
        "notes": loader.notes,
        "layers": fits.layers,
        "extensions": fits.extensions,
        "refused": fits.refused,
    }
    return stub.model_copy(update={**facts, "parameters_with_head": facts["parameters"]})


def _stub(name: str, home: str, libraries: tuple[str, str]) -> BackboneCard:
    """A card that says where the loader is, and nothing else yet."""
    return BackboneCard(
        name=name,
        title=name,
        family="own",
        architecture="",
        pretraining="",
        data="see the library's page of the model",
        checkpoint=None,
        licence="",
        parameters=0,
        parameters_with_head=0,
        outputs=(Output("embedding", "", (1,)),),
        transform=InputTransform(1, 1, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        loader=home,
        libraries=libraries,
        strategies=("LP", "FFT"),
    )


def _picture(side: int) -> torch.Tensor:
    return torch.linspace(-2, 2, 3 * side * side).reshape(1, 3, side, side)


def _width(base: str, loader: OwnLoader, module: nn.Module, pixels: torch.Tensor) -> int:
    """Length of the embedding, as one forward pass shows it."""
    side = loader.transform.crop
    try:
        with torch.inference_mode():
            embedding, again = (loader.outputs(module, pixels)["embedding"] for _ in range(2))
    except Exception as error:
        told = told_by(error)
        raise ConfigError(f"{base} does not take a picture of {side} x {side} pixels alone ({told})") from error
    if embedding.ndim != 2:
        raise ConfigError(f"{base} answers {tuple(embedding.shape)} for a picture, expected one vector")
    if not torch.equal(embedding, again):
        raise ConfigError(f"{base} answers the same picture otherwise each time: choose a model that does not draw")
    return int(embedding.shape[1])
