"""Batches of canonical pictures for training, in shuffled order, straight from the image store.

Nothing is decoded: a picture is copied from where it lies on the disk (or in the page cache), resized and cut. The same
input transform as for extraction, so that a streamed picture and a stored feature mean the same.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from peftbench.errors import ConfigError
from peftbench.imaging.transform import InputTransform
from stores.images import ImageStore


class PictureBatch(NamedTuple):
    """Pictures, and which they are.

    Attributes:
        pixels: (n, crop, crop) uint8; `InputTransform.normalise` makes them a model's input, on any device.
        numbers: (n,) int64, positions in the list of images that the loader was made with.
    """

    pixels: torch.Tensor
    numbers: torch.Tensor


class Pictures(Dataset[PictureBatch]):
    """Shaped pictures by number. Each process that serves them opens the store for itself.

    Args:
        folder: of the image store.
        images: digests; an image may stand several times.
        transform: canonical pixels to model input.

    Raises:
        RowsMissingError: some image is not in the store.
    """

    def __init__(self, folder: Path, images: Sequence[str], transform: InputTransform) -> None:
        self.folder = folder
        self.images = list(images)
        self.transform = transform
        self._store: ImageStore | None = None
        self._opened().rows_of(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> PictureBatch:
        return self.__getitems__([number])

    def __getitems__(self, numbers: list[int]) -> PictureBatch:
        """A batch at once, as torch's loader asks for it."""
        pictures = self._opened().gather([self.images[number] for number in numbers])
        return PictureBatch(self.transform.shape(pictures), torch.tensor(numbers, dtype=torch.int64))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}

    def _opened(self) -> ImageStore:
        if self._store is None:
            self._store = ImageStore.open(self.folder)
        return self._store


class ShuffledEpochs(Sampler[list[int]]):
    """Batches of numbers in an order that seed and epoch tell: an interrupted training goes on with the same one.

    Args:
        length: numbers are from 0 to length - 1.
        batch_size: numbers in a batch; the last batch of an epoch may be shorter.
        seed: of the orders.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.length / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        self.epoch += 1
        order = torch.randperm(self.length, generator=generator).tolist()
        for start in range(0, self.length, self.batch_size):
            yield order[start : start + self.batch_size]


def shuffled(
    folder: Path,
    images: Sequence[str],
    transform: InputTransform,
    *,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    workers: int = 0,
) -> DataLoader[PictureBatch]:
    """A loader of shuffled batches; each time it is iterated over is an epoch.

    Args:
        folder: of the image store.
        images: digests, one a training example.
        transform: canonical pixels to model input.
        batch_size: pictures in a batch; the last one may be smaller.
        seed: of the order.
        epoch: to begin with.
        workers: processes that read and shape beside the training; 0 does it in this one.

    Raises:
        ConfigError: the batch size is not positive.
        RowsMissingError: some image is not in the store.
    """
    if batch_size < 1:
        raise ConfigError(f"the batch size is {batch_size}, expected at least 1")
    sampler = ShuffledEpochs(len(images), batch_size, seed)
    sampler.epoch = epoch
    return DataLoader(
        Pictures(folder, images, transform),
        batch_sampler=sampler,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        # Not forked: this process may have threads by now, whose locks a fork would copy as they are.
        multiprocessing_context="forkserver" if workers else None,
    )


def _as_it_is(batch: Any) -> PictureBatch:
    """What `Pictures.__getitems__` answered is a batch already."""
    found: PictureBatch = batch
    return found
