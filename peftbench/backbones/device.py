"""Where the forward pass runs and in what precision."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

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


def pick_devices(name: str) -> list[torch.device]:
    """One device or several: a name of `pick_device`, several with commas between, or `cuda:all`.

    Raises:
        DeviceError: one is not there, one stands twice, or they are not of one model, whose last bits would differ.
    """
    if name == "cuda:all":
        devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())] or [pick_device("cuda")]
    else:
        devices = [pick_device(each.strip()) for each in name.split(",")]
    numbers = [each.index or 0 for each in devices if each.type == "cuda"]
    twice = [number for number in numbers if numbers.count(number) > 1]
    if twice:
        raise DeviceError(f"cuda:{twice[0]} stands twice in {name!r}: expected each device once, as in cuda:0,cuda:1")
    kinds = sorted({device_kind(each) for each in devices})
    if len(kinds) > 1:
        raise DeviceError(
            f"the devices {name!r} are of several models ({', '.join(kinds)}), whose features differ in their last "
            "bits: name devices of one model"
        )
    return devices


def _cudnn() -> object:
    version: Any = torch.backends.cudnn.version
    return version()


_ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")

FAITHFUL_COSINE = 0.999
"""What bf16 features must keep of fp32's direction, in every picture, to be taken without being asked for."""

GOLDEN_COSINE = 0.9999
"""The same where only the golden pictures were compared: X-rays were seen to lose up to six times as much."""


def check_precision(name: str, device: torch.device) -> None:
    """Nothing where a precision is known and the device computes in it.

    Raises:
        ConfigError: the name is unknown.
        DeviceError: the device cannot compute in it.
    """
    if name != "auto" and name not in get_args(Precision):
        raise ConfigError(f"unknown precision {name!r}: expected auto, fp32, bf16 or fp16")
    if name == "fp16" and device.type == "cpu":
        raise DeviceError("fp16 needs a GPU; on the processor use --precision bf16, fp32 or auto")


def pick_precision(name: str, device: torch.device, keeps: Callable[[], bool]) -> Precision:
    """The precision of that name; `auto` is bf16 where the hardware computes in it and the features keep, else fp32.

    Args:
        name: `auto`, `fp32`, `bf16` or `fp16`.
        device: where the forward pass runs.
        keeps: whether bf16 keeps the backbone's features; asked only where it decides.

    Raises:
        ConfigError: the name is unknown.
        DeviceError: the device cannot compute in it.
    """
    check_precision(name, device)
    if name == "auto":
        return "bf16" if has_bf16(device) and keeps() else "fp32"
    precision: Precision = next(each for each in get_args(Precision) if each == name)
    return precision


def device_kind(device: torch.device) -> str:
    """What computes, as far as its last bits depend on it: the processor's vector instructions, or the GPU's model."""
    if device.type == "cuda":
        versions = f"CUDA {torch.version.cuda}, cuDNN {_cudnn()}"
        return f"cuda/{torch.cuda.get_device_name(device)}, {versions}"
    found = [torch.backends.cpu.get_cpu_capability()]
    found += ["bf16"] if torch.cpu._is_avx512_bf16_supported() else []  # noqa: SLF001 - no public name
    found += ["amx"] if torch.cpu._is_amx_tile_supported() else []  # noqa: SLF001
    # Who holds the library of convolutions to older instructions gets other last bits.
    found += [f"{name}={os.environ[name]}" for name in _ISA_LIMITS if name in os.environ]
    return f"cpu/{'+'.join(found)}"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware (emulated, it is slower than fp32)."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities != "DEFAULT" and bool(torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001 - no public name


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the processor's memory on a device, without waiting for what a GPU has still to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def sent_back(tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.cuda.Event]:
    """Tensors of one GPU on their way to the processor's memory, and the moment from which on they are there.

    The copies are queued behind what the GPU has to do now, and do not wait for what it is given later.
    """
    here = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in tensors]
    for target, each in zip(here, tensors, strict=True):
        target.copy_(each, non_blocking=True)
    event: Any = torch.cuda.Event
    arrived = event()
    arrived.record(torch.cuda.current_stream(tensors[0].device))
    return here, arrived


class Returned(NamedTuple):
    """Numbers on their way from a device: asked for now, waited for when they are read.

    Attributes:
        here: where they arrive, in the processor's memory.
        arrived: of a GPU that is still computing; None where they are there.
    """

    here: torch.Tensor
    arrived: torch.cuda.Event | None

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "Returned":
        """Send a tensor on its way."""
        if tensor.device.type != "cuda":
            return cls(tensor, None)
        (here,), arrived = sent_back([tensor])
        return cls(here, arrived)

    def values(self) -> list[float]:
        """The numbers of a tensor (n,); waits until they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return [float(each) for each in self.here.tolist()]


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """The context in which a forward pass has that precision."""
    with torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "fp32"):
        yield


@contextmanager
def exact_fp32() -> Iterator[None]:
    """The context in which what is fp32 is exactly that (no TF32, no bf16 inside), whatever this process has set.

    Settings of the whole process: entered once around all forward passes, by one thread.
    """
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    tuned, onednn = torch.backends.cudnn.benchmark, torch.backends.mkldnn.enabled
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = False
    torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32, tuned
        torch.backends.mkldnn.enabled = onednn
