"""From an image back to a raw file that holds it, while the raw download is at hand."""

from collections.abc import Sequence
from pathlib import Path

from peftbench.cohorts.declaration import Cohort
from peftbench.cohorts.rows import read_rows
from peftbench.errors import RawDataError
from peftbench.protocol.manifest import source_digest
from stores.images import ImageStore


def files_of(declared: Cohort, raw: Path, pictures: ImageStore, images: Sequence[str]) -> dict[str, Path]:
    """A raw file of each image; files are read, not decoded.

    Raises:
        RawDataError: the folder is not a download of the cohort, or not the one that was prepared.
    """
    wanted, found = set(images), dict[str, Path]()
    for file in read_rows(declared, raw).files:
        if len(found) == len(wanted):
            break
        if not file.is_file():
            continue
        _, source = source_digest(file, pictures.policy)
        image = pictures.known_sources.get(source, "")
        if image in wanted:
            found.setdefault(image, file)
    if len(found) < len(wanted):
        raise RawDataError(
            f"{len(wanted) - len(found)} of {len(wanted)} images come from files that are not in {raw}: expected the "
            f"download that `peftbench prepare {declared.name}` was given"
        )
    return found
