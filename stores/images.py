"""The image store: canonical pixels, decoded once.

A row holds one 8-bit picture in the upper left corner of a square canvas, and the extent that is picture. Rows are
found by the digest of those pixels. A second table remembers which source (a file's bytes under a pixel policy)
became which picture, so that a file is decoded once, however often and from wherever it is prepared.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stores.commit import Commit
from stores.errors import RowsMissingError, StoreMismatchError
from stores.keys import DIGEST_BYTES, pack_digests, pixels_digest, unpack_digests
from stores.layout import Column
from stores.local import Mapped
from stores.lock import Wait
from stores.rows import RowStore

KIND = "images"

SHARD_ROWS = 64
"""Pictures in one file: large enough to stream, small enough to rewrite when the last one is not full."""

CHUNK_ROWS = 8
"""Pictures that share a checksum: the first touch of one reads all of them."""

DIGEST_CHUNK_ROWS = 8192
"""Digests in one file."""

Pixels = npt.NDArray[np.uint8]


class ImageStore:
    """Canonical pictures of a cohort under one pixel policy."""

    def __init__(self, pictures: RowStore, sources: RowStore) -> None:
        self._pictures = pictures
        self._sources = sources
        self._index: dict[str, int] = {}
        self._known: dict[str, str] = {}
        self._orphans: dict[str, str] = {}
        self._sources_read = 0
        self._maps: tuple[Mapped, npt.NDArray[np.int32]] | None = None
        self._read_at: tuple[Commit, Commit] | None = None
        self._index_rows()

    @classmethod
    def create(cls, folder: Path, policy: str, side: int, wait: Wait | None = None) -> "ImageStore":
        """Open the store in `folder`, or make an empty one.

        Args:
            folder: where it lies.
            policy: how files become pixels, as one readable string.
            side: of the canvas, in pixels.
            wait: what to do while another process makes it; by default it is an error.

        Raises:
            StoreMismatchError: the folder holds a store of another policy or side.
        """
        attributes = {"kind": KIND, "policy": policy, "side": side}
        pictures = RowStore.create(folder / "pictures", image_columns(attributes), attributes, wait)
        attributes = {**attributes, "kind": SOURCES}
        return cls(pictures, RowStore.create(folder / "sources", source_columns(attributes), attributes, wait))

    @classmethod
    def open(cls, folder: Path) -> "ImageStore":
        """Open a store that was made before.

        Raises:
            StoreNotFoundError: there is no committed store.
            StoreMismatchError: it is not an image store.
            StoreDamagedError: chunks are missing or the commit record is not sound.
        """
        pictures = RowStore.open(folder / "pictures", image_columns)
        return cls(pictures, RowStore.open(folder / "sources", source_columns))

    @property
    def policy(self) -> str:
        """How files became pixels."""
        return str(self._pictures.attributes.get("policy"))

    @property
    def side(self) -> int:
        """Side of the canvas in pixels."""
        return self._pictures.columns["pixels"].shape[0]

    @property
    def folder(self) -> Path:
        """Where the store lies."""
        return self._pictures.folder.parent

    @property
    def tables(self) -> tuple[RowStore, RowStore]:
        """The tables underneath: pictures, and sources."""
        return self._pictures, self._sources

    @property
    def images(self) -> list[str]:
        """Digest of each picture, in stored order."""
        return list(self._index)

    def __len__(self) -> int:
        return self._pictures.rows

    def __contains__(self, image: str) -> bool:
        return image in self._index

    @property
    def known_sources(self) -> Mapping[str, str]:
        """Source digest (of a file's bytes) to image digest, for all that was decoded before."""
        return self._known

    def append(self, sources: Sequence[str], pictures: Sequence[Pixels], wait: Wait | None = None) -> list[str]:
        """Store decoded pictures; answers their image digests.

        Pictures are committed before the sources that name them, so a source never points at nothing.

        Args:
            sources: digest of the bytes each picture was decoded from.
            pictures: (height, width) uint8 each, neither side longer than the canvas.
            wait: what to do while another process writes; by default it is an error.

        Raises:
            StoreMismatchError: a picture is larger than the canvas.
            StoreLockedError: another process is writing.
        """
        images = [pixels_digest(picture) for picture in pictures]
        named = dict(zip(sources, images, strict=True))
        with self._pictures.writing(wait), self._sources.writing(wait):
            if self._read_at != (self._pictures.commit, self._sources.commit):
                # Another process has written, and in a repair rows move.
                self._index, self._known, self._orphans, self._sources_read, self._maps = {}, {}, {}, 0, None
                self._index_rows()
            fresh = {image: picture for image, picture in zip(images, pictures, strict=True) if image not in self}
            if fresh:
                self._append_pictures(fresh)
            unknown = {source: image for source, image in named.items() if source not in self._known}
            pairs = {source: image for source, image in unknown.items() if self._orphans.get(source) != image}
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

    def gather(self, images: Sequence[str]) -> list[Pixels]:
        """Pictures of images in the order given, copied from where they lie; nothing else is read or decoded.

        Raises:
            RowsMissingError: some image is not in the store.
            StoreDamagedError: a picture's checksum does not fit.
        """
        rows = self.rows_of(images)
        if self._maps is None or len(self._maps[0]) != len(self):
            self._maps = self._pictures.mapped("pixels"), self._pictures.read("extent")
        mapped, extents = self._maps
        canvas = mapped.gather(rows)
        return [canvas[row, :height, :width] for row, (height, width) in enumerate(extents[rows])]

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
        start = self._sources_read
        sources = unpack_digests(self._sources.read("source", start))
        images = unpack_digests(self._sources.read("image", start))
        self._sources_read += len(sources)
        # A source whose picture was damaged and dropped is unknown, until that is decoded again.
        pairs = {**self._orphans, **dict(zip(sources, images, strict=True))}
        self._known.update((source, image) for source, image in pairs.items() if image in self._index)
        self._orphans = {source: image for source, image in pairs.items() if image not in self._index}
        self._read_at = self._pictures.commit, self._sources.commit


SOURCES = "sources"
"""Kind of the table beside the pictures."""


def image_columns(attributes: Mapping[str, Any]) -> dict[str, Column]:
    """The arrays of the table of pictures that has these attributes.

    Raises:
        StoreMismatchError: they are not an image store's.
    """
    side = _side(attributes, KIND)
    return {
        "pixels": Column(
            "uint8",
            (side, side),
            ("y", "x"),
            CHUNK_ROWS,
            SHARD_ROWS // CHUNK_ROWS,
            {"long_name": "canonical pixels in the upper left corner of a canvas", "coordinates": "image extent"},
        ),
        "extent": Column("int32", (2,), ("height_width",), DIGEST_CHUNK_ROWS),
        "image": _DIGESTS,
    }


def source_columns(attributes: Mapping[str, Any]) -> dict[str, Column]:
    """The arrays of the table of sources that has these attributes.

    Raises:
        StoreMismatchError: they are not an image store's.
    """
    _side(attributes, SOURCES)
    return {"source": _DIGESTS, "image": _DIGESTS}


def _side(attributes: Mapping[str, Any], kind: str) -> int:
    if attributes.get("kind") != kind:
        raise StoreMismatchError(f"this is no image store (its kind is {attributes.get('kind')!r})")
    try:
        return int(attributes["side"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreMismatchError(f"its attributes are not an image store's: {error!r}") from error


_DIGESTS = Column("uint8", (DIGEST_BYTES,), ("byte",), DIGEST_CHUNK_ROWS)
