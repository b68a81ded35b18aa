"""A table of arrays that grows by whole, committed appends: what both stores are made of.

On disk a row store is a plain Zarr v3 group with one array a column, all with the leading dimension `row`. Beside the
arrays lies `commit.json`, replaced atomically once the rows of an append are on the device: it says what the store
is, how many rows count, and a checksum for every chunk. After it the shapes in the `zarr.json` files follow, so that
another Zarr reader never sees a row that does not count. Whatever the files hold beyond the committed rows is the rest
of an interrupted append: nobody sees it and the next append overwrites it.

Zarr reads a missing chunk as zeros and, by default, does not notice a flipped byte. Here every chunk carries
crc32c, opening looks at every file's size, and reading holds every chunk against the commit record.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stores.atomic import SCRATCH_SUFFIX, sync_folder, write_atomic, write_parts
from stores.commit import COMMIT_FILE, MEND, Commit
from stores.errors import RemoteError, StoreDamagedError, StoreLockedError, StoreMismatchError
from stores.keys import canonical_json
from stores.layout import (
    CHECKSUMS,
    Array,
    Column,
    EncodedFile,
    encode,
    group_metadata,
    row_checksums,
    with_checksums,
)
from stores.local import Extent, Files, LocalFiles, Mapped
from stores.lock import LOCK_FILE, Wait, writer_lock

METADATA_FILE = "zarr.json"

WRITERS = min(4, os.cpu_count() or 1)
"""That write files at once: most of the time goes into waiting for the device."""

ColumnsOf = Callable[[Mapping[str, Any]], Mapping[str, Column]]
"""Which columns a store has, from its attributes."""


class RowStore:
    """Columns of equal length on disk, appended to by one writer, read by many.

    An instance shows the rows that were committed when it was opened (or last appended to or refreshed).
    """

    def __init__(self, files: Files, columns: Mapping[str, Column], commit: Commit) -> None:
        self.columns = with_checksums(columns)
        self._files = files
        self._commit = commit
        self._is_writing = False
        self._turn = threading.RLock()

    @classmethod
    def create(
        cls,
        folder: Path,
        columns: Mapping[str, Column],
        attributes: Mapping[str, Any],
        wait: Wait | None = None,
    ) -> "RowStore":
        """Open the store in `folder`, or make an empty one.

        Args:
            folder: where it lies.
            columns: that it has.
            attributes: what it is; of JSON's types.
            wait: what to do while another process makes it; by default it is an error.

        Raises:
            StoreLockedError: another process is making it.
            StoreMismatchError: a store is there, with other attributes or columns.
        """
        finish_exchange(folder)
        if not (folder / COMMIT_FILE).exists():
            with writer_lock(folder, wait):
                # A repair may have taken a store away just now.
                finish_exchange(folder)
                if not (folder / COMMIT_FILE).exists():
                    _refuse_orphan(folder)
                    every = with_checksums(columns)
                    commit = Commit(dict(attributes), 0, dict.fromkeys(every, ()))
                    publish(folder, every, commit)
                    commit.write(folder)
        # Before the columns, which follow from the attributes: another store is not a damaged one.
        found = Commit.parse(LocalFiles(folder).read_file(COMMIT_FILE), str(folder)).attributes
        if canonical_json(found) != canonical_json(dict(attributes)):
            raise StoreMismatchError(f"{folder} holds a store that was made otherwise: {found}")
        store = cls.open(folder, columns)
        if metadata_faults(LocalFiles(folder), store.columns, store.commit, exact=True):
            with suppress(StoreLockedError), store.writing(wait and replace(wait, seconds=0)):
                # An append was cut short between its commit and the shapes; becoming its writer mends that.
                pass
        return store

    @classmethod
    def open(cls, where: Path | Files, columns: Mapping[str, Column] | ColumnsOf) -> "RowStore":
        """Open a committed store.

        Args:
            where: its folder, or its files.
            columns: that it must have; or a function that tells them from its attributes.

        Raises:
            StoreNotFoundError: there is none.
            StoreMismatchError: its arrays are not these columns.
            StoreDamagedError: the commit record is not sound, metadata were altered, or files are missing or cut short.
        """
        files = LocalFiles(where) if isinstance(where, Path) else where
        commit = Commit.parse(files.read_file(COMMIT_FILE), files.where)
        try:
            expected = columns(commit.attributes) if callable(columns) else columns
        except StoreMismatchError as error:
            raise StoreMismatchError(f"{files.where}: {error}") from error
        store = cls(files, expected, commit)
        store.check_columns()
        if isinstance(files, LocalFiles):
            for fault in [*metadata_faults(files, store.columns, commit), *store.file_faults()]:
                raise StoreDamagedError(f"{files.where}: {fault}: {MEND}")
        return store

    @property
    def folder(self) -> Path:
        """Where the store lies.

        Raises:
            RemoteError: it is not on this machine.
        """
        return self._local.folder

    @property
    def where(self) -> str:
        """Folder or address of the store."""
        return self._files.where

    @property
    def own_columns(self) -> dict[str, Column]:
        """The columns that are appended to, without the checksums of their rows."""
        return {name: column for name, column in self.columns.items() if name != CHECKSUMS}

    @property
    def attributes(self) -> dict[str, Any]:
        """What was stated about the store when it was made."""
        return dict(self._commit.attributes)

    @property
    def commit(self) -> Commit:
        """What counts."""
        return self._commit

    @property
    def rows(self) -> int:
        """Committed rows."""
        return self._commit.rows

    @property
    def digest(self) -> str:
        """SHA-256 over everything committed."""
        return self._commit.digest

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows [start, stop) of a column, in one go; all committed rows by default.

        Raises:
            StoreDamagedError: a chunk is missing or is not what was committed.
            StoreMismatchError: the store was repaired or pruned since it was opened.
        """
        stop = self.rows if stop is None else min(stop, self.rows)
        with self._told_if_replaced():
            return self._files.read_rows(self.extent(name), min(start, stop), stop)

    def gather(self, name: str, rows: npt.NDArray[np.integer]) -> Array:
        """Rows of a column by number, in the order given.

        Where they lie in less than half of the chunks only these are read, else the column is read once, in one go.

        Raises:
            StoreDamagedError: a chunk is missing or is not what was committed.
            StoreMismatchError: the store was repaired or pruned since it was opened.
        """
        chunks = self.columns[name].chunks(self.rows)
        touched = len(np.unique(rows // self.columns[name].chunk_rows))
        if isinstance(self._files, LocalFiles) and 2 * touched < chunks:
            return self.mapped(name).gather(rows)
        found: Array = self.read(name)[rows]
        return found

    def mapped(self, name: str) -> Mapped:
        """A column's rows where they lie, to be copied in part.

        Raises:
            RemoteError: the store is not on this machine.
        """
        return Mapped(self._local, self.extent(name), self._told_if_replaced)

    def extent(self, name: str) -> Extent:
        """The committed part of a column."""
        return Extent(name, self.columns[name], self.rows, self._commit.checksums[name])

    def append(self, **values: Array) -> None:
        """Add rows to every column at once and commit them.

        Whatever happens before the commit record is replaced leaves the store as it was.

        Raises:
            StoreDamagedError: the rows that share a file with the new ones are not sound.
            StoreLockedError: another process is writing.
            StoreMismatchError: columns are missing, or differ in length, shape or type.
        """
        count = self._check_values(values)
        with self.writing():
            if not count:
                return
            every = {**values, CHECKSUMS: row_checksums(values)}
            checksums = {name: self._write(name, rows) for name, rows in every.items()}
            for name in every:
                sync_folder(self.folder / name)
            commit = replace(self._commit, rows=self.rows + count, checksums=checksums)
            commit.write(self.folder)
            self._commit = commit
            publish(self.folder, self.columns, commit)

    @contextmanager
    def writing(self, wait: Wait | None = None) -> Iterator[None]:
        """Be the store's only writer for as long as the block runs; may be nested.

        Args:
            wait: what to do while another process writes; by default it is an error.

        Raises:
            StoreLockedError: another process is writing.
        """
        # One thread after the other, and of each the outermost block only.
        with self._turn, ExitStack() as stack:
            if self._is_writing:
                yield
                return
            stack.enter_context(writer_lock(self.folder, wait, make=False))
            self._is_writing = True
            try:
                self.refresh()
                self._sweep()
                self._heal()
                yield
            finally:
                self._is_writing = False

    def refresh(self) -> None:
        """See what other processes have committed since."""
        self._commit = Commit.parse(self._files.read_file(COMMIT_FILE), self.where)

    def file_faults(self) -> list[str]:
        """Files that hold committed rows and are missing or of the wrong size, each as a sentence."""
        every = [(name, file) for name, column in self.columns.items() for file in range(column.files(self.rows))]
        return [fault for name, file in every if (fault := self.file_fault(name, file))]

    def file_fault(self, name: str, file: int) -> str:
        """What can be told to be wrong with a chunk file without reading it; empty where nothing is."""
        column = self.columns[name]
        path = self.folder / name / column.file_name(file)
        try:
            size = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"the chunk file {name}/{path.name} is missing"
        if column.chunks_held(file, self.rows, size) is None:
            expected = column.file_bytes(column.chunks_needed(file, self.rows))
            return f"the chunk file {name}/{path.name} has {size} bytes, expected {expected}"
        return ""

    @property
    def _local(self) -> LocalFiles:
        if not isinstance(self._files, LocalFiles):
            raise RemoteError(f"{self.where} is on another machine, where it can only be read: copy it here first")
        return self._files

    @contextmanager
    def _told_if_replaced(self) -> Iterator[None]:
        """Turn seeming damage into its cause where another process has committed something since."""
        try:
            yield
        except StoreDamagedError as error:
            newest = None
            with suppress(StoreDamagedError):
                newest = Commit.parse(self._files.read_file(COMMIT_FILE), self.where)
            if newest in (None, self._commit):
                raise
            raise StoreMismatchError(f"{self.where} was changed since it was opened: open it again") from error

    def _sweep(self) -> None:
        """Remove the files that a writer which was killed did not finish."""
        for name in self.columns:
            for path in (self.folder / name).glob(f".*{SCRATCH_SUFFIX}"):
                path.unlink(missing_ok=True)

    def _heal(self) -> None:
        """Let the shapes follow the commit record, if an append was cut short between the two."""
        if metadata_faults(self._local, self.columns, self._commit, exact=True):
            publish(self.folder, self.columns, self._commit)

    def _write(self, name: str, rows: Array) -> tuple[int, ...]:
        """Write rows behind the committed ones; answers the checksums of all chunks of the column."""
        column = self.columns[name]
        first = self.rows - self.rows % column.rows_per_file
        # The last file is written anew. What is read of it is checked: damage must not get a sound checksum.
        last = self.read(name, first, self.rows)
        size = column.rows_per_file - len(last)
        files = [*encode(column, first, np.concatenate([last, rows[:size]]))]
        files += encode(column, first + column.rows_per_file, rows[size:])
        folder = self.folder / name
        folder.mkdir(exist_ok=True)

        def write(file: EncodedFile) -> None:
            write_parts(folder / column.file_name(file.number), file.parts)

        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(write, files))
        kept = self._commit.checksums[name][: first // column.chunk_rows]
        return (*kept, *(value for file in files for value in file.checksums))

    def check_columns(self) -> None:
        """Refuse a store whose arrays are not the columns that it should have.

        Raises:
            StoreMismatchError: they are not.
        """
        if set(self._commit.checksums) != set(self.columns):
            raise StoreMismatchError(
                f"{self.where} has the arrays {sorted(self._commit.checksums)}, expected {sorted(self.columns)}: "
                "it was written by another version; delete that folder and make it again"
            )
        for name, column in self.columns.items():
            if len(self._commit.checksums[name]) != column.chunks(self.rows):
                raise StoreMismatchError(f"{self.where}/{name} is not cut into chunks of {column.chunk_rows} rows")

    def _check_values(self, values: Mapping[str, Array]) -> int:
        if set(values) != set(self.own_columns):
            raise StoreMismatchError(f"expected the columns {sorted(self.own_columns)}, got {sorted(values)}")
        counts = {len(rows) for rows in values.values()}
        if len(counts) != 1:
            raise StoreMismatchError(f"columns differ in length: { {n: len(v) for n, v in values.items()} }")
        for name, rows in values.items():
            column = self.columns[name]
            if rows.shape[1:] != column.shape or rows.dtype != np.dtype(column.dtype):
                raise StoreMismatchError(
                    f"column {name!r} takes rows of {column.shape} {column.dtype}, got {rows.shape[1:]} {rows.dtype}"
                )
        return counts.pop()


def metadata_faults(
    files: LocalFiles, columns: Mapping[str, Column], commit: Commit, *, exact: bool = False
) -> list[str]:
    """What the `zarr.json` files of a store say other than they should, each as a sentence.

    Args:
        files: of the store.
        columns: that it has.
        commit: what counts.
        exact: whether the number of rows must be the committed one. A reader may meet a store between the commit record
            and the shapes that follow it.
    """
    faults = []
    documents = {METADATA_FILE: group_metadata(columns, commit.rows, commit.attributes)}
    documents |= {f"{name}/{METADATA_FILE}": column.metadata(commit.rows) for name, column in columns.items()}
    for name, expected in documents.items():
        found = read_document(files, name)
        if found is None:
            faults.append(f"the metadata {name} are missing or cannot be read")
        elif found != expected:
            if _without_rows(found) != _without_rows(expected):
                faults.append(f"the metadata {name} are not what was written")
            elif exact:
                faults.append(f"the metadata {name} state another number of rows than the {commit.rows} committed")
    return faults


def read_document(files: LocalFiles, name: str) -> Any:
    """A file of JSON; None where there is none, or what is there is no JSON."""
    try:
        return json.loads(files.read_file(name) or b"null")
    except ValueError:
        return None


def _refuse_orphan(folder: Path) -> None:
    """Refuse to make a store where one with rows has lost its commit record.

    Raises:
        StoreDamagedError: the metadata state rows.
    """
    document = read_document(LocalFiles(folder), METADATA_FILE)
    try:
        arrays = document["consolidated_metadata"]["metadata"].values()
        rows = max((int(array["shape"][0]) for array in arrays), default=0)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return
    if rows:
        raise StoreDamagedError(f"{folder} holds {rows} rows and has lost its commit record: {MEND}")


def _without_rows(document: Any) -> Any:
    if isinstance(document, dict):
        return {
            key: ["rows", *value[1:]] if key == "shape" and isinstance(value, list) else _without_rows(value)
            for key, value in document.items()
        }
    return document


def publish(folder: Path, columns: Mapping[str, Column], commit: Commit) -> None:
    """Write the `zarr.json` files; the group's repeats the others', and is what most readers go by."""
    for name, column in columns.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name / METADATA_FILE, json.dumps(column.metadata(commit.rows), indent=2))
    write_atomic(folder / METADATA_FILE, json.dumps(group_metadata(columns, commit.rows, commit.attributes), indent=2))


def exchange_names(folder: Path) -> tuple[Path, Path]:
    """Where a store's successor is built, and where the store goes when the successor takes its place."""
    return folder.with_name(f".{folder.name}.successor"), folder.with_name(f".{folder.name}.replaced")


def finish_exchange(folder: Path) -> None:
    """Complete an exchange of a store by its successor that was cut short between its two renames."""
    fresh, old = exchange_names(folder)
    if not old.exists() or not (fresh / COMMIT_FILE).exists():
        return
    with suppress(FileNotFoundError):
        # Another process may be doing the same; or it wanted to write, and made a lock where the store was.
        if folder.exists() and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
            (folder / LOCK_FILE).unlink()
        if not folder.exists() or not any(folder.iterdir()):
            fresh.rename(folder)
