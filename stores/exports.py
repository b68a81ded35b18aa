"""Stored rows as files that other tools read: HDF5, Parquet, and numpy's own `.npy` beside a CSV.

Nothing of peftbench or torch: whoever can open a store can write these. A file is there whole or not at all, and
replaces what had its name. Everything is put together in memory first, which takes about the matrix's size again.
"""

import csv
import io
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stores.atomic import SCRATCH_SUFFIX, sync_folder, write_atomic, write_parts
from stores.errors import StoreMismatchError
from stores.keys import canonical_json
from stores.layout import as_bytes

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    import pyarrow as pa

Parts = Sequence[Any]
"""Bytes-like objects that make up a file, one behind the other."""

ROW_GROUP = 8192
"""Rows of a Parquet file that a reader takes at once."""


class Table(NamedTuple):
    """Rows to be taken elsewhere.

    Attributes:
        ids: of each row: a cohort's sample ids, or image digests.
        images: digest of each row's canonical pixels.
        outputs: name to (rows, ...); the first is the main one.
        columns: a row each, in the same order, such as a cohort's manifest; None where there are none.
        provenance: what made the rows, of JSON's types.
    """

    ids: Sequence[str]
    images: Sequence[str]
    outputs: Mapping[str, npt.NDArray[np.floating]]
    columns: "pd.DataFrame | None"
    provenance: Mapping[str, Any]

    @property
    def main(self) -> str:
        """Name of the main output."""
        return next(iter(self.outputs))

    @property
    def others(self) -> dict[str, npt.NDArray[np.floating]]:
        """The outputs beside the main one."""
        return {name: rows for name, rows in self.outputs.items() if name != self.main}

    def checked(self) -> "Table":
        """The table itself.

        Raises:
            StoreMismatchError: it has no output, or its parts differ in length.
        """
        if not self.outputs:
            raise StoreMismatchError("a table needs at least one output, this one has none")
        counts = {"ids": len(self.ids), "images": len(self.images)}
        counts |= {name: len(rows) for name, rows in self.outputs.items()}
        if self.columns is not None:
            counts["columns"] = len(self.columns)
        if len(set(counts.values())) > 1:
            raise StoreMismatchError(f"the parts of a table have as many rows as it has ids, these have {counts}")
        if self.columns is not None and not self.columns.columns.is_unique:
            raise StoreMismatchError(f"two columns have one name: {list(self.columns.columns)}")
        return self

    def refuse_names(self, taken: Sequence[str]) -> None:
        """Refuse columns that would stand beside another one of their name.

        Raises:
            StoreMismatchError: there is such a column.
        """
        both = [] if self.columns is None else [name for name in map(str, self.columns.columns) if name in taken]
        if both:
            raise StoreMismatchError(
                f"the column {both[0]!r} would stand beside another one of that name: rename it in the table, or write "
                "HDF5, which keeps them apart"
            )


def write_hdf5(table: Table, path: Path) -> list[Path]:
    """Write HDF5 as tools for slides and patches read it: the matrix is the dataset `features`.

    Beside it `ids`, `images`, `outputs/NAME` and `samples/COLUMN`. Text is UTF-8, dates are text. A missing number is
    NaN; missing text is empty, and true in `missing/COLUMN`. The file's attributes hold the provenance as JSON, and
    what of it is a single value by its own name.

    Raises:
        StoreMismatchError: the parts of the table do not fit.
        OSError: it cannot be written; what had its name is untouched then.
    """
    import h5py  # noqa: PLC0415 - the other formats are written without it

    table.checked()
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs.update(plain_provenance(table.provenance))
        file["features"] = table.outputs[table.main]
        file["features"].attrs["output"] = table.main
        for name, texts in {"ids": table.ids, "images": table.images}.items():
            _write_text(file, name, texts)
        for name, rows in table.others.items():
            file[f"outputs/{name}"] = rows
        for name, column in _columns(table.columns):
            _write_column(file, name, column)
    write_atomic(path, memory.getbuffer())
    return [path]


