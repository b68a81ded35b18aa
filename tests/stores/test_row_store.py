"""The row store: what is appended is what is read, and it grows by whole appends only."""

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores_kit import bytes_of, emptied, halved
from test_layout import values as values_of

from stores.errors import StoreDamagedError, StoreError, StoreMismatchError, StoreNotFoundError
from stores.layout import Array, Column
from stores.repair import keep_rows
from stores.rows import RowStore, metadata_faults

COLUMNS = {
    "pixels": Column("uint8", (2, 3), ("y", "x"), chunk_rows=2, shard_chunks=3),
    "vector": Column("float32", (4,), ("feature",), chunk_rows=4),
    "count": Column("int64", chunk_rows=3),
}


def values(start: int, stop: int, columns: Mapping[str, Column] = COLUMNS) -> dict[str, Array]:
    """Rows known from their number; no element is zero."""
    return {name: values_of(column, stop - start, start) for name, column in columns.items()}


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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> RowStore:
    """13 rows that no test adds to."""
    made = RowStore.create(tmp_path_factory.mktemp("shared") / "rows", COLUMNS, {"kind": "test"})
    made.append(**values(0, 13))
    return made


@given(
    sizes=st.lists(st.integers(0, 9), max_size=5),
    chunk_rows=st.integers(1, 5),
    shard_chunks=st.integers(1, 3),
    shape=st.sampled_from([(), (2,), (2, 3)]),
)
@settings(deadline=None, max_examples=12)
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
        middle = slice(stops[-1] // 3, 2 * stops[-1] // 3 + 1)
        expected = values(0, stops[-1], columns)["one"][middle]
        np.testing.assert_array_equal(reader.read("one", middle.start, middle.stop), expected)


@pytest.mark.slow
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
@settings(deadline=None, max_examples=12)
def test_the_portions_leave_no_trace_in_the_files(sizes: list[int]) -> None:
    stops = np.cumsum([0, *sizes]).tolist()
    with TemporaryDirectory() as scratch:
        parts = RowStore.create(Path(scratch) / "parts", COLUMNS, {})
        for start, stop in pairwise(stops):
            parts.append(**values(start, stop))
        whole = RowStore.create(Path(scratch) / "whole", COLUMNS, {})
        whole.append(**values(0, stops[-1]))
        assert bytes_of(parts.folder) == bytes_of(whole.folder)
        assert parts.digest == whole.digest


def test_reading_past_the_end_stops_at_the_last_row(store: RowStore) -> None:
    np.testing.assert_array_equal(store.read("count", 10, 99), values(10, 13)["count"])
    assert store.read("pixels", 99).shape == store.read("pixels", 5, 2).shape == (0, 2, 3)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_rows_that_are_all_zero_are_rows_as_well(tmp_path: Path, count: int) -> None:
    zeros = {name: np.zeros((count, *column.shape), dtype=column.dtype) for name, column in COLUMNS.items()}
    RowStore.create(tmp_path / "rows", COLUMNS, {}).append(**zeros)
    reader = RowStore.open(tmp_path / "rows", COLUMNS)
    assert reader.rows == count
    same(reader, zeros)


@given(wanted=st.lists(st.integers(0, 12), max_size=9), name=st.sampled_from(list(COLUMNS)))
@settings(deadline=None, max_examples=40)
def test_rows_are_gathered_in_the_order_asked_for(shared: RowStore, wanted: list[int], name: str) -> None:
    found = shared.gather(name, np.array(wanted, dtype=np.int64))
    np.testing.assert_array_equal(found, values(0, 13)[name][wanted])
    assert found.dtype == values(0, 1)[name].dtype


def test_of_few_chunks_that_are_asked_for_no_other_is_read(store: RowStore) -> None:
    (store.folder / "vector" / "c.2.0").unlink()
    np.testing.assert_array_equal(store.gather("vector", np.array([3, 0])), values(0, 13)["vector"][[3, 0]])
    for wanted in ([8], [0, 4, 8, 12]):
        with pytest.raises(StoreDamagedError):
            store.gather("vector", np.array(wanted))


def test_the_checksum_of_every_row_lies_beside_it(store: RowStore) -> None:
    found = store.read("checksum")
    assert store.columns["checksum"].attributes == {
        "long_name": "crc32c of the row's bytes in each array",
        "arrays": ["count", "pixels", "vector"],
    }
    for row in range(13):
        cells = [values(row, row + 1)[name].tobytes() for name in ("count", "pixels", "vector")]
        assert found[row].tolist() == [google_crc32c.value(each) for each in cells]


def test_a_reader_whose_store_was_replaced_is_not_told_of_damage(store: RowStore) -> None:
    reader = RowStore.open(store.folder, COLUMNS)
    kept = np.arange(13) % 2 == 0
    keep_rows(store, kept)
    for ask in (lambda: reader.read("vector"), lambda: reader.gather("vector", np.array([3]))):
        with pytest.raises(StoreMismatchError, match="was changed since it was opened: open it again"):
            ask()
    reader.refresh()
    same(reader, {name: rows[kept] for name, rows in values(0, 13).items()})


def test_an_open_store_shows_new_rows_after_a_refresh_only(store: RowStore) -> None:
    reader = RowStore.open(store.folder, COLUMNS)
    store.append(**values(13, 20))
    same(reader, values(0, 13))
    reader.refresh()
    same(reader, values(0, 20))


def test_the_digest_tells_the_rows_and_the_attributes(store: RowStore, tmp_path: Path) -> None:
    twin, other = (RowStore.create(tmp_path / name, COLUMNS, {"kind": "test"}) for name in ("twin", "other"))
    named = RowStore.create(tmp_path / "named", COLUMNS, {"kind": "another"})
    twin.append(**values(0, 13))
    other.append(**values(1, 14))
    named.append(**values(0, 13))
    assert twin.digest == store.digest == RowStore.open(store.folder, COLUMNS).digest
    assert len({store.digest, other.digest, named.digest}) == 3


def test_an_empty_append_changes_nothing(store: RowStore) -> None:
    before = bytes_of(store.folder)
    store.append(**values(0, 0))
    assert bytes_of(store.folder) == before


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
    before = bytes_of(store.folder)
    with pytest.raises(StoreMismatchError, match=complaint):
        store.append(**wrong_values()[complaint])
    assert bytes_of(store.folder) == before


class TestIdentity:
    def test_creating_it_again_opens_it(self, store: RowStore) -> None:
        before = bytes_of(store.folder)
        same(RowStore.create(store.folder, COLUMNS, {"kind": "test"}), values(0, 13))
        assert bytes_of(store.folder) == before

    def test_attributes_are_read_back(self, store: RowStore) -> None:
        assert RowStore.open(store.folder, COLUMNS).attributes == {"kind": "test"}

    def test_other_attributes_are_refused(self, store: RowStore) -> None:
        with pytest.raises(StoreMismatchError, match="made otherwise"):
            RowStore.create(store.folder, COLUMNS, {"kind": "another"})
        same(RowStore.open(store.folder, COLUMNS), values(0, 13))

    def test_other_attributes_and_other_columns_are_another_store_not_a_damaged_one(self, store: RowStore) -> None:
        columns = {**COLUMNS, "vector": Column("float32", (5,), ("feature",), chunk_rows=4)}
        with pytest.raises(StoreMismatchError, match="made otherwise"):
            RowStore.create(store.folder, columns, {"kind": "test", "dim": 5})

    @pytest.mark.parametrize(
        ("changed", "complaint"),
        [
            ({"vector": Column("float32", (5,), ("feature",), chunk_rows=4)}, "are not what was written"),
            ({"vector": Column("float64", (4,), ("feature",), chunk_rows=4)}, "are not what was written"),
            ({"vector": Column("float32", (4,), ("feature",), chunk_rows=5)}, "not cut into chunks of 5 rows"),
            ({"more": Column("int64")}, r"has the arrays .* expected .*more"),
        ],
    )
    def test_other_columns_are_refused(self, store: RowStore, changed: dict[str, Column], complaint: str) -> None:
        with pytest.raises(StoreError, match=complaint):
            RowStore.open(store.folder, {**COLUMNS, **changed})

    def test_columns_may_be_told_from_the_attributes(self, store: RowStore) -> None:
        same(
            RowStore.open(store.folder, lambda attributes: COLUMNS if attributes["kind"] == "test" else {}),
            values(0, 13),
        )

    def test_a_refusal_of_the_attributes_names_the_store(self, store: RowStore) -> None:
        def refuse(_: Mapping[str, object]) -> Mapping[str, Column]:
            raise StoreMismatchError("of no use")

        with pytest.raises(StoreMismatchError, match=f"{store.folder}: of no use"):
            RowStore.open(store.folder, refuse)

    def test_a_folder_without_a_commit_record_is_no_store(self, store: RowStore) -> None:
        (store.folder / "commit.json").unlink()
        with pytest.raises(StoreNotFoundError, match="no committed store"):
            RowStore.open(store.folder, COLUMNS)
        with pytest.raises(FileNotFoundError):
            RowStore.open(store.folder / "nowhere", COLUMNS)


class TestFiles:
    def test_files_that_are_missing_or_of_another_size_are_told(self, store: RowStore) -> None:
        assert store.file_faults() == []
        (store.folder / "vector" / "c.1.0").unlink()
        halved(store.folder / "count" / "c.2")
        emptied(store.folder / "pixels" / "c.0.0.0")
        assert [" ".join(fault.split()[:6]) for fault in store.file_faults()] == [
            "the chunk file pixels/c.0.0.0 has 0",
            "the chunk file vector/c.1.0 is missing",
            "the chunk file count/c.2 has 14",
        ]
        with pytest.raises(StoreDamagedError, match=r"pixels/c.0.0.0 has 0 bytes, expected .*store repair"):
            RowStore.open(store.folder, COLUMNS)

    def test_what_lies_beyond_the_committed_rows_is_nobodys_business(self, store: RowStore) -> None:
        (store.folder / "vector" / "c.4.0").write_bytes(b"rest")
        (store.folder / "count" / ".c.1.abc.part").write_bytes(b"rest")
        same(RowStore.open(store.folder, COLUMNS), values(0, 13))

    @pytest.mark.parametrize("name", ["zarr.json", "vector/zarr.json"])
    @pytest.mark.parametrize("harm", [Path.unlink, emptied, halved])
    def test_lost_or_shortened_metadata_are_told_and_healed_by_the_next_writer(
        self, store: RowStore, name: str, harm: Callable[[Path], None]
    ) -> None:
        before = bytes_of(store.folder)
        writer = RowStore.open(store.folder, COLUMNS)
        harm(store.folder / name)
        with pytest.raises(StoreDamagedError, match=f"the metadata {name} are missing or cannot be read"):
            RowStore.open(store.folder, COLUMNS)
        with writer.writing():
            pass
        assert bytes_of(store.folder) == before

    def test_metadata_of_another_number_of_rows_lag_and_do_not_stop_a_reader(self, store: RowStore) -> None:
        path = store.folder / "vector" / "zarr.json"
        document = json.loads(path.read_text())
        document["shape"][0] = 6
        path.write_text(json.dumps(document))
        same(RowStore.open(store.folder, COLUMNS), values(0, 13))
        assert metadata_faults(store._local, store.columns, store.commit) == []
        assert metadata_faults(store._local, store.columns, store.commit, exact=True) == [
            "the metadata vector/zarr.json state another number of rows than the 13 committed"
        ]
        RowStore.create(store.folder, COLUMNS, {"kind": "test"})
        assert metadata_faults(store._local, store.columns, store.commit, exact=True) == []
