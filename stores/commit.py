"""The commit record: the one file that says what a row store is and which rows count."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stores.atomic import write_atomic
from stores.errors import StoreDamagedError, StoreMismatchError, StoreNotFoundError
from stores.keys import canonical_json, digest_of

COMMIT_FILE = "commit.json"
COMMIT_SCHEMA = 2

BRING_BACK = "`peftbench store repair` brings its record back"

MEND = "`peftbench store repair` drops what is damaged, and the command that wrote it makes only that again"
"""What to do about a damaged store."""


@dataclass(frozen=True)
class Commit:
    """What counts.

    Attributes:
        attributes: what the store is: its kind, and what its rows were made by.
        rows: number of committed rows.
        checksums: for each column, crc32c of the committed rows of each chunk, without padding.
    """

    attributes: Mapping[str, Any]
    rows: int = 0
    checksums: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over the form, attributes, rows and checksums."""
        return digest_of(self._content())

    def _content(self) -> dict[str, Any]:
        checksums = {name: list(values) for name, values in self.checksums.items()}
        content = {"attributes": dict(self.attributes), "rows": self.rows, "checksums": checksums}
        return {"schema": COMMIT_SCHEMA, **content}

    def text(self) -> str:
        """The record as it lies on disk."""
        return canonical_json({**self._content(), "digest": self.digest})

    def write(self, folder: Path) -> None:
        """Make this what counts, all or nothing."""
        write_atomic(folder / COMMIT_FILE, self.text())

    @classmethod
    def parse(cls, text: bytes | None, where: str) -> "Commit":
        """The record that `text` did.

        Args:
            text: bytes of the file; None where there is none.
            where: the store, for messages.

        Raises:
            StoreNotFoundError: there is none.
            StoreDamagedError: it contradicts itself.
            StoreMismatchError: it has the form of another version.
        """
        if text is None:
            raise StoreNotFoundError(
                f"{where} holds no committed store ({COMMIT_FILE} is missing): if there was one, {BRING_BACK}"
            )
        try:
            record = json.loads(text)
            schema = record["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreDamagedError(f"the commit record of {where} cannot be read ({error}): {MEND}") from error
        if schema != COMMIT_SCHEMA and not _is_sound_otherwise(record):
            raise StoreMismatchError(
                f"the store {where} was written in form {schema!r}, this version reads form {COMMIT_SCHEMA}: "
                "delete that folder and make it again, or use the version of peftbench that wrote it"
            )
        try:
            checksums = {name: tuple(map(int, values)) for name, values in record["checksums"].items()}
            commit = cls(dict(record["attributes"]), int(record["rows"]), checksums)
            sound = commit.text().encode() == text
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise StoreDamagedError(f"the commit record of {where} is not one ({error}): {MEND}") from error
        if not sound:
            raise StoreDamagedError(f"the commit record of {where} does not agree with its own digest: {MEND}")
        return commit


def _is_sound_otherwise(record: Any) -> bool:
    """Whether a record that seems to have another form is one of this: then it is the form's number that is damaged."""
    try:
        content = {name: record[name] for name in ("attributes", "rows", "checksums")}
        return bool(digest_of({"schema": COMMIT_SCHEMA, **content}) == record["digest"])
    except (KeyError, TypeError, ValueError):
        return False
