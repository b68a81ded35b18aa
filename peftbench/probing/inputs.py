"""What a probe reads: stored features of a task's images, or what a control is allowed to see."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from peftbench.backbones.registry import parse_backbone
from peftbench.errors import NotPreparedError
from peftbench.protocol.progress import Progress
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace
from stores.commit import COMMIT_FILE
from stores.errors import StoreDamagedError, StoreError, StoreNotFoundError
from stores.features import FeatureStore
from stores.keys import digest_of

VIEWS = ("AP", "PA")
"""Views that the view control tells apart; all others are one more."""

VIEW_CONTROL = "control:view"


class ProbeInput(NamedTuple):
    """A matrix to probe.

    Attributes:
        name: of the backbone, or `control:...`.
        matrix: (images, d), rows as the task's.
        identity: key of the feature store, or a digest of what the control sees.
        origin: for the record's provenance.
    """

    name: str
    matrix: npt.NDArray[np.floating]
    identity: str
    origin: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the matrix: its type, shape and bytes."""
        header = f"{self.matrix.dtype}:{self.matrix.shape}:".encode()
        return hashlib.sha256(header + np.ascontiguousarray(self.matrix).tobytes()).hexdigest()


def view_control(rows: TaskRows) -> ProbeInput:
    """The control that sees only how the patient was filmed: one column a view, 0 or 1."""
    view = rows.frame["view"].fillna("").to_numpy(dtype=str)
    matrix = np.stack([*(view == name for name in VIEWS), ~np.isin(view, VIEWS)], axis=1).astype(np.float64)
    origin = {"columns": [f"view is {name}" for name in VIEWS] + ["view is another or unknown"]}
    return ProbeInput(VIEW_CONTROL, matrix, digest_of(["control", "view", list(VIEWS)]), origin)


def stored_features(
    rows: TaskRows, backbone: str, place: Workspace, told: Progress, pin: str | None = None
) -> ProbeInput:
    """A backbone's stored features of a task's images.

    Args:
        rows: the task's rows.
        backbone: as named to `extract`.
        place: the workspace.
        told: hears which store was taken where several would serve.
        pin: start of the key of the store to take.

    Raises:
        NotPreparedError: no store holds all the images; the message names the command that makes one.
        StoreDamagedError: the store's bytes are not sound.
    """
    backbone = stored_name(backbone, place)
    images = rows.frame["image_digest"].tolist()
    candidates = complete_stores(place, backbone, images, rows.task.cohort, told, pin)
    for store in candidates:
        try:
            matrix = store.load(images).matrix
        except StoreDamagedError as error:
            if store is candidates[-1]:
                raise
            told.note(f"passed over: {error}")
            continue
        break
    if len(candidates) > 1:
        told.note(
            f"{len(candidates)} feature stores of {backbone} hold all images of {rows.task.name}: "
            f"taking {store.recipe.key[:16]} ({store.recipe.precision}, {store.recipe.device}), the newest that is "
            "sound; name another with --features KEY"
        )
    return ProbeInput(backbone, matrix, store.recipe.key, {"recipe": store.recipe.to_json()})


def stored_name(backbone: str, place: Workspace) -> str:
    """A backbone as its features are filed: what was extracted from a checkpoint is called by a label.

    Raises:
        UnknownNameError: there is no such backbone, and nothing is stored under the name.
    """
    if place.committed_features(backbone):
        # Also where the plug-in that made them is gone.
        return backbone
    return parse_backbone(backbone).name


def complete_stores(
    place: Workspace, backbone: str, images: Sequence[str], cohort: str, told: Progress, pin: str | None = None
) -> list[FeatureStore]:
    """Feature stores of a backbone that can be opened and hold all the images, the newest first.

    Raises:
        NotPreparedError: there is none.
        StoreDamagedError: the only ones are damaged.
    """
    command = f"run `peftbench extract {cohort} --backbone {backbone}`"
    folders = place.committed_features(backbone)
    if not folders:
        _explain_absence(place, backbone, command)
    chosen = [folder for folder in folders if folder.name.startswith((pin or "")[:16])]
    if not chosen:
        raise NotPreparedError(
            f"no feature store of {backbone!r} has a key that starts with {pin!r}: "
            f"there are {', '.join(sorted(folder.name for folder in folders))}"
        )
    newest = sorted(chosen, key=lambda folder: (-_committed(folder), folder.name))
    opened = _sound(newest, told)
    complete = [store for store in opened if not store.missing(images)]
    if not complete:
        least = min(len(store.missing(images)) for store in opened)
        raise NotPreparedError(
            f"the stored features of {backbone!r} lack {least} of the {len(set(images))} images needed of cohort "
            f"{cohort!r}: {command} again; it embeds what is missing"
        )
    return complete


def _sound(folders: Sequence[Path], told: Progress) -> list[FeatureStore]:
    """Open stores and read what they hold; damaged ones are passed over, unless there is nothing else."""
    sound, faults = [], []
    for folder in folders:
        try:
            store = FeatureStore.open(folder)
            # Reading the digests of its images is what a damaged store may fail at as well.
            store.missing([])
            sound.append(store)
        except StoreError as error:
            faults.append(error)
    if not sound:
        raise faults[0]
    for fault in faults:
        told.note(f"passed over: {fault}")
    return sound


def _committed(folder: Path) -> int:
    try:
        return (folder / COMMIT_FILE).stat().st_mtime_ns
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"the store {folder} has just vanished: run the command again") from error


def _explain_absence(place: Workspace, backbone: str, command: str) -> None:
    parse_backbone(backbone)
    folder = place.root / "features"
    present = sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    held = f" (there are features of {', '.join(present)})" if present else ""
    raise NotPreparedError(f"no features of {backbone!r} are stored in this workspace{held}: {command} first")
