"""A user's own split: a file that says who trains, validates and tests, held to the same law as every other."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from peftbench.errors import SplitError
from peftbench.protocol.manifest import pseudonym
from peftbench.protocol.splits.own_table import SHOWN, Kind, OwnTable, read_own
from peftbench.protocol.splits.split import ROLES, UNUSED, Split, fold_frame, load, undefined_scores
from peftbench.protocol.tasks import TaskRows

Rename = Callable[[Kind, str], str]
"""From a raw id, and what it is of, to its pseudonym."""

_PREFIX = "own-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def split_from_file(rows: TaskRows, path: Path, name: str, rename: Rename | None = None) -> Split:
    """A user's own split of a task's rows.

    The file has a column `patient_id` or `sample_id`, a column `role`, and for several folds a column `fold`. Ids are
    the manifest's pseudonyms or raw ids. Rows of the task that a fold does not name play no role in it, and a note
    says how many. The split holds for these rows alone.

    Args:
        rows: the task's rows.
        path: of the file, CSV or Parquet.
        name: of the split.
        rename: from raw ids to pseudonyms; by default `pseudonym` of the task's cohort.

    Raises:
        SplitError: the file cannot be read, contradicts itself, or breaks the law of splits.
    """
    table = read_own(path)
    kind, named = _resolve(table, rows, rename or _by_cohort(rows))
    _refuse_contradictions(path, named)
    # A fold none of whose ids is known must be missed, not forgotten.
    names = tuple(sorted(table.entries["fold"].unique(), key=_natural))
    ids = rows.frame[f"{kind}_id"].astype(str)
    parts = []
    for fold, label in enumerate(names):
        entries = named[named["fold"] == label]
        role = ids.map(dict(zip(entries["name"], entries["role"], strict=True)))
        parts.append(fold_frame(rows.frame, fold, role.where(role.notna(), UNUSED).to_numpy(dtype=object)))
    frame = pd.concat(parts, ignore_index=True)
    notes = (*_unknown(table, rows, named), *_left_out(rows, frame, names), *undefined_scores(rows, frame, names))
    split = Split(rows.task.name, name, 0, len(names), frame, notes, names, rows.digest)
    try:
        return _refuse_empty(split.check(rows), rows)
    except SplitError as error:
        raise SplitError(f"{path}: {error}") from error


def own_path(name: str, folder: Path) -> Path:
    """Where an imported split lies.

    Raises:
        SplitError: the name cannot be one of a file.
    """
    if not _NAME.fullmatch(name):
        raise SplitError(
            f"a split cannot be called {name!r}: expected letters, digits, dots, dashes and underscores, at most 64, "
            "beginning with a letter or a digit"
        )
    return folder / f"{_PREFIX}{name}.parquet"


def own_names(folder: Path) -> list[str]:
    """Names of the imported splits of a task."""
    return sorted(path.stem.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*.parquet"))


def load_own(rows: TaskRows, name: str, folder: Path) -> Split:
    """An imported split, for the rows that it was imported for.

    Raises:
        SplitError: it is damaged, its rows have changed since, or it breaks the law.
    """
    split = load(own_path(name, folder))
    if split.rows_digest != rows.digest:
        raise SplitError(
            f"the split {name!r} was imported for other rows of {rows.task.name}: cohort or task have changed since; "
            f"import its file again with `peftbench splits import {rows.task.name} FILE --name {name} --force`"
        )
    return split.check(rows)


def _by_cohort(rows: TaskRows) -> Rename:
    return lambda kind, raw_id: pseudonym(rows.task.cohort, kind, raw_id)


def _resolve(table: OwnTable, rows: TaskRows, rename: Rename) -> tuple[Kind, pd.DataFrame]:
    """What the ids are of, and the entries whose id is in the task's rows, with its pseudonym as `name`."""
    given = table.entries["id"].unique().tolist()
    best: tuple[Kind, dict[str, str]] = (table.kinds[0], {})
    for kind in table.kinds:
        known = set(rows.frame[f"{kind}_id"].astype(str))
        candidates = {each: each if each in known else rename(kind, each) for each in given}
        matched = {each: name for each, name in candidates.items() if name in known}
        best = (kind, matched) if len(matched) > len(best[1]) else best
    kind, names = best
    if not names:
        raise SplitError(
            f"none of the {len(given)} ids of {table.path} is a {' or '.join(table.kinds)} of {rows.task.name}: "
            f"expected raw ids of cohort {rows.task.cohort!r}, or pseudonyms as `peftbench splits export "
            f"{rows.task.name} --to FILE` writes them"
        )
    named = table.entries.assign(name=table.entries["id"].map(names))
    return kind, named[named["name"].notna()]


def _refuse_contradictions(path: Path, named: pd.DataFrame) -> None:
    roles = named.groupby(["fold", "name"])["role"].transform("nunique")
    torn = named[roles > 1]
    if torn.empty:
        return
    first = torn[(torn["name"] == torn["name"].iloc[0]) & (torn["fold"] == torn["fold"].iloc[0])]
    distinct = torn["name"].unique()
    told = ", ".join(distinct[:SHOWN]) + (", ..." if len(distinct) > SHOWN else "")
    lines = " and ".join(f"line {line}: {role}" for line, role in first.drop_duplicates("role")["role"].items())
    raise SplitError(
        f"{path} gives {len(distinct)} id{'s' * (len(distinct) > 1)} ({told}) several roles in a fold ({lines}): give "
        "each one role in a fold, or tell folds apart by a column fold"
    )


def _refuse_empty(split: Split, rows: TaskRows) -> Split:
    event = rows.frame["event"].to_numpy()
    for fold, name in enumerate(split.names):
        for role in ROLES:
            found = event[split.positions(fold, role)]
            if not len(found):
                raise SplitError(
                    f"fold {name!r} has no image of {rows.task.name} with the role {role}: every fold needs train, "
                    "validation and test"
                )
            if role != "test" and len(np.unique(found)) < 2:
                raise SplitError(
                    f"fold {name!r}: all {len(found)} images with the role {role} have {'the' if found[0] else 'no'} "
                    "event, and a model is fitted and chosen on both classes: move patients"
                )
    return split


def _unknown(table: OwnTable, rows: TaskRows, named: pd.DataFrame) -> tuple[str, ...]:
    # Counted, never named: they may be raw ids, and notes are kept in records.
    unknown = table.entries["id"].nunique() - named["id"].nunique()
    if not unknown:
        return ()
    return (
        f"{rows.task.name}: {unknown} of {table.entries['id'].nunique()} ids of the split file are not in the task",
    )


def _left_out(rows: TaskRows, frame: pd.DataFrame, names: tuple[str, ...]) -> tuple[str, ...]:
    unused = frame.loc[frame["role"] == UNUSED, "fold"].value_counts().sort_index()
    if unused.empty:
        return ()
    told = ", ".join(
        f"{count} in fold {names[fold]!r}" for fold, count in zip(unused.index.tolist(), unused.tolist(), strict=True)
    )
    return (f"{rows.task.name}: images that the split file does not name play no role: {told} (of {rows.images})",)


def _natural(label: str) -> tuple[int, int, str]:
    """Numbers by size, before words by letter."""
    return (0, int(label), "") if label.isascii() and label.isdigit() else (1, 0, label)
