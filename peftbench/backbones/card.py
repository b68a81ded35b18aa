"""A backbone's card: what a reviewer wants to know of it, and what the benchmark needs to run it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from peftbench.imaging.transform import InputTransform


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
        embedding: length of the embedding.
        output: the tensor that is stored: layer and pooling.
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
    embedding: int
    output: str
    transform: InputTransform
    loader: str
    libraries: tuple[str, ...]
    bf16_cosine: float | None = None
    channels_last: bool = False
    notes: str = ""
