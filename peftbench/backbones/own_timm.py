"""Any image model of timm."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

from peftbench.backbones.loading import StateDict, load_strictly
from peftbench.backbones.own_hub import downloads_by_libraries, told_by
from peftbench.errors import ConfigError, UnknownNameError, WeightsError, unknown_name
from peftbench.imaging.transform import InputTransform, interpolation_of


class TimmModel:
    """Loader of a timm model.

    Args:
        name: as timm has it, `architecture` or `architecture.weights`.

    Raises:
        UnknownNameError: timm has no such model.
        ConfigError: its input is made in a way that no input transform describes.
    """

    def __init__(self, name: str) -> None:
        if not timm.is_model(name):
            raise _unknown(name)
        self.name = name
        self.architecture = f"timm:{name}"
        config = _config(name)
        data: Any = timm.data
        facts = data.resolve_data_config(pretrained_cfg=vars(config))
        side = min(facts["input_size"][1:])
        try:
            interpolation = interpolation_of(facts["interpolation"])
        except ValueError as error:
            raise ConfigError(f"timm:{name} cannot be used ({error}): choose another model") from error
        resized = max(side, int(side / facts["crop_pct"]))
        self.transform = InputTransform(resized, side, interpolation, facts["mean"], facts["std"])
        self.licence = config.license or "not stated"
        self.pretraining = config.tag or "none published"
        mode = facts.get("crop_mode", "center")
        self.notes = "" if mode == "center" else f"timm shapes a picture by {mode!r}; here its centre is cut out."
        head = config.classifier or ()
        self._heads = (head,) if isinstance(head, str) else tuple(head)

    def build(self) -> nn.Module:
        """The encoder, untrained: (n, 3, height, width) to (n, d)."""
        module: nn.Module = timm.create_model(self.name, pretrained=False, num_classes=0)
        return module

    def pretrained(self) -> nn.Module:
        """The encoder with the weights that timm finds.

        Raises:
            WeightsError: they are neither cached nor to be downloaded, or do not fit.
        """
        try:
            # With its classifier: without it timm forgives whatever else is missing.
            with downloads_by_libraries():
                whole: nn.Module = timm.create_model(self.name, pretrained=True)
        except Exception as error:
            raise WeightsError(
                f"timm cannot get the weights ({told_by(error)}): run it once where there is a network, or name a "
                f"checkpoint as timm:{self.name}@file:PATH"
            ) from error
        return self.load(whole.state_dict())

    def load(self, tensors: StateDict) -> nn.Module:
        """The encoder with a checkpoint's tensors; the classifier is left behind."""
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(self._dropped())}
        return load_strictly(self.build(), kept)

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """What goes into the classifier."""
        return {"embedding": module(pixels)}

    def tensor_of(self, module: nn.Module, pixels: torch.Tensor) -> str:  # noqa: ARG002 - of all models the same
        """As timm calls it."""
        return "pre_logits"

    def _dropped(self) -> tuple[str, ...]:
        return tuple(f"{head}." for head in self._heads)


def _config(name: str) -> Any:
    """What timm says of a model's weights."""
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        architecture = name.partition(".")[0]
        tagged = timm.list_pretrained(f"{architecture}.*")
        raise unknown_name("timm model", name, tagged, f"timm.list_pretrained('{architecture}.*')") from error
    if config is None:
        raise _unknown(name)
    return config


def _unknown(name: str) -> UnknownNameError:
    known = timm.list_models()
    error = unknown_name("timm model", name, known, "timm.list_models()")
    # There are more than a thousand: where none is near, all of them are no help.
    listed = f"known are {', '.join(sorted(known))}."
    return UnknownNameError(str(error).replace(listed, f"none of timm's {len(known)} is like it."))
