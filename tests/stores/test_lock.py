"""One writer a store; the lock ends with its owner, however that one ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np
import pytest
from stores_kit import DIM, RECIPE, SHAPES, append, filled, holds_exactly, images, outputs

from stores import lock
from stores.errors import StoreError, StoreLockedError, StoreNotFoundError
from stores.features import FeatureStore
from stores.lock import LOCK_FILE, Wait, is_locked, writer_lock

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
    """Another process that is writing to the store until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def let_go(owner: subprocess.Popen[str]) -> None:
    """End another writer as it should end."""
    assert owner.stdin is not None
    owner.stdin.close()
    assert owner.wait(10) == 0


class Ear:
    """Hears what a waiting writer says; may act when it is about to wait once more."""

    def __init__(self, *acts: Callable[[], object] | None) -> None:
        self.heard: list[str] = []
        self.turns = 0
        self._acts = list(acts)

    def turn(self) -> None:
        self.turns += 1
        act = self._acts.pop(0) if self._acts else None
        if act is not None:
            act()

    def wait(self, seconds: float | None = 10, pause: float = 0.001) -> Wait:
        return Wait(self.heard.append, self.turn, seconds, pause)


def held(block: AbstractContextManager[None]) -> ExitStack:
    """A lock that is held until it is closed."""
    stack = ExitStack()
    stack.enter_context(block)
    return stack


