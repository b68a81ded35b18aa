"""A table of arrays that grows by whole, committed blocks: what both stores are made of.

On disk a row store is a plain Zarr v3 group with one array a column, all with the leading dimension `row`, which
any Zarr reader opens. Beside the arrays lies `commit.json`, written last and atomically: the number of rows that
count, and the digest of every block that was appended. Whatever the arrays hold beyond that number is the rest of
an interrupted append; readers do not see it and the next append overwrites it.

Zarr reads a missing chunk as zeros and, by default, does not notice a flipped byte. Here every chunk carries
crc32c, and opening counts the chunk files.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from stores.atomic import sync_file, sync_folder, write_atomic
from stores.errors import StoreDamagedError, StoreMismatchError, StoreNotFoundError
from stores.keys import canonical_json, digest_of
from stores.lock import writer_lock

COMMIT_FILE = "commit.json"
COMMIT_SCHEMA = 1

ADVICE = "delete that folder and run `peftbench extract` (features) or `peftbench prepare` (images) again"
"""What to do about a damaged store, until there is a command that mends it."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One array of a row store.

    Attributes:
        dtype: numpy's name of the element type.
        shape: of one row; () for a scalar.
        dimensions: a name for each axis of `shape`.
        chunk_rows: rows in one chunk, the unit of checksum and of reading.
        shard_chunks: chunks in one file; 1 means no sharding.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    dimensions: tuple[str, ...] = ()
    chunk_rows: int = 1024
    shard_chunks: int = 1

    @property
    def rows_per_file(self) -> int:
        """Rows that share one file."""
        return self.chunk_rows * self.shard_chunks


class Block(NamedTuple):
    """The rows [start, stop) that one append committed, and the digest of their bytes."""

    start: int
    stop: int
    digest: str


class Commit(NamedTuple):
    """What counts: the number of rows and the blocks they came in."""

    rows: int
    blocks: tuple[Block, ...]

    @classmethod
    def read(cls, folder: Path) -> "Commit":
        """The commit record of a store.

        Raises:
            StoreNotFoundError: there is none.
            StoreDamagedError: it contradicts itself.
            StoreMismatchError: it has the form of another version.
        """
        path = folder / COMMIT_FILE
        try:
            record = json.loads(path.read_text())
            schema = record["schema"]
            blocks = tuple(Block(*block) for block in record["blocks"])
            sound = record["digest"] == digest_of([list(block) for block in blocks])
            rows = int(record["rows"])
        except FileNotFoundError as error:
            raise StoreNotFoundError(f"{folder} holds no committed store ({COMMIT_FILE} is missing)") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreDamagedError(f"the commit record {path} cannot be read: {error}") from error
        if schema != COMMIT_SCHEMA:
            raise StoreMismatchError(
                f"the store {folder} was written in form {schema!r}, this version reads form {COMMIT_SCHEMA}: "
                "use the version of peftbench that wrote it, or make the store again"
            )
        if not sound or rows != (blocks[-1].stop if blocks else 0):
            raise StoreDamagedError(f"the commit record {path} does not agree with its own digest")
        return cls(rows, blocks)

    def write(self, folder: Path) -> None:
        """Make this what counts, all or nothing."""
        blocks = [list(block) for block in self.blocks]
        record = {"schema": COMMIT_SCHEMA, "rows": self.rows, "blocks": blocks, "digest": digest_of(blocks)}
        write_atomic(folder / COMMIT_FILE, canonical_json(record))


