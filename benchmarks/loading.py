"""Training batches in shuffled order: from the image store, against decoding the raw files anew in every epoch.

    python benchmarks/loading.py --raw DIR [--json] [--rounds N]

Both sides end at the same pixels (resized, cut, 8 bit) in one process; what a loader's workers would add is the same
for both. Without `--raw` the generated phantom is used, whose small files decode faster than any hospital's.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import Figure, arguments, interleaved, median_ratio, show

import peftbench
from peftbench.cohorts.registry import get_cohort
from peftbench.cohorts.rows import read_rows
from peftbench.extraction.extract import open_pictures
from peftbench.imaging.decode import PixelPolicy, canonical_pixels
from peftbench.imaging.loading import shuffled
from peftbench.imaging.transform import IMAGENET
from peftbench.protocol.workspace import Workspace
from stores.images import ImageStore

BATCH_SIZE = 16
AIM = 5.0


def measure(store: ImageStore, files: list[Path], rounds: int) -> Figure:
    """Pictures a second, warm, an epoch a round."""
    loader = shuffled(store.folder, store.images, IMAGENET, batch_size=BATCH_SIZE)
    policy = PixelPolicy()

    def stored() -> float:
        start = time.perf_counter()
        count = sum(len(batch.numbers) for batch in loader)
        return count / (time.perf_counter() - start)

    def decoded() -> float:
        order = np.random.default_rng(0).permutation(len(files))
        start = time.perf_counter()
        for low in range(0, len(files), BATCH_SIZE):
            IMAGENET.shape([canonical_pixels(files[number], policy) for number in order[low : low + BATCH_SIZE]])
        return len(files) / (time.perf_counter() - start)

    interleaved(1, stored, decoded)
    stores, raws = interleaved(rounds, stored, decoded)
    medians = statistics.median(stores), statistics.median(raws)
    return Figure(f"an epoch of {len(store)} pictures", *medians, "pictures/s", median_ratio(stores, raws), AIM)


def main() -> None:
    """Measure and print."""
    chosen = arguments(__doc__ or "")
    cohort = "hannover" if chosen.raw else "phantom"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.at(folder)
        peftbench.prepare(cohort, chosen.raw, workspace=place)
        files = list(read_rows(get_cohort(cohort), chosen.raw or place.raw(cohort)).files)
        figure = measure(open_pictures(place, cohort), files, chosen.rounds)
    show(f"Shuffled training batches, {cohort}, one thread", [figure], as_json=chosen.json, reference="decoding")


if __name__ == "__main__":
    main()
