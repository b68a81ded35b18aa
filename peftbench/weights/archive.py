"""The archive that carries weights to a machine without a network: a plain tar, every byte of which follows.

First `manifest.json`, then the files that it lists, sorted, with the length and SHA-256 of each. Headers hold nothing
but name and length; times, owners and rights are fixed. So an archive is given by its manifest and its files alone:
whoever reads it need not interpret a header, only compare it with the one that must stand there. A link, a path that
leads elsewhere, an entry too many or a flipped bit anywhere is a difference, and refused.
"""

import json
import re
import tarfile
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from peftbench.backbones.cache import GOLDEN_FILE, MODEL_FILE, RECORD_FILE, SAFE_NAME
from stores.keys import digest_of

MANIFEST_FILE = "manifest.json"
CARD_FILE = "card.json"

NEEDED = (CARD_FILE, MODEL_FILE, RECORD_FILE)
"""Files that each backbone in an archive has."""

ALLOWED = (*NEEDED, GOLDEN_FILE)

LARGEST_MANIFEST = 1_000_000
LARGEST_TEXT = 16_000_000
"""Bytes of a JSON file: it is read into memory."""

BLOCK = tarfile.BLOCKSIZE
END = b"\0" * (2 * BLOCK)

_SHA256 = r"^[0-9a-f]{64}$"


class Packed(BaseModel):
    """A file of an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)

    @property
    def backbone(self) -> str:
        """Whose it is."""
        return self.path.partition("/")[0]

    @property
    def file(self) -> str:
        """Its name in the backbone's folder."""
        return self.path.partition("/")[2]


class Manifest(BaseModel):
    """What an archive holds.

    Attributes:
        schema_version: of the archive; `schema` in the file.
        made_by: version of peftbench that packed it.
        files: in the order in which they follow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    made_by: str
    files: tuple[Packed, ...]

    @model_validator(mode="after")
    def _plain(self) -> "Manifest":
        for each in self.files:
            if fault := unsafe(each.path):
                raise ValueError(f"{each.path!r} {fault}")
            if each.file not in ALLOWED or not SAFE_NAME.fullmatch(each.backbone):
                raise ValueError(f"{each.path!r} is no file of weights: expected NAME/{'|'.join(ALLOWED)}")
            if each.file != MODEL_FILE and each.bytes > LARGEST_TEXT:
                raise ValueError(f"{each.path!r} has {each.bytes} bytes, at most {LARGEST_TEXT} are read")
        paths = [each.path for each in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("its files are not sorted, or stand twice")
        missing = [f"{name}/{file}" for name in self.backbones for file in NEEDED if f"{name}/{file}" not in paths]
        if missing or not paths:
            raise ValueError(f"it lacks {', '.join(missing) or 'every file'}")
        return self

    @property
    def backbones(self) -> tuple[str, ...]:
        """Whose weights are in it."""
        return tuple(dict.fromkeys(each.backbone for each in self.files))

    def to_bytes(self) -> bytes:
        """As it stands in the archive: with a digest of itself, because nothing else vouches for it."""
        value = self.model_dump(mode="json", by_alias=True)
        return (json.dumps({**value, "sha256": digest_of(value)}, indent=1, ensure_ascii=True) + "\n").encode()


def read_manifest(data: bytes) -> Manifest:
    """The manifest in bytes.

    Raises:
        ValueError: it is none, of another schema, or damaged; the message says which.
    """
    try:
        value: Any = json.loads(data)
        digest = value.pop("sha256", "")
        schema = value.get("schema")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"its manifest cannot be read ({error})") from error
    if schema != 1 or isinstance(schema, bool):
        raise ValueError(f"its manifest has schema {schema!r}, this version of peftbench reads 1")
    try:
        manifest = Manifest.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"its manifest is refused: {where + ': ' if where else ''}{message}") from error
    # Byte for byte: a manifest that means the same and is written otherwise was not written by `bundle`.
    if manifest.to_bytes() != data:
        raise ValueError(f"its manifest does not fit its own digest {str(digest)[:12]!r}")
    return manifest


def header(path: str, size: int) -> bytes:
    """The one header that a file of this name and length has."""
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.GNU_FORMAT)


def padding(size: int) -> bytes:
    """What fills the last block of a file."""
    return b"\0" * (-size % BLOCK)


def unsafe(path: str) -> str:
    """What is wrong with a path that must stay inside a folder; empty where nothing is."""
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path):
        return "is an absolute path"
    if "\\" in path:
        return "has a backslash"
    if ".." in PurePosixPath(path).parts:
        return "climbs out of its folder"
    return "has a character that no file name has" if not path.isprintable() or not path else ""


def explain(block: bytes, manifest: Manifest, expected: str) -> str:
    """Why a header is not the one that must stand here; `expected` is its name, empty at the archive's end."""
    if block == b"\0" * BLOCK:
        return f"it ends before {expected}"
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return f"a header in it is damaged ({error})"
    sizes = {each.path: each.bytes for each in manifest.files}
    fault = _kind(info) or unsafe(info.name)
    if not fault and info.name not in sizes:
        fault = "is not in its manifest"
    if not fault and info.name != expected:
        fault = f"stands twice or in another's place, expected {expected or 'the end'}"
    if not fault and info.size != sizes[info.name]:
        fault = f"has {info.size} bytes, its manifest says {sizes[info.name]}"
    return f"{info.name!a} {fault or 'has a header that `peftbench weights bundle` does not write'}"


def _kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "is a link"
    if info.isdev():
        return "is a device"
    if info.isdir():
        return "is a folder"
    return "" if info.type == tarfile.REGTYPE else "is no plain file"
