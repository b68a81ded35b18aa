"""Is a store sound? Every fault as a sentence, and the rows that it costs.

Without `deep` the commit record, the metadata, and the presence and size of every file are looked at: milliseconds.
With it every byte is read and held against its chunk's checksum and the commit record; then numbers must be finite,
no image may stand twice, and a picture must have the digest that it is found by.
"""

import errno
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stores import features, images
from stores.commit import BRING_BACK, COMMIT_FILE, MEND, Commit
from stores.errors import StoreDamagedError, StoreError, StoreMismatchError, StoreNotFoundError
from stores.features import not_finite
from stores.keys import pixels_digest, unpack_digests
from stores.layout import CHECKSUMS, Array, Column, checksum, with_checksums
from stores.local import THREADS, Extent, LocalFiles, file_fault, read_chunk
from stores.lock import is_locked
from stores.rows import METADATA_FILE, RowStore, metadata_faults, read_document

TRIES, PAUSE = 3, 0.05
"""Times that a table which seems damaged and changes meanwhile is looked at again, and seconds between."""


class Fault(NamedTuple):
    """Something that is wrong with a store.

    Attributes:
        what: one sentence.
        rows: [start, stop) that cannot be trusted as they are; None where rows are not the matter (metadata) or all are
            (the commit record).
        column: whose bytes are the matter; empty where it is their content.
    """

    what: str
    rows: tuple[int, int] | None = None
    column: str = ""


class Verdict(NamedTuple):
    """What was found of one table of a store.

    Attributes:
        folder: of the table.
        kind: features, images or sources; empty where it cannot be told.
        rows: committed.
        bytes: that were read.
        faults: empty where all is sound.
    """

    folder: Path
    kind: str
    rows: int
    bytes: int
    faults: list[Fault]


def tables_of(folder: Path) -> list[Path]:
    """The tables of a store: an image store has two, a feature store is one."""
    inner = [folder / name for name in ("pictures", "sources")]
    return inner if any(each.is_dir() for each in inner) else [folder]


def verify(folder: Path, *, deep: bool = False) -> list[Verdict]:
    """Look for damage in a store; changes nothing.

    Args:
        folder: of a feature store or an image store.
        deep: read every byte.

    Raises:
        StoreNotFoundError: there is nothing that was a store.
        StoreMismatchError: it is a store of another version.
    """
    if not any(was_table(each) for each in tables_of(folder)):
        raise StoreNotFoundError(f"{folder} holds no store: it has neither {COMMIT_FILE} nor {METADATA_FILE}")
    return [verify_table(each, deep=deep) for each in tables_of(folder)]


def was_table(folder: Path) -> bool:
    """Whether a folder has anything of a table, however damaged."""
    return (folder / COMMIT_FILE).exists() or any(folder.glob(METADATA_FILE)) or any(folder.glob(f"*/{METADATA_FILE}"))


def verify_table(folder: Path, *, deep: bool, settled: bool | None = None) -> Verdict:
    """Look for damage in one table; see `verify`, and `table_faults` for `settled`, which by default the lock tells."""
    files = LocalFiles(folder)
    for _ in range(TRIES):
        before = files.read_file(COMMIT_FILE)
        try:
            verdict = _verdict(folder, deep=deep, settled=settled)
        except (StoreMismatchError, FileNotFoundError):
            # Another process replaced it while it was read.
            if files.read_file(COMMIT_FILE) == before and before is not None:
                raise
            continue
        if not verdict.faults or (before is not None and files.read_file(COMMIT_FILE) == before):
            return verdict
        time.sleep(PAUSE)
    return _verdict(folder, deep=deep, settled=settled)


def _verdict(folder: Path, *, deep: bool, settled: bool | None) -> Verdict:
    if settled is None:
        settled = not is_locked(folder)
    files = LocalFiles(folder)
    try:
        commit = Commit.parse(files.read_file(COMMIT_FILE), str(folder))
    except (StoreDamagedError, StoreNotFoundError) as error:
        return Verdict(folder, "", 0, 0, [Fault(_told(error))])
    try:
        store = RowStore(files, columns_of(commit.attributes), commit)
        store.check_columns()
    except StoreMismatchError as error:
        return Verdict(folder, str(commit.attributes.get("kind", "")), commit.rows, 0, [Fault(str(error))])
    size = sum(extent.rows * extent.column.row_bytes for extent in map(store.extent, store.columns)) if deep else 0
    return Verdict(
        folder, str(commit.attributes["kind"]), commit.rows, size, table_faults(store, deep=deep, settled=settled)
    )


