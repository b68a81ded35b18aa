"""From a backbone's name to a frozen encoder whose weights have a digest.

A loader builds the architecture and finds its pretrained tensors; this module does what is the same for all:
seeded untrained weights, the strict load, the digest, the freeze.
"""

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.registry import BackboneSpec
from peftbench.errors import MissingPackageError, WeightsError

StateDict = Mapping[str, torch.Tensor]


class Loader(Protocol):
    """What a backbone's own file provides."""

    def build(self) -> nn.Module:
        """The encoder, untrained: (n, 3, height, width) to (n, embedding)."""

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """All outputs of the card from one forward pass; `embedding` is what the module itself answers."""

    def located(self) -> Path:
        """Where the pretrained weights lie on this machine; asks no network.

        Raises:
            WeightsError: they are absent; the message says which file, from where, and how to get it.
        """

    def pretrained(self) -> StateDict:
        """The pretrained tensors under the names of `build`'s module.

        Raises:
            WeightsError: they are absent (the message says which file, from where, and how to get it) or damaged.
        """


@dataclass(frozen=True)
class Encoder:
    """A frozen backbone, ready to embed.

    Attributes:
        spec: what it is.
        loader: knows the module's outputs.
        module: in evaluation mode, no parameter learns.
        weights_digest: SHA-256 of all its tensors, names and shapes.
    """

    spec: BackboneSpec
    loader: Loader
    module: nn.Module
    weights_digest: str

    @property
    def card(self) -> BackboneCard:
        """The card of the backbone."""
        return self.spec.card


def load_encoder(spec: BackboneSpec) -> Encoder:
    """Build a backbone and load its weights.

    Raises:
        MissingPackageError: a library that it needs is not installed.
        WeightsError: the pretrained weights are absent, or do not fit the architecture.
    """
    loader = find_loader(spec.card)
    with torch.random.fork_rng(devices=[]):
        # Untrained weights depend on the seed alone, and leave the caller's random state as it was.
        torch.manual_seed(spec.random_seed or 0)
        module = loader.build()
    if spec.random_seed is None:
        load_strictly(module, loader.pretrained(), spec.card.name)
    module.requires_grad_(requires_grad=False)
    return Encoder(spec, loader, module.eval(), tensors_digest(module.state_dict()))


def find_loader(card: BackboneCard) -> Loader:
    """Import a card's loader.

    Raises:
        MissingPackageError: a library that it needs is not installed.
    """
    module, _, name = card.loader.partition(":")
    try:
        loader: Loader = getattr(importlib.import_module(module), name)()
    except ImportError as error:
        raise MissingPackageError(
            f"the backbone {card.name!r} needs a package that cannot be imported ({error}): "
            "pip install 'peftbench[models,offline]'"
        ) from error
    return loader


def load_strictly(module: nn.Module, tensors: StateDict, name: str) -> None:
    """Load tensors into a module; every name and every shape must fit.

    Raises:
        WeightsError: some are missing, unexpected or of another shape; the message lists them.
    """
    own = module.state_dict()
    # Checkpoints from before torch counted batches lack these; nothing that is frozen reads them.
    counters = {key: torch.zeros_like(own[key]) for key in own if key.endswith(".num_batches_tracked")}
    tensors = {**counters, **tensors}
    faults = [f"missing {key}" for key in own if key not in tensors]
    faults += [f"unexpected {key}" for key in tensors if key not in own]
    faults += [
        f"{key} is {tuple(tensors[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise WeightsError(f"the weights do not fit the architecture of {name!r}: {shown}")
    module.load_state_dict(dict(tensors))


def tensors_digest(tensors: StateDict) -> str:
    """SHA-256 of tensors: names (sorted), types, shapes and bytes; the file they came from plays no part."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def library_versions(card: BackboneCard) -> dict[str, str]:
    """Versions of the packages that change a backbone's features, as installed."""
    return {name: metadata.version(name) for name in card.libraries}
