"""A file system that is really full, where one may be mounted: nothing is lost, and with space it goes on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_kit import BACKBONE, PATIENTS, invoke, rows_of

from stores.features import FeatureStore

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


def test_extracting_on_a_full_disk_and_going_on(disk: Path, raw: Path) -> None:
    place = ("--workspace", str(disk / "workspace"))
    enlarge(disk)
    assert invoke("prepare", "phantom", "--raw", str(raw), *place).code == 0
    words = ("extract", "phantom", "--backbone", BACKBONE, *place, "--json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peftbench.extraction.embed.COMMIT_SECONDS", 0.0)
        ballast(disk)
        assert "no space left" in invoke(*words, "--batch-size", "4").error
    (disk / "ballast").unlink()
    (row,) = rows_of(invoke(*words))
    assert row["embedded"] + row["reused"] == PATIENTS
    store = FeatureStore.open(Path(row["store"]))
    assert len(store) == PATIENTS
    assert store.damaged_blocks() == []


def ballast(disk: Path) -> None:
    """Fill the disk but for a few pages: room for a folder, not for a matrix."""
    free = os.statvfs(disk)
    size = free.f_bavail * free.f_frsize - 64 * 1024
    with (disk / "ballast").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, size)


def test_preparing_where_not_even_a_folder_fits(disk: Path, raw: Path) -> None:
    with (disk / "ballast").open("wb") as stream:
        free = os.statvfs(disk)
        os.posix_fallocate(stream.fileno(), 0, free.f_bavail * free.f_frsize)
    error = invoke("prepare", "phantom", "--raw", str(raw), "--workspace", str(disk / "workspace")).error
    assert "o space left" in error
    (disk / "ballast").unlink()
    enlarge(disk)
    assert invoke("prepare", "phantom", "--raw", str(raw), "--workspace", str(disk / "workspace")).code == 0
