"""Patients who share images: who is joined to whom, kept beside the cohort's manifest.

`peftbench splits audit TASK --group` writes `groups.parquet`; from then on splits take a group where they would take a
patient. Deleting the file (or `--no-group`) undoes it. It names patients, not images: a cohort that has grown or
changed since keeps the groups of the patients that it still has.
"""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from peftbench.errors import PeftbenchError
from stores.atomic import sync_folder, write_atomic
from stores.keys import canonical_json, digest_of

GROUPS_SCHEMA = 1
"""Raised whenever the file would have to be read otherwise."""

COLUMN = "group"
"""What `apply_groups` adds."""

_ABOUT = b"peftbench.groups"
_DIGEST = b"peftbench.digest"


class GroupsError(PeftbenchError, ValueError):
    """The file of a cohort's groups cannot be used."""


class Groups(NamedTuple):
    """Who is joined to whom.

    Attributes:
        members: patient to group, of all patients who are joined to another; a group is called like its first patient.
        about: what made it: thresholds, digest of the manifest.
    """

    members: Mapping[str, str]
    about: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Number of groups."""
        return len(set(self.members.values()))


def path_of(cohort: Path) -> Path:
    """The file of groups in a cohort's folder."""
    return cohort / "groups.parquet"


def join(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Patient to group, from pairs of patients who share an image: the connected components.

    Patients who are joined to nobody are not named.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for one, other in pairs:
        # The smaller name stays on top, so a root is the first of its component.
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    members = {name: root(name) for name in sorted(parent)}
    joined = {group for name, group in members.items() if name != group}
    return {name: group for name, group in members.items() if group in joined}


def write(cohort: Path, groups: Groups) -> Path:
    """Save in a cohort's folder, all or nothing, in the place of what was there; answers the path."""
    frame = pd.DataFrame(sorted(groups.members.items()), columns=["patient_id", COLUMN], dtype="str")
    about = {"schema": GROUPS_SCHEMA, **groups.about}
    table = pa.Table.from_pandas(frame, preserve_index=False)
    said = {_ABOUT: canonical_json(about).encode(), _DIGEST: _seal(groups.members, about).encode()}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **said}), buffer)
    path = path_of(cohort)
    write_atomic(path, buffer.getvalue())
    return path


def remove(cohort: Path) -> bool:
    """Undo the joining of a cohort's patients; whether there was any."""
    path = path_of(cohort)
    if not path.exists():
        return False
    path.unlink()
    sync_folder(cohort)
    return True


def read(cohort: Path) -> Groups | None:
    """The groups in a cohort's folder; None where patients were never joined.

    Raises:
        GroupsError: the file is damaged, or of another version.
    """
    path = path_of(cohort)
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
        said = table.schema.metadata or {}
        about = json.loads(said[_ABOUT])
        frame = table.to_pandas()
        members = dict(zip(frame["patient_id"].map(str), frame[COLUMN].map(str), strict=True))
        sound = said[_DIGEST].decode() == _seal(members, about) and about["schema"] == GROUPS_SCHEMA
    except (KeyError, ValueError, TypeError, OSError, pa.ArrowException) as error:
        raise _unusable(path, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    if not sound:
        raise _unusable(path, "its rows are not those that were written")
    return Groups(members, {name: value for name, value in about.items() if name != "schema"})


def apply_groups(frame: pd.DataFrame, groups: Groups | None) -> pd.DataFrame:
    """Rows with the column `group`: the name of the group where two or more of the frame's patients share it, else "".

    Where nobody in the frame is joined to another, no column is added: the division stays what it was.

    Args:
        frame: rows with `patient_id`.
        groups: of their cohort, or None.
    """
    if groups is None:
        return frame
    present = {str(patient) for patient in frame["patient_id"].unique()}
    named = pd.Series({name: group for name, group in groups.members.items() if name in present}, dtype=object)
    shared = named[named.duplicated(keep=False)]
    if shared.empty:
        return frame
    joined = dict(zip(shared.index, shared, strict=True))
    return frame.assign(**{COLUMN: [joined.get(str(patient), "") for patient in frame["patient_id"]]})


def _seal(members: Mapping[str, str], about: Mapping[str, Any]) -> str:
    return digest_of([sorted(map(list, members.items())), dict(about)])


def _unusable(path: Path, what: str) -> GroupsError:
    return GroupsError(
        f"the groups {path} are damaged, or of another version ({what}): delete the file, then run "
        "`peftbench splits audit TASK --group` to make it anew"
    )
