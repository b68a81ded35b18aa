"""The care of pretrained weights: what is here, how it comes here, whether it is sound, how it is carried elsewhere.

`peftbench.weights.ls()`, `fetch`, `verify`, `bundle` and `import_` are the verbs of `peftbench weights`. Only `fetch`
imports torch, to convert; only `fetch` asks a network.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftbench.weights.bundling import bundle
    from peftbench.weights.fetching import fetch
    from peftbench.weights.health import verify
    from peftbench.weights.importing import import_
    from peftbench.weights.listing import ls

__all__ = ["bundle", "fetch", "import_", "ls", "verify"]

_HOMES = {
    "bundle": "peftbench.weights.bundling",
    "fetch": "peftbench.weights.fetching",
    "import_": "peftbench.weights.importing",
    "ls": "peftbench.weights.listing",
    "verify": "peftbench.weights.health",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'peftbench.weights' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
