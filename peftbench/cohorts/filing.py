"""From what a row says of its image to the file; and all files of a folder, walked once.

Paths are relative to the raw folder, with slashes. By name only: links in a download are its owner's, and clusters are
full of them.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import filter as fnmatch_filter
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from peftbench.cohorts.sheets import OURS

ENDINGS = frozenset(
    {".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".jp2", ".webp"}
)
"""Endings that a name may lack in a table, lower case."""

NOT_IMAGES = frozenset(
    {
        ".csv", ".xlsx", ".xlsm", ".xls", ".parquet", ".pq", ".yaml", ".yml", ".json", ".txt", ".md", ".pdf", ".html",
        ".xml", ".key", ".log", ".py", ".tsv", ".rtf", ".docx", ".sha256", ".license",
    }
)  # fmt: skip
"""Endings of what lies beside images and is none."""


class Found(NamedTuple):
    """What a row's name led to.

    Attributes:
        path: of the file, relative to the raw folder; where there is none, as it was looked for.
        fault: why it cannot be used; empty where it can.
    """

    path: str
    fault: str = ""


class Folders:
    """The image folders of a raw folder.

    Args:
        raw: the raw folder.
        images: folders in it, or patterns of them.
        avoid: a folder that is passed over: the workspace may lie among the images.
    """

    def __init__(self, raw: Path, images: Sequence[str], avoid: Path | None = None) -> None:
        self.raw = raw
        self.images = tuple(images)
        self.avoid = avoid
        self._listed: dict[str, list[str]] = {}

    @cached_property
    def files(self) -> list[str]:
        """All files that may be images, in the order of their names; hidden ones are passed over."""
        found = {path for folder in self._folders() for path in _walk(self.raw, folder, self.avoid)}
        return sorted(path for path in found if _may_be_image(PurePosixPath(path)))

    def named(self, name: str) -> Found:
        """The file that a row names, by its path or by its name alone, with or without ending."""
        fault = unusable(name)
        if fault or not name:
            return Found(name, fault)
        exact = next((path for path in self._ways(name) if is_file(self.raw / path)), None)
        if exact is not None:
            return Found(exact)
        several = self._called(name)
        if several:
            return Found(several[0], f"{len(several)} files have this name" if len(several) > 1 else "")
        alone = len(self.images) == 1 and "/" not in name
        return Found(_joined(self.images[0], name) if alone else name)

    def _ways(self, name: str) -> Iterator[str]:
        """Paths that a name may mean as it stands."""
        yield from (_joined(folder, name) for folder in self.images)
        yield name

    def matching(self, pattern: str) -> list[Found]:
        """All files that a pattern in a row's path matches; one that is not there where none does."""
        if fault := unusable(pattern):
            return [Found(pattern, fault)]
        parent, _, last = pattern.rpartition("/")
        if parent not in self._listed:
            folder = self.raw / parent
            names = [each.name for each in os.scandir(folder)] if folder.is_dir() else []
            self._listed[parent] = sorted(name for name in names if name[0] != ".")
        found = fnmatch_filter(self._listed[parent], last)
        return [Found(_joined(parent, name)) for name in found] or [Found(pattern)]

    def _called(self, name: str) -> list[str]:
        """Files of a name: as it stands, by its last part, or whatever their case."""
        if not name:
            return []
        last = PurePosixPath(name).name
        return self._by_name.get(name) or self._by_name.get(last) or self._by_any_case.get(last.lower()) or []

    @cached_property
    def _by_any_case(self) -> dict[str, list[str]]:
        known: dict[str, list[str]] = defaultdict(list)
        for name, paths in self._by_name.items():
            known[name.lower()] += [path for path in paths if path not in known[name.lower()]]
        return known

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        known: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            name = PurePosixPath(path)
            known[name.name].append(path)
            if name.suffix.lower() in ENDINGS:
                known[name.stem].append(path)
                for folder in self.images:
                    inner = path.removeprefix(f"{folder}/")
                    if "/" in inner:
                        known[inner.removesuffix(name.suffix)].append(path)
        return known

    def _folders(self) -> Iterator[str]:
        for pattern in self.images:
            if not _is_pattern(pattern) or (self.raw / pattern).is_dir():
                yield pattern
                continue
            for path in sorted(self.raw.glob(pattern)):
                if path.is_dir():
                    yield path.relative_to(self.raw).as_posix()


def is_file(path: Path) -> bool:
    """Whether a file of this name is there; a name that the system does not know how to look for is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def unusable(name: str) -> str:
    """Why no file of the raw folder can have this name; empty where one can."""
    path = PurePosixPath(name)
    if "\0" in name:
        return "no file can have this name"
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:[\\/]|\\\\", name):
        return "the path leads out of the raw folder"
    return ""


def _may_be_image(path: PurePosixPath) -> bool:
    return path.suffix.lower() not in NOT_IMAGES and not path.name.startswith(OURS)


def _walk(raw: Path, folder: str, avoid: Path | None = None) -> Iterator[str]:
    """Files below a folder, relative to the raw folder; a link that leads back up is followed once."""
    waiting, seen = [folder], set()
    with suppress(OSError):
        if avoid is not None:
            workspace = avoid.stat()
            seen.add((workspace.st_dev, workspace.st_ino))
    while waiting:
        here = waiting.pop()
        try:
            entries = list(os.scandir(raw / here))
            place = (raw / here).stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if (place.st_dev, place.st_ino) in seen:
            continue
        seen.add((place.st_dev, place.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = _joined(here, entry.name)
            if entry.is_dir():
                waiting.append(path)
            elif entry.is_file():
                yield path


def _joined(folder: str, name: str) -> str:
    return name if folder in ("", ".") else f"{folder.rstrip('/')}/{name}"


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")
