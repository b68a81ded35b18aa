"""The feature store: what a frozen backbone said of each image, once.

One store a recipe, one array an output of the forward pass. A row is found by its image's content (the digest of the
canonical pixels), so the same image in two cohorts is one row; a cohort's sample ids are a view onto such rows. Imports
neither torch nor anything of the benchmark: an outside analysis reads features with numpy alone.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stores.commit import MEND, Commit
from stores.errors import NotFiniteError, RowsMissingError, StoreDamagedError, StoreMismatchError
from stores.keys import DIGEST_BYTES, pack_digests, unpack_digests
from stores.layout import Column
from stores.local import Files, Mapped
from stores.lock import Wait
from stores.recipe import MAIN_OUTPUT, FeatureRecipe
from stores.remote import RemoteFiles, is_remote
from stores.rows import RowStore
from stores.views import CohortView, read_samples

KIND = "features"

CHUNK_ROWS = 1024
"""Embeddings in one file: megabytes, so that opening files costs little beside reading them."""

IMAGE_CHUNK_ROWS = 8192
"""Digests in one file."""


class Features(NamedTuple):
    """A matrix and what its rows are.

    Attributes:
        matrix: (rows, ...), the stored dtype; `Mapped` where it was asked for.
        ids: of each row: the digest of its image's canonical pixels, or a sample id where a cohort was asked.
    """

    matrix: npt.NDArray[np.floating]
    ids: list[str]


class MappedFeatures(NamedTuple):
    """Rows left on the disk, and what they are."""

    matrix: Mapped
    ids: list[str]


class FeatureStore:
    """Embeddings of images under one recipe, appended by one writer, read by many."""

    def __init__(self, rows: RowStore, recipe: FeatureRecipe) -> None:
        self._rows = rows
        self.recipe = recipe
        self._images: list[str] = []
        self._index: dict[str, int] = {}
        self._read_at: Commit | None = None

    @classmethod
    def create(
        cls,
        folder: Path,
        recipe: FeatureRecipe,
        shapes: Mapping[str, tuple[int, ...]],
        wait: Wait | None = None,
    ) -> "FeatureStore":
        """Open the store of `recipe` in `folder`, or make an empty one.

        Args:
            folder: where it lies.
            recipe: what makes its rows.
            shapes: of one row of each of the recipe's outputs.
            wait: what to do while another process makes it; by default it is an error.

        Raises:
            StoreMismatchError: the folder holds a store of another recipe or other shapes.
        """
        if set(shapes) != set(recipe.outputs):
            raise StoreMismatchError(f"shapes are given of {sorted(shapes)}, the recipe's are {sorted(recipe.outputs)}")
        attributes = {
            "kind": KIND,
            "key": recipe.key,
            "recipe": recipe.to_json(),
            "shapes": {name: list(shapes[name]) for name in recipe.outputs},
        }
        return cls(RowStore.create(folder, feature_columns(attributes), attributes, wait), recipe)

    @classmethod
    def open(cls, where: Path | Files) -> "FeatureStore":
        """Open a store that was made before.

        Raises:
            StoreNotFoundError: there is no committed store.
            StoreMismatchError: it is not a feature store, or its key does not fit its recipe.
            StoreDamagedError: files are missing or the commit record is not sound.
        """
        rows = RowStore.open(where, feature_columns)
        return cls(rows, FeatureRecipe.from_json(rows.attributes["recipe"]))

    @property
    def folder(self) -> Path:
        """Where the store lies on this machine."""
        return self._rows.folder

    @property
    def where(self) -> str:
        """Folder or address of the store."""
        return self._rows.where

    @property
    def rows(self) -> RowStore:
        """The table underneath."""
        return self._rows

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """The stored outputs: name to the shape of one row."""
        return {name: self._rows.columns[name].shape for name in self.recipe.outputs}

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._rows.columns[MAIN_OUTPUT].shape[0]

    @property
    def digest(self) -> str:
        """SHA-256 over everything committed."""
        return self._rows.digest

    @property
    def images(self) -> list[str]:
        """Image digest of each row, in stored order.

        Raises:
            StoreDamagedError: they are not what was committed.
        """
        self._read_images()
        return list(self._images)

    def __len__(self) -> int:
        return self._rows.rows

    def missing(self, images: Iterable[str]) -> list[str]:
        """Those of the images (digests) that have no row yet, each once, in the order given."""
        index = self._row_of()
        return [image for image in dict.fromkeys(images) if image not in index]

    def append(self, images: Sequence[str], outputs: Mapping[str, npt.NDArray[np.floating]]) -> int:
        """Add the rows of images that are not there yet; answers how many were added.

        Args:
            images: digest of each row's canonical pixels.
            outputs: one array a stored output, (len(images), *shape) each.

        Raises:
            NotFiniteError: an output holds NaN or infinity; nothing is added then.
            StoreLockedError: another process is writing.
            StoreMismatchError: the outputs or their shapes do not fit.
        """
        stored = self._stored(images, outputs)
        with self.writing():
            # The first of equal images counts; what another writer added meanwhile is left alone.
            first = {image: row for row, image in reversed(list(enumerate(images)))}
            keep = [first[image] for image in self.missing(images)]
            chosen = {name: rows if len(keep) == len(rows) else rows[keep] for name, rows in stored.items()}
            self._rows.append(**chosen, image=pack_digests(images[row] for row in keep))
        return len(keep)

    @contextmanager
    def writing(self, wait: Wait | None = None) -> Iterator[None]:
        """Be the store's only writer for as long as the block runs; may be nested.

        Args:
            wait: what to do while another process writes; by default it is an error.

        Raises:
            StoreLockedError: another process is writing.
        """
        with self._rows.writing(wait):
            yield

    def load(self, images: Sequence[str] | None = None, output: str = MAIN_OUTPUT) -> Features:
        """The whole matrix in stored order, or the rows of `images` in the order given.

        Whole chunks are read and gathered in memory; a row on its own would cost as much as a thousand.

        Args:
            images: digests of canonical pixels; by default all.
            output: which of the stored outputs.

        Raises:
            RowsMissingError: some of the images have no row.
            StoreDamagedError: the bytes are not what was committed.
            StoreMismatchError: there is no such output.
        """
        self._check_output(output)
        if images is None:
            return Features(self._rows.read(output), self.images)
        rows = self.rows_of(images)
        return Features(self._rows.gather(output, rows), list(images))

    def load_mapped(self, output: str = MAIN_OUTPUT) -> MappedFeatures:
        """All rows, left on the disk: `matrix[numbers]` copies what is asked for and reads nothing else.

        Raises:
            RemoteError: the store is on another machine.
            StoreMismatchError: there is no such output.
        """
        self._check_output(output)
        return MappedFeatures(self._rows.mapped(output), self.images)

    def rows_of(self, images: Sequence[str]) -> npt.NDArray[np.int64]:
        """Row number of each image.

        Raises:
            RowsMissingError: some of the images have no row.
        """
        index = self._row_of()
        lacking = self.missing(images)
        if lacking:
            raise RowsMissingError(
                f"{len(lacking)} of {len(set(images))} images have no features in {self.where}, "
                f"the first is {lacking[0][:12]}: run `peftbench extract` again"
            )
        return np.array([index[image] for image in images], dtype=np.int64)

    def view(self, samples: Mapping[str, str] | str | Path) -> CohortView:
        """A cohort's samples as rows of this store.

        Args:
            samples: sample id to image digest, or the path of a cohort's `manifest.parquet`.
        """
        return CohortView(self, samples if isinstance(samples, Mapping) else read_samples(Path(samples)))

    def refresh(self) -> None:
        """See what other processes have committed since."""
        self._rows.refresh()

    def _stored(self, images: Sequence[str], outputs: Mapping[str, npt.NDArray[np.floating]]) -> dict[str, Any]:
        if set(outputs) != set(self.outputs):
            raise StoreMismatchError(f"expected the outputs {sorted(self.outputs)}, got {sorted(outputs)}")
        stored = {}
        for name, matrix in outputs.items():
            if matrix.shape != (len(images), *self.outputs[name]):
                raise StoreMismatchError(
                    f"expected {(len(images), *self.outputs[name])} values of {name!r}, got {matrix.shape}"
                )
            with np.errstate(over="ignore"):
                stored[name] = np.ascontiguousarray(matrix, dtype=self.recipe.dtype)
            bad = not_finite(stored[name])
            if bad.size:
                raise NotFiniteError(
                    f"{name!r} of image {images[bad[0]][:12]} holds NaN or infinity as {self.recipe.dtype} "
                    f"({bad.size} such rows): nothing was stored; try --precision fp32 or --dtype float32"
                )
        return stored

    def _check_output(self, output: str) -> None:
        if output not in self.recipe.outputs:
            raise StoreMismatchError(
                f"the store {self.where} has no output {output!r}: it has {', '.join(self.outputs)}"
            )

    def _row_of(self) -> dict[str, int]:
        self._read_images()
        if len(self._index) != len(self._images):
            raise StoreDamagedError(f"{self.where} holds an image twice: {MEND}")
        return self._index

    def _read_images(self) -> None:
        """Read the digests of the rows that were committed since the last time."""
        commit, before = self._rows.commit, self._read_at
        if commit is before:
            return
        known = len(self._images) // IMAGE_CHUNK_ROWS
        if before is None or before.checksums["image"][:known] != commit.checksums["image"][:known]:
            # The first time, or the store was repaired: rows may have moved.
            known = 0
        start, held = known * IMAGE_CHUNK_ROWS, len(self._images)
        fresh = unpack_digests(self._rows.read("image", start))
        if fresh[: held - start] == self._images[start:]:
            # Grown: what is known stays, however much that is.
            added = fresh[held - start :]
            self._images += added
            self._index.update((image, held + offset) for offset, image in enumerate(added))
        else:
            self._images[start:] = fresh
            self._index = {image: row for row, image in enumerate(self._images)}
        self._read_at = commit


def open_features(where: str | Path, **options: Any) -> FeatureStore:
    """A feature store, opened for reading.

    The one line of an outside analysis: `X, ids = open_features(path).load()`.

    Args:
        where: folder of the store, or its address: `s3://bucket/key`, `https://host/path`.
        options: of the connection, as `stores.remote.RemoteFiles` takes them.
    """
    text = str(where)
    return FeatureStore.open(RemoteFiles(text, **options) if is_remote(text) else Path(where))


def feature_columns(attributes: Mapping[str, Any]) -> dict[str, Column]:
    """The arrays of the feature store that has these attributes.

    Raises:
        StoreMismatchError: they are not a feature store's, or the key does not fit the recipe.
    """
    if attributes.get("kind") != KIND:
        raise StoreMismatchError(f"this is no feature store (its kind is {attributes.get('kind')!r})")
    try:
        recipe = FeatureRecipe.from_json(attributes["recipe"])
        shapes = {name: tuple(map(int, attributes["shapes"][name])) for name in recipe.outputs}
        sound = recipe.key == attributes["key"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreMismatchError(f"its attributes are not a feature store's: {error!r}") from error
    if not sound:
        raise StoreMismatchError("the store's key does not fit its recipe: it was altered")
    bad = [name for name, shape in shapes.items() if len(shape) not in {1, 2}]
    if bad:
        raise StoreMismatchError(f"output {bad[0]!r} has rows of the shape {shapes[bad[0]]}, expected one or two axes")
    columns = {name: _output_column(name, recipe, shape) for name, shape in shapes.items()}
    columns["image"] = Column(
        "uint8",
        (DIGEST_BYTES,),
        ("byte",),
        IMAGE_CHUNK_ROWS,
        attributes={"long_name": "SHA-256 of the image's canonical pixels"},
    )
    return columns


def _output_column(name: str, recipe: FeatureRecipe, shape: tuple[int, ...]) -> Column:
    # Axes of the same name have the same length for xarray, and outputs differ in theirs.
    prefix = "" if name == MAIN_OUTPUT else f"{name}_"
    axes = ("block", "feature")[-len(shape) :]
    # `coordinates` is what CF and xarray call the arrays that label others.
    facts = {"long_name": f"{name}: {recipe.outputs[name]}", "coordinates": "image"}
    return Column(recipe.dtype, shape, tuple(prefix + axis for axis in axes), CHUNK_ROWS, attributes=facts)


def not_finite(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Numbers of the rows that hold NaN or infinity."""
    flat = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    if flat.dtype == np.float16:
        # numpy asks float16 number by number; all bits of the exponent set says the same at memory's speed.
        wrong = (flat.view(np.uint16) & 0x7C00) == 0x7C00
        return np.flatnonzero(wrong.any(axis=1))
    return np.flatnonzero(~np.isfinite(flat).all(axis=1))
