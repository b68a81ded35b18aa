"""An adapted backbone with linear heads on its embedding.

The heads, one a learning rate, share the backbone. Each is trained by its own loss; what reaches the backbone is the
mean of their gradients.
"""

from collections.abc import Mapping

import torch
from torch import nn

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.loading import Loader
from peftbench.strategies.adapting import Adapted, learning_state, load_learning_state, set_modes

CLASSES = 2

HEAD_DEVIATION = 0.01
"""Of a head's weights at first, as in DINOv2's linear evaluation."""

HEAD = "head."
"""Begins the names of a head's tensors in a checkpoint."""


class Classifier(nn.Module):
    """Shaped pictures to the logits of each head.

    Args:
        adapted: the backbone; some of its parameters learn.
        loader: knows the backbone's outputs.
        card: of the backbone.
        heads: how many.
    """

    def __init__(self, adapted: Adapted, loader: Loader, card: BackboneCard, heads: int) -> None:
        super().__init__()
        self.adapted = adapted
        self.loader = loader
        self.card = card
        self.backbone = adapted.module
        self.heads = nn.ModuleList(_head(card.embedding) for _ in range(heads))
        self.layout = torch.channels_last if card.channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.layout)
        self.learns = any(each.requires_grad for each in self.backbone.parameters())

    def embed(self, pictures: torch.Tensor) -> torch.Tensor:
        """Shaped pictures (n, crop, crop), grey from 0 to 255, to embeddings (n, d)."""
        crop = self.card.transform.crop
        empty = torch.empty((len(pictures), 3, crop, crop), device=pictures.device, memory_format=self.layout)
        pixels = self.card.transform.normalise(pictures, empty)
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            return self.loader.outputs(self.backbone, pixels)["embedding"]

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, d) to logits (heads, n, 2), in fp32 whatever the precision: heads cost nothing."""
        if embedding.requires_grad and len(self.heads) > 1:
            embedding.register_hook(self._mean)  # type: ignore[no-untyped-call]
        with torch.autocast(embedding.device.type, enabled=False):
            return torch.stack([head(embedding.float()) for head in self.heads])

    def set_modes(self, *, training: bool) -> None:
        """As a strategy wants it: dropout while it learns, statistics of batch norms only where these learn."""
        set_modes(self.adapted, training=training)
        self.heads.train(training)

    def learnt(self, head: int) -> dict[str, torch.Tensor]:
        """What a checkpoint holds of the backbone and one head: copies, on the processor."""
        tensors = {**learning_state(self.backbone), **_named(self.heads[head])}
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}

    def load(self, tensors: Mapping[str, torch.Tensor], head: int = 0) -> None:
        """Take what a checkpoint holds.

        Raises:
            StrategyError: names or shapes are not those of this backbone under this strategy.
        """
        own = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD)}
        load_learning_state(self.backbone, own)
        state = {name.removeprefix(HEAD): each for name, each in tensors.items() if name.startswith(HEAD)}
        self.heads[head].load_state_dict(state)

    def _mean(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient / len(self.heads)


def _named(head: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{HEAD}{name}": tensor for name, tensor in head.state_dict().items()}


def _head(width: int) -> nn.Linear:
    head = nn.Linear(width, CLASSES)
    nn.init.normal_(head.weight, std=HEAD_DEVIATION)
    nn.init.zeros_(head.bias)
    return head
