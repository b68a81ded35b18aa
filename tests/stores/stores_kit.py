"""What the tests of the stores share: a recipe, rows that are known from their number, and ways to break files."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stores.atomic import write_parts
from stores.features import FeatureStore
from stores.images import ImageStore
from stores.keys import digest_of, pixels_digest
from stores.layout import CHECKSUMS, Array, encode, row_checksums
from stores.recipe import FeatureRecipe
from stores.rows import RowStore
from stores.verify import columns_of, tables_of, verify

RECIPE = FeatureRecipe(
    architecture="timm:tiny",
    weights="0" * 64,
    transform="resize(224,bicubic,antialias)|normalize(mean=0.5;std=0.25)",
    outputs={"embedding": "layer4|avgpool", "blocks": "layer3,layer4|mean"},
    dtype="float32",
    precision="fp32",
    device="cpu/AVX512",
    batch_size=16,
    libraries={"torch": "2.6.0", "timm": "1.0.15"},
)

DIM = 3

ROWS, PICTURES = 75, 70
"""Of the sound stores: of chunks of 16 and 32 rows and shards of 64 pictures, the last one is not full."""

SHAPES = {"embedding": (DIM,), "blocks": (2, 4)}

SIDE = 8

Picture = npt.NDArray[np.uint8]


def recipe(**changes: Any) -> FeatureRecipe:
    return replace(RECIPE, **changes)


def image(row: int) -> str:
    return digest_of(["image", row])


def images(start: int, stop: int) -> list[str]:
    return [image(row) for row in range(start, stop)]


def embeddings(start: int, stop: int, shape: tuple[int, ...] = (DIM,)) -> npt.NDArray[np.float32]:
    """Rows whose every element is a function of its row, its place and the row's shape; none is zero."""
    size = int(np.prod(shape))
    row = np.arange(start, stop, dtype=np.float32)[:, None]
    return (row + np.float32(0.5) + np.arange(size, dtype=np.float32) / np.float32(8 * size)).reshape(-1, *shape)


def outputs(start: int, stop: int) -> dict[str, npt.NDArray[np.float32]]:
    return {name: embeddings(start, stop, shape) for name, shape in SHAPES.items()}


def append(folder: Path, start: int, stop: int) -> int:
    return FeatureStore.open(folder).append(images(start, stop), outputs(start, stop))


def filled(folder: Path, *stops: int) -> FeatureStore:
    """A store to which the rows up to each stop were appended, one call a stop."""
    store = FeatureStore.create(folder, RECIPE, SHAPES)
    for start, stop in zip((0, *stops), stops, strict=False):
        store.append(images(start, stop), outputs(start, stop))
    return store


def holds_rows(folder: Path, rows: Sequence[int]) -> None:
    """Assert that a fresh reader finds these rows as they were appended, in this order, and nothing else."""
    store = FeatureStore.open(folder)
    assert store.images == [image(row) for row in rows]
    for name, values in outputs(0, max(rows, default=-1) + 1).items():
        np.testing.assert_array_equal(store.load(output=name).matrix, values[list(rows)])
    assert faults(folder) == []


def holds_exactly(folder: Path, stop: int) -> None:
    """Assert that a fresh reader finds the rows [0, stop) as they were appended, and nothing else."""
    holds_rows(folder, range(stop))


def source(name: object) -> str:
    return digest_of(["source", name])


def picture(number: int, height: int = 5, width: int = 7) -> Picture:
    """A picture known from its number and extent."""
    return np.random.default_rng([number, height, width]).integers(0, 256, (height, width), dtype=np.uint8)


def add_pictures(store: ImageStore, start: int, stop: int) -> list[str]:
    return store.append(*drawn(range(start, stop)))