def write_parquet(table: Table, path: Path) -> list[Path]:
    """Write Parquet: `id`, `image`, the columns, and each output as a column of lists of one length.

    An output with more axes is flattened (C order), its shape is in the column's metadata. The schema's metadata hold
    the provenance as JSON under `peftbench`.

    Raises:
        StoreMismatchError: the parts of the table do not fit, or two columns would have one name.
        OSError: it cannot be written; what had its name is untouched then.
    """
    import pyarrow as pa  # noqa: PLC0415 - the other formats are written without it
    import pyarrow.parquet as pq  # noqa: PLC0415

    table.checked().refuse_names(["id", "image", *table.outputs])
    found = pa.table({"id": pa.array(list(table.ids), pa.string()), "image": pa.array(list(table.images), pa.string())})
    told = {b"peftbench": canonical_json(dict(table.provenance)).encode()}
    if table.columns is not None:
        columns = pa.Table.from_pandas(table.columns, preserve_index=False)
        told |= columns.schema.metadata or {}
        for field, column in zip(columns.schema, columns.columns, strict=True):
            found = found.append_column(field, column)
    labels = found.column_names
    for name, rows in table.outputs.items():
        found = found.append_column(*_list_column(name, rows))
    memory = io.BytesIO()
    # Embeddings repeat nothing: neither a dictionary nor compression makes them smaller.
    squeezed = {**dict.fromkeys(labels, "zstd"), **{f"{name}.list.element": "none" for name in table.outputs}}
    pq.write_table(
        found.replace_schema_metadata(told),
        memory,
        row_group_size=ROW_GROUP,
        use_dictionary=labels,
        compression=squeezed,
    )
    write_atomic(path, memory.getbuffer())
    return [path]