def table_faults(store: RowStore, *, deep: bool, settled: bool) -> list[Fault]:
    """What is wrong with a table, held against its commit record.

    Args:
        store: the table.
        deep: read every byte.
        settled: nobody else is writing; else the shapes may be about to follow the commit record.
    """
    files = LocalFiles(store.folder)
    faults = [Fault(each) for each in metadata_faults(files, store.columns, store.commit, exact=settled)]
    faults += list(_file_faults(store))
    lost = {(fault.rows, fault.column) for fault in faults}
    if deep:
        faults += [fault for fault in _byte_faults(store) if (fault.rows, fault.column) not in lost]
        faults += _content_faults(store, [each.rows for each in faults if each.rows and each.column != CHECKSUMS])
    return faults


def columns_of(attributes: Mapping[str, Any]) -> Mapping[str, Column]:
    """The columns of a table of any kind, from its attributes.

    Raises:
        StoreMismatchError: it is of no known kind.
    """
    makers = {
        features.KIND: features.feature_columns,
        images.KIND: images.image_columns,
        images.SOURCES: images.source_columns,
    }
    kind = attributes.get("kind")
    if kind not in makers:
        raise StoreMismatchError(f"a store of kind {kind!r} is not known: expected {', '.join(makers)}")
    return makers[kind](attributes)


def rebuilt_commit(folder: Path) -> Commit:
    """A commit record for a table that lost its own, from the metadata and the chunks' own checksums.

    Rows whose chunk is damaged are in it; `verify` finds them.

    Raises:
        StoreDamagedError: the metadata are lost as well.
    """
    document = read_document(LocalFiles(folder), METADATA_FILE)
    try:
        attributes = dict(document["attributes"])
        columns = with_checksums(columns_of(attributes))
        shapes = document["consolidated_metadata"]["metadata"]
        rows = min(int(shapes[name]["shape"][0]) for name in columns)
    except (KeyError, TypeError, ValueError, IndexError, StoreError) as error:
        raise StoreDamagedError(
            f"{folder} has lost both its commit record and its metadata: delete that folder, "
            "and run the command that made it again"
        ) from error
    files = LocalFiles(folder)
    sums = {name: tuple(_own_checksums(files, name, column, rows)) for name, column in columns.items()}
    return Commit(attributes, rows, sums)


def _own_checksums(files: LocalFiles, name: str, column: Column, rows: int) -> Iterator[int]:
    extent = Extent(name, column, rows, [0] * column.chunks(rows))
    for chunk in range(column.chunks(rows)):
        whole = np.zeros((extent.valid(chunk), *column.shape), dtype=column.stored_dtype)
        try:
            data = files.path(extent, chunk).read_bytes()
            offset = column.place(chunk)[1]
            whole = np.frombuffer(data, column.stored_dtype, whole.size, offset).reshape(whole.shape)
        except (OSError, ValueError):
            pass
        yield checksum(whole)


def _told(error: Exception) -> str:
    """What an error says, without the advice at its end."""
    return str(error).removesuffix(f": {MEND}").removesuffix(f": if there was one, {BRING_BACK}")


