"""How fast `peftbench extract` is, against the bare forward pass and against the naive way, in one run.

    python benchmarks/extraction.py [--raw DIR] [--json] [--rounds N] [--backbone NAME ...] [--images N]

Five ways of embedding the same pictures with the same backbone, in images/s:

(a) the bare forward pass in fp32 over tensors in memory, as PyTorch does it by default;
(b) the best bare forward pass: bf16 where the processor has it, channels-last for CNNs, all threads on a batch;
(c) `peftbench extract`: from the image store to committed rows and read back, in the precision of (b);
(d) the naive way: raw files decoded with Pillow, torchvision's transform, fp32 in batches, a .pt file a picture.

(e) the forward pass of (c) alone, over tensors in memory: norms folded, every core with a batch of its own.

Their ratios are compared with the aims; (b) also with the processor's peak of matrix products in its precision. Weights
are those on this machine, else untrained ones, which cost the same. Takes some minutes on two cores.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from common import Figure, arguments, interleaved, median_ratio, show

import peftbench
from peftbench.backbones.device import Precision, autocast, has_bf16, pick_device
from peftbench.backbones.loading import Encoder, load_encoder
from peftbench.backbones.locating import locate
from peftbench.backbones.registry import BackboneSpec, get_card, parse_backbone
from peftbench.cohorts.registry import get_cohort
from peftbench.cohorts.sources import files_of
from peftbench.extraction.batches import CPU_BATCH, GPU_BATCH
from peftbench.extraction.embed import embed_missing, produce
from peftbench.extraction.engine import Engine
from peftbench.extraction.extract import open_pictures, recipe_of
from peftbench.protocol.progress import Silent
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore
from stores.images import ImageStore

BACKBONES = ("resnet18", "efficientnet-lite0", "dinov2-s")
AIMS = {"efficientnet-lite0": 6.0, "resnet18": 3.0, "dinov2-s": 2.2}
"""Of (c) to (d); other backbones have none."""

MATRIX = 2048
"""Side of the matrices whose product shows the processor's peak."""


@dataclass(frozen=True)
class Setting:
    """What all ways share."""

    encoder: Encoder
    device: torch.device
    fast: Precision
    batch: int
    pictures: ImageStore
    images: list[str]
    files: list[Path]


def spec_of(name: str) -> BackboneSpec:
    """A backbone with its weights where they are here, else untrained."""
    untrained = "@" not in name and ":" not in name and locate(get_card(name)) is None
    return parse_backbone(name, "random:0" if untrained else "")


