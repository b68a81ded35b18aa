"""Every core a batch of its own: in order, to the bit of a plain loop, and nothing goes on when the loop has ended."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from extraction_kit import BATCH, InterruptedAfter, assert_equal_to_the_bit, by_image, images_of, run, stores_of

from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import parse_backbone
from peftbench.extraction import embed
from peftbench.extraction.embed import Rows, produce
from peftbench.extraction.engine import Engine
from peftbench.extraction.extract import open_pictures
from peftbench.protocol.workspace import Workspace
from stores.errors import StoreDamagedError
from stores.features import FeatureStore
from stores.images import ImageStore

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
OUTPUTS = ("embedding", "stages")

Found = dict[str, npt.NDArray[np.float32]]


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def at_work() -> list[str]:
    """The threads of extraction that are alive."""
    return [each.name for each in threading.enumerate() if each.name.startswith("peftbench-")]


def tiny_engine(backbone: str = "tiny", size: int = BATCH) -> Engine:
    return Engine(load_encoder(parse_backbone(backbone)), CPU, "fp32", size)


def collected(produced: Iterator[Rows], output: str = "embedding") -> Found:
    return {name: row for rows in produced for name, row in zip(rows.images, rows.outputs[output], strict=True)}


def plain_loop(
    engine: Engine, pictures: ImageStore, images: list[str]
) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
    """One batch after the other in one thread, by torch alone; pictures stand in the order of their rows."""
    transform, size = engine.card.transform, engine.batch_size
    order = sorted(images, key=pictures.images.index)
    found: dict[str, Found] = {name: {} for name in OUTPUTS}
    for start in range(0, len(order), size):
        names = order[start : start + size]
        shaped = torch.zeros((size, transform.crop, transform.crop), dtype=torch.uint8)
        for row, name in enumerate(names):
            shaped[row] = transform.shape(pictures.gather([name]))[0]
        empty = torch.zeros((size, 3, transform.crop, transform.crop)).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            answer = engine.encoder.loader.outputs(engine._module, transform.normalise(shaped, empty))
        for output in OUTPUTS:
            found[output] |= dict(zip(names, answer[output].numpy(), strict=False))
    return found


class TestBits:
    @pytest.mark.parametrize("threads", [1, 2, 4])
    def test_features_are_those_of_a_plain_loop_however_many_cores_there_are(
        self, place: Workspace, threads: int
    ) -> None:
        expected = plain_loop(tiny_engine(), open_pictures(place, "phantom"), images_of(place))
        with threads_of_torch(threads):
            store = run(place, batch_size=BATCH).store
        for output in OUTPUTS:
            assert_equal_to_the_bit(by_image(store, output), expected[output])

    @pytest.mark.slow
    @pytest.mark.parametrize("backbone", ["resnet18@random:0", "efficientnet-lite0", "vit"])
    def test_real_networks_as_well(self, prepared: Path, tmp_path: Path, backbone: str) -> None:
        found = []
        for threads in (1, 2, 4):
            place = Workspace(Path(shutil.copytree(prepared, tmp_path / str(threads))))
            with threads_of_torch(threads):
                found.append(by_image(run(place, backbone, batch_size=5).store))
        for other in found[1:]:
            assert_equal_to_the_bit(other, found[0])

    def test_an_interruption_and_another_number_of_cores_change_nothing(
        self, place: Workspace, prepared: Path, tmp_path: Path
    ) -> None:
        other = Workspace(Path(shutil.copytree(prepared, tmp_path / "other")))
        with threads_of_torch(3), pytest.raises(KeyboardInterrupt):
            run(place, batch_size=BATCH, progress=InterruptedAfter(3))
        assert 0 < len(by_image(stores_of(place)[0])) < len(images_of(place))
        with threads_of_torch(2):
            row = run(place, batch_size=BATCH)
        assert_equal_to_the_bit(by_image(row.store), by_image(run(other, batch_size=BATCH).store))

    @pytest.mark.parametrize("backbone", ["tiny", "efficientnet-lite0"])
    def test_folding_changes_no_more_than_the_last_bits(self, place: Workspace, backbone: str) -> None:
        engine, pictures = tiny_engine(backbone), open_pictures(place, "phantom")
        module = engine.encoder.module
        shaped = embed.shaped(engine, pictures, images_of(place)[:BATCH])
        crop = engine.card.transform.crop
        pixels = engine.card.transform.normalise(shaped, torch.zeros((BATCH, 3, crop, crop)))
        with torch.inference_mode():
            expected = engine.encoder.loader.outputs(module, pixels)
        assert sum(isinstance(each, torch.nn.BatchNorm2d) for each in engine._module.modules()) == 0
        assert sum(isinstance(each, torch.nn.BatchNorm2d) for each in module.modules()) > 0
        for name, rows in engine.embed(shaped).items():
            other = expected[name].numpy()
            assert np.abs(rows - other).max() <= 1e-5 * np.abs(other).max()

    def test_several_threads_share_an_engine(self) -> None:
        """Each has an input buffer of its own."""
        engine = tiny_engine()
        pictures = [torch.full((BATCH, 32, 32), value, dtype=torch.uint8) for value in range(0, 240, 6)]
        expected = [engine.embed(each)["embedding"] for each in pictures]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda each: engine.embed(each)["embedding"], pictures * 5))
        for one, other in zip(found, expected * 5, strict=True):
            np.testing.assert_array_equal(one, other)


Produce = Callable[[Engine, ImageStore, list[str]], Iterator[Rows]]


def as_on_gpu(engine: Engine, pictures: ImageStore, images: list[str]) -> Iterator[Rows]:
    """The way of a GPU, on the processor: it needs none."""
    return embed._on_gpu(engine, pictures, embed._in_stored_order(pictures, images, engine.batch_size))


@pytest.mark.parametrize("way", [pytest.param(produce, id="cores"), pytest.param(as_on_gpu, id="gpu")])
class TestBothWays:
    @pytest.fixture
    def pictures(self, place: Workspace) -> ImageStore:
        return open_pictures(place, "phantom")

    def test_rows_come_in_stored_order_and_whole(self, way: Produce, pictures: ImageStore) -> None:
        engine, images = tiny_engine(), pictures.images
        batches = list(way(engine, pictures, images[::-1]))
        assert [name for rows in batches for name in rows.images] == images
        assert {len(rows.images) for rows in batches[:-1]} == {BATCH}
        expected = plain_loop(engine, pictures, images)
        for output in OUTPUTS:
            assert_equal_to_the_bit(collected(iter(batches), output), expected[output])
        assert at_work() == []

    @pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1])
    def test_few(self, way: Produce, pictures: ImageStore, count: int) -> None:
        images = pictures.images[:count]
        found = collected(way(tiny_engine(), pictures, images))
        assert list(found) == images
        assert all(row.shape == (16,) for row in found.values())

    def test_an_error_comes_out_where_its_batch_would(
        self, way: Produce, pictures: ImageStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original, begun = ImageStore.gather, []

        def failing(self: ImageStore, images: list[str]) -> list[npt.NDArray[np.uint8]]:
            begun.extend(images[:1])
            if pictures.images[2 * BATCH] in images:
                raise StoreDamagedError("shard 2")
            return original(self, images)

        monkeypatch.setattr(ImageStore, "gather", failing)
        seen: list[str] = []
        with threads_of_torch(2):
            with pytest.raises(StoreDamagedError, match="shard 2") as held:
                seen.extend(name for rows in way(tiny_engine(), pictures, pictures.images) for name in rows.images)
            assert held.traceback
            assert at_work() == []
            assert torch.get_num_threads() == 2
        # On a GPU the batch before is still being computed.
        assert seen in (pictures.images[:BATCH], pictures.images[: 2 * BATCH])
        assert len(begun) <= 2 + embed.BATCHES_AHEAD

    def test_who_leaves_early_leaves_no_thread(self, way: Produce, pictures: ImageStore) -> None:
        with threads_of_torch(2):
            found = way(tiny_engine(size=1), pictures, pictures.images)
            assert next(found).images == pictures.images[:1]
            assert at_work() != []
            found.close()  # type: ignore[attr-defined]
            assert at_work() == []
            assert torch.get_num_threads() == 2


class TestWhatIsLeft:
    """After `extract`, however it ended."""

    def test_nothing_after_success(self, place: Workspace) -> None:
        with threads_of_torch(3):
            run(place, batch_size=BATCH)
            assert (at_work(), torch.get_num_threads()) == ([], 3)

    def test_nothing_while_an_interruption_is_held(self, place: Workspace) -> None:
        with threads_of_torch(3):
            with pytest.raises(KeyboardInterrupt) as held:
                run(place, batch_size=1, progress=InterruptedAfter(2))
            assert held.traceback
            assert (at_work(), torch.get_num_threads()) == ([], 3)

    def test_threads_that_come_later_have_all_cores_again(self, place: Workspace) -> None:
        with threads_of_torch(3):
            run(place, batch_size=BATCH)
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(torch.get_num_threads).result() == 3

    def test_in_its_midst_a_thread_computes_by_itself(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: set[tuple[str, int]] = set()
        original = Engine.embed

        def noting(self: Engine, pixels: torch.Tensor) -> embed.Outputs:
            time.sleep(0.02)
            seen.add((threading.current_thread().name.rpartition("_")[0], torch.get_num_threads()))
            return original(self, pixels)

        monkeypatch.setattr(Engine, "embed", noting)
        with threads_of_torch(2):
            run(place, batch_size=1)
        assert seen == {("peftbench-embed", 1)}


class TestCommits:
    """Rows are committed every few seconds, and at the end."""

    @pytest.mark.parametrize(
        ("seconds", "expected"), [(1e9, [18]), (0.0, [3] * 6), (2.5, [9, 9])], ids=["at the end", "always", "at times"]
    )
    def test_how_often(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: list[int]
    ) -> None:
        counts: list[int] = []
        original, clock = FeatureStore.append, count()

        def counting(self: FeatureStore, images: list[str], outputs: embed.Outputs) -> None:
            counts.append(len(images))
            original(self, images, outputs)

        monkeypatch.setattr(FeatureStore, "append", counting)
        monkeypatch.setattr(embed, "COMMIT_SECONDS", seconds)
        # A second goes by whenever somebody looks.
        monkeypatch.setattr(embed, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
        run(place, batch_size=BATCH)
        assert counts == expected
