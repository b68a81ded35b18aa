"""Raw files to the image store: `prepare` with one and two processes, against the plain loop that everybody writes.

    python benchmarks/prepare.py [--json] [--rounds N] [--images N] [--height N] [--width N] [--kind dicom]

The plain loop reads a file (pydicom for DICOM, Pillow for PNG), stretches it to 8 bit between its extremes, reduces it
with Pillow, and keeps the result in memory. `prepare` does the same to the same pixels, hashes what it read, and writes
manifest, card and image store. Files are drawn phantoms with noise, DICOM with 12 bits in 16 and uncompressed, as most
hospitals' are; their sizes are those of Stony Brook's films by default. Reading back is from the image store, every
picture, in shuffled order. A user's own table describes the files; the time from call to return counts, with the start
of processes.
"""

import argparse
import csv
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from common import Figure, arguments, interleaved, median_ratio, show
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

import peftbench
from peftbench.cohorts.card import open_pictures
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.protocol.workspace import Workspace

AIM_TWO = 1.8
"""`prepare` with two processes by the plain loop."""

AIM_BACK = 20.0
"""Reading from the image store by the plain loop."""

SIDE = 512

KINDS = ("dicom", "png")


def draw(folder: Path, images: int, extent: tuple[int, int], kinds: Sequence[str] = KINDS) -> Path:
    """Folders of the same films, one a kind, and a table; answers the raw folder."""
    drawn = write_phantom(folder / "drawn", PhantomConfig(patients=12, images_per_patient=1, size=512))
    films = sorted((drawn / "images").glob("*.png"))
    for name in kinds:
        (folder / name).mkdir()
    with (folder / "table.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["film", "icu"])
        for number in range(images):
            name = f"film{number:04}"
            rows.writerow([name, number % 2])
            samples = _film(films[number % len(films)], extent, number)
            if "dicom" in kinds:
                _write_dicom(folder / "dicom" / f"{name}.dcm", samples)
            if "png" in kinds:
                Image.fromarray((samples >> 4).astype(np.uint8)).save(folder / "png" / f"{name}.png", compress_level=6)
    return folder


def _film(source: Path, extent: tuple[int, int], seed: int) -> npt.NDArray[np.uint16]:
    """A phantom enlarged to a detector's extent, in 12 bits, with the noise of its quanta."""
    with Image.open(source) as picture:
        grey = np.asarray(picture.convert("F").resize(extent[::-1], Image.Resampling.BICUBIC))
    scaled = 200 + 3500 * (grey - grey.min()) / (grey.max() - grey.min())
    noisy = scaled + np.random.default_rng(seed).normal(0, 12, extent)
    return np.clip(noisy, 0, 4095).astype(np.uint16)


def _write_dicom(path: Path, samples: npt.NDArray[np.uint16]) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    film.SOPClassUID, film.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    film.Modality = "DX"
    film.Rows, film.Columns = samples.shape
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 12, 11, 0
    film.PixelData = samples.tobytes()
    film.save_as(path, enforce_file_format=True)


def plain(files: list[Path]) -> float:
    """Files a second of the loop that everybody writes."""
    kept = []
    start = time.perf_counter()
    for file in files:
        if file.suffix == ".dcm":
            samples = pydicom.dcmread(file).pixel_array.astype(np.float32)
        else:
            with Image.open(file) as picture:
                samples = np.asarray(picture.convert("L"), dtype=np.float32)
        stretched = 255 * (samples - samples.min()) / (samples.max() - samples.min())
        picture = Image.fromarray(stretched.round().astype(np.uint8))
        scale = SIDE / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        kept.append(np.asarray(picture.resize(size, Image.Resampling.BICUBIC)))
    return len(files) / (time.perf_counter() - start)


def measure(raw: Path, kind: str, rounds: int) -> list[Figure]:
    """Images a second of one kind of file, warm in the page cache, by turns."""
    files = sorted((raw / kind).iterdir())
    told = {"file": "{film}", "id": "film", "patient": "film", "label": "icu", "event": "1", "no_event": "0"}
    declared = peftbench.describe("table", table="table.csv", images=kind, name=f"bench_{kind}", **told)

    def prepared(workers: int) -> float:
        place = raw / "workspace"
        shutil.rmtree(place, ignore_errors=True)
        start = time.perf_counter()
        peftbench.prepare(declared, raw, workspace=place, workers=workers, side=SIDE)
        return len(files) / (time.perf_counter() - start)

    def back() -> float:
        store = open_pictures(Workspace.at(raw / "workspace"), declared.name)
        order = np.random.default_rng(0).permutation(store.images).tolist()
        start = time.perf_counter()
        for low in range(0, len(order), 16):
            store.gather(order[low : low + 16])
        return len(order) / (time.perf_counter() - start)

    interleaved(1, lambda: plain(files))
    loops, ones, twos, backs = interleaved(rounds, lambda: plain(files), lambda: prepared(1), lambda: prepared(2), back)
    loop = statistics.median(loops)
    what = {"dicom": "12-bit DICOM", "png": "8-bit PNG"}[kind]
    return [
        Figure(f"{what}, {name}", statistics.median(found), loop, "images/s", median_ratio(found, loops), aim)
        for name, found, aim in (
            ("prepare, one process", ones, None),
            ("prepare, two processes", twos, AIM_TWO),
            ("reading back", backs, AIM_BACK),
        )
    ]


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=256, help="files of each kind")
    parser.add_argument("--kind", choices=KINDS, action="append", help="of files; by default both")
    parser.add_argument("--height", type=int, default=3056)
    parser.add_argument("--width", type=int, default=2544)


def main() -> None:
    """Measure and print."""
    chosen = arguments(__doc__ or "", _options)
    with tempfile.TemporaryDirectory() as folder:
        kinds = chosen.kind or KINDS
        raw = draw(Path(folder), chosen.images, (chosen.height, chosen.width), kinds)
        figures = [figure for kind in kinds for figure in measure(raw, kind, chosen.rounds)]
    title = f"Preparing {chosen.images} films of {chosen.width} x {chosen.height}"
    show(title, figures, as_json=chosen.json, reference="plain loop")


if __name__ == "__main__":
    main()
