"""Two extractions at once: the second waits and says so, and together they store every row once."""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from extraction_kit import (
    BATCH,
    SLOWER,
    InterruptedAfter,
    assert_equal_to_the_bit,
    by_image,
    committed,
    extraction,
    faults,
    images_of,
    run,
    stores_of,
)
from forking import Forked
from progress_kit import Ear

from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore
from stores.lock import LOCK_FILE, writer_lock

Rows = dict[str, np.ndarray]


class TestWaiting:
    """Within one process: locks are the kernel's and hold between two openings of a file as well."""

    @pytest.mark.slow
    @pytest.mark.parametrize("existing", [True, False], ids=["a store that is there", "a store that is being made"])
    def test_who_writes_is_said_and_when_that_one_has_ended_it_goes_on(
        self, place: Workspace, prepared: Path, tmp_path: Path, existing: bool
    ) -> None:
        if existing:
            with pytest.raises(KeyboardInterrupt):
                run(place, batch_size=BATCH, progress=InterruptedAfter(1))
        # Where it will lie is known from a workspace that has it.
        other = run(Workspace(Path(shutil.copytree(prepared, tmp_path / "other"))), batch_size=BATCH).store
        kept = len(by_image(stores_of(place)[0])) if existing else 0
        with ExitStack() as lock:
            lock.enter_context(writer_lock(place.features_of("tiny") / Path(other).name))

            class Releasing(Ear):
                def note(self, message: str) -> None:
                    super().note(message)
                    lock.close()

            progress = Releasing()
            row = run(place, batch_size=BATCH, progress=progress)
        (note,) = progress.notes
        assert "is being written by process" in note
        assert "waiting until it has ended" in note
        assert (row.reused, row.embedded) == (kept, row.total - kept)
        assert_equal_to_the_bit(by_image(row.store), by_image(other))

    def test_whoever_waits_can_be_stopped(self, place: Workspace) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(place, batch_size=BATCH, progress=InterruptedAfter(1))
        (store,) = stores_of(place)

        class Stopped(Ear):
            def advance(self, count: int = 1) -> None:
                if count == 0:
                    raise KeyboardInterrupt

        before, progress = by_image(store), Stopped()
        with writer_lock(store), pytest.raises(KeyboardInterrupt):
            run(place, batch_size=BATCH, progress=progress)
        assert len(progress.notes) == 1
        assert_equal_to_the_bit(by_image(store), before)
        assert run(place, batch_size=BATCH).reused == len(before)

    def test_an_owner_that_died_is_named_once(self, place: Workspace) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(place, batch_size=BATCH, progress=InterruptedAfter(1))
        (store,) = stores_of(place)
        # What a process leaves that was killed: a lock that is free, and its name in it.
        (store / LOCK_FILE).write_text(json.dumps({"host": "elsewhere", "process": 77, "since": "2026-01-01"}))
        progress = Ear()
        run(place, batch_size=BATCH, progress=progress)
        (note,) = progress.notes
        assert "took over the store" in note
        assert "process 77 on elsewhere" in note
        assert (store / LOCK_FILE).read_text() == ""


@pytest.fixture(scope="module")
def expected(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """The rows of a run that was alone, by output."""
    alone = Workspace(Path(shutil.copytree(prepared, tmp_path_factory.mktemp("alone") / "workspace")))
    store = run(alone, SLOWER, batch_size=BATCH).store
    return {name: by_image(store, name) for name in FeatureStore.open(Path(store)).outputs}


def assert_finished(place: Workspace, expected: dict[str, Rows]) -> None:
    (store,) = stores_of(place, SLOWER)
    assert len(FeatureStore.open(store)) == len(images_of(place))
    for name, rows in expected.items():
        assert_equal_to_the_bit(by_image(store, name), rows)
    assert faults(store) == []


def read_until(process: Forked, part: str) -> str:
    """The first line on its stderr that has that part."""
    seen = []
    for line in process.stderr:
        if part in line:
            return line
        seen.append(line)
    raise AssertionError(f"no line has {part!r}: {''.join(seen)}")


def ended(process: Forked) -> dict[str, int]:
    """What it answered for its one backbone."""
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    (row,) = json.loads(stdout)["results"]
    return dict(row)


@contextmanager
def halted_in_its_midst(place: Workspace) -> Iterator[Forked]:
    """An extraction that has committed something and was stopped by SIGSTOP; killed at the end, if need be."""
    with extraction(place, "--json") as process:
        try:
            while committed(place) == 0 and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGSTOP)
            assert process.poll() is None
            assert 0 < committed(place) < len(images_of(place))
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_the_second_process_waits_says_so_and_finds_all_done(place: Workspace, expected: dict[str, Rows]) -> None:
    with halted_in_its_midst(place) as first, extraction(place, "--json") as second:
        note = read_until(second, "is being written by")
        assert note.startswith("note: ")
        assert f"process {first.pid} on " in note
        first.send_signal(signal.SIGCONT)
        rows = ended(first), ended(second)
    total = len(images_of(place))
    assert [(row["embedded"], row["reused"]) for row in rows] == [(total, 0), (0, total)]
    assert_finished(place, expected)


@pytest.mark.slow
def test_the_second_process_takes_over_from_one_that_was_killed_meanwhile(
    place: Workspace, expected: dict[str, Rows]
) -> None:
    with halted_in_its_midst(place) as first, extraction(place, "--json") as second:
        read_until(second, "is being written by")
        kept = committed(place)
        first.kill()
        note = read_until(second, "took over the store")
        assert f"process {first.pid} on " in note
        assert "what it had committed is kept" in note
        row = ended(second)
    assert (row["reused"], row["embedded"]) == (kept, len(images_of(place)) - kept)
    assert_finished(place, expected)


@pytest.mark.slow
def test_of_several_started_in_one_moment_each_row_is_stored_once(place: Workspace, expected: dict[str, Rows]) -> None:
    with ExitStack() as stack:
        running = [stack.enter_context(extraction(place, "--json")) for _ in range(3)]
        rows = [ended(each) for each in running]
    total = len(images_of(place))
    assert sorted((row["embedded"], row["reused"]) for row in rows) == [(0, total), (0, total), (total, 0)]
    assert_finished(place, expected)
