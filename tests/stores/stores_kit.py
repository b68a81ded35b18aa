"""What the tests of the stores share: a recipe, rows that are known from their number, and ways to break files."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stores.features import FeatureStore
from stores.keys import FeatureRecipe, digest_of

RECIPE = FeatureRecipe(
    architecture="timm:tiny",
    weights="0" * 64,
    transform="resize(224,bicubic,antialias)|normalize(0.5)",
    output="layer4|avgpool",
    dtype="float32",
    precision="fp32",
    device="cpu/AVX512",
    batch_size=16,
    libraries={"torch": "2.6.0", "timm": "1.0.15"},
)

DIM = 3


def recipe(**changes: Any) -> FeatureRecipe:
    return replace(RECIPE, **changes)


def image(row: int) -> str:
    return digest_of(["image", row])


def images(start: int, stop: int) -> list[str]:
    return [image(row) for row in range(start, stop)]


def embeddings(start: int, stop: int, dim: int = DIM) -> npt.NDArray[np.float32]:
    """Rows whose every element is a function of its row and column; none is zero."""
    row = np.arange(start, stop, dtype=np.float32)[:, None]
    return row + np.float32(0.5) + np.arange(dim, dtype=np.float32) / np.float32(8 * dim)


def filled(folder: Path, *stops: int, dim: int = DIM) -> FeatureStore:
    """A store to which the rows up to each stop were appended, one block a stop."""
    store = FeatureStore.create(folder, RECIPE, dim)
    for start, stop in zip((0, *stops), stops, strict=False):
        store.append(images(start, stop), embeddings(start, stop, dim))
    return store


def holds_exactly(folder: Path, count: int, dim: int = DIM) -> None:
    """Assert that a fresh reader finds the rows [0, count) as they were appended, and nothing else."""
    store = FeatureStore.open(folder)
    matrix, found = store.load()
    assert found == images(0, count)
    np.testing.assert_array_equal(matrix, embeddings(0, count, dim))
    assert store.damaged_blocks() == []


def chunk_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "c" in path.relative_to(folder).parts)


def random_bytes(files: list[Path], count: int, seed: int = 0) -> Iterator[tuple[Path, int, int]]:
    """File, offset and mask of `count` bytes, drawn evenly from all bytes of the files."""
    random = np.random.default_rng(seed)
    sizes = np.cumsum([path.stat().st_size for path in files])
    for position in random.integers(0, sizes[-1], count):
        index = int(np.searchsorted(sizes, position, side="right"))
        offset = int(position - (sizes[index - 1] if index else 0))
        yield files[index], offset, int(random.integers(1, 256))


def flip(path: Path, offset: int, mask: int) -> None:
    """Change one byte; the same call again restores it."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ mask]))
