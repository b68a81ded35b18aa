"""Files that are there whole or not at all.

`write_atomic` writes beside the target, flushes to the device and renames. POSIX makes the rename atomic: a
reader sees the old bytes or the new ones. A crash before the rename leaves the old file and a stray
`.<name>.<random>.part`, which nothing reads (in a store, its next writer and `peftbench store prune` remove it). The
directory is flushed after the rename, so that the new name survives a power cut as well. The price is two fsync calls,
some milliseconds each: right for commit records, tables and chunks of megabytes, wrong for thousands of small files.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCRATCH_SUFFIX = ".part"
"""Of a file that was never finished, if it is still there when nobody writes."""


def write_atomic(path: Path, *parts: Any) -> None:
    """Replace `path` by texts or bytes-like objects one behind the other, all or nothing.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched then.
    """
    write_parts(path, [part.encode() if isinstance(part, str) else part for part in parts])
    sync_folder(path.parent)


def write_parts(path: Path, parts: Sequence[Any]) -> None:
    """Replace `path` by parts one behind the other, all or nothing; the folder's entry is not flushed.

    Args:
        path: of the file.
        parts: bytes-like objects; a number stands for so many zero bytes, which take no room on the disk.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched then.
    """
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", suffix=SCRATCH_SUFFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb", buffering=0) as stream:
            for part in parts:
                if isinstance(part, int):
                    stream.seek(part, os.SEEK_CUR)
                else:
                    _write_all(stream.fileno(), part)
            stream.truncate()
            os.fsync(stream.fileno())
        os.chmod(scratch, 0o666 & ~_UMASK)  # noqa: PTH101 - mkstemp's 0600 would hide results from a group
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _write_all(handle: int, data: Any) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def sync_file(path: Path) -> None:
    """Flush one file to the device."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries (names) to the device; file systems that cannot are let be."""
    try:
        sync_file(path)
    except OSError:
        return


def _read_umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


# Read once: asking means setting, which another thread that makes a file at that moment would notice.
_UMASK = _read_umask()