@contextmanager
def unreadable_is_lost() -> Iterator[None]:
    """Let a failing disk lose what it cannot read; anything else, such as a missing right, is no damage."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def _file_faults(store: RowStore) -> Iterator[Fault]:
    for name, column in store.columns.items():
        for file in range(column.files(store.rows)):
            fault = store.file_fault(name, file)
            if fault:
                first = file * column.rows_per_file
                yield Fault(fault, (first, min(first + column.rows_per_file, store.rows)), name)


def _byte_faults(store: RowStore) -> list[Fault]:
    """Read every file; some at a time."""
    jobs = [(name, file) for name, column in store.columns.items() for file in range(column.files(store.rows))]
    edges = [len(jobs) * each // THREADS for each in range(THREADS + 1)]
    with ThreadPoolExecutor(THREADS) as pool:
        parts = pool.map(lambda part: _faults_of(store, part), [jobs[low:high] for low, high in pairwise(edges)])
        return [fault for part in parts for fault in part]


def _faults_of(store: RowStore, jobs: list[tuple[str, int]]) -> list[Fault]:
    faults: list[Fault] = []
    scratch = np.empty(0, dtype=np.uint8)
    for name, file in jobs:
        extent = store.extent(name)
        size = extent.column.chunk_rows * extent.column.row_bytes
        if len(scratch) < size:
            scratch = np.empty(size, dtype=np.uint8)
        faults += _faults_in_file(store, extent, file, scratch)
    return faults


def _faults_in_file(store: RowStore, extent: Extent, file: int, scratch: Array) -> Iterator[Fault]:
    column = extent.column
    first = file * column.shard_chunks
    last = min(first + column.shard_chunks, column.chunks(extent.rows))
    every = (first * column.chunk_rows, min(last * column.chunk_rows, extent.rows))
    path = store.folder / extent.name / column.file_name(file)
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield Fault(f"the chunk file {extent.name}/{path.name} is missing", every, extent.name)
        return
    try:
        fault = file_fault(extent, file, handle)
        if fault:
            yield Fault(f"the chunk file {extent.name}/{path.name}: {fault}", every, extent.name)
            return
        for chunk in range(first, last):
            valid = extent.valid(chunk)
            rows = scratch[: valid * column.row_bytes].view(column.stored_dtype).reshape(valid, *column.shape)
            start = chunk * column.chunk_rows
            try:
                read_chunk(handle, extent, chunk, rows)
            except (StoreDamagedError, OSError) as error:
                if isinstance(error, OSError) and error.errno != errno.EIO:
                    raise
                yield Fault(f"{_told(error)} ({extent.name}/{path.name})", (start, start + valid), extent.name)
                continue
            if rows.dtype.kind == "f":
                for row in start + not_finite(rows):
                    yield Fault(f"row {row} of {extent.name!r} holds NaN or infinity", (int(row), int(row) + 1))
    finally:
        os.close(handle)


def _content_faults(store: RowStore, lost: list[tuple[int, int]]) -> list[Fault]:
    """What sound bytes can still get wrong: an image that stands twice, a picture under another's digest."""
    kind = store.attributes["kind"]
    name = "source" if kind == images.SOURCES else "image"
    trusted = np.ones(store.rows, dtype=bool)
    for start, stop in lost:
        trusted[start:stop] = False
    faults: list[Fault] = []
    seen: dict[str, int] = {}
    for start, stop in runs(trusted):
        for row, digest in enumerate(unpack_digests(store.read(name, start, stop)), start):
            first = seen.setdefault(digest, row)
            if first != row:
                faults.append(Fault(f"row {row} holds the {name} of row {first} once more", (row, row + 1)))
        if kind == images.KIND:
            faults += _picture_faults(store, start, stop)
        if kind == images.SOURCES:
            faults += _dangling_faults(store, start, stop)
    return faults


def _picture_faults(store: RowStore, start: int, stop: int) -> Iterator[Fault]:
    for low in range(start, stop, images.SHARD_ROWS):
        high = min(low + images.SHARD_ROWS, stop)
        canvas, extents = store.read("pixels", low, high), store.read("extent", low, high)
        digests = unpack_digests(store.read("image", low, high))
        for row, (picture, (height, width), digest) in enumerate(zip(canvas, extents, digests, strict=True), low):
            if pixels_digest(picture[:height, :width]) != digest:
                yield Fault(f"the picture in row {row} is not the one that its digest names", (row, row + 1))


def _dangling_faults(store: RowStore, start: int, stop: int) -> Iterator[Fault]:
    try:
        held = set(unpack_digests(RowStore.open(store.folder.parent / "pictures", images.image_columns).read("image")))
    except StoreError:
        # Its own verdict says why.
        return
    for row, image in enumerate(unpack_digests(store.read("image", start, stop)), start):
        if image not in held:
            yield Fault(f"row {row} names a picture that the store does not hold", (row, row + 1))


def runs(kept: Array) -> Iterator[tuple[int, int]]:
    """[start, stop) of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
