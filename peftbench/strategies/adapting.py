"""From a frozen encoder and the name of a strategy to a module in which exactly what should learn learns."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.loading import tensors_digest
from peftbench.errors import StrategyError
from peftbench.strategies.bitfit import BitFit
from peftbench.strategies.fft import FFT
from peftbench.strategies.ia3 import IA3
from peftbench.strategies.injection import adapters_of
from peftbench.strategies.layers import check_counts
from peftbench.strategies.lora import LoRA
from peftbench.strategies.lp import LP
from peftbench.strategies.matrix import canonical, refuse_unfit
from peftbench.strategies.options import Options
from peftbench.strategies.strategy import Strategy
from peftbench.strategies.vera import VeRA

ADAPTERS: dict[str, Strategy] = {each.name: each for each in (LP(), FFT(), LoRA(), VeRA(), BitFit(), IA3())}

FAULTS_SHOWN = 8


@dataclass(frozen=True)
class Adapted:
    """A backbone in which a strategy's parameters learn.

    Attributes:
        module: to run; the loader's `outputs` takes it as it took the encoder.
        strategy: its name.
        layers: how many modules have parameters that learn.
        parameters: how many learn, without a head.
        norms_learn: whether batch norms move their running statistics in training.
    """

    module: nn.Module
    strategy: str
    layers: int
    parameters: int
    norms_learn: bool


def adapt(module: nn.Module, card: BackboneCard, strategy: str, options: Options | None = None) -> Adapted:
    """Freeze an encoder, and let learn of it what a strategy says; what comes back is in evaluation mode.

    Args:
        module: the encoder; it is changed in place.
        card: of the backbone.
        strategy: its name, in any case.
        options: how; by default `Options()`.

    Raises:
        StrategyError: the strategy does not fit the backbone, the module is not what the card says or was adapted
            before, or another number of parameters learns than the shapes of the layers say.
        UnknownNameError: there is no such strategy.
    """
    refuse_unfit(card, strategy)
    chosen, options = ADAPTERS[canonical(strategy)], options or Options()
    if adapters_of(module):
        raise StrategyError(f"the encoder of {card.name!r} was adapted before: load it anew for another strategy")
    module.requires_grad_(requires_grad=False)
    check_counts(module, card)
    expected = chosen.expected_parameters(module, card, options)
    # New layers come in training mode, with dropout at work.
    adapted = chosen.adapt(module, card, options).eval()
    learning = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    if learning != expected:
        raise StrategyError(
            f"{chosen.name} makes {learning:,} parameters of {card.name!r} learn, expected {expected:,} from the "
            "shapes of its layers: the installed version of peft does something else; install another"
        )
    return Adapted(adapted, chosen.name, learning_layers(adapted), learning, chosen.norms_learn)


def learning_layers(module: nn.Module) -> int:
    """How many layers learn: those with an adapter, or all that have a parameter of their own that learns."""
    if found := adapters_of(module):
        return len(found)
    own = [layer.parameters(recurse=False) for layer in module.modules()]
    return sum(any(parameter.requires_grad for parameter in each) for each in own)


def set_modes(adapted: Adapted, training: bool) -> None:
    """Training or evaluation mode for what learns, evaluation mode for what is frozen.

    A batch norm in training mode moves its running statistics although its parameters are frozen: only where everything
    learns it follows. With nothing but a head to learn, the backbone is always in evaluation mode.
    """
    adapted.module.train(training and adapted.parameters > 0)
    if not adapted.norms_learn:
        for norm in batch_norms(adapted.module).values():
            norm.eval()


def batch_norms(module: nn.Module) -> dict[str, nn.Module]:
    """The batch norms, by their dotted names."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}


def following_buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that change in training: those of batch norms where all parameters of the module learn."""
    if not all(parameter.requires_grad for parameter in module.parameters()):
        return {}
    return {
        f"{layer}.{name}" if layer else name: buffer
        for layer, norm in batch_norms(module).items()
        for name, buffer in norm.named_buffers(recurse=False)
    }


def learning_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint must hold: copies, on the processor, of all that training changes.

    These are the parameters that learn and, where everything learns, the running statistics of batch norms. VeRA's
    shared matrices are not among them: they follow from the seed.
    """
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in _learning(module).items()}


@torch.no_grad()
def load_learning_state(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put a checkpoint into a module that was adapted in the same way, with the same seed.

    Raises:
        StrategyError: a tensor is missing, unexpected, or of another shape or type; the message lists them. Nothing was
            loaded then.
    """
    own = _learning(module)
    faults = [f"missing {name}" for name in own if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in own]
    faults += [
        f"{name} is {_described(tensors[name])}, expected {_described(own[name])}"
        for name in own
        if name in tensors and _described(tensors[name]) != _described(own[name])
    ]
    if faults:
        more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise StrategyError(
            f"the checkpoint does not fit what learns: {'; '.join(faults[:FAULTS_SHOWN])}{more}: expected one of the "
            "same backbone, strategy, rank and targets"
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def shared_digest(module: nn.Module) -> str:
    """SHA-256 of VeRA's shared matrices, which no checkpoint holds; empty under all other strategies.

    They follow from the seed, by the generators of the installed torch and the initialisation of the installed peft.
    """
    shared = {name: each for name, each in module.named_buffers() if ".vera_A." in name or ".vera_B." in name}
    return tensors_digest(shared) if shared else ""


def _learning(module: nn.Module) -> dict[str, torch.Tensor]:
    parameters = {name: each for name, each in module.named_parameters() if each.requires_grad}
    return {**parameters, **following_buffers(module)}


def _described(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
