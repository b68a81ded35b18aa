"""The verbs of `splits`: look at the division of a task, write it as a file, bring one's own. Imports no torch."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from peftbench.cohorts.asked import task_rows
from peftbench.cohorts.secrets import fingerprint_of, keyed
from peftbench.errors import ConfigError, SplitError
from peftbench.protocol.split_results import (
    FoldRole,
    SplitFold,
    SplitsExportResult,
    SplitsImportResult,
    SplitsShowResult,
)
from peftbench.protocol.splits import (
    ROLES,
    UNUSED,
    Draws,
    Split,
    find_split,
    home_centers,
    is_scheme,
    load,
    own_names,
    own_path,
    split_from_file,
    units,
)
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace
from stores.atomic import write_atomic
from stores.keys import canonical_json

FULL = "full"
"""The regime that uses the whole training part."""


def splits_show(
    task: str,
    *,
    split: str | None = None,
    seed: int = 0,
    workspace: str | Path | Workspace | None = None,
) -> SplitsShowResult:
    """How a task is divided: who trains, validates and tests in each fold. Writes nothing.

    Args:
        task: name (`peftbench.list("tasks")`).
        split: `5-fold`, `LOCO`, `hold-out`, or the name of an imported split; by default the task's own scheme.
        seed: of the division into folds.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.

    Raises:
        UnknownNameError: there is no such task or split.
        NotPreparedError: the cohort was not prepared.
        SplitError: the task cannot be split so.
    """
    place = Workspace.at(workspace)
    rows, found = _found(task, split, seed, place)
    return SplitsShowResult(
        task=found.task,
        scheme=found.scheme,
        seed=found.seed,
        digest=found.digest,
        patients=rows.patients,
        units=units(rows.frame).nunique(),
        folds=fold_counts(rows, found),
        notes=list(found.notes),
        imported=own_names(place.splits(found.task)),
    )


def splits_export(
    task: str,
    to: str | Path,
    *,
    split: str | None = None,
    seed: int = 0,
    shots: Sequence[int] = (),
    center_shots: Sequence[int] = (),
    images: Sequence[int] = (),
    draws: int = 1,
    force: bool = False,
    workspace: str | Path | Workspace | None = None,
) -> SplitsExportResult:
    """Write a division as a table; it is there whole or not at all.

    Columns: `fold`, `fold_name`, `role`, `sample_id`, `patient_id`, `event`, `center`. With support sets, `regime`,
    `shots` and `draw` come first: the division itself is the regime `full`, and each support set follows with its
    images as `train` (for `reduced`, `shots` are its images in all). `splits_import` reads the file again.

    Args:
        task: name (`peftbench.list("tasks")`).
        to: the file; `.csv`, `.parquet` or `.json`.
        split: as for `splits_show`.
        seed: of the division into folds.
        shots: images a class, of few-shot support sets to add.
        center_shots: images a class and centre, of center few-shot support sets to add.
        images: images in all, of reduced support sets to add.
        draws: support sets a fold and size.
        force: replace a file that is there and differs.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.

    Raises:
        UnknownNameError: there is no such task or split.
        NotPreparedError: the cohort was not prepared.
        SplitError: the task cannot be split so, or has too few images for a support set.
        ConfigError: the file's ending names no format, its folder is not there, or another file has its name.
    """
    path = Path(to)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ConfigError(f"the ending of {path.name!r} names no format: expected one of {', '.join(_WRITERS)}")
    if draws < 1:
        raise ConfigError(f"--draws is {draws}, expected 1 or more")
    rows, found = _found(task, split, seed, Workspace.at(workspace))
    sizes = {"few-shot": shots, "center few-shot": center_shots, "reduced": images}
    sets = [(regime, size) for regime, each in sizes.items() for size in sorted(set(each))]
    table = export_table(rows, found, sets, draws)
    about = {"task": found.task, "scheme": found.scheme, "seed": found.seed, "digest": found.digest}
    content = writer(table, {**about, "names": list(found.names), "notes": list(found.notes)})
    return SplitsExportResult(
        **about,
        path=str(path),
        format=path.suffix.lower()[1:],
        rows=len(table),
        draws=len(sets) * draws * found.folds,
        written=_write(path, content, force=force),
    )


def splits_import(
    task: str,
    file: str | Path,
    name: str,
    *,
    force: bool = False,
    workspace: str | Path | Workspace | None = None,
    key_file: str | Path | None = None,
) -> SplitsImportResult:
    """Keep a user's own split in the workspace, under a name that `--split` takes.

    The file says who trains, validates and tests: a column `patient_id` or `sample_id`, a column `role`, and for
    several folds a column `fold`. It is refused as a whole if anything about it is wrong. The split holds for the
    task's rows as they are now.

    Args:
        task: name (`peftbench.list("tasks")`).
        file: CSV or Parquet.
        name: of the split.
        force: replace an imported split of that name that differs.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        key_file: holds the secret that the cohort's pseudonyms were made with, where the file holds raw ids of one's
            own patients.

    Raises:
        UnknownNameError: there is no such task.
        NotPreparedError: the cohort was not prepared.
        ConfigError: the key is not the cohort's.
        SplitError: the file cannot be read, contradicts itself, or lets patients leak; or the name is taken.
        WorkspaceError: the workspace cannot be written.
    """
    place = Workspace.at(workspace)
    rows = task_rows(task, place)
    folder = place.splits(rows.task.name)
    path = own_path(name, folder)
    if is_scheme(name):
        raise SplitError(f"a split cannot be called {name!r}, which is a scheme: give it another --name")
    names = keyed(rows.task.cohort, Path(key_file), place) if key_file is not None else None
    try:
        split = split_from_file(rows, Path(file), name, names.of if names else None)
    except SplitError as error:
        if names is None and fingerprint_of(rows.task.cohort, place):
            raise SplitError(f"{error}; raw ids of your own patients are understood with --key-file FILE") from error
        raise
    there = path.exists() and _same(path, split)
    if path.exists() and not there and not force:
        raise SplitError(
            f"{task} has another imported split called {name!r}: give this one another --name, or replace it with "
            "--force (records made with the old one keep its digest)"
        )
    if not there:
        place.ensure_writable()
        folder.mkdir(parents=True, exist_ok=True)
        split.write(path)
    return SplitsImportResult(
        task=split.task,
        name=name,
        path=str(path),
        digest=split.digest,
        folds=fold_counts(rows, split),
        notes=list(split.notes),
        written=not there,
    )


def fold_counts(rows: TaskRows, split: Split) -> list[SplitFold]:
    """Patients, images, events and centres of every role in every fold."""
    frame = rows.frame.assign(home=home_centers(rows.frame))
    return [
        SplitFold(
            fold=fold,
            name=name,
            roles={role: _counts(frame.iloc[split.positions(fold, role)]) for role in ROLES},
        )
        for fold, name in enumerate(split.names)
    ]


def export_table(rows: TaskRows, split: Split, sets: Sequence[tuple[str, int]], draws: int) -> pd.DataFrame:
    """The table that `splits_export` writes.

    Args:
        rows: the task's rows.
        split: their division.
        sets: (regime, size) of the support sets to add.
        draws: of each.

    Raises:
        SplitError: a training part has too few images for a support set.
    """
    facts = rows.frame[["event", "center"]]
    whole = split.frame.assign(fold_name=split.frame["fold"].map(dict(enumerate(split.names))))
    whole = whole.join(pd.concat([facts] * split.folds, ignore_index=True))
    columns = ["fold", "fold_name", "role", "sample_id", "patient_id", "event", "center"]
    if not sets:
        return whole.loc[whole["role"] != UNUSED, columns].reset_index(drop=True)
    parts = [whole[whole["role"] != UNUSED].assign(regime=FULL, shots=None, draw=None)]
    made = Draws(rows, split)
    for fold in range(split.folds):
        block = whole.iloc[fold * rows.images : (fold + 1) * rows.images]
        parts += [
            block.iloc[made.of(regime, fold, size, draw)].assign(regime=regime, shots=size, draw=draw)
            for draw in range(draws)
            for regime, size in sets
        ]
    table = pd.concat([part.astype({"shots": "Int64", "draw": "Int64"}) for part in parts], ignore_index=True)
    return table.loc[:, ["regime", "shots", "draw", *columns]]


def _found(task: str, split: str | None, seed: int, place: Workspace) -> tuple[TaskRows, Split]:
    if seed < 0:
        raise ConfigError(f"--seed is {seed}, expected 0 or more")
    rows = task_rows(task, place)
    return rows, find_split(rows, split, seed, place.splits(rows.task.name))


def _counts(part: pd.DataFrame) -> FoldRole:
    patients = part.drop_duplicates("patient_id")
    known = patients.loc[patients["home"] != "", "home"].value_counts().sort_index()
    return FoldRole(
        patients=len(patients),
        images=len(part),
        event_patients=int(part.loc[part["event"] == 1, "patient_id"].nunique()),
        centers=dict(zip(map(str, known.index), map(int, known), strict=True)),
    )


def _same(path: Path, split: Split) -> bool:
    try:
        there = load(path)
    except SplitError:
        return False
    return (there.digest, there.rows_digest, there.notes) == (split.digest, split.rows_digest, split.notes)


def _write(path: Path, content: bytes, *, force: bool) -> bool:
    """Whether there was anything to write."""
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} of {path.name!r} does not exist: make it first, or name another")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file to write")
    if path.exists() and path.read_bytes() == content:
        return False
    if path.exists() and not force:
        raise ConfigError(f"{path} exists and holds something else: name another file, or replace it with --force")
    try:
        write_atomic(path, content)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror or error}): free some space or name another file with --to; "
            "what had its name is untouched"
        ) from error
    return True


def _csv(table: pd.DataFrame, _about: dict[str, Any]) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()


def _parquet(table: pd.DataFrame, about: dict[str, Any]) -> bytes:
    made = pa.Table.from_pandas(table, preserve_index=False)
    buffer = io.BytesIO()
    said = {**(made.schema.metadata or {}), b"peftbench.split": canonical_json(about).encode()}
    pq.write_table(made.replace_schema_metadata(said), buffer)
    return buffer.getvalue()


def _json(table: pd.DataFrame, about: dict[str, Any]) -> bytes:
    plain = table.astype(object).where(table.notna(), None)
    rows = [dict(zip(plain.columns, _plain(row), strict=True)) for row in plain.to_numpy().tolist()]
    return canonical_json({**about, "rows": rows}).encode()


def _plain(row: Sequence[Any]) -> list[Any]:
    return [int(value) if isinstance(value, np.integer) else value for value in row]


_WRITERS: dict[str, Callable[[pd.DataFrame, dict[str, Any]], bytes]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".json": _json,
}
