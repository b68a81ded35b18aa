"""Golden embeddings: what a backbone answers for fixed pictures, kept to notice when an upgrade changes it.

The pictures are made of whole numbers by formulas, the same on every machine. When pretrained weights are first loaded,
their answers are recorded beside them, with the versions of the libraries; under other versions they are compared.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from peftbench.backbones.cache import GOLDEN_FILE, weights_folder
from peftbench.backbones.loading import Encoder, library_versions
from peftbench.protocol.progress import Progress
from peftbench.protocol.workspace import path_name
from stores.atomic import write_atomic

SCHEMA = 1

TOLERANCE = 1e-4
"""Largest difference, by the largest value, that is put down to another order of summing up."""

_EXTENTS = ((320, 256), (256, 256), (300, 400))


def golden_pictures() -> list[npt.NDArray[np.uint8]]:
    """Three pictures of the extents 320 x 256, 256 x 256 and 300 x 400: two dark discs on a ramp, with a fine grid."""
    return [_picture(number, height, width) for number, (height, width) in enumerate(_EXTENTS)]


def _picture(number: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    rows, columns = np.mgrid[0:height, 0:width].astype(np.int64)
    ramp = 90 + 100 * rows // height + 30 * columns // width
    grid = 6 * ((rows // 3 + columns // 5 + number) % 3)
    lungs = np.zeros_like(ramp)
    for middle in (width * 3 // 10, width * 7 // 10):
        distance = (columns - middle) ** 2 * 9 + (rows - height // 2) ** 2 * 4
        lungs = np.maximum(lungs, 120 - 120 * distance // (height * height // (number + 1)))
    picture: npt.NDArray[np.uint8] = np.clip(ramp + grid - np.maximum(lungs, 0), 0, 255).astype(np.uint8)
    return picture


@torch.inference_mode()
def golden_rows(encoder: Encoder) -> npt.NDArray[np.float32]:
    """Embeddings of the golden pictures, on the processor in fp32: (3, d)."""
    transform = encoder.card.transform
    pictures = transform.shape(golden_pictures())
    pixels = transform.normalise(pictures, torch.empty((len(pictures), 3, transform.crop, transform.crop)))
    rows: npt.NDArray[np.float32] = encoder.loader.outputs(encoder.module, pixels)["embedding"].numpy()
    return rows


def remember(encoder: Encoder, told: Progress) -> None:
    """Record a registered backbone's golden rows beside its weights, or hold them against those recorded before.

    Computes only where these weights were not yet seen under these versions of the libraries. Where the folder of
    weights cannot be written, nothing is recorded.
    """
    path = weights_folder() / path_name(encoder.card.name) / GOLDEN_FILE
    entries = [each for each in _read(path) if each.get("weights") == encoder.weights_digest]
    versions = library_versions(encoder.card)
    if any(each["libraries"] == versions for each in entries):
        return
    rows = golden_rows(encoder)
    if entries:
        _compare(encoder, rows, entries[0], versions, told)
    entry = {
        "weights": encoder.weights_digest,
        "libraries": versions,
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows.tolist(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({"schema": SCHEMA, "entries": [*entries, entry]}))
    except OSError:
        # A reminder for later; no reason to stop now.
        return


def _compare(
    encoder: Encoder, rows: npt.NDArray[np.float32], before: Mapping[str, Any], now: Mapping[str, str], told: Progress
) -> None:
    reference = np.asarray(before["rows"], dtype=np.float32)
    if reference.shape == rows.shape:
        difference = float(np.abs(rows - reference).max() / np.abs(reference).max())
        if difference <= TOLERANCE:
            return
        what = f"by up to {difference:.1e} of their largest value"
    else:
        what = f"from {reference.shape[1]} to {rows.shape[1]} values"
    changed = ", ".join(f"{name} {before['libraries'].get(name)} to {version}" for name, version in now.items()
                        if before["libraries"].get(name) != version)  # fmt: skip
    told.note(
        f"the features of {encoder.card.name} have changed {what} since {before['recorded'][:10]} ({changed}): they "
        "get a store of their own; do not compare them with those of before"
    )


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        value = json.loads(path.read_text())
        entries = list(value["entries"]) if value["schema"] == SCHEMA else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [each for each in entries if _is_entry(each)]


def _is_entry(value: Any) -> bool:
    """Whether another program, or a crash, left what this one would have written."""
    if not isinstance(value, dict) or not isinstance(value.get("libraries"), dict):
        return False
    # They are shown to the user, and may have come in an archive.
    shown = [*value["libraries"], *value["libraries"].values(), value.get("recorded")]
    if not all(isinstance(each, str) and each.isprintable() for each in shown):
        return False
    try:
        rows = np.asarray(value["rows"], dtype=np.float32)
    except (KeyError, TypeError, ValueError):
        return False
    return rows.ndim == 2 and bool(np.isfinite(rows).all()) and bool(rows.any())