class TestExclusion:
    def test_a_second_process_is_refused_and_told_who_writes(self, folder: Path, owner: subprocess.Popen[str]) -> None:
        store = FeatureStore.open(folder)
        with pytest.raises(StoreLockedError, match=f"the store features is .*process {owner.pid} on .* since 20"):
            store.append(images(5, 6), outputs(5, 6))
        with pytest.raises(StoreLockedError), store.writing():
            pytest.fail("two writers at once")

    def test_reading_goes_on_while_another_process_writes(self, folder: Path, owner: subprocess.Popen[str]) -> None:
        assert owner.poll() is None
        holds_exactly(folder, 5)

    def test_the_lock_is_free_as_soon_as_its_owner_is_killed(self, folder: Path, owner: subprocess.Popen[str]) -> None:
        owner.send_signal(signal.SIGKILL)
        assert owner.wait(10) == -signal.SIGKILL
        assert append(folder, 5, 6) == 1
        holds_exactly(folder, 6)

    def test_a_store_cannot_be_made_while_another_process_makes_it(self, tmp_path: Path) -> None:
        with writer_lock(tmp_path / "new"), pytest.raises(StoreLockedError, match="the store new is being written"):
            FeatureStore.create(tmp_path / "new", RECIPE, SHAPES)

    def test_two_instances_of_one_process_exclude_each_other(self, folder: Path) -> None:
        one, other = FeatureStore.open(folder), FeatureStore.open(folder)
        with one.writing(), pytest.raises(StoreLockedError):
            other.append(images(5, 6), outputs(5, 6))
        assert other.append(images(5, 6), outputs(5, 6)) == 1

    def test_the_lock_is_released_when_the_block_fails(self, folder: Path) -> None:
        with pytest.raises(ZeroDivisionError), writer_lock(folder):
            raise ZeroDivisionError
        with writer_lock(folder):
            pass

    def test_writing_may_be_nested_and_ends_with_the_outermost_block(self, folder: Path) -> None:
        store, other = FeatureStore.open(folder), FeatureStore.open(folder)
        with store.writing():
            with store.writing():
                store.append(images(5, 6), outputs(5, 6))
            with pytest.raises(StoreLockedError):
                other.append(images(6, 7), outputs(6, 7))
        assert other.append(images(6, 7), outputs(6, 7)) == 1

    def test_a_writer_sees_what_another_appended_before_it_got_the_lock(self, folder: Path) -> None:
        late = FeatureStore.open(folder)
        append(folder, 5, 8)
        others = {name: np.full_like(rows, -1) for name, rows in outputs(4, 10).items()}
        assert late.append(images(4, 10), others) == 2
        matrix, found = late.load()
        assert found == images(0, 10)
        np.testing.assert_array_equal(matrix[:8], outputs(0, 8)["embedding"])
        np.testing.assert_array_equal(matrix[8:], np.full((2, DIM), -1))

    def test_a_lock_whose_text_cannot_be_wiped_out_is_released(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        with pytest.raises(OSError, match="Input/output"), writer_lock(folder):
            monkeypatch.setattr(os, "ftruncate", fail)
        monkeypatch.undo()
        with writer_lock(folder):
            pass

    def test_a_folder_is_made_only_where_that_is_meant(self, tmp_path: Path) -> None:
        with pytest.raises(StoreNotFoundError, match="is not there"), writer_lock(tmp_path / "new", make=False):
            pytest.fail("there is no folder")
        with writer_lock(tmp_path / "new"):
            assert (tmp_path / "new" / LOCK_FILE).exists()

    def test_a_file_system_without_locks_is_refused_with_the_next_step(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(37, "No locks available")

        monkeypatch.setattr("stores.lock.fcntl.flock", refuse)
        with pytest.raises(StoreError, match=r"has no locks .*put the workspace on another one"):
            append(folder, 5, 6)


class TestWaiting:
    def test_who_waits_says_so_once_and_goes_on_when_the_other_has_ended(
        self, folder: Path, owner: subprocess.Popen[str]
    ) -> None:
        ear = Ear(None, None, lambda: let_go(owner))
        with FeatureStore.open(folder).writing(ear.wait()):
            assert len(ear.heard) == 1
        assert f"is being written by process {owner.pid} on " in ear.heard[0]
        assert "waiting until it has ended" in ear.heard[0]
        assert ear.turns == 3

    def test_nobody_is_told_where_there_is_nothing_to_wait_for(self, folder: Path) -> None:
        ear = Ear()
        with FeatureStore.open(folder).writing(ear.wait()):
            pass
        assert (ear.heard, ear.turns) == ([], 0)

    @pytest.mark.parametrize("seconds", [0, 0.05])
    def test_waiting_ends_after_the_stated_time(
        self, folder: Path, owner: subprocess.Popen[str], seconds: float
    ) -> None:
        start = time.monotonic()
        with (
            pytest.raises(StoreLockedError, match=f"process {owner.pid} on "),
            writer_lock(folder, Ear().wait(seconds)),
        ):
            pytest.fail("two writers at once")
        assert seconds <= time.monotonic() - start < 5

    def test_waiting_may_be_given_up_at_every_turn(self, folder: Path, owner: subprocess.Popen[str]) -> None:
        def give_up() -> None:
            raise KeyboardInterrupt

        ear = Ear(None, give_up)
        with pytest.raises(KeyboardInterrupt), writer_lock(folder, ear.wait()):
            pytest.fail("two writers at once")
        let_go(owner)
        assert append(folder, 5, 6) == 1

    def test_making_a_store_waits_for_who_makes_it(self, tmp_path: Path) -> None:
        made = threading.Event()

        def make() -> None:
            with writer_lock(tmp_path / "new"):
                made.set()
                time.sleep(0.1)

        other = threading.Thread(target=make)
        other.start()
        assert made.wait(10)
        ear = Ear()
        store = FeatureStore.create(tmp_path / "new", RECIPE, SHAPES, ear.wait())
        other.join()
        assert (len(store), len(ear.heard)) == (0, 1)

    def test_who_waited_sees_what_the_other_wrote(self, folder: Path) -> None:
        other, late = FeatureStore.open(folder), FeatureStore.open(folder)
        writing = held(other.writing())
        other.append(images(5, 8), outputs(5, 8))
        with late.writing(Ear(writing.close).wait()):
            assert late.missing(images(0, 10)) == images(8, 10)
            late.append(images(0, 10), outputs(0, 10))
        holds_exactly(folder, 10)

    def test_a_folder_replaced_meanwhile_is_written_where_it_is_now(self, folder: Path) -> None:
        late = FeatureStore.open(folder)
        writing = held(FeatureStore.open(folder).writing())

        def replace() -> None:
            folder.rename(folder.with_name("old"))
            filled(folder, 7)
            writing.close()

        with late.writing(Ear(replace).wait()):
            with pytest.raises(StoreLockedError):
                append(folder, 7, 8)
            assert late.append(images(0, 9), outputs(0, 9)) == 2
        holds_exactly(folder, 9)
        holds_exactly(folder.with_name("old"), 5)

    def test_so_is_one_replaced_in_the_very_moment_of_locking(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = FeatureStore.open(folder)
        original = lock._try
        replaced: list[bool] = []

        def try_late(handle: int, where: Path, kind: int) -> bool:
            if not replaced:
                replaced.append(True)
                folder.rename(folder.with_name("old"))
                filled(folder, 7)
            return original(handle, where, kind)

        monkeypatch.setattr(lock, "_try", try_late)
        with late.writing():
            with pytest.raises(StoreLockedError):
                append(folder, 7, 8)
            assert late.append(images(0, 9), outputs(0, 9)) == 2
        holds_exactly(folder, 9)
        holds_exactly(folder.with_name("old"), 5)

    def test_a_folder_removed_meanwhile_is_not_found(self, folder: Path) -> None:
        late = FeatureStore.open(folder)
        writing = held(FeatureStore.open(folder).writing())

        def remove() -> None:
            folder.rename(folder.with_name("old"))
            writing.close()

        with pytest.raises(StoreNotFoundError), late.writing(Ear(remove).wait()):
            pytest.fail("there is no store")
        assert not folder.exists(), "a folder made anew would be in the way of what may be put there"


class TestTakingOver:
    def test_the_next_writer_says_that_the_last_one_died(self, folder: Path, owner: subprocess.Popen[str]) -> None:
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        ear = Ear()
        with FeatureStore.open(folder).writing(ear.wait()):
            pass
        (told,) = ear.heard
        assert f"took over the store features from process {owner.pid} on " in told
        assert "ended without finishing: what it had committed is kept" in told

    def test_it_says_so_once(self, folder: Path, owner: subprocess.Popen[str]) -> None:
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        ears = [Ear(), Ear()]
        for ear in ears:
            with FeatureStore.open(folder).writing(ear.wait()):
                pass
        assert [len(ear.heard) for ear in ears] == [1, 0]

    def test_one_that_dies_while_another_waits_is_taken_over_from(
        self, folder: Path, owner: subprocess.Popen[str]
    ) -> None:
        def kill() -> None:
            owner.send_signal(signal.SIGKILL)
            owner.wait(10)

        ear = Ear(kill)
        with FeatureStore.open(folder).writing(ear.wait()):
            pass
        assert ["waiting until" in told for told in ear.heard] == [True, False]
        assert "took over" in ear.heard[1]

    def test_there_is_nothing_to_take_over_from_one_that_ended_as_it_should(
        self, folder: Path, owner: subprocess.Popen[str]
    ) -> None:
        let_go(owner)
        ear = Ear()
        with FeatureStore.open(folder).writing(ear.wait()):
            pass
        assert ear.heard == []

    @pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
    def test_nor_from_one_that_failed(self, folder: Path, error: type[BaseException]) -> None:
        with pytest.raises(error), FeatureStore.open(folder).writing():
            raise error
        ear = Ear()
        with FeatureStore.open(folder).writing(ear.wait()):
            pass
        assert ear.heard == []

    @pytest.mark.parametrize("text", ["{", "7", "[]", "{}", '"name"', "null"])
    def test_a_lock_that_names_nobody_is_another_process(self, folder: Path, text: str) -> None:
        (folder / LOCK_FILE).write_text(text)
        ear = Ear()
        with FeatureStore.open(folder).writing(ear.wait()):
            pass
        assert "took over the store features from another process" in ear.heard[0]


class TestAsking:
    def test_nobody_writes_where_there_is_no_store_or_no_lock(self, folder: Path, tmp_path: Path) -> None:
        assert is_locked(tmp_path / "nowhere") == ""
        assert is_locked(folder) == ""
        (folder / LOCK_FILE).unlink()
        assert is_locked(folder) == ""
        assert not (folder / LOCK_FILE).exists()

    def test_a_writer_is_named_as_long_as_it_writes(self, folder: Path, owner: subprocess.Popen[str]) -> None:
        assert f"process {owner.pid} on " in is_locked(folder)
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        assert is_locked(folder) == "", "what it left in the file does not count"

    def test_asking_takes_nothing_over_and_holds_nothing(self, folder: Path) -> None:
        (folder / LOCK_FILE).write_text("left behind")
        assert is_locked(folder) == ""
        assert (folder / LOCK_FILE).read_text() == "left behind"
        with writer_lock(folder):
            assert f"process {os.getpid()} on " in is_locked(folder)
            assert json.loads((folder / LOCK_FILE).read_text())["process"] == os.getpid()
        assert (folder / LOCK_FILE).read_text() == ""
