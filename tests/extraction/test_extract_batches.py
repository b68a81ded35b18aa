"""How many pictures go into a forward pass: what memory allows, and what a store that exists has decided."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from extraction_kit import TINY, InterruptedAfter, by_image, images_of, run, stores_of
from hypothesis import given
from hypothesis import strategies as st

from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import CARDS, parse_backbone
from peftbench.errors import DeviceError
from peftbench.extraction import batches
from peftbench.extraction import extract as module
from peftbench.extraction.batches import (
    CPU_BATCH,
    GPU_BATCH,
    fitting_batch_size,
    largest_output,
    stored_batch_size,
)
from peftbench.extraction.engine import Launched
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore
from stores.recipe import FeatureRecipe

CPU, GPU = torch.device("cpu"), torch.device("cuda")

LARGEST = 8 * 15 * 15 * 4
"""Bytes of the tiny network's first layer, for one picture."""


def nobody(size: int) -> object:
    raise AssertionError(f"an engine for {size} pictures was made, and none is needed")


class TestOnTheProcessor:
    def fitting(self, monkeypatch: pytest.MonkeyPatch, free: int | None, threads: int = 1) -> int:
        monkeypatch.setattr(batches, "free_memory", lambda: free)
        return fitting_batch_size(load_encoder(parse_backbone("tiny")), nobody, CPU, threads)  # type: ignore[arg-type]

    def test_the_largest_output_is_that_of_a_layer(self) -> None:
        encoder = load_encoder(parse_backbone("tiny"))
        assert largest_output(encoder) == LARGEST
        assert not any(each._forward_hooks for each in encoder.module.modules())

    @pytest.mark.parametrize("free", [None, 1 << 34])
    def test_with_room_or_none_stated_it_is_what_pays_off(
        self, monkeypatch: pytest.MonkeyPatch, free: int | None
    ) -> None:
        assert self.fitting(monkeypatch, free) == CPU_BATCH

    def test_with_less_room_it_is_halved_until_half_the_room_is_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        picture = batches.ALIVE * LARGEST
        assert self.fitting(monkeypatch, 2 * CPU_BATCH * picture) == CPU_BATCH
        assert self.fitting(monkeypatch, 2 * CPU_BATCH * picture - 2) == CPU_BATCH // 2
        assert self.fitting(monkeypatch, 2 * CPU_BATCH * picture, threads=2) == CPU_BATCH // 2
        assert self.fitting(monkeypatch, 2 * CPU_BATCH * picture, threads=4) == CPU_BATCH // 4

    @given(st.integers(-(1 << 40), 1 << 40), st.integers(1, 256))
    def test_it_is_a_power_of_two_and_never_nothing(self, free: int, threads: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "largest_output", lambda _: LARGEST)
            patch.setattr(batches, "free_memory", lambda: free)
            size = fitting_batch_size(None, nobody, CPU, threads)  # type: ignore[arg-type]
        assert size in {1, 2, 4, 8, 16}
        assert size == 1 or size * threads * batches.ALIVE * LARGEST <= batches.SHARE * free


class FakeEngine:
    """A GPU that has room for so many pictures at a time."""

    room = GPU_BATCH
    tried: list[int]

    def __init__(self, size: int) -> None:
        self.size, self.device, self.card = size, GPU, TINY
        self.held = 0

    def launch(self, pixels: torch.Tensor) -> Launched:
        assert pixels.shape == (self.size, 32, 32)
        assert pixels.dtype == torch.uint8
        self.held += 1
        self.tried.append(self.size)
        if self.held * self.size > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return Launched({}, None)


