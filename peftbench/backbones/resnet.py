"""ResNet-18 as torchvision has it, with its ImageNet weights."""

from http.client import HTTPException
from pathlib import Path

import torch
import torchvision
from torch import nn

from peftbench.backbones.loading import StateDict
from peftbench.backbones.weights import check_digest
from peftbench.errors import WeightsError


class ResNet18:
    """Loader of the backbone `resnet18`."""

    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1

    def build(self) -> nn.Module:
        """The encoder, untrained: (n, 3, height, width) to (n, 512), average-pooled."""
        module: nn.Module = torchvision.models.resnet18(weights=None)
        module.fc = nn.Identity()
        return module

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The embedding, and the average over each of the four stages."""
        each: torch.Tensor = pixels
        pooled = []
        for name, layer in module.named_children():
            if name == "avgpool":
                break
            each = layer(each)
            if name.startswith("layer"):
                pooled.append(torch.flatten(module.avgpool(each), 1))  # type: ignore[operator]
        return {"embedding": pooled[-1], "stages": torch.cat(pooled, dim=1)}

    def located(self) -> Path:
        """Where torch's cache keeps the checkpoint.

        Raises:
            WeightsError: it was not downloaded yet.
        """
        path = cached_file(self.weights.url)
        if not path.is_file():
            raise WeightsError(
                f"{path.name} is not on this machine: the first `peftbench extract` with this backbone downloads it "
                f"from {self.weights.url}; without a network put the file into {path.parent}"
            )
        return path

    def pretrained(self) -> StateDict:
        """The ImageNet tensors without the classification layer, from torch's cache or downloaded into it.

        Raises:
            WeightsError: they are neither cached nor to be downloaded, or the cached file is damaged.
        """
        path = cached_file(self.weights.url)
        if not path.is_file():
            download(self.weights.url, path)
        check_digest(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}


def cached_file(url: str) -> Path:
    """Where torch keeps a downloaded checkpoint."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def download(url: str, path: Path) -> None:
    """Fetch a checkpoint into torch's cache.

    Raises:
        WeightsError: there is no way to it; the message says what to put where.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, HTTPException) as error:
        raise WeightsError(
            f"the pretrained weights {path.name} are not on this machine and cannot be downloaded from {url} "
            f"({error}): put that file into {path.parent}, or use the untrained resnet18@random:0 as a control"
        ) from error
