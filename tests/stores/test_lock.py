"""One writer a store; the lock ends with its owner, however that one ends."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stores_kit import DIM, RECIPE, embeddings, filled, holds_exactly, images

from stores.errors import StoreLockedError
from stores.features import FeatureStore
from stores.lock import writer_lock

HOLDER = """
import sys
from pathlib import Path
from stores.lock import writer_lock
with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path / "features", 5).folder


@pytest.fixture
def owner(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is writing to the store."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_who_writes(folder: Path, owner: subprocess.Popen[str]) -> None:
    store = FeatureStore.open(folder)
    with pytest.raises(StoreLockedError, match=f"process {owner.pid} on "):
        store.append(images(5, 6), embeddings(5, 6))
    with pytest.raises(StoreLockedError), store.writing():
        pytest.fail("two writers at once")


def test_reading_goes_on_while_another_process_writes(folder: Path, owner: subprocess.Popen[str]) -> None:
    assert owner.poll() is None
    holds_exactly(folder, 5)


def test_the_lock_is_free_as_soon_as_its_owner_is_killed(folder: Path, owner: subprocess.Popen[str]) -> None:
    owner.send_signal(signal.SIGKILL)
    assert owner.wait(10) == -signal.SIGKILL
    assert FeatureStore.open(folder).append(images(5, 6), embeddings(5, 6)) == 1
    holds_exactly(folder, 6)


def test_a_store_cannot_be_made_while_another_process_makes_it(tmp_path: Path) -> None:
    with writer_lock(tmp_path / "new"), pytest.raises(StoreLockedError, match="the store new is being written"):
        FeatureStore.create(tmp_path / "new", RECIPE, DIM)


def test_two_instances_of_one_process_exclude_each_other(folder: Path) -> None:
    one, other = FeatureStore.open(folder), FeatureStore.open(folder)
    with one.writing(), pytest.raises(StoreLockedError):
        other.append(images(5, 6), embeddings(5, 6))
    assert other.append(images(5, 6), embeddings(5, 6)) == 1


def test_the_lock_is_released_when_the_block_fails(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), writer_lock(folder):
        raise ZeroDivisionError
    with writer_lock(folder):
        pass


def test_writing_may_be_nested_and_ends_with_the_outermost_block(folder: Path) -> None:
    store, other = FeatureStore.open(folder), FeatureStore.open(folder)
    with store.writing():
        with store.writing():
            store.append(images(5, 6), embeddings(5, 6))
        with pytest.raises(StoreLockedError):
            other.append(images(6, 7), embeddings(6, 7))
    assert other.append(images(6, 7), embeddings(6, 7)) == 1


def test_a_writer_sees_what_another_appended_before_it_got_the_lock(folder: Path) -> None:
    late = FeatureStore.open(folder)
    FeatureStore.open(folder).append(images(5, 8), embeddings(5, 8))
    assert late.append(images(4, 10), np.full((6, DIM), -1, dtype=np.float32)) == 2
    matrix, found = late.load()
    assert found == images(0, 10)
    np.testing.assert_array_equal(matrix[:8], embeddings(0, 8))
