"""Pseudonyms: of published identifiers by a plain digest, of a hospital's own by one with a secret key.

A digest of a record number can be undone by trying all record numbers. With a key it cannot, by whoever lacks the key.
Key, mapping and the list of rejected files stay in one folder beside the raw data; none of them enters the workspace.
"""

import csv
import hashlib
import hmac
import io
import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peftbench.errors import ConfigError
from peftbench.protocol.manifest import pseudonym
from peftbench.protocol.workspace import Workspace
from stores.keys import canonical_json, digest_of

KEY_FILE = "peftbench-pseudonyms.key"
"""Where the key lies by default, in the raw folder."""

KEY_BYTES = 32


@dataclass(frozen=True)
class Pseudonyms:
    """What a cohort's patients, samples and files are called in everything that is written.

    Attributes:
        cohort: its name.
        key: the secret; None for published identifiers.
        folder: where the key lies, and whatever else is not for other eyes.
    """

    cohort: str
    key: bytes | None = None
    folder: Path | None = None

    def of(self, kind: str, raw_id: str) -> str:
        """The pseudonym of a raw identifier.

        Args:
            kind: `patient`, `sample` or `file`.
            raw_id: as in the raw table.
        """
        if self.key is None:
            return pseudonym(self.cohort, kind, raw_id)
        words = canonical_json(["pseudonym", self.cohort, kind, raw_id])
        return f"{kind[0]}-{hmac.new(self.key, words.encode(), hashlib.sha256).hexdigest()[:12]}"

    @property
    def fingerprint(self) -> str:
        """Tells keys apart without telling the key; empty without one."""
        return "" if self.key is None else digest_of(["fingerprint", self.key.hex()])[:16]

    def note(self, what: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path | None:
        """Write a table beside the key, for its owner's eyes alone; None without a key.

        Raises:
            ConfigError: the folder cannot be written.
        """
        if self.folder is None:
            return None
        path = self.folder / f"peftbench-{self.cohort}-{what}.csv"
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        _write_private(path, text.getvalue().encode())
        return path


def published(cohort: str) -> Pseudonyms:
    """Pseudonyms of identifiers that are pseudonyms already."""
    return Pseudonyms(cohort)


def with_key(cohort: str, path: Path) -> Pseudonyms:
    """Pseudonyms with the key in a file; where there is none, one is drawn and written.

    Raises:
        ConfigError: the file cannot be written or read, or holds no key.
    """
    try:
        if not path.exists():
            _write_private(path, secrets.token_hex(KEY_BYTES).encode() + b"\n", replacing=False)
        key = bytes.fromhex(path.read_text().strip())
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(
            f"the key of the pseudonyms cannot be kept at {path} ({error.strerror or error}): "
            "name another place, not in the workspace, with --key-file FILE"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} holds no key: expected {2 * KEY_BYTES} hexadecimal digits") from error
    if len(key) < KEY_BYTES:
        raise ConfigError(f"the key in {path} has {len(key)} bytes, expected at least {KEY_BYTES}")
    return Pseudonyms(cohort, key, path.parent)


def keyed(cohort: str, path: Path, place: Workspace) -> Pseudonyms:
    """Pseudonyms of a prepared cohort, with the key that it was prepared with.

    Raises:
        ConfigError: there is no such file, or it holds another key.
    """
    if not path.is_file():
        raise ConfigError(f"there is no key {path}: give the file that {cohort} was prepared with, by --key-file FILE")
    names = with_key(cohort, path)
    if names.fingerprint != fingerprint_of(cohort, place):
        raise ConfigError(
            f"the key in {path} is not the one that {cohort} was prepared with: give that one with --key-file FILE"
        )
    return names


def fingerprint_of(cohort: str, place: Workspace) -> str:
    """Fingerprint of the key that a cohort was prepared with; empty without one, or where it was not prepared."""
    try:
        return str(json.loads(place.card(cohort).read_text()).get("key", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _write_private(path: Path, content: bytes, *, replacing: bool = True) -> None:
    """Write a file that only its owner may read, all or nothing.

    Args:
        path: of the file.
        content: of it.
        replacing: whether a file that is there already gives way; else it stays.

    Raises:
        ConfigError: the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if replacing:
            part.replace(path)
        else:
            with suppress(FileExistsError):
                path.hardlink_to(part)
            part.unlink()
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(
            f"{path} cannot be written ({error.strerror or error}): pseudonyms of your own patients need a place for "
            "their key and mapping; name one that is not in the workspace with --key-file FILE"
        ) from error
