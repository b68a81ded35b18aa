"""An append that does not end leaves the store as it was, whenever and however it is cut short."""

import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from stores_kit import DIM, embeddings, filled, holds_exactly, images

from stores import rows
from stores.features import FeatureStore

KILLS = 8


class PowerCutError(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


def cut_before(monkeypatch: pytest.MonkeyPatch, home: object, name: str, turn: int, error: BaseException) -> None:
    """Let the call number `turn` of a function fail, and all after it."""
    original, calls = getattr(home, name), count()

    def counting(*words: object, **named: object) -> object:
        if next(calls) >= turn:
            raise error
        return original(*words, **named)

    monkeypatch.setattr(home, name, counting)


def append(folder: Path, start: int, stop: int) -> None:
    FeatureStore.open(folder).append(images(start, stop), embeddings(start, stop))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path / "features", 700, 1000).folder


class TestInterruptedAppend:
    """1,500 rows are offered, of which the first 24 share a chunk with committed rows."""

    @pytest.mark.parametrize("following", [1001, 1024, 2000, 2500, 3000])
    def test_rows_without_a_commit_are_invisible_and_overwritten(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, following: int
    ) -> None:
        cut_before(monkeypatch, rows.Commit, "write", 0, PowerCutError())
        with pytest.raises(PowerCutError):
            FeatureStore.open(folder).append(images(5000, 6500), embeddings(5000, 6500))
        monkeypatch.undo()
        holds_exactly(folder, 1000)
        append(folder, 1000, following)
        holds_exactly(folder, following)

    @pytest.mark.parametrize("name", ["sync_file", "write_atomic"])
    def test_a_cut_before_any_flush_leaves_the_committed_rows(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        for turn in count():
            cut_before(monkeypatch, rows, name, turn, PowerCutError())
            try:
                append(folder, 1000, 2500)
            except PowerCutError:
                monkeypatch.undo()
                holds_exactly(folder, 1000)
            else:
                break
        assert turn >= 1
        holds_exactly(folder, 2500)

    def test_a_full_disk_at_any_file_leaves_the_committed_rows(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for turn in count():
            cut_before(monkeypatch, Path, "replace", turn, OSError(28, "No space left on device"))
            try:
                append(folder, 1000, 2500)
            except OSError:
                monkeypatch.undo()
                holds_exactly(folder, 1000)
            else:
                break
        # Two arrays, of three chunks and a description each, and the commit record.
        assert turn >= 9
        holds_exactly(folder, 2500)

    def test_the_same_instance_goes_on_after_a_failure(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = FeatureStore.open(folder)
        cut_before(monkeypatch, rows.Commit, "write", 0, OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            store.append(images(1000, 1100), embeddings(1000, 1100))
        monkeypatch.undo()
        assert store.missing(images(999, 1001)) == images(1000, 1001)
        assert store.append(images(1000, 1100), embeddings(1000, 1100)) == 100
        holds_exactly(folder, 1100)

    def test_a_store_whose_making_was_cut_short_is_made_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for turn in count():
            cut_before(monkeypatch, Path, "replace", turn, PowerCutError())
            try:
                filled(tmp_path / "features", 5)
            except PowerCutError:
                monkeypatch.undo()
            else:
                break
        assert turn >= 3
        holds_exactly(tmp_path / "features", 5)


def test_rows_are_on_the_device_before_the_commit_record_names_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(rows, "sync_file", lambda path: flushed.append(path.relative_to(folder).as_posix()))
    monkeypatch.setattr(rows, "write_atomic", lambda path, _: flushed.append(path.name))
    append(folder, 1000, 2500)
    chunks = {f"embedding/c/{index}/0" for index in range(3)} | {f"image/c/{index}/0" for index in range(3)}
    assert set(flushed[:-1]) >= chunks
    assert flushed[-1] == "commit.json"


FILE_LIMIT = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from stores_kit import embeddings, images
from stores.features import FeatureStore
store = FeatureStore.open(Path(sys.argv[1]))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
try:
    store.append(images(1000, 2500), embeddings(1000, 2500))
except OSError as error:
    print(error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.append(images(1000, 1200), embeddings(1000, 1200))
"""


def test_a_file_that_may_not_grow_leaves_the_store_valid(folder: Path) -> None:
    assert 1024 * 4 * DIM < 20_000 < 1024 * 32, "digests exceed the limit, so the append fails in its second array"
    command = [sys.executable, "-c", FILE_LIMIT, str(folder), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "27", "EFBIG"
    holds_exactly(folder, 1200)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from stores_kit import embeddings, images
from stores.features import FeatureStore
store = FeatureStore.open(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    start = len(store)
    stop = start + 1 + start * 7919 % 300
    store.append(images(start, stop), embeddings(start, stop))
    print(stop, flush=True)
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_the_rows_it_had_committed(tmp_path: Path) -> None:
    folder = filled(tmp_path / "features", 3).folder
    random = np.random.default_rng(0)
    committed = 3
    command = [sys.executable, "-c", WRITER, str(folder), str(Path(__file__).parent)]
    for _ in range(KILLS):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            try:
                writer.wait(float(random.uniform(0.02, 0.4)))
            except subprocess.TimeoutExpired:
                writer.send_signal(signal.SIGKILL)
            reported = writer.stdout.read().split()
            assert writer.wait() == -signal.SIGKILL
        found = len(FeatureStore.open(folder))
        assert found >= max([committed, *map(int, reported)]), "what was reported as appended is there"
        holds_exactly(folder, found)
        committed = found
    assert committed > 3
