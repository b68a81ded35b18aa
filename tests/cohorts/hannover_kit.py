"""A small imitation of the Hannover download, to be broken in every way a download can be; and a search for leaks."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

COLUMNS = (
    "patient_id",
    "image_id",
    "sex",
    "age",
    "admission_offset",
    "icu_admission_offset",
    "icu_release_offset",
    "death_offset",
    "modality",
    "projection",
)


class Row(NamedTuple):
    """One row of data.csv; offsets are days relative to the exam."""

    patient: str
    image: str
    admission: str = "0"
    icu: str = ""
    death: str = ""
    projection: str = "ap"

    def cells(self) -> list[str]:
        return [
            self.patient, self.image, "f", "60", self.admission, self.icu, "", self.death, "CR", self.projection,
        ]  # fmt: skip


ROWS = (
    Row("aa000001", "b0000001", "0", "2.0", "", "pa"),
    Row("aa000001", "b0000002", "-3", "-1.0", "", "ap"),
    Row("aa000002", "b0000003", "0", "", "", "pa"),
    Row("aa000003", "b0000004", "-1", "", "9.0", "ap"),
    Row("aa000003", "b0000005", "0", "", "10.0", "ap"),
    Row("aa000004", "b0000006", "0", "0.0", "", "ap"),
)


def picture(number: int, extent: tuple[int, int] = (48, 40)) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, extent, dtype=np.uint8)


def write_table(folder: Path, rows: Sequence[Row] = ROWS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "data.csv").open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *(row.cells() for row in rows)])
    return folder / "data.csv"


def write_hannover(
    folder: Path, rows: Sequence[Row] = ROWS, pictures: Mapping[str, npt.NDArray[np.generic]] | None = None
) -> Path:
    """A raw folder; the pictures are those given, else each image has its own noise."""
    write_table(folder, rows)
    (folder / "png").mkdir()
    for number, row in enumerate(rows):
        path = folder / "png" / f"{row.image}.png"
        if path.resolve().is_relative_to(folder.resolve()) and row.image:
            chosen = picture(number) if pictures is None else pictures[row.image]
            Image.fromarray(chosen).save(path)
    return folder


def image_file(raw: Path, image: str) -> Path:
    return raw / "png" / f"{image}.png"


def everything_written(workspace: Path) -> Iterable[tuple[str, bytes]]:
    """Names and bytes of all files; tables are shown unpacked as well, because Parquet compresses."""
    for path in sorted(workspace.rglob("*")):
        name = path.relative_to(workspace).as_posix()
        yield name, name.encode()
        if path.is_file():
            yield name, path.read_bytes()
        if path.suffix == ".parquet":
            yield name, pd.read_parquet(path).to_csv().encode()


def leaks(workspace: Path, identifiers: Iterable[str]) -> list[tuple[str, str]]:
    """Where in a workspace identifiers of 8 hexadecimal characters stand in plain text."""
    wanted = {each.encode() for each in identifiers}
    assert wanted
    assert all(re.fullmatch(rb"[0-9a-f]{8}", each) for each in wanted)
    found = []
    for name, content in everything_written(workspace):
        for run in re.findall(rb"[0-9a-f]{8,}", content):
            windows = {run[start : start + 8] for start in range(len(run) - 7)}
            found += [(name, each.decode()) for each in windows & wanted]
    return found
