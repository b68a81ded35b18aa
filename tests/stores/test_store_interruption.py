"""An append that does not end leaves the store as it was, whenever and however it is cut short."""

import os
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores_kit import (
    DIM,
    RECIPE,
    SHAPES,
    PowerCutError,
    add_pictures,
    append,
    cut_before,
    faults,
    filled,
    filled_images,
    holds_exactly,
    holds_pictures,
    images,
    killed_at,
    outputs,
)

from stores import rows
from stores.atomic import SCRATCH_SUFFIX
from stores.features import FeatureStore
from stores.images import ImageStore

KILLS = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path / "features", 700, 1000).folder


class TestInterruptedAppend:
    """1,500 rows are offered, of which the first 24 share a chunk with committed rows."""

    @pytest.mark.parametrize("following", [1001, 1024, 2000, 2500, 3000])
    def test_rows_without_a_commit_are_invisible_and_overwritten(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, following: int
    ) -> None:
        with monkeypatch.context() as patch:
            cut_before(patch, [(rows.Commit, "write")], 0, PowerCutError())
            with pytest.raises(PowerCutError):
                append(folder, 5000, 6500)
        holds_exactly(folder, 1000)
        append(folder, 1000, following)
        holds_exactly(folder, following)

    def test_what_an_interrupted_append_left_is_no_damage(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            cut_before(patch, [(rows.Commit, "write")], 0, PowerCutError())
            with pytest.raises(PowerCutError):
                append(folder, 1000, 2500)
        assert (folder / "embedding" / "c.2.0").exists()
        assert faults(folder, deep=False) == faults(folder, deep=True) == []

    @pytest.mark.slow
    def test_a_process_killed_at_any_step_leaves_what_it_had_committed(self, tmp_path: Path) -> None:
        before = filled(tmp_path / "before", 20).folder
        folder = tmp_path / "features"
        seen = set()
        for turn in count(0, 2):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(before, folder)
            with pytest.MonkeyPatch.context() as patch:
                killed = killed_at(turn, lambda: append(folder, 20, 1100), patch)
            seen.add(len(FeatureStore.open(folder)))
            FeatureStore.create(folder, RECIPE, SHAPES)
            holds_exactly(folder, max(seen))
            append(folder, 0, 1200)
            holds_exactly(folder, 1200)
            if not killed:
                break
        assert turn > 15
        assert seen == {20, 1100}

    @pytest.mark.slow
    def test_a_full_disk_at_any_file_leaves_the_committed_rows(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counts = []
        for turn in count():
            with monkeypatch.context() as patch:
                cut_before(patch, [(Path, "replace")], turn, OSError(28, "No space left on device"))
                try:
                    append(folder, 1000, 2500)
                except OSError:
                    pass
                else:
                    break
            counts.append(len(FeatureStore.open(folder)))
            if counts[-1] > 1000:
                shutil.rmtree(folder)
                filled(folder, 1000)
            assert not list(folder.rglob(f"*{SCRATCH_SUFFIX}"))
        # Two outputs of three chunks each, digests and checksums; the commit record; then the shapes of all.
        assert counts == [1000] * 9 + [2500] * 5
        holds_exactly(folder, 2500)

    def test_files_that_were_never_finished_are_removed_by_the_next_writer(self, folder: Path) -> None:
        left = [folder / name / f".c.0.0.abc{SCRATCH_SUFFIX}" for name in (*SHAPES, "image", "checksum")]
        mine = folder / "embedding" / f"notes{SCRATCH_SUFFIX}"
        for path in (*left, mine):
            path.write_bytes(b"rest")
        holds_exactly(folder, 1000)
        assert all(path.exists() for path in left), "who reads removes nothing"
        append(folder, 1000, 1001)
        assert [path for path in (*left, mine) if path.exists()] == [mine]
        holds_exactly(folder, 1001)

    def test_the_same_instance_goes_on_after_a_failure(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = FeatureStore.open(folder)
        with monkeypatch.context() as patch:
            cut_before(patch, [(rows.Commit, "write")], 0, OSError(28, "No space left on device"))
            with pytest.raises(OSError, match="No space left"):
                store.append(images(1000, 1100), outputs(1000, 1100))
        assert store.missing(images(999, 1001)) == images(1000, 1001)
        assert store.append(images(1000, 1100), outputs(1000, 1100)) == 100
        holds_exactly(folder, 1100)

    def test_the_same_instance_knows_what_was_committed_before_a_failure(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = FeatureStore.open(folder)
        with monkeypatch.context() as patch:
            cut_before(patch, [(rows, "publish")], 0, OSError(28, "No space left on device"))
            with pytest.raises(OSError, match="No space left"):
                store.append(images(1000, 1100), outputs(1000, 1100))
        assert store.missing(images(0, 1100)) == []
        assert store.append(images(1000, 1100), outputs(1000, 1100)) == 0
        holds_exactly(folder, 1100)

    @pytest.mark.slow
    def test_a_store_whose_making_was_cut_short_is_made_again(self, tmp_path: Path) -> None:
        for turn in count():
            folder = tmp_path / f"features-{turn}"
            with pytest.MonkeyPatch.context() as patch:
                killed = killed_at(turn, lambda: FeatureStore.create(folder, RECIPE, SHAPES), patch)  # noqa: B023
            filled(folder, 5)
            holds_exactly(folder, 5)
            if not killed:
                break
        assert turn > 10

    @pytest.mark.slow
    def test_pictures_killed_at_any_step_are_there_or_are_decoded_again(self, tmp_path: Path) -> None:
        before = filled_images(tmp_path / "before", 5).folder
        folder = tmp_path / "images"
        for turn in count(0, 3):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(before, folder)
            with pytest.MonkeyPatch.context() as patch:
                killed = killed_at(turn, lambda: add_pictures(ImageStore.open(folder), 5, 70), patch)
            store = ImageStore.open(folder)
            assert len(store) in {5, 70}
            assert len(store.known_sources) in {5, len(store)}
            add_pictures(store, 0, 70)
            holds_pictures(folder, range(70))
            if not killed:
                break
        assert turn > 15


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what a descriptor is of is asked of Linux")
def test_rows_are_on_the_device_before_the_commit_record_names_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []

    def flush(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        done.append(("flushed", path.relative_to(folder).as_posix()))

    def rename(path: Path, target: Path) -> Any:
        scratch, name = path.relative_to(folder).as_posix(), target.relative_to(folder).as_posix()
        assert ("flushed", scratch) in done, "a file is on the device before it gets its name"
        done.append(("named", name))
        return os.replace(path, target)  # noqa: PTH105 - what is patched

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    append(folder, 1000, 2500)
    commit = done.index(("named", "commit.json"))
    chunks = {f"embedding/c.{number}.0" for number in range(3)} | {f"blocks/c.{number}.0.0" for number in range(3)}
    chunks |= {"image/c.0.0", "checksum/c.0.0"}
    assert {name for what, name in done[:commit] if what == "named"} == chunks
    folders = [done.index(("flushed", name)) for name in (*SHAPES, "image", "checksum")]
    assert max(index for index, (what, _) in enumerate(done[:commit]) if what == "named") < min(folders)
    assert max(folders) < commit
    assert ("flushed", ".") in done[commit:]
    after = [name for what, name in done[commit + 1 :] if what == "named"]
    assert sorted(after) == [
        "blocks/zarr.json",
        "checksum/zarr.json",
        "embedding/zarr.json",
        "image/zarr.json",
        "zarr.json",
    ]
    assert after[-1] == "zarr.json", "what most readers go by comes last"


FILE_LIMIT = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from stores_kit import images, outputs
from stores.features import FeatureStore
store = FeatureStore.open(Path(sys.argv[1]))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
try:
    store.append(images(1000, 2500), outputs(1000, 2500))
except OSError as error:
    print(error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.append(images(1000, 1200), outputs(1000, 1200))
"""


@pytest.mark.slow
def test_a_file_that_may_not_grow_leaves_the_store_valid(folder: Path) -> None:
    assert 1024 * 32 + 4 < 40_000 < 2500 * 32, "digests exceed the limit, so the append fails in its last array but one"
    assert 1024 * 4 * DIM < 40_000
    command = [sys.executable, "-c", FILE_LIMIT, str(folder), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "27", "EFBIG"
    holds_exactly(folder, 1200)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from stores_kit import images, outputs
from stores.features import FeatureStore
store = FeatureStore.open(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    start = len(store)
    stop = start + 1 + start * 7919 % 300
    store.append(images(start, stop), outputs(start, stop))
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
        FeatureStore.create(folder, RECIPE, SHAPES)
        holds_exactly(folder, found)
        committed = found
    assert committed > 3
