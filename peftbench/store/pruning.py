"""`store prune`: remove what nothing needs any more.

Always: what interrupted writes left behind. On demand: stores that are neither the newest of their backbone nor named
by a record, and rows of images that no prepared cohort holds, as after a patient has withdrawn consent.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from peftbench.errors import ConfigError
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.workspace import Workspace
from peftbench.store.find import Place, all_stores, size_of
from peftbench.store.results import Pruned, PruneResult
from stores.atomic import SCRATCH_SUFFIX
from stores.commit import COMMIT_FILE
from stores.errors import StoreError, StoreLockedError
from stores.features import KIND as FEATURES
from stores.features import FeatureStore
from stores.images import ImageStore
from stores.keys import unpack_digests
from stores.lock import writer_lock
from stores.repair import keep_rows, refuse_link
from stores.rows import RowStore, exchange_names
from stores.verify import columns_of, tables_of


def prune(
    *,
    superseded: bool = False,
    withdrawn: bool = False,
    dry_run: bool = False,
    workspace: str | Path | Workspace | None = None,
    progress: Progress | None = None,
) -> PruneResult:
    """Remove leftovers of interrupted writes; on demand more. A store that is being written is left alone.

    Args:
        superseded: also remove feature stores that are neither the newest of their backbone nor named by a record, and
            image stores that their cohort's card does not name.
        withdrawn: also remove rows of images that no prepared cohort holds.
        dry_run: only say what would be removed.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        progress: who is told how far it is.

    Raises:
        ConfigError: a manifest or record that tells what is needed cannot be read.
        StoreDamagedError: rows are to be removed from a damaged store.
    """
    place, told = Workspace.at(workspace), progress or Silent()
    removed: list[Pruned] = []
    every = all_stores(place)
    if superseded:
        needless = _superseded(place, every)
        removed += [found for each in needless for found in _remove_store(each, told, dry_run=dry_run)]
        every = [each for each in every if each not in needless]
    if withdrawn:
        held = _images_by_cohort(place)
        for each in every:
            removed += _remove_rows(each, held, told, dry_run=dry_run)
    for each in every:
        for table in tables_of(each.folder):
            removed += _remove_leftovers(table, told, dry_run=dry_run)
    return PruneResult(dry_run=dry_run, removed=removed)


def _superseded(place: Workspace, every: list[Place]) -> list[Place]:
    named = _keys_in_records(place)
    newest: dict[str, Place] = {}
    for each in sorted((each for each in every if each.kind == FEATURES), key=lambda each: _committed(each.folder)):
        newest[each.name] = each
    needless = []
    for each in every:
        if each.kind == FEATURES:
            is_named = any(key.startswith(each.folder.name) for key in named)
            if newest[each.name] != each and not is_named and _holds_all_of(newest[each.name], each):
                needless.append(each)
        elif each.folder.name != _image_store_of(place, each.name):
            needless.append(each)
    return needless


def _holds_all_of(newer: Place, older: Place) -> bool:
    """Whether a store can be opened and has a row for every image that an older one has."""
    try:
        return not FeatureStore.open(newer.folder).missing(FeatureStore.open(older.folder).images)
    except StoreError:
        return False


def _committed(folder: Path) -> int:
    try:
        return (folder / COMMIT_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _keys_in_records(place: Workspace) -> set[str]:
    return {_from_json(path, "config", "features") for path in place.results.rglob("record.json")}


def _image_store_of(place: Workspace, cohort: str) -> str:
    return _from_json(place.card(cohort), "image_store")


def _from_json(path: Path, *names: str) -> str:
    try:
        value = json.loads(path.read_text())
        for name in names:
            value = value[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}), and so it cannot be told which stores are needed: make it again or "
            "delete it, then prune"
        ) from error
    return str(value)


def _images_by_cohort(place: Workspace) -> dict[str, set[str]]:
    folders = sorted(path for path in (place.root / "cohorts").glob("*") if path.is_dir())
    if not folders:
        raise ConfigError(f"no cohort is prepared in {place.root}: every row would be removed; prepare one first")
    return {
        folder.name: set(Manifest.read(folder.name, folder / "manifest.parquet").frame["image_digest"])
        for folder in folders
    }


def _remove_store(each: Place, told: Progress, *, dry_run: bool) -> Iterator[Pruned]:
    size, _ = size_of(each.folder)
    found = Pruned(path=str(each.folder), what="superseded store", rows=0, bytes=size)

    refuse_link(each.folder)

    def remove() -> None:
        # Uncommitted first: a removal that is cut short must not leave half a store that seems whole.
        for table in tables_of(each.folder):
            (table / COMMIT_FILE).unlink(missing_ok=True)
        shutil.rmtree(each.folder)

    yield from _under_lock(tables_of(each.folder)[0], [found], remove, told, dry_run=dry_run)


def _remove_rows(each: Place, held: dict[str, set[str]], told: Progress, *, dry_run: bool) -> Iterator[Pruned]:
    """Rows of a store whose images are not held: by the store's own cohort if it holds pictures, by any otherwise."""
    if each.kind == FEATURES:
        wanted = set().union(*held.values())
        tables = [FeatureStore.open(each.folder).rows]
    else:
        wanted = held.get(each.name, set())
        # Sources first: a source must never name a picture that is gone.
        tables = [*reversed(ImageStore.open(each.folder).tables)]
    for table in tables:
        yield from _remove_rows_of(table, wanted, told, dry_run=dry_run)


