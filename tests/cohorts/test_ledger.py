"""What was read is not read again; what changed is; and losing the ledger, or the process, costs nothing but time."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from forking import fork
from hannover_kit import ROWS, Row, image_file, picture, write_hannover
from PIL import Image

from peftbench.cohorts import crew
from peftbench.cohorts.prepare import prepare
from peftbench.imaging import reading
from peftbench.imaging.policy import PixelPolicy
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.workspace import Workspace
from stores.images import SHARD_ROWS, ImageStore

pytestmark = pytest.mark.slow

YESTERDAY = time.time_ns() - 86_400 * 10**9
ALL = sorted(row.image for row in ROWS)


def age(raw: Path) -> Path:
    """As of yesterday: what changed a moment ago is not trusted yet."""
    for path in raw.rglob("*.*"):
        os.utime(path, ns=(YESTERDAY, YESTERDAY))
    return raw


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return age(write_hannover(tmp_path / "raw"))


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stems of the image files whose bytes are read, as it happens."""
    names: list[str] = []
    original = reading.read_bytes

    def noting(path: Path) -> bytes:
        names.append(path.stem)
        return original(path)

    monkeypatch.setattr(reading, "read_bytes", noting)
    return names


def frame_of(place: Workspace) -> pd.DataFrame:
    return Manifest.read("hannover", place.manifest("hannover")).frame


def read_again(raw: Path, place: Workspace, opened: list[str], *, reread: bool = False) -> list[str]:
    opened.clear()
    prepare("hannover", raw, workspace=place, reread=reread)
    return sorted(opened)


def test_the_second_time_no_file_is_opened(raw: Path, place: Workspace, opened: list[str]) -> None:
    assert read_again(raw, place, opened) == ALL
    before = place.manifest("hannover").read_bytes()
    assert read_again(raw, place, opened) == []
    assert place.manifest("hannover").read_bytes() == before


def test_with_reread_every_file_is(raw: Path, place: Workspace, opened: list[str]) -> None:
    prepare("hannover", raw, workspace=place)
    assert read_again(raw, place, opened, reread=True) == ALL
    assert read_again(raw, place, opened) == []


def test_a_change_that_keeps_size_and_time_is_seen_by_reread_alone(
    raw: Path, place: Workspace, opened: list[str]
) -> None:
    path = image_file(raw, "b0000003")
    Image.fromarray(picture(2)).save(path, "BMP")
    age(raw)
    prepare("hannover", raw, workspace=place)
    before = frame_of(place)
    Image.fromarray(picture(3)).save(path, "BMP")
    age(raw)
    assert read_again(raw, place, opened) == []
    assert read_again(raw, place, opened, reread=True) == ALL
    assert (frame_of(place)["image_digest"] != before["image_digest"]).sum() == 1


@pytest.mark.parametrize("back", [1, -1], ids=["later", "earlier"])
def test_a_file_of_the_same_size_and_another_time_is_read_again(
    raw: Path, place: Workspace, opened: list[str], back: int
) -> None:
    path = image_file(raw, "b0000003")
    Image.fromarray(picture(2)).save(path, "BMP")
    age(raw)
    prepare("hannover", raw, workspace=place)
    before = frame_of(place)
    Image.fromarray(picture(3)).save(path, "BMP")
    os.utime(path, ns=(YESTERDAY, YESTERDAY + back * 10**9))
    assert read_again(raw, place, opened) == ["b0000003"]
    assert (frame_of(place)["file_digest"] != before["file_digest"]).sum() == 1
    assert read_again(raw, place, opened) == []


def test_a_file_that_changed_a_moment_ago_is_not_trusted(raw: Path, place: Workspace, opened: list[str]) -> None:
    image_file(raw, "b0000003").touch()
    prepare("hannover", raw, workspace=place)
    assert read_again(raw, place, opened) == ["b0000003"]


def test_another_policy_decodes_again_what_the_ledger_knows(raw: Path, place: Workspace, opened: list[str]) -> None:
    prepare("hannover", raw, workspace=place)
    opened.clear()
    prepare("hannover", raw, workspace=place, side=32)
    assert sorted(opened) == ALL


