"""How columns lie: the bytes are those that zarr-python writes, and each has its place."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

from stores.atomic import write_parts
from stores.layout import Array, Column, checksum, checksum_bytes, encode, extended, group_metadata

PLAIN = Column("float32", (4,), ("feature",), chunk_rows=4)
SHARDED = Column("uint8", (2, 3), ("y", "x"), chunk_rows=2, shard_chunks=3)
SCALAR = Column("int64", chunk_rows=3)

COLUMNS = st.builds(
    lambda dtype, shape, chunk_rows, shard_chunks: Column(
        dtype, shape, ("a", "b")[: len(shape)], chunk_rows, shard_chunks
    ),
    st.sampled_from(["uint8", "int32", "int64", "float16", "float32", "float64"]),
    st.sampled_from([(), (1,), (5,), (2, 3)]),
    st.integers(1, 5),
    st.integers(1, 4),
)


def values(column: Column, rows: int, first: int = 0) -> Array:
    """Rows of which no element is zero: zarr does not write a chunk of zeros."""
    size = int(np.prod(column.shape, dtype=int))
    cells = np.arange(first * size, (first + rows) * size) % 250 + 1
    return cells.reshape(rows, *column.shape).astype(column.dtype)


def write(folder: Path, column: Column, rows: Array, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in encode(column, first, rows):
        write_parts(folder / column.file_name(file.number), file.parts)


def by_zarr(folder: Path, column: Column, rows: int) -> zarr.Array[Any]:
    """An array made by zarr alone, that has the form which a column says it has."""
    return zarr.create_array(
        str(folder),
        shape=(rows, *column.shape),
        dtype=column.dtype,
        chunks=(column.chunk_rows, *column.shape),
        shards=(column.rows_per_file, *column.shape) if column.shard_chunks > 1 else None,
        filters=None,
        compressors=Crc32cCodec(),
        dimension_names=["row", *column.dimensions],
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes=dict(column.attributes or {}),
    )


def chunks_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("c.*")}


class TestBytes:
    @pytest.mark.slow
    @given(column=COLUMNS, rows=st.integers(1, 40))
    @settings(deadline=None, max_examples=40)
    def test_they_are_those_that_zarr_writes(self, column: Column, rows: int) -> None:
        with TemporaryDirectory() as scratch:
            mine, theirs = Path(scratch) / "mine", Path(scratch) / "theirs"
            by_zarr(theirs, column, rows)[:] = values(column, rows)
            write(mine, column, values(column, rows))
            assert chunks_of(mine) == chunks_of(theirs)
            assert len(chunks_of(mine)) == column.files(rows)

    @given(column=COLUMNS, rows=st.integers(1, 40))
    @settings(deadline=None, max_examples=20)
    def test_zarr_reads_the_rows_that_were_written(self, column: Column, rows: int) -> None:
        with TemporaryDirectory() as scratch:
            write(Path(scratch), column, values(column, rows))
            (Path(scratch) / "zarr.json").write_text(json.dumps(column.metadata(rows)))
            found = zarr.open_array(scratch, mode="r")[:]
            np.testing.assert_array_equal(found, values(column, rows))

    @pytest.mark.parametrize("column", [PLAIN, SHARDED, SCALAR], ids=["plain", "sharded", "scalar"])
    def test_rows_of_zeros_are_written_as_well(self, tmp_path: Path, column: Column) -> None:
        write(tmp_path, column, np.zeros((13, *column.shape), dtype=column.dtype))
        assert len(chunks_of(tmp_path)) == column.files(13)

    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("endian", ["<", ">"])
    def test_neither_order_nor_endianness_in_memory_plays_a_part(self, order: Any, endian: str) -> None:
        rows = np.asarray(values(PLAIN, 4), dtype=np.dtype("float32").newbyteorder(endian), order=order)  # type: ignore[call-overload]
        (file,) = encode(PLAIN, 0, rows)
        assert bytes(file.parts[0]) == values(PLAIN, 4).astype("<f4").tobytes()

    def test_a_later_row_goes_to_a_later_file(self) -> None:
        assert [file.number for file in encode(SHARDED, 12, values(SHARDED, 7))] == [2, 3]

    def test_the_checksums_told_are_of_the_rows_without_padding(self) -> None:
        rows = values(PLAIN, 6)
        (one, other) = encode(PLAIN, 0, rows)
        assert [*one.checksums, *other.checksums] == [
            google_crc32c.value(part.tobytes()) for part in (rows[:4], rows[4:])
        ]


class TestMetadata:
    @given(column=COLUMNS, rows=st.integers(0, 40))
    @settings(deadline=None, max_examples=20)
    def test_it_means_to_zarr_what_zarr_itself_would_write(self, column: Column, rows: int) -> None:
        with TemporaryDirectory() as scratch:
            theirs = by_zarr(Path(scratch) / "theirs", column, rows)
            mine = Path(scratch) / "mine"
            mine.mkdir()
            (mine / "zarr.json").write_text(json.dumps(column.metadata(rows)))
            assert zarr.open_array(str(mine), mode="r").metadata == theirs.metadata

    @pytest.mark.parametrize("column", [PLAIN, SCALAR], ids=["plain", "scalar"])
    def test_it_is_word_for_word_what_zarr_writes(self, tmp_path: Path, column: Column) -> None:
        by_zarr(tmp_path, column, 13)
        assert column.metadata(13) == json.loads((tmp_path / "zarr.json").read_text())

    def test_a_group_repeats_the_metadata_of_its_arrays(self) -> None:
        document = group_metadata({"plain": PLAIN, "scalar": SCALAR}, 7, {"kind": "test"})
        assert document["consolidated_metadata"]["metadata"] == {
            "plain": PLAIN.metadata(7),
            "scalar": SCALAR.metadata(7),
        }
        assert document["attributes"] == {"kind": "test"}

    @pytest.mark.parametrize("column", [PLAIN, SHARDED, SCALAR], ids=["plain", "sharded", "scalar"])
    def test_every_chunk_and_every_index_carries_a_checksum(self, column: Column) -> None:
        for pipeline in pipelines(column.metadata(1)["codecs"]):
            assert pipeline == ["bytes", "crc32c"], "and nothing is compressed"


def pipelines(codecs: list[dict[str, Any]]) -> list[list[str]]:
    """Names of the codecs that chunks go through; of a shard, those of its chunks and of its index."""
    if codecs[0]["name"] != "sharding_indexed":
        return [[codec["name"] for codec in codecs]]
    inner = codecs[0]["configuration"]
    return [*pipelines(inner["codecs"]), *pipelines(inner["index_codecs"])]


class TestPlaces:
    @given(column=COLUMNS, rows=st.integers(1, 40), data=st.data())
    @settings(deadline=None, max_examples=20)
    def test_a_row_lies_where_its_column_says(self, column: Column, rows: int, data: st.DataObject) -> None:
        row = data.draw(st.integers(0, rows - 1))
        chunk, within = divmod(row, column.chunk_rows)
        number, offset = column.place(chunk)
        with TemporaryDirectory() as scratch:
            write(Path(scratch), column, values(column, rows))
            start = offset + within * column.row_bytes
            found = (Path(scratch) / column.file_name(number)).read_bytes()[start : start + column.row_bytes]
        assert found == values(column, 1, row).tobytes()

    @given(column=COLUMNS, rows=st.integers(1, 40))
    @settings(deadline=None, max_examples=20)
    def test_files_have_the_sizes_that_their_column_says(self, column: Column, rows: int) -> None:
        with TemporaryDirectory() as scratch:
            write(Path(scratch), column, values(column, rows))
            for number in range(column.files(rows)):
                held = column.chunks(min(rows - number * column.rows_per_file, column.rows_per_file))
                assert (Path(scratch) / column.file_name(number)).stat().st_size == column.file_bytes(held)

    def test_files_are_called_as_zarr_calls_them(self) -> None:
        assert [column.file_name(7) for column in (PLAIN, SHARDED, SCALAR)] == ["c.7.0", "c.7.0.0", "c.7"]

    def test_the_index_of_a_shard_says_which_chunks_are_absent(self) -> None:
        entries = np.frombuffer(SHARDED.index(2)[:-4], dtype="<u8").reshape(3, 2)
        size = 2 * 6 + 4
        assert entries.tolist() == [[0, size], [size, size], [2**64 - 1, 2**64 - 1]]


class TestChecksums:
    def test_the_known_answer(self) -> None:
        assert checksum(np.frombuffer(b"123456789", dtype=np.uint8)) == 0xE3069283
        assert checksum_bytes(0xE3069283) == bytes.fromhex("839206e3")

    @given(data=st.binary(max_size=40), more=st.binary(max_size=40))
    def test_parts_one_behind_the_other_are_summed_like_the_whole(self, data: bytes, more: bytes) -> None:
        one, other = np.frombuffer(data, dtype=np.uint8), np.frombuffer(more, dtype=np.uint8)
        assert extended(checksum(one), other) == google_crc32c.value(data + more)
        assert checksum(one, 7) == google_crc32c.value(data + bytes(7))
