"""Parameters that learn at one rate: an optimizer, its schedule, and a limit on the gradient.

The backbone has one, and each head has one of its own: heads that are trained side by side learn as they would alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau

from peftbench.finetuning.training import Training


class Learner:
    """AdamW with a warm-up and a schedule.

    Args:
        parameters: that learn.
        rate: learning rate after the warm-up.
        how: the settings.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float, how: Training) -> None:
        self.parameters = list(parameters)
        self.rate = rate
        self.how = how
        # Biases, norms and scaling vectors are not drawn to zero, whatever shape a library gives them.
        matrices = [each for each in self.parameters if not is_vector(each)]
        vectors = [each for each in self.parameters if is_vector(each)]
        groups = [
            {"params": each, "weight_decay": decay}
            for each, decay in ((matrices, how.weight_decay), (vectors, 0.0))
            if each
        ]
        self.optimizer = AdamW(groups, lr=rate, fused=True)
        self.plateau = ReduceLROnPlateau(
            self.optimizer,
            factor=how.plateau_factor,
            # The library counts looks at the validation part, the setting counts epochs.
            patience=how.plateau_patience // how.evaluate_every,
            min_lr=how.min_learning_rate,
        )

    @property
    def current_rate(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def begin_epoch(self, epoch: int) -> None:
        """Set the rate of an epoch, as far as its number decides it.

        Args:
            epoch: from 0.
        """
        warm, how = self.how.warmup_epochs, self.how
        if epoch < warm:
            self._set(self.rate * (epoch + 1) / (warm + 1))
        elif how.schedule == "cosine":
            share = (epoch - warm) / max(1, how.epochs - warm)
            low = min(how.min_learning_rate, self.rate)
            self._set(low + (self.rate - low) * (1.0 + math.cos(math.pi * share)) / 2.0)
        elif epoch == warm:
            self._set(self.rate)

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Let the rate fall where the validation loss does not, under the schedule `plateau`.

        Args:
            epoch: that has ended, from 0.
            loss: on the validation part.
        """
        if self.how.schedule == "plateau" and epoch >= self.how.warmup_epochs:
            self.plateau.step(loss)

    def step(self, scaler: torch.amp.GradScaler) -> None:
        """One step along the accumulated gradients, which are forgotten."""
        if self.how.clip is not None:
            scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.how.clip)
        scaler.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        plateau = self.plateau.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` was asked for."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.plateau.load_state_dict(state["plateau"])

    def _set(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def is_vector(parameter: torch.Tensor) -> bool:
    """Whether a parameter has one axis only, apart from axes of length 1: IA3's scales are (n, 1) or (1, n, 1, 1)."""
    return parameter.numel() == max(parameter.shape, default=1)