def test_an_image_store_that_was_deleted_is_made_again(raw: Path, place: Workspace, opened: list[str]) -> None:
    import shutil

    prepare("hannover", raw, workspace=place)
    shutil.rmtree(place.cohort("hannover") / "images")
    assert read_again(raw, place, opened) == ALL


def other_columns(path: Path) -> None:
    pd.DataFrame({"file": ["x"], "size": [None], "mtime_ns": ["y"], "digest": [1]}).to_parquet(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "lost": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "another table": lambda path: pd.DataFrame({"a": [1]}).to_parquet(path),
    "other types": other_columns,
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(999)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_ledger_that_is_lost_or_damaged_costs_one_reading(
    raw: Path, place: Workspace, opened: list[str], damage: str
) -> None:
    prepare("hannover", raw, workspace=place)
    before = place.manifest("hannover").read_bytes()
    DAMAGES[damage](place.ledger("hannover"))
    assert read_again(raw, place, opened) == ALL
    assert place.manifest("hannover").read_bytes() == before
    assert read_again(raw, place, opened) == []


def test_a_file_that_cannot_be_decoded_is_tried_again(raw: Path, place: Workspace, opened: list[str]) -> None:
    image_file(raw, "b0000003").write_bytes(b"no picture")
    age(raw)
    assert prepare("hannover", raw, workspace=place).images == len(ROWS) - 1
    assert read_again(raw, place, opened) == ["b0000003"]


FILES = 300

SLOWLY = """
import sys, time
from peftbench.imaging import reading
original = reading.canonical_pixels
def slow(*words):
    time.sleep(0.01)
    return original(*words)
reading.canonical_pixels = slow
from peftbench.cohorts import crew
crew.FEW = 10**6
crew.Crew.map.__defaults__ = (10**6,)
import peftbench
print("begun", flush=True)
peftbench.prepare("hannover", sys.argv[1], workspace=sys.argv[2])
"""
"""Within one process, on a machine of which a hundred pictures a second is much."""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [Row(f"aa{number // 3:06d}", f"b{number:07d}", str(-number)) for number in range(FILES)]
    return age(write_hannover(tmp_path_factory.mktemp("many") / "raw", rows))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_killed_run_is_taken_up_where_it_stood(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    place = Workspace(tmp_path / "workspace")
    store = place.images("hannover", PixelPolicy().digest)
    with fork(SLOWLY, str(many), str(place.root)) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and stored(store) < 2 * SHARD_ROWS:
            time.sleep(0.02)
        process.send_signal(number)
        process.wait(60)
    kept = stored(store)
    assert 2 * SHARD_ROWS <= kept < FILES
    assert not place.manifest("hannover").exists()
    decoded = []
    original = reading.canonical_pixels
    monkeypatch.setattr(reading, "canonical_pixels", lambda *all: (decoded.append(1), original(*all))[1])
    monkeypatch.setattr(crew.Crew.map, "__defaults__", (10**6,))
    prepare("hannover", many, workspace=place)
    # A kill between pictures and the table that names their sources costs one shard more.
    assert FILES - kept <= len(decoded) <= FILES - kept + SHARD_ROWS
    assert stored(store) == frame_of(place)["image_digest"].nunique()
    prepare("hannover", many, workspace=tmp_path / "undisturbed")
    assert frame_of(place).equals(frame_of(Workspace(tmp_path / "undisturbed")))


def stored(store: Path) -> int:
    try:
        return len(ImageStore.open(store))
    except (OSError, LookupError, ValueError):
        return 0


@pytest.mark.slow
def test_while_one_run_decodes_another_waits_and_both_are_right(many: Path, tmp_path: Path) -> None:
    runs = [fork(SLOWLY, str(many), str(tmp_path / "workspace")) for _ in range(2)]
    for each in runs:
        _, stderr = each.communicate(timeout=120)
        assert each.returncode == 0, stderr
    place = Workspace(tmp_path / "workspace")
    assert len(frame_of(place)) == FILES
    assert stored(place.images("hannover", PixelPolicy().digest)) == frame_of(place)["image_digest"].nunique()
