"""Several devices: a process each, one store, and the bits of a single device, whatever happens to a process."""

import multiprocessing
import os
import shutil
import signal
import time
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from extraction_kit import BATCH, TinyLoader, assert_equal_to_the_bit, by_image, faults, images_of, run, stores_of
from forking import fork
from hypothesis import given
from hypothesis import strategies as st
from progress_kit import Ear

from peftbench.errors import DeviceError
from peftbench.extraction.extract import open_pictures
from peftbench.extraction.several import parts_of
from peftbench.protocol.workspace import Workspace
from stores.images import SHARD_ROWS

pytestmark = pytest.mark.slow

TWO = "cpu,cpu"

Rows = dict[str, npt.NDArray[np.floating]]


def extracting() -> list[BaseProcess]:
    """Processes that this one has started, but for those that joblib keeps for whoever asks it next."""
    return [each for each in multiprocessing.active_children() if not each.name.startswith("Loky")]


class Numbered:
    """As much of an image store as the division needs: images are called by their row."""

    def rows_of(self, images: list[str]) -> npt.NDArray[np.int64]:
        return np.array([int(image) for image in images], dtype=np.int64)


class TestParts:
    @given(st.lists(st.integers(0, 5000), unique=True, max_size=60), st.integers(1, 8))
    def test_every_image_is_in_one_part_and_parts_are_neighbours(self, rows: list[int], count: int) -> None:
        parts = parts_of(Numbered(), [str(row) for row in rows], count)  # type: ignore[arg-type]
        assert len(parts) == count
        assert [int(image) for part in parts for image in part] == sorted(rows)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1

    @given(st.integers(1, 5), st.integers(0, 300), st.data())
    def test_many_are_cut_where_a_file_begins(self, count: int, more: int, data: st.DataObject) -> None:
        needed = count * SHARD_ROWS * 4 + more
        lacking = data.draw(st.sets(st.integers(0, needed + 200), max_size=200))
        rows = [row for row in range(needed + 201) if row not in lacking]
        parts = parts_of(Numbered(), [str(row) for row in reversed(rows)], count)  # type: ignore[arg-type]
        assert [int(image) for part in parts for image in part] == rows
        for before, after in pairwise(parts):
            assert int(before[-1]) // SHARD_ROWS < int(after[0]) // SHARD_ROWS
        assert all(abs(len(part) - len(rows) / count) <= SHARD_ROWS + 1 for part in parts)

    def test_where_there_are_few_some_have_none(self) -> None:
        parts = parts_of(Numbered(), ["7", "3"], 4)  # type: ignore[arg-type]
        assert sorted(len(part) for part in parts) == [0, 0, 1, 1]


class Hearing(Ear):
    """Does something when the first batch has arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[str] = []
        self.crew: list[BaseProcess] = []

    def start(self, label: str, total: int) -> None:
        super().start(label, total)
        self.labels.append(label)

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        if count and self.labels[-1].startswith("embedding") and not self.crew:
            self.crew = extracting()
            self.first()

    def first(self) -> None:
        pass


class Interrupting(Hearing):
    def first(self) -> None:
        raise KeyboardInterrupt


class Killing(Hearing):
    """Reads nothing for a while, so that both stand in the midst of a message, and then kills some."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def first(self) -> None:
        time.sleep(1)
        for process in self.crew[: self.count]:
            os.kill(process.pid or 0, signal.SIGKILL)


