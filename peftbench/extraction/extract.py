"""The verb `extract`: a prepared cohort's images to stored features."""

import multiprocessing
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from peftbench.backbones.device import (
    Precision,
    check_precision,
    device_kind,
    pick_devices,
    pick_precision,
)
from peftbench.backbones.golden import remember
from peftbench.backbones.loading import Encoder, library_versions, load_encoder
from peftbench.backbones.registry import BackboneSpec, parse_backbone
from peftbench.cohorts.card import open_pictures
from peftbench.cohorts.registry import get_cohort
from peftbench.errors import ConfigError, DeviceError
from peftbench.extraction.batches import CPU_BATCH, GPU_BATCH, fitting_batch_size, stored_batch_size
from peftbench.extraction.embed import Rows, embed_missing, produce
from peftbench.extraction.engine import Engine, graph_of
from peftbench.extraction.fidelity import keeps_in_bf16
from peftbench.extraction.several import Job, parts_of, produce_apart
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.progress import Progress, Silent, patience
from peftbench.protocol.results import ExtractResult, ExtractRow
from peftbench.protocol.workspace import Workspace
from stores.errors import StoreDamagedError
from stores.features import FeatureStore
from stores.images import ImageStore
from stores.recipe import FeatureRecipe

DTYPES = ("float32", "float16")
"""That features can be stored in."""

ROWS_READ_BACK = 8192
"""At a time, after they were written."""


