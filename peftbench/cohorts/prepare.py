"""The verb `prepare`: a raw download, or anybody's own table and images, to a manifest and an image store."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from peftbench.cohorts.card import by_event, cohort_card, flow_of, shared_between_patients
from peftbench.cohorts.crew import workers_or_default
from peftbench.cohorts.declaration import SECRET, Cohort
from peftbench.cohorts.decoding import store_pictures
from peftbench.cohorts.harmonise import harmonise
from peftbench.cohorts.ledger import Ledger
from peftbench.cohorts.registry import COHORTS, get_cohort, known_cohorts
from peftbench.cohorts.rows import FILE, RawRows, Rejection, read_rows
from peftbench.cohorts.secrets import KEY_FILE, Pseudonyms, fingerprint_of, published, with_key
from peftbench.cohorts.sheets import LINE
from peftbench.errors import ConfigError, RawDataError
from peftbench.imaging.policy import PixelPolicy, as_policy
from peftbench.imaging.reading import Picture
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.progress import Progress, Silent, patience
from peftbench.protocol.results import PrepareResult, RejectedFile, TaskCounts
from peftbench.protocol.tasks import EmptyTaskError, Task, rows_of
from peftbench.protocol.workspace import Workspace
from stores.atomic import write_atomic
from stores.images import ImageStore
from stores.keys import canonical_json


class Found(NamedTuple):
    """What was found in a raw folder.

    Attributes:
        declared: the cohort.
        rows: its raw rows.
        canonical: the same rows as the manifest will have them, without pseudonyms and digests.
        names: makes pseudonyms.
    """

    declared: Cohort
    rows: RawRows
    canonical: pd.DataFrame
    names: Pseudonyms


def prepare(
    cohort: str | Cohort,
    raw: str | Path | None = None,
    *,
    workspace: str | Path | Workspace | None = None,
    policy: str | PixelPolicy | None = None,
    side: int | None = None,
    max_rejected: float | None = None,
    workers: int | None = None,
    key_file: str | Path | None = None,
    reread: bool = False,
    progress: Progress | None = None,
) -> PrepareResult:
    """Bring a raw download into the workspace: manifest, image store and the cohort's card.

    Run again, it decodes only files that are new or changed. A file that cannot be used is listed in `rejected`
    and does not stop the run.

    Args:
        cohort: name of a cohort (`peftbench.list("cohorts")`), or the description of one's own (`peftbench.describe`).
        raw: folder of the download. The phantom is generated where none is given.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        policy: how samples become pixels: `minmax` (as the paper), `window`, `percentile`, `equalize`; by default as
            the last time, the first time `minmax`.
        side: longest side of the stored pixels, 32 to 4096; larger images are reduced; by default as the last time, the
            first time 512.
        max_rejected: share of the rows, 0 to 1, above which the run fails; by default any may be rejected but all.
        workers: processes that decode; by default one a core.
        key_file: holds the secret that pseudonyms of one's own patients are made with; by default in the raw folder,
            drawn where there is none yet.
        reread: read every file again, also those that the file system says are unchanged.
        progress: who is told how far it is.

    Raises:
        UnknownNameError: there is no such cohort.
        ConfigError: an option is out of its range, or the key is not the one that the cohort was prepared with.
        RawDataError: the raw folder is not a download of that cohort, no image in it can be used, or too many cannot.
        WorkspaceError: the workspace cannot be written.
    """
    place, told = Workspace.at(workspace), progress or Silent()
    declared = get_cohort(cohort, place) if isinstance(cohort, str) else cohort
    if max_rejected is not None and not 0 <= max_rejected <= 1:
        raise ConfigError(f"--max-rejected is {max_rejected:g}, expected a share from 0 to 1")
    crew, pixels = workers_or_default(workers), _policy(policy, side, declared.name, place)
    if raw is None and declared.name != "phantom":
        raise ConfigError(
            f"the cohort {declared.name!r} needs --raw DIR: the folder of its download ({declared.source or 'yours'})"
        )
    refuse_taken_names(declared, place)
    folder = Path(raw) if raw is not None else _generate(place, told)
    rows = read_rows(declared, folder, told, avoid=place.root)
    # A value that is not understood is found now, not after hours of decoding, and before anything is written.
    canonical = harmonise(declared, rows.table)
    _try_rules(declared, canonical)
    place.ensure_writable()
    names = _pseudonyms(declared, folder, key_file, place, told)
    found = Found(declared, rows, canonical, names)
    store = ImageStore.create(place.images(declared.name, pixels.digest), pixels.recipe, pixels.side, patience(told))
    ledger = Ledger(place.ledger(declared.name), names, trusted=not reread)
    pictures = store_pictures(store, rows.table[FILE].tolist(), rows.files, pixels, ledger, told, crew)
    rejected = [*rows.rejected, *_unreadable(rows, pictures)]
    _refuse_too_many(found, rejected, max_rejected)
    manifest = _manifest(found, pictures, store)
    _tell_shared(manifest, told)
    _write(found, place, manifest, rejected, pixels, store.folder.name)
    return _result(found, manifest, rejected)


def _policy(policy: str | PixelPolicy | None, side: int | None, cohort: str, place: Workspace) -> PixelPolicy:
    """What is asked for, and for the rest what the cohort was prepared with."""
    try:
        before = PixelPolicy.model_validate(json.loads(place.card(cohort).read_text())["pixels"])
    except (OSError, ValueError, KeyError, TypeError):
        before = PixelPolicy()
    return as_policy(policy if policy is not None else before.name, side if side is not None else before.side)


def refuse_taken_names(declared: Cohort, place: Workspace) -> None:
    """Refuse a description of one's own whose name, or whose tasks' names, mean something else already.

    Raises:
        ConfigError: they do.
    """
    builtin = COHORTS.get(declared.name)
    if builtin is not None and builtin.title != declared.title:
        raise ConfigError(f"the name {declared.name!r} is that of {builtin.title}: give your cohort another")
    others = [each for each in known_cohorts(place).values() if each.name != declared.name]
    alike = [each.name for each in others if each.name.lower() == declared.name.lower()]
    if alike:
        raise ConfigError(f"the name {declared.name!r} differs from the cohort {alike[0]!r} by case only: give another")
    # Names become folders, and some disks know no case.
    taken = {task.name.lower(): each.name for each in others for task in each.tasks}
    for task in declared.tasks:
        if task.name.lower() in taken:
            raise ConfigError(
                f"the task {task.name!r} of cohort {declared.name!r} has the name of a task of "
                f"{taken[task.name.lower()]!r}: give it another"
            )


def _try_rules(declared: Cohort, canonical: pd.DataFrame) -> None:
    """Refuse rules of tasks that the columns do not bear, before anything is decoded."""
    for task in declared.tasks:
        for rule in task.rules:
            if rule.column not in canonical.columns:
                continue
            try:
                rule.keeps(canonical)
            except TypeError as error:
                raise ConfigError(
                    f"a rule of the task {task.name!r} compares {rule.column!r} with a number, and it holds text: "
                    "describe it as `kind: number`, or use `values`"
                ) from error


def _generate(place: Workspace, told: Progress) -> Path:
    from peftbench.cohorts.synthesis import PhantomConfig, write_phantom  # noqa: PLC0415 - scipy.ndimage is slow to load

    place.ensure_writable()
    config = PhantomConfig()
    told.note(f"no --raw given: generating the phantom of {config.patients} patients")
    return write_phantom(place.raw("phantom"), config, told)


def _pseudonyms(declared: Cohort, raw: Path, key: str | Path | None, place: Workspace, told: Progress) -> Pseudonyms:
    if declared.identifiers != SECRET:
        return published(declared.name)
    path = Path(key) if key is not None else raw / KEY_FILE
    if path.resolve().is_relative_to(place.root.resolve()):
        raise ConfigError(f"the key {path} would lie in the workspace: keep it elsewhere, with --key-file FILE")
    before = fingerprint_of(declared.name, place)
    # A manifest whose card is lost or damaged had a key as well.
    known = bool(before) or place.manifest(declared.name).exists()
    if known and not path.exists():
        raise ConfigError(
            f"the key of {declared.name}'s pseudonyms is not at {path}: give the file that it was prepared with by "
            f"--key-file FILE, or delete {place.cohort(declared.name)} to begin anew with other pseudonyms"
        )
    if not path.exists():
        told.note(f"drawing a secret key for pseudonyms: {path}; without it this cohort cannot be prepared again")
    names = with_key(declared.name, path)
    if before and before != names.fingerprint:
        raise ConfigError(
            f"the key in {path} is not the one that {declared.name} was prepared with: give that one with --key-file "
            f"FILE, or delete {place.cohort(declared.name)} to begin anew with other pseudonyms"
        )
    return names


def _tell_shared(manifest: Manifest, told: Progress) -> None:
    if shared := shared_between_patients(manifest):
        told.note(
            f"{shared} images stand under several patients with the same pixels: a split by patient cannot keep "
            "them apart; `peftbench splits audit TASK` lists them, and can group their patients"
        )


def _write(
    found: Found, place: Workspace, manifest: Manifest, rejected: list[Rejection], policy: PixelPolicy, image_store: str
) -> None:
    """Mapping, description, card, and last the manifest: a cohort is prepared when it has one."""
    declared = found.declared
    _note_mapping(found)
    _note_rejected(found.names, rejected)
    if COHORTS.get(declared.name) != declared:
        write_atomic(place.description(declared.name), canonical_json(declared.model_dump(mode="json")))
    else:
        place.description(declared.name).unlink(missing_ok=True)
    flow = flow_of(found.rows, [each.reason for each in rejected], len(manifest.frame))
    card = cohort_card(declared, manifest, flow, policy, image_store, found.names.fingerprint)
    write_atomic(place.card(declared.name), canonical_json(card))
    manifest.write(place.manifest(declared.name))


def _note_mapping(found: Found) -> None:
    """Who is behind a pseudonym: for the owner of the raw data alone."""
    names, table = found.names, found.rows.table
    id_column, patient_column = found.declared.id or FILE, found.declared.patient
    ids = zip(table[id_column], table[patient_column], strict=True)
    mapping = [(names.of("sample", raw), raw, names.of("patient", patient), patient) for raw, patient in ids]
    names.note("ids", ("sample_id", id_column, "patient_id", patient_column), mapping)


def _note_rejected(names: Pseudonyms, rejected: list[Rejection]) -> Path | None:
    """Which files were rejected: a hospital's own names stay with the raw data."""
    rows = [(each.file, str(each.line), each.reason) for each in rejected]
    return names.note("rejected", ("file", "line", "reason"), rows)


