"""Stores for images and embeddings whose key proves what made them.

A library of its own: numpy and zarr, nothing of models, X-rays or torch. An outside analysis needs one line:

    matrix, images = open_features("workspace/features/<backbone>/<key>").load()
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stores.errors import (
        NotFiniteError,
        RowsMissingError,
        StoreDamagedError,
        StoreError,
        StoreLockedError,
        StoreMismatchError,
        StoreNotFoundError,
    )
    from stores.features import Features, FeatureStore, open_features
    from stores.images import ImageStore
    from stores.keys import FeatureRecipe, file_digest, pixels_digest

__all__ = [
    "FeatureRecipe",
    "FeatureStore",
    "Features",
    "ImageStore",
    "NotFiniteError",
    "RowsMissingError",
    "StoreDamagedError",
    "StoreError",
    "StoreLockedError",
    "StoreMismatchError",
    "StoreNotFoundError",
    "file_digest",
    "open_features",
    "pixels_digest",
]

_HOMES = {
    "stores.errors": [name for name in __all__ if name.endswith("Error")],
    "stores.features": ["FeatureStore", "Features", "open_features"],
    "stores.images": ["ImageStore"],
    "stores.keys": ["FeatureRecipe", "file_digest", "pixels_digest"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Lazy, so that a command line which only prints its help does not wait for zarr.
    if name not in _HOME_OF:
        raise AttributeError(f"module 'stores' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
