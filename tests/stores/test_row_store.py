"""The row store: what is appended is what is read, by any Zarr reader, and it grows by whole blocks only."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.errors import StoreMismatchError, StoreNotFoundError
from stores.rows import Array, Block, Column, RowStore

COLUMNS = {
    "pixels": Column("uint8", (2, 3), ("y", "x"), chunk_rows=2, shard_chunks=3),
    "vector": Column("float32", (4,), ("feature",), chunk_rows=4),
    "count": Column("int64", chunk_rows=3),
}


def values(start: int, stop: int, columns: Mapping[str, Column] = COLUMNS) -> dict[str, Array]:
    """Rows known from their number; no element is zero."""
    made = {}
    for name, column in columns.items():
        size = int(np.prod(column.shape, dtype=int))
        cells = np.arange(start * size, stop * size) % 250 + 1
        made[name] = cells.reshape(-1, *column.shape).astype(column.dtype)
    return made


def same(store: RowStore, expected: Mapping[str, Array]) -> None:
    for name, rows in expected.items():
        np.testing.assert_array_equal(store.read(name), rows)
        assert store.read(name).dtype == rows.dtype


@pytest.fixture
def store(tmp_path: Path) -> RowStore:
    made = RowStore.create(tmp_path / "rows", COLUMNS, {"kind": "test"})
    for start, stop in ((0, 5), (5, 6), (6, 13)):
        made.append(**values(start, stop))
    return made


@given(
    sizes=st.lists(st.integers(0, 9), max_size=5),
    chunk_rows=st.integers(1, 5),
    shard_chunks=st.integers(1, 3),
    shape=st.sampled_from([(), (2,), (2, 3)]),
)
@settings(deadline=None, max_examples=10)
def test_what_was_appended_in_any_portions_is_read_back(
    sizes: list[int], chunk_rows: int, shard_chunks: int, shape: tuple[int, ...]
) -> None:
    names = ("a", "b")[: len(shape)]
    columns = {
        "one": Column("float32", shape, names, chunk_rows, shard_chunks),
        "two": Column("int64", chunk_rows=2),
    }
    stops = np.cumsum([0, *sizes]).tolist()
    with TemporaryDirectory() as scratch:
        writer = RowStore.create(Path(scratch) / "rows", columns, {})
        for start, stop in pairwise(stops):
            writer.append(**values(start, stop, columns))
            same(writer, values(0, stop, columns))
        reader = RowStore.open(Path(scratch) / "rows", columns)
        same(reader, values(0, stops[-1], columns))
        assert reader.rows == stops[-1]
        assert reader.damaged_blocks() == []
        middle = slice(stops[-1] // 3, 2 * stops[-1] // 3 + 1)
        expected = values(0, stops[-1], columns)["one"][middle]
        np.testing.assert_array_equal(reader.read("one", middle.start, middle.stop), expected)


def test_reading_past_the_end_stops_at_the_last_row(store: RowStore) -> None:
    np.testing.assert_array_equal(store.read("count", 10, 99), values(10, 13)["count"])


@pytest.mark.parametrize("count", [1, 2, 8])
def test_rows_that_are_all_zero_are_rows_as_well(tmp_path: Path, count: int) -> None:
    zeros = {name: np.zeros((count, *column.shape), dtype=column.dtype) for name, column in COLUMNS.items()}
    RowStore.create(tmp_path / "rows", COLUMNS, {}).append(**zeros)
    reader = RowStore.open(tmp_path / "rows", COLUMNS)
    assert reader.rows == count
    same(reader, zeros)


def test_an_open_store_shows_new_rows_after_a_refresh_only(store: RowStore) -> None:
    reader = RowStore.open(store.folder, COLUMNS)
    store.append(**values(13, 20))
    same(reader, values(0, 13))
    reader.refresh()
    same(reader, values(0, 20))


def test_the_digest_tells_the_rows(store: RowStore, tmp_path: Path) -> None:
    twin, other = (RowStore.create(tmp_path / name, COLUMNS, {}) for name in ("twin", "other"))
    for start, stop in ((0, 5), (5, 6), (6, 13)):
        twin.append(**values(start, stop))
        other.append(**values(start + 1, stop + 1))
    assert twin.digest == store.digest == RowStore.open(store.folder, COLUMNS).digest
    assert other.digest != store.digest


def test_an_empty_append_adds_no_block(store: RowStore) -> None:
    before = (store.folder / "commit.json").read_bytes()
    store.append(**values(0, 0))
    assert (store.folder / "commit.json").read_bytes() == before


def wrong_values() -> dict[str, dict[str, Array]]:
    good = values(13, 15)
    return {
        "expected the columns": {"vector": good["vector"]},
        "got .*extra": {**good, "extra": good["count"]},
        "differ in length": {**good, "count": good["count"][:1]},
        r"column 'vector' takes rows of \(4,\) float32, got \(3,\)": {**good, "vector": good["vector"][:, :3]},
        r"column 'vector' takes .* got \(4,\) float64": {**good, "vector": good["vector"].astype(np.float64)},
    }


@pytest.mark.parametrize("complaint", wrong_values())
def test_rows_that_do_not_fit_are_refused_and_nothing_is_stored(store: RowStore, complaint: str) -> None:
    with pytest.raises(StoreMismatchError, match=complaint):
        store.append(**wrong_values()[complaint])
    same(RowStore.open(store.folder, COLUMNS), values(0, 13))


class TestIdentity:
    def test_creating_it_again_opens_it(self, store: RowStore) -> None:
        same(RowStore.create(store.folder, COLUMNS, {"kind": "test"}), values(0, 13))

    def test_other_attributes_are_refused(self, store: RowStore) -> None:
        with pytest.raises(StoreMismatchError, match="made otherwise"):
            RowStore.create(store.folder, COLUMNS, {"kind": "another"})
        same(RowStore.open(store.folder, COLUMNS), values(0, 13))

    @pytest.mark.parametrize(
        ("changed", "complaint"),
        [
            ({"vector": Column("float32", (5,), ("feature",))}, "holds rows of"),
            ({"vector": Column("float64", (4,), ("feature",))}, "holds rows of"),
            ({"more": Column("int64")}, "has no array 'more'"),
        ],
    )
    def test_other_columns_are_refused(self, store: RowStore, changed: dict[str, Column], complaint: str) -> None:
        with pytest.raises(StoreMismatchError, match=complaint):
            RowStore.open(store.folder, {**COLUMNS, **changed})

    def test_a_folder_without_a_commit_record_is_no_store(self, store: RowStore) -> None:
        (store.folder / "commit.json").unlink()
        with pytest.raises(StoreNotFoundError, match="no committed store"):
            RowStore.open(store.folder, COLUMNS)
        with pytest.raises(FileNotFoundError):
            RowStore.open(store.folder / "nowhere", COLUMNS)


class TestFormat:
    def test_a_plain_zarr_reader_finds_the_same_arrays(self, store: RowStore) -> None:
        group = zarr.open_group(str(store.folder), mode="r")
        assert dict(group.attrs) == {"kind": "test"}
        for name, rows in values(0, 13).items():
            np.testing.assert_array_equal(group[name][:], rows)

    def test_every_axis_has_a_name(self, store: RowStore) -> None:
        group = zarr.open_group(str(store.folder), mode="r")
        names = {name: group[name].metadata.dimension_names for name in COLUMNS}
        assert names == {"pixels": ("row", "y", "x"), "vector": ("row", "feature"), "count": ("row",)}

    def test_every_chunk_of_every_array_carries_a_checksum(self, store: RowStore) -> None:
        found = {path.parent.name: json.loads(path.read_text()) for path in store.folder.glob("*/zarr.json")}
        assert set(found) == set(COLUMNS)
        for metadata in found.values():
            for pipeline in pipelines(metadata["codecs"]):
                assert pipeline[-1] == "crc32c"

    def test_a_block_of_the_commit_record_is_an_append(self, store: RowStore) -> None:
        blocks = json.loads((store.folder / "commit.json").read_text())["blocks"]
        assert [Block(*block)[:2] for block in blocks] == [(0, 5), (5, 6), (6, 13)]


def pipelines(codecs: list[dict[str, Any]]) -> list[list[str]]:
    """Names of the codecs that chunks go through; of a shard, those of its chunks and of its index."""
    if codecs[0]["name"] != "sharding_indexed":
        return [[codec["name"] for codec in codecs]]
    inner = codecs[0]["configuration"]
    return [*pipelines(inner["codecs"]), *pipelines(inner["index_codecs"])]
