"""A backbone's card: what a reviewer wants to know of it, and what the benchmark needs to run it."""

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator

from peftbench.imaging.transform import InputTransform


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


class BackboneCard(BaseModel):
    """A pretrained image encoder.

    Attributes:
        name: in the registry.
        title: for tables.
        family: CNN, or foundation model (FM).
        architecture: what is built, as `library:name`.
        pretraining: on what, how.
        source: where the weights come from.
        licence: of the weights.
        parameters: of the encoder, without a head.
        parameters_with_head: with the classification layer it was published with.
        outputs: tensors of one forward pass that are stored, the embedding first.
        transform: canonical pixels to input.
        loader: `module:class` of its `Loader`.
        libraries: packages whose version changes the features.
        bf16_cosine: lowest cosine of an image's features in bf16 to those in fp32, as measured on Hannover with the
            pretrained weights; None where it was not measured.
        channels_last: whether that memory layout is the faster one.
        notes: what else a reader must know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    title: str
    family: Literal["CNN", "FM"]
    architecture: str
    pretraining: str
    source: str
    licence: str
    parameters: int
    parameters_with_head: int
    outputs: tuple[Output, ...]
    transform: InputTransform
    loader: str
    libraries: tuple[str, ...]
    bf16_cosine: float | None = None
    channels_last: bool = False
    notes: str = ""

    @model_validator(mode="after")
    def _embedding_first(self) -> "BackboneCard":
        if not self.outputs or self.outputs[0].name != "embedding" or len(self.outputs[0].shape) != 1:
            raise ValueError(f"the first output of {self.name!r} must be a vector called 'embedding'")
        return self

    @property
    def embedding(self) -> int:
        """Length of the embedding."""
        return self.outputs[0].shape[0]
