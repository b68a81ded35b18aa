"""What a cell costs: energy by the driver's counter, where there is one; carried over what stopped it."""

import sys
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peftbench.finetuning.cost import EnergyMeter, Meter, most, total

CUDA = torch.device("cuda", 1)

UUIDS = ["aaaa", "bbbb"]


class Nvml:
    """The library of the driver, as far as it is asked: a counter of millijoules that is said beforehand."""

    def __init__(self, *counts: int | Exception, missing: str = "") -> None:
        self.counts = list(counts)
        self.missing = missing
        self.asked: list[Any] = []

    def nvmlInit(self) -> None:  # noqa: N802 - the library's name
        self._refuse("driver")

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> str:  # noqa: N802
        self._refuse("handle")
        self.asked.append(uuid)
        return f"handle of {uuid.decode()}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        assert handle == "handle of GPU-bbbb"
        count = self.counts.pop(0)
        if isinstance(count, Exception):
            raise count
        return count

    def _refuse(self, what: str) -> None:
        if self.missing == what:
            raise RuntimeError(f"NVML has no {what}")


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def properties(device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(uuid=UUIDS[device.index or 0])

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)


def meter(monkeypatch: pytest.MonkeyPatch, nvml: Nvml) -> EnergyMeter:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    return EnergyMeter(CUDA)


def test_joules_are_the_difference_of_the_counter_in_thousandths(monkeypatch: pytest.MonkeyPatch) -> None:
    found = meter(monkeypatch, Nvml(1_000_000, 1_002_500, 1_010_000))
    assert found.joules == 2.5
    assert found.joules == 10.0


def test_the_gpu_is_named_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(0)
    meter(monkeypatch, nvml)
    assert nvml.asked == [b"GPU-bbbb"]


@pytest.mark.parametrize("missing", ["driver", "handle"])
def test_without_a_driver_nothing_is_said(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    assert meter(monkeypatch, Nvml(0, 1, missing=missing)).joules is None


def test_without_the_package_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert EnergyMeter(CUDA).joules is None


@pytest.mark.parametrize("counts", [(RuntimeError("not supported"), 5), (5, RuntimeError("lost"))])
def test_an_older_card_without_a_counter_says_nothing(monkeypatch: pytest.MonkeyPatch, counts: Any) -> None:
    assert meter(monkeypatch, Nvml(*counts)).joules is None


def test_on_the_processor_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(missing="driver"))  # type: ignore[arg-type]
    assert EnergyMeter(torch.device("cpu")).joules is None


def test_a_device_with_a_number_starts_cuda_before_its_statistics_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(torch.cuda, "init", lambda: calls.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: calls.append("reset"))
    Meter(CUDA)
    assert calls == ["init", "reset"]


def test_costs_before_an_interruption_are_carried_over() -> None:
    meter = Meter(torch.device("cpu"))
    meter.take_up(
        {"energy_joules": 3.0, "memory_mb": 1e9, "gpu_memory_mb": 7.0, "devices": ["a GPU"], "libraries": ["torch 1"]}
    )
    told = meter.told()
    assert (told["energy_joules"], told["memory_mb"], told["gpu_memory_mb"]) == (3.0, 1e9, 7.0)
    assert told["devices"] == ["a GPU", "cpu"]
    assert told["libraries"][0] == "torch 1"
    assert f"torch {metadata.version('torch')}" in told["libraries"][1]


def test_of_the_processor_peak_memory_alone_is_told() -> None:
    told = Meter(torch.device("cpu")).told()
    assert told["energy_joules"] is told["gpu_memory_mb"] is None
    assert told["memory_mb"] > 50
    assert told["devices"] == ["cpu"]
    assert len(told["libraries"]) == 1


@pytest.mark.parametrize(
    ("values", "largest", "sum_"),
    [([], None, None), ([None], None, None), ([None, 2.0], 2.0, 2.0), ([1.0, 2.0], 2.0, 3.0)],
)
def test_what_is_not_known_is_left_out(values: list[float | None], largest: float | None, sum_: float | None) -> None:
    assert most(values) == largest
    assert total(values) == sum_
