"""Verification: every kind of damage is told, with the rows that it costs, and nothing else is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores_kit import (
    ROWS,
    SHAPES,
    SIDE,
    append,
    bytes_of,
    chunk_files,
    drawn,
    emptied,
    faults,
    filled,
    filled_images,
    flip,
    flipped,
    forge,
    halved,
    image,
    longer,
    lost_rows,
    outputs,
    picture,
    recipe,
    source,
    swap,
    truncated,
)

from stores.commit import COMMIT_FILE, Commit
from stores.errors import StoreMismatchError, StoreNotFoundError
from stores.features import FeatureStore
from stores.keys import pack_digests, pixels_digest
from stores.lock import writer_lock
from stores.repair import keep_rows
from stores.rows import RowStore
from stores.verify import columns_of, runs, verify

pytestmark = pytest.mark.usefixtures("small_chunks")

COLUMNS = [*SHAPES, "image", "checksum"]

CHUNK_OF = {"embedding": 16, "blocks": 16, "image": 32, "checksum": 32}


def chunk_rows(name: str, number: int) -> list[int]:
    return list(range(ROWS))[number * CHUNK_OF[name] : (number + 1) * CHUNK_OF[name]]


class TestSoundStores:
    @pytest.mark.parametrize("deep", [False, True])
    def test_they_have_no_fault_and_are_left_as_they_are(self, sound: Path, sound_images: Path, deep: bool) -> None:
        for folder in (sound, sound_images):
            before = bytes_of(folder)
            assert faults(folder, deep=deep) == []
            assert bytes_of(folder) == before

    def test_a_verdict_says_what_was_looked_at(self, sound: Path, sound_images: Path) -> None:
        (verdict,) = verify(sound, deep=True)
        row = 4 * (3 + 8) + 32 + 4 * 3
        assert verdict == (sound, "features", ROWS, ROWS * row, [])
        pictures, sources = verify(sound_images)
        assert pictures == (sound_images / "pictures", "images", 70, 0, [])
        assert sources == (sound_images / "sources", "sources", 70, 0, [])

    @pytest.mark.parametrize("stops", [(), (1,), (16, 32), (32, 64), (33,)])
    def test_stores_of_any_length_are_sound(self, tmp_path: Path, stops: tuple[int, ...]) -> None:
        assert faults(filled(tmp_path / "features", *stops).folder) == []
        assert faults(filled_images(tmp_path / "images", *stops).folder) == []

    def test_embeddings_and_pictures_of_zeros_are_sound(self, tmp_path: Path) -> None:
        store = filled(tmp_path / "features")
        store.append([image(0)], {name: np.zeros_like(rows) for name, rows in outputs(0, 1).items()})
        black = filled_images(tmp_path / "images")
        black.append([source(0)], [np.zeros((SIDE, SIDE), dtype=np.uint8)])
        assert faults(store.folder) == faults(black.folder) == []

    def test_files_that_are_none_of_the_stores_are_no_fault(self, folder: Path) -> None:
        (folder / "notes.txt").write_text("mine")
        (folder / "embedding" / ".c.0.0.abc.part").write_bytes(b"rest")
        (folder / "embedding" / "c.9.0").write_bytes(b"rest")
        assert faults(folder) == []


class TestBytes:
    @pytest.mark.parametrize("name", COLUMNS)
    def test_a_flipped_byte_costs_its_chunk_and_only_reading_finds_it(self, sound: Path, name: str) -> None:
        for number, path in enumerate(chunk_files(sound / name)):
            for offset in (0, path.stat().st_size - 1):
                with flipped(path, offset):
                    assert faults(sound, deep=False) == []
                    (fault,) = faults(sound)
                    assert lost_rows(sound) == chunk_rows(name, number)
                assert f"chunk {number} of '{name}'" in fault
                assert "its checksum does not fit its bytes" in fault

    @pytest.mark.parametrize("deep", [False, True])
    @pytest.mark.parametrize("name", COLUMNS)
    def test_a_missing_chunk_costs_its_rows(self, folder: Path, name: str, deep: bool) -> None:
        for number, path in enumerate(chunk_files(folder / name)):
            before = path.read_bytes()
            path.unlink()
            (fault,) = faults(folder, deep=deep)
            assert f"the chunk file {name}/{path.name} is missing" in fault
            assert lost_rows(folder, deep=deep) == chunk_rows(name, number)
            path.write_bytes(before)

    @pytest.mark.parametrize("deep", [False, True])
    @pytest.mark.parametrize("harm", [truncated, halved, emptied, longer])
    def test_a_file_of_another_size_costs_its_rows(
        self, folder: Path, harm: Callable[[Path], None], deep: bool
    ) -> None:
        harm(folder / "blocks" / "c.4.0.0")
        (fault,) = faults(folder, deep=deep)
        assert "the chunk file blocks/c.4.0.0 has" in fault
        assert lost_rows(folder, deep=deep) == chunk_rows("blocks", 4)

    @pytest.mark.parametrize("deep", [False, True])
    @pytest.mark.parametrize(("number", "rows"), [(0, range(64)), (1, range(64, 70))])
    def test_a_shard_cut_short_costs_its_pictures(self, gallery: Path, number: int, rows: range, deep: bool) -> None:
        truncated(chunk_files(gallery / "pictures" / "pixels")[number])
        assert lost_rows(gallery, deep=deep) == list(rows)

    def test_a_damaged_chunk_of_a_shard_costs_its_pictures_alone(self, gallery: Path) -> None:
        flip(gallery / "pictures" / "pixels" / "c.0.0.0", 3 * (8 * SIDE * SIDE + 4) + 5)
        assert lost_rows(gallery) == list(range(24, 32))

    def test_a_damaged_index_costs_the_shard(self, gallery: Path) -> None:
        shard = gallery / "pictures" / "pixels" / "c.0.0.0"
        flip(shard, shard.stat().st_size - 20)
        (fault,) = faults(gallery)
        assert "the index of the shard is damaged" in fault
        assert lost_rows(gallery) == list(range(64))

    @pytest.mark.parametrize("name", COLUMNS)
    def test_chunk_files_that_changed_places_cost_the_rows_of_both(self, folder: Path, name: str) -> None:
        one, other, *_ = chunk_files(folder / name)
        swap(one, other)
        assert lost_rows(folder) == [*chunk_rows(name, 0), *chunk_rows(name, 1)]
        assert all("it is not what was committed" in fault for fault in faults(folder))

    def test_shards_that_changed_places_cost_all_their_pictures(self, tmp_path: Path) -> None:
        folder = filled_images(tmp_path / "images", 128).folder
        swap(*chunk_files(folder / "pictures" / "pixels"))
        assert lost_rows(folder) == list(range(128))

    @pytest.mark.parametrize("name", COLUMNS)
    def test_an_old_version_of_a_chunk_costs_its_rows(self, folder: Path, name: str) -> None:
        last = chunk_files(folder / name)[-1]
        older = last.read_bytes()
        append(folder, ROWS, ROWS + 2)
        last.write_bytes(older)
        (fault,) = faults(folder)
        assert "it is not what was committed" in fault
        first = chunk_rows(name, len(chunk_files(folder / name)) - 1)[0]
        assert lost_rows(folder) == list(range(first, ROWS + 2))

    def test_every_damage_is_told_each_once(self, folder: Path) -> None:
        (folder / "embedding" / "c.0.0").unlink()
        flip(folder / "blocks" / "c.0.0.0")
        flip(folder / "image" / "c.1.0")
        (folder / "image" / "zarr.json").unlink()
        told = faults(folder)
        assert len(told) == len(set(told)) == 4
        for part in ("embedding/c.0.0", "blocks/c.0.0.0", "image/c.1.0", "image/zarr.json"):
            assert sum(part in fault for fault in told) == 1
        assert lost_rows(folder) == [*range(16), *range(32, 64)]


class TestContents:
    """Bytes that are sound by every checksum, and still wrong."""

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("name", SHAPES)
    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_a_number_that_is_none_costs_its_row(self, tmp_path: Path, name: str, bad: float, dtype: str) -> None:
        store = FeatureStore.create(tmp_path / "features", recipe(dtype=dtype), SHAPES)
        store.append([image(row) for row in range(40)], outputs(0, 40))
        rows = store.load(output=name).matrix
        rows[[3, 39], ..., -1] = bad
        forge(store.folder, {name: rows})
        assert faults(store.folder, deep=False) == []
        assert faults(store.folder) == [f"row {row} of '{name}' holds NaN or infinity" for row in (3, 39)]
        assert lost_rows(store.folder) == [3, 39]

    def test_an_image_that_stands_twice_costs_the_later_row(self, folder: Path) -> None:
        digests = [image(row) for row in range(ROWS)]
        digests[50], digests[70] = digests[3], digests[3]
        forge(folder, {"image": pack_digests(digests)})
        assert faults(folder) == [f"row {row} holds the image of row 3 once more" for row in (50, 70)]
        assert lost_rows(folder) == [50, 70]

    def test_an_image_is_not_said_to_stand_twice_where_the_other_row_is_lost(self, folder: Path) -> None:
        digests = [image(row) for row in range(ROWS)]
        digests[50] = digests[3]
        forge(folder, {"image": pack_digests(digests)})
        flip(folder / "embedding" / "c.0.0")
        assert lost_rows(folder) == chunk_rows("embedding", 0)

    @pytest.mark.parametrize("column", ["pixels", "extent", "image"])
    def test_a_picture_whose_digest_does_not_fit_costs_its_row(self, gallery: Path, column: str) -> None:
        table = gallery / "pictures"
        values = RowStore.open(table, columns_of).read(column)
        values[[9, 68], 0] = (values[[9, 68], 0].astype(int) + 1) % (SIDE + 1 if column == "extent" else 256)
        forge(table, {column: values})
        told = faults(table)
        assert told == [f"the picture in row {row} is not the one that its digest names" for row in (9, 68)]
        assert lost_rows(table) == [9, 68]

    @pytest.mark.parametrize("extent", [(-1, 3), (SIDE + 1, 3), (0, 0), (2**31 - 1, 2**31 - 1)])
    def test_an_extent_that_cannot_be_costs_its_row(self, gallery: Path, extent: tuple[int, int]) -> None:
        table = gallery / "pictures"
        extents = RowStore.open(table, columns_of).read("extent")
        extents[9] = extent
        forge(table, {"extent": extents})
        assert lost_rows(table) == [9]

    def test_a_picture_that_stands_twice_costs_the_later_row(self, gallery: Path) -> None:
        table = gallery / "pictures"
        store = RowStore.open(table, columns_of)
        forge(table, {name: store.read(name)[[*range(69), 5]] for name in store.own_columns})
        assert lost_rows(table) == [69]

    def test_sources_of_a_picture_that_is_gone_cost_their_rows(self, gallery: Path) -> None:
        pictures = RowStore.open(gallery / "pictures", columns_of)
        keep_rows(pictures, ~np.isin(np.arange(70), [4, 66]))
        assert faults(gallery, deep=False) == []
        told = faults(gallery)
        assert told == [f"row {row} names a picture that the store does not hold" for row in (4, 66)]

    def test_a_source_that_stands_twice_costs_the_later_row(self, gallery: Path) -> None:
        table = gallery / "sources"
        digests = [source(row) for row in range(70)]
        digests[9] = digests[2]
        forge(table, {"source": pack_digests(digests)})
        assert lost_rows(table) == [9]

    def test_two_sources_of_one_picture_are_sound(self, tmp_path: Path) -> None:
        store = filled_images(tmp_path / "images", 5)
        store.append([source("again")], [drawn([3])[1][0]])
        assert faults(store.folder) == []

    def test_digests_are_looked_at_on_both_sides_of_a_damaged_chunk(self, gallery: Path) -> None:
        table = gallery / "pictures"
        digests = [pixels_digest(each) for each in drawn(range(70))[1]]
        digests[0], digests[69] = (pixels_digest(picture(number)) for number in (900, 901))
        forge(table, {"image": pack_digests(digests)})
        flip(table / "pixels" / "c.0.0.0", 3 * (8 * SIDE * SIDE + 4) + 5)
        assert lost_rows(table) == [0, *range(24, 32), 69]


def with_rows(path: Path, rows: int) -> None:
    """Let metadata state another number of rows."""
    document = json.loads(path.read_text())
    arrays = [document] if document["node_type"] == "array" else document["consolidated_metadata"]["metadata"].values()
    for array in arrays:
        array["shape"][0] = rows
    path.write_text(json.dumps(document))


class TestRecords:
    @pytest.mark.parametrize("deep", [False, True])
    @pytest.mark.parametrize("rows", [0, ROWS - 1, ROWS + 1, 5000])
    @pytest.mark.parametrize("name", ["zarr.json", "embedding/zarr.json", "image/zarr.json"])
    def test_metadata_of_another_number_of_rows_are_told_and_cost_none(
        self, folder: Path, name: str, rows: int, deep: bool
    ) -> None:
        with_rows(folder / name, rows)
        assert faults(folder, deep=deep) == [
            f"the metadata {name} state another number of rows than the {ROWS} committed"
        ]
        assert lost_rows(folder, deep=deep) == []

    def test_shapes_that_lag_while_somebody_writes_are_about_to_follow(self, folder: Path) -> None:
        with_rows(folder / "zarr.json", ROWS - 1)
        with writer_lock(folder):
            assert faults(folder, deep=False) == faults(folder, deep=True) == []
            (folder / "image" / "zarr.json").unlink()
            assert len(faults(folder, deep=False)) == 1
        assert len(faults(folder, deep=False)) == 2

    @pytest.mark.parametrize("deep", [False, True])
    @pytest.mark.parametrize("name", ["zarr.json", "embedding/zarr.json", "image/zarr.json"])
    @pytest.mark.parametrize("harm", [Path.unlink, emptied, halved])
    def test_missing_metadata_are_told_and_cost_no_row(
        self, folder: Path, name: str, harm: Callable[[Path], None], deep: bool
    ) -> None:
        harm(folder / name)
        assert faults(folder, deep=deep) == [f"the metadata {name} are missing or cannot be read"]
        assert lost_rows(folder, deep=deep) == []

    @pytest.mark.parametrize("name", ["zarr.json", "embedding/zarr.json", "image/zarr.json"])
    @pytest.mark.parametrize(
        ("one", "other"),
        [("crc32c", "crc32d"), ('"row"', '"now"'), ("uint", "unit"), ('"attributes"', '"attributez"'), ("3", "4")],
    )
    def test_altered_metadata_are_told(self, folder: Path, name: str, one: str, other: str) -> None:
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(one, other))
        if (folder / name).read_text() != text:
            (fault,) = faults(folder, deep=False)
            assert f"the metadata {name} " in fault

    @pytest.mark.parametrize("deep", [False, True])
    @pytest.mark.parametrize("harm", [Path.unlink, emptied, halved])
    def test_a_missing_commit_record_is_told(self, folder: Path, harm: Callable[[Path], None], deep: bool) -> None:
        harm(folder / COMMIT_FILE)
        (fault,) = faults(folder, deep=deep)
        assert "commit" in fault
        assert "store repair" not in fault, "the advice is not part of what is wrong"

    @pytest.mark.parametrize("rows", [0, 1, ROWS - 1, ROWS + 1, 10 * ROWS, -1])
    def test_another_number_of_rows_in_the_commit_record_is_told(self, folder: Path, rows: int) -> None:
        text = (folder / COMMIT_FILE).read_text()
        (folder / COMMIT_FILE).write_text(text.replace(f'"rows":{ROWS}', f'"rows":{rows}'))
        (fault,) = faults(folder, deep=False)
        assert "does not agree with its own digest" in fault

    @pytest.mark.parametrize("rows", [0, 1, 65, ROWS - 1, ROWS + 1, 10 * ROWS])
    def test_it_is_told_even_where_the_digest_was_made_to_fit(self, folder: Path, rows: int) -> None:
        commit = Commit.parse((folder / COMMIT_FILE).read_bytes(), "")
        replace(commit, rows=rows).write(folder)
        assert faults(folder, deep=False) != []
        assert faults(folder) != []

    @pytest.mark.parametrize("attributes", [{}, {"kind": "other"}, {"kind": "features"}])
    def test_a_record_of_an_unknown_kind_is_told(self, folder: Path, attributes: dict[str, Any]) -> None:
        commit = Commit.parse((folder / COMMIT_FILE).read_bytes(), "")
        replace(commit, attributes=attributes).write(folder)
        for deep in (False, True):
            assert len(faults(folder, deep=deep)) == 1

    def test_a_store_of_another_form_is_refused(self, folder: Path) -> None:
        (folder / COMMIT_FILE).write_text('{"schema":1}')
        with pytest.raises(StoreMismatchError, match="written in form 1"):
            verify(folder)

    def test_a_folder_that_is_no_store_is_not_found(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for folder in (tmp_path / "empty", tmp_path / "nowhere"):
            with pytest.raises(StoreNotFoundError, match=f"{folder} holds no store"):
                verify(folder)

    @pytest.mark.parametrize("deep", [False, True])
    def test_a_store_that_has_lost_both_is_damaged(self, folder: Path, deep: bool) -> None:
        (folder / COMMIT_FILE).unlink()
        (folder / "zarr.json").unlink()
        assert len(faults(folder, deep=deep)) == 1

    def test_each_table_of_an_image_store_has_its_own_verdict(self, gallery: Path) -> None:
        (gallery / "pictures" / COMMIT_FILE).unlink()
        pictures, sources = verify(gallery, deep=True)
        assert (len(pictures.faults), sources.faults) == (1, [])

    def test_an_image_store_that_has_lost_a_table_is_told(self, gallery: Path) -> None:
        for name in ("pictures", "sources"):
            (gallery / name).rename(gallery / "elsewhere")
            told = faults(gallery)
            assert len(told) == 1
            assert name in told[0]
            (gallery / "elsewhere").rename(gallery / name)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [([], []), ([0, 0], []), ([1, 1], [(0, 2)]), ([0, 1, 1, 0, 1], [(1, 3), (4, 5)]), ([1, 0, 0, 1], [(0, 1), (3, 4)])],
)
def test_runs_are_the_stretches_of_true(kept: list[int], expected: list[tuple[int, int]]) -> None:
    assert list(runs(np.array(kept, dtype=bool))) == expected
