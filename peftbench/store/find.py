"""Which store is meant: a folder, an address, the start of a key, or a name that only one store has."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from peftbench.errors import ConfigError
from peftbench.protocol.workspace import Workspace
from stores.features import KIND as FEATURES
from stores.images import KIND as IMAGES
from stores.remote import is_remote
from stores.rows import finish_exchange
from stores.verify import was_table

SHORTEST_KEY = 4
"""Characters of a key that name a store."""


class Place(NamedTuple):
    """A store of the workspace.

    Attributes:
        kind: `features` or `images`.
        name: of the backbone (as a part of a path), or of the cohort.
        folder: of the store; its own name is the start of the key.
    """

    kind: str
    name: str
    folder: Path


def all_stores(place: Workspace) -> list[Place]:
    """Every store of a workspace, damaged ones among them, features first."""
    features = [Place(FEATURES, each.parent.name, each) for each in _stores_in(place.root / "features", 2)]
    images = [Place(IMAGES, each.parents[1].name, each) for each in _stores_in(place.root / "cohorts", 3)]
    return features + images


def find_store(text: str, place: Workspace) -> Place | str:
    """The store that a user means; text that is an address is answered as it is.

    Args:
        text: a folder, an address (`s3://...`, `https://...`), the start of a key, or a backbone or cohort of which
            there is one store.
        place: the workspace.

    Raises:
        ConfigError: there is none, or several.
    """
    if is_remote(text):
        return text
    every = all_stores(place)
    folder = Path(text)
    if _is_store(folder):
        known = [each for each in every if each.folder.resolve() == folder.resolve()]
        return known[0] if known else Place(IMAGES if (folder / "pictures").is_dir() else FEATURES, "", folder)
    meant = [each for each in every if each.name == text or each.name == text.replace("@", "-").replace(":", "-")]
    if not meant:
        meant = [each for each in every if f"{each.name}/{each.folder.name}" == text]
    if not meant and len(text) >= SHORTEST_KEY:
        # Keys are shown in full by some verbs, and cut to 16 characters in paths.
        meant = [each for each in every if each.folder.name.startswith(text[:16])]
    if len(meant) == 1:
        return meant[0]
    if meant:
        keys = ", ".join(each.folder.name for each in meant)
        raise ConfigError(f"{len(meant)} stores are called {text!r}, with the keys {keys}: name one by its key")
    there = ", ".join(f"{each.name}/{each.folder.name}" for each in every) or "none"
    raise ConfigError(
        f"no store {text!r}: expected a folder, an address, the start of a key, or a name; in {place.root} there are "
        f"{there} (`peftbench store ls`)"
    )


def find_local(text: str, place: Workspace) -> Place:
    """The store on this machine that a user means.

    Raises:
        ConfigError: there is none, or several, or it is on another machine.
    """
    found = find_store(text, place)
    if isinstance(found, str):
        raise ConfigError(f"{found} is on another machine, where it can only be read: copy it here first")
    return found


def chosen_stores(texts: list[str], place: Workspace) -> list[Place]:
    """The stores that a user means; all of the workspace where none is named.

    Raises:
        ConfigError: one is not there, or none is.
    """
    if texts:
        return list(dict.fromkeys(find_local(text, place) for text in texts))
    every = all_stores(place)
    if not every:
        raise ConfigError(f"there are no stores in {place.root}: `peftbench prepare` and `peftbench extract` make them")
    return every


def size_of(folder: Path) -> tuple[int, int]:
    """Bytes that a folder takes on the disk, and number of its files."""
    stats = []
    for path in folder.rglob("*"):
        # What another process removes meanwhile takes no room.
        with suppress(FileNotFoundError):
            stat = path.stat()
            stats += [stat] if S_ISREG(stat.st_mode) else []
    # Blocks of 512 bytes, whatever the file system: the padding of a last chunk takes none.
    return sum(stat.st_blocks * 512 for stat in stats), len(stats)


def _stores_in(root: Path, depth: int) -> Iterator[Path]:
    """Folders of stores at a depth; an exchange that was cut short is completed on the way."""
    parents = sorted(path for path in root.glob("/".join(["*"] * (depth - 1))) if path.is_dir())
    for parent in parents:
        if depth == 3 and parent.name != "images":
            continue
        for inner in (parent, *(path for path in parent.iterdir() if path.is_dir())):
            for hidden in inner.glob(".*.replaced"):
                finish_exchange(inner / hidden.name.removeprefix(".").removesuffix(".replaced"))
        yield from sorted(path for path in parent.iterdir() if not path.name.startswith(".") and _is_store(path))


def _is_store(folder: Path) -> bool:
    return any(was_table(table) for table in (folder, folder / "pictures", folder / "sources"))
