"""Reading the columns of a store in a folder of this machine: whole, in part, or mapped into memory.

Every chunk that is read is held against its own checksum and against the commit record, on the way: a flipped byte, a
chunk in another's place and one of an older version are told from what was committed.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stores.commit import MEND
from stores.errors import StoreDamagedError
from stores.layout import CHECKSUM_BYTES, Array, Bytes, Column, as_bytes, checksum, extended

THREADS = min(4, os.cpu_count() or 1)
"""That read files at once: while one sums up what it has read, another reads."""

WORTH_THREADS = 1 << 22
"""Bytes from which on several threads read."""


class Extent(NamedTuple):
    """The committed part of a column.

    Attributes:
        name: of the column.
        column: how it lies.
        rows: that were committed.
        checksums: crc32c of the committed rows of each chunk.
    """

    name: str
    column: Column
    rows: int
    checksums: Sequence[int]

    def valid(self, chunk: int) -> int:
        """Committed rows of a chunk."""
        return min(self.rows - chunk * self.column.chunk_rows, self.column.chunk_rows)


class Files(Protocol):
    """Where the files of a store are: a folder, or another machine."""

    where: str
    """As the user named it."""

    def read_file(self, name: str) -> bytes | None:
        """A small file's bytes; None where there is no such file."""

    def read_rows(self, extent: Extent, start: int, stop: int) -> Array:
        """Rows [start, stop) of a column.

        Raises:
            StoreDamagedError: a chunk is missing or its bytes are not what was committed.
        """


