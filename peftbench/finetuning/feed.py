"""Pictures to the device, and numbers in the order in which an epoch sees them.

A picture is shaped (resized and cut, 8 bit) by the transform that extraction uses. Few enough pictures are shaped once
and stay in memory; many are read and shaped ahead by threads while the device computes.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from peftbench.finetuning.training import Balance
from peftbench.imaging.ahead import in_order
from peftbench.imaging.loading import Pictures
from peftbench.imaging.transform import InputTransform
from peftbench.protocol.progress import Progress
from stores.images import ImageStore

Positions = npt.NDArray[np.int64]

RESIDENT_BYTES = 2 * 2**30
"""Shaped pictures that are kept in memory, at most."""

SHAPED_AT_ONCE = 64

DEVICE_SHARE = 0.05
"""Of a GPU's free memory that pictures may take for good."""

AHEAD = 4
"""Batches that are read ahead."""

SHAPING_THREADS = 8


class Source(NamedTuple):
    """Pictures by number: where they are, and how they are shaped.

    Attributes:
        store: of images.
        images: digests.
        transform: canonical pixels to model input.
    """

    store: ImageStore
    images: Sequence[str]
    transform: InputTransform


class Feed:
    """Shaped pictures by number.

    Args:
        source: the pictures.
        device: where they go.
        told: hears how far the shaping is, where they stay in memory.
        resident_bytes: how much of them may stay in memory.
    """

    def __init__(
        self, source: Source, device: torch.device, told: Progress, resident_bytes: int = RESIDENT_BYTES
    ) -> None:
        self.device = device
        self._pictures = Pictures(source.store.folder, source.images, source.transform)
        self._told = told
        self._resident: torch.Tensor | None = None
        self._stays = len(source.images) * source.transform.crop**2 <= resident_bytes

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def resident(self) -> bool:
        """Whether all pictures are in memory."""
        return self._resident is not None

    def ready(self) -> None:
        """Shape what stays in memory, if that was not done."""
        if self._stays and self._resident is None:
            shaped = self._shaped()
            self._resident = shaped.to(self.device) if self._fits_on_device(shaped) else shaped

    def batches(self, batches: Sequence[Positions]) -> Iterator[torch.Tensor]:
        """Shaped pictures (n, crop, crop) uint8 of each batch, on the device."""
        self.ready()
        if self._resident is not None:
            for each in batches:
                yield self._there(self._resident[torch.from_numpy(each).to(self._resident.device)])
            return
        count = min(SHAPING_THREADS, torch.get_num_threads())
        with ThreadPoolExecutor(count, "peftbench-feed") as pool:
            for pixels in in_order(pool, self._read, batches, ahead=AHEAD):
                yield self._there(pixels)

    def _fits_on_device(self, shaped: torch.Tensor) -> bool:
        """Whether all pictures take a small part of a GPU's free memory: then no batch has to travel."""
        return self.device.type == "cuda" and shaped.numel() < DEVICE_SHARE * torch.cuda.mem_get_info(self.device)[0]

    def _shaped(self) -> torch.Tensor:
        """All pictures, each shaped once."""
        parts, told = [], self._told
        told.start("reading pictures", len(self))
        for start in range(0, len(self), SHAPED_AT_ONCE):
            numbers = np.arange(start, min(start + SHAPED_AT_ONCE, len(self)))
            parts.append(self._pictures.__getitems__(numbers.tolist()).pixels)
            told.advance(len(numbers))
        return torch.cat(parts)

    def _read(self, numbers: Positions) -> torch.Tensor:
        pixels = self._pictures.__getitems__(numbers.tolist()).pixels
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def _there(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.to(self.device, non_blocking=True)


def epoch_order(event: Positions, batch_size: int, balance: Balance, seed: int) -> list[Positions]:
    """Batches of an epoch: numbers from 0 to n - 1 in an order that the seed tells.

    Batches differ in size by one at most, so that none is a leftover of one or two images. With a sampler n numbers are
    drawn with replacement, of both classes as often as of the other, on average.

    Args:
        event: (n,) 0 or 1.
        batch_size: images in a batch, at most.
        balance: whether a sampler balances the classes.
        seed: of the order.
    """
    random = np.random.default_rng(seed)
    count = len(event)
    if balance in {"sampler", "both"}:
        share = np.where(event == 1, 0.5 / max(1, (event == 1).sum()), 0.5 / max(1, (event == 0).sum()))
        order = random.choice(count, size=count, p=share / share.sum())
    else:
        order = random.permutation(count)
    return [part.astype(np.int64) for part in np.array_split(order, -(-count // batch_size))]


def seed_of(*words: object) -> int:
    """A seed that these words tell, on every machine: 63 bits of their SHA-256."""
    told = "|".join(map(str, words)).encode()
    return int.from_bytes(sha256(told).digest()[:8], "big") >> 1
