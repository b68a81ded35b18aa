"""The feature store: what a frozen backbone said of each image, once.

One store a recipe. A row is found by its image's content (the digest of the canonical pixels), so the same image
in two cohorts is one row. Imports neither torch nor anything of the benchmark: an outside analysis reads
features with numpy and zarr alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stores.errors import NotFiniteError, RowsMissingError, StoreMismatchError
from stores.keys import DIGEST_BYTES, FeatureRecipe, pack_digests, unpack_digests
from stores.rows import Block, Column, RowStore

KIND = "features"


class Features(NamedTuple):
    """A matrix and what its rows are.

    Attributes:
        matrix: (rows, dim), the stored dtype.
        images: digest of the canonical pixels of each row.
    """

    matrix: npt.NDArray[np.floating]
    images: list[str]


class FeatureStore:
    """Embeddings of images under one recipe, appended by one writer, read by many."""

    def __init__(self, rows: RowStore, recipe: FeatureRecipe) -> None:
        self._rows = rows
        self.recipe = recipe
        self._index: dict[str, int] = {}
        self._index_images()

    @classmethod
    def create(cls, folder: Path, recipe: FeatureRecipe, dim: int) -> "FeatureStore":
        """Open the store of `recipe` in `folder`, or make an empty one for embeddings of length `dim`.

        Raises:
            StoreMismatchError: the folder holds a store of another recipe or length.
        """
        attributes = {"kind": KIND, "dim": dim, "key": recipe.key, "recipe": recipe.to_json()}
        return cls(RowStore.create(folder, _columns(dim, recipe.dtype), attributes), recipe)

    @classmethod
    def open(cls, folder: Path) -> "FeatureStore":
        """Open a store that was made before.

        Raises:
            StoreNotFoundError: there is no committed store.
            StoreMismatchError: it is not a feature store, or its key does not fit its recipe.
            StoreDamagedError: chunks are missing or the commit record is not sound.
        """
        attributes = RowStore.open(folder, {}).attributes
        if attributes.get("kind") != KIND:
            raise StoreMismatchError(f"{folder} is no feature store (its kind is {attributes.get('kind')!r})")
        try:
            recipe = FeatureRecipe.from_json(attributes["recipe"])
            columns = _columns(int(attributes["dim"]), recipe.dtype)
            sound = recipe.key == attributes["key"]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreMismatchError(f"the attributes of {folder} are not a feature store's: {error!r}") from error
        if not sound:
            raise StoreMismatchError(f"the key of {folder} does not fit its recipe: the store was altered")
        return cls(RowStore.open(folder, columns), recipe)

    @property
    def folder(self) -> Path:
        """Where the store lies."""
        return self._rows.folder

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._rows.columns["embedding"].shape[0]

    @property
    def digest(self) -> str:
        """SHA-256 over everything committed."""
        return self._rows.digest

    def __len__(self) -> int:
        return self._rows.rows

    def missing(self, images: Iterable[str]) -> list[str]:
        """Those of the images (digests) that have no row yet, each once, in the order given."""
        return [image for image in dict.fromkeys(images) if image not in self._index]

    def append(self, images: Sequence[str], matrix: npt.NDArray[np.floating]) -> int:
        """Add the rows of images that are not there yet; answers how many were added.

        Args:
            images: digest of each row's canonical pixels.
            matrix: (len(images), dim).

        Raises:
            NotFiniteError: an embedding holds NaN or infinity; nothing is added then.
            StoreLockedError: another process is writing.
            StoreMismatchError: the shapes do not fit.
        """
        if matrix.shape != (len(images), self.dim):
            raise StoreMismatchError(f"expected {(len(images), self.dim)} features, got {matrix.shape}")
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(matrix, dtype=self.recipe.dtype)
        bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        if bad.size:
            raise NotFiniteError(
                f"the embedding of image {images[bad[0]][:12]} holds NaN or infinity as {self.recipe.dtype} "
                f"({bad.size} such rows): nothing was stored; try --precision fp32"
            )
        with self.writing():
            # The first of equal images counts; what another writer added meanwhile is left alone.
            first = {image: row for row, image in reversed(list(enumerate(images)))}
            keep = [first[image] for image in self.missing(images)]
            self._rows.append(embedding=stored[keep], image=pack_digests(images[row] for row in keep))
            self._index_images()
        return len(keep)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the store's only writer for as long as the block runs; may be nested.

        Raises:
            StoreLockedError: another process is writing.
        """
        with self._rows.writing():
            self._index_images()
            yield

    def load(self, images: Sequence[str] | None = None) -> Features:
        """The whole matrix in stored order, or the rows of `images` in the order given.

        The matrix is read once and gathered in memory; a row on its own would cost as much as a thousand.

        Raises:
            RowsMissingError: some of the images have no row.
            StoreDamagedError: a checksum does not fit.
        """
        matrix = self._rows.read("embedding")
        if images is None:
            return Features(matrix, list(self._index))
        lacking = self.missing(images)
        if lacking:
            raise RowsMissingError(
                f"{len(lacking)} of {len(set(images))} images have no features in {self.folder.name}, "
                f"the first is {lacking[0][:12]}: run `peftbench extract` again"
            )
        return Features(matrix[[self._index[image] for image in images]], list(images))

    def refresh(self) -> None:
        """See what other processes have committed since."""
        self._rows.refresh()
        self._index_images()

    def damaged_blocks(self, start: int = 0) -> list[Block]:
        """Appended blocks from row `start` on whose bytes are not what was committed; reads them all."""
        return self._rows.damaged_blocks(start)

    def _index_images(self) -> None:
        # Rows are only ever appended, so only the new ones are read.
        known = len(self._index)
        if known < self._rows.rows:
            fresh = unpack_digests(self._rows.read("image", known))
            self._index.update((image, known + offset) for offset, image in enumerate(fresh))


def open_features(path: str | Path) -> FeatureStore:
    """A feature store, opened for reading.

    The one line of an outside analysis: `matrix, images = open_features(path).load()`.
    """
    return FeatureStore.open(Path(path))


def _columns(dim: int, dtype: str) -> dict[str, Column]:
    return {
        "embedding": Column(dtype, (dim,), ("feature",)),
        "image": Column("uint8", (DIGEST_BYTES,), ("byte",)),
    }
