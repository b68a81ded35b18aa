"""The headers of DICOM files: the tags that a declaration asks for, without the pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from peftbench.cohorts.crew import Crew, workers_or_default
from peftbench.errors import DecodeError
from peftbench.protocol.progress import Progress

AT_ONCE = 64
"""Files that a process reads before it answers."""


FEW_PARTS = 8
"""Parts that are not worth a process of their own."""


class Header(NamedTuple):
    """Tags of a file by keyword, or why there are none."""

    tags: dict[str, str]
    fault: str


def read_headers(files: Sequence[Path], tags: Sequence[str], told: Progress) -> list[Header]:
    """Tags of each file, in order.

    Args:
        files: paths.
        tags: DICOM keywords.
        told: who is told how far it is.
    """
    told.start("reading headers", len(files))
    parts = [list(files[start : start + AT_ONCE]) for start in range(0, len(files), AT_ONCE)]
    crew = Crew(_headers, tuple(tags), _lost, workers_or_default(None))
    found: list[Header] = []
    for part in crew.map(parts, few=FEW_PARTS):
        found += part
        told.advance(len(part))
    return found


def _headers(files: list[Path], tags: tuple[str, ...]) -> list[Header]:
    from peftbench.imaging.dicom import read_header  # noqa: PLC0415 - pydicom only where there are headers

    found = []
    for file in files:
        try:
            found.append(Header(read_header(file, tags), ""))
        except DecodeError as error:
            found.append(Header({}, str(error)))
        except OSError as error:
            found.append(Header({}, f"cannot be read: {error.strerror or error}"))
    return found


def _lost(files: list[Path]) -> list[Header]:
    return [Header({}, "its header could not be read: the process that did so died")] * len(files)
