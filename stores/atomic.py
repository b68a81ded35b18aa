"""Files that are there whole or not at all.

`write_atomic` writes beside the target, flushes to the device and renames. POSIX makes the rename atomic: a
reader sees the old bytes or the new ones. A crash before the rename leaves the old file and a stray
`.<name>.<random>.part`, which nothing reads. The directory is flushed after the rename, so that the new name
survives a power cut as well. The price is two fsync calls, some milliseconds each: right for commit records
and tables, wrong for thousands of small files.
"""

import os
import tempfile
from pathlib import Path


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data`, all or nothing.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched then.
    """
    payload = data.encode() if isinstance(data, str) else data
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(scratch, 0o666 & ~_umask())  # noqa: PTH101 - mkstemp's 0600 would hide results from a group
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


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


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