def _unreadable(rows: RawRows, pictures: Sequence[Picture]) -> list[Rejection]:
    lines = rows.table[LINE] if LINE in rows.table.columns else [0] * len(pictures)
    told = zip(rows.table[FILE], pictures, lines, strict=True)
    return [Rejection(name, each.fault, int(line)) for name, each, line in told if each.fault]


def _refuse_too_many(found: Found, rejected: list[Rejection], allowed: float | None) -> None:
    declared, rows, names = found.declared, found.rows, found.names
    total = len(rows.files) + len(rows.rejected)
    usable = total - len(rejected)
    if usable and (allowed is None or len(rejected) <= allowed * total):
        return
    path = _note_rejected(names, rejected)
    common = "; ".join(f"{reason}: {count}" for reason, count in Counter(e.reason for e in rejected).most_common(3))
    if usable:
        share = (
            f"{len(rejected)} of {total} images of {declared.name} are rejected, more than --max-rejected {allowed:g}"
        )
        where = f" ({path} lists them)" if path else f", the first {_shown(rejected[0], names, 1)}"
        raise RawDataError(f"{share} allows ({common}){where}: mend them, or allow more; what was decoded is kept")
    if not total:
        left = "; ".join(f"{each.reason}: {each.images}" for each in rows.left_out)
        raise RawDataError(
            f"no image of {declared.name} is left of {rows.source}{f' ({left})' if left else ''}: "
            "check the rules, and the folder given with --raw"
        )
    first = f"; the first, {_shown(rejected[0], names, 1)}: {rejected[0].reason}" if rejected else ""
    raise RawDataError(
        f"none of the {total} images of {declared.name} can be used{first}: check the folder given with --raw"
    )


