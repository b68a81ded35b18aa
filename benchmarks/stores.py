"""Speed and size of the feature store beside the layouts that others use, on embeddings of a large cohort.

    python benchmarks/stores.py            # 13,639 x 1024 in float32 and float16, and 1,000,000 x 768 in float16
    python benchmarks/stores.py --quick    # a twentieth of it

The job is the same for all: a matrix and the id of each of its rows. `np.save` keeps the ids in a second file, one
HDF5 data set in a second data set; the layouts of one row a data set or a file have them as names. Cold means that the
page cache was asked to forget the files (`posix_fadvise`), which no layout can help.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np
import numpy.typing as npt
from common import median_ratio

from peftbench.protocol.provenance import provenance
from stores.features import FeatureStore, open_features
from stores.keys import digest_of
from stores.recipe import FeatureRecipe
from stores.verify import verify

Matrix = npt.NDArray[np.floating]

PATIENTS = (13_639, 1024)
"""Rows and dimension: the images of the paper's largest cohort, embedded by a large Vision Transformer."""

LARGE = (1_000_000, 768)
"""Rows and dimension that must be worked with in two GiB of memory."""

GATHERED = 1000
APPENDED = 0.01


class Layout(Protocol):
    """A way to keep a matrix and the ids of its rows in a folder."""

    name: str
    is_slow: bool
    """Thousands of objects: measured less often."""

    def write(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """Into an empty folder."""

    def load(self, folder: Path) -> tuple[Matrix, list[str]]:
        """All of it."""

    def append(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """More rows."""


class Store:
    """This project's feature store: durable (fsync), locked, checksummed."""

    name = "feature store"
    is_slow = False

    def write(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """Into an empty folder."""
        store = FeatureStore.create(folder / "store", _recipe(matrix.dtype.name), {"embedding": matrix.shape[1:]})
        store.append(ids, {"embedding": matrix})

    def load(self, folder: Path) -> tuple[Matrix, list[str]]:
        """All of it, every byte held against its checksum."""
        return open_features(folder / "store").load()

    def append(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """More rows."""
        open_features(folder / "store").append(ids, {"embedding": matrix})


class Numpy:
    """One `.npy` for the matrix and one for the ids."""

    name = "np.save, np.load"
    is_slow = False

    def write(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """Into an empty folder."""
        np.save(folder / "matrix.npy", matrix)
        np.save(folder / "ids.npy", np.array(ids, dtype="S64"))

    def load(self, folder: Path) -> tuple[Matrix, list[str]]:
        """All of it."""
        return np.load(folder / "matrix.npy"), np.load(folder / "ids.npy").astype(str).tolist()

    def append(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """The format knows no appending: everything is written anew."""
        old, names = self.load(folder)
        self.write(folder, names + ids, np.concatenate([old, matrix]))


class OneDataset:
    """One HDF5 data set for all."""

    name = "HDF5, one data set"
    is_slow = False

    def write(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """Into an empty folder."""
        with h5py.File(folder / "all.h5", "w") as file:
            file.create_dataset("features", data=matrix, maxshape=(None, matrix.shape[1]))
            file.create_dataset("ids", data=np.array(ids, dtype="S64"), maxshape=(None,))

    def load(self, folder: Path) -> tuple[Matrix, list[str]]:
        """All of it."""
        with h5py.File(folder / "all.h5") as file:
            return file["features"][:], file["ids"][:].astype(str).tolist()

    def append(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """More rows."""
        with h5py.File(folder / "all.h5", "r+") as file:
            for name, rows in (("features", matrix), ("ids", np.array(ids, dtype="S64"))):
                data = file[name]
                data.resize(len(data) + len(rows), axis=0)
                data[-len(rows) :] = rows


class RowDatasets:
    """One HDF5 data set a row."""

    name = "HDF5, a data set a row"
    is_slow = True

    def write(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """Into an empty folder."""
        self.append(folder, ids, matrix)

    def load(self, folder: Path) -> tuple[Matrix, list[str]]:
        """All of it."""
        with h5py.File(folder / "rows.h5") as file:
            ids = list(file)
            return np.stack([file[name][:] for name in ids]), ids

    def append(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """More rows."""
        with h5py.File(folder / "rows.h5", "a") as file:
            for name, row in zip(ids, matrix, strict=True):
                file.create_dataset(name, data=row)


class RowFiles:
    """One `.pt` file a row."""

    name = "a .pt file a row"
    is_slow = True

    def write(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """Into an empty folder."""
        self.append(folder, ids, matrix)

    def load(self, folder: Path) -> tuple[Matrix, list[str]]:
        """All of it."""
        import torch

        paths = sorted(folder.glob("*.pt"))
        return np.stack([torch.load(path, weights_only=True).numpy() for path in paths]), [path.stem for path in paths]

    def append(self, folder: Path, ids: list[str], matrix: Matrix) -> None:
        """More rows."""
        import torch

        for name, row in zip(ids, torch.from_numpy(matrix), strict=True):
            torch.save(row.clone(), folder / f"{name}.pt")


LAYOUTS: tuple[Layout, ...] = (Store(), Numpy(), OneDataset(), RowDatasets(), RowFiles())


class Measured(NamedTuple):
    """Seconds (medians over the rounds), bytes and files of one layout."""

    layout: str
    write: float
    cold: float
    warm: float
    gather: float
    append: float
    bytes: int
    files: int
    warm_ratio: float
    """Of np.load's warm time to this one's, round by round."""


def main() -> None:
    """Measure and print."""
    words = _arguments()
    share = 20 if words.quick else 1
    answer: dict[str, Any] = {"benchmark": "stores", "provenance": provenance()}
    with tempfile.TemporaryDirectory(dir=words.folder) as scratch:
        for dtype in ("float32", "float16"):
            rows, dim = PATIENTS[0] // share, PATIENTS[1]
            found = _compare(Path(scratch), rows, dim, dtype, words.rounds)
            deep = _deep(Path(scratch), rows, dim, dtype, words.rounds)
            answer[dtype] = {"layouts": [each._asdict() for each in found], "verify": deep}
            _show(found, deep, rows, dim, dtype)
        answer["large"] = _large(Path(scratch), LARGE[0] // share, LARGE[1])
        _show_large(answer["large"])
    if words.json:
        print(json.dumps(answer))


def _compare(scratch: Path, rows: int, dim: int, dtype: str, rounds: int) -> list[Measured]:
    ids, matrix = _made(rows, dim, dtype)
    more_ids, more = _made(max(1, round(rows * APPENDED)), dim, dtype, first=rows)
    seconds: dict[str, dict[str, list[float]]] = {each.name: {} for each in LAYOUTS}
    sizes: dict[str, tuple[int, int]] = {}
    numbers = np.random.default_rng(1).integers(0, rows, GATHERED)
    for layout in LAYOUTS:
        folder = scratch / f"{LAYOUTS.index(layout)}-{dtype}"
        for _ in range(1 if layout.is_slow else rounds):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _note(seconds, layout, "write", partial(layout.write, folder, ids, matrix))
        sizes[layout.name] = _size(folder)
    # Reading is measured by turns, so that a slow minute of the machine meets all.
    for turn in range(rounds):
        for layout in LAYOUTS:
            if layout.is_slow and turn > 2:
                continue
            folder = scratch / f"{LAYOUTS.index(layout)}-{dtype}"
            _forget(folder)
            _note(seconds, layout, "cold", partial(layout.load, folder))
            if layout.is_slow:
                _note(seconds, layout, "warm", partial(layout.load, folder))
            loaded, names = layout.load(folder)
            assert len(names) == len(loaded) == rows
            _note(seconds, layout, "gather", partial(loaded.take, numbers, axis=0))
            del loaded, names
    # By themselves: what a layout of thousands of objects leaves in the allocator must not weigh on the next one.
    quick = [layout for layout in LAYOUTS if not layout.is_slow]
    for _ in range(2 * rounds):
        for layout in quick:
            _note(seconds, layout, "warm", partial(layout.load, scratch / f"{LAYOUTS.index(layout)}-{dtype}"))
    for layout in LAYOUTS:
        folder = scratch / f"{LAYOUTS.index(layout)}-{dtype}"
        _note(seconds, layout, "append", partial(layout.append, folder, more_ids, more))
        found, names = layout.load(folder)
        assert _same(dict(zip(names, found, strict=True)), [*ids, *more_ids], np.concatenate([matrix, more]))
    reference = seconds[Numpy.name]["warm"]
    return [
        Measured(
            each.name,
            **{what: statistics.median(values) for what, values in seconds[each.name].items()},
            bytes=sizes[each.name][0],
            files=sizes[each.name][1],
            warm_ratio=median_ratio(reference[: len(seconds[each.name]["warm"])], seconds[each.name]["warm"]),
        )
        for each in LAYOUTS
    ]


def _deep(scratch: Path, rows: int, dim: int, dtype: str, rounds: int) -> dict[str, float]:
    """Seconds of `verify --deep` beside those of a full load of the same store, by turns."""
    folder = scratch / f"0-{dtype}" / "store"
    matrix = scratch / "bare.npy"
    np.save(matrix, open_features(folder).load().matrix)
    loads, verdicts, bare = [], [], []
    for _ in range(rounds):
        loads.append(_seconds(lambda: open_features(folder).load()))
        verdicts.append(_seconds(lambda: _assert_sound(folder)))
        bare.append(_seconds(partial(np.load, matrix)))
    matrix.unlink()
    return {
        "rows": rows,
        "dim": dim,
        "load": statistics.median(loads),
        "verify_deep": statistics.median(verdicts),
        "ratio": median_ratio(loads, verdicts),
        "np_load_without_ids": statistics.median(bare),
        "load_to_np_load_without_ids": median_ratio(bare, loads),
    }


def _assert_sound(folder: Path) -> None:
    assert not any(each.faults for each in verify(folder, deep=True))


def _write_large(folder: Path, rows: int, dim: int) -> None:
    store = FeatureStore.create(folder, _recipe("float16"), {"embedding": (dim,)})
    for start in range(0, rows, 20_000):
        ids, matrix = _made(min(20_000, rows - start), dim, "float32", first=start)
        store.append(ids, {"embedding": matrix})


def _verify_large(folder: Path, rows: int, dim: int) -> None:
    (verdict,) = verify(folder, deep=True)
    assert not verdict.faults
    assert verdict.bytes == rows * (2 * dim + 32 + 2 * 4), "embedding, digest, and a checksum of each"


def _sample_large(folder: Path, rows: int, dim: int) -> None:
    matrix, ids = open_features(folder).load_mapped()
    drawn = np.random.default_rng(0).integers(0, rows, GATHERED)
    assert len(ids) == rows
    assert matrix[drawn].shape == (GATHERED, dim)


def _load_large(folder: Path, rows: int, dim: int) -> None:
    assert open_features(folder).load().matrix.shape == (rows, dim)


LARGE_PARTS = {"write": _write_large, "verify": _verify_large, "sample": _sample_large, "load": _load_large}


def _large(scratch: Path, rows: int, dim: int) -> dict[str, Any]:
    """Each part in a process of its own: seconds, and the most memory that it held."""
    folder = scratch / "large"
    found: dict[str, Any] = {"rows": rows, "dim": dim, "dtype": "float16"}
    for part in LARGE_PARTS:
        command = [sys.executable, __file__, "--part", part, str(folder), str(rows), str(dim)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[part] = json.loads(done.stdout)
    found["bytes"], found["files"] = _size(folder)
    return found


def _run_part(part: str, folder: Path, rows: int, dim: int) -> None:
    seconds = _seconds(partial(LARGE_PARTS[part], folder, rows, dim))
    print(json.dumps({"seconds": seconds, "peak_bytes": _peak_memory()}))


def _peak_memory() -> int:
    """Most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage, whose figure begins with that of the process that started this one.
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _show(found: Sequence[Measured], deep: dict[str, float], rows: int, dim: int, dtype: str) -> None:
    print(f"\n## {rows:,} x {dim} {dtype}\n")
    heads = ("layout", "write", "cold load", "warm load", "gather 1,000", "append 1 %", "on disk", "files")
    print(f"| {' | '.join(heads)} | np.load by warm load |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for each in found:
        times = " | ".join(_ms(value) for value in (each.write, each.cold, each.warm, each.gather, each.append))
        print(f"| {each.layout} | {times} | {each.bytes / 1e6:.1f} MB | {each.files:,} | {each.warm_ratio:.3g} |")
    store, per_file = found[0], found[-1]
    print()
    _aim("full load against np.save and np.load of the same matrix and ids", store.warm_ratio, 0.5)
    print(f"  (against np.load of the matrix alone, without ids: {deep['load_to_np_load_without_ids']:.2f})")
    _aim("full load against a file a row", per_file.warm / store.warm, 50)
    _aim("verify --deep against a full load", deep["ratio"], 0.5)


def _show_large(found: dict[str, Any]) -> None:
    print(f"\n## {found['rows']:,} x {found['dim']} {found['dtype']}\n")
    print(f"{found['bytes'] / 1e9:.2f} GB in {found['files']:,} files.\n")
    print("| part | seconds | most memory | aim | |")
    print("|---|---:|---:|---:|---|")
    for part in LARGE_PARTS:
        peak = found[part]["peak_bytes"] / 2**30
        # A full load holds the matrix, which is no more than the matrix: it has no aim.
        aim = "" if part == "load" else "<= 2 GiB"
        verdict = "" if part == "load" else ("met" if peak <= 2 else "missed")
        print(f"| {part} | {found[part]['seconds']:.1f} | {peak:.2f} GiB | {aim} | {verdict} |")


def _aim(what: str, ratio: float, aim: float) -> None:
    print(f"- {what}: {ratio:.3g} (aim: at least {aim:g}; {'met' if ratio >= aim else 'missed'})")


def _ms(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _made(rows: int, dim: int, dtype: str, first: int = 0) -> tuple[list[str], Matrix]:
    ids = [digest_of(["row", number]) for number in range(first, first + rows)]
    return ids, np.random.default_rng(first).standard_normal((rows, dim), dtype=np.float32).astype(dtype)


def _recipe(dtype: str) -> FeatureRecipe:
    outputs = {"embedding": "class token"}
    return FeatureRecipe("none", "0" * 64, "none", outputs, dtype, "fp32", "none", 1, {})


def _note(seconds: dict[str, dict[str, list[float]]], layout: Layout, what: str, job: Callable[[], object]) -> None:
    seconds[layout.name].setdefault(what, []).append(_seconds(job))


def _seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _same(found: dict[str, Matrix], ids: list[str], matrix: Matrix) -> bool:
    return len(found) == len(ids) and all(
        np.array_equal(found[name], row) for name, row in zip(ids, matrix, strict=True)
    )


def _forget(folder: Path) -> None:
    """Ask the page cache to let go of a folder's files."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def _size(folder: Path) -> tuple[int, int]:
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(stat.st_blocks * 512 for stat in stats), len(stats)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and size of the feature store beside other layouts.")
    parser.add_argument("--json", action="store_true", help="end with one JSON object of the figures")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows")
    parser.add_argument("--rounds", type=int, default=7, help="of the quick layouts; medians are shown")
    parser.add_argument("--folder", type=Path, help="where to write; by default the system's temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        _run_part(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