def _remove_rows_of(table: RowStore, wanted: set[str], told: Progress, *, dry_run: bool) -> Iterator[Pruned]:
    def kept() -> npt.NDArray[np.bool_]:
        return np.array([image in wanted for image in unpack_digests(table.read("image"))], dtype=bool)

    def remove() -> None:
        # Asked again: now that the lock is held, nobody adds rows.
        table.refresh()
        keep_rows(table, kept())

    lost = int((~kept()).sum())
    if lost:
        size = lost * sum(column.row_bytes for column in table.columns.values())
        found = Pruned(path=str(table.folder), what="rows of images in no cohort", rows=lost, bytes=size)
        yield from _under_lock(table.folder, [found], remove, told, dry_run=dry_run)


def _remove_leftovers(table: Path, told: Progress, *, dry_run: bool) -> Iterator[Pruned]:
    paths = [*_leftovers(table)]
    found = [
        Pruned(path=str(path), what="left by an interrupted write", rows=0, bytes=_bytes_of(path)) for path in paths
    ]

    def remove() -> None:
        # Looked up again: now that the lock is held, nobody is still writing them.
        for path in _leftovers(table):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    yield from _under_lock(table, found, remove, told, dry_run=dry_run)


def _leftovers(table: Path) -> Iterator[Path]:
    yield from sorted(table.rglob(f".*{SCRATCH_SUFFIX}"))
    if (table / COMMIT_FILE).exists():
        # Without it, these are all that there is of the table.
        yield from (path for path in exchange_names(table) if path.is_dir())
    try:
        store = RowStore.open(table, columns_of)
    except StoreError:
        # Damaged: `repair` comes first, and may need what seems to be left over.
        return
    for name, column in store.columns.items():
        wanted = {column.file_name(index) for index in range(column.files(store.rows))}
        yield from sorted(path for path in (table / name).glob("c.*") if path.name not in wanted)


def _bytes_of(path: Path) -> int:
    return size_of(path)[0] if path.is_dir() else path.stat().st_blocks * 512


def _under_lock(
    table: Path, found: list[Pruned], remove: Callable[[], object], told: Progress, *, dry_run: bool
) -> Iterator[Pruned]:
    """Remove what was found as the store's only writer; a store that is being written is passed over with a note."""
    if found and not dry_run:
        try:
            with writer_lock(table):
                remove()
        except StoreLockedError as error:
            told.note(f"left alone: {error}")
            return
    yield from found
