"""The verb `extract`: a prepared cohort's images to stored features."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from peftbench.backbones.loading import Encoder, library_versions, load_encoder
from peftbench.backbones.registry import BackboneSpec, parse_backbone
from peftbench.cohorts.registry import get_cohort
from peftbench.errors import ConfigError, NotPreparedError
from peftbench.extraction.device import Precision, device_kind, pick_device, pick_precision
from peftbench.extraction.embed import Engine, embed_missing
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.progress import Progress, Silent, patience
from peftbench.protocol.results import ExtractResult, ExtractRow
from peftbench.protocol.workspace import Workspace
from stores.errors import StoreDamagedError
from stores.features import FeatureStore
from stores.images import ImageStore
from stores.recipe import FeatureRecipe

BATCH_SIZE = 16
"""Pictures in a forward pass unless stated: on a processor larger ones are no faster."""

GPU_BATCH_SIZE = 128

DTYPES = ("float32", "float16")
"""That features can be stored in."""

ROWS_READ_BACK = 8192
"""At a time, after they were written."""


def extract(
    cohort: str,
    backbone: str | Sequence[str],
    *,
    workspace: str | Path | Workspace | None = None,
    device: str = "auto",
    precision: str = "auto",
    dtype: str = "float32",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> ExtractResult:
    """Embed a prepared cohort's images with frozen backbones; images embedded before are reused.

    Where another process is writing the same features, this one waits, and then embeds what is still missing.

    Args:
        cohort: name of a prepared cohort.
        backbone: name or names (`peftbench.list("backbones")`); `NAME@random:SEED` for untrained weights.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: of the forward pass: `auto` (bf16 where the hardware has it and the backbone's card says
            that its features keep; else fp32), `fp32`, `bf16` or `fp16`.
        dtype: of the stored rows: `float32`, or `float16` (half the size, about three digits).
        batch_size: pictures in a forward pass; part of the key, as its last bits depend on it.
        progress: who is told how far it is.

    Raises:
        UnknownNameError: there is no such cohort or backbone.
        NotPreparedError: the cohort was not prepared.
        WeightsError: pretrained weights are absent or do not fit.
        DeviceError: the device or the precision is not to be had.
    """
    get_cohort(cohort)
    specs = [parse_backbone(name) for name in dict.fromkeys([backbone] if isinstance(backbone, str) else backbone)]
    if not specs:
        raise ConfigError("no backbone named: give at least one with --backbone; `peftbench list backbones` shows all")
    where = pick_device(device)
    exactness = [pick_precision(precision, where, spec.card.bf16_cosine) for spec in specs]
    size = batch_size if batch_size is not None else (GPU_BATCH_SIZE if where.type == "cuda" else BATCH_SIZE)
    if size < 1:
        raise ConfigError(f"--batch-size is {size}, expected at least 1")
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}: expected {' or '.join(DTYPES)}")
    place, told = Workspace.at(workspace), progress or Silent()
    manifest = Manifest.read(cohort, place.manifest(cohort))
    place.ensure_writable()
    pictures = open_pictures(place, cohort)
    rows = [
        _extract_one(spec, manifest, pictures, place, where, each, dtype, size, told)
        for spec, each in zip(specs, exactness, strict=True)
    ]
    return ExtractResult(results=rows)


def open_pictures(place: Workspace, cohort: str) -> ImageStore:
    """The image store that the cohort's card names.

    Raises:
        NotPreparedError: the card is missing or damaged.
    """
    try:
        name = str(json.loads(place.card(cohort).read_text())["image_store"])
    except (OSError, ValueError, KeyError) as error:
        raise NotPreparedError(
            f"the card {place.card(cohort)} cannot be read ({error}): run `peftbench prepare {cohort} --raw DIR` again"
        ) from error
    return ImageStore.open(place.images(cohort, name))


def recipe_of(
    encoder: Encoder, device: torch.device, precision: Precision, batch_size: int, dtype: str = "float32"
) -> FeatureRecipe:
    """Everything that changes the bytes of this encoder's features."""
    card = encoder.card
    return FeatureRecipe(
        architecture=card.architecture,
        weights=encoder.weights_digest,
        transform=str(card.transform),
        outputs={output.name: output.tensor for output in card.outputs},
        dtype=dtype,
        precision=precision,
        device=device_kind(device),
        batch_size=batch_size,
        libraries=library_versions(card),
        memory_layout="channels_last" if card.channels_last else "contiguous",
    )


def _extract_one(
    spec: BackboneSpec,
    manifest: Manifest,
    pictures: ImageStore,
    place: Workspace,
    device: torch.device,
    precision: Precision,
    dtype: str,
    batch_size: int,
    told: Progress,
) -> ExtractRow:
    told.start(f"loading {spec.title}", 1)
    encoder = load_encoder(spec)
    told.advance()
    recipe = recipe_of(encoder, device, precision, batch_size, dtype)
    wait = patience(told)
    shapes = {output.name: output.shape for output in spec.card.outputs}
    store = FeatureStore.create(place.features(spec.name, recipe.key), recipe, shapes, wait)
    images = list(dict.fromkeys(manifest.frame["image_digest"].tolist()))
    seconds, embedded = 0.0, 0
    with ExitStack() as stack:
        if store.missing(images):
            stack.enter_context(store.writing(wait))
            missing = store.missing(images)
            embedded = len(missing)
            told.start(f"embedding {manifest.cohort} with {spec.title} ({precision}, {device})", embedded)
            engine = Engine(encoder, device, precision, batch_size)
            before = len(store)
            seconds = embed_missing(engine, pictures, store, missing, told)
            _assert_written(store, before)
    _assert_complete(store, images)
    return ExtractRow(
        cohort=manifest.cohort,
        backbone=spec.name,
        total=len(images),
        embedded=embedded,
        reused=len(images) - embedded,
        dim=store.dim,
        seconds=seconds,
        images_per_second=embedded / seconds if seconds else 0.0,
        store=str(store.folder),
    )


def _assert_written(store: FeatureStore, before: int) -> None:
    """Read back what was added: it must be what was computed."""
    try:
        for name in store.rows.columns:
            for start in range(before, len(store), ROWS_READ_BACK):
                store.rows.read(name, start, start + ROWS_READ_BACK)
    except StoreDamagedError as error:
        raise StoreDamagedError(f"rows just written do not read back as they were, check the disk: {error}") from error


def _assert_complete(store: FeatureStore, images: Sequence[str]) -> None:
    lacking = store.missing(images)
    if lacking:
        raise StoreDamagedError(f"{len(lacking)} images have no row in {store.folder} after extraction: run it again")
