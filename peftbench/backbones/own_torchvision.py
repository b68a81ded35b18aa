"""Any classification model of torchvision: its last linear layer is left away."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from peftbench.backbones.download import is_offline
from peftbench.backbones.loading import StateDict, load_strictly
from peftbench.backbones.own_hub import told_by
from peftbench.errors import ConfigError, WeightsError, unknown_name
from peftbench.imaging.transform import InputTransform, interpolation_of


class TorchvisionModel:
    """Loader of a torchvision model, with the newest weights that it lists.

    Args:
        name: as torchvision has it.

    Raises:
        UnknownNameError: torchvision has no such model.
    """

    licence = "BSD-3-Clause"
    notes = ""

    def __init__(self, name: str) -> None:
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise unknown_name("torchvision model", name, known, "torchvision.models.list_models()")
        self.name = name
        self.architecture = f"torchvision:{name}"
        self.weights = torchvision.models.get_model_weights(name).DEFAULT
        self.pretraining = self.weights.name
        facts = self.weights.transforms()
        self.transform = InputTransform(
            facts.resize_size[0],
            facts.crop_size[0],
            interpolation_of(facts.interpolation.value),
            tuple(facts.mean),
            tuple(facts.std),
        )

    def build(self) -> nn.Module:
        """The encoder, untrained: (n, 3, height, width) to (n, d)."""
        return self._without_head(self._whole())

    def pretrained(self) -> nn.Module:
        """The encoder with torchvision's weights, from torch's cache or downloaded into it.

        Raises:
            WeightsError: they are neither cached nor to be downloaded.
        """
        if is_offline() and not self._cached().is_file():
            raise self._absent("the network is switched off")
        try:
            # torch's hub prints on stdout, which belongs to the verb's answer.
            with redirect_stdout(sys.stderr):
                module = torchvision.models.get_model(self.name, weights=self.weights)
        except Exception as error:
            raise self._absent(told_by(error)) from error
        return self._without_head(module)

    def load(self, tensors: StateDict) -> nn.Module:
        """The encoder with a checkpoint's tensors; the last linear layer is left behind."""
        module = self._whole()
        head = self._head_of(module)
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{head}.")}
        return load_strictly(self._without_head(module), kept)

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """What goes into the last linear layer."""
        return {"embedding": module(pixels)}

    def tensor_of(self, module: nn.Module, pixels: torch.Tensor) -> str:  # noqa: ARG002 - of all models the same
        """Torchvision has no name for it."""
        return "input of the last linear layer"

    def _cached(self) -> Path:
        """Where torch's cache has the weights, if it has them."""
        return Path(torch.hub.get_dir()) / "checkpoints" / Path(self.weights.url).name

    def _absent(self, told: str) -> WeightsError:
        return WeightsError(
            f"torchvision cannot get {self.weights.url} ({told}): put that file into {self._cached().parent}, or name "
            f"a checkpoint as torchvision:{self.name}@file:PATH"
        )

    def _whole(self) -> nn.Module:
        # These two were trained on input that they normalise themselves; torchvision says so with its weights alone.
        options: dict[str, Any] = {"transform_input": True} if self.name in {"googlenet", "inception_v3"} else {}
        module: nn.Module = torchvision.models.get_model(self.name, weights=None, **options)
        return module

    def _head_of(self, module: nn.Module) -> str:
        linear: list[str] = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
        last = list(dict(module.named_modules()))[-3:]
        if not linear or linear[-1] not in last:
            raise ConfigError(f"torchvision:{self.name} does not end with a linear layer: choose another model")
        return linear[-1]

    def _without_head(self, module: nn.Module) -> nn.Module:
        path, _, last = self._head_of(module).rpartition(".")
        setattr(module.get_submodule(path), last, nn.Identity())
        return module