def write_npy(table: Table, path: Path) -> list[Path]:
    """Write NAME.npy, further outputs as NAME.OUTPUT.npy, the rows' labels as NAME.csv, the provenance as NAME.json.

    A missing value is an empty field of the CSV. NAME.npy comes last: while it is there, so is the rest. Where an
    earlier export had more outputs, their files go.

    Raises:
        StoreMismatchError: the parts of the table do not fit, or two columns would have one name.
        OSError: it cannot be written; what had these names is untouched then.
    """
    table.checked().refuse_names(["id", "image"])
    names = npy_files(path, list(table.outputs))
    about = {
        "provenance": dict(table.provenance),
        "table": names.table.name,
        "outputs": {
            name: {"file": names.outputs[name].name, "shape": list(rows.shape), "dtype": rows.dtype.name}
            for name, rows in table.outputs.items()
        },
    }
    files: dict[Path, Parts] = {
        names.table: [_csv(table).encode()],
        names.about: [(json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()],
    }
    files |= {names.outputs[name]: _npy(rows) for name, rows in table.others.items()}
    stale = _listed_before(names.about) - set(names.outputs.values())
    _write_together(files, path, _npy(table.outputs[table.main]), stale)
    return [path, *files]


class NpyFiles(NamedTuple):
    """Where an export as `.npy` lies: each output by its name, the rows' labels, the provenance."""

    outputs: dict[str, Path]
    table: Path
    about: Path


def npy_files(path: Path, outputs: Sequence[str]) -> NpyFiles:
    """The files of an export as `.npy`.

    Args:
        path: of the main file, which ends in `.npy`.
        outputs: their names, the main one first.
    """
    main, *others = outputs
    matrices = {main: path, **{name: path.with_name(f"{path.stem}.{name}.npy") for name in others}}
    return NpyFiles(matrices, path.with_name(f"{path.stem}.csv"), path.with_name(f"{path.stem}.json"))


def plain_provenance(provenance: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Provenance where there is no room for more than texts and numbers.

    Returns:
        `provenance`: all of it as JSON; and what of it is a single value by its own name.
    """
    single = {name: value for name, value in provenance.items() if isinstance(value, str | int | float | bool)}
    return {**single, "provenance": canonical_json(dict(provenance))}


def flat(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """(rows, ...) as (rows, values), C order."""
    return np.ascontiguousarray(rows).reshape(len(rows), math.prod(rows.shape[1:]))


def plain_columns(columns: "pd.DataFrame | None") -> dict[str, list[Any]]:
    """Columns as JSON's types: a missing value is None, what is neither number nor truth value is text."""
    return {name: _plain(column) for name, column in _columns(columns)}


def _columns(columns: "pd.DataFrame | None") -> "Iterator[tuple[str, pd.Series[Any]]]":
    if columns is not None:
        yield from ((str(name), column) for name, column in columns.items())


def _plain(column: "pd.Series[Any]") -> list[Any]:
    present = column.notna().tolist()
    values = column.astype(object).tolist()
    return [_one(value) if there else None for value, there in zip(values, present, strict=True)]


def _one(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    # JSON has no word for infinity.
    return value if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)) else str(value)


def _write_column(file: "h5py.File", name: str, column: "pd.Series[Any]") -> None:
    # A slash would open a group.
    name = name.replace("/", "%2F")
    values, absent = _plain(column), column.isna().to_numpy(dtype=bool)
    is_number = column.dtype.kind in "iufb"
    if column.dtype.kind == "f" or (is_number and absent.any()):
        file[f"samples/{name}"] = column.to_numpy(dtype=np.float64, na_value=math.nan)
    elif is_number:
        # Pandas' own types of integers and truth values stand for one of numpy's each.
        dtype: Any = getattr(column.dtype, "numpy_dtype", column.dtype)
        file[f"samples/{name}"] = column.to_numpy(dtype=dtype)
    else:
        _write_text(file, f"samples/{name}", ["" if value is None else str(value) for value in values])
        if absent.any():
            file[f"missing/{name}"] = absent


def _write_text(file: "h5py.File", name: str, texts: Sequence[str]) -> None:
    import h5py  # noqa: PLC0415

    file.create_dataset(name, data=list(texts), shape=(len(texts),), dtype=h5py.string_dtype("utf-8"))


def _list_column(name: str, rows: npt.NDArray[np.floating]) -> "tuple[pa.Field, pa.Array]":
    import pyarrow as pa  # noqa: PLC0415

    values = flat(rows)
    array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.field(name, array.type, metadata={"shape": json.dumps(list(rows.shape[1:]))}), array


def _csv(table: Table) -> str:
    columns = plain_columns(table.columns)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "image", *columns])
    writer.writerows(zip(table.ids, table.images, *columns.values(), strict=True))
    return text.getvalue()


def _npy(rows: npt.NDArray[np.floating]) -> Parts:
    header = io.BytesIO()
    rows = np.ascontiguousarray(rows)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(rows))
    return [header.getvalue(), as_bytes(rows)]


def _listed_before(about: Path) -> set[Path]:
    """Files of further outputs that an earlier export to the same name says it wrote."""
    own = re.compile(re.escape(about.stem) + r"\.[a-z][a-z0-9_]*\.npy")
    try:
        listed = [str(each["file"]) for each in json.loads(about.read_bytes())["outputs"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {about.with_name(name) for name in listed if own.fullmatch(name)}


def _write_together(files: Mapping[Path, Parts], main: Path, matrix: Parts, stale: set[Path]) -> None:
    """Write files of one folder together, `main` as the last.

    All are written beside their places first, so that a full disk changes nothing; then names change, while there is
    no main file, so that none ever stands beside what does not belong to it.
    """
    folder = main.parent
    scratch = Path(tempfile.mkdtemp(prefix=f".{main.stem[:32]}.", suffix=SCRATCH_SUFFIX, dir=folder))
    placed = set()
    try:
        for path, parts in [*files.items(), (main, matrix)]:
            write_parts(scratch / path.name, parts)
        for path in [main, *stale]:
            path.unlink(missing_ok=True)
        for path in files:
            (scratch / path.name).replace(path)
            placed.add(path)
        sync_folder(folder)
        (scratch / main.name).replace(main)
    except BaseException:
        for path in placed:
            path.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sync_folder(folder)