def _shown(rejection: Rejection, names: Pseudonyms, number: int) -> str:
    """What a rejected file is called on the screen; a hospital's own names stay with the raw data."""
    if names.key is None:
        return rejection.file
    return f"line {rejection.line}" if rejection.line else f"no. {number}"


def _manifest(found: Found, pictures: Sequence[Picture], store: ImageStore) -> Manifest:
    declared, names = found.declared, found.names
    usable = [not each.fault for each in pictures]
    kept = [each for each in pictures if not each.fault]
    raw = found.rows.table[usable]
    canonical = found.canonical[usable].reset_index(drop=True)
    patients = {patient: names.of("patient", patient) for patient in set(raw[declared.patient])}
    identity = pd.DataFrame(
        {
            "sample_id": [names.of("sample", raw_id) for raw_id in raw[declared.id or FILE]],
            "patient_id": raw[declared.patient].map(patients).to_numpy(),
            **{column: canonical[column] for column in ("center", "view", "acquired")},
            "file_digest": [each.file_digest for each in kept],
            "image_digest": [store.known_sources[each.source] for each in kept],
        }
    )
    rest = canonical.drop(columns=["center", "view", "acquired"])
    frame = pd.concat([identity, rest], axis=1)
    return Manifest(declared.name, frame.sort_values(["patient_id", "acquired"], kind="stable", ignore_index=True))


def _result(found: Found, manifest: Manifest, rejected: list[Rejection]) -> PrepareResult:
    declared, rows, names = found.declared, found.rows, found.names
    frame = manifest.frame
    return PrepareResult(
        cohort=declared.name,
        images=len(frame),
        patients=int(frame["patient_id"].nunique()),
        centers=int(frame["center"].nunique()),
        rejected=[
            RejectedFile(file=_shown(each, names, number), reason=each.reason)
            for number, each in enumerate(rejected, 1)
        ],
        source=rows.source,
        further_files=rows.added,
        left_out={each.reason: each.images for each in rows.left_out},
        notes=rows.notes,
        private=str(names.folder) if names.folder else "",
        tasks={task.name: _counts(task, manifest) for task in declared.tasks},
    )


def _counts(task: Task, manifest: Manifest) -> TaskCounts:
    try:
        used = rows_of(task, manifest)
    except EmptyTaskError as error:
        left = {each.reason: each.images for each in error.exclusions if each.images}
        return TaskCounts(images=0, patients=0, events=0, left_out=left)
    return TaskCounts(
        images=used.images,
        patients=used.patients,
        events=used.events,
        event_patients=used.event_patients,
        left_out={each.reason: each.images for each in used.exclusions},
        views={view: (each["event"], each["no event"]) for view, each in by_event(used, "view").items()},
    )
