"""What the tests of exports, examples and the page on reuse share: a small workspace with a store and a cohort."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.protocol.manifest import Manifest
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore
from stores.keys import digest_of
from stores.recipe import FeatureRecipe

BACKBONE = "efficientnet-lite0"

SHAPES: dict[str, tuple[int, ...]] = {"embedding": (5,), "block_cls": (2, 3)}
"""Two outputs, one with two axes."""

Rows = npt.NDArray[np.floating]


def recipe(outputs: Sequence[str] = tuple(SHAPES), dtype: str = "float32") -> FeatureRecipe:
    return FeatureRecipe(
        architecture="timm:tf_efficientnet_lite0",
        weights="0" * 64,
        transform="resize(224,bicubic,antialias)|normalize(mean=0.5;std=0.5)",
        outputs={name: f"{name}|none" for name in outputs},
        dtype=dtype,
        precision="fp32",
        device="cpu/AVX512",
        batch_size=16,
        libraries={"torch": "2.6.0", "timm": "1.0.15"},
    )


def image(row: int) -> str:
    return digest_of(["image", row])


def values(count: int, shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Rows:
    """Numbers whose every bit matters, the smallest and the largest of the type among them."""
    rows = np.random.default_rng(seed).normal(size=(count, *shape)).astype(dtype)
    info = np.finfo(dtype)
    rows.reshape(-1)[:4] = [info.smallest_subnormal, info.max, -0.0, info.eps]
    return rows


def labels(count: int) -> pd.DataFrame:
    """Columns of every kind: text, missing text, empty text, numbers, missing numbers, truth values, dates."""
    text = ["yes", "no", 'größer, "schräg"', ""]
    return pd.DataFrame(
        {
            "icu": [text[row % 4] for row in range(count)],
            "view": [("AP", "PA", None, "")[row % 4] for row in range(count)],
            "beds": np.arange(count, dtype=np.int64),
            "age": [float("nan") if row % 3 == 1 else 40.25 + row for row in range(count)],
            "visits": pd.array([None if row % 3 == 2 else row for row in range(count)], dtype="Int64"),
            "intubated": [row % 2 == 0 for row in range(count)],
            "taken": pd.date_range("2020-03-01", periods=count, freq="D"),
        }
    )


def manifest(images: Sequence[str], cohort: str = "phantom", **columns: Any) -> Manifest:
    """A sample for each image, two a patient."""
    count = len(images)
    frame = pd.DataFrame(
        {
            "sample_id": [f"s-{row:03d}" for row in range(count)],
            "patient_id": [f"p-{row // 2:03d}" for row in range(count)],
            "center": "A",
            "acquired": range(count),
            "file_digest": [digest_of(["file", row]) for row in range(count)],
            "image_digest": list(images),
        }
    )
    return Manifest(cohort, pd.concat([frame, labels(count)], axis=1).assign(**columns))


def fill(place: Workspace, backbone: str, given: FeatureRecipe, outputs: dict[str, Rows]) -> FeatureStore:
    """A store of the images 0, 1, ..., placed as `extract` places it."""
    folder = place.features(backbone, given.key)
    store = FeatureStore.create(folder, given, {name: rows.shape[1:] for name, rows in outputs.items()})
    store.append([image(row) for row in range(len(outputs["embedding"]))], outputs)
    return store


def prepare(place: Workspace, prepared: Manifest) -> None:
    path = place.manifest(prepared.cohort)
    path.parent.mkdir(parents=True, exist_ok=True)
    prepared.write(path)


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
