"""From what a user names to pictures: files found, decoded as `prepare` decodes them, told apart by their pixels.

Writes nothing anywhere, and imports no torch.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from peftbench.cohorts.crew import Crew, workers_or_default
from peftbench.cohorts.filing import Folders
from peftbench.errors import ConfigError
from peftbench.imaging import reading
from peftbench.imaging.policy import PixelPolicy
from peftbench.imaging.reading import Picture, Shared
from peftbench.protocol.progress import Progress
from stores.images import Pixels
from stores.keys import pixels_digest


class ImageFile(NamedTuple):
    """A file to predict.

    Attributes:
        name: as the user named it; of a folder that was named, relative to it.
        path: of the file.
    """

    name: str
    path: Path


class Decoded(NamedTuple):
    """What became of a file.

    Attributes:
        file: it.
        image: digest of its canonical pixels; empty where it cannot be read.
        pixels: (height, width) canonical pixels; None of a picture that was decoded before, and of none.
        fault: why it cannot be read; empty where it can.
    """

    file: ImageFile
    image: str
    pixels: Pixels | None
    fault: str


class Held:
    """Pictures in memory, which can be embedded as those of an image store are.

    Args:
        pictures: digest to canonical pixels.
    """

    def __init__(self, pictures: Mapping[str, Pixels]) -> None:
        self._pictures = dict(pictures)
        self._order = {image: at for at, image in enumerate(self._pictures)}

    def gather(self, images: Sequence[str]) -> list[Pixels]:
        """Pictures of images, in the order given."""
        return [self._pictures[image] for image in images]

    def rows_of(self, images: Sequence[str]) -> npt.NDArray[np.int64]:
        """Where each of them stands."""
        return np.array([self._order[image] for image in images], dtype=np.int64)


def files_of(named: Sequence[str | Path]) -> list[ImageFile]:
    """The files that are meant, each once, in the order named; those of a folder by their names.

    Of a folder all files below it are meant but hidden ones and those whose ending says that they are no images, as
    `prepare` finds them. Where two folders hold files of one name, these are called with their folder.

    Args:
        named: files and folders.

    Raises:
        ConfigError: nothing is named, or a folder holds no such file.
    """
    if not named:
        raise ConfigError("no image named: give at least one file or folder")
    found: dict[Path, tuple[str, Path]] = {}
    for each in named:
        for name, path in _below(Path(each).expanduser()):
            found.setdefault(path.absolute(), (name, path))
    often = Counter(name for name, _ in found.values())
    return [ImageFile(_printable(name if often[name] == 1 else str(path)), path) for name, path in found.values()]


def decoded(files: Sequence[ImageFile], policy: PixelPolicy, told: Progress) -> Iterator[Decoded]:
    """The files decoded, in their order; a picture that several of them hold has its pixels once.

    Args:
        files: what to read.
        policy: how files become pixels.
        told: hears how far it is.
    """
    told.start("decoding", len(files))
    crew = Crew(reading.decode_file, Shared(policy, frozenset()), reading.lost, workers_or_default(None))
    known: set[str] = set()
    for file, picture in zip(files, crew.map(each.path for each in files), strict=True):
        yield _told_apart(file, picture, known)
        told.advance()


def _told_apart(file: ImageFile, picture: Picture, known: set[str]) -> Decoded:
    if picture.fault or picture.pixels is None:
        return Decoded(file, "", None, picture.fault)
    image = pixels_digest(picture.pixels)
    again = image in known
    known.add(image)
    return Decoded(file, image, None if again else picture.pixels, "")


def _below(named: Path) -> list[tuple[str, Path]]:
    """Names and paths of what a word of the user's means; a file that is missing is found out when it is read."""
    if not named.is_dir():
        return [(str(named), named)]
    files = Folders(named, (".",)).files
    if not files:
        raise ConfigError(f"the folder {named} holds no image file: name one that does, or the files themselves")
    return [(name, named / name) for name in files]


def _printable(name: str) -> str:
    """A name that may be written anywhere: bytes that are no text become a sign that says so."""
    return os.fsencode(name).decode("utf-8", "replace")
