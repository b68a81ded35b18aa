"""The verb `doctor`: what this machine and this workspace have, and what to do about what is missing."""

import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.locating import locate
from peftbench.backbones.plugins import plugged_in
from peftbench.backbones.registry import all_cards
from peftbench.errors import PeftbenchError
from peftbench.protocol import provenance
from peftbench.protocol.results import Result
from peftbench.protocol.workspace import Workspace

BASE = (
    "numpy", "scipy", "pandas", "pyarrow", "zarr", "h5py", "scikit-learn", "xgboost", "pydantic", "typer", "pillow",
)  # fmt: skip
MODELS = ("torch", "torchvision", "transformers", "peft", "open-clip-torch", "timm", "safetensors")

INSTALL_MODELS = "pip install 'peftbench[models,offline]'"


class Diagnosis(Result):
    """What `doctor` found.

    Attributes:
        versions: package to version; null where it is not installed.
        devices: what can compute: name, and the precisions it has in hardware.
        threads: processors, and threads of each numerical library.
        workspace: path, whether it can be written, what it holds.
        weights: backbone to whether its pretrained weights are here, and where or how to get them.
        advice: what to do about what is missing; empty where nothing is.
    """

    versions: dict[str, str | None]
    devices: list[dict[str, Any]]
    threads: dict[str, Any]
    workspace: dict[str, Any]
    weights: dict[str, dict[str, Any]]
    advice: list[str]


def doctor(workspace: str | Path | Workspace | None = None) -> Diagnosis:
    """Look at versions, devices, threads, workspace and weights; changes nothing but creates the workspace's folder.

    Args:
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
    """
    has_models = all(importlib.util.find_spec(name) is not None for name in ("torch", "torchvision", "timm"))
    place = Workspace.at(workspace)
    found_weights = {name: _weights(card) for name, card in all_cards().items()}
    held, advice = _workspace(place)
    if not has_models:
        advice.append(f"no torch here: probe and report work, extract does not; to embed images: {INSTALL_MODELS}")
    to_fetch = [name for name, card in all_cards().items() if card.checkpoint is not None]
    absent = [name for name in to_fetch if not found_weights[name]["present"]]
    if has_models and absent:
        advice.append(
            f"{len(absent)} of {len(to_fetch)} backbones have no pretrained weights here: `peftbench weights "
            "fetch NAME` brings them, `peftbench weights ls` shows all"
        )
    advice += plugged_in().faults
    return Diagnosis(
        versions=_versions(),
        devices=_devices() if has_models else [],
        threads=_threads(),
        workspace=held,
        weights=found_weights,
        advice=advice,
    )


def _versions() -> dict[str, str | None]:
    found = provenance.versions([*BASE, *MODELS])
    own = {"peftbench": provenance.version(), "python": platform.python_version()}
    return {**own, **{name: found.get(name) for name in (*BASE, *MODELS)}}


def _devices() -> list[dict[str, Any]]:
    import torch  # noqa: PLC0415 - the base install has none

    from peftbench.backbones.device import has_bf16  # noqa: PLC0415 - imports torch

    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    return [
        {
            "device": str(device),
            "name": platform.processor() or platform.machine()
            if device.type == "cpu"
            else torch.cuda.get_device_name(device),
            "bf16": has_bf16(device),
        }
        for device in devices
    ]


def _threads() -> dict[str, Any]:
    return {
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "blas": {each["internal_api"]: each["num_threads"] for each in threadpool_info()},
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def _workspace(place: Workspace) -> tuple[dict[str, Any], list[str]]:
    advice = []
    try:
        place.ensure_writable()
        writable = True
    except PeftbenchError as error:
        writable = False
        advice.append(str(error))
    cohorts = _names(place.root / "cohorts", "*/manifest.parquet")
    held = {
        "path": str(place.root),
        "writable": writable,
        "cohorts": cohorts,
        "features": sorted({folder.parent.name for folder in place.committed_features()}),
        "records": len(list(place.results.glob("*/*/*/*/record.json"))) if writable else 0,
    }
    if writable and not cohorts:
        advice.append("nothing is prepared in this workspace: start with `peftbench prepare phantom`")
    return held, advice


def _names(folder: Path, pattern: str) -> list[str]:
    return sorted({path.relative_to(folder).parts[0] for path in folder.glob(pattern)}) if folder.is_dir() else []


def _weights(card: BackboneCard) -> dict[str, Any]:
    """Whether pretrained weights are on this machine, and where or how to get them; asks no network."""
    if card.checkpoint is None:
        advice = card.found_by or f"it has none: use it as {card.name}@random:0, or as {card.name}@file:PATH"
        return {"present": False, "where": None, "advice": advice}
    try:
        found = locate(card)
    except PeftbenchError as error:
        return {"present": False, "where": None, "advice": str(error)}
    if found is None:
        return {"present": False, "where": None, "advice": f"`peftbench weights fetch {card.name}`"}
    return {"present": True, "where": str(found.path), "advice": ""}
