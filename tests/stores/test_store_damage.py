"""Damage on disk is said, never read: flipped bytes, lost or swapped files, altered records."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from stores_kit import chunk_files, embeddings, filled, flip, holds_exactly, images, random_bytes

from stores.errors import StoreDamagedError, StoreError
from stores.features import FeatureStore
from stores.images import ImageStore
from stores.keys import digest_of

ROWS = 1500

NOTABLE = (b'"recipe"', b'"architecture"', b'"key"', b'"kind"', b'"dim"', b'"attributes"', b'"/"')
"""Words of the metadata whose loss would be costly."""

FLIPS = 100


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature store of two blocks and two chunks a column; every test leaves it as it was."""
    return filled(tmp_path_factory.mktemp("sound") / "features", 600, ROWS).folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy to break for good."""
    return Path(shutil.copytree(sound, tmp_path / "features"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image store of 70 noisy pictures, in two shards; every test leaves it as it was."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("images") / "images"
    store = ImageStore.create(folder, "policy", 8)
    for start, stop in ((0, 30), (30, 70)):
        drawn = [random.integers(1, 256, random.integers(1, 9, 2), dtype=np.uint8) for _ in range(start, stop)]
        store.append([digest_of(["source", row]) for row in range(start, stop)], drawn)
    return folder


@contextmanager
def flipped(path: Path, offset: int, mask: int) -> Iterator[None]:
    flip(path, offset, mask)
    try:
        yield
    finally:
        flip(path, offset, mask)


def load_features(folder: Path) -> None:
    FeatureStore.open(folder).load()


def load_pictures(folder: Path) -> None:
    store = ImageStore.open(folder)
    store.read(0, len(store))


class TestFlippedBytes:
    def test_every_flipped_byte_of_a_feature_store_is_noticed(self, sound: Path) -> None:
        for path, offset, mask in random_bytes(chunk_files(sound), FLIPS):
            with flipped(path, offset, mask), pytest.raises(StoreDamagedError):
                load_features(sound)
        holds_exactly(sound, ROWS)

    def test_every_flipped_byte_of_an_image_store_is_noticed(self, pictures: Path) -> None:
        for path, offset, mask in random_bytes(chunk_files(pictures), FLIPS):
            with flipped(path, offset, mask), pytest.raises(StoreDamagedError):
                load_pictures(pictures)
        load_pictures(pictures)

    def test_the_damaged_block_is_named(self, sound: Path) -> None:
        store = FeatureStore.open(sound)
        first, second = sorted(path for path in chunk_files(sound) if "embedding" in path.parts)
        with flipped(second, 9, 1):
            assert [block[:2] for block in store.damaged_blocks()] == [(600, ROWS)]
        with flipped(first, 9, 1):
            assert [block[:2] for block in store.damaged_blocks()] == [(0, 600), (600, ROWS)]
        assert store.damaged_blocks() == []

    def test_a_store_that_was_open_before_notices_as_well(self, sound: Path) -> None:
        store = FeatureStore.open(sound)
        with flipped(chunk_files(sound)[0], 9, 1), pytest.raises(StoreDamagedError):
            store.load()

    def test_an_append_does_not_seal_a_damaged_chunk_with_a_new_checksum(self, folder: Path) -> None:
        last = max(path for path in chunk_files(folder) if "embedding" in path.parts)
        flip(last, 9, 1)
        store = FeatureStore.open(folder)
        with pytest.raises(StoreDamagedError):
            store.append(images(ROWS, ROWS + 1), embeddings(ROWS, ROWS + 1))
        with pytest.raises(StoreDamagedError):
            load_features(folder)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\x00")


class TestLostBytes:
    @pytest.mark.parametrize("harm", [Path.unlink, truncated, emptied, halved, longer])
    @pytest.mark.parametrize("index", range(4))
    def test_a_lost_or_shortened_chunk_file_of_features_is_noticed(
        self, folder: Path, harm: Callable[[Path], None], index: int
    ) -> None:
        assert len(chunk_files(folder)) == 4
        harm(chunk_files(folder)[index])
        with pytest.raises(StoreDamagedError):
            load_features(folder)

    @pytest.mark.parametrize("harm", [Path.unlink, truncated, emptied, halved])
    def test_a_lost_or_shortened_shard_of_pictures_is_noticed(
        self, pictures: Path, tmp_path: Path, harm: Callable[[Path], None]
    ) -> None:
        for index in range(len(chunk_files(pictures))):
            broken = Path(shutil.copytree(pictures, tmp_path / f"broken-{index}"))
            harm(chunk_files(broken)[index])
            with pytest.raises(StoreDamagedError):
                load_pictures(broken)

    def test_a_chunk_file_lost_while_the_store_is_open_is_not_read_as_zeros(self, folder: Path) -> None:
        store = FeatureStore.open(folder)
        next(path for path in chunk_files(folder) if "embedding" in path.parts).unlink()
        assert len(store.damaged_blocks()) == 2
        with pytest.raises(StoreDamagedError):
            store.load()

    def test_a_lost_chunk_is_not_filled_with_zeros_by_the_next_append(self, folder: Path) -> None:
        store = FeatureStore.open(folder)
        max(path for path in chunk_files(folder) if "embedding" in path.parts).unlink()
        with pytest.raises(StoreDamagedError):
            store.append(images(ROWS, ROWS + 1), embeddings(ROWS, ROWS + 1))

    def test_chunk_files_that_changed_places_are_noticed(self, tmp_path: Path) -> None:
        folder = filled(tmp_path / "features", 1024, 2048).folder
        first, second = (path for path in chunk_files(folder) if "embedding" in path.parts)
        one, other = first.read_bytes(), second.read_bytes()
        first.write_bytes(other)
        second.write_bytes(one)
        assert [block[:2] for block in FeatureStore.open(folder).damaged_blocks()] == [(0, 1024), (1024, 2048)]


class TestRecords:
    def test_every_altered_character_of_the_commit_record_is_noticed(self, sound: Path) -> None:
        commit = sound / "commit.json"
        text = commit.read_bytes()
        # The schema is a word of its own: see the next test.
        free = range(text.index(b'"schema"'), text.index(b'"schema"') + len(b'"schema":1'))
        try:
            for position in set(range(len(text))) - set(free):
                commit.write_bytes(text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :])
                with pytest.raises(StoreDamagedError):
                    FeatureStore.open(sound)
        finally:
            commit.write_bytes(text)

    def test_a_commit_record_of_another_schema_is_not_taken_for_this_one(self, folder: Path) -> None:
        record = json.loads((folder / "commit.json").read_text())
        (folder / "commit.json").write_text(json.dumps({**record, "schema": 2}))
        with pytest.raises(StoreError):
            FeatureStore.open(folder)

    @pytest.mark.parametrize("text", ["", "{}", "[]", "7", "null", '{"rows": 1', '{"rows":0,"blocks":[],"digest":""}'])
    def test_a_commit_record_that_says_something_else_is_noticed(self, folder: Path, text: str) -> None:
        (folder / "commit.json").write_text(text)
        with pytest.raises(StoreDamagedError):
            FeatureStore.open(folder)

    @pytest.mark.parametrize("name", ["zarr.json", "embedding/zarr.json", "image/zarr.json"])
    @pytest.mark.parametrize("harm", [Path.unlink, emptied, halved])
    def test_lost_or_shortened_metadata_is_an_error_of_the_store(
        self, folder: Path, name: str, harm: Callable[[Path], None]
    ) -> None:
        harm(folder / name)
        with pytest.raises(StoreError):
            load_features(folder)

    @pytest.mark.parametrize("name", ["zarr.json", "embedding/zarr.json", "image/zarr.json"])
    def test_an_altered_character_of_the_metadata_is_noticed_or_changes_nothing(self, sound: Path, name: str) -> None:
        text = (sound / name).read_bytes()
        positions = set(np.random.default_rng(0).integers(0, len(text), 60).tolist())
        # Inside the names of the attributes, and the mark between the parts of a chunk's path.
        positions |= {text.index(word) + 1 for word in NOTABLE if word in text}
        try:
            for position in sorted(positions):
                (sound / name).write_bytes(text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :])
                with suppress(StoreError):
                    holds_exactly(sound, ROWS)
        finally:
            (sound / name).write_bytes(text)

    def test_an_array_shorter_than_the_commit_record_says_is_noticed(self, folder: Path) -> None:
        path = folder / "embedding" / "zarr.json"
        metadata = json.loads(path.read_text())
        metadata["shape"][0] = ROWS - 1
        path.write_text(json.dumps(metadata))
        with pytest.raises(StoreDamagedError, match=f"{ROWS - 1} rows, {ROWS} were committed"):
            FeatureStore.open(folder)
