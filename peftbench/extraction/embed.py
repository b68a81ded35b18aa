"""The loop: pictures are read, shaped and embedded a batch at a time, and their rows committed every few seconds.

On the processor every core works on a batch of its own, from reading to the forward pass: cores that share one forward
pass wait for each other at every layer. On a GPU a few threads read and shape ahead, and an answer is fetched while the
next batch is being computed.
"""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from peftbench.backbones.device import exact_fp32
from peftbench.errors import DeviceError
from peftbench.extraction.engine import Engine, Launched, Outputs
from peftbench.imaging.ahead import in_order
from peftbench.protocol.progress import Progress
from stores.features import FeatureStore
from stores.images import Pixels

BATCHES_AHEAD = 3
"""Shaped batches that wait for a GPU: enough to bridge the reading of a shard."""

COMMIT_SECONDS = 5.0
"""How much work an interruption can cost at most."""

SHAPING_THREADS = 8
"""That prepare pictures for a GPU."""


class Pictures(Protocol):
    """Canonical pictures by their digests: an image store, or what is held in memory."""

    def gather(self, images: Sequence[str]) -> list[Pixels]:
        """Pictures of images, in the order given."""

    def rows_of(self, images: Sequence[str]) -> npt.NDArray[np.int64]:
        """Where each of them stands: they are read in this order."""


class Rows(NamedTuple):
    """Digests of images, and their rows of each output in the same order."""

    images: list[str]
    outputs: Outputs


def embed_missing(produced: Iterable[Rows], features: FeatureStore, progress: Progress) -> float:
    """Append rows as they are produced; answers the seconds it took.

    Rows are committed every few seconds and when the loop ends, however it ends.

    Args:
        produced: rows of images that the store does not hold yet (`produce`).
        features: takes them.
        progress: is told of every batch.
    """
    start = committed = time.perf_counter()
    waiting: list[Rows] = []

    def commit() -> None:
        if waiting:
            names = [image for rows in waiting for image in rows.images]
            outputs = {name: np.concatenate([rows.outputs[name] for rows in waiting]) for name in waiting[0].outputs}
            waiting.clear()
            features.append(names, outputs)

    try:
        for rows in produced:
            waiting.append(rows)
            progress.advance(len(rows.images))
            if time.perf_counter() - committed > COMMIT_SECONDS:
                commit()
                committed = time.perf_counter()
    finally:
        commit()
    return time.perf_counter() - start


def produce(
    engine: Engine, pictures: Pictures, images: Sequence[str], threads: int | None = None
) -> Generator[Rows, None, None]:
    """Embed images in the order in which they lie.

    Args:
        engine: computes.
        pictures: an image store, or pictures in memory.
        images: digests.
        threads: cores to use on the processor; by default as many as torch would.
    """
    batches = _in_stored_order(pictures, images, engine.batch_size)
    if engine.device.type == "cpu":
        return _on_cores(engine, pictures, batches, threads or torch.get_num_threads())
    return _on_gpu(engine, pictures, batches)


def shaped(engine: Engine, pictures: Pictures, images: Sequence[str]) -> torch.Tensor:
    """Pictures as (batch_size, crop, crop) uint8; where there are fewer, the rest is black."""
    transform = engine.card.transform
    pixels = transform.shape(pictures.gather(images))
    lacking = engine.batch_size - len(images)
    if lacking:
        pixels = torch.cat([pixels, torch.zeros((lacking, transform.crop, transform.crop), dtype=torch.uint8)])
    return pixels


def _in_stored_order(pictures: Pictures, images: Sequence[str], size: int) -> list[list[str]]:
    order = np.argsort(pictures.rows_of(images), kind="stable")
    return [[images[row] for row in order[start : start + size]] for start in range(0, len(order), size)]


def _on_cores(
    engine: Engine, pictures: Pictures, batches: Sequence[list[str]], threads: int
) -> Generator[Rows, None, None]:
    def work(names: list[str]) -> Rows:
        outputs = engine.embed(shaped(engine, pictures, names))
        return Rows(names, _first(outputs, len(names)))

    # Opened here, so that no two threads do it at once.
    pictures.gather([])
    with exact_fp32(), _one_thread_each(engine, min(threads, max(1, len(batches)))) as pool:
        yield from in_order(pool, work, batches, ahead=threads + 1)


@contextmanager
def _one_thread_each(engine: Engine, count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose numerical libraries start no further ones."""
    before = torch.get_num_threads()
    if engine.compiled:
        _compile(engine)
    pool = ThreadPoolExecutor(count, "peftbench-embed", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        # What has begun is waited for: it may hold what the caller is about to let go of.
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)


def _compile(engine: Engine) -> None:
    """The first call compiles: once, for one thread, before several threads come."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    crop = engine.card.transform.crop
    try:
        engine.embed(torch.zeros((engine.batch_size, crop, crop), dtype=torch.uint8))
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise DeviceError(
            f"torch cannot compile {engine.card.name} here ({type(error).__name__}: {told}): leave --compile away"
        ) from error
    finally:
        torch.set_num_threads(before)


def _on_gpu(engine: Engine, pictures: Pictures, batches: Sequence[list[str]]) -> Generator[Rows, None, None]:
    """An answer is fetched when the next batch has been launched: the device has always something to do."""

    def work(names: list[str]) -> tuple[list[str], torch.Tensor]:
        pixels = shaped(engine, pictures, names)
        return names, pixels.pin_memory() if engine.device.type == "cuda" else pixels

    pictures.gather([])
    before: tuple[list[str], Launched] | None = None
    count = min(SHAPING_THREADS, torch.get_num_threads())
    with exact_fp32(), ThreadPoolExecutor(count, "peftbench-shape") as pool:
        for names, pixels in in_order(pool, work, batches, ahead=BATCHES_AHEAD):
            launched = engine.launch(pixels)
            if before is not None:
                yield _fetched_rows(*before)
            before = names, launched
    if before is not None:
        yield _fetched_rows(*before)


def _fetched_rows(names: list[str], launched: Launched) -> Rows:
    return Rows(names, _first(launched.fetched(), len(names)))


def _first(outputs: Outputs, count: int) -> Outputs:
    return {name: rows[:count] for name, rows in outputs.items()}
