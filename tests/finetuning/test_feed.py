"""Pictures to the device: the same from memory and from the store; and the order in which an epoch sees them."""

import threading

import numpy as np
import pytest
import torch
from finetune_kit import CPU, Shown, encoder_of
from hypothesis import given
from hypothesis import strategies as st
from progress_kit import Ear

from peftbench.finetuning import feed as feeding
from peftbench.finetuning.feed import Feed, epoch_order, seed_of
from peftbench.imaging.transform import InputTransform
from peftbench.protocol.progress import Silent
from stores.errors import RowsMissingError

TRANSFORMS = {
    "as ResNet's": encoder_of("resnet").card.transform,
    "bicubic": InputTransform(40, 33, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "padded": InputTransform(24, 24, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), pad=90),
}


def batches_of(shown: Shown, transform: InputTransform, batches: list[list[int]], **more: int) -> list[torch.Tensor]:
    feed = Feed(shown.source(transform), CPU, Silent(), **more)
    found = list(feed.batches([np.array(each) for each in batches]))
    assert feed.resident == (not more)
    return found


BATCHES = [[3], [59, 0, 7, 7], list(range(12, 40)), [1, 2], [8], [5, 4], [6], [9]]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pictures_from_memory_and_from_the_store_are_those_that_extraction_shapes(shown: Shown, name: str) -> None:
    transform = TRANSFORMS[name]
    resident = batches_of(shown, transform, BATCHES)
    streamed = batches_of(shown, transform, BATCHES, resident_bytes=0)
    for numbers, kept, read in zip(BATCHES, resident, streamed, strict=True):
        expected = transform.shape([shown.pictures[number] for number in numbers])
        assert kept.dtype == read.dtype == torch.uint8
        assert torch.equal(kept, expected)
        assert torch.equal(read, expected)


def test_pictures_stay_in_memory_exactly_up_to_the_limit(shown: Shown) -> None:
    transform = TRANSFORMS["bicubic"]
    size = 60 * 33 * 33
    for limit, stays in ((size, True), (size - 1, False)):
        feed = Feed(shown.source(transform), CPU, Silent(), resident_bytes=limit)
        feed.ready()
        assert feed.resident is stays


def test_pictures_that_stay_are_shaped_once_and_told_of_once(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    shaped: list[int] = []
    original = InputTransform.shape

    def counted(self: InputTransform, pictures: list[np.ndarray]) -> torch.Tensor:
        shaped.append(len(pictures))
        return original(self, pictures)

    monkeypatch.setattr(InputTransform, "shape", counted)
    ear = Ear()
    feed = Feed(shown.source(TRANSFORMS["bicubic"]), CPU, ear)
    feed.ready()
    for _ in range(3):
        assert len(list(feed.batches([np.array([2, 1]), np.array([3])]))) == 2
    assert sum(shaped) == len(feed) == 60
    assert ear.expected == ear.done == 60


def test_a_picture_that_stands_twice_is_served_twice(shown: Shown) -> None:
    source = shown.source(TRANSFORMS["bicubic"])._replace(images=[shown.images[4], shown.images[4], shown.images[5]])
    (found,) = Feed(source, CPU, Silent()).batches([np.array([0, 1, 2])])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_an_image_that_is_not_in_the_store_is_refused_before_anything_is_read(shown: Shown) -> None:
    source = shown.source(TRANSFORMS["bicubic"])._replace(images=["0" * 64])
    with pytest.raises(RowsMissingError, match="not in the image store"):
        Feed(source, CPU, Silent())


def test_only_so_many_batches_are_read_ahead(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Feed._read

    def noted(self: Feed, numbers: np.ndarray) -> torch.Tensor:
        read.append(int(numbers[0]))
        return original(self, numbers)

    monkeypatch.setattr(Feed, "_read", noted)
    feed = Feed(shown.source(TRANSFORMS["bicubic"]), CPU, Silent(), resident_bytes=0)
    stream = feed.batches([np.array([number]) for number in range(30)])
    for served in range(1, 4):
        next(stream)
        assert len(read) <= served + feeding.AHEAD
    stream.close()  # type: ignore[attr-defined]
    assert not [each for each in threading.enumerate() if each.name.startswith("peftbench-feed")]


def test_an_error_in_a_thread_reaches_who_asks(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Feed, numbers: np.ndarray) -> torch.Tensor:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Feed, "_read", broken)
    feed = Feed(shown.source(TRANSFORMS["bicubic"]), CPU, Silent(), resident_bytes=0)
    with pytest.raises(OSError, match="the disk is gone"):
        next(iter(feed.batches([np.array([0])])))


events = st.lists(st.integers(0, 1), min_size=1, max_size=200).map(np.array)
sizes = st.integers(2, 64)
seeds = st.integers(0, 2**63 - 1)


@given(events, sizes, seeds, st.sampled_from(["loss", "none"]))
def test_an_epoch_sees_every_picture_once(event: np.ndarray, size: int, seed: int, balance: str) -> None:
    batches = epoch_order(event, size, balance, seed)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(len(event)))


