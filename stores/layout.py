"""How the columns of a row store lie on disk: plain Zarr v3, stated here byte by byte.

A column is an array `(row, ...)`, cut along `row` alone. A chunk is the rows' bytes (little-endian, C order), padded
with zeros to `chunk_rows`, then their crc32c: what Zarr's codecs `bytes` and `crc32c` write. A file holds one chunk,
or, in a sharded column, several and then their index: what Zarr's codec `sharding_indexed` writes. Nothing is
compressed, so a row lies at a known offset and can be mapped into memory.

Writing these bytes ourselves, rather than through the zarr package, gives each file an fsync before it gets its
name, one read into the final matrix, and checksums to hold against the commit record. The tests prove that
zarr-python reads and writes the same bytes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt

CHECKSUM_BYTES = 4
"""Of a crc32c behind each chunk and behind each index."""

_ABSENT = 2**64 - 1
"""Offset and length of a chunk that a shard does not hold, as the Zarr specification has it."""

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Column:
    """One array of a row store.

    Attributes:
        dtype: numpy's name of the element type.
        shape: of one row; () for a scalar.
        dimensions: a name for each axis of `shape`.
        chunk_rows: rows in one chunk, the unit of checksum and of reading.
        shard_chunks: chunks in one file; 1 means no sharding.
        attributes: what a reader of the array should know.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    dimensions: tuple[str, ...] = ()
    chunk_rows: int = 1024
    shard_chunks: int = 1
    attributes: Mapping[str, Any] | None = None

    @cached_property
    def stored_dtype(self) -> np.dtype[Any]:
        """The element type on disk: little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * self.stored_dtype.itemsize

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk with its checksum."""
        return self.chunk_rows * self.row_bytes + CHECKSUM_BYTES

    @property
    def rows_per_file(self) -> int:
        """Rows that share one file."""
        return self.chunk_rows * self.shard_chunks

    def chunks(self, rows: int) -> int:
        """Chunks that so many rows take."""
        return -(-rows // self.chunk_rows)

    def files(self, rows: int) -> int:
        """Files that so many rows take."""
        return -(-rows // self.rows_per_file)

    def file_name(self, index: int) -> str:
        """Name of the file number `index` within the array's folder."""
        return ".".join(["c", str(index), *["0"] * len(self.shape)])

    def file_bytes(self, chunks: int) -> int:
        """Size of a file that holds so many chunks."""
        return chunks * self.chunk_bytes + len(self.index(chunks))

    def chunks_held(self, file: int, rows: int, size: int) -> int | None:
        """Chunks in a file of that size; None where it cannot hold its part of the column's `rows`.

        The last shard may hold more than its part: an interrupted append put them there.
        """
        held = range(self.chunks_needed(file, rows), self.shard_chunks + 1)
        return next((chunks for chunks in held if self.file_bytes(chunks) == size), None)

    def chunks_needed(self, file: int, rows: int) -> int:
        """Chunks of a file that hold its part of the column's `rows`."""
        return self.chunks(min(rows - file * self.rows_per_file, self.rows_per_file))

    def place(self, chunk: int) -> tuple[int, int]:
        """File that holds a chunk, and the chunk's offset in it."""
        file, position = divmod(chunk, self.shard_chunks)
        return file, position * self.chunk_bytes

    def index(self, chunks: int) -> bytes:
        """What follows the chunks of a shard that holds `chunks` of them; nothing in a column without shards."""
        if self.shard_chunks == 1:
            return b""
        entries = np.full((self.shard_chunks, 2), _ABSENT, dtype="<u8")
        entries[:chunks, 0] = np.arange(chunks) * self.chunk_bytes
        entries[:chunks, 1] = self.chunk_bytes
        return entries.tobytes() + checksum_bytes(checksum(entries))

    def metadata(self, rows: int) -> dict[str, Any]:
        """The array's `zarr.json`."""
        codecs: list[dict[str, Any]] = [_LITTLE, {"name": "crc32c"}]
        if self.shard_chunks > 1:
            configuration = {
                "chunk_shape": [self.chunk_rows, *self.shape],
                "codecs": codecs,
                "index_codecs": [_LITTLE, {"name": "crc32c"}],
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": configuration}]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows, *self.shape],
            "data_type": np.dtype(self.dtype).name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.rows_per_file, *self.shape]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0 if np.dtype(self.dtype).kind in "iu" else 0.0,
            "codecs": codecs,
            "attributes": dict(self.attributes or {}),
            "dimension_names": ["row", *self.dimensions],
            "storage_transformers": [],
        }


CHECKSUMS = "checksum"
"""Name of the column that every table has beside its own: crc32c of the row in each of the others."""

CHECKSUM_CHUNK_ROWS = 8192


def with_checksums(columns: Mapping[str, Column]) -> dict[str, Column]:
    """A table's own columns and the one that tells, of a damaged chunk, which rows are still what was committed."""
    own = {name: column for name, column in columns.items() if name != CHECKSUMS}
    facts = {"long_name": "crc32c of the row's bytes in each array", "arrays": sorted(own)}
    return {**own, CHECKSUMS: Column("uint32", (len(own),), ("array",), CHECKSUM_CHUNK_ROWS, attributes=facts)}


def row_checksums(values: Mapping[str, Array]) -> Array:
    """(rows, arrays) uint32: crc32c of each row in each array, the arrays sorted by name."""
    names = sorted(values)
    found = np.empty((len(values[names[0]]) if names else 0, len(names)), dtype=np.uint32)
    for position, name in enumerate(names):
        rows = np.ascontiguousarray(values[name]).reshape(len(found), -1).view(np.uint8)
        found[:, position] = [google_crc32c.value(row) for row in rows]
    return found


_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


def group_metadata(columns: Mapping[str, Column], rows: int, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The store's own `zarr.json`, which repeats those of its arrays: who reads it sees all of one moment."""
    arrays = {name: column.metadata(rows) for name, column in columns.items()}
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attributes),
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }


