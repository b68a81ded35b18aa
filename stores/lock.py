"""One writer a store.

The lock is the kernel's (`flock`): it ends with the process that holds it, however that process ends, so a dead
owner leaves nothing to clean up. The file's text names the owner for whoever has to wait; an owner that ends as it
should wipes it out, so text in a free lock tells that its owner died, and the next one says so.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stores.errors import StoreError, StoreLockedError, StoreNotFoundError

LOCK_FILE = "writer.lock"


@dataclass(frozen=True)
class Wait:
    """What to do about another writer.

    Attributes:
        told: hears that this process waits, and that it took over from one that died.
        turn: is called between two tries; raises to give up.
        seconds: to wait at most; None is for as long as it takes.
        pause: seconds between two tries.
    """

    told: Callable[[str], None]
    turn: Callable[[], None] | None = None
    seconds: float | None = None
    pause: float = 0.5


@contextmanager
def writer_lock(folder: Path, wait: Wait | None = None, *, make: bool = True) -> Iterator[None]:
    """Hold the right to write below `folder`, for as long as the block runs.

    Args:
        folder: of the store.
        wait: what to do while another process holds it; by default it is an error at once.
        make: whether to make the folder if need be.

    Raises:
        StoreLockedError: another process holds it; the message names that process.
        StoreNotFoundError: there is no such folder.
        StoreError: the file system has no locks.
    """
    handle = _acquire(folder, wait, make=make)
    try:
        _take_over(handle, folder, wait)
        yield
    finally:
        try:
            # Failed is not died: there is nothing to take over.
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)


def is_locked(folder: Path) -> str:
    """Who is writing below `folder` at this moment; empty where nobody is."""
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return ""
    try:
        # Trying a lock holds it for a moment, in which a writer would be refused. One without text is free.
        if not os.fstat(handle).st_size or _try(handle, folder, fcntl.LOCK_SH):
            return ""
        return _owner(folder)
    finally:
        os.close(handle)


def _acquire(folder: Path, wait: Wait | None, *, make: bool) -> int:
    start, said = time.monotonic(), False
    while True:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError as error:
            # A repair takes a store away for a moment. A folder made here would be in its successor's way.
            raise StoreNotFoundError(f"{folder} is not there, or is being replaced: run the command again") from error
        held = False
        try:
            free = _try(handle, folder, fcntl.LOCK_EX)
            # A folder that was replaced (repaired) meanwhile has another lock now, and that is the one that counts.
            held = free and _is_current(handle, folder)
        finally:
            if not held:
                os.close(handle)
        if held:
            return handle
        if free:
            continue
        if wait is None or (wait.seconds is not None and time.monotonic() - start > wait.seconds):
            raise StoreLockedError(
                f"the store {folder.name} is being written by {_owner(folder)}: "
                "wait until that process has ended, then run the command again"
            )
        if not said:
            wait.told(f"the store {folder.name} is being written by {_owner(folder)}: waiting until it has ended")
            said = True
        if wait.turn is not None:
            wait.turn()
        time.sleep(wait.pause)


def _try(handle: int, folder: Path, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise StoreError(
                f"the file system of {folder} has no locks ({error.strerror}), and without them two writers would "
                "lose each other's rows: put the workspace on another one, or have this one mounted with flock"
            ) from error
        raise
    return True


def _is_current(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), (folder / LOCK_FILE).stat())
    except FileNotFoundError:
        return False


def _take_over(handle: int, folder: Path, wait: Wait | None) -> None:
    """Sign the lock; say so if its last owner died."""
    if wait is not None and os.fstat(handle).st_size:
        wait.told(
            f"took over the store {folder.name} from {_owner(folder)}, which ended without finishing: "
            "what it had committed is kept"
        )
    owner = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(handle, 0)
    # On a full disk the lock goes unsigned: whoever wants to make room must not be kept from it.
    with suppress(OSError):
        os.pwrite(handle, json.dumps(owner).encode(), 0)


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / LOCK_FILE).read_text())
        return f"process {owner['process']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
