"""What a cell costs: peak memory, energy, where it ran, with what libraries; carried over interruptions.

Seconds are in the training's own standing. Nothing is required: what cannot be measured is None.
"""

import contextlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from peftbench.protocol import provenance

LIBRARIES = ("torch", "torchvision", "peft", "transformers", "timm")

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Meter:
    """Counts from now on.

    Args:
        device: where the cell runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before: Mapping[str, Any] = {}
        self._energy = EnergyMeter(device)
        self._reset = _reset_peak()
        if device.type == "cuda":
            # Of a device with a number the statistics are asked for without starting CUDA first.
            torch.cuda.init()  # type: ignore[no-untyped-call]
            torch.cuda.reset_peak_memory_stats(device)

    def take_up(self, before: Mapping[str, Any]) -> None:
        """Add what was told before an interruption."""
        self._before = before

    def told(self) -> dict[str, Any]:
        """`energy_joules`, `memory_mb`, `gpu_memory_mb`, `devices`, `libraries`, with what was before."""
        cuda, before = self.device.type == "cuda", self._before
        gpu = torch.cuda.max_memory_allocated(self.device) / 1e6 if cuda else None
        where = torch.cuda.get_device_name(self.device) if cuda else "cpu"
        versions = [f"{name} {version}" for name, version in provenance.versions(LIBRARIES).items()]
        return {
            "energy_joules": total([before.get("energy_joules"), self._energy.joules]),
            "memory_mb": most([before.get("memory_mb"), _peak() if self._reset else provenance.peak_memory_mb()]),
            "gpu_memory_mb": most([before.get("gpu_memory_mb"), gpu]),
            "devices": list(dict.fromkeys([*before.get("devices", []), where])),
            "libraries": list(dict.fromkeys([*before.get("libraries", []), ", ".join(versions)])),
        }


def most(values: "list[float | None]") -> float | None:
    """The largest of those that are known; None where none is."""
    return max((each for each in values if each is not None), default=None)


def total(values: "list[float | None]") -> float | None:
    """The sum of those that are known; None where none is."""
    known = [each for each in values if each is not None]
    return sum(known) if known else None


def _reset_peak() -> bool:
    """Have the system count this process's peak memory anew; False where it cannot: then the process's own counts."""
    try:
        _CLEAR.write_text("5")
        _peak()
    except (OSError, StopIteration, ValueError):
        return False
    return True


def _peak() -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


class EnergyMeter:
    """Joules of one GPU since the meter was made, by NVML's counter.

    Nothing is required for it: without a GPU, the package `nvidia-ml-py` or a counter (older cards) it says None.

    Args:
        device: whose energy is counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        if device.type == "cuda":
            # Whatever the driver has against it: energy is told where it can be, and asked of nobody.
            with contextlib.suppress(Exception):
                self._nvml = importlib.import_module("pynvml")
                self._nvml.nvmlInit()
                self._handle = self._nvml.nvmlDeviceGetHandleByUUID(_uuid(device))
        self._start = self._millijoules()

    @property
    def joules(self) -> float | None:
        """Since the meter was made; None where nothing counts."""
        now = self._millijoules()
        return None if now is None or self._start is None else (now - self._start) / 1000.0

    def _millijoules(self) -> int | None:
        if self._handle is None:
            return None
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except Exception:  # noqa: BLE001 - the driver's own class of error, and older cards have no counter
            return None


def _uuid(device: torch.device) -> bytes:
    """As NVML knows it: it numbers GPUs in another order than torch, and counts those that are hidden."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
