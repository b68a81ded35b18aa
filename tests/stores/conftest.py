"""A device that is not waited for, and stores of many small files."""

import dataclasses
import os
from collections.abc import Iterator

import pytest

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
