"""A device that is not waited for, and stores of many small files."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores_kit import PICTURES, ROWS, filled, filled_images

from stores import features, images, layout


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_device() -> Iterator[None]:
    """Flushing takes milliseconds a file, and no test pulls the plug; that it is done has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def small_chunks() -> Iterator[None]:
    """Stores of some dozens of rows that have several chunks in every column."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "CHUNK_ROWS", 16)
        patch.setattr(features, "IMAGE_CHUNK_ROWS", 32)
        patch.setattr(layout, "CHECKSUM_CHUNK_ROWS", 32)
        patch.setattr(images, "DIGEST_CHUNK_ROWS", 32)
        patch.setattr(images, "_DIGESTS", dataclasses.replace(images._DIGESTS, chunk_rows=32))
        yield


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, small_chunks: None) -> Path:
    """A feature store of several chunks a column; every test leaves it as it was."""
    return filled(tmp_path_factory.mktemp("sound") / "features", 40, ROWS).folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy to break for good, in a folder of its own."""
    return Path(shutil.copytree(sound, tmp_path / "stores" / "features"))


@pytest.fixture(scope="module")
def sound_images(tmp_path_factory: pytest.TempPathFactory, small_chunks: None) -> Path:
    """An image store of noisy pictures, in two shards; every test leaves it as it was."""
    return filled_images(tmp_path_factory.mktemp("images") / "images", 30, PICTURES).folder


@pytest.fixture
def gallery(sound_images: Path, tmp_path: Path) -> Path:
    """A copy of the image store, to break."""
    return Path(shutil.copytree(sound_images, tmp_path / "images"))
