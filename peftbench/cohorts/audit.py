"""The verb `splits audit`: does anything that a model is trained on come back in its test?

Three questions: has a patient two roles in a fold; do two patients of the task share an image; does another cohort hold
images of the task. An image is the same by its digest, nearly the same by its pixels (`peftbench.imaging.similarity`),
and suspected to be by its embedding. Patients who share images can be joined, so that splits keep them together.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.cohorts.asked import task_rows
from peftbench.cohorts.card import open_pictures
from peftbench.errors import ConfigError, NotPreparedError
from peftbench.imaging import similarity
from peftbench.protocol import groups
from peftbench.protocol.audit_results import AuditPair, AuditResult, Grouping, SharedCounts, Torn
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.provenance import Stopwatch
from peftbench.protocol.splits import UNUSED, Split, find_split, is_scheme, own_names, own_path, units
from peftbench.protocol.splits import load as load_split
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace
from stores.commit import COMMIT_FILE
from stores.errors import StoreError
from stores.features import FeatureStore

FEATURES_COSINE = 0.6
"""Cosine of centred embeddings from which on two images are suspected to be copies, where pixels do not say so.

EfficientNet-Lite0 on Hannover: copies re-encoded at 75 % of their size have 0.81 and more, with 5 % cut off all around
0.46 and more; the highest of two different patients is 0.75. So the cosine alone decides nothing, and the lead does."""

FEATURES_LEAD = 0.2
"""How much nearer they must be to each other than either is to any third patient.