class EncodedFile(NamedTuple):
    """A file of a column, ready to be written.

    Attributes:
        number: of the file in its column.
        parts: what it holds, one behind the other; a number is so many zero bytes.
        checksums: crc32c of the rows (without padding) of each of its chunks.
    """

    number: int
    parts: list[Any]
    checksums: list[int]


def encode(column: Column, first: int, rows: Array) -> Iterator[EncodedFile]:
    """Rows as files.

    Args:
        column: how they lie.
        first: number of the first row, the first of a file.
        rows: (rows, *column.shape), C order, of the column's dtype.
    """
    rows = np.ascontiguousarray(rows, dtype=column.stored_dtype)
    for start in range(0, len(rows), column.rows_per_file):
        part = rows[start : start + column.rows_per_file]
        chunks = [part[at : at + column.chunk_rows] for at in range(0, len(part), column.chunk_rows)]
        pieces: list[Any] = []
        for chunk in chunks:
            padding = column.chunk_rows * column.row_bytes - chunk.nbytes
            pieces += [as_bytes(chunk), padding, checksum_bytes(checksum(chunk, padding))]
        pieces.append(column.index(len(chunks)))
        number = (first + start) // column.rows_per_file
        yield EncodedFile(number, pieces, [checksum(chunk) for chunk in chunks])


def checksum(rows: Array, padding: int = 0) -> int:
    """crc32c of an array's bytes (C order), and of as many zero bytes behind them."""
    found: int = google_crc32c.value(as_bytes(rows))
    return extended(found, np.zeros(padding, dtype=np.uint8))


def extended(found: int, more: Bytes) -> int:
    """crc32c of what `found` is of, with more bytes behind it."""
    value: int = google_crc32c.extend(found, more)
    return value


def checksum_bytes(value: int) -> bytes:
    """A crc32c as it lies on disk."""
    return value.to_bytes(CHECKSUM_BYTES, "little")


def as_bytes(rows: Array) -> Bytes:
    """The bytes of an array in C order; not a copy where the array has that order."""
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
