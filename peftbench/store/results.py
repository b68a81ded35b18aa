"""What the verbs of `peftbench store` answer."""

from typing import Any

import pandas as pd

from peftbench.protocol.results import Result


class StoreRow(Result):
    """One store of a workspace.

    Attributes:
        kind: `features` or `images`.
        name: backbone or cohort.
        key: start of the key, and the folder's name.
        rows: committed rows; null where the store cannot be opened.
        outputs: name of each array to the shape of one row.
        dtype: of the arrays.
        bytes: on the disk.
        files: number of files.
        state: `sound` as far as can be told without reading the bytes, else what is wrong or who writes.
        path: of the folder.
    """

    kind: str
    name: str
    key: str
    rows: int | None
    outputs: dict[str, list[int]]
    dtype: str
    bytes: int
    files: int
    state: str
    path: str


class StoreListing(Result):
    """All stores of a workspace."""

    stores: list[StoreRow]

    @property
    def frame(self) -> pd.DataFrame:
        """One row a store."""
        return pd.DataFrame([row.model_dump() for row in self.stores], columns=list(StoreRow.model_fields))


class Ingredient(Result):
    """An ingredient in which two stores differ."""

    ingredient: str
    mine: str
    theirs: str


class StoreInfo(Result):
    """What a store is and what made it.

    Attributes:
        path: folder or address.
        kind: `features` or `images`.
        key: in full, of a feature store; empty for images.
        rows: committed.
        outputs: name of each array to the shape of one row.
        digest: SHA-256 over everything committed.
        recipe: every ingredient by the field's name for it.
        compared_with: path of another store; null where none was named.
        differs_in: ingredients in which the other differs.
    """

    path: str
    kind: str
    key: str
    rows: int
    outputs: dict[str, list[int]]
    digest: str
    recipe: dict[str, str]
    compared_with: str | None = None
    differs_in: tuple[Ingredient, ...] = ()


class StoreFault(Result):
    """Something that is wrong with a store; `rows` is [start, stop), null where no row is lost or all are."""

    what: str
    rows: list[int] | None


class StoreVerdict(Result):
    """Whether one table of a store is sound."""

    path: str
    kind: str
    rows: int
    deep: bool
    sound: bool
    faults: list[StoreFault]
    seconds: float
    bytes_read: int


class VerifyResult(Result):
    """Whether stores are sound."""

    sound: bool
    stores: list[StoreVerdict]


class StoreRepair(Result):
    """What was done to one table of a store; where it could not be mended, the only fault says why."""

    path: str
    kept: int
    dropped: int
    mended: bool
    faults: list[StoreFault]


class RepairResult(Result):
    """What was mended."""

    stores: list[StoreRepair]


class Pruned(Result):
    """Something that is not needed any more; `rows` is 0 where it is files."""

    path: str
    what: str
    rows: int
    bytes: int


class PruneResult(Result):
    """What was removed, or would be."""

    dry_run: bool
    removed: list[Pruned]


class ExportResult(Result):
    """What was written.

    Attributes:
        path: of the main file.
        files: all that were written.
        format: of them.
        rows: samples or images.
        outputs: name of each exported output to the shape of one row.
        provenance: what stands in the file as well.
    """

    path: str
    files: list[str]
    format: str
    rows: int
    outputs: dict[str, list[int]]
    provenance: dict[str, Any]
