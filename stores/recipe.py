"""Identity of a feature store: everything that changes its bytes, one function that builds the key, one that compares.

A recipe names all but the images. Those are named row by row, by the digest of their canonical pixels, so that the
decoder and the pixel policy count as well.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from stores.keys import canonical_json, digest_of
from stores.layout import CHECKSUMS

FEATURE_SCHEMA = 2
"""Raised whenever the bytes of a feature row would change for a reason no other ingredient names."""

MAIN_OUTPUT = "embedding"
"""The output that every store has, and that is meant where none is named."""

RESERVED = ("image", CHECKSUMS)
"""Names of arrays that every store has beside its outputs."""

_SILENT = "eager"
"""What a recipe means that does not speak of its graph."""

_STEP = re.compile(r"(?P<name>\w+)(?:\((?P<words>.*)\))?")
_OUTPUT_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Difference(NamedTuple):
    """An ingredient in which two recipes differ; a value is empty where the recipe lacks the ingredient."""

    ingredient: str
    mine: str
    theirs: str


@dataclasses.dataclass(frozen=True)
class FeatureRecipe:
    """Everything that changes the bytes of a feature row, except the image itself.

    Attributes:
        architecture: what computes, e.g. `timm:tf_efficientnet_lite0`.
        weights: SHA-256 of the tensors that were loaded.
        transform: canonical pixels to model input, as one readable string.
        outputs: the tensors of one forward pass that are stored: name to `layer|pooling`. `embedding` is always there.
        dtype: of the stored rows, e.g. `float32`.
        precision: of the forward pass: `fp32`, `bf16` or `fp16`.
        device: what computed, e.g. `cpu/AVX512` or `cuda/NVIDIA H100`: their last bits differ.
        batch_size: images in a forward pass: libraries choose their kernels by shape, and so the last bits.
        libraries: versions of the packages that take part in the forward pass.
        memory_layout: of the input, `contiguous` or `channels_last`: it chooses other kernels, and so the last bits.
        graph: what was done to the network before it ran: `eager` is nothing, `folded` took batch norms into the
            convolutions, `unfused` computes attention by matrix products, `compiled` left all to torch's compiler.
        schema: version of this recipe's meaning.
    """

    architecture: str
    weights: str
    transform: str
    outputs: Mapping[str, str]
    dtype: str
    precision: str
    device: str
    batch_size: int
    libraries: Mapping[str, str]
    memory_layout: str = "contiguous"
    graph: str = _SILENT
    schema: int = FEATURE_SCHEMA

    def __post_init__(self) -> None:
        if MAIN_OUTPUT not in self.outputs:
            raise ValueError(f"a recipe's outputs are {list(self.outputs)}, {MAIN_OUTPUT!r} must be one of them")
        bad = [name for name in self.outputs if not _OUTPUT_NAME.fullmatch(name) or name in RESERVED]
        if bad:
            others = " or ".join(RESERVED)
            raise ValueError(f"an output cannot be called {bad[0]!r}: expected small letters, digits, _, not {others}")

    @property
    def key(self) -> str:
        """The store's key: SHA-256 (64 hexadecimal characters) of all ingredients."""
        return digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON's types."""
        value = {**dataclasses.asdict(self), "libraries": dict(self.libraries), "outputs": dict(self.outputs)}
        if self.graph == _SILENT:
            # Recipes from before there was a choice are silent about it, and keep their keys.
            del value["graph"]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "FeatureRecipe":
        """The recipe that `to_json` wrote."""
        return cls(**value)

    @property
    def ingredients(self) -> dict[str, str]:
        """The recipe for people: every ingredient by the name that the field has for it."""
        return {part: text for name, value in self.to_json().items() for part, text in _parts_of(name, value).items()}

    def differences(self, other: "FeatureRecipe") -> list[Difference]:
        """The ingredients in which two recipes differ; empty if and only if their keys are equal."""
        mine, theirs = self.to_json(), other.to_json()
        found: list[Difference] = []
        for name in {**mine, **theirs}:
            own, other_value = mine.get(name, _SILENT), theirs.get(name, _SILENT)
            if canonical_json(own) == canonical_json(other_value):
                continue
            one, two = _parts_of(name, own), _parts_of(name, other_value)
            parts = [part for part in dict.fromkeys([*one, *two]) if one.get(part) != two.get(part)]
            found += [Difference(part, one.get(part, ""), two.get(part, "")) for part in parts]
            if not parts:
                # Equal parts in another order, or written otherwise.
                found.append(Difference(name, str(own), str(other_value)))
        return found


def _parts_of(field: str, value: Any) -> dict[str, str]:
    """A field of a recipe as the ingredients that people know."""
    if field == "transform":
        return transform_parts(value)
    if field == "libraries":
        return {f"library {name}": str(version) for name, version in sorted(value.items())}
    if field != "outputs":
        return {field.replace("_", " "): str(value)}
    parts: dict[str, str] = {}
    for name, output in value.items():
        layer, _, pooling = output.partition("|")
        parts |= {f"{name}: layer": layer, f"{name}: pooling": pooling or "none"}
    return parts


def transform_parts(transform: str) -> dict[str, str]:
    """An input transform such as `resize(256,bicubic,antialias)|centercrop(224)|normalize(mean=0.5;std=0.5)` in parts.

    A step that is not known by name stands as it is.
    """
    parts: dict[str, str] = {}
    for step in transform.split("|"):
        found = _STEP.fullmatch(step)
        name, words = (found["name"], found["words"] or "") if found else (step, "")
        if name == "resize":
            size, *rest = words.split(",")
            parts |= {"resize": size, "antialiasing": "yes" if "antialias" in rest else "no"}
            parts |= {"interpolation": ",".join(word for word in rest if word != "antialias") or "not stated"}
        elif name in {"centercrop", "crop"}:
            parts["crop"] = words
        elif name in {"rgb", "grey"}:
            parts["channels"] = name
        elif name == "normalize":
            parts |= dict(word.partition("=")[::2] for word in words.split(";"))
        else:
            parts[f"transform: {name}"] = words or "yes"
    return parts
