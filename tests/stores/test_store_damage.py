"""Damage on disk is said, never read: flipped bytes, lost or swapped files, altered records."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from stores_kit import (
    ROWS,
    SHAPES,
    append,
    bytes_of,
    chunk_files,
    emptied,
    faults,
    filled_images,
    flip,
    flipped,
    halved,
    holds_exactly,
    holds_pictures,
    images,
    longer,
    outputs,
    random_bytes,
    swap,
    truncated,
)

from stores.errors import StoreDamagedError, StoreError, StoreMismatchError
from stores.features import FeatureStore
from stores.images import ImageStore
from stores.rows import RowStore
from stores.verify import columns_of, tables_of

pytestmark = pytest.mark.usefixtures("small_chunks")

NOTABLE = (b'"recipe"', b'"architecture"', b'"key"', b'"kind"', b'"shapes"', b'"attributes"', b'"."', b'"chunk_shape"')
"""Words of the metadata whose loss would be costly."""

FLIPS = 200


def read_everything(folder: Path) -> None:
    for table in tables_of(folder):
        store = RowStore.open(table, columns_of)
        for name in store.columns:
            store.read(name)


def map_everything(folder: Path) -> None:
    for table in tables_of(folder):
        store = RowStore.open(table, columns_of)
        for name in store.columns:
            store.mapped(name)[:]


def load_features(folder: Path) -> None:
    store = FeatureStore.open(folder)
    for name in SHAPES:
        store.load(images(0, ROWS), name)


def load_pictures(folder: Path) -> None:
    store = ImageStore.open(folder)
    store.read(0, len(store))


class TestFlippedBytes:
    @pytest.mark.slow
    def test_every_one_in_a_feature_store_is_noticed(self, sound: Path) -> None:
        for path, offset, mask in random_bytes(chunk_files(sound), FLIPS):
            with flipped(path, offset, mask):
                assert faults(sound) != []
                for read in (read_everything, map_everything):
                    with pytest.raises(StoreDamagedError):
                        read(sound)
        holds_exactly(sound, ROWS)

    @pytest.mark.slow
    def test_every_one_in_an_image_store_is_noticed(self, sound_images: Path) -> None:
        for path, offset, mask in random_bytes(chunk_files(sound_images), FLIPS):
            with flipped(path, offset, mask):
                assert faults(sound_images) != []
                with pytest.raises(StoreDamagedError):
                    read_everything(sound_images)
        holds_pictures(sound_images, range(70))

    @pytest.mark.slow
    def test_no_byte_of_a_file_is_unguarded(self, sound: Path, sound_images: Path) -> None:
        shard = chunk_files(sound_images / "pictures" / "pixels")[-1]
        for path, folder in ((sound / "blocks" / "c.4.0.0", sound), (shard, sound_images)):
            for offset in range(0, path.stat().st_size, 3):
                with flipped(path, offset), pytest.raises(StoreDamagedError):
                    read_everything(folder)

    def test_whoever_loads_is_told(self, sound: Path, sound_images: Path) -> None:
        for name in (*SHAPES, "image"):
            for path in chunk_files(sound / name):
                with flipped(path), pytest.raises(StoreDamagedError):
                    load_features(sound)
        for path in chunk_files(sound_images):
            if path.parent.name != "checksum":
                with flipped(path), pytest.raises(StoreDamagedError):
                    load_pictures(sound_images)

    def test_a_store_that_was_open_before_notices_as_well(self, sound: Path) -> None:
        store = FeatureStore.open(sound)
        with flipped(sound / "embedding" / "c.1.0"), pytest.raises(StoreDamagedError, match="store repair"):
            store.load()

    @pytest.mark.parametrize("name", [*SHAPES, "image", "checksum"])
    def test_an_append_does_not_seal_a_damaged_chunk_with_a_new_checksum(self, folder: Path, name: str) -> None:
        flip(chunk_files(folder / name)[-1])
        before = bytes_of(folder)
        with pytest.raises(StoreDamagedError):
            append(folder, ROWS, ROWS + 1)
        for path in ("commit.json", f"{name}/{chunk_files(folder / name)[-1].name}"):
            assert bytes_of(folder)[path] == before[path]
        with pytest.raises(StoreDamagedError):
            read_everything(folder)


class TestLostBytes:
    @pytest.mark.parametrize("harm", [Path.unlink, truncated, emptied, halved, longer])
    def test_a_lost_or_shortened_chunk_file_is_noticed_when_the_store_is_opened(
        self, sound: Path, sound_images: Path, tmp_path: Path, harm: Callable[[Path], None]
    ) -> None:
        for whole, read in ((sound, load_features), (sound_images, load_pictures)):
            broken = Path(shutil.copytree(whole, tmp_path / whole.name))
            for path in chunk_files(broken):
                before = path.read_bytes()
                harm(path)
                with pytest.raises(StoreDamagedError, match=f"{path.parent.name}/{path.name} .*store repair"):
                    read(broken)
                path.write_bytes(before)
            read(broken)

    def test_a_chunk_file_lost_while_the_store_is_open_is_not_read_as_zeros(self, folder: Path) -> None:
        store = FeatureStore.open(folder)
        (folder / "embedding" / "c.2.0").unlink()
        for images_asked in (None, images(32, 33), images(0, ROWS)):
            with pytest.raises(StoreDamagedError):
                store.load(images_asked)

    def test_a_lost_chunk_is_not_filled_with_zeros_by_the_next_append(self, folder: Path) -> None:
        store = FeatureStore.open(folder)
        (folder / "embedding" / "c.4.0").unlink()
        with pytest.raises(StoreDamagedError):
            store.append(images(ROWS, ROWS + 1), outputs(ROWS, ROWS + 1))

    def test_damage_that_came_later_does_not_keep_other_chunks_from_being_read(self, folder: Path) -> None:
        store = FeatureStore.open(folder)
        (folder / "embedding" / "c.2.0").unlink()
        np.testing.assert_array_equal(store.load(images(3, 7)).matrix, outputs(3, 7)["embedding"])
        np.testing.assert_array_equal(store.load(images(0, ROWS), "blocks").matrix, outputs(0, ROWS)["blocks"])


class TestOtherChunks:
    @pytest.mark.parametrize("name", [*SHAPES, "image", "checksum"])
    def test_chunk_files_that_changed_places_are_noticed(self, folder: Path, name: str) -> None:
        one, other, *_ = chunk_files(folder / name)
        swap(one, other)
        with pytest.raises(StoreDamagedError, match="it is not what was committed"):
            read_everything(folder)

    def test_shards_that_changed_places_are_noticed(self, tmp_path: Path) -> None:
        folder = filled_images(tmp_path / "images", 128).folder
        swap(*chunk_files(folder / "pictures" / "pixels"))
        with pytest.raises(StoreDamagedError, match="it is not what was committed"):
            load_pictures(folder)

    @pytest.mark.parametrize("name", [*SHAPES, "image", "checksum"])
    def test_an_older_version_of_a_chunk_is_noticed(self, folder: Path, name: str) -> None:
        last = chunk_files(folder / name)[-1]
        older = last.read_bytes()
        append(folder, ROWS, ROWS + 2)
        assert last.read_bytes() != older
        last.write_bytes(older)
        with pytest.raises(StoreDamagedError):
            read_everything(folder)

    @pytest.mark.parametrize("stop", [71, 79])
    def test_an_older_version_of_a_shard_is_noticed(self, sound_images: Path, tmp_path: Path, stop: int) -> None:
        folder = Path(shutil.copytree(sound_images, tmp_path / "images"))
        last = chunk_files(folder / "pictures" / "pixels")[-1]
        older = last.read_bytes()
        filled_images(folder, stop)
        last.write_bytes(older)
        with pytest.raises(StoreDamagedError):
            read_everything(folder)

    def test_a_chunk_of_a_store_of_other_rows_is_noticed(self, folder: Path, tmp_path: Path) -> None:
        other = FeatureStore.create(tmp_path / "other", FeatureStore.open(folder).recipe, SHAPES)
        other.append(images(0, ROWS), {name: rows + 1 for name, rows in outputs(0, ROWS).items()})
        for name in SHAPES:
            for path in chunk_files(folder / name):
                before = path.read_bytes()
                path.write_bytes((other.folder / path.relative_to(folder)).read_bytes())
                with pytest.raises(StoreDamagedError, match="it is not what was committed"):
                    read_everything(folder)
                path.write_bytes(before)


class TestRecords:
    def test_an_altered_byte_of_the_commit_record_is_noticed(self, folder: Path) -> None:
        size = (folder / "commit.json").stat().st_size
        for offset in np.random.default_rng(0).integers(0, size, 100).tolist():
            with flipped(folder / "commit.json", offset), pytest.raises((StoreDamagedError, StoreMismatchError)):
                FeatureStore.open(folder)

    @pytest.mark.parametrize("name", ["zarr.json", "embedding/zarr.json", "blocks/zarr.json", "image/zarr.json"])
    @pytest.mark.parametrize("harm", [Path.unlink, emptied, halved])
    def test_lost_or_shortened_metadata_are_an_error_of_the_store(
        self, folder: Path, name: str, harm: Callable[[Path], None]
    ) -> None:
        harm(folder / name)
        with pytest.raises(StoreDamagedError, match=f"the metadata {name} are missing or cannot be read"):
            load_features(folder)

    @pytest.mark.parametrize("name", ["zarr.json", "embedding/zarr.json", "image/zarr.json"])
    def test_an_altered_character_of_the_metadata_is_noticed_or_changes_nothing(self, sound: Path, name: str) -> None:
        text = (sound / name).read_bytes()
        positions = set(np.random.default_rng(0).integers(0, len(text), 60).tolist())
        # Inside the names of the attributes, and the mark between the parts of a chunk's name.
        positions |= {text.index(word) + 1 for word in NOTABLE if word in text}
        for position in sorted(positions):
            with flipped(sound / name, position), suppress(StoreError):
                load_features(sound)
                assert json.loads((sound / name).read_text()) != json.loads(text), "a number of rows that lags"
                assert faults(sound, deep=False) != []
        load_features(sound)

    def test_a_store_whose_record_was_lost_is_not_made_anew(self, folder: Path) -> None:
        recipe = FeatureStore.open(folder).recipe
        (folder / "commit.json").unlink()
        with pytest.raises(
            StoreDamagedError, match=f"holds {ROWS} rows and has lost its commit record: .*store repair"
        ):
            FeatureStore.create(folder, recipe, SHAPES)
        assert len(chunk_files(folder)) > 5
