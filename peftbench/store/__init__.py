"""The care of a workspace's stores: what there is, what made it, whether it is sound, and how to take it elsewhere.

`peftbench.store.ls()`, `info`, `verify`, `repair`, `export` and `prune` are the verbs of `peftbench store`. No torch,
except to write torch's own format.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftbench.store.exporting import export
    from peftbench.store.health import repair, verify
    from peftbench.store.listing import info, ls
    from peftbench.store.pruning import prune

__all__ = ["export", "info", "ls", "prune", "repair", "verify"]

_HOMES = {
    "export": "peftbench.store.exporting",
    "info": "peftbench.store.listing",
    "ls": "peftbench.store.listing",
    "prune": "peftbench.store.pruning",
    "repair": "peftbench.store.health",
    "verify": "peftbench.store.health",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'peftbench.store' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