def drawn(numbers: Sequence[int]) -> tuple[list[str], list[Picture]]:
    """Sources and pictures of some numbers; extents vary."""
    made = [picture(number, 1 + number % SIDE, 1 + number // SIDE % SIDE) for number in numbers]
    return [source(number) for number in numbers], made


def filled_images(folder: Path, *stops: int) -> ImageStore:
    """An image store to which the pictures up to each stop were appended, one call a stop."""
    store = ImageStore.create(folder, "policy", SIDE)
    for start, stop in zip((0, *stops), stops, strict=False):
        add_pictures(store, start, stop)
    return store


def holds_pictures(folder: Path, numbers: Sequence[int]) -> None:
    """Assert that a fresh reader finds these pictures and their sources, and nothing else."""
    store = ImageStore.open(folder)
    sources, made = drawn(numbers)
    names, found = store.read(0, len(store))
    assert names == [pixels_digest(each) for each in made]
    for one, other in zip(found, made, strict=True):
        np.testing.assert_array_equal(one, other)
    assert store.known_sources == dict(zip(sources, names, strict=True))
    assert faults(folder) == []


def faults(folder: Path, *, deep: bool = True) -> list[str]:
    """What is wrong with a store, table by table, in words."""
    return [fault.what for verdict in verify(folder, deep=deep) for fault in verdict.faults]


def lost_rows(table: Path, *, deep: bool = True) -> list[int]:
    """Rows of a table that its faults name."""
    found = [fault.rows for verdict in verify(table, deep=deep) for fault in verdict.faults if fault.rows]
    return sorted({row for start, stop in found for row in range(start, stop)})


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def chunk_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("c.*"))


def random_bytes(files: list[Path], count: int, seed: int = 0) -> Iterator[tuple[Path, int, int]]:
    """File, offset and mask of `count` bytes, drawn evenly from all bytes of the files."""
    random = np.random.default_rng(seed)
    sizes = np.cumsum([path.stat().st_size for path in files])
    for position in random.integers(0, sizes[-1], count):
        index = int(np.searchsorted(sizes, position, side="right"))
        offset = int(position - (sizes[index - 1] if index else 0))
        yield files[index], offset, int(random.integers(1, 256))


def flip(path: Path, offset: int = 9, mask: int = 1) -> None:
    """Change one byte; the same call again restores it."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ mask]))


@contextmanager
def flipped(path: Path, offset: int = 9, mask: int = 1) -> Iterator[None]:
    flip(path, offset, mask)
    try:
        yield
    finally:
        flip(path, offset, mask)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\x00")


def swap(one: Path, other: Path) -> None:
    """Let two files change places."""
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def forge(table: Path, columns: Mapping[str, Array]) -> None:
    """Put other rows into some columns of a table, with checksums and a commit record that fit them."""
    store = RowStore.open(table, columns_of)
    values = {name: columns.get(name, store.read(name)) for name in store.own_columns}
    checksums = dict(store.commit.checksums)
    for name, rows in {**values, CHECKSUMS: row_checksums(values)}.items():
        files = [*encode(store.columns[name], 0, rows)]
        for file in files:
            write_parts(table / name / store.columns[name].file_name(file.number), file.parts)
        checksums[name] = tuple(value for file in files for value in file.checksums)
    replace(store.commit, checksums=checksums).write(table)


class PowerCutError(BaseException):
    """Not an Exception: nothing may catch it and go on."""


def cut_before(patch: Any, steps: Sequence[tuple[object, str]], turn: int, error: BaseException | None) -> None:
    """Let the call number `turn` of some functions, and all after it, fail; without an error, kill the process."""
    calls = count()

    def cut(original: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*words: Any, **named: Any) -> Any:
            if next(calls) >= turn:
                if error is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise error or PowerCutError
            return original(*words, **named)

        return counting

    for home, name in steps:
        patch.setattr(home, name, cut(getattr(home, name)))


EVERY_STEP = [(os, name) for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate")]
"""Calls by which the stores change what others see on the disk; files that have no name yet are nobody's business."""


def killed_at(turn: int, work: Callable[[], object], patch: Any) -> bool:
    """Do something in a process of its own that is killed (SIGKILL) before its step number `turn`.

    Answers False if the work had fewer steps and came to its end.
    """
    process = os.fork()
    if not process:
        status = 1
        try:
            cut_before(patch, EVERY_STEP, turn, None)
            work()
            status = 0
        finally:
            os._exit(status)
    _, code = os.waitpid(process, 0)
    if os.WIFSIGNALED(code):
        return True
    assert os.waitstatus_to_exitcode(code) == 0, "the work fails by itself"
    return False


def tables(folder: Path) -> dict[str, Path]:
    return {table.name: table for table in tables_of(folder)}