class RowStore:
    """Columns of equal length on disk, appended to by one writer, read by many.

    An instance shows the rows that were committed when it was opened (or last appended to).
    """

    def __init__(self, folder: Path, columns: Mapping[str, Column], group: zarr.Group, commit: Commit) -> None:
        self.folder = folder
        self.columns = dict(columns)
        self._group = group
        self._commit = commit
        self._is_writing = False

    @classmethod
    def create(cls, folder: Path, columns: Mapping[str, Column], attributes: Mapping[str, Any]) -> "RowStore":
        """Open the store in `folder`, or make an empty one.

        Raises:
            StoreLockedError: another process is making it.
            StoreMismatchError: a store is there, with other attributes or columns.
        """
        if (folder / COMMIT_FILE).exists():
            store = cls.open(folder, columns)
            if canonical_json(store.attributes) != canonical_json(dict(attributes)):
                raise StoreMismatchError(f"{folder} holds a store that was made otherwise: {store.attributes}")
            return store
        with writer_lock(folder):
            if not (folder / COMMIT_FILE).exists():
                _create_arrays(folder, columns, attributes)
                Commit(0, ()).write(folder)
        return cls.open(folder, columns)

    @classmethod
    def open(cls, folder: Path, columns: Mapping[str, Column]) -> "RowStore":
        """Open a committed store.

        Raises:
            StoreNotFoundError: there is none.
            StoreMismatchError: its arrays are not these columns.
            StoreDamagedError: the commit record is not sound, or chunk files are missing.
        """
        commit = Commit.read(folder)
        store = cls(folder, columns, _open_group(folder, "r"), commit)
        store._check_columns()
        for name in store.columns:
            store._check_chunks(name, 0, store.rows)
        return store

    @property
    def attributes(self) -> dict[str, Any]:
        """What was stated about the store when it was made."""
        return dict(self._group.attrs)

    @property
    def rows(self) -> int:
        """Committed rows."""
        return self._commit.rows

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of all committed blocks."""
        return digest_of([list(block) for block in self._commit.blocks])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows [start, stop) of a column, in one go; all committed rows by default.

        Raises:
            StoreDamagedError: a checksum does not fit.
        """
        stop = self.rows if stop is None else min(stop, self.rows)
        self._check_chunks(name, start, stop)
        try:
            return np.asarray(self._array(name)[start:stop])
        except (ValueError, RuntimeError, IndexError) as error:
            raise StoreDamagedError(f"{self.folder / name} cannot be read: {error}: {ADVICE}") from error

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
            start, stop = self.rows, self.rows + count
            self._check_last_files()
            writable = _open_group(self.folder, "r+")
            for name, rows in values.items():
                self._write(writable, name, start, stop, rows)
            block = Block(start, stop, _block_digest(self.columns, values))
            Commit(stop, (*self._commit.blocks, block)).write(self.folder)
            self.refresh()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the store's only writer for as long as the block runs; may be nested.

        Raises:
            StoreLockedError: another process is writing.
        """
        if self._is_writing:
            yield
            return
        with writer_lock(self.folder):
            self._is_writing = True
            try:
                self.refresh()
                yield
            finally:
                self._is_writing = False

    def refresh(self) -> None:
        """See what other processes have committed since."""
        self._commit = Commit.read(self.folder)
        self._group = _open_group(self.folder, "r")

    def damaged_blocks(self, start: int = 0) -> list[Block]:
        """Blocks from row `start` on whose bytes no longer are what was committed; reads them all."""
        return [block for block in self._commit.blocks if block.start >= start and not self._is_sound(block)]

    def _is_sound(self, block: Block) -> bool:
        try:
            values = {name: self.read(name, block.start, block.stop) for name in self.columns}
        except StoreDamagedError:
            return False
        return _block_digest(self.columns, values) == block.digest

    def _array(self, name: str) -> zarr.Array[Any]:
        try:
            array = self._group[name]
        except KeyError as error:
            raise StoreMismatchError(
                f"{self.folder} has no array {name!r}: it is not a store of this kind, or is damaged: {ADVICE}"
            ) from error
        except (ValueError, TypeError) as error:
            raise StoreDamagedError(
                f"the metadata of {self.folder / name} cannot be read ({error}): {ADVICE}"
            ) from error
        if not isinstance(array, zarr.Array):
            raise StoreMismatchError(f"{self.folder / name} is a group, an array was expected")
        return array

    def _write(self, group: zarr.Group, name: str, start: int, stop: int, rows: Array) -> None:
        # Without this a chunk of zeros is not written, and could not be told from a lost one.
        with zarr.config.set({"array.write_empty_chunks": True}):
            array = group[name]
            assert isinstance(array, zarr.Array)  # noqa: S101 - _check_columns has looked
            array.resize((stop, *self.columns[name].shape))
            array[start:stop] = rows
        per_file = self.columns[name].rows_per_file
        for index in range(start // per_file, (stop - 1) // per_file + 1):
            path = self._chunk_path(name, index)
            sync_file(path)
            for folder in path.relative_to(self.folder).parents:
                sync_folder(self.folder / folder)
        sync_file(self.folder / name / "zarr.json")

    def _chunk_path(self, name: str, index: int) -> Path:
        return self.folder.joinpath(name, "c", str(index), *["0"] * len(self.columns[name].shape))

    def _check_columns(self) -> None:
        for name, column in self.columns.items():
            array = self._array(name)
            if array.dtype != np.dtype(column.dtype) or array.shape[1:] != column.shape:
                raise StoreMismatchError(
                    f"{self.folder / name} holds rows of {array.shape[1:]} {array.dtype}, "
                    f"expected {column.shape} {column.dtype}"
                )
            first = self._chunk_path(name, 0).relative_to(self.folder / name).as_posix()
            if array.metadata.encode_chunk_key((0,) * array.ndim) != first:
                raise StoreDamagedError(f"the metadata of {self.folder / name} names its chunks otherwise: {ADVICE}")
            if array.shape[0] < self.rows:
                raise StoreDamagedError(f"{self.folder / name} has {array.shape[0]} rows, {self.rows} were committed")

    def _check_chunks(self, name: str, start: int, stop: int) -> None:
        """Refuse to read rows whose file is not there: zarr would answer zeros."""
        per_file = self.columns[name].rows_per_file
        for index in range(start // per_file, -(-stop // per_file)):
            path = self._chunk_path(name, index)
            if not path.is_file() or not path.stat().st_size:
                lost = path.relative_to(self.folder)
                raise StoreDamagedError(f"chunk file {lost} of the store {self.folder} is missing or empty: {ADVICE}")

    def _check_last_files(self) -> None:
        """Read what shares a file with the next rows: writing it again would give damage a new checksum."""
        for name, column in self.columns.items():
            self.read(name, self.rows - self.rows % column.rows_per_file, self.rows)

    def _check_values(self, values: Mapping[str, Array]) -> int:
        if set(values) != set(self.columns):
            raise StoreMismatchError(f"expected the columns {sorted(self.columns)}, got {sorted(values)}")
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


def _open_group(folder: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    try:
        return zarr.open_group(str(folder), mode=mode)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise StoreDamagedError(f"the metadata of the store {folder} cannot be read ({error}): {ADVICE}") from error


def _create_arrays(folder: Path, columns: Mapping[str, Column], attributes: Mapping[str, Any]) -> None:
    group = zarr.open_group(str(folder), mode="a", zarr_format=3)
    for name, column in columns.items():
        sharded = column.shard_chunks > 1
        group.create_array(
            name,
            shape=(0, *column.shape),
            dtype=column.dtype,
            chunks=(column.chunk_rows, *column.shape),
            shards=(column.rows_per_file, *column.shape) if sharded else None,
            filters=None,
            # A checksum and nothing else: embeddings do not compress, and pictures are read far more often than kept.
            compressors=(Crc32cCodec(),),
            fill_value=0,
            dimension_names=("row", *column.dimensions),
            overwrite=True,
        )
    group.attrs.put(dict(attributes))


def _block_digest(columns: Mapping[str, Column], values: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(np.ascontiguousarray(values[name]).data)
    return digest.hexdigest()
