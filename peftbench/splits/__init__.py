"""How tasks are divided: look at a division, write it as a file, bring one's own.

`peftbench.splits.show()`, `export`, `import_` and `audit` are the verbs of `peftbench splits`. No torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftbench.benchmark.splitting import splits_export as export
    from peftbench.benchmark.splitting import splits_import as import_
    from peftbench.benchmark.splitting import splits_show as show
    from peftbench.cohorts.audit import audit

__all__ = ["audit", "export", "import_", "show"]

_HOMES = {
    "audit": ("peftbench.cohorts.audit", "audit"),
    "export": ("peftbench.benchmark.splitting", "splits_export"),
    "import_": ("peftbench.benchmark.splitting", "splits_import"),
    "show": ("peftbench.benchmark.splitting", "splits_show"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'peftbench.splits' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
