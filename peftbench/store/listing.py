"""`store ls` and `store info`: what there is, and what made it."""

from pathlib import Path
from typing import Any

from peftbench.errors import ConfigError
from peftbench.protocol.workspace import Workspace
from peftbench.store.find import Place, all_stores, find_store, size_of
from peftbench.store.results import Ingredient, StoreInfo, StoreListing, StoreRow
from stores.errors import StoreDamagedError, StoreError
from stores.features import FeatureStore, open_features
from stores.images import KIND as IMAGES
from stores.images import ImageStore
from stores.lock import is_locked
from stores.verify import tables_of, verify


def ls(*, workspace: str | Path | Workspace | None = None) -> StoreListing:
    """Every store of a workspace, with its state as far as it can be told without reading it.

    Args:
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
    """
    return StoreListing(stores=[_row(each) for each in all_stores(Workspace.at(workspace))])


def info(
    store: str | Path,
    other: str | Path | None = None,
    *,
    workspace: str | Path | Workspace | None = None,
    **options: Any,
) -> StoreInfo:
    """What a store is and what made it; and in what another differs.

    Args:
        store: a folder, an address, the start of a key, or a backbone or cohort of which there is one store.
        other: a feature store to compare with, ingredient by ingredient.
        workspace: folder that peftbench writes to.
        options: of the connection to another machine, as `stores.remote.RemoteFiles` takes them.

    Raises:
        ConfigError: there is no such store, or images were to be compared.
        StoreDamagedError: it cannot be opened.
    """
    place = Workspace.at(workspace)
    found = find_store(str(store), place)
    if isinstance(found, Place) and found.kind == IMAGES:
        if other is not None:
            raise ConfigError(f"{found.folder} holds images: only feature stores are compared by their recipes")
        return _image_info(ImageStore.open(found.folder))
    mine = _open(found, options)
    answer = _feature_info(mine)
    if other is None:
        return answer
    second = find_store(str(other), place)
    if isinstance(second, Place) and second.kind == IMAGES:
        raise ConfigError(f"{second.folder} holds images: only feature stores are compared by their recipes")
    theirs = _open(second, options)
    differences = tuple(Ingredient(**each._asdict()) for each in mine.recipe.differences(theirs.recipe))
    return answer.model_copy(update={"compared_with": theirs.where, "differs_in": differences})


def _open(found: Place | str, options: dict[str, Any]) -> FeatureStore:
    return open_features(found, **options) if isinstance(found, str) else FeatureStore.open(found.folder)


def _row(place: Place) -> StoreRow:
    size, files = size_of(place.folder)
    rows, outputs, dtype = None, {}, ""
    try:
        if place.kind == IMAGES:
            images = ImageStore.open(place.folder)
            rows, outputs, dtype = len(images), {"pixels": [images.side, images.side]}, "uint8"
        else:
            features = FeatureStore.open(place.folder)
            outputs = {name: list(shape) for name, shape in features.outputs.items()}
            rows, dtype = len(features), features.recipe.dtype
        state = _state(place.folder)
    except StoreError as error:
        state = "damaged" if isinstance(error, StoreDamagedError) else str(error)
    return StoreRow(
        kind=place.kind,
        name=place.name,
        key=place.folder.name,
        rows=rows,
        outputs=outputs,
        dtype=dtype,
        bytes=size,
        files=files,
        state=state,
        path=str(place.folder),
    )


def _state(folder: Path) -> str:
    writers = [owner for table in tables_of(folder) if (owner := is_locked(table))]
    if writers:
        return f"being written by {writers[0]}"
    return "damaged" if any(verdict.faults for verdict in verify(folder)) else "sound"


def _feature_info(store: FeatureStore) -> StoreInfo:
    return StoreInfo(
        path=store.where,
        kind="features",
        key=store.recipe.key,
        rows=len(store),
        outputs={name: list(shape) for name, shape in store.outputs.items()},
        digest=store.digest,
        recipe=store.recipe.ingredients,
    )


def _image_info(store: ImageStore) -> StoreInfo:
    return StoreInfo(
        path=str(store.folder),
        kind="images",
        key="",
        rows=len(store),
        outputs={"pixels": [store.side, store.side]},
        digest=store.tables[0].digest,
        recipe={"pixel policy": store.policy, "canvas": f"{store.side} x {store.side}, 8 bit"},
    )
