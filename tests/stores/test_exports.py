"""Exports for outside tools: each format's own library reads the same bits back, or there is no file."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from export_kit import SHAPES, image, labels, names_in, values

from stores.errors import StoreMismatchError
from stores.exports import Table, flat, npy_files, plain_columns, plain_provenance, write_hdf5, write_npy, write_parquet

COUNT = 9
PROVENANCE = {
    "store_key": "ab" * 32,
    "rows": COUNT,
    "cohort": None,
    "recipe": {"transform": "größer", "batch_size": 16},
}

Write = Callable[[Table, Path], list[Path]]
WRITERS: dict[str, Write] = {"t.h5": write_hdf5, "t.parquet": write_parquet, "t.npy": write_npy}


def table(dtype: str = "float32", **changes: Any) -> Table:
    made = Table(
        ids=[f"s-{row}" for row in range(COUNT)],
        images=[image(row) for row in range(COUNT)],
        outputs={name: values(COUNT, shape, dtype, seed) for seed, (name, shape) in enumerate(SHAPES.items())},
        columns=labels(COUNT),
        provenance=PROVENANCE,
    )
    return made._replace(**changes)


def same_bits(found: Any, expected: Any) -> None:
    found = np.asarray(found)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


both_types = pytest.mark.parametrize("dtype", ["float16", "float32"])
every_writer = pytest.mark.parametrize("name", WRITERS)


class TestHdf5:
    @both_types
    def test_h5py_reads_the_same_bits(self, tmp_path: Path, dtype: str) -> None:
        given = table(dtype)
        assert write_hdf5(given, tmp_path / "t.h5") == [tmp_path / "t.h5"]
        with h5py.File(tmp_path / "t.h5") as file:
            assert set(file) == {"features", "ids", "images", "outputs", "samples", "missing"}
            same_bits(file["features"][:], given.outputs["embedding"])
            same_bits(file["outputs/block_cls"][:], given.outputs["block_cls"])
            assert file["features"].attrs["output"] == "embedding"
            assert list(file["ids"].asstr()[:]) == given.ids
            assert list(file["images"].asstr()[:]) == given.images

    def test_columns_come_as_what_they_are(self, tmp_path: Path) -> None:
        write_hdf5(table(), tmp_path / "t.h5")
        expected = labels(COUNT)
        with h5py.File(tmp_path / "t.h5") as file:
            samples = file["samples"]
            assert list(samples["icu"].asstr()[:]) == expected["icu"].tolist()
            assert list(samples["taken"].asstr()[:2]) == ["2020-03-01 00:00:00", "2020-03-02 00:00:00"]
            same_bits(samples["beds"][:], expected["beds"].to_numpy())
            same_bits(samples["age"][:], expected["age"].to_numpy())
            same_bits(samples["intubated"][:], expected["intubated"].to_numpy())
            np.testing.assert_array_equal(samples["visits"][:], expected["visits"].to_numpy(float, na_value=np.nan))

    def test_missing_text_is_told_from_empty_text(self, tmp_path: Path) -> None:
        write_hdf5(table(), tmp_path / "t.h5")
        with h5py.File(tmp_path / "t.h5") as file:
            assert list(file["missing"]) == ["view"]
            assert list(file["samples/view"].asstr()[:4]) == ["AP", "PA", "", ""]
            assert file["missing/view"][:4].tolist() == [False, False, True, False]

    def test_provenance_is_json_and_its_single_values_by_name(self, tmp_path: Path) -> None:
        write_hdf5(table(), tmp_path / "t.h5")
        with h5py.File(tmp_path / "t.h5") as file:
            assert json.loads(file.attrs["provenance"]) == PROVENANCE
            assert (file.attrs["store_key"], file.attrs["rows"]) == ("ab" * 32, COUNT)
            assert set(file.attrs) == {"provenance", "store_key", "rows"}

    def test_long_provenance_and_a_slash_in_a_name_fit(self, tmp_path: Path) -> None:
        told = {"notes": ["x" * 1000] * 200}
        write_hdf5(table(columns=pd.DataFrame({"a/b": range(COUNT)}), provenance=told), tmp_path / "t.h5")
        with h5py.File(tmp_path / "t.h5") as file:
            assert json.loads(file.attrs["provenance"]) == told
            assert file["samples/a%2Fb"][:].tolist() == list(range(COUNT))

    def test_columns_may_be_called_as_the_datasets_are(self, tmp_path: Path) -> None:
        write_hdf5(table(columns=pd.DataFrame({"id": range(COUNT), "embedding": 1.5})), tmp_path / "t.h5")
        with h5py.File(tmp_path / "t.h5") as file:
            assert file["samples/id"][:].tolist() == list(range(COUNT))


class TestParquet:
    @both_types
    def test_pyarrow_reads_the_same_bits(self, tmp_path: Path, dtype: str) -> None:
        given = table(dtype)
        assert write_parquet(given, tmp_path / "t.parquet") == [tmp_path / "t.parquet"]
        found = pq.read_table(tmp_path / "t.parquet")
        assert found.column_names == ["id", "image", *labels(1), "embedding", "block_cls"]
        assert found["id"].to_pylist() == given.ids
        assert found["image"].to_pylist() == given.images
        for name, rows in given.outputs.items():
            column = found[name].combine_chunks()
            assert column.type.list_size == rows[0].size
            assert json.loads(found.schema.field(name).metadata[b"shape"]) == list(rows.shape[1:])
            same_bits(column.flatten().to_numpy().reshape(rows.shape), rows)
        assert json.loads(found.schema.metadata[b"peftbench"]) == PROVENANCE

    @both_types
    def test_pandas_reads_rows_and_columns_as_they_were(self, tmp_path: Path, dtype: str) -> None:
        given = table(dtype)
        write_parquet(given, tmp_path / "t.parquet")
        found = pd.read_parquet(tmp_path / "t.parquet")
        same_bits(np.stack(list(found["embedding"])), given.outputs["embedding"])
        same_bits(np.stack(list(found["block_cls"])), flat(given.outputs["block_cls"]))
        pd.testing.assert_frame_equal(found[list(labels(1))], labels(COUNT), check_dtype=False)
        assert found["visits"].dtype == "Int64"

    @both_types
    def test_duckdb_reads_the_same_numbers(self, tmp_path: Path, dtype: str) -> None:
        given = table(dtype)
        write_parquet(given, tmp_path / "t.parquet")
        query = "select id, view, visits, embedding, block_cls from read_parquet(?) order by id"
        found = duckdb.execute(query, [str(tmp_path / "t.parquet")]).fetchall()
        assert [row[0] for row in found] == given.ids
        assert [row[1] for row in found[:4]] == ["AP", "PA", None, ""]
        assert [row[2] for row in found[:3]] == [0, 1, None]
        # SQL has no half: DuckDB widens it, which loses nothing.
        same_bits(np.array([row[3] for row in found], dtype=dtype), given.outputs["embedding"])
        same_bits(np.array([row[4] for row in found], dtype=dtype), flat(given.outputs["block_cls"]))

    def test_rows_of_several_groups_keep_their_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stores.exports.ROW_GROUP", 4)
        given = table()
        write_parquet(given, tmp_path / "t.parquet")
        assert pq.read_metadata(tmp_path / "t.parquet").num_row_groups == 3
        assert pq.read_table(tmp_path / "t.parquet")["id"].to_pylist() == given.ids

    @pytest.mark.parametrize("name", ["id", "image", "embedding", "block_cls"])
    def test_a_column_in_the_place_of_another_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(StoreMismatchError, match=f"the column '{name}' would stand beside another"):
            write_parquet(table(columns=pd.DataFrame({name: range(COUNT)})), tmp_path / "t.parquet")
        assert not names_in(tmp_path)


class TestNpy:
    @both_types
    def test_numpy_reads_the_same_bits(self, tmp_path: Path, dtype: str) -> None:
        given = table(dtype)
        written = write_npy(given, tmp_path / "t.npy")
        assert [path.name for path in written] == ["t.npy", "t.csv", "t.json", "t.block_cls.npy"]
        assert names_in(tmp_path) == {path.name for path in written}
        for name, file in {"embedding": "t.npy", "block_cls": "t.block_cls.npy"}.items():
            same_bits(np.load(tmp_path / file), given.outputs[name])
            same_bits(np.load(tmp_path / file, mmap_mode="r"), given.outputs[name])

    def test_the_labels_are_in_the_order_of_the_matrix(self, tmp_path: Path) -> None:
        given = table()
        write_npy(given, tmp_path / "t.npy")
        with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as stream:
            found = list(csv.DictReader(stream))
        assert [row["id"] for row in found] == given.ids
        assert [row["image"] for row in found] == given.images
        assert [row["icu"] for row in found] == labels(COUNT)["icu"].tolist()
        assert [row["age"] for row in found[:2]] == ["40.25", ""]
        assert [row["visits"] for row in found[:3]] == ["0", "1", ""]

    def test_the_provenance_names_the_files(self, tmp_path: Path) -> None:
        write_npy(table(), tmp_path / "t.npy")
        about = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
        assert about["provenance"] == PROVENANCE
        assert about["table"] == "t.csv"
        assert about["outputs"]["block_cls"] == {"file": "t.block_cls.npy", "shape": [COUNT, 2, 3], "dtype": "float32"}

    def test_outputs_that_are_not_written_again_are_gone(self, tmp_path: Path) -> None:
        write_npy(table(), tmp_path / "t.npy")
        (tmp_path / "t.mine.npy").write_bytes(b"of the user")
        write_npy(table(outputs={"embedding": values(COUNT, (5,))}), tmp_path / "t.npy")
        assert names_in(tmp_path) == {"t.npy", "t.csv", "t.json", "t.mine.npy"}

    @pytest.mark.parametrize("text", ["", "[]", '{"outputs": 3}', '{"outputs": {"a": {"file": "../other.x.npy"}}}'])
    def test_another_json_of_that_name_takes_no_file_away(self, tmp_path: Path, text: str) -> None:
        folder = tmp_path / "inner"
        folder.mkdir()
        (tmp_path / "other.x.npy").write_bytes(b"of the user")
        (folder / "t.json").write_text(text)
        write_npy(table(), folder / "t.npy")
        assert (tmp_path / "other.x.npy").exists()

    def test_outputs_may_be_called_as_the_companions_are(self, tmp_path: Path) -> None:
        rows = values(COUNT, (2,))
        write_npy(table(outputs={"embedding": rows, "csv": rows + 1, "json": rows + 2}), tmp_path / "t.npy")
        assert names_in(tmp_path) == {"t.npy", "t.csv", "t.json", "t.csv.npy", "t.json.npy"}
        same_bits(np.load(tmp_path / "t.json.npy"), rows + 2)

    def test_a_name_with_dots_keeps_them(self, tmp_path: Path) -> None:
        files = npy_files(tmp_path / "v1.2.npy", ["embedding", "stages"])
        assert files.outputs["stages"].name == "v1.2.stages.npy"
        assert files.table.name == "v1.2.csv"


class TestEveryFormat:
    @every_writer
    def test_a_table_without_columns(self, tmp_path: Path, name: str) -> None:
        assert WRITERS[name](table(columns=None), tmp_path / name)[0] == tmp_path / name
        assert (tmp_path / name).stat().st_size

    @every_writer
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"outputs": {}}, "at least one output"),
            ({"ids": ["s-0"]}, "as many rows"),
            ({"images": []}, "as many rows"),
            ({"columns": pd.DataFrame({"a": [1]})}, "as many rows"),
            ({"outputs": {"embedding": values(COUNT, (2,)), "more": values(3, (2,))}}, "as many rows"),
            ({"columns": pd.DataFrame([[1, 2]] * COUNT, columns=["a", "a"])}, "two columns have one name"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(
        self, tmp_path: Path, name: str, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(StoreMismatchError, match=message):
            WRITERS[name](table(**changes), tmp_path / name)
        assert not names_in(tmp_path)

    @every_writer
    def test_the_rows_of_the_columns_count_not_their_index(self, tmp_path: Path, name: str) -> None:
        WRITERS[name](table(columns=labels(COUNT)), tmp_path / name)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        WRITERS[name](table(columns=labels(COUNT).set_index(np.arange(COUNT)[::-1])), tmp_path / name)
        if name == "t.parquet":
            assert pq.read_table(tmp_path / name)["beds"].to_pylist() == list(range(COUNT))
        else:
            assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class TestInterruption:
    """Wherever it stops, what had the name is untouched, and nothing else is left."""

    @every_writer
    @pytest.mark.parametrize("there", [False, True])
    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    @pytest.mark.parametrize("after", [0, 1, 3])
    def test_a_disk_that_is_full_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, there: bool, error: BaseException, after: int
    ) -> None:
        if there:
            WRITERS[name](table("float16"), tmp_path / name)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        writes, write = iter(range(after)), os.write

        def full(handle: int, data: Any) -> int:
            if next(writes, None) is None:
                raise error
            return write(handle, data[:100])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(type(error)):
            WRITERS[name](table(), tmp_path / name)
        monkeypatch.undo()
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    @every_writer
    @pytest.mark.parametrize("step", ["fsync", "chmod"])
    def test_nor_does_a_step_that_fails_before_the_names_change(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: str
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, step, fail)
        with pytest.raises(OSError, match="Input/output"):
            WRITERS[name](table(), tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("there", [False, True])
    @pytest.mark.parametrize("fails", ["t.csv", "t.json", "t.block_cls.npy", "t.npy"])
    def test_without_its_main_file_an_export_of_several_is_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, fails: str
    ) -> None:
        if there:
            write_npy(table("float16"), tmp_path / "t.npy")
        replace = Path.replace

        def stop(self: Path, target: Path) -> Path:
            if target == tmp_path / fails:
                raise KeyboardInterrupt
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            write_npy(table(), tmp_path / "t.npy")
        monkeypatch.undo()
        left = names_in(tmp_path)
        assert "t.npy" not in left
        assert there or not left
        assert not [path for path in tmp_path.iterdir() if path.is_dir()]
        write_npy(table(), tmp_path / "t.npy")
        same_bits(np.load(tmp_path / "t.npy"), table().outputs["embedding"])

    def test_while_names_change_no_main_file_stands_beside_another_ones_labels(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_npy(table("float16"), tmp_path / "t.npy")
        replace, seen = Path.replace, []

        def watch(self: Path, target: Path) -> Path:
            if target.parent == tmp_path:
                seen.append((target.name, (tmp_path / "t.npy").exists()))
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", watch)
        write_npy(table(), tmp_path / "t.npy")
        assert seen == [("t.csv", False), ("t.json", False), ("t.block_cls.npy", False), ("t.npy", False)]


def test_plain_columns_are_of_jsons_types() -> None:
    frame = labels(4).assign(
        mixed=[1, "a", None, True], kind=pd.Categorical(["x", None, "x", "y"]), far=[1.0, np.inf, np.nan, 2.0]
    )
    found = plain_columns(frame)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["view"] == ["AP", "PA", None, ""]
    assert found["visits"] == [0, 1, None, 3]
    assert found["intubated"] == [True, False, True, False]
    assert found["mixed"] == [1, "a", None, True]
    assert found["kind"] == ["x", None, "x", "y"]
    assert found["far"] == [1.0, "inf", None, 2.0]
    assert plain_columns(None) == {}


def test_plain_provenance_keeps_all_as_json() -> None:
    found = plain_provenance({"a": 1, "b": [1, 2], "c": None, "d": "x"})
    assert found == {"a": 1, "d": "x", "provenance": '{"a":1,"b":[1,2],"c":null,"d":"x"}'}
