"""Which pretrained model, adapted how, predicts the outcome of your chest X-rays best, and is the difference real?

Every verb of the command line is a function here: `phantom`, `prepare`, `extract`, `probe`, `finetune`, `predict`,
`report`, `list`, `doctor`, those of the groups `splits`, `store` and `weights` in `peftbench.splits`, `peftbench.store`
and `peftbench.weights`.
Importing the package imports nothing heavy; torch is needed by `extract`, `fidelity`, `finetune` and `predict` alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftbench import splits, store, weights
    from peftbench.benchmark.catalogue import list_names as list  # noqa: A004 - the verb's name
    from peftbench.benchmark.doctor import doctor
    from peftbench.benchmark.predict import predict
    from peftbench.cohorts.describe import describe
    from peftbench.cohorts.generate import phantom
    from peftbench.cohorts.prepare import prepare
    from peftbench.errors import PeftbenchError
    from peftbench.extraction.extract import extract
    from peftbench.extraction.faithfulness import fidelity
    from peftbench.finetuning.finetune import finetune
    from peftbench.probing.probe import probe
    from peftbench.reporting.report import report

__all__ = [
    "PeftbenchError",
    "describe",
    "doctor",
    "extract",
    "fidelity",
    "finetune",
    "list",
    "phantom",
    "predict",
    "prepare",
    "probe",
    "report",
    "splits",
    "store",
    "weights",
]

_HOMES = {
    "PeftbenchError": ("peftbench.errors", "PeftbenchError"),
    "describe": ("peftbench.cohorts.describe", "describe"),
    "doctor": ("peftbench.benchmark.doctor", "doctor"),
    "extract": ("peftbench.extraction.extract", "extract"),
    "fidelity": ("peftbench.extraction.faithfulness", "fidelity"),
    "finetune": ("peftbench.finetuning.finetune", "finetune"),
    "list": ("peftbench.benchmark.catalogue", "list_names"),
    "phantom": ("peftbench.cohorts.generate", "phantom"),
    "predict": ("peftbench.benchmark.predict", "predict"),
    "prepare": ("peftbench.cohorts.prepare", "prepare"),
    "probe": ("peftbench.probing.probe", "probe"),
    "report": ("peftbench.reporting.report", "report"),
}

_MODELS = {"torch", "torchvision", "timm", "peft", "transformers", "safetensors"}
"""Packages of the extra `models`: a base install has none of them."""


def __getattr__(name: str) -> Any:
    if name in {"splits", "store", "weights"}:
        return importlib.import_module(f"peftbench.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'peftbench' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name not in _MODELS:
            raise
        from peftbench.errors import MissingPackageError  # noqa: PLC0415 - only needed to explain

        raise MissingPackageError(
            f"peftbench.{name} needs the package {error.name!r}, which is not installed: "
            "pip install 'peftbench[models,offline]'"
        ) from error


def __dir__() -> "list[str]":  # type: ignore[valid-type]
    return sorted(__all__)
