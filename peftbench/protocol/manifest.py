"""The manifest: a cohort's table, one row an image.

It holds pseudonyms, labels and digests; no identifier of the raw data. Pixels are found by `image_digest` in the
image store, features by the same digest in any feature store.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from peftbench.errors import NotPreparedError
from stores.atomic import write_atomic
from stores.keys import digest_of, file_digest, source_key

_DIGEST = b"peftbench.digest"

REQUIRED = ("sample_id", "patient_id", "center", "view", "acquired", "file_digest", "image_digest")
"""Columns that every manifest has; a cohort's labels and covariates stand beside them."""


@dataclass(frozen=True)
class Manifest:
    """A cohort's table.

    Attributes:
        cohort: its name.
        frame: one row an image, sorted by patient, then by order of acquisition, then as in the raw table. Columns:
            `sample_id`, `patient_id` (pseudonyms), `center`, `view` (AP, PA, LATERAL, or empty where unknown),
            `acquired` (days, increasing in a patient; where it was a date, since the patient's first image),
            `file_digest` (of the raw file's bytes), `image_digest` (of the canonical pixels), then labels and
            covariates.
    """

    cohort: str
    frame: pd.DataFrame

    def __post_init__(self) -> None:
        absent = [column for column in REQUIRED if column not in self.frame.columns]
        if absent:
            raise ValueError(f"a manifest needs the columns {absent}; it has {list(self.frame.columns)}")
        if self.frame["sample_id"].duplicated().any():
            raise ValueError("sample_id is not unique in the manifest")

    def write(self, path: Path) -> None:
        """Save as Parquet, all or nothing."""
        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        # Parquet has its own idea of some types; what counts is what a reader will get.
        as_read = Manifest(self.cohort, pq.read_table(io.BytesIO(_parquet(table))).to_pandas())
        metadata = {**(table.schema.metadata or {}), _DIGEST: as_read.digest.encode()}
        write_atomic(path, _parquet(table.replace_schema_metadata(metadata)))

    @property
    def digest(self) -> str:
        """SHA-256 over cohort, columns, their types and all values."""
        types = [[str(name), str(dtype)] for name, dtype in self.frame.dtypes.items()]
        return digest_of([self.cohort, types, cells(self.frame)])

    @classmethod
    def read(cls, cohort: str, path: Path) -> "Manifest":
        """The manifest that `prepare` left.

        Raises:
            NotPreparedError: the cohort was not prepared in this workspace, or its manifest is damaged.
        """
        if not path.is_file():
            raise NotPreparedError(
                f"the cohort {cohort!r} is not prepared in this workspace: "
                f"run `peftbench prepare {cohort} --raw DIR` first"
            )
        try:
            table = pq.read_table(path)
            manifest = cls(cohort, table.to_pandas())
            sound = (table.schema.metadata or {}).get(_DIGEST) == manifest.digest.encode()
        except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
            raise _damaged(cohort, path, str(error).splitlines()[0]) from error
        if not sound:
            raise _damaged(cohort, path, "its rows are not those that were written")
        return manifest


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def cells(frame: pd.DataFrame) -> list[list[str]]:
    """A frame's values as text that tells them apart: a missing value from an empty one, a number from its digits."""
    texts: list[list[str]] = frame.astype(object).map(repr).to_numpy().tolist()
    return texts


def _damaged(cohort: str, path: Path, what: str) -> NotPreparedError:
    return NotPreparedError(
        f"the manifest {path} is damaged ({what}): run `peftbench prepare {cohort} --raw DIR` again"
    )


def pseudonym(cohort: str, kind: str, raw_id: str) -> str:
    """The name under which a patient or a sample appears in everything that is written.

    It depends on the cohort and the raw identifier alone, so that a cohort which grows keeps its names; whoever
    holds the raw data can recompute it. It hides nothing from somebody who can guess the raw identifier, and so is
    for identifiers that are pseudonyms already, as in published cohorts.

    Args:
        cohort: its name.
        kind: `patient` or `sample`.
        raw_id: as in the raw table.
    """
    return f"{kind[0]}-{digest_of(['pseudonym', cohort, kind, raw_id])[:12]}"


def source_digest(file: Path, policy: str) -> tuple[str, str]:
    """Digest of a file's bytes, and digest of those bytes under a pixel policy (what an image store looks up)."""
    content = file_digest(file)
    return content, source_key(content, policy)
