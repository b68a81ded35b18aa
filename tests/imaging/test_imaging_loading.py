"""The training loader: every picture once an epoch, as it is stored, in an order that seed and epoch tell."""

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from peftbench.imaging.loading import PictureBatch, Pictures, ShuffledEpochs, shuffled
from peftbench.imaging.transform import InputTransform
from stores.errors import RowsMissingError, StoreDamagedError
from stores.images import ImageStore
from stores.keys import digest_of

SMALL = InputTransform(12, 10, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

COUNT = 150


@pytest.fixture(scope="module")
def pictures() -> list[npt.NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, random.integers(12, 25, 2), dtype=np.uint8) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, pictures: list[npt.NDArray[np.uint8]]) -> ImageStore:
    store = ImageStore.create(tmp_path_factory.mktemp("loading") / "images", "policy", 24)
    store.append([digest_of(number) for number in range(COUNT)], pictures)
    return store


def epoch(loader: object) -> list[PictureBatch]:
    return list(loader)  # type: ignore[call-overload]


def order(batches: list[PictureBatch]) -> list[int]:
    return torch.cat([batch.numbers for batch in batches]).tolist()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_epoch_serves_every_picture_once_as_extraction_would_shape_it(
    store: ImageStore, pictures: list[npt.NDArray[np.uint8]], workers: int
) -> None:
    batches = epoch(shuffled(store.folder, store.images, SMALL, batch_size=32, workers=workers))
    assert [len(batch.numbers) for batch in batches] == [32, 32, 32, 32, 22]
    assert sorted(order(batches)) == list(range(COUNT))
    assert order(batches) != list(range(COUNT))
    for batch in batches:
        assert batch.pixels.dtype == torch.uint8
        for pixels, number in zip(batch.pixels, batch.numbers.tolist(), strict=True):
            assert torch.equal(pixels, SMALL.shape([pictures[number]])[0])


def test_seed_and_epoch_tell_the_order(store: ImageStore) -> None:
    first = shuffled(store.folder, store.images, SMALL, batch_size=32, seed=3)
    orders = [order(epoch(first)) for _ in range(3)]
    assert len({tuple(each) for each in orders}) == 3
    resumed = shuffled(store.folder, store.images, SMALL, batch_size=32, seed=3, epoch=2)
    assert order(epoch(resumed)) == orders[2]
    other = shuffled(store.folder, store.images, SMALL, batch_size=32, seed=4)
    assert order(epoch(other)) not in orders


def test_epochs_of_neighbouring_seeds_differ() -> None:
    samplers = [ShuffledEpochs(40, 8, seed) for seed in range(6)]
    orders = {tuple(sum(list(sampler), [])) for sampler in samplers for _ in range(6)}  # noqa: RUF017
    assert len(orders) == 36


def test_an_image_may_be_asked_for_twice(store: ImageStore) -> None:
    image = store.images[7]
    (batch,) = epoch(shuffled(store.folder, [image, store.images[3], image], SMALL, batch_size=8))
    by_number = dict(zip(batch.numbers.tolist(), batch.pixels, strict=True))
    assert torch.equal(by_number[0], by_number[2])
    assert not torch.equal(by_number[0], by_number[1])


def test_an_image_that_is_not_stored_is_said_before_training_begins(store: ImageStore) -> None:
    with pytest.raises(RowsMissingError, match="1 images are not in the image store"):
        shuffled(store.folder, [*store.images, digest_of("absent")], SMALL, batch_size=8)


def test_a_copy_for_another_process_carries_no_open_files(store: ImageStore) -> None:
    served = Pictures(store.folder, store.images, SMALL)
    copy = pickle.loads(pickle.dumps(served))  # noqa: S301 - our own
    assert len(pickle.dumps(served)) < 70 * COUNT + 2000
    assert torch.equal(copy[5].pixels, served[5].pixels)


def test_a_damaged_picture_is_not_trained_on(tmp_path: Path, pictures: list[npt.NDArray[np.uint8]]) -> None:
    store = ImageStore.create(tmp_path / "images", "policy", 24)
    store.append([digest_of(number) for number in range(COUNT)], pictures)
    path = tmp_path / "images" / "pictures" / "pixels" / "c.1.0.0"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreDamagedError, match="'pixels'"):
        epoch(shuffled(store.folder, store.images, SMALL, batch_size=32))
