"""Stores for images and embeddings whose key proves what made them.

A library of its own: numpy, zarr, h5py, pyarrow; nothing of models, X-rays or torch. What an outside analysis needs:

    X, ids = open_features("workspace/features/<backbone>/<key>").load()
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stores.errors import (
        ExtraMissingError,
        NotFiniteError,
        RemoteError,
        RowsMissingError,
        StoreDamagedError,
        StoreError,
        StoreLockedError,
        StoreMismatchError,
        StoreNotFoundError,
    )
    from stores.exports import Table, write_hdf5, write_npy, write_parquet
    from stores.features import Features, FeatureStore, open_features
    from stores.images import ImageStore
    from stores.keys import file_digest, pixels_digest
    from stores.recipe import FeatureRecipe
    from stores.views import CohortView

__all__ = [
    "CohortView",
    "ExtraMissingError",
    "FeatureRecipe",
    "FeatureStore",
    "Features",
    "ImageStore",
    "NotFiniteError",
    "RemoteError",
    "RowsMissingError",
    "StoreDamagedError",
    "StoreError",
    "StoreLockedError",
    "StoreMismatchError",
    "StoreNotFoundError",
    "Table",
    "file_digest",
    "open_features",
    "pixels_digest",
    "write_hdf5",
    "write_npy",
    "write_parquet",
]

_HOMES = {
    "stores.errors": [name for name in __all__ if name.endswith("Error")],
    "stores.exports": ["Table", "write_hdf5", "write_npy", "write_parquet"],
    "stores.features": ["FeatureStore", "Features", "open_features"],
    "stores.images": ["ImageStore"],
    "stores.keys": ["file_digest", "pixels_digest"],
    "stores.recipe": ["FeatureRecipe"],
    "stores.views": ["CohortView"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Lazy, so that a command line which only prints its help does not wait for zarr.
    if name not in _HOME_OF:
        raise AttributeError(f"module 'stores' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
