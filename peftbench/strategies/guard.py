"""Frozen is frozen, and what should learn learns: a guard that is asked while a model trains.

A checksum of a tensor is the sum of its bits, read as whole numbers: exact, on the tensor's own device, and without a
copy. It is made to find what training changes, not what somebody would hide.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from peftbench.errors import StrategyError
from peftbench.strategies.adapting import following_buffers
from peftbench.strategies.injection import adapters_of

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the size of an element in bytes."""

NAMES_SHOWN = 8


@dataclass(frozen=True)
class Guard:
    """Watches a module.

    Attributes:
        module: it.
        checksums: of each parameter and buffer that must not change, by its dotted name.
    """

    module: nn.Module
    checksums: Mapping[str, int]

    @classmethod
    def of(cls, module: nn.Module) -> "Guard":
        """The guard of a module as it is now: an adapted encoder, with or without a head."""
        return cls(module, _checksums(_frozen(module)))

    def check_unchanged(self) -> None:
        """Whether all that is frozen is still as it was.

        Raises:
            StrategyError: some of it changed, learns now, or is gone; the message names it.
        """
        now = _checksums(_frozen(self.module))
        changed = [name for name, checksum in self.checksums.items() if now.get(name) != checksum]
        if changed:
            raise StrategyError(
                f"frozen tensors changed: {_listed(changed)}; something trains them or moves their statistics: call "
                "set_modes before every epoch, and give the optimiser only what requires a gradient"
            )

    def check_gradients(self) -> tuple[str, ...]:
        """Whether a gradient reached all that should learn; to be asked after the first backward pass.

        Returns:
            Where everything learns, the names of parameters that the forward pass does not use (DINOv2's mask token).

        Raises:
            StrategyError: a parameter has no gradient though only some learn, none has one, or an adapted layer has
                gradients of zero alone.
        """
        learning = {name: each for name, each in self.module.named_parameters() if each.requires_grad}
        without = tuple(name for name, parameter in learning.items() if parameter.grad is None)
        everything = len(learning) == sum(1 for _ in self.module.parameters())
        if without and (not everything or len(without) == len(learning)):
            raise StrategyError(
                f"no gradient reached {_listed(without)}: the forward pass does not use it; choose other targets or "
                "another strategy for this backbone"
            )
        self._refuse_idle_adapters()
        return without

    def _refuse_idle_adapters(self) -> None:
        # LoRA's A has a gradient of zero at first, because B is zero: so a layer is judged as a whole.
        adapters = adapters_of(self.module)
        idle = [
            name
            for name, layer in adapters.items()
            if isinstance(layer, nn.Module) and not _has_gradient(layer.parameters())
        ]
        if idle:
            raise StrategyError(
                f"all gradients are zero in {len(idle)} of {len(adapters)} adapted layers: {_listed(idle)}; they "
                "would never learn: choose other targets or another strategy for this backbone"
            )


def _frozen(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters that do not learn, and buffers that training must not move."""
    following = following_buffers(module)
    parameters = {name: each for name, each in module.named_parameters() if not each.requires_grad}
    buffers = {name: each for name, each in module.named_buffers() if name not in following}
    return {**parameters, **buffers}


@torch.no_grad()
def _checksums(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    sums = [each.detach().view(_BITS[each.element_size()]).sum(dtype=torch.int64) for each in tensors.values()]
    # Sums are taken to the processor together: to wait for each would cost more than to compute it.
    values = torch.stack(sums).tolist() if sums else []
    return dict(zip(tensors, values, strict=True))


def _has_gradient(parameters: Iterable[nn.Parameter]) -> bool:
    return any(bool(each.grad.count_nonzero()) for each in parameters if each.grad is not None)


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else ""
    return ", ".join(found[:NAMES_SHOWN]) + more
