"""A file is there whole or not at all."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stores.atomic import write_atomic


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def _umask_restored() -> Iterator[None]:
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


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
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
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


@pytest.mark.usefixtures("_umask_restored")
@pytest.mark.parametrize(
    ("umask", "permissions"), [(0o022, 0o644), (0o002, 0o664), (0o027, 0o640), (0o077, 0o600), (0o000, 0o666)]
)
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, permissions: int) -> None:
    os.umask(umask)
    write_atomic(tmp_path / "shared", b"for the group")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == permissions
    assert os.umask(umask) == umask, "writing must not change the process's own umask"


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