@pytest.fixture(scope="module")
def alone(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(Path(shutil.copytree(prepared, tmp_path_factory.mktemp("alone") / "workspace")))


def assert_finished_on_one(place: Workspace, alone: Workspace, backbone: str, kept: Rows) -> None:
    """Assert that what had arrived is kept, and that one device embeds the rest, to the bit."""
    assert extracting() == []
    row = run(place, backbone, batch_size=BATCH)
    assert (row.reused, row.embedded) == (len(kept), row.total - len(kept))
    assert_equal_to_the_bit(by_image(row.store), by_image(run(alone, backbone, batch_size=BATCH).store))
    assert faults(row.store) == []


@pytest.mark.timeout(120)
def test_two_processes_make_the_store_that_one_device_makes(place: Workspace, alone: Workspace) -> None:
    hearing = Hearing()
    row = run(place, device=TWO, batch_size=BATCH, progress=hearing)
    assert len(hearing.crew) == 2
    assert extracting() == []
    assert hearing.labels[-1] == "embedding phantom with Tiny (fp32, cpu, cpu)"
    assert (row.embedded, row.reused, hearing.done) == (row.total, 0, row.total + 1)
    expected = run(alone, batch_size=BATCH)
    assert Path(row.store).name == Path(expected.store).name
    for name in ("embedding", "stages"):
        assert_equal_to_the_bit(by_image(row.store, name), by_image(expected.store, name))
    assert faults(row.store) == []
    assert run(place, device=TWO, batch_size=BATCH).reused == row.total


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("count", [1, 2])
def test_a_process_that_is_killed_ends_it_and_what_had_arrived_is_kept(
    place: Workspace, alone: Workspace, count: int
) -> None:
    with pytest.raises(DeviceError, match=r"process on cpu ended with -9 and said nothing.*run the same command again"):
        run(place, "wide", device=TWO, batch_size=BATCH, progress=Killing(count))
    kept = by_image(stores_of(place, "wide")[0])
    assert 0 < len(kept) < len(images_of(place))
    assert_finished_on_one(place, alone, "wide", kept)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_process_that_fails_says_why_and_the_other_one_ends(
    place: Workspace, alone: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network other than this process has: the others load it anew."""
    with monkeypatch.context() as patch:
        patch.setattr(TinyLoader, "gain", 2.0)
        with pytest.raises(DeviceError, match=r"process on cpu failed: its weights are others than a moment ago"):
            run(place, device=TWO, batch_size=BATCH)
        assert by_image(stores_of(place)[0]) == {}
    assert_finished_on_one(place, alone, "tiny", {})


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_damaged_picture_ends_it_and_is_named(place: Workspace) -> None:
    pictures = open_pictures(place, "phantom")
    (shard,) = (pictures.tables[0].folder / "pixels").glob("c.*")
    content = bytearray(shard.read_bytes())
    # Of the last rows, which are the second process's.
    content[-2000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DeviceError, match=r"process on cpu failed: .*pixels"):
        run(place, device=TWO, batch_size=BATCH)
    assert extracting() == []
    assert len(by_image(stores_of(place)[0])) < len(images_of(place))


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_interrupted_it_leaves_no_process_even_while_the_error_is_held(place: Workspace, alone: Workspace) -> None:
    interrupting = Interrupting()
    with pytest.raises(KeyboardInterrupt) as held:
        run(place, "wide", device=TWO, batch_size=BATCH, progress=interrupting)
    assert held.traceback
    assert [each.is_alive() for each in interrupting.crew] == [False, False]
    kept = by_image(stores_of(place, "wide")[0])
    assert len(kept) == BATCH
    assert_finished_on_one(place, alone, "wide", kept)


def test_who_waits_for_the_first_batch_can_be_stopped(place: Workspace) -> None:
    class Impatient(Hearing):
        def advance(self, count: int = 1) -> None:
            if count == 0:
                self.crew = extracting()
                raise KeyboardInterrupt

    impatient = Impatient()
    with pytest.raises(KeyboardInterrupt):
        run(place, device=TWO, batch_size=BATCH, progress=impatient)
    assert [each.is_alive() for each in impatient.crew] == [False, False]
    assert by_image(stores_of(place)[0]) == {}


STANDING_STILL = """
import multiprocessing, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from extraction_kit import WIDE, run
from peftbench.backbones.registry import CARDS
from peftbench.protocol.workspace import Workspace

class Standing:
    def start(self, label, total): self.embedding = label.startswith("embedding")
    def advance(self, count=1):
        if self.embedding and count:
            print(*(each.pid for each in multiprocessing.active_children()), flush=True)
            time.sleep(120)
    def note(self, message): pass

CARDS["wide"] = WIDE
run(Workspace(Path(sys.argv[1])), "wide", device="cpu,cpu", batch_size=3, progress=Standing())
"""
"""A process that reads one batch and then no more."""


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_killed_it_leaves_no_process_that_goes_on(place: Workspace) -> None:
    with fork(STANDING_STILL, str(place.root), str(Path(__file__).parent)) as process:
        crew = [int(number) for number in process.stdout.readline().split()]
        assert [is_running(each) for each in crew] == [True, True]
        time.sleep(1)
        process.kill()
    until = time.monotonic() + 20
    while any(is_running(each) for each in crew) and time.monotonic() < until:
        time.sleep(0.1)
    left = [each for each in crew if is_running(each)]
    for each in left:
        os.kill(each, signal.SIGKILL)
    assert left == []


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_ctrl_c_in_the_terminal_reaches_all_and_is_one_sentence(place: Workspace) -> None:
    words = ["extract", "phantom", "--backbone", "resnet18@random:0", "--device", TWO, "--batch-size", "2"]
    program = "import os; os.setsid(); from cli.main import main; main()"
    with fork(program, *words, "--workspace", str(place.root)) as process:
        for line in process.stderr:
            if line.startswith("embedding phantom"):
                break
        # The others are still importing.
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(20) == 130
    assert rest.splitlines() == ["interrupted: what was finished is kept; run the same command again to go on"]
