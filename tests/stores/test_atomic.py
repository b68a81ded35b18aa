"""A file is there whole or not at all."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.atomic import write_atomic, write_parts


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    path.write_bytes(b"old")
    return path


def fail_in(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    home, name = {"flush": (os, "fsync"), "permissions": (os, "chmod"), "rename": (Path, "replace")}[step]
    monkeypatch.setattr(home, name, fail)


def test_text_is_written_as_utf8_and_bytes_as_they_are(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "grün")
    write_atomic(tmp_path / "b", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == "grün".encode()
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"


@pytest.mark.parametrize("step", ["flush", "permissions", "rename"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stop"])
def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(
    target: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    fail_in(monkeypatch, step, error)
    with pytest.raises(type(error)):
        write_atomic(target, b"new")
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_no_file_where_there_was_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_in(monkeypatch, "rename", OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "new", b"new")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


WITH_UMASK = """
import os, sys
os.umask(int(sys.argv[1]))
from pathlib import Path
from stores.atomic import write_atomic
write_atomic(Path(sys.argv[2]), b"for the group")
print(os.umask(0))
"""


@pytest.mark.parametrize(
    ("umask", "permissions"), [(0o022, 0o644), (0o002, 0o664), (0o027, 0o640), (0o077, 0o600), (0o000, 0o666)]
)
def test_permissions_follow_the_umask_of_the_process(tmp_path: Path, umask: int, permissions: int) -> None:
    command = [sys.executable, "-c", WITH_UMASK, str(umask), str(tmp_path / "shared")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == permissions
    assert int(done.stdout) == umask, "writing must not change the process's own umask"


def test_a_reader_sees_the_old_or_the_new_bytes_never_a_mixture(target: Path) -> None:
    payloads = [bytes([value]) * 200_000 for value in range(2)]
    write_atomic(target, payloads[0])
    writer = threading.Thread(target=lambda: [write_atomic(target, payloads[turn % 2]) for turn in range(40)])
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(target.read_bytes())
    writer.join()
    assert seen
    assert seen <= set(payloads)


def test_bytes_are_flushed_before_they_get_their_name_and_the_name_after(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def flush(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"file of {os.fstat(handle).st_size}")

    monkeypatch.setattr(os, "fsync", flush)
    original = Path.replace
    monkeypatch.setattr(Path, "replace", lambda one, other: done.append("name") or original(one, other))
    write_atomic(target, b"12345")
    assert done == ["file of 5", "name", "folder"]


PARTS = st.lists(st.binary(max_size=9) | st.integers(0, 9), max_size=6)


class TestParts:
    @given(parts=PARTS)
    def test_they_lie_one_behind_the_other_and_a_number_is_so_many_zeros(self, parts: list[Any]) -> None:
        with TemporaryDirectory() as scratch:
            write_parts(Path(scratch) / "file", parts)
            expected = b"".join(bytes(part) for part in parts)
            assert (Path(scratch) / "file").read_bytes() == expected

    def test_arrays_are_parts_as_well(self, tmp_path: Path) -> None:
        write_parts(tmp_path / "file", [np.arange(3, dtype=np.uint8), np.empty(0, dtype=np.uint8), b"end"])
        assert (tmp_path / "file").read_bytes() == b"\x00\x01\x02end"

    def test_zeros_take_no_room_on_the_disk(self, tmp_path: Path) -> None:
        write_parts(tmp_path / "file", [b"start", 50_000_000, b"end", 50_000_000])
        found = (tmp_path / "file").stat()
        assert found.st_size == 100_000_008
        assert found.st_blocks * 512 < 1_000_000

    def test_a_longer_file_that_was_there_leaves_nothing(self, target: Path) -> None:
        write_atomic(target, b"x" * 100)
        write_parts(target, [b"new", 2])
        assert target.read_bytes() == b"new\x00\x00"

    def test_a_write_that_the_system_cuts_in_two_is_continued(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = os.write
        monkeypatch.setattr(os, "write", lambda handle, data: original(handle, bytes(data)[:7]))
        write_parts(tmp_path / "file", [bytes(range(100)), 3, b"end"])
        monkeypatch.undo()
        assert (tmp_path / "file").read_bytes() == bytes(range(100)) + bytes(3) + b"end"

    @pytest.mark.parametrize("step", ["flush", "permissions", "rename"])
    def test_a_failure_leaves_the_old_file_and_nothing_else(
        self, target: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        fail_in(monkeypatch, step, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_parts(target, [b"new", 5])
        monkeypatch.undo()
        assert target.read_bytes() == b"old"
        assert list(target.parent.iterdir()) == [target]
