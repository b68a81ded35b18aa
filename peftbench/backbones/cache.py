"""The weights folder: one folder a backbone, whose record is what makes its weights count.

Knows files, records and locks; nothing of tensors, checkpoints' formats or networks.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from peftbench.errors import WeightsError, WeightsFolderError
from peftbench.protocol.progress import Progress
from stores.atomic import SCRATCH_SUFFIX, sync_file, sync_folder, write_atomic
from stores.errors import StoreError
from stores.lock import LOCK_FILE, Wait, writer_lock

MODEL_FILE = "model.safetensors"
"""The vision tower's tensors, under the names that their publisher gave them."""

RECORD_FILE = "weights.json"
"""Written last: weights without it do not count."""

GOLDEN_FILE = "golden.json"
"""An embedding that these weights gave, beside them where one was recorded."""

SCRATCH = ".scratch"
"""Folder of files that are only of use to the process that writes them."""

INCOMING = ".incoming"
"""Folder of downloads that go on where they stopped."""

STAGING = ".import"
"""Folder into which an archive is unpacked before anything of it counts."""

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A backbone's name that may be a folder's."""


class WeightsRecord(BaseModel):
    """Where cached weights come from, and what they are.

    Attributes:
        schema_version: of this record; `schema` in the file.
        backbone: whose.
        source: of the original file, for people.
        file: the original's name.
        revision: the commit that a hub resolved the card's revision to; empty where there was none.
        source_sha256: of the complete original.
        sha256: of `model.safetensors`.
        bytes: length of `model.safetensors`.
        tensors: number of tensors in it.
        fetched: date (UTC) of the conversion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    backbone: str
    source: str
    file: str
    revision: str
    source_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)
    tensors: int = Field(ge=1)
    fetched: str = Field(default_factory=lambda: datetime.now(UTC).date().isoformat())

    def text(self) -> str:
        """As it stands in the file."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def weights_folder() -> Path:
    """Where weights are kept: PEFTBENCH_WEIGHTS, else `peftbench/weights` in the user's cache."""
    named = os.environ.get("PEFTBENCH_WEIGHTS")
    if named:
        return Path(named).expanduser()
    # The XDG rule: a relative path there is to be ignored.
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "peftbench" / "weights"


def home_of(name: str) -> Path:
    """The folder of one backbone's weights.

    Raises:
        WeightsError: a name that could lead elsewhere.
    """
    if not SAFE_NAME.fullmatch(name):
        raise WeightsError(
            f"the backbone name {name!r} cannot be a folder's: expected letters, digits, dots, dashes and underscores, "
            "64 at most; register it under another name"
        )
    return weights_folder() / name


def read_record(name: str) -> WeightsRecord | None:
    """The record of a backbone's cached weights; None where they are not there.

    Raises:
        WeightsError: the record cannot be read, or the weights are not as long as it says.
    """
    home = home_of(name)
    try:
        record = parse_record((home / RECORD_FILE).read_bytes(), name)
        found = (home / MODEL_FILE).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise WeightsError(f"{home} cannot be read ({error.strerror}): change its rights, then run again") from error
    except ValueError as error:
        raise WeightsError(f"the record {home / RECORD_FILE} is damaged ({error}): {mend(name)}") from error
    if found != record.bytes:
        raise WeightsError(f"{home / MODEL_FILE} is damaged: {found} bytes, expected {record.bytes}: {mend(name)}")
    return record


def parse_record(data: bytes, name: str) -> WeightsRecord:
    """The record in bytes.

    Raises:
        ValueError: they are no record of that backbone; the message is short.
    """
    try:
        record = WeightsRecord.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error
    if record.backbone != name:
        raise ValueError(f"it is of {record.backbone!r}, not of {name!r}")
    return record


def mend(name: str) -> str:
    """The command that replaces damaged weights."""
    return f"`peftbench weights fetch {name} --again` replaces them"


@contextmanager
def held(folder: Path, told: Progress) -> Iterator[None]:
    """Be the only one who writes to a folder of the weights folder; waits for another as long as it takes.

    Raises:
        WeightsFolderError: it cannot be written.
    """

    def say(text: str) -> None:
        told.note(text.replace("the store", "the weights folder", 1))

    # What is wrong with taking the lock and with writing under it ends the same way: this folder is of no use.
    with _writable(folder), writer_lock(folder, Wait(say, lambda: told.advance(0), pause=0.2)):
        # Once for a process that was killed, once for this one.
        _sweep(folder)
        try:
            yield
        finally:
            _sweep(folder)


def _sweep(folder: Path) -> None:
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    for half in folder.glob(f".{RECORD_FILE}.*{SCRATCH_SUFFIX}"):
        half.unlink(missing_ok=True)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, StoreError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise WeightsFolderError(
            f"the weights folder {folder} cannot be written ({reason}): change its rights or free some space, or name "
            "another folder with PEFTBENCH_WEIGHTS, then run the same command again"
        ) from error


def scratch_of(folder: Path) -> Path:
    """The folder for files of no use to anybody else; whoever takes the lock next empties it."""
    (folder / SCRATCH).mkdir(parents=True, exist_ok=True)
    return folder / SCRATCH


def put_in_place(home: Path, staged: Path, record: WeightsRecord, golden: bytes | None = None) -> None:
    """Make a finished file a backbone's weights. The caller holds the folder's lock.

    The record is removed first and written last: a crash in between leaves weights that do not count, never weights
    beside another's record.

    Args:
        home: folder of the backbone.
        staged: on the same file system.
        record: of it.
        golden: an embedding that came with these weights.
    """
    before = _sha256_of(home)
    (home / RECORD_FILE).unlink(missing_ok=True)
    if before != record.sha256:
        # It tells of the weights that were here before.
        (home / GOLDEN_FILE).unlink(missing_ok=True)
    sync_file(staged)
    staged.replace(home / MODEL_FILE)
    sync_folder(home)
    if golden is not None:
        write_atomic(home / GOLDEN_FILE, golden)
    write_atomic(home / RECORD_FILE, record.text())


def _sha256_of(home: Path) -> str:
    try:
        return parse_record((home / RECORD_FILE).read_bytes(), home.name).sha256
    except (OSError, ValueError):
        return ""


def remove_leftovers() -> None:
    """Remove what a killed import left in the weights folder; one that still runs is let be."""
    staging = weights_folder() / STAGING
    if staging.is_dir():
        try:
            with writer_lock(staging):
                clear(staging)
        except (StoreError, OSError):
            return


def clear(staging: Path) -> None:
    """Empty a folder but for its lock. The caller holds it."""
    for each in staging.iterdir():
        if each.name != LOCK_FILE:
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
