"""The verb `fidelity`: what faster ways of computing a cohort's features keep of them. Writes nothing.

Two shortcuts are held against the long way, picture by picture: a lower precision against fp32, and the image store's
pictures (8 bit, at most 512 pixels) against the raw files at their own resolution.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from peftbench.backbones.device import FAITHFUL_COSINE, check_precision, pick_device, pick_precision
from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import BackboneSpec, parse_backbone
from peftbench.cohorts.card import open_pictures
from peftbench.cohorts.declaration import Cohort
from peftbench.cohorts.registry import get_cohort
from peftbench.cohorts.sources import files_of
from peftbench.errors import ConfigError
from peftbench.extraction.batches import CPU_BATCH
from peftbench.extraction.embed import produce
from peftbench.extraction.engine import Engine
from peftbench.extraction.fidelity import cosines
from peftbench.imaging.decode import PixelPolicy, canonical_pixels
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.results import FidelityResult, FidelityRow
from peftbench.protocol.workspace import Workspace
from stores.images import ImageStore

FULL = PixelPolicy(side=4096)
"""As the image store's policy, but at the resolution of the file."""

Matrix = npt.NDArray[np.float32]


def fidelity(
    cohort: str,
    backbone: str | Sequence[str],
    *,
    raw: str | Path | None = None,
    workspace: str | Path | Workspace | None = None,
    device: str = "auto",
    precision: str = "bf16",
    images: int = 100,
    progress: Progress | None = None,
) -> FidelityResult:
    """Compare a prepared cohort's embeddings, computed in short and in long ways, picture by picture.

    Args:
        cohort: name of a prepared cohort.
        backbone: name or names, as given to `extract`.
        raw: folder of the download; without it only precisions are compared. The phantom that `prepare` drew is found.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: that is held against fp32: `bf16` or `fp16`.
        images: to compare, evenly chosen.
        progress: who is told how far it is.

    Raises:
        UnknownNameError: there is no such cohort or backbone.
        NotPreparedError: the cohort was not prepared.
        RawDataError: the raw folder is not the one that was prepared.
    """
    place, told = Workspace.at(workspace), progress or Silent()
    declared = get_cohort(cohort, place)
    specs = [parse_backbone(name) for name in dict.fromkeys([backbone] if isinstance(backbone, str) else backbone)]
    where = pick_device(device)
    check_precision(precision, where)
    if images < 1:
        raise ConfigError(f"--images is {images}, expected at least 1")
    if precision not in {"bf16", "fp16"}:
        raise ConfigError(f"--precision is {precision!r}, expected bf16 or fp16: it is compared with fp32")
    Manifest.read(cohort, place.manifest(cohort))
    pictures = open_pictures(place, cohort)
    chosen = _evenly(pictures.images, images)
    files = _files(declared, pictures, chosen, raw, place)
    if not files:
        told.note("without --raw DIR, the download, embeddings of the raw files are not compared")
    rows: list[FidelityRow] = []
    for spec in specs:
        encoder = load_encoder(spec, told)
        lower = pick_precision(precision, where, lambda: True)
        exact = Engine(encoder, where, "fp32", CPU_BATCH)
        told.start(f"comparing {spec.title}", len(chosen) * (3 if files else 2))
        reference = _stored(exact, pictures, chosen, told)
        faster = _stored(Engine(encoder, where, lower, CPU_BATCH), pictures, chosen, told)
        rows.append(_row(spec, f"{lower} against fp32", faster, reference))
        if files:
            rows.append(_row(spec, "image store against raw file", reference, _raw(exact, files, told)))
    return FidelityResult(cohort=cohort, aim=FAITHFUL_COSINE, results=rows)


def _evenly(images: Sequence[str], count: int) -> list[str]:
    step = max(1.0, len(images) / count)
    return [images[int(number * step)] for number in range(min(count, len(images)))]


def _files(
    declared: Cohort, pictures: ImageStore, chosen: Sequence[str], raw: str | Path | None, place: Workspace
) -> list[Path]:
    """A raw file of each image; none where there is no raw folder."""
    folder = Path(raw) if raw is not None else place.raw(declared.name)
    if raw is None and not folder.is_dir():
        return []
    found = files_of(declared, folder, pictures, chosen)
    return [found[image] for image in chosen]


def _stored(engine: Engine, pictures: ImageStore, images: list[str], told: Progress) -> Matrix:
    by_image: dict[str, npt.NDArray[np.float32]] = {}
    for rows in produce(engine, pictures, images):
        by_image |= dict(zip(rows.images, rows.outputs["embedding"], strict=True))
        told.advance(len(rows.images))
    return np.stack([by_image[image] for image in images])


def _raw(engine: Engine, files: Sequence[Path], told: Progress) -> Matrix:
    """Embeddings of files at their own resolution, one batch at a time."""
    found = []
    for start in range(0, len(files), engine.batch_size):
        part = [canonical_pixels(file, FULL) for file in files[start : start + engine.batch_size]]
        lacking = engine.batch_size - len(part)
        shaped = engine.card.transform.shape(part + [part[-1]] * lacking)
        found.append(engine.embed(shaped)["embedding"][: len(part)])
        told.advance(len(part))
    return np.concatenate(found)


def _row(spec: BackboneSpec, what: str, one: Matrix, other: Matrix) -> FidelityRow:
    found = cosines(one, other)
    return FidelityRow(
        backbone=spec.name,
        comparison=what,
        images=len(found),
        lowest=float(found.min()),
        median=float(np.median(found)),
        share=float((found >= FAITHFUL_COSINE).mean()),
    )
