"""The verb `prepare`: a raw download to a manifest and an image store."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.cohorts.card import cohort_card, shared_between_patients
from peftbench.cohorts.declaration import Cohort
from peftbench.cohorts.registry import get_cohort
from peftbench.cohorts.table import RawRows, Rejection, file_names, read_rows
from peftbench.errors import ConfigError, DecodeError, RawDataError
from peftbench.imaging.decode import PixelPolicy, canonical_pixels
from peftbench.protocol.manifest import Manifest, pseudonym, source_digest
from peftbench.protocol.progress import Progress, Silent, patience
from peftbench.protocol.results import PrepareResult, RejectedFile, TaskCounts
from peftbench.protocol.tasks import EmptyTaskError, rows_of
from peftbench.protocol.workspace import Workspace
from stores.atomic import write_atomic
from stores.images import SHARD_ROWS, ImageStore
from stores.keys import canonical_json


class Picture(NamedTuple):
    """What became of one raw file: digests (and pixels, if they are new), or a reason why not."""

    file_digest: str
    source: str
    pixels: npt.NDArray[np.uint8] | None
    fault: str


def prepare(
    cohort: str,
    raw: str | Path | None = None,
    *,
    workspace: str | Path | Workspace | None = None,
    policy: PixelPolicy | None = None,
    progress: Progress | None = None,
) -> PrepareResult:
    """Bring a raw download into the workspace: manifest, image store and the cohort's card.

    Run again, it decodes only files that are new or changed. A file that cannot be used is listed in `rejected`
    and does not stop the run.

    Args:
        cohort: name of a cohort (`peftbench.list("cohorts")`).
        raw: folder of the download. The phantom is generated where none is given.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        policy: how files become pixels; by default min-max to 8 bit, 512 pixels on the long side.
        progress: who is told how far it is.

    Raises:
        UnknownNameError: there is no such cohort.
        RawDataError: the raw folder is not a download of that cohort, or no image in it can be used.
        WorkspaceError: the workspace cannot be written.
    """
    declared, place = get_cohort(cohort), Workspace.at(workspace)
    told, policy = progress or Silent(), policy or PixelPolicy()
    if raw is None and cohort != "phantom":
        raise ConfigError(f"the cohort {cohort!r} needs --raw DIR: the folder of its download ({declared.source})")
    if raw is not None:
        rows = read_rows(declared, Path(raw))
        place.ensure_writable()
    else:
        place.ensure_writable()
        rows = read_rows(declared, _generate(place, told))
    return _bring_in(declared, rows, place, policy, told)


def _generate(place: Workspace, told: Progress) -> Path:
    from peftbench.cohorts.synthesis import PhantomConfig, write_phantom  # noqa: PLC0415 - scipy.ndimage is slow to load

    config = PhantomConfig()
    told.note(f"no --raw given: generating the phantom of {config.patients} patients")
    return write_phantom(place.raw("phantom"), config, told)


def _bring_in(declared: Cohort, rows: RawRows, place: Workspace, policy: PixelPolicy, told: Progress) -> PrepareResult:
    # Of all rows, before files are looked at: a label may stand in the row of an unreadable picture.
    canonical = _harmonised(declared, rows)
    folder = place.images(declared.name, policy.digest)
    store = ImageStore.create(folder, policy.recipe, policy.side, patience(told))
    pictures = _store_pictures(store, rows, policy, told)
    rejected = [*rows.rejected, *_unreadable(declared, rows, pictures)]
    if all(picture.fault for picture in pictures):
        first = f"; the first, {rejected[0].file}: {rejected[0].reason}" if rejected else ""
        raise RawDataError(
            f"none of the {len(pictures) + len(rows.rejected)} images of {declared.name} can be used{first}: "
            "check the folder given with --raw"
        )
    manifest = _manifest(declared, rows, canonical, pictures, store)
    result = _result(declared, manifest, rejected)
    shared = shared_between_patients(manifest)
    if shared:
        told.note(
            f"{shared} images stand under several patients with the same pixels: a split by patient cannot keep "
            "them apart; look at them before believing a score"
        )
    # The manifest comes last: a cohort is prepared when it has one.
    card = cohort_card(declared, manifest, [each.reason for each in rejected], policy, folder.name)
    write_atomic(place.card(declared.name), canonical_json(card))
    manifest.write(place.manifest(declared.name))
    return result


def _store_pictures(store: ImageStore, rows: RawRows, policy: PixelPolicy, told: Progress) -> list[Picture]:
    """Decode what the store does not know yet; whole shards are committed, so little is lost when interrupted."""
    told.start("decoding", len(rows.files))
    done: list[Picture] = []
    waiting: list[Picture] = []

    def commit() -> None:
        fresh = [(each.source, each.pixels) for each in waiting if each.pixels is not None]
        store.append([source for source, _ in fresh], [pixels for _, pixels in fresh], patience(told))
        waiting.clear()

    try:
        for picture in _decode_all(store, rows.files, policy):
            told.advance()
            done.append(picture._replace(pixels=None))
            if picture.pixels is not None:
                waiting.append(picture)
            # So that an interruption does not leave all later shards half full.
            if waiting and (len(store) + len(waiting)) % SHARD_ROWS == 0:
                commit()
    finally:
        commit()
    return done


def _decode_all(store: ImageStore, files: Iterable[Path], policy: PixelPolicy) -> Iterator[Picture]:
    """Pictures in the order of the files; Pillow lets go of the interpreter while it decodes, so threads do."""
    known = store.known_sources
    workers = os.cpu_count() or 1

    def decode(file: Path) -> Picture:
        try:
            content, source = source_digest(file, policy.recipe)
            pixels = None if source in known else canonical_pixels(file, policy)
        except FileNotFoundError:
            return Picture("", "", None, "file is missing")
        except DecodeError as error:
            return Picture("", "", None, str(error))
        except OSError as error:
            return Picture("", "", None, f"cannot be read: {error.strerror or error}")
        return Picture(content, source, pixels, "")

    queue = list(files)
    with ThreadPoolExecutor(workers) as pool:
        # A bounded window: never more decoded pictures in memory than are about to be stored.
        for start in range(0, len(queue), SHARD_ROWS):
            yield from pool.map(decode, queue[start : start + SHARD_ROWS])


def _unreadable(declared: Cohort, rows: RawRows, pictures: list[Picture]) -> list[Rejection]:
    names = file_names(declared, rows.table)
    return [Rejection(name, each.fault) for name, each in zip(names, pictures, strict=True) if each.fault]


def _harmonised(declared: Cohort, rows: RawRows) -> pd.DataFrame:
    try:
        return declared.harmonise(rows.table)
    except (ValueError, KeyError) as error:
        raise RawDataError(
            f"{declared.table} of {declared.name} has a value that is not understood: {error}: "
            f"compare it with the published table of {declared.title}"
        ) from error


def _manifest(
    declared: Cohort, rows: RawRows, canonical: pd.DataFrame, pictures: list[Picture], store: ImageStore
) -> Manifest:
    usable = [not each.fault for each in pictures]
    kept = [each for each in pictures if not each.fault]
    raw_ids = rows.table.loc[usable, declared.id_column]
    canonical = canonical[usable].reset_index(drop=True)
    identity = pd.DataFrame(
        {
            "sample_id": [pseudonym(declared.name, "sample", raw_id) for raw_id in raw_ids],
            "patient_id": [pseudonym(declared.name, "patient", raw_id) for raw_id in canonical["patient"]],
            **{column: canonical[column].replace("", None) for column in ("center", "view", "acquired")},
            "file_digest": [each.file_digest for each in kept],
            "image_digest": [store.known_sources[each.source] for each in kept],
        }
    )
    rest = canonical.drop(columns=["patient", "center", "view", "acquired"])
    frame = pd.concat([identity, rest], axis=1)
    return Manifest(declared.name, frame.sort_values(["patient_id", "acquired"], kind="stable", ignore_index=True))


def _result(declared: Cohort, manifest: Manifest, rejected: list[Rejection]) -> PrepareResult:
    tasks: dict[str, TaskCounts] = {}
    for task in declared.tasks:
        try:
            used = rows_of(task, manifest)
            tasks[task.name] = TaskCounts(images=used.images, patients=used.patients, events=used.events)
        except EmptyTaskError:
            tasks[task.name] = TaskCounts(images=0, patients=0, events=0)
    frame = manifest.frame
    return PrepareResult(
        cohort=declared.name,
        images=len(frame),
        patients=int(frame["patient_id"].nunique()),
        centers=int(frame["center"].nunique()),
        rejected=[RejectedFile(file=each.file, reason=each.reason) for each in rejected],
        tasks=tasks,
    )