class LocalFiles:
    """The files of a store in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder)

    def read_file(self, name: str) -> bytes | None:
        """A small file's bytes; None where there is no such file."""
        try:
            return (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_rows(self, extent: Extent, start: int, stop: int) -> Array:
        """Rows [start, stop) of a column, each chunk checked.

        Raises:
            StoreDamagedError: a chunk is missing or its bytes are not what was committed.
        """
        column = extent.column
        out = np.empty((max(stop - start, 0), *column.shape), dtype=column.stored_dtype)
        files = range(start // column.rows_per_file, column.files(stop) if stop > start else 0)

        def read(part: range) -> None:
            for file in part:
                self._read_file_rows(extent, file, start, stop, out)

        if len(files) < 2 or out.nbytes < WORTH_THREADS:
            read(files)
        else:
            # Few large parts: handing over many small ones costs more than it gains.
            edges = [len(files) * each // THREADS for each in range(THREADS + 1)]
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(read, [files[low:high] for low, high in pairwise(edges)]))
        return out

    def path(self, extent: Extent, chunk: int) -> Path:
        """The file that holds a chunk."""
        return self.folder / extent.name / extent.column.file_name(extent.column.place(chunk)[0])

    def _read_file_rows(self, extent: Extent, file: int, start: int, stop: int, out: Array) -> None:
        size = extent.column.chunk_rows
        first = max(file * extent.column.rows_per_file, start) // size
        last = min((file + 1) * extent.column.shard_chunks, extent.column.chunks(stop))
        with self.opened(extent, first) as handle:
            for chunk in range(first, last):
                at, valid = chunk * size, extent.valid(chunk)
                if start <= at and at + valid <= stop:
                    read_chunk(handle, extent, chunk, out[at - start : at - start + valid], self.where)
                    continue
                whole = np.empty((valid, *extent.column.shape), dtype=extent.column.stored_dtype)
                read_chunk(handle, extent, chunk, whole, self.where)
                low, high = max(start, at), min(stop, at + valid)
                out[low - start : high - start] = whole[low - at : high - at]

    @contextmanager
    def opened(self, extent: Extent, chunk: int) -> Iterator[int]:
        """A descriptor of the file that holds a chunk; a shard's index is checked on the way.

        Raises:
            StoreDamagedError: the file is missing, or its index is not sound.
        """
        path = self.path(extent, chunk)
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise damaged(extent, chunk, path, "the file is missing") from error
        try:
            fault = file_fault(extent, extent.column.place(chunk)[0], handle)
            if fault:
                raise damaged(extent, chunk, path, fault)
            yield handle
        finally:
            os.close(handle)


def file_fault(extent: Extent, file: int, handle: int) -> str:
    """What is wrong with a file's size or its index; empty where nothing is."""
    column = extent.column
    size = os.fstat(handle).st_size
    held = column.chunks_held(file, extent.rows, size)
    if held is None:
        return f"the file has {size} bytes, expected {column.file_bytes(column.chunks_needed(file, extent.rows))}"
    index = column.index(held)
    if os.pread(handle, len(index), size - len(index)) != index:
        return "the index of the shard is damaged"
    return ""


def read_chunk(handle: int, extent: Extent, chunk: int, out: Array, where: str = "") -> None:
    """Fill `out` with the committed rows of a chunk and check them.

    Args:
        handle: of the open file.
        extent: of the column.
        chunk: its number.
        out: (committed rows of the chunk, ...).
        where: the store, for messages.

    Raises:
        StoreDamagedError: they are not what was committed, or not what the chunk's own checksum says.
    """
    column = extent.column
    offset = column.place(chunk)[1]
    _fill(handle, as_bytes(out), offset)
    rest = np.empty(column.chunk_bytes - out.nbytes, dtype=np.uint8)
    _fill(handle, rest, offset + out.nbytes)
    found = checksum(out)
    whole, own = extended(found, rest[:-CHECKSUM_BYTES]), int.from_bytes(rest[-CHECKSUM_BYTES:].tobytes(), "little")
    if found != extent.checksums[chunk] or whole != own:
        fault = "its checksum does not fit its bytes" if whole != own else "it is not what was committed"
        place = f" in {where}" if where else ""
        raise StoreDamagedError(f"chunk {chunk} of {extent.name!r}{place} cannot be read: {fault}: {MEND}")


def damaged(extent: Extent, chunk: int, path: Path, fault: str) -> StoreDamagedError:
    """The error for a file that cannot be read."""
    folder = path.parent.parent
    return StoreDamagedError(
        f"chunk {chunk} of {extent.name!r} in {folder} cannot be read: {fault} ({path.relative_to(folder)}): {MEND}"
    )


def _fill(handle: int, target: Bytes, offset: int) -> None:
    done = 0
    while done < len(target):
        got = os.preadv(handle, [target[done:].data], offset + done)
        if not got:
            raise StoreDamagedError(f"a file ends before its last chunk does: {MEND}")
        done += got


class Mapped:
    """Rows of a column in place on the disk; what is asked for is copied, what is not is not read.

    A chunk is checked when it is first touched, which reads all of it once.
    """

    def __init__(
        self,
        files: LocalFiles,
        extent: Extent,
        guard: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._guard = guard
        self._files = files
        self._extent = extent
        self._maps: dict[int, npt.NDArray[np.uint8]] = {}
        self._checked = np.zeros(extent.column.chunks(extent.rows), dtype=bool)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, ...)."""
        return (self._extent.rows, *self._extent.column.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the elements."""
        return self._extent.column.stored_dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self._extent.rows

    def __getitem__(self, rows: Any) -> Array:
        """Rows by number, slice, list of numbers or mask, as numpy has it."""
        wanted = np.arange(len(self))[rows]
        return self.gather(wanted) if wanted.ndim else self.gather(wanted[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        with self._guard():
            whole = self._files.read_rows(self._extent, 0, len(self))
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def gather(self, rows: npt.NDArray[np.integer]) -> Array:
        """Copies of rows, in the order given.

        Args:
            rows: (n,) numbers from 0 to len - 1.

        Raises:
            StoreDamagedError: a chunk that is touched is missing or not what was committed.
        """
        size = self._extent.column.chunk_rows
        out = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        if not len(rows):
            return out
        order = np.argsort(rows, kind="stable")
        touched, starts = np.unique(rows[order] // size, return_index=True)
        for chunk, here in zip(touched.tolist(), np.split(order, starts[1:]), strict=True):
            out[here] = self._chunk(chunk)[rows[here] - chunk * size]
        return out

    def _chunk(self, chunk: int) -> Array:
        column = self._extent.column
        file, offset = column.place(chunk)
        valid = self._extent.valid(chunk)
        shape = (valid, *column.shape)
        if not self._checked[chunk]:
            # Into memory of its own, so that checking does not leave the whole file mapped.
            with self._guard(), self._files.opened(self._extent, chunk) as handle:
                whole = np.empty(shape, dtype=self.dtype)
                read_chunk(handle, self._extent, chunk, whole, self._files.where)
                if file not in self._maps:
                    # The file that was checked, whatever has its name by now.
                    self._maps[file] = np.frombuffer(mmap.mmap(handle, 0, prot=mmap.PROT_READ), dtype=np.uint8)
            self._checked[chunk] = True
        return np.ndarray(shape, dtype=self.dtype, buffer=self._maps[file].data, offset=offset)
