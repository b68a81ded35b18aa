"""What may not change a feature silently: the memory of a batch, settings of the process, instructions, other runs."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from extraction_kit import TINY, by_image, images_of, run
from progress_kit import Ear
from torch import nn

from peftbench.backbones.card import Output
from peftbench.backbones.cards import CARDS
from peftbench.backbones.device import device_kind, exact_fp32
from peftbench.errors import DeviceError
from peftbench.extraction import engine as engine_module
from peftbench.extraction.extract import open_pictures
from peftbench.protocol.workspace import Workspace

CPU = torch.device("cpu")


class Mirror:
    """A network that answers a part of its input as it lies there: a view, not a copy."""

    def build(self) -> nn.Module:
        return nn.Conv2d(3, 1, 1)

    def outputs(self, module: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"embedding": pixels[:, 0, 0, :]}


def test_an_output_that_is_a_view_of_the_input_keeps_its_values(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = TINY.model_copy(
        update={
            "name": "mirror",
            "loader": f"{__name__}:Mirror",
            "outputs": (Output("embedding", "input|first row", (32,)),),
            "channels_last": False,
            "folds": False,
        }
    )
    monkeypatch.setitem(CARDS, "mirror", card)
    found = by_image(run(place, "mirror@random:0", batch_size=2).store)
    pictures = open_pictures(place, "phantom")
    for image in images_of(place):
        shaped = card.transform.shape(pictures.gather([image]))
        expected = card.transform.normalise(shaped, torch.empty((1, 3, 32, 32)))[0, 0, 0]
        np.testing.assert_array_equal(found[image], expected.numpy())


@pytest.fixture
def careless() -> Iterator[None]:
    """A process that was set to compute otherwise."""
    before = torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled, torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    torch.backends.cudnn.benchmark = True
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.mkldnn.enabled, torch.backends.cudnn.benchmark = before[1:]  # type: ignore[assignment]


def settings() -> tuple[object, ...]:
    return torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled, torch.backends.cudnn.benchmark


class TestSettings:
    @pytest.mark.slow
    def test_those_of_the_process_change_no_feature(self, place: Workspace, tmp_path: Path, careless: None) -> None:
        careful = by_image(run(place, "vit@random:0").store)
        set_by_user = settings()
        with exact_fp32():
            assert settings() == ("highest", True, False)
            again = by_image(run(Workspace(copied(place, tmp_path)), "vit@random:0").store)
        assert settings() == set_by_user == ("medium", False, True)
        for image, row in careful.items():
            np.testing.assert_array_equal(row, again[image])

    def test_they_come_back_after_an_error(self, careless: None) -> None:
        with pytest.raises(KeyError), exact_fp32():
            raise KeyError
        assert settings() == ("medium", False, True)


def copied(place: Workspace, to: Path) -> Path:
    """A workspace with the same cohort and nothing embedded."""
    (to / "again").mkdir()
    (to / "again" / "cohorts").symlink_to(place.root / "cohorts")
    return to / "again"


class TestInstructions:
    @pytest.mark.parametrize(
        ("bf16", "amx", "expected"),
        [(False, False, "cpu/X"), (True, False, "cpu/X+bf16"), (True, True, "cpu/X+bf16+amx")],
    )
    def test_those_of_the_processor_are_named(
        self, monkeypatch: pytest.MonkeyPatch, bf16: bool, amx: bool, expected: str
    ) -> None:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "X")
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        assert device_kind(CPU) == expected

    @pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
    def test_a_limit_that_is_set_is_named(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        before = device_kind(CPU)
        monkeypatch.setenv(name, "AVX2")
        assert device_kind(CPU) == f"{before}+{name}=AVX2"


class TestSeveralDevices:
    def test_a_process_that_was_started_for_one_starts_no_more(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As happens to a script whose main part is not guarded: spawning runs it again."""
        monkeypatch.setattr(multiprocessing, "parent_process", object)
        with pytest.raises(DeviceError, match='put the call of extract under `if __name__ == "__main__":`'):
            run(place, device="cpu,cpu")
        assert not place.features_of("tiny").exists()
        assert run(place).embedded


def test_what_cannot_be_compiled_is_said_in_one_sentence(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> object:
        def refuse(*_: object) -> None:
            raise RuntimeError("no working compiler")

        return refuse

    monkeypatch.setattr(engine_module.torch, "compile", broken)
    with pytest.raises(DeviceError, match=r"cannot compile tiny here \(RuntimeError: no .*leave --compile away"):
        run(place, compiled=True)


def test_a_small_batch_size_that_is_taken_over_is_told(place: Workspace) -> None:
    run(place, batch_size=2)
    ear = Ear()
    assert run(place, progress=ear).batch_size == 2
    (note,) = ear.notes
    assert note.startswith("batch size 2, as features of tiny were made with before")
