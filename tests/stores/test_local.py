"""Reading in a folder: what zarr would read, and nothing that was not committed; whole, in part, or mapped."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from stores_kit import bytes_of, chunk_files, flip, flipped, truncated
from test_layout import PLAIN, SCALAR, SHARDED, by_zarr, values

from stores import local
from stores.errors import StoreDamagedError
from stores.layout import Column, checksum
from stores.local import Extent, LocalFiles, Mapped
from stores.rows import RowStore

COLUMNS = {"plain": PLAIN, "sharded": SHARDED, "scalar": SCALAR}

ROWS = 53
"""Not a multiple of any chunk or file."""


def rows_of(start: int, stop: int) -> dict[str, Any]:
    return {name: values(column, stop - start, start) for name, column in COLUMNS.items()}


def made(folder: Path, *stops: int) -> RowStore:
    store = RowStore.create(folder, COLUMNS, {"kind": "test"})
    for start, stop in zip((0, *stops), stops, strict=False):
        store.append(**rows_of(start, stop))
    return store


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> RowStore:
    """A store that every test leaves as it was."""
    return made(tmp_path_factory.mktemp("shared") / "rows", 20, 21, ROWS)


@pytest.fixture
def store(shared: RowStore, tmp_path: Path) -> RowStore:
    """A copy to break."""
    return RowStore.open(Path(shutil.copytree(shared.folder, tmp_path / "rows")), COLUMNS)


class TestRanges:
    @given(name=st.sampled_from(list(COLUMNS)), edges=st.tuples(st.integers(0, ROWS + 9), st.integers(0, ROWS + 9)))
    @settings(deadline=None, max_examples=60)
    def test_any_range_is_what_zarr_reads(self, shared: RowStore, name: str, edges: tuple[int, int]) -> None:
        start, stop = edges
        found = shared.read(name, start, stop)
        theirs = zarr.open_array(str(shared.folder / name), mode="r")[start : max(start, stop)]
        np.testing.assert_array_equal(found, theirs)
        assert (found.dtype, found.shape) == (theirs.dtype, theirs.shape)

    @pytest.mark.parametrize("name", COLUMNS)
    def test_several_threads_read_what_one_does(
        self, shared: RowStore, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone = shared.read(name, 3, 50)
        monkeypatch.setattr(local, "WORTH_THREADS", 0)
        monkeypatch.setattr(local, "THREADS", 3)
        np.testing.assert_array_equal(shared.read(name, 3, 50), alone)
        np.testing.assert_array_equal(shared.read(name), values(COLUMNS[name], ROWS))

    def test_damage_is_said_by_whichever_thread_finds_it(
        self, store: RowStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local, "WORTH_THREADS", 0)
        for path in chunk_files(store.folder / "plain"):
            with flipped(path), pytest.raises(StoreDamagedError):
                store.read("plain")

    @given(column=st.sampled_from(list(COLUMNS.values())), rows=st.integers(1, 30), data=st.data())
    @settings(deadline=None, max_examples=15)
    def test_what_zarr_wrote_is_read(
        self, tmp_path_factory: pytest.TempPathFactory, column: Column, rows: int, data: st.DataObject
    ) -> None:
        folder = tmp_path_factory.mktemp("zarr")
        cells = values(column, rows)
        by_zarr(folder / "column", column, rows)[:] = cells
        starts = range(0, rows, column.chunk_rows)
        sums = [checksum(cells[start : start + column.chunk_rows]) for start in starts]
        start = data.draw(st.integers(0, rows))
        stop = data.draw(st.integers(start, rows))
        found = LocalFiles(folder).read_rows(Extent("column", column, rows, sums), start, stop)
        np.testing.assert_array_equal(found, cells[start:stop])

    @pytest.mark.parametrize(("start", "stop"), [(4, 5), (4, 8), (7, 9), (5, 21)])
    def test_only_the_chunks_of_the_range_are_read(self, store: RowStore, start: int, stop: int) -> None:
        for number, path in enumerate(store.folder / "plain" / PLAIN.file_name(each) for each in range(14)):
            touched = number * 4 < stop and (number + 1) * 4 > start
            if not touched:
                path.unlink()
        np.testing.assert_array_equal(store.read("plain", start, stop), values(PLAIN, stop - start, start))


class TestVerdicts:
    @pytest.mark.parametrize("name", COLUMNS)
    def test_a_flipped_byte_is_said_with_the_chunk_that_holds_it(self, store: RowStore, name: str) -> None:
        first, *_ = chunk_files(store.folder / name)
        with flipped(first), pytest.raises(StoreDamagedError, match=f"chunk 0 of '{name}' .*checksum does not fit"):
            store.read(name)

    def test_a_lost_file_is_said_with_the_next_step(self, store: RowStore) -> None:
        (store.folder / "plain" / "c.3.0").unlink()
        with pytest.raises(
            StoreDamagedError, match=r"chunk 3 of 'plain' .*the file is missing \(plain/c.3.0\): .*repair"
        ):
            store.read("plain")

    def test_a_chunk_that_is_sound_but_not_the_one_committed_is_said(self, store: RowStore) -> None:
        one, other = (store.folder / "plain" / PLAIN.file_name(number) for number in (0, 1))
        shutil.copy(other, one)
        with pytest.raises(StoreDamagedError, match="it is not what was committed"):
            store.read("plain")

    @pytest.mark.parametrize("name", COLUMNS)
    def test_a_shortened_file_is_said_with_its_size(self, store: RowStore, name: str) -> None:
        path = chunk_files(store.folder / name)[0]
        size = path.stat().st_size
        truncated(path)
        with pytest.raises(StoreDamagedError, match=f"has {size - 1} bytes, expected {size}"):
            store.read(name)

    def test_a_damaged_index_of_a_shard_is_said(self, store: RowStore) -> None:
        path = chunk_files(store.folder / "sharded")[0]
        flip(path, path.stat().st_size - 5)
        with pytest.raises(StoreDamagedError, match="the index of the shard is damaged"):
            store.read("sharded", 0, 1)

    def test_padding_counts_as_well(self, store: RowStore) -> None:
        last = store.folder / "plain" / "c.13.0"
        with flipped(last, last.stat().st_size - 5), pytest.raises(StoreDamagedError, match="checksum does not fit"):
            store.read("plain", 52)


@pytest.mark.slow
@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("committed", [1, 5, 6, 7, 12])
def test_a_reader_goes_on_to_see_its_rows_while_more_are_appended(tmp_path: Path, name: str, committed: int) -> None:
    writer = made(tmp_path / "rows", committed)
    reader = RowStore.open(writer.folder, COLUMNS)
    mapped = reader.mapped(name)
    for stop in (committed + 1, committed + 2, 30):
        writer.append(**rows_of(writer.rows, stop))
        expected = values(COLUMNS[name], committed)
        np.testing.assert_array_equal(reader.read(name), expected)
        np.testing.assert_array_equal(mapped[:], expected)


INDICES = st.one_of(
    st.integers(-ROWS, ROWS - 1),
    st.lists(st.integers(-ROWS, ROWS - 1), min_size=1, max_size=12),
    st.slices(ROWS),
    st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(np.array),
    st.lists(st.integers(-ROWS, ROWS - 1), min_size=1, max_size=12).map(np.array),
    st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=12).map(lambda rows: np.array(rows, dtype=np.uint16)),
)


class TestMapped:
    @given(name=st.sampled_from(list(COLUMNS)), index=INDICES)
    @settings(deadline=None, max_examples=60)
    def test_it_is_indexed_like_the_matrix(self, shared: RowStore, name: str, index: Any) -> None:
        found = shared.mapped(name)[index]
        expected = values(COLUMNS[name], ROWS)[index]
        np.testing.assert_array_equal(found, expected)
        assert np.shape(found) == np.shape(expected)
        assert found.dtype == expected.dtype

    def test_it_tells_its_form_without_reading(self, store: RowStore) -> None:
        mapped = store.mapped("sharded")
        for path in chunk_files(store.folder):
            path.unlink()
        assert (len(mapped), mapped.shape, mapped.ndim, mapped.dtype) == (ROWS, (ROWS, 2, 3), 3, np.dtype("uint8"))

    @pytest.mark.parametrize("dtype", [None, np.float64])
    def test_numpy_takes_it_for_the_matrix(self, shared: RowStore, dtype: Any) -> None:
        found = np.asarray(shared.mapped("plain"), dtype=dtype)
        np.testing.assert_array_equal(found, values(PLAIN, ROWS))
        assert found.dtype == np.dtype(dtype or np.float32)

    @pytest.mark.parametrize("row", [ROWS, -ROWS - 1, [0, ROWS]])
    def test_a_row_that_is_not_there_is_an_index_error(self, shared: RowStore, row: Any) -> None:
        with pytest.raises(IndexError):
            shared.mapped("plain")[row]

    def test_what_it_answers_may_be_altered_and_the_file_stays(self, store: RowStore) -> None:
        before = bytes_of(store.folder)
        mapped = store.mapped("plain")
        for part in (mapped[3], mapped[3:5], mapped[[3]], mapped[np.array([3])]):
            part[:] = 0
        np.testing.assert_array_equal(mapped[:], values(PLAIN, ROWS))
        assert bytes_of(store.folder) == before

    @pytest.mark.parametrize("name", COLUMNS)
    def test_damage_is_said_at_the_first_touch(self, store: RowStore, name: str) -> None:
        mapped = store.mapped(name)
        flip(chunk_files(store.folder / name)[0])
        with pytest.raises(StoreDamagedError, match=f"chunk 0 of '{name}'"):
            mapped[0]
        with pytest.raises(StoreDamagedError):
            mapped[[20, 0]]

    def test_damage_in_a_chunk_that_is_not_touched_plays_no_part(self, store: RowStore) -> None:
        mapped = store.mapped("sharded")
        flip(store.folder / "sharded" / "c.0.0.0", 2 * 6 + 4)
        untouched = [0, 1, 4, 5, *range(6, ROWS)]
        np.testing.assert_array_equal(mapped[untouched], values(SHARDED, ROWS)[untouched])
        for row in (2, 3):
            with pytest.raises(StoreDamagedError, match="chunk 1 of 'sharded'"):
                mapped[row]

    def test_a_lost_file_that_is_not_touched_plays_no_part(self, store: RowStore) -> None:
        mapped = store.mapped("plain")
        (store.folder / "plain" / "c.1.0").unlink()
        np.testing.assert_array_equal(mapped[[0, 3, 8, -1]], values(PLAIN, ROWS)[[0, 3, 8, -1]])
        with pytest.raises(StoreDamagedError, match="the file is missing"):
            mapped[4:6]

    def test_a_chunk_is_checked_once(self, shared: RowStore, monkeypatch: pytest.MonkeyPatch) -> None:
        checked: list[int] = []
        original = local.read_chunk

        def counting(handle: int, extent: Extent, chunk: int, *rest: Any) -> None:
            checked.append(chunk)
            original(handle, extent, chunk, *rest)

        monkeypatch.setattr(local, "read_chunk", counting)
        mapped = shared.mapped("plain")
        for rows in ([1, 9], [1, 2, 3, 8], [0, 9], slice(8, 13)):
            mapped[rows]
        assert checked == [0, 2, 3]

    def test_rows_of_an_empty_store_are_none(self, tmp_path: Path) -> None:
        mapped: Mapped = RowStore.create(tmp_path / "rows", COLUMNS, {}).mapped("plain")
        assert mapped[:].shape == np.asarray(mapped).shape == mapped[[]].shape == (0, 4)