@given(events, sizes, seeds, st.sampled_from(["loss", "none", "sampler", "both"]))
def test_batches_are_as_few_as_can_be_and_differ_by_one_at_most(
    event: np.ndarray, size: int, seed: int, balance: str
) -> None:
    batches = epoch_order(event, size, balance, seed)  # type: ignore[arg-type]
    lengths = [len(each) for each in batches]
    assert sum(lengths) == len(event)
    assert len(batches) == -(-len(event) // size)
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= size
    assert all(each.dtype == np.int64 for each in batches)


@given(st.integers(1, 400), st.integers(1, 400), seeds)
def test_a_sampler_draws_both_classes_alike(without: int, with_event: int, seed: int) -> None:
    event = np.array([0] * without + [1] * with_event)
    drawn = np.concatenate([np.concatenate(epoch_order(event, 64, "sampler", seed + each)) for each in range(40)])
    share = event[drawn].mean()
    # Six deviations of a fair coin.
    assert abs(share - 0.5) < 6 * 0.5 / np.sqrt(len(drawn))


def test_a_sampler_draws_the_images_of_a_class_alike() -> None:
    event = np.array([0] * 30 + [1] * 10)
    drawn = np.concatenate([np.concatenate(epoch_order(event, 8, "both", seed)) for seed in range(3000)])
    counts = np.bincount(drawn, minlength=40)
    assert counts[:30] == pytest.approx(np.full(30, 120_000 / 60), rel=0.15)
    assert counts[30:] == pytest.approx(np.full(10, 120_000 / 20), rel=0.1)


@pytest.mark.parametrize("only", [0, 1])
def test_a_sampler_of_one_class_draws_that(only: int) -> None:
    drawn = np.concatenate(epoch_order(np.full(20, only), 8, "sampler", 3))
    assert len(drawn) == 20


@pytest.mark.parametrize("balance", ["loss", "sampler"])
def test_the_seed_decides_the_order(balance: str) -> None:
    event = np.arange(50) % 2
    orders = [np.concatenate(epoch_order(event, 8, balance, seed)).tolist() for seed in (1, 1, 2)]  # type: ignore[arg-type]
    assert orders[0] == orders[1] != orders[2]


def test_seeds_are_the_same_on_every_machine() -> None:
    assert seed_of("task", "backbone", 3, "step", 0, 1) == 6860033434925538545
    assert seed_of("a") != seed_of("b")
    assert 0 <= seed_of() < 2**63


@given(st.lists(st.one_of(st.integers(), st.text(max_size=9), st.none()), max_size=5))
def test_seeds_fit_both_generators(words: list[object]) -> None:
    seed = seed_of(*words)
    assert 0 <= seed < 2**63
    torch.Generator().manual_seed(seed)
    np.random.default_rng(seed)
