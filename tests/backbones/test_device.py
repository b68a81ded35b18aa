"""Where models are computed and in what precision."""

from contextlib import nullcontext

import pytest
import torch

from peftbench.backbones import device as module
from peftbench.backbones.device import (
    FAITHFUL_COSINE,
    GOLDEN_COSINE,
    Returned,
    check_precision,
    has_bf16,
    pick_device,
    pick_devices,
    pick_precision,
    sent_back,
)
from peftbench.errors import ConfigError, DeviceError

CPU = torch.device("cpu")


def never() -> float:
    raise AssertionError("it was measured, and decides nothing")


def with_gpus(monkeypatch: pytest.MonkeyPatch, *models: str) -> None:
    """Pretend that GPUs of these models are there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(models))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(models))
    monkeypatch.setattr(module, "_cudnn", lambda: 91_000)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: models[torch.device(device).index or 0])


class TestDevices:
    def test_auto_is_the_first_gpu_where_there_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for present, expected in ((False, "cpu"), (True, "cuda")):
            monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
            assert pick_device("auto").type == expected

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("auto", ["cuda"]),
            ("cpu", ["cpu"]),
            ("cuda:1", ["cuda:1"]),
            ("cuda:0,cuda:1", ["cuda:0", "cuda:1"]),
            (" cuda:1 , cuda:0 ", ["cuda:1", "cuda:0"]),
            ("cuda:all", ["cuda:0", "cuda:1", "cuda:2"]),
            ("cpu,cpu", ["cpu", "cpu"]),
        ],
    )
    def test_one_or_several(self, monkeypatch: pytest.MonkeyPatch, name: str, expected: list[str]) -> None:
        with_gpus(monkeypatch, "H100", "H100", "H100")
        assert [str(each) for each in pick_devices(name)] == expected

    @pytest.mark.parametrize("name", ["cuda:0,cuda:1", "cuda:all"])
    def test_two_models_are_refused_for_their_last_bits_differ(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        with_gpus(monkeypatch, "H100", "A100")
        with pytest.raises(DeviceError, match=r"several models \(cuda/A100, .*cuda/H100, .*name devices of one"):
            pick_devices(name)

    def test_a_gpu_and_the_processor_are_two_models(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_gpus(monkeypatch, "H100")
        with pytest.raises(DeviceError, match="several models"):
            pick_devices("cuda:0,cpu")

    @pytest.mark.parametrize("name", ["cuda:1,cuda:1", "cuda:0,cuda:1,cuda:0", "cuda,cuda:0", "auto,cuda:0"])
    def test_the_same_gpu_twice_however_it_is_called(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        with_gpus(monkeypatch, "H100", "H100")
        with pytest.raises(DeviceError, match=r"cuda:[01] stands twice.*expected each device once"):
            pick_devices(name)

    @pytest.mark.parametrize("name", ["cuda:all", "cuda:0", "cpu,cuda:0"])
    def test_gpus_where_there_are_none(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        with_gpus(monkeypatch)
        with pytest.raises(DeviceError, match=r"asked for and there are 0 CUDA devices here.*--device cpu"):
            pick_devices(name)

    @pytest.mark.parametrize("name", ["cpu,", ",", "cpu,gpu", "cpu;cpu", "all"])
    def test_names_that_are_not_understood(self, name: str) -> None:
        with pytest.raises(DeviceError, match="expected auto, cpu, cuda"):
            pick_devices(name)


class TestPrecision:
    @pytest.mark.parametrize(
        ("keeps", "expected"),
        [(True, "bf16"), (False, "fp32")],
    )
    def test_auto_is_bf16_where_the_features_keep(
        self, monkeypatch: pytest.MonkeyPatch, keeps: bool, expected: str
    ) -> None:
        monkeypatch.setattr(module, "has_bf16", lambda _: True)
        for device in (CPU, torch.device("cuda")):
            assert pick_precision("auto", device, lambda: keeps) == expected

    def test_what_is_asked_of_it(self) -> None:
        assert FAITHFUL_COSINE == 0.999
        assert GOLDEN_COSINE == 0.9999

    def test_it_is_measured_only_where_that_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "has_bf16", lambda _: False)
        assert pick_precision("auto", CPU, never) == "fp32"
        monkeypatch.setattr(module, "has_bf16", lambda _: True)
        assert [pick_precision(name, torch.device("cuda"), never) for name in ("fp32", "bf16", "fp16")] == [
            "fp32",
            "bf16",
            "fp16",
        ]

    @pytest.mark.parametrize(
        ("capability", "instructions", "expected"),
        [("AVX512", True, True), ("AVX512", False, False), ("DEFAULT", True, False)],
    )
    def test_emulated_bf16_does_not_count(
        self, monkeypatch: pytest.MonkeyPatch, capability: str, instructions: bool, expected: bool
    ) -> None:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        assert has_bf16(CPU) == expected

    def test_a_gpu_is_asked_for_what_it_does_in_hardware(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
        assert not has_bf16(torch.device("cuda"))

    def test_what_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="unknown precision 'tf32'"):
            check_precision("tf32", CPU)
        with pytest.raises(DeviceError, match="fp16 needs a GPU"):
            pick_precision("fp16", CPU, never)
        check_precision("fp16", torch.device("cuda"))


def test_what_a_gpu_sends_back_is_copied_and_then_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory and its clock are the processor's here; the order of what is asked for is the real one."""
    heard: list[str] = []

    class Event:
        def record(self, stream: str) -> None:
            heard.append(f"recorded on {stream}")

        def synchronize(self) -> None:
            heard.append("waited")

    empty = torch.empty

    def pageable(shape: torch.Size, dtype: torch.dtype, *, pin_memory: bool) -> torch.Tensor:
        assert pin_memory, "only such memory is written without waiting"
        return empty(shape, dtype=dtype)

    monkeypatch.setattr(torch, "empty", pageable)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    there = [torch.arange(3.0), torch.ones((2, 2), dtype=torch.float64)]
    here, arrived = sent_back(there)
    for each in there:
        each.zero_()
    assert [each.tolist() for each in here] == [[0.0, 1.0, 2.0], [[1.0, 1.0], [1.0, 1.0]]]
    assert [each.dtype for each in here] == [torch.float32, torch.float64]
    assert Returned(here[0], arrived).values() == [0.0, 1.0, 2.0]
    assert heard == ["recorded on the stream of cpu", "waited"]


def test_what_the_processor_has_is_there_already() -> None:
    assert Returned.of(torch.tensor([1.0, 2.0])).arrived is None
