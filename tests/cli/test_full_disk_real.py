"""A file system that is really full, where one may be mounted: nothing is lost, and with space it goes on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from cli_kit import BACKBONE, PATIENTS, Done, faults, invoke, rows_of

from peftbench.extraction import embed
from stores.features import FeatureStore
from stores.lock import LOCK_FILE
from stores.repair import repair

pytestmark = pytest.mark.slow


def mount(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", "-t", "tmpfs", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = mount("-o", "size=2m", "tmpfs", str(folder))
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def enlarge(disk: Path) -> None:
    done = mount("-o", "remount,size=200m", "tmpfs", str(disk))
    assert done.returncode == 0, done.stderr


def test_preparing_on_a_full_disk(disk: Path, raw: Path) -> None:
    words = ("prepare", "phantom", "--raw", str(raw), "--workspace", str(disk / "workspace"), "--json")
    error = invoke(*words).error
    assert "no space left" in error
    assert not (disk / "workspace" / "cohorts" / "phantom" / "manifest.parquet").exists()
    enlarge(disk)
    assert invoke(*words).answer["images"] == PATIENTS


def ballast(disk: Path, pages: int = 16) -> None:
    """Fill the disk but for a few pages of 4 KiB: room for a folder, not for a matrix."""
    free = os.statvfs(disk)
    size = free.f_bavail * free.f_frsize - pages * 4096
    with (disk / "ballast").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, size)


def refused(done: Done) -> str:
    """The error, after checking that it is one sentence that says what is kept and what to do."""
    error = done.error
    assert "no space left" in error
    assert "what was committed is kept; free some space" in error
    return error


def store_of(disk: Path) -> Path:
    (store,) = (disk / "workspace" / "features" / "resnet18-random-0").iterdir()
    return store


def prepared(disk: Path, raw: Path) -> tuple[str, ...]:
    """Prepare on a disk with room; answers the words of the extraction that is to follow."""
    enlarge(disk)
    place = ("--workspace", str(disk / "workspace"))
    assert invoke("prepare", "phantom", "--raw", str(raw), *place).code == 0
    return ("extract", "phantom", "--backbone", BACKBONE, *place, "--json")


def outputs_of(store: Path) -> dict[str, dict[str, np.ndarray]]:
    opened = FeatureStore.open(store)
    return {name: dict(zip(opened.images, opened.load(output=name).matrix, strict=True)) for name in opened.outputs}


def assert_equal(found: dict[str, dict[str, np.ndarray]], expected: dict[str, dict[str, np.ndarray]]) -> None:
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert found[name].keys() == rows.keys()
        for image, row in rows.items():
            np.testing.assert_array_equal(found[name][image], row)


def test_extracting_on_a_full_disk_and_going_on(disk: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*prepared(disk, raw), "--batch-size", "4")
    expected = outputs_of(Path(rows_of(invoke(*words))[0]["store"]))
    shutil.rmtree(disk / "workspace" / "features")
    monkeypatch.setattr("peftbench.extraction.embed.COMMIT_SECONDS", 0.0)
    ballast(disk)
    refused(invoke(*words))
    if (store_of(disk) / "commit.json").exists():
        assert faults(store_of(disk)) == []
    (disk / "ballast").unlink()
    (row,) = rows_of(invoke(*words))
    assert row["embedded"] + row["reused"] == PATIENTS
    assert faults(store_of(disk)) == []
    assert_equal(outputs_of(store_of(disk)), expected)


@pytest.mark.parametrize("pages", [0, 1, 4, 8, 13, 18])
def test_a_disk_that_fills_up_in_the_midst_of_an_append(
    disk: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """Some rows are committed; then there is room for so many more pages, which ends in one file or another."""
    words = (*prepared(disk, raw), "--batch-size", "4")
    monkeypatch.setattr("peftbench.extraction.embed.COMMIT_SECONDS", 0.0)
    original, left = FeatureStore.append, iter(range(2))

    def filling(self: FeatureStore, images: Sequence[str], outputs: embed.Outputs) -> None:
        if next(left, None) is None and not (disk / "ballast").exists():
            ballast(disk, pages)
        original(self, images, outputs)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "append", filling)
        refused(invoke(*words))
    kept = outputs_of(store_of(disk))
    assert len(kept["embedding"]) in {8, 12, 16}
    assert [fault for fault in faults(store_of(disk)) if fault.rows] == [], "no row is lost"
    (disk / "ballast").unlink()
    (row,) = rows_of(invoke(*words))
    assert (row["reused"], row["embedded"]) == (len(kept["embedding"]), PATIENTS - len(kept["embedding"]))
    assert faults(store_of(disk)) == []
    after = outputs_of(store_of(disk))
    assert_equal({name: {image: after[name][image] for image in rows} for name, rows in kept.items()}, kept)


@pytest.mark.parametrize("pages", [0, 4, 16])
def test_a_repair_on_a_full_disk_leaves_the_damaged_store_as_it_was(disk: Path, raw: Path, pages: int) -> None:
    words = prepared(disk, raw)
    store = Path(rows_of(invoke(*words))[0]["store"])
    before = outputs_of(store)
    chunk = store / "stages" / "c.0.0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    damaged = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != LOCK_FILE}
    found = faults(store)
    assert len(found) == 1

    ballast(disk, pages)
    with pytest.raises(OSError, match="No space left"):
        repair(store)
    assert {path: path.read_bytes() for path in damaged} == damaged
    assert faults(store) == found
    (disk / "ballast").unlink()

    (done,) = repair(store)
    assert (done.kept, done.dropped) == (PATIENTS - 1, 1)
    assert [path.name for path in store.parent.iterdir()] == [store.name], "nothing of the first try is left"
    assert faults(store) == []
    (row,) = rows_of(invoke(*words))
    assert (row["reused"], row["embedded"]) == (PATIENTS - 1, 1)
    assert_equal(outputs_of(store), before)


def test_preparing_where_not_even_a_folder_fits(disk: Path, raw: Path) -> None:
    with (disk / "ballast").open("wb") as stream:
        free = os.statvfs(disk)
        os.posix_fallocate(stream.fileno(), 0, free.f_bavail * free.f_frsize)
    error = invoke("prepare", "phantom", "--raw", str(raw), "--workspace", str(disk / "workspace")).error
    assert "o space left" in error
    (disk / "ballast").unlink()
    enlarge(disk)
    assert invoke("prepare", "phantom", "--raw", str(raw), "--workspace", str(disk / "workspace")).code == 0
