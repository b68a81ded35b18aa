"""The ledger: which files were read, as the file system tells them apart, and what their bytes were.

A cohort of 200 gigabytes is not read again to learn that nothing has changed. A file of the same name, size and time of
change is taken for the same, as make and git take it; `--reread` trusts nothing. Losing the ledger costs one reading.
"""

import io
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from peftbench.cohorts.secrets import Pseudonyms
from peftbench.imaging.reading import Stat, stat_of
from stores.atomic import write_atomic

RACY_NS = 2_000_000_000
"""A file that changed so shortly before it was read may change again within the same tick of its clock: not noted."""


class Ledger:
    """Digest of each file's bytes by name, size and time of change.

    Args:
        path: of the ledger, in the workspace: names are kept as pseudonyms.
        names: of files.
        trusted: whether what was noted before counts.
    """

    def __init__(self, path: Path, names: Pseudonyms, *, trusted: bool = True) -> None:
        self._path = path
        self._names = names
        self._before = _read(path) if trusted else {}
        self._now: dict[str, tuple[Stat, str]] = {}
        self._saved = 0

    def known(self, name: str, file: Path) -> str:
        """Digest of the file's bytes, if it is unchanged since they were read; else empty."""
        called = self._names.of("file", name)
        found = self._before.get(called)
        stat = stat_of(file)
        if found is None or stat is None or found[0] != stat:
            return ""
        self._now[called] = found
        return found[1]

    def note(self, name: str, before: Stat | None, digest: str) -> None:
        """A file was read; `before` is what it was when the reading began."""
        if before is not None and time.time_ns() - before.mtime_ns > RACY_NS:
            self._now[self._names.of("file", name)] = (before, digest)

    def save(self, *, every: int = 1) -> None:
        """Write what is known of the files seen so far, if at least so many are new since the last time."""
        if len(self._now) - self._saved < every:
            return
        rows = {**self._before, **self._now}
        frame = pd.DataFrame(
            [(name, *stat, digest) for name, (stat, digest) in sorted(rows.items())],
            columns=["file", "size", "mtime_ns", "digest"],
        )
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_atomic(self._path, buffer.getvalue())
        self._saved = len(self._now)


def _read(path: Path) -> dict[str, tuple[Stat, str]]:
    """What an earlier run noted; nothing where that cannot be read: it is only a shortcut."""
    try:
        table = pq.read_table(path).to_pydict()
        rows = zip(table["file"], table["size"], table["mtime_ns"], table["digest"], strict=True)
        return {name: (Stat(int(size), int(mtime)), str(digest)) for name, size, mtime, digest in rows}
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return {}