@dataclass(frozen=True)
class Asked:
    """How features are to be computed, as the user said it.

    Attributes:
        devices: where; several of one model work side by side.
        precision: of the forward pass, or `auto`.
        dtype: of the stored rows.
        batch_size: pictures in a forward pass; None finds it.
        compiled: whether torch compiles the network.
    """

    devices: list[torch.device]
    precision: str
    dtype: str
    batch_size: int | None
    compiled: bool

    @property
    def device(self) -> torch.device:
        """The first device: the others are of the same model."""
        return self.devices[0]

    @property
    def threads(self) -> int:
        """Cores of the processor for each device."""
        return max(1, torch.get_num_threads() // len(self.devices))


def extract(
    cohort: str,
    backbone: str | Sequence[str],
    *,
    weights: str = "",
    workspace: str | Path | Workspace | None = None,
    device: str = "auto",
    precision: str = "auto",
    dtype: str = "float32",
    batch_size: int | None = None,
    compiled: bool = False,
    progress: Progress | None = None,
) -> ExtractResult:
    """Embed a prepared cohort's images with frozen backbones; images embedded before are reused.

    Where another process is writing the same features, this one waits, and then embeds what is still missing.

    Args:
        cohort: name of a prepared cohort.
        backbone: name or names (`peftbench.list("backbones")`), or `timm:MODEL`, `torchvision:MODEL`, `hf:MODEL`;
            behind it `@random:SEED` for untrained weights, or `@file:PATH` for a checkpoint.
        weights: the same for all backbones: `random:SEED`, or the path of a checkpoint.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; several with commas between, or `cuda:all`, work side by side.
        precision: of the forward pass: `auto` (bf16 where the hardware has it and the backbone's features keep their
            direction in it; else fp32), `fp32`, `bf16` or `fp16`.
        dtype: of the stored rows: `float32`, or `float16` (half the size, about three digits).
        batch_size: pictures in a forward pass; part of the key, as its last bits depend on it. By default what features
            of the same recipe were made with, else what fits into memory.
        compiled: have torch compile the network first; part of the key. Pays off on a GPU and for many images.
        progress: who is told how far it is.

    Raises:
        UnknownNameError: there is no such cohort or backbone.
        NotPreparedError: the cohort was not prepared.
        WeightsError: pretrained weights are absent or do not fit.
        DeviceError: the device or the precision is not to be had.
    """
    get_cohort(cohort, Workspace.at(workspace))
    names = dict.fromkeys([backbone] if isinstance(backbone, str) else backbone)
    specs = [parse_backbone(name, weights) for name in names]
    if not specs:
        raise ConfigError("no backbone named: give at least one with --backbone; `peftbench list backbones` shows all")
    asked = Asked(pick_devices(device), precision, dtype, batch_size, compiled)
    _refuse(asked)
    place, told = Workspace.at(workspace), progress or Silent()
    manifest = Manifest.read(cohort, place.manifest(cohort))
    place.ensure_writable()
    pictures = open_pictures(place, cohort)
    return ExtractResult(results=[_extract_one(spec, manifest, pictures, place, asked, told) for spec in specs])


def _refuse(asked: Asked) -> None:
    if len(asked.devices) > 1 and multiprocessing.parent_process() is not None:
        raise DeviceError(
            "several devices are asked for by a process that was itself started for one: put the call of extract "
            'under `if __name__ == "__main__":` in your script'
        )
    check_precision(asked.precision, asked.device)
    if asked.batch_size is not None and asked.batch_size < 1:
        raise ConfigError(f"--batch-size is {asked.batch_size}, expected at least 1")
    if asked.dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {asked.dtype!r}: expected {' or '.join(DTYPES)}")


def recipe_of(
    encoder: Encoder,
    device: torch.device,
    precision: Precision,
    batch_size: int,
    dtype: str = "float32",
    *,
    compiled: bool = False,
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
        graph=graph_of(card, device, precision, compiled=compiled),
    )


def _extract_one(
    spec: BackboneSpec, manifest: Manifest, pictures: ImageStore, place: Workspace, asked: Asked, told: Progress
) -> ExtractRow:
    told.start(f"loading {spec.title}", 1)
    encoder = load_encoder(spec, told)
    if spec.is_published:
        remember(encoder, told)
    told.advance()
    recipe = _settled(encoder, place, asked, told)
    wait = patience(told)
    shapes = {output.name: output.shape for output in encoder.card.outputs}
    store = FeatureStore.create(place.features(spec.name, recipe.key), recipe, shapes, wait)
    images = list(dict.fromkeys(manifest.frame["image_digest"].tolist()))
    seconds, embedded = 0.0, 0
    with ExitStack() as stack:
        if store.missing(images):
            stack.enter_context(store.writing(wait))
            missing = store.missing(images)
            embedded = len(missing)
            where = ", ".join(map(str, asked.devices))
            told.start(f"embedding {manifest.cohort} with {spec.title} ({recipe.precision}, {where})", embedded)
            before = len(store)
            # Closed whatever happens: an error that is held must not hold threads and processes at work.
            produced = stack.enter_context(closing(_produced(encoder, recipe, pictures, missing, asked, told)))
            seconds = embed_missing(produced, store, told)
            _assert_written(store, before)
    _assert_complete(store, images)
    return ExtractRow(
        cohort=manifest.cohort,
        backbone=spec.name,
        total=len(images),
        embedded=embedded,
        reused=len(images) - embedded,
        dim=store.dim,
        precision=recipe.precision,
        batch_size=recipe.batch_size,
        seconds=seconds,
        images_per_second=embedded / seconds if seconds else 0.0,
        store=str(store.folder),
    )


def _settled(encoder: Encoder, place: Workspace, asked: Asked, told: Progress) -> FeatureRecipe:
    """The recipe, once precision and batch size are found."""
    precision = pick_precision(asked.precision, asked.device, partial(keeps_in_bf16, encoder, asked.device))

    def recipe_with(size: int) -> FeatureRecipe:
        return recipe_of(encoder, asked.device, precision, size, asked.dtype, compiled=asked.compiled)

    def engine_of(size: int) -> Engine:
        return Engine(encoder, asked.device, precision, size)

    size = asked.batch_size
    if size is None:
        size = stored_batch_size(place.committed_features(encoder.spec.name), recipe_with)
        usual = GPU_BATCH if asked.device.type == "cuda" else CPU_BATCH
        if size is not None and size < usual:
            told.note(
                f"batch size {size}, as features of {encoder.spec.name} were made with before; another one with "
                "--batch-size N embeds all images anew"
            )
    if size is None:
        size = fitting_batch_size(encoder, engine_of, asked.device, torch.get_num_threads())
    if len(asked.devices) > 1:
        # The processes load it for themselves: here it would only take their memory.
        encoder.module.to("cpu")
    return recipe_with(size)


def _produced(
    encoder: Encoder,
    recipe: FeatureRecipe,
    pictures: ImageStore,
    images: list[str],
    asked: Asked,
    told: Progress,
) -> Generator[Rows, None, None]:
    """Rows as they are made: here, or by a process for each of several devices."""
    precision: Precision = recipe.precision  # type: ignore[assignment]
    if len(asked.devices) == 1:
        engine = Engine(encoder, asked.device, precision, recipe.batch_size, compiled=asked.compiled)
        return produce(engine, pictures, images)
    jobs = [
        Job(
            encoder.spec,
            encoder.weights_digest,
            str(device),
            precision,
            recipe.batch_size,
            asked.compiled,
            pictures.folder,
            part,
            asked.threads,
        )
        for device, part in zip(asked.devices, parts_of(pictures, images, len(asked.devices)), strict=True)
        if part
    ]
    return produce_apart(jobs, lambda: told.advance(0))


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