def bare(setting: Setting, precision: Precision, *, channels_last: bool) -> Callable[[], float]:
    """A loop of forward passes over one batch in memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = setting.encoder.module.to(setting.device)
    crop = setting.encoder.card.transform.crop
    batch = torch.randn(setting.batch, 3, crop, crop, device=setting.device).to(memory_format=layout)
    count = max(1, len(setting.images) // setting.batch // 2)

    @torch.inference_mode()
    def run() -> float:
        module.to(memory_format=layout)
        start = time.perf_counter()
        for _ in range(count):
            with autocast(setting.device, precision):
                answer = setting.encoder.loader.outputs(module, batch)["embedding"]
        answer.float().cpu()
        return count * setting.batch / (time.perf_counter() - start)

    return run


def whole(setting: Setting) -> Callable[[], float]:
    """What `peftbench extract` does for one backbone once it is loaded."""
    recipe = recipe_of(setting.encoder, setting.device, setting.fast, setting.batch)
    shapes = {output.name: output.shape for output in setting.encoder.card.outputs}
    engine = Engine(setting.encoder, setting.device, setting.fast, setting.batch)
    count = len(setting.images) // setting.batch * setting.batch

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            store = FeatureStore.create(Path(folder) / "store", recipe, shapes)
            start = time.perf_counter()
            embed_missing(produce(engine, setting.pictures, setting.images[:count]), store, Silent())
            for name in store.rows.columns:
                store.rows.read(name)
            return count / (time.perf_counter() - start)

    return run


def alone(setting: Setting) -> Callable[[], float]:
    """The engine of (c) over one batch in memory."""
    engine = Engine(setting.encoder, setting.device, setting.fast, setting.batch)
    crop = setting.encoder.card.transform.crop
    layout = torch.channels_last if setting.encoder.card.channels_last else torch.contiguous_format
    batch = torch.randn(setting.batch, 3, crop, crop, device=setting.device).to(memory_format=layout)
    cores = torch.get_num_threads() if setting.device.type == "cpu" else 1
    count = max(cores, len(setting.images) // setting.batch // 2 * cores)

    def work(_: int) -> None:
        engine.forward(batch)["embedding"].float().cpu()

    def run() -> float:
        before = torch.get_num_threads()
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            start = time.perf_counter()
            list(pool.map(work, range(count)))
            seconds = time.perf_counter() - start
        torch.set_num_threads(before)
        return count * setting.batch / seconds

    return run


def naive(setting: Setting) -> Callable[[], float]:
    """As a first script would do it, for a part of the files."""
    from PIL import Image
    from torchvision import transforms

    wanted = setting.encoder.card.transform
    mode = getattr(transforms.InterpolationMode, wanted.interpolation.upper())
    transform = transforms.Compose(
        [
            transforms.Resize(wanted.resize, mode),
            transforms.CenterCrop(wanted.crop),
            transforms.ToTensor(),
            transforms.Normalize(wanted.mean, wanted.std),
        ]
    )
    module = setting.encoder.module.to(setting.device)
    files = setting.files[: 3 * setting.batch]

    @torch.inference_mode()
    def run() -> float:
        module.to(memory_format=torch.contiguous_format)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            for first in range(0, len(files), setting.batch):
                opened = [Image.open(file).convert("RGB") for file in files[first : first + setting.batch]]
                pixels = torch.stack([transform(each) for each in opened]).to(setting.device)
                embeddings = setting.encoder.loader.outputs(module, pixels)["embedding"].cpu()
                for number, embedding in enumerate(embeddings, start=first):
                    torch.save(embedding.clone(), Path(folder) / f"{number}.pt")
            return len(files) / (time.perf_counter() - start)

    return run


def peak(device: torch.device, precision: Precision) -> float:
    """Floating-point operations per second of a matrix product."""
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left, right = (torch.randn(MATRIX, MATRIX, device=device, dtype=kind) for _ in range(2))
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        (left @ right).float().sum().item()
        best = max(best, 2 * MATRIX**3 / (time.perf_counter() - start))
    return best


def operations(setting: Setting) -> int:
    """Floating-point operations of one picture's forward pass, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    crop = setting.encoder.card.transform.crop
    module = setting.encoder.module.to(setting.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        setting.encoder.loader.outputs(module, torch.zeros(1, 3, crop, crop, device=setting.device))
    return int(counter.get_total_flops())


def measure(setting: Setting, rounds: int) -> tuple[dict[str, object], list[Figure]]:
    """One backbone: images/s of the four ways, and the ratios with their aims."""
    card, device = setting.encoder.card, setting.device
    ways = (
        bare(setting, "fp32", channels_last=False),
        bare(setting, setting.fast, channels_last=card.channels_last),
        whole(setting),
        naive(setting),
        alone(setting),
    )
    interleaved(1, *ways)
    a, b, c, d, e = interleaved(rounds, *ways)
    medians = [statistics.median(each) for each in (a, b, c, d, e)]
    share = medians[1] * operations(setting) / peak(device, setting.fast)
    name = setting.encoder.spec.name
    row = {"backbone": name, "precision": setting.fast, **dict(zip("abcde", medians, strict=True)), "peak share": share}
    figures = [
        Figure(f"{name}: c/b", medians[2], medians[1], "images/s", median_ratio(c, b), 0.95),
        Figure(f"{name}: c/a", medians[2], medians[0], "images/s", median_ratio(c, a), 1.5),
        Figure(f"{name}: c/e", medians[2], medians[4], "images/s", median_ratio(c, e)),
        Figure(f"{name}: c/d", medians[2], medians[3], "images/s", median_ratio(c, d), AIMS.get(card.name)),
    ]
    return row, figures


def more(parser: argparse.ArgumentParser) -> None:
    """The options that only this benchmark has."""
    parser.add_argument("--backbone", nargs="+", default=list(BACKBONES), help="to measure")
    parser.add_argument("--precision", default="", help="of (b), (c), (e); by default bf16 where there is hardware")
    parser.add_argument("--images", type=int, default=160, help="at most so many, in whole batches")


def main() -> None:
    """Measure and print."""
    chosen = arguments(__doc__ or "", more)
    cohort = "hannover" if chosen.raw else "phantom"
    device = pick_device("auto")
    fast: Precision = chosen.precision or ("bf16" if has_bf16(device) else "fp32")
    rows, figures = [], []
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.at(folder)
        peftbench.prepare(cohort, chosen.raw, workspace=place)
        pictures = open_pictures(place, cohort)
        images = pictures.images[: chosen.images]
        found = files_of(get_cohort(cohort), chosen.raw or place.raw(cohort), pictures, images)
        for name in chosen.backbone:
            batch = GPU_BATCH if device.type == "cuda" else CPU_BATCH
            files = [found[image] for image in images]
            setting = Setting(load_encoder(spec_of(name)), device, fast, batch, pictures, images, files)
            row, more_figures = measure(setting, chosen.rounds)
            rows.append(row)
            figures += more_figures
    print(f"## Extraction, {cohort}, {device}, {torch.get_num_threads()} threads, images/s\n")
    print("| backbone | (a) fp32 | (b) best bare | (c) extract | (d) naive | (e) alone | (b) of the peak |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            "| {backbone}, {precision} | {a:.1f} | {b:.1f} | {c:.1f} | {d:.1f} | {e:.1f} | {peak share:.0%} |".format(
                **row
            )
        )
    print()
    show("Ratios, medians over interleaved rounds", figures, as_json=False, reference="of")
    if chosen.json:
        print(json.dumps({"benchmark": "extraction", "rows": rows, "figures": [vars(each) for each in figures]}))


if __name__ == "__main__":
    main()
