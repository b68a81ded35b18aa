"""Mending a damaged store: rows that cannot be trusted are dropped, so that the next `extract` makes only these.

A chunk's checksum says that some of its rows are damaged; each row's own checksum says which.

What is kept is copied into a store beside it, checked once more on the way, which then takes the old one's place by two
renames. A crash between the two leaves both under names that begin with a dot; `finish` completes the exchange.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from stores.atomic import sync_folder
from stores.commit import COMMIT_FILE, Commit
from stores.errors import StoreDamagedError, StoreError, StoreMismatchError, StoreNotFoundError
from stores.layout import CHECKSUMS, Array, as_bytes, row_checksums
from stores.local import LocalFiles
from stores.lock import Wait, writer_lock
from stores.rows import RowStore, exchange_names, finish_exchange, publish
from stores.verify import (
    Fault,
    columns_of,
    rebuilt_commit,
    runs,
    table_faults,
    tables_of,
    unreadable_is_lost,
    verify_table,
    was_table,
)

Kept: TypeAlias = npt.NDArray[np.bool_]
Reader: TypeAlias = Callable[[str, int, int], Array]

FILES_AT_ONCE = 8
"""Files of a store's largest column that are copied between two commits."""


class Repair(NamedTuple):
    """What was done to one table of a store.

    Attributes:
        folder: of the table.
        kept: rows that stand.
        dropped: rows that were damaged.
        faults: that were found.
    """

    folder: Path
    kept: int
    dropped: int
    faults: list[Fault]


def repair(folder: Path, wait: Wait | None = None) -> list[Repair]:
    """Drop what is damaged in a store and keep the rest; a sound store is left alone.

    Args:
        folder: of a feature store or an image store.
        wait: what to do while another process writes; by default it is an error.

    Raises:
        StoreNotFoundError: there is nothing that was a store.
        StoreDamagedError: nothing tells what the store was.
        StoreLockedError: another process is writing.
    """
    finish_exchange(folder)
    return [_repair_table(each, wait) for each in tables_of(folder)]


def keep_rows(store: RowStore, kept: Kept, read: Reader | None = None) -> None:
    """Drop all rows of a table but those marked; the caller holds its lock.

    Args:
        store: the table.
        kept: (rows,) bool.
        read: how rows [start, stop) of a column are read; by default as by anybody, each chunk checked.
    """
    read = read or store.read
    refuse_link(store.folder)
    fresh, old = exchange_names(store.folder)
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    try:
        _exchange(store, kept, read, fresh, old)
    except BaseException:
        if not old.exists():
            # Nothing was exchanged yet, and the room that the copy takes may be just what is short.
            shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(store: RowStore, kept: Kept, read: Reader, fresh: Path, old: Path) -> None:
    copy = RowStore.create(fresh, store.own_columns, store.attributes)
    widest = max(store.columns.values(), key=lambda column: column.row_bytes)
    step = FILES_AT_ONCE * widest.rows_per_file
    # The new store's own lock is held through the exchange: nobody writes to it before it is in its place.
    with copy.writing():
        for start in range(0, store.rows, step):
            part = kept[start : start + step]
            if part.any():
                stop = start + len(part)
                copy.append(**{name: read(name, start, stop)[part] for name in store.own_columns})
        store.folder.rename(old)
        finish_exchange(store.folder)
        if fresh.exists():
            raise StoreError(f"{store.folder} was made anew while it was repaired: what was kept of it is in {fresh}")
        sync_folder(store.folder.parent)


def refuse_link(folder: Path) -> None:
    """Refuse to replace or remove a store that is somewhere else.

    Raises:
        StoreError: the folder is a link.
    """
    if folder.is_symlink():
        raise StoreError(f"{folder} is a link: name the folder that it points to, {folder.resolve()}")


