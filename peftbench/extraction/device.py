"""Where the forward pass runs and in what precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from peftbench.errors import ConfigError, DeviceError

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first GPU, else the processor.

    Raises:
        DeviceError: the name is unknown, or there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"unknown device {name!r}: expected auto, cpu, cuda or cuda:0, cuda:1, ...") from error
    if device.type not in {"cpu", "cuda"}:
        raise DeviceError(f"the device {name!r} is not supported: expected auto, cpu, cuda or cuda:0, cuda:1, ...")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise DeviceError(
            f"the device {name!r} was asked for and there are {count} CUDA devices here: "
            "use --device auto or --device cpu; `peftbench doctor` shows what there is"
        )
    return device


FAITHFUL_COSINE = 0.999
"""What bf16 features must keep of fp32's direction, in every image, to be taken without being asked for."""


def pick_precision(name: str, device: torch.device, bf16_cosine: float | None = None) -> Precision:
    """The precision of that name; `auto` is bf16 where the hardware computes in it and the features keep, else fp32.

    Args:
        name: `auto`, `fp32`, `bf16` or `fp16`.
        device: where the forward pass runs.
        bf16_cosine: of the backbone's card.

    Raises:
        ConfigError: the name is unknown.
        DeviceError: the device cannot compute in it.
    """
    if name == "auto":
        faithful = bf16_cosine is not None and bf16_cosine >= FAITHFUL_COSINE
        return "bf16" if faithful and has_bf16(device) else "fp32"
    for precision in get_args(Precision):
        if name == precision:
            if name == "fp16" and device.type == "cpu":
                raise DeviceError("fp16 needs a GPU; on the processor use --precision bf16, fp32 or auto")
            chosen: Precision = precision
            return chosen
    raise ConfigError(f"unknown precision {name!r}: expected auto, fp32, bf16 or fp16")


def device_kind(device: torch.device) -> str:
    """What computes, as far as its last bits depend on it: the processor's vector instructions, or the GPU's model."""
    if device.type == "cuda":
        return f"cuda/{torch.cuda.get_device_name(device)}"
    return f"cpu/{torch.backends.cpu.get_cpu_capability()}"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware (emulated, it is slower than fp32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities != "DEFAULT" and bool(torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001 - no public name


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """The context in which a forward pass has that precision; what stays fp32 in it is exact fp32 (no TF32)."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "fp32"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
