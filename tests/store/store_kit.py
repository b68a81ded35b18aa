"""A workspace with a cohort's manifest and pictures and some feature stores, written as the verbs write them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.protocol.manifest import Manifest
from peftbench.protocol.workspace import Workspace
from stores.atomic import write_atomic
from stores.features import FeatureStore
from stores.images import ImageStore
from stores.keys import canonical_json, digest_of
from stores.recipe import FeatureRecipe

COHORT = "toy"
BACKBONE = "resnet18@random:0"
POLICY = "b" * 12
SAMPLES = 90
SHAPES = {"embedding": (6,), "block_cls": (4, 3)}

RECIPE = FeatureRecipe(
    architecture="timm:tiny",
    weights="0" * 64,
    transform="resize(224,bicubic,antialias)|centercrop(224)|rgb|normalize(mean=0.5;std=0.5)",
    outputs={"embedding": "norm|cls", "block_cls": "blocks.-4..-1|cls"},
    dtype="float32",
    precision="fp32",
    device="cpu/AVX512",
    batch_size=16,
    libraries={"torch": "2.6.0"},
)


def pictures(count: int = SAMPLES) -> list[npt.NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, random.integers(3, 9, 2), dtype=np.uint8) for _ in range(count)]


def made(place: Workspace) -> list[str]:
    """Write manifest, card and pictures of the cohort; answers the images."""
    store = ImageStore.create(place.images(COHORT, POLICY), "minmax|long side 8", 8)
    images = store.append([digest_of(["source", row]) for row in range(SAMPLES)], pictures())
    write_manifest(place, images)
    return images


def write_manifest(place: Workspace, images: list[str]) -> None:
    frame = pd.DataFrame(
        {
            "sample_id": [f"s-{row:03d}" for row in range(len(images))],
            "patient_id": [f"p-{row // 2:03d}" for row in range(len(images))],
            "center": "A",
            "view": ["AP" if row % 3 else "PA" for row in range(len(images))],
            "acquired": [float(row % 2) for row in range(len(images))],
            "file_digest": [digest_of(["file", row]) for row in range(len(images))],
            "image_digest": images,
            "icu": ["yes" if row % 4 == 0 else "no" for row in range(len(images))],
        }
    )
    place.cohort(COHORT).mkdir(parents=True, exist_ok=True)
    Manifest(COHORT, frame).write(place.manifest(COHORT))
    write_atomic(place.card(COHORT), canonical_json({"image_store": POLICY}))


def rows(images: list[str]) -> dict[str, npt.NDArray[np.float32]]:
    random = np.random.default_rng(len(images))
    return {name: random.standard_normal((len(images), *shape)).astype(np.float32) for name, shape in SHAPES.items()}


def features(place: Workspace, images: list[str], backbone: str = BACKBONE, **changes: object) -> FeatureStore:
    recipe = replace(RECIPE, **changes)
    store = FeatureStore.create(place.features(backbone, recipe.key), recipe, SHAPES)
    store.append(images, rows(images))
    return store


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def content(root: Path) -> dict[str, bytes]:
    """Every file of a folder, but for locks, whose text tells who held them last."""
    found = (path for path in root.rglob("*") if path.is_file() and path.name != "writer.lock")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}
