"""What the tests of probing share: a cohort in memory, and stored features."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.protocol.manifest import Manifest
from peftbench.protocol.tasks import Task, TaskRows
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore
from stores.recipe import FeatureRecipe

TASK = Task(
    name="TOY", cohort="toy", question="Will it happen?", label="outcome", event="yes", no_event="no", outcome="icu"
)

BACKBONE = "resnet18@random:0"
DIM = 6

Matrix = npt.NDArray[np.float64]


def cohort_rows(with_event: int, without: int) -> TaskRows:
    """So many patients of each class, one image each."""
    count = with_event + without
    frame = pd.DataFrame(
        {
            "sample_id": [f"s-{row:03d}" for row in range(count)],
            "patient_id": [f"p-{row:03d}" for row in range(count)],
            "view": [("AP", "PA", None)[row % 3] for row in range(count)],
            "image_digest": [f"{row:064x}" for row in range(count)],
            "event": [1] * with_event + [0] * without,
        }
    )
    return TaskRows(TASK, frame, ())


def telling_features(event: npt.NDArray[np.int64], seed: int = 0, signal: float = 1.5) -> Matrix:
    """(n, DIM) noise, the first column of which tells of the event."""
    matrix = np.random.default_rng(seed).normal(size=(len(event), DIM))
    matrix[:, 0] += signal * event
    return matrix


def recipe(**changes: Any) -> FeatureRecipe:
    words = {
        "architecture": "torchvision:resnet18",
        "weights": "0" * 64,
        "transform": "resize(96)",
        "outputs": {"embedding": "layer4|avgpool"},
        "dtype": "float32",
        "precision": "fp32",
        "device": "cpu",
        "batch_size": 16,
        "libraries": {"torch": "2.6"},
    }
    return FeatureRecipe(**{**words, **changes})


def manifest_of(place: Workspace) -> Manifest:
    return Manifest.read("phantom", place.manifest("phantom"))


def write_features(
    place: Workspace, backbone: str = BACKBONE, seed: int = 0, share: float = 1.0, step: int = 1, **changes: Any
) -> FeatureStore:
    """Features of the phantom's images, placed as `extract` places them.

    Of the first `share` of the images; in reversed order with a `step` of -1.
    """
    frame = manifest_of(place).frame.drop_duplicates("image_digest")
    frame = frame.iloc[: round(share * len(frame))]
    given = recipe(**changes)
    store = FeatureStore.create(place.features(backbone, given.key), given, {"embedding": (DIM,)})
    matrix = telling_features((frame["icu"] == "yes").to_numpy(dtype=np.int64), seed)
    store.append(frame["image_digest"].tolist()[::step], {"embedding": matrix.astype(np.float32)[::step]})
    return store


def write_matrix(place: Workspace, backbone: str, matrix: Matrix, **changes: Any) -> FeatureStore:
    """Features of the phantom's images as given, rows as the manifest's, placed as `extract` places them."""
    given = recipe(**changes)
    store = FeatureStore.create(place.features(backbone, given.key), given, {"embedding": (matrix.shape[1],)})
    store.append(manifest_of(place).frame["image_digest"].tolist(), {"embedding": matrix.astype(np.float32)})
    return store


def files(folder: Path) -> dict[str, bytes]:
    """Path below the folder to bytes."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
