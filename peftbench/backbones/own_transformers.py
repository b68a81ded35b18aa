"""Any image model of transformers, from the hub or from a folder."""

import inspect
import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PretrainedConfig

from peftbench.backbones import transformer
from peftbench.backbones.loading import StateDict, refuse_faults
from peftbench.backbones.own_hub import downloads_by_libraries, told_by
from peftbench.errors import ConfigError, WeightsError
from peftbench.imaging.transform import InputTransform, Interpolation, interpolation_of
from stores.keys import digest_of

_RESAMPLING: dict[int | None, str] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""

_LARGE = 384
"""From this side on, processors of the kind of ConvNeXt's squeeze instead of cutting."""


class TransformersModel:
    """Loader of a transformers model.

    Args:
        name: `organisation/repository`, or a folder that `save_pretrained` wrote.

    Raises:
        WeightsError: what describes the model is neither here nor to be had.
        ConfigError: it is no image model, or its input is made in a way that no input transform describes.
    """

    licence = "see the model's page"
    notes = ""

    def __init__(self, name: str) -> None:
        self.name = str(Path(name).expanduser()) if name.startswith("~") else name
        if not name.startswith(("/", ".", "~")) and Path(name).is_dir():
            raise ConfigError(f"hf:{name} is a name of the hub, and there is a folder {name} here: name it hf:./{name}")
        config = self._asked(AutoConfig)
        # Of a model of pictures and texts, the part for pictures.
        self.config: PretrainedConfig = getattr(config, "vision_config", config)
        try:
            kinds: Any = AutoModel._model_mapping[type(self.config)]  # noqa: SLF001 - no public name
            self.kind: Any = kinds[0] if isinstance(kinds, tuple) else kinds
        except KeyError as error:
            raise ConfigError(
                f"hf:{name} is a {config.model_type}, and transformers has no image model of it"
            ) from error
        try:
            self.transform, self.notes = _transform(self._asked(AutoImageProcessor))
        except ValueError as error:
            raise ConfigError(f"hf:{name} cannot be used ({error}): choose another model") from error
        self.pretraining = str(getattr(config, "_commit_hash", None) or "as the folder has it")
        self.architecture = f"transformers:{self.kind.__name__}({_digest(self.config)})"
        self._options = self._without_pooler()

    def build(self) -> nn.Module:
        """The encoder, untrained."""
        return transformer.build(self.kind, self.config, self._options)

    def pretrained(self) -> nn.Module:
        """The encoder with the weights of the hub or the folder.

        Raises:
            WeightsError: they cannot be had, or leave a part of the model untrained.
        """
        with transformer.quiet():
            module, told = self._asked(
                self.kind,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **self._options,
            )
        # What is too much is a head, which this model goes without.
        refuse_faults([each for each in transformer.faults_of(told) if not each.startswith("unexpected")])
        loaded: nn.Module = module
        return loaded

    def load(self, tensors: StateDict) -> nn.Module:
        """The encoder with a checkpoint's tensors."""
        return transformer.load(self.kind, self.config, self._options, tensors)

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """What the library calls the pooled output; where that would have to be trained, the class token."""
        return {"embedding": self._pooled(module, pixels).values}

    def tensor_of(self, module: nn.Module, pixels: torch.Tensor) -> str:
        """As the library calls it."""
        with torch.inference_mode():
            return self._pooled(module, pixels).tensor

    def _pooled(self, module: nn.Module, pixels: torch.Tensor) -> "_Pooled":
        answer: Any = module(pixel_values=pixels)
        pooled = None if self._options else getattr(answer, "pooler_output", None)
        if pooled is not None:
            return _Pooled("pooler_output", torch.flatten(pooled, 1))
        last: torch.Tensor = answer.last_hidden_state
        if last.ndim == 3:
            return _Pooled("last_hidden_state|class token", last[:, 0])
        return _Pooled("last_hidden_state|mean", last.mean(dim=(2, 3)))

    def _without_pooler(self) -> dict[str, Any]:
        """Published weights often lack a pooling layer: where there is a choice, one that learns is left away."""
        if "add_pooling_layer" not in inspect.signature(self.kind.__init__).parameters:
            return {}
        with torch.device("meta"):
            pooler = getattr(self.kind(self.config), "pooler", None)
        learns = pooler is not None and any(True for _ in pooler.parameters())
        return {"add_pooling_layer": False} if learns else {}

    def _asked(self, what: Any, **options: Any) -> Any:
        is_here = Path(self.name).is_dir()
        try:
            with nullcontext() if is_here else downloads_by_libraries():
                return what.from_pretrained(self.name, trust_remote_code=False, **options)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"transformers cannot get {self.name!r} ({told_by(error)}): expected a repository of the hub that can "
                "be reached or is cached, or a folder that save_pretrained wrote"
            ) from error


class _Pooled(NamedTuple):
    """An embedding, and what it is."""

    tensor: str
    values: torch.Tensor


def _digest(config: PretrainedConfig) -> str:
    """The start of the digest of all that a configuration says of the architecture.

    The weights' digest does not prove it: a number of heads or an activation leaves no trace in them.
    """
    facts = json.loads(config.to_json_string(use_diff=False))
    asides = ("_name_or_path", "_commit_hash", "architectures", "transformers_version", "dtype", "torch_dtype")
    return digest_of({name: value for name, value in facts.items() if name not in asides})[:12]


def _transform(processor: Any) -> tuple[InputTransform, str]:
    """What an image processor does, as far as an input transform can say it, and what is different about that.

    Raises:
        ValueError: an input transform cannot say it.
    """
    resize, crop, squeezes = _extent(processor)
    notes = "The library squeezes a picture into a square; here its centre is cut out." if squeezes else ""
    mean, std = _normalisation(processor)
    return InputTransform(resize, crop, _interpolation(processor), mean, std), notes


def _extent(processor: Any) -> tuple[int, int, bool]:
    """Length of the shorter side after resizing, side of the crop, and whether the library makes it a square."""
    size = processor.size or {}
    side = int(size.get("shortest_edge") or size.get("height") or 0)
    if not side:
        raise ValueError(f"its image processor resizes to {size}, expected a shortest edge or a height")
    if getattr(processor, "do_center_crop", False) and processor.crop_size:
        return side, int(processor.crop_size["height"]), "height" in size
    fraction = getattr(processor, "crop_pct", None)
    if fraction and side < _LARGE:
        return int(side / fraction), side, False
    return side, side, "height" in size or bool(fraction)


def _normalisation(processor: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if getattr(processor, "do_rescale", True) and abs(getattr(processor, "rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ValueError(f"its image processor scales by {processor.rescale_factor}, expected 1/255")
    if not getattr(processor, "do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if not processor.image_mean or not processor.image_std:
        raise ValueError("its image processor says neither mean nor standard deviation")
    return tuple(processor.image_mean), tuple(processor.image_std)


def _interpolation(processor: Any) -> Interpolation:
    resample = getattr(processor, "resample", None)
    return interpolation_of(_RESAMPLING.get(resample if resample is None else int(resample), f"number {resample}"))