Of the same features: mutual nearest images of different patients lead by 0.12 at most; of the re-encoded copies
237 of 243 are found, of those with 5 % cut off 114."""

KINDS = ("identical", "near", "features")

_BATCH = 256
"""Pictures in memory at a time."""

_UNTRAINED = re.compile(r"-random-\d+$")
"""Folders of features of untrained weights: nearness there means little."""

_PAIR = {"kind": object, "image": object, "other_image": object, "score": float, "mirrored": bool, "inverted": bool}
"""Columns of a table of pairs of images, and their types."""


class Looked(NamedTuple):
    """Images of a cohort, as they are compared.

    Attributes:
        cohort: its name.
        frame: rows of its manifest.
        images: distinct image digests of the frame.
        thumbnails: (images, side, side) their fingerprints.
    """

    cohort: str
    frame: pd.DataFrame
    images: list[str]
    thumbnails: similarity.Pixels

    @property
    def owners(self) -> list[str]:
        """A patient of each image."""
        first = self.frame.drop_duplicates("image_digest").set_index("image_digest")["patient_id"]
        return [str(name) for name in first.loc[self.images]]

    def only(self, frame: pd.DataFrame) -> "Looked":
        """The images of some of the rows."""
        wanted = set(frame["image_digest"])
        chosen = [row for row, image in enumerate(self.images) if image in wanted]
        return Looked(self.cohort, frame, [self.images[row] for row in chosen], self.thumbnails[chosen])


class Asked(NamedTuple):
    """What an audit looks with.

    Attributes:
        place: the workspace.
        backbone: whose features; None for the newest store that has all images.
        told: hears how far it is.
        watch: of the phases.
    """

    place: Workspace
    backbone: str | None
    told: Progress
    watch: Stopwatch

    def closer(self, candidates: int) -> Callable[[int], None]:
        """Who hears how many of so many candidates were looked at."""
        self.told.start("looking closer", candidates)
        return self.told.advance


def audit(
    task: str,
    *,
    workspace: str | Path | Workspace | None = None,
    against: str | Sequence[str] | None = None,
    group: bool | None = None,
    split: str | None = None,
    seed: int = 0,
    backbone: str | None = None,
    trust_features: bool = False,
    progress: Progress | None = None,
) -> AuditResult:
    """Look for leaks between the roles of a task's split, and between cohorts.

    Args:
        task: name of the task.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        against: cohorts to compare with; by default all others that are prepared. What is shared with a cohort that is
            named counts for the verdict.
        group: True: join the patients of the cohort who share images, so that splits keep them together; False: undo
            that; None: leave it as it is.
        split: `5-fold`, `LOCO`, `hold-out`, or the name of an imported split; by default the task's own scheme.
        seed: of the division.
        backbone: whose stored features are asked as well; by default those of the newest store that has all images.
        trust_features: whether pairs that only the features find count for the verdict and are joined.
        progress: who is told how far it is.

    Raises:
        UnknownNameError: there is no such task or split.
        NotPreparedError: a cohort was not prepared, or the backbone's features are missing.
        SplitError: the task cannot be split so.
        ConfigError: the cohort is to be compared with itself.
        GroupsError: the file of the cohort's groups is damaged.
        StoreError: pictures are missing or damaged.
    """
    place = Workspace.at(workspace)
    asked = Asked(place, backbone, progress or Silent(), Stopwatch())
    rows = task_rows(task, place)
    cohort = rows.task.cohort
    manifest = Manifest.read(cohort, place.manifest(cohort))
    others = _others(asked, cohort, against)
    mine = _look(asked, cohort, manifest.frame if group else rows.frame)
    found, used = _compare(asked, mine, None)
    grouping = _regroup(place, manifest, found, group=group, trust_features=trust_features)
    rows = _with_groups(rows, place)
    division = _division(rows, split, seed, place.splits(rows.task.name))
    within = _with_folds(_in_task(found, rows), rows, division)
    across, shared, backbones = _across(asked, mine.only(rows.frame), others)
    return _result(
        rows, division, within, across, shared, grouping, {**used, **backbones}, asked.watch, trust=trust_features
    )


def _others(asked: Asked, cohort: str, against: str | Sequence[str] | None) -> list[tuple[Manifest, bool]]:
    """The other cohorts, and whether each was named; of those that were not, what is unsound is passed over."""
    place = asked.place
    if against:
        names = list(dict.fromkeys([against] if isinstance(against, str) else against))
        if cohort in names:
            raise ConfigError(
                f"--against {cohort} is the task's own cohort, which is always looked at: name another, or none"
            )
        return [(Manifest.read(name, place.manifest(name)), True) for name in names]
    prepared = sorted(path.parent.name for path in (place.root / "cohorts").glob("*/manifest.parquet"))
    found = []
    for name in prepared:
        if name == place.cohort(cohort).name:
            continue
        try:
            found.append((Manifest.read(name, place.manifest(name)), False))
        except NotPreparedError as error:
            asked.told.note(f"passed over: {error}")
    return found


def _look(asked: Asked, cohort: str, frame: pd.DataFrame) -> Looked:
    """Fingerprints of all images of some rows, read in stored order."""
    images = list(dict.fromkeys(frame["image_digest"].tolist()))
    store = open_pictures(asked.place, cohort)
    order = np.argsort(store.rows_of(images), kind="stable")
    thumbnails = np.zeros((len(images), similarity.SIDE, similarity.SIDE), dtype=np.uint8)
    asked.told.start(f"looking at {cohort}", len(images))
    with asked.watch.phase("fingerprints"):
        for start in range(0, len(images), _BATCH):
            batch = order[start : start + _BATCH]
            for row, picture in zip(batch, store.gather([images[row] for row in batch]), strict=True):
                thumbnails[row] = similarity.fingerprint(picture)
            asked.told.advance(len(batch))
    return Looked(cohort, frame, images, thumbnails)


def _compare(asked: Asked, left: Looked, right: Looked | None) -> tuple[pd.DataFrame, dict[str, str]]:
    """Pairs of samples that are copies or seem to be, and whose features were asked about which cohort."""
    other = right or left
    same = _identical(left, right)
    asked.told.start(f"comparing {left.cohort}" + (f" with {right.cohort}" if right else ""), similarity.SWEEPS)
    with asked.watch.phase("pixels"):
        near = similarity.near_pairs(
            left.thumbnails, right.thumbnails if right else None, step=asked.told.advance, closer=asked.closer
        )
    columns = (near.first, near.second, near.score, near.mirrored, near.inverted)
    found = _pairs_of(
        [("near", left.images[i], other.images[j], *facts) for i, j, *facts in zip(*columns, strict=True)]
    )
    with asked.watch.phase("features"):
        name, suspected = _by_features(asked, left, right)
    # In the order of trust: of a pair that several kinds find, the first counts.
    every = pd.concat([same, found, suspected], ignore_index=True).drop_duplicates(["image", "other_image"])
    return _samples(every, left, right), {other.cohort: name} if name else {}


def _identical(left: Looked, right: Looked | None) -> pd.DataFrame:
    if right is None:
        images = left.frame.loc[left.frame["image_digest"].duplicated(), "image_digest"].unique().tolist()
    else:
        there = set(right.images)
        images = [image for image in left.images if image in there]
    return _pairs_of([("identical", image, image, 1.0, False, False) for image in images])


def _pairs_of(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(_PAIR)).astype(_PAIR)


def _by_features(asked: Asked, left: Looked, right: Looked | None) -> tuple[str, pd.DataFrame]:
    """The backbone whose features hold all images (empty where none does), and the pairs that they suspect."""
    other = right or left
    name, matrices = _features(asked, [left.images, other.images], other.cohort)
    if len(matrices) < 2 or not left.images:
        return "", _pairs_of([])
    one, two = similarity.centred(*matrices[: 2 if right else 1] * (1 if right else 2))
    owners, _ = pd.factorize(np.array([*left.owners, *other.owners], dtype=object))
    owner, others = owners[: len(left.images)], owners[len(left.images) :]
    forth = similarity.nearest(one, owner, two, others)
    back = similarity.nearest(two, others, one, owner) if right else forth
    first, second, cosine = similarity.mutual_pairs(forth, back, FEATURES_COSINE, FEATURES_LEAD)
    # Within a cohort each pair is found from both of its ends.
    keep = np.ones(len(first), dtype=bool) if right else first < second
    rows = [
        ("features", left.images[i], other.images[j], float(score), False, False)
        for i, j, score in zip(first[keep], second[keep], cosine[keep], strict=True)
    ]
    return name, _pairs_of(rows)


def _features(asked: Asked, images: Sequence[list[str]], cohort: str) -> tuple[str, list[npt.NDArray[np.floating]]]:
    """The newest sound features that hold all the images; nothing where there are none."""
    wanted = [image for part in images for image in part]
    folders = asked.place.committed_features(asked.backbone or "*")
    for folder in sorted(folders, key=_committed, reverse=True):
        if asked.backbone is None and _UNTRAINED.search(folder.parent.name):
            continue
        try:
            store = FeatureStore.open(folder)
            if not store.missing(wanted):
                return folder.parent.name, [store.load(part).matrix for part in images]
        except StoreError as error:
            asked.told.note(f"passed over: {error}")
    if asked.backbone is not None:
        raise NotPreparedError(
            f"no stored features of {asked.backbone!r} hold all images that are compared: run "
            f"`peftbench extract {cohort} --backbone {asked.backbone}` first, or leave --backbone out"
        )
    return "", []


def _committed(folder: Path) -> int:
    try:
        return (folder / COMMIT_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _samples(pairs: pd.DataFrame, left: Looked, right: Looked | None) -> pd.DataFrame:
    """Pairs of images as pairs of samples, each once, with their patients."""
    other = right or left
    mine = left.frame[["image_digest", "sample_id", "patient_id"]].set_axis(["image", "sample", "patient"], axis=1)
    theirs = other.frame[["image_digest", "sample_id", "patient_id"]].set_axis(
        ["other_image", "other_sample", "other_patient"], axis=1
    )
    found = pairs.merge(mine, on="image").merge(theirs, on="other_image")
    if right is None:
        # One image under several samples meets itself, and every pair twice.
        found = found[(found["image"] != found["other_image"]) | (found["sample"] < found["other_sample"])]
    return found.assign(other_cohort=other.cohort).reset_index(drop=True)


def _regroup(
    place: Workspace, manifest: Manifest, found: pd.DataFrame, *, group: bool | None, trust_features: bool
) -> Grouping:
    """Join the patients of the pairs found, undo it, or leave it; answers how it stands now."""
    folder = place.cohort(manifest.cohort)
    removed = False
    if group:
        place.ensure_writable()
        counted = _counted(found, trust_features=trust_features)
        apart = counted[counted["patient"] != counted["other_patient"]]
        members = groups.join(zip(apart["patient"], apart["other_patient"], strict=True))
        about = {
            "manifest": manifest.digest,
            "fingerprint": similarity.FINGERPRINT_SCHEMA,
            **_thresholds(),
            "trust_features": trust_features,
        }
        if members:
            groups.write(folder, groups.Groups(members, about))
    if group is False or (group and not members):
        removed = groups.remove(folder)
    now = groups.read(folder)
    return Grouping(
        groups=now.size if now else 0,
        patients=len(now.members) if now else 0,
        written=bool(group and now),
        removed=removed,
        path=str(groups.path_of(folder)),
    )


def _with_groups(rows: TaskRows, place: Workspace) -> TaskRows:
    bare = rows.frame.drop(columns=groups.COLUMN, errors="ignore")
    return rows._replace(frame=groups.apply_groups(bare, groups.read(place.cohort(rows.task.cohort))))


def _division(rows: TaskRows, asked: str | None, seed: int, folder: Path) -> Split:
    """The split to look at; an imported one also where it breaks the law, which is what the audit will say."""
    if asked and not is_scheme(asked) and asked in own_names(folder):
        imported = load_split(own_path(asked, folder))
        if imported.rows_digest == rows.digest:
            return imported
    return find_split(rows, asked, seed, folder)


def _in_task(found: pd.DataFrame, rows: TaskRows) -> pd.DataFrame:
    known = rows.frame["sample_id"]
    return found[found["sample"].isin(known) & found["other_sample"].isin(known)].reset_index(drop=True)


def _with_folds(pairs: pd.DataFrame, rows: TaskRows, division: Split) -> pd.DataFrame:
    """In how many folds the two samples of each pair play different roles, and in how many of those one tests."""
    position = dict(zip(rows.frame["sample_id"], range(rows.images), strict=True))
    roles = division.frame["role"].to_numpy(dtype=str).reshape(division.folds, rows.images)
    unit = units(rows.frame).to_numpy(dtype=str)
    one, other = (pairs[name].map(position).to_numpy(dtype=np.int64) for name in ("sample", "other_sample"))
    mine, theirs = roles[:, one], roles[:, other]
    apart = (mine != theirs) & (mine != UNUSED) & (theirs != UNUSED)
    leaking = apart & ((mine == "test") | (theirs == "test"))
    return pairs.assign(
        joined=unit[one] == unit[other], folds_apart=apart.sum(axis=0), folds_leaking=leaking.sum(axis=0)
    )


def _across(
    asked: Asked, mine: Looked, others: list[tuple[Manifest, bool]]
) -> tuple[pd.DataFrame, list[SharedCounts], dict[str, str]]:
    """Pairs with each of the other cohorts."""
    found = [_samples(_pairs_of([]), mine, None)]
    shared: list[SharedCounts] = []
    backbones: dict[str, str] = {}
    for manifest, named in others:
        pairs, used = _compare(asked, mine, _look(asked, manifest.cohort, manifest.frame))
        kinds = pairs["kind"].value_counts()
        counts = {kind: int(kinds.get(kind, 0)) for kind in KINDS}
        images = pairs.loc[pairs["kind"] != "features", "sample"].nunique()
        shared.append(SharedCounts(cohort=manifest.cohort, named=named, images=images, **counts))
        found.append(pairs)
        backbones |= used
    return pd.concat(found, ignore_index=True), shared, backbones


def _torn(rows: TaskRows, division: Split) -> list[Torn]:
    """Units with several roles in a fold: none, in a split that this package made."""
    frame = division.frame.assign(unit=np.tile(units(rows.frame).to_numpy(), division.folds))
    played = frame[frame["role"] != UNUSED].groupby(["fold", "unit"], as_index=False)["role"].agg(["unique", "nunique"])
    several = played[played["nunique"] > 1]
    return [
        Torn(unit=str(unit), fold=division.names[int(fold)], roles=sorted(roles))
        for fold, unit, roles in zip(several["fold"], several["unit"], several["unique"], strict=True)
    ]


def _counted(pairs: pd.DataFrame, *, trust_features: bool) -> pd.DataFrame:
    return pairs if trust_features else pairs[pairs["kind"] != "features"]


def _listed(pairs: pd.DataFrame) -> list[AuditPair]:
    """Pairs as answers: leaking ones first, then by kind and score."""
    ranked = pairs.assign(rank=pairs["kind"].map({kind: rank for rank, kind in enumerate(KINDS)}))
    by = [*(["folds_leaking"] if "folds_leaking" in ranked else []), "rank", "score", "sample", "other_sample"]
    ascending = [name not in {"folds_leaking", "score"} for name in by]
    ranked = ranked.sort_values(by, ascending=ascending)
    chosen = ranked[[name for name in AuditPair.model_fields if name in ranked]]
    return [AuditPair(**dict(zip(chosen.columns, row, strict=True))) for row in chosen.itertuples(index=False)]


def _thresholds() -> dict[str, float]:
    return {
        "candidate": similarity.CANDIDATE,
        "near": similarity.NEAR,
        "features_cosine": FEATURES_COSINE,
        "features_lead": FEATURES_LEAD,
    }


def _result(
    rows: TaskRows,
    division: Split,
    within: pd.DataFrame,
    across: pd.DataFrame,
    shared: list[SharedCounts],
    grouping: Grouping,
    backbones: dict[str, str],
    watch: Stopwatch,
    *,
    trust: bool,
) -> AuditResult:
    of_one = within["patient"] == within["other_patient"]
    between = within[~of_one]
    torn = _torn(rows, division)
    leaking = len(torn) + int((_counted(between, trust_features=trust)["folds_leaking"] > 0).sum())
    met = any(each.named and (each.images or (trust and each.features)) for each in shared)
    return AuditResult(
        task=rows.task.name,
        cohort=rows.task.cohort,
        scheme=division.scheme,
        seed=division.seed,
        folds=division.folds,
        images=rows.images,
        patients=rows.patients,
        units=int(units(rows.frame).nunique()),
        torn=torn,
        within=_listed(between),
        within_patient=int((of_one & (within["kind"] != "features")).sum()),
        across=_listed(across),
        shared=shared,
        grouping=grouping,
        backbones=backbones,
        thresholds=_thresholds(),
        trust_features=trust,
        leaking=leaking,
        clean=not leaking and not met,
        seconds=watch.seconds,
    )