class TestOnAGpu:
    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        counts = SimpleNamespace(emptied=0)

        def empty() -> None:
            counts.emptied += 1

        monkeypatch.setattr(torch.cuda, "empty_cache", empty)
        monkeypatch.setattr(FakeEngine, "tried", [], raising=False)
        return counts

    @pytest.mark.parametrize(
        ("room", "expected"), [(10_000, 256), (512, 256), (511, 128), (100, 32), (4, 2), (3, 1), (2, 1)]
    )
    def test_two_batches_at_a_time_must_fit(
        self, monkeypatch: pytest.MonkeyPatch, gpu: SimpleNamespace, room: int, expected: int
    ) -> None:
        monkeypatch.setattr(FakeEngine, "room", room)
        assert fitting_batch_size(None, FakeEngine, GPU, 4) == expected  # type: ignore[arg-type]
        # After each try: what it took is there again for the extraction itself.
        assert gpu.emptied == (GPU_BATCH // expected).bit_length()

    @pytest.mark.parametrize("room", [0, 1])
    def test_where_not_even_one_fits_the_way_out_is_named(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        monkeypatch.setattr(FakeEngine, "room", room)
        with pytest.raises(DeviceError, match=r"does not fit into the GPU's free memory.*use --device cpu"):
            fitting_batch_size(None, FakeEngine, GPU, 4)  # type: ignore[arg-type]

    def test_another_error_is_no_lack_of_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(self: FakeEngine, pixels: torch.Tensor) -> None:
            raise RuntimeError("a kernel is missing")

        monkeypatch.setattr(FakeEngine, "launch", broken)
        with pytest.raises(RuntimeError, match="a kernel is missing"):
            fitting_batch_size(None, FakeEngine, GPU, 4)  # type: ignore[arg-type]


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for two pictures at a time."""
    monkeypatch.setattr(batches, "free_memory", lambda: 2 * 2 * batches.ALIVE * LARGEST)


class TestAsked:
    def test_without_a_word_it_is_found(self, place: Workspace) -> None:
        row = run(place)
        assert row.batch_size == CPU_BATCH
        assert FeatureStore.open(Path(row.store)).recipe.batch_size == CPU_BATCH

    @pytest.mark.usefixtures("little")
    def test_memory_decides(self, place: Workspace) -> None:
        assert run(place).batch_size == 2

    @pytest.mark.usefixtures("little")
    def test_who_names_one_gets_it_in_a_store_of_its_own(self, place: Workspace) -> None:
        rows = [run(place), run(place, batch_size=5), run(place, batch_size=64)]
        assert [row.batch_size for row in rows] == [2, 5, 64]
        assert len({row.store for row in rows}) == 3
        assert [FeatureStore.open(Path(row.store)).recipe.batch_size for row in rows] == [2, 5, 64]


class TestStored:
    def recipe_with(self) -> Callable[[int], FeatureRecipe]:
        encoder = load_encoder(parse_backbone("tiny"))
        return lambda size: module.recipe_of(encoder, CPU, "fp32", size)

    def test_a_store_that_exists_decides(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        first = run(place, batch_size=3)
        monkeypatch.setattr(module, "fitting_batch_size", nobody)
        again = run(place)
        assert (again.store, again.batch_size, again.reused) == (first.store, 3, first.total)

    @pytest.mark.usefixtures("little")
    def test_also_where_memory_has_become_scarce(self, place: Workspace) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(place, batch_size=16, progress=InterruptedAfter(1))
        row = run(place)
        assert row.batch_size == 16
        assert stores_of(place) == [Path(row.store)]

    def test_the_fullest_of_several(self, place: Workspace) -> None:
        run(place, batch_size=7)
        for size, batches_done in ((8, 1), (2, 3)):
            with pytest.raises(KeyboardInterrupt):
                run(place, batch_size=size, progress=InterruptedAfter(1 + batches_done))
        assert run(place).batch_size == 7
        assert stored_batch_size(place.committed_features("tiny"), self.recipe_with()) == 7
        others = [each for each in stores_of(place) if len(by_image(each)) < len(images_of(place))]
        fuller = max(others, key=lambda each: len(by_image(each)))
        assert stored_batch_size(others, self.recipe_with()) == FeatureStore.open(fuller).recipe.batch_size

    @pytest.mark.parametrize(
        "other",
        [{"precision": "bf16"}, {"dtype": "float16"}, {"weights": "random:0"}],
        ids=lambda other: next(iter(other)),
    )
    def test_one_that_differs_in_something_else_says_nothing(self, place: Workspace, other: dict[str, str]) -> None:
        run(place, batch_size=3, **other)
        assert run(place).batch_size == CPU_BATCH

    def test_neither_does_one_of_another_architecture(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        run(place, batch_size=3)
        monkeypatch.setitem(CARDS, "tiny", TINY.model_copy(update={"architecture": "test:other"}))
        assert run(place).batch_size == CPU_BATCH

    def test_a_store_that_cannot_be_opened_is_passed_over(self, place: Workspace) -> None:
        folder = Path(run(place, batch_size=3).store)
        (folder / "commit.json").write_text("{")
        assert stored_batch_size([folder, folder / "none"], self.recipe_with()) is None
        assert stored_batch_size([], self.recipe_with()) is None
