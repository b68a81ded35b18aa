"""What the cells of a call share: a backbone, its pictures, a device, and what is computed once for all of them."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from peftbench.backbones.device import Precision, autocast, exact_fp32
from peftbench.backbones.loading import Encoder
from peftbench.finetuning.checkpointing import save_memory
from peftbench.finetuning.classifier import Classifier
from peftbench.finetuning.feed import Feed, seed_of
from peftbench.finetuning.memory import Need, need_of
from peftbench.finetuning.training import Training
from peftbench.protocol.progress import Progress
from peftbench.strategies.adapting import adapt
from peftbench.strategies.options import Options

EMBEDDED_AT_ONCE = 16
"""Pictures in a forward pass of a frozen backbone."""


@dataclass(frozen=True)
class Adaptation:
    """A strategy, with the rank of those that have one.

    Attributes:
        strategy: as in the registry, e.g. `LoRA`.
        rank: of the update; None for the others.
    """

    strategy: str
    rank: int | None = None

    @property
    def label(self) -> str:
        """As in tables and paths, e.g. `LoRA r8`."""
        return self.strategy if self.rank is None else f"{self.strategy} r{self.rank}"


@dataclass
class Bench:
    """A backbone as loaded, and what its trainings need.

    Attributes:
        encoder: frozen, on the processor; trainings work on copies.
        feed: the pictures.
        device: where trainings run.
        precision: of their forward passes.
        told: hears how far they are.
        seed: of what is random in every cell alike: LoRA's first matrices, and VeRA's, which stay as they are.
        embedded: embeddings of all pictures by the frozen backbone, once somebody has asked for them.
        counted: parameters of adaptations, once somebody has asked for them.
        needs: memory of their steps, likewise.
    """

    encoder: Encoder
    feed: Feed
    device: torch.device
    precision: Precision
    told: Progress
    seed: int = 0
    embedded: torch.Tensor | None = field(default=None, repr=False)
    counted: dict[tuple[Adaptation, str], tuple[int, int]] = field(default_factory=dict, repr=False)
    needs: dict[tuple[Adaptation, Training], Need] = field(default_factory=dict, repr=False)

    def classifier(self, adaptation: Adaptation, how: Training, words: Sequence[object], heads: int) -> Classifier:
        """A fresh copy of the backbone, adapted, with heads; on the device.

        Args:
            adaptation: which parameters learn.
            how: the settings.
            words: that tell a cell from all others: the first weights of its heads depend on them.
            heads: how many.

        Raises:
            StrategyError: the strategy does not fit the backbone, or its rank a layer.
        """
        card, options = self.encoder.card, self._options(adaptation, how)
        torch.manual_seed(seed_of(*words, "start"))
        adapted = adapt(copy.deepcopy(self.encoder.module), card, adaptation.strategy, options)
        if how.batch_norm == "frozen":
            adapted = replace(adapted, norms_learn=False)
        if how.checkpointing:
            save_memory(adapted.module)
        return Classifier(adapted, self.encoder.loader, card, heads).to(self.device)

    def embeddings(self, classifier: Classifier) -> torch.Tensor:
        """(pictures, d) of all pictures of the feed by the frozen backbone, computed once."""
        if self.embedded is None:
            self.told.start(f"embedding with {self.encoder.spec.title}", len(self.feed))
            classifier.set_modes(training=False)
            numbers = np.arange(len(self.feed))
            batches = np.array_split(numbers, -(-len(numbers) // EMBEDDED_AT_ONCE))
            parts = []
            with torch.no_grad(), autocast(self.device, self.precision):
                for batch, pixels in zip(batches, self.feed.batches(batches), strict=True):
                    parts.append(classifier.embed(pixels).float())
                    self.told.advance(len(batch))
            self.embedded = torch.cat(parts)
        return self.embedded

    def need(self, classifier: Classifier, adaptation: Adaptation, how: Training) -> Need:
        """What a step takes; found once for all cells."""
        if (adaptation, how) not in self.needs:
            self.needs[adaptation, how] = need_of(classifier, self.device, self.precision)
        return self.needs[adaptation, how]

    def count(self, adaptation: Adaptation, how: Training) -> tuple[int, int]:
        """How many parameters of the adapted backbone learn, and how many it has.

        Raises:
            StrategyError: the strategy does not fit the backbone, or its rank a layer.
        """
        asked = (adaptation, how.targets)
        if asked not in self.counted:
            card, options = self.encoder.card, self._options(adaptation, how)
            adapted = adapt(copy.deepcopy(self.encoder.module), card, adaptation.strategy, options)
            total = sum(each.numel() for each in adapted.module.parameters())
            self.counted[asked] = (adapted.parameters, total)
        return self.counted[asked]

    def _options(self, adaptation: Adaptation, how: Training) -> Options:
        return Options(
            rank=adaptation.rank, alpha=how.alpha, dropout=how.dropout, targets=how.targets, seed=self.seed
        )  # fmt: skip


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """The context in which the same training gives the same numbers: exact fp32, on the processor to the bit.

    The processor's generator, that of the device, and all settings are as before afterwards.
    """
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), exact_fp32():
        # On a GPU some kernels have no such form, and others want an environment variable set before the start.
        torch.use_deterministic_algorithms(device.type == "cpu")
        # Nobody reads what was not written; to fill it takes time.
        settings.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warned)
            settings.fill_uninitialized_memory = filled
