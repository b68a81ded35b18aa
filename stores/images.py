"""The image store: canonical pixels, decoded once.

A row holds one 8-bit picture in the upper left corner of a square canvas, and the extent that is picture. Rows are
found by the digest of those pixels. A second table remembers which source (a file's bytes under a pixel policy)
became which picture, so that a file is decoded once, however often and from wherever it is prepared.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stores.errors import RowsMissingError, StoreMismatchError
from stores.keys import DIGEST_BYTES, pack_digests, pixels_digest, unpack_digests
from stores.rows import Column, RowStore

KIND = "images"

SHARD_ROWS = 64
"""Pictures in one file: large enough to stream, small enough to rewrite when the last one is not full."""

CHUNK_ROWS = 8
"""Pictures in one chunk: each chunk costs zarr a fixed time, and a single picture costs its whole chunk."""

Pixels = npt.NDArray[np.uint8]


class ImageStore:
    """Canonical pictures of a cohort under one pixel policy."""

    def __init__(self, pictures: RowStore, sources: RowStore) -> None:
        self._pictures = pictures
        self._sources = sources
        self._index: dict[str, int] = {}
        self._known: dict[str, str] = {}
        self._index_rows()

    @classmethod
    def create(cls, folder: Path, policy: str, side: int) -> "ImageStore":
        """Open the store in `folder`, or make an empty one.

        Args:
            folder: where it lies.
            policy: how files become pixels, as one readable string.
            side: of the canvas, in pixels.

        Raises:
            StoreMismatchError: the folder holds a store of another policy or side.
        """
        attributes = {"kind": KIND, "policy": policy, "side": side}
        pictures = RowStore.create(folder / "pictures", _picture_columns(side), attributes)
        return cls(pictures, RowStore.create(folder / "sources", _SOURCE_COLUMNS, attributes))

    @classmethod
    def open(cls, folder: Path) -> "ImageStore":
        """Open a store that was made before.

        Raises:
            StoreNotFoundError: there is no committed store.
            StoreMismatchError: it is not an image store.
            StoreDamagedError: chunks are missing or the commit record is not sound.
        """
        attributes = RowStore.open(folder / "pictures", {}).attributes
        if attributes.get("kind") != KIND:
            raise StoreMismatchError(f"{folder} is no image store (its kind is {attributes.get('kind')!r})")
        try:
            columns = _picture_columns(int(attributes["side"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreMismatchError(f"the attributes of {folder} are not an image store's: {error!r}") from error
        pictures = RowStore.open(folder / "pictures", columns)
        return cls(pictures, RowStore.open(folder / "sources", _SOURCE_COLUMNS))

    @property
    def policy(self) -> str:
        """How files became pixels."""
        return str(self._pictures.attributes.get("policy"))

    @property
    def side(self) -> int:
        """Side of the canvas in pixels."""
        return self._pictures.columns["pixels"].shape[0]

    def __len__(self) -> int:
        return self._pictures.rows

    def __contains__(self, image: str) -> bool:
        return image in self._index

    @property
    def known_sources(self) -> Mapping[str, str]:
        """Source digest (of a file's bytes) to image digest, for all that was decoded before."""
        return self._known

    def append(self, sources: Sequence[str], pictures: Sequence[Pixels]) -> list[str]:
        """Store decoded pictures; answers their image digests.

        Pictures are committed before the sources that name them, so a source never points at nothing.

        Args:
            sources: digest of the bytes each picture was decoded from.
            pictures: (height, width) uint8 each, neither side longer than the canvas.

        Raises:
            StoreMismatchError: a picture is larger than the canvas.
            StoreLockedError: another process is writing.
        """
        images = [pixels_digest(picture) for picture in pictures]
        named = dict(zip(sources, images, strict=True))
        with self._pictures.writing(), self._sources.writing():
            self._index_rows()
            fresh = {image: picture for image, picture in zip(images, pictures, strict=True) if image not in self}
            if fresh:
                self._append_pictures(fresh)
            pairs = {source: image for source, image in named.items() if source not in self._known}
            if pairs:
                self._sources.append(source=pack_digests(pairs), image=pack_digests(pairs.values()))
            self._index_rows()
        return images

    def read(self, start: int, stop: int) -> tuple[list[str], list[Pixels]]:
        """Image digests and pictures (views without padding) of the rows [start, stop).

        Raises:
            StoreDamagedError: a checksum does not fit.
        """
        images = unpack_digests(self._pictures.read("image", start, stop))
        canvas = self._pictures.read("pixels", start, stop)
        extents = self._pictures.read("extent", start, stop)
        return images, [canvas[row, :height, :width] for row, (height, width) in enumerate(extents)]

    def rows_of(self, images: Sequence[str]) -> npt.NDArray[np.int64]:
        """Row number of each image.

        Raises:
            RowsMissingError: some image is not in the store.
        """
        lacking = [image for image in images if image not in self]
        if lacking:
            raise RowsMissingError(
                f"{len(lacking)} images are not in the image store, the first is {lacking[0][:12]}: "
                "run `peftbench prepare` again"
            )
        return np.array([self._index[image] for image in images], dtype=np.int64)

    def _append_pictures(self, fresh: Mapping[str, Pixels]) -> None:
        side = self.side
        canvas = np.zeros((len(fresh), side, side), dtype=np.uint8)
        extent = np.zeros((len(fresh), 2), dtype=np.int32)
        for row, picture in enumerate(fresh.values()):
            height, width = picture.shape
            if max(height, width) > side:
                raise StoreMismatchError(f"a picture of {height} x {width} does not fit a canvas of {side}")
            canvas[row, :height, :width] = picture
            extent[row] = height, width
        self._pictures.append(pixels=canvas, extent=extent, image=pack_digests(fresh))

    def _index_rows(self) -> None:
        known = len(self._index)
        fresh = unpack_digests(self._pictures.read("image", known))
        self._index.update((image, known + offset) for offset, image in enumerate(fresh))
        start = len(self._known)
        sources = unpack_digests(self._sources.read("source", start))
        images = unpack_digests(self._sources.read("image", start))
        self._known.update(zip(sources, images, strict=True))


def _picture_columns(side: int) -> dict[str, Column]:
    return {
        "pixels": Column("uint8", (side, side), ("y", "x"), CHUNK_ROWS, SHARD_ROWS // CHUNK_ROWS),
        "extent": Column("int32", (2,), ("height_width",)),
        "image": Column("uint8", (DIGEST_BYTES,), ("byte",)),
    }


_SOURCE_COLUMNS = {
    "source": Column("uint8", (DIGEST_BYTES,), ("byte",)),
    "image": Column("uint8", (DIGEST_BYTES,), ("byte",)),
}
