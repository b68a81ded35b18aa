"""Extraction throughput against the bare forward loop over tensors that are in memory already.

    python benchmarks/extraction.py [--raw DIR] [--json] [--rounds N]

Same model, threads, precision, batch size and memory layout on both sides. The left side is what `peftbench extract`
does for one backbone: read the image store, transform, forward, append to the feature store with checksums.
Takes about three minutes on two cores.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import Figure, arguments, interleaved, median_ratio, show

import peftbench
from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import parse_backbone
from peftbench.extraction.device import has_bf16, pick_device, pick_precision
from peftbench.extraction.embed import Engine, embed_missing
from peftbench.extraction.extract import BATCH_SIZE, GPU_BATCH_SIZE, open_pictures, recipe_of
from peftbench.protocol.progress import Silent
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore

BACKBONES = ("efficientnet-lite0", "resnet18@random:0")
AIM = 0.95


def measure(backbone: str, precision_name: str, cohort: str, place: Workspace, rounds: int) -> Figure:
    """One backbone in one precision: images/s end to end and bare."""
    encoder = load_encoder(parse_backbone(backbone))
    device = pick_device("auto")
    precision = pick_precision(precision_name, device)
    size = GPU_BATCH_SIZE if device.type == "cuda" else BATCH_SIZE
    engine = Engine(encoder, device, precision, size)
    pictures = open_pictures(place, cohort)
    images, _ = pictures.read(0, len(pictures))
    recipe = recipe_of(encoder, device, precision, size)
    shapes = {output.name: output.shape for output in encoder.card.outputs}
    crop = encoder.card.transform.crop
    pixels = torch.randint(0, 256, (size, crop, crop), dtype=torch.uint8)
    resident = encoder.card.transform.normalise(pixels.to(device), torch.empty_like(engine.buffer))
    batches = len(images) // size

    def bare() -> float:
        start = time.perf_counter()
        for _ in range(batches):
            engine.forward(resident)
        return batches * size / (time.perf_counter() - start)

    def whole() -> float:
        with tempfile.TemporaryDirectory() as folder:
            store = FeatureStore.create(Path(folder) / "store", recipe, shapes)
            chosen = images[: batches * size]
            return len(chosen) / embed_missing(engine, pictures, store, chosen, Silent())

    interleaved(1, bare, whole)
    bares, wholes = interleaved(rounds, bare, whole)
    medians = statistics.median(wholes), statistics.median(bares)
    return Figure(f"{backbone}, {precision}", *medians, "images/s", median_ratio(wholes, bares), AIM)


def main() -> None:
    """Measure and print."""
    chosen = arguments(__doc__ or "")
    cohort = "hannover" if chosen.raw else "phantom"
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.at(folder)
        peftbench.prepare(cohort, chosen.raw, workspace=place)
        figures = [
            measure(backbone, precision, cohort, place, chosen.rounds)
            for backbone in BACKBONES
            for precision in ("fp32", *(["bf16"] if has_bf16(pick_device("auto")) else []))
        ]
    title = f"Extraction from the image store, {cohort}, {torch.get_num_threads()} threads"
    show(title, figures, as_json=chosen.json, reference="bare forward")


if __name__ == "__main__":
    main()
