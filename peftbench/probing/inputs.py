"""What a probe reads: stored features of a task's images, in one or several readings of the same forward pass."""

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from peftbench.backbones.registry import parse_backbone
from peftbench.errors import ConfigError, NotPreparedError
from peftbench.probing.families.family import Features
from peftbench.probing.given import Given
from peftbench.protocol.names import RANDOM_MARK, WITH_CLINICAL
from peftbench.protocol.progress import Progress
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace
from stores.commit import COMMIT_FILE
from stores.errors import StoreDamagedError, StoreError, StoreNotFoundError
from stores.features import FeatureStore
from stores.keys import digest_of

Reading = Literal["embedding", "blocks"]

READINGS: dict[Reading, str] = {
    "embedding": "the backbone's embedding",
    "blocks": "chosen on validation: the last block or the last four, with and without the mean patch token "
    "(a CNN: the embedding, alone or with its last stages)",
}
"""What `--reading` takes."""


class ProbeInput(NamedTuple):
    """What to probe.

    Attributes:
        name: of the backbone, or `control:...`.
        given: matrices, rows as the task's.
        identity: key of the feature store, or a digest of what the control sees.
        origin: for the record's provenance.
    """

    name: str
    given: Given
    identity: str
    origin: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the matrices: their names, types, shapes and bytes."""
        parts = [*self.given.readings.items()]
        parts += [] if self.given.clinical is None else [("clinical", self.given.clinical)]
        if len(parts) == 1 and self.given.clinical is None:
            return matrix_digest(parts[0][1])
        return digest_of([[name, matrix_digest(matrix)] for name, matrix in parts])

    @property
    def features(self) -> int:
        """How many numbers an image has, in the widest reading."""
        clinical = 0 if self.given.clinical is None else self.given.clinical.shape[1]
        return max((matrix.shape[1] for matrix in self.given.readings.values()), default=0) + clinical

    def joined(self, clinical: npt.NDArray[np.floating], names: Sequence[str]) -> "ProbeInput":
        """The same features with clinical variables beside them."""
        identity = digest_of([self.identity, "clinical", list(names)])
        origin = {**self.origin, "clinical": list(names)}
        return ProbeInput(f"{self.name}{WITH_CLINICAL}", self.given._replace(clinical=clinical), identity, origin)


def matrix_digest(matrix: npt.NDArray[np.floating]) -> str:
    """SHA-256 of a matrix: its type, shape and bytes."""
    header = f"{matrix.dtype}:{matrix.shape}:".encode()
    return hashlib.sha256(header + np.ascontiguousarray(matrix).tobytes()).hexdigest()


def stored_features(
    rows: TaskRows,
    backbone: str,
    place: Workspace,
    told: Progress,
    pin: str | None = None,
    reading: Reading = "embedding",
) -> ProbeInput:
    """A backbone's stored features of a task's images.

    Args:
        rows: the task's rows.
        backbone: as named to `extract`.
        place: the workspace.
        told: hears which store was taken where several would serve.
        pin: start of the key of the store to take.
        reading: which outputs of the forward pass.

    Raises:
        NotPreparedError: no store holds all the images; the message names the command that makes one.
        StoreDamagedError: the store's bytes are not sound.
        ConfigError: the backbone stores no blocks.
    """
    backbone = stored_name(backbone, place)
    images = rows.frame["image_digest"].tolist()
    candidates = complete_stores(place, backbone, images, rows.task.cohort, told, pin)
    for store in candidates:
        try:
            readings = read(store, images, reading)
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
    return ProbeInput(backbone, Given(readings), store.recipe.key, {"recipe": store.recipe.to_json()})


def read(store: FeatureStore, images: Sequence[str], reading: Reading) -> Mapping[str, Features]:
    """Name to (images, d) matrix of each reading that is to be tried, as `readings_of` tells them.

    Args:
        store: of features.
        images: digests.
        reading: which outputs.

    Raises:
        ConfigError: the store has neither blocks nor stages.
    """
    outputs = store.outputs
    if reading == "blocks" and not {"block_cls", "stages"} & outputs.keys():
        raise ConfigError(
            f"--reading blocks needs the outputs block_cls or stages, and the features of {store.recipe.architecture} "
            f"hold {', '.join(outputs)} only: take --reading embedding"
        )

    def load(output: str) -> Features:
        matrix = store.load(images, output=output).matrix
        _refuse_gaps(store, matrix.reshape(len(matrix), -1))
        return matrix

    return readings_of(outputs, load, reading)


def readings_of(outputs: Container[str], load: Callable[[str], Features], reading: Reading) -> Mapping[str, Features]:
    """Name to (images, d) matrix of each reading that is to be tried, the plainest first.

    With blocks as in DINOv2's linear evaluation (Oquab et al. 2023): the class token of the last block or of the last
    four, alone or beside the mean patch token. Of a CNN: the embedding, alone or beside the means of its last stages.

    Args:
        outputs: names of what a forward pass gave.
        load: name of an output to its (images, ...) rows; asked for those that the reading needs.
        reading: which outputs.
    """

    def flat(output: str) -> Features:
        matrix = load(output)
        return matrix.reshape(len(matrix), -1)

    embedding = flat("embedding")
    if reading == "embedding":
        return {"embedding": embedding}
    if "block_cls" not in outputs:
        return {"embedding": embedding, "embedding + stages": np.hstack([embedding, flat("stages")])}
    last, four = {"last block": embedding}, {"last four blocks": flat("block_cls")}
    if "patch_mean" not in outputs:
        return {**last, **four}
    patches = flat("patch_mean")
    with_patches = {f"{name} + mean patch": np.hstack([each, patches]) for name, each in {**last, **four}.items()}
    return {**last, **four, **with_patches}


def _refuse_gaps(store: FeatureStore, matrix: npt.NDArray[np.floating]) -> None:
    if not np.isfinite(matrix).all():
        rows = int((~np.isfinite(matrix).all(axis=1)).sum())
        raise StoreDamagedError(
            f"{rows} of {len(matrix)} rows of the features {store.recipe.key[:16]} hold what is no number: run "
            "`peftbench store verify --deep`, then `peftbench store repair`"
        )


def untrained_of(place: Workspace, backbone: str) -> list[str]:
    """Names under which untrained weights of a backbone's architecture are stored, in the order of their seeds."""
    if RANDOM_MARK in backbone or not (place.root / "features").is_dir():
        return []
    prefix = place.features_of(f"{backbone}{RANDOM_MARK}0").name[:-1]
    folders = {path.parent.name for path in place.committed_features() if path.parent.name.startswith(prefix)}
    seeds = sorted(int(seed) for seed in (name.removeprefix(prefix) for name in folders) if seed.isdigit())
    return [f"{backbone}{RANDOM_MARK}{seed}" for seed in seeds]


def with_untrained(place: Workspace, backbones: Sequence[str], usable: Callable[[str], bool]) -> list[str]:
    """The backbones, then the untrained weights of their architectures that are stored and were not named.

    Args:
        place: the workspace.
        backbones: as named.
        usable: whether what nobody asked for by name has all that is needed.
    """
    stored = (name for each in backbones for name in untrained_of(place, stored_name(each, place)))
    return [*backbones, *(name for name in dict.fromkeys(stored) if name not in backbones and usable(name))]


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
