"""The loop: shards are read and shaped, by turns with the forward pass or, on a GPU, in a thread beside it.

Every forward pass sees a batch of the same shape (the last one is padded), because libraries choose their kernels by
shape: so a row does not depend on where an interrupted run took up again.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from peftbench.backbones.loading import Encoder
from peftbench.extraction.device import Precision, autocast
from peftbench.protocol.progress import Progress
from stores.features import FeatureStore
from stores.images import SHARD_ROWS, ImageStore

BATCHES_AHEAD = 3
"""Shaped batches that wait for the forward pass: enough to bridge the reading of a shard."""

PORTION = 16
"""Pictures that a thread shapes at a time."""

COMMIT_SECONDS = 5.0
"""How much work an interruption can cost at most."""


Outputs = dict[str, npt.NDArray[np.float32]]
"""Name of an output to its rows."""


class Batch(NamedTuple):
    """Shaped pictures (batch, crop, crop) uint8, and the digests of the first len(images) of them."""

    images: list[str]
    pixels: torch.Tensor


class Engine:
    """A frozen encoder on its device, fed with shaped batches; `buffer` is its input, made once.

    What it answers are all outputs of the backbone's card, from one forward pass.

    Args:
        encoder: the backbone.
        device: where it runs.
        precision: of the forward pass.
        batch_size: pictures in a forward pass.
    """

    def __init__(self, encoder: Encoder, device: torch.device, precision: Precision, batch_size: int) -> None:
        self.card = encoder.card
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        layout = torch.channels_last if self.card.channels_last else torch.contiguous_format
        self._loader = encoder.loader
        self._module = encoder.module.to(device)
        if self.card.channels_last:
            self._module = self._module.to(memory_format=torch.channels_last)
        crop = self.card.transform.crop
        self.buffer = torch.zeros(
            (batch_size, 3, crop, crop),
            dtype=torch.float32,
            device=device,
        ).to(memory_format=layout)

    def embed(self, pixels: torch.Tensor) -> Outputs:
        """Shaped pictures (batch_size, crop, crop) uint8 to (batch_size, ...) float32 of each output."""
        return self.forward(self.card.transform.normalise(pixels.to(self.device, non_blocking=True), self.buffer))

    @torch.inference_mode()
    def forward(self, batch: torch.Tensor) -> Outputs:
        """Normalised input (batch_size, 3, crop, crop) to (batch_size, ...) float32 of each output."""
        with autocast(self.device, self.precision):
            outputs = self._loader.outputs(self._module, batch)
        return {name: tensor.float().cpu().numpy() for name, tensor in outputs.items()}


def embed_missing(
    engine: Engine, pictures: ImageStore, features: FeatureStore, images: Sequence[str], progress: Progress
) -> float:
    """Embed images and append their rows; answers the seconds it took.

    Rows are committed every few seconds and when the loop ends, however it ends.

    Args:
        engine: computes.
        pictures: holds the images.
        features: takes the rows; must not hold any of the images yet.
        images: digests.
        progress: is told of every batch.
    """
    start = time.perf_counter()
    waiting: list[tuple[list[str], Outputs]] = []
    committed = start

    def commit() -> None:
        if waiting:
            names = [image for batch, _ in waiting for image in batch]
            rows = {name: np.concatenate([each[name] for _, each in waiting]) for name in waiting[0][1]}
            features.append(names, rows)
            waiting.clear()

    try:
        with _ahead(_batches(pictures, images, engine), engine.device) as batches:
            for batch in batches:
                outputs = engine.embed(batch.pixels)
                waiting.append((batch.images, {name: rows[: len(batch.images)] for name, rows in outputs.items()}))
                progress.advance(len(batch.images))
                if time.perf_counter() - committed > COMMIT_SECONDS:
                    commit()
                    committed = time.perf_counter()
    finally:
        commit()
    return time.perf_counter() - start


def _batches(pictures: ImageStore, images: Sequence[str], engine: Engine) -> Iterator[Batch]:
    """Shaped batches in the order in which the image store holds the images: whole shards are read once."""
    size, crop = engine.batch_size, engine.card.transform.crop
    names: list[str] = []
    pixels = torch.empty((0, crop, crop), dtype=torch.uint8)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for more, shard in _shards(pictures, images):
            names += more
            pixels = torch.cat([pixels, *pool.map(engine.card.transform.shape, _portions(shard))])
            while len(names) >= size:
                yield Batch(names[:size], pixels[:size])
                names, pixels = names[size:], pixels[size:]
    if names:
        yield Batch(names, torch.cat([pixels, torch.zeros((size - len(names), crop, crop), dtype=torch.uint8)]))


def _portions(shard: list[npt.NDArray[np.uint8]]) -> list[list[npt.NDArray[np.uint8]]]:
    """A shard in portions for the threads, small enough that they end together."""
    return [shard[start : start + PORTION] for start in range(0, len(shard), PORTION)]


def _shards(pictures: ImageStore, images: Sequence[str]) -> Iterator[tuple[list[str], list[npt.NDArray[np.uint8]]]]:
    rows = np.sort(pictures.rows_of(images))
    for shard in np.unique(rows // SHARD_ROWS):
        wanted = rows[rows // SHARD_ROWS == shard]
        first, last = int(wanted[0]), int(wanted[-1]) + 1
        names, pixels = pictures.read(first, last)
        yield [names[row - first] for row in wanted], [pixels[row - first] for row in wanted]


@contextmanager
def _ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Iterator[Batch]]:
    """Draw from an iterator in a thread of its own, a few items ahead; errors come out where the items do.

    Only where the forward pass leaves the processor free. On the processor itself both would fight for its cores, and
    every core that comes late holds up all others of the forward pass: taking turns is faster.
    """
    if device.type == "cpu":
        yield batches
        return
    line: queue.Queue[Batch | BaseException | None] = queue.Queue(BATCHES_AHEAD)
    stop = threading.Event()
    thread = threading.Thread(target=_draw, args=(batches, line, stop), name="peftbench-read", daemon=True)
    thread.start()
    try:
        yield _drawn(line)
    finally:
        stop.set()
        thread.join()


def _draw(batches: Iterator[Batch], line: "queue.Queue[Batch | BaseException | None]", stop: threading.Event) -> None:
    """Put every batch, then None, into the line; an error takes the place of the rest."""
    try:
        for batch in batches:
            _put(line, batch, stop)
            if stop.is_set():
                return
        _put(line, None, stop)
    except BaseException as error:  # noqa: BLE001 - it is raised again in the other thread
        _put(line, error, stop)


def _put(
    line: "queue.Queue[Batch | BaseException | None]", item: Batch | BaseException | None, stop: threading.Event
) -> None:
    while not stop.is_set():
        try:
            line.put(item, timeout=0.1)
        except queue.Full:
            continue
        return


def _drawn(line: "queue.Queue[Batch | BaseException | None]") -> Iterator[Batch]:
    while (item := line.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item