class Salvage:
    """Reads a damaged table: of a damaged chunk it trusts the rows whose own checksum still fits.

    Args:
        store: the table.
        faults: all that was found of it.
        every: hold all rows against their own checksums, not only those of damaged chunks.

    Attributes:
        kept: (rows,) rows that can be trusted.
        misplaced: (rows,) rows of sound chunks that are not what their own checksums say.
    """

    def __init__(self, store: RowStore, faults: Sequence[Fault], *, every: bool = False) -> None:
        self.store = store
        self.kept = np.ones(store.rows, dtype=bool)
        self.misplaced = np.zeros(store.rows, dtype=bool)
        self._names = sorted(store.own_columns)
        self._damaged = set(self._names) if every else {fault.column for fault in faults if fault.column}
        self._checksums, self._known = self._readable_checksums(faults)
        for fault in faults:
            if fault.rows and fault.column != CHECKSUMS:
                start, stop = fault.rows
                # What is wrong with the content of sound bytes is wrong for good.
                sound = self._sound_rows(fault.column, start, stop) if fault.column else False
                self.kept[start:stop] &= sound
        if every:
            for name in self._names:
                self._look_for_misplaced(name)
            self.misplaced &= self.kept
            self.kept &= ~self.misplaced

    def read(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of a column; those that are not kept hold anything.

        Raises:
            StoreDamagedError: a row that is kept has changed since it was checked.
        """
        if name not in self._damaged:
            return self.store.read(name, start, stop)
        rows = self._raw(name, start, stop)
        changed = self.kept[start:stop] & ~self._fits(name, rows, start) & self._known[start:stop]
        if changed.any():
            raise StoreDamagedError(f"{self.store.folder} changes while it is repaired: check the disk")
        return rows

    def _readable_checksums(self, faults: Sequence[Fault]) -> tuple[Array, Kept]:
        """The rows' checksums, and of which rows they are known."""
        found = np.zeros((self.store.rows, len(self._names)), dtype=np.uint32)
        known = np.ones(self.store.rows, dtype=bool)
        for fault in faults:
            if fault.column == CHECKSUMS and fault.rows:
                known[slice(*fault.rows)] = False
        for start, stop in runs(known):
            found[start:stop] = self.store.read(CHECKSUMS, start, stop)
        return found, known

    def _look_for_misplaced(self, name: str) -> None:
        step = FILES_AT_ONCE * self.store.columns[name].rows_per_file
        for start in range(0, self.store.rows, step):
            stop = min(start + step, self.store.rows)
            fits = self._fits(name, self._raw(name, start, stop), start)
            self.misplaced[start:stop] |= ~fits & self._known[start:stop]

    def _sound_rows(self, name: str, start: int, stop: int) -> Kept:
        return self._fits(name, self._raw(name, start, stop), start) & self._known[start:stop]

    def _fits(self, name: str, rows: Array, start: int) -> Kept:
        expected = self._checksums[start : start + len(rows), self._names.index(name)]
        return np.asarray(row_checksums({name: rows})[:, 0] == expected)

    def _raw(self, name: str, start: int, stop: int) -> Array:
        """Rows as they lie on the disk, unchecked; zeros where nothing does."""
        column = self.store.columns[name]
        rows = np.zeros((stop - start, *column.shape), dtype=column.stored_dtype)
        for chunk in range(start // column.chunk_rows, column.chunks(stop)):
            low = max(start, chunk * column.chunk_rows)
            high = min(stop, (chunk + 1) * column.chunk_rows)
            file, offset = column.place(chunk)
            offset += (low - chunk * column.chunk_rows) * column.row_bytes
            path = self.store.folder / name / column.file_name(file)
            target = as_bytes(rows[low - start : high - start])
            with suppress(FileNotFoundError), unreadable_is_lost(), path.open("rb") as stream:
                stream.seek(offset)
                stream.readinto(target.data)
        return rows


def _repair_table(folder: Path, wait: Wait | None) -> Repair:
    finish_exchange(folder)
    if not was_table(folder):
        raise StoreNotFoundError(f"{folder} holds no store: the command that makes it makes it anew")
    with writer_lock(folder, wait, make=False):
        verdict = verify_table(folder, deep=True, settled=True)
        if not verdict.faults:
            return Repair(folder, verdict.rows, 0, [])
        store, is_rebuilt = _store_of(folder)
        # What was found is what is wrong, unless there was no record to hold the bytes against.
        found = table_faults(store, deep=True, settled=True) if is_rebuilt else verdict.faults
        lost = [fault for fault in found if fault.rows]
        # Without the record that was written with them, chunks vouch only for themselves, not for their places.
        salvage = Salvage(store, lost, every=is_rebuilt)
        lost += [
            Fault(f"rows {start} to {stop - 1} are not what their own checksums say", (start, stop))
            for start, stop in runs(salvage.misplaced)
        ]
        faults = list(dict.fromkeys([*verdict.faults, *lost]))
        if lost:
            keep_rows(store, salvage.kept, salvage.read)
        else:
            # The record, then the metadata: both may be the fault, and neither costs a row.
            store.commit.write(folder)
            publish(folder, store.columns, store.commit)
        kept = int(salvage.kept.sum())
        return Repair(folder, kept, store.rows - kept, faults)


def _store_of(folder: Path) -> tuple[RowStore, bool]:
    """A damaged table, and whether its commit record had to be rebuilt."""
    files = LocalFiles(folder)
    with suppress(StoreDamagedError, StoreNotFoundError, StoreMismatchError):
        commit = Commit.parse(files.read_file(COMMIT_FILE), str(folder))
        store = RowStore(files, columns_of(commit.attributes), commit)
        store.check_columns()
        return store, False
    commit = rebuilt_commit(folder)
    return RowStore(files, columns_of(commit.attributes), commit), True
