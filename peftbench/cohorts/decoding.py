"""Raw files to the image store: what is new is decoded in several processes and committed shard by shard."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from peftbench.cohorts.crew import Crew
from peftbench.cohorts.ledger import Ledger
from peftbench.imaging import reading
from peftbench.imaging.policy import PixelPolicy
from peftbench.imaging.reading import Picture, Shared, stat_of
from peftbench.protocol.progress import Progress, patience
from stores.images import SHARD_ROWS, ImageStore
from stores.keys import source_key

SAVE_EVERY = 512
"""Files after which the ledger is written again."""


def store_pictures(
    store: ImageStore,
    names: Sequence[str],
    files: Sequence[Path],
    policy: PixelPolicy,
    ledger: Ledger,
    told: Progress,
    workers: int,
) -> list[Picture]:
    """Decode what the store does not know yet; whole shards are committed, so little is lost when interrupted.

    Args:
        store: where pictures go.
        names: of the files, relative to the raw folder.
        files: their paths.
        policy: how they become pixels.
        ledger: knows the files that have not changed.
        told: who is told how far it is.
        workers: processes.

    Returns:
        One a file, in order, without pixels.
    """
    told.start("decoding", len(files))
    done: list[Picture] = []
    waiting: list[Picture] = []

    def commit() -> None:
        fresh = [(each.source, each.pixels) for each in waiting if each.pixels is not None]
        store.append([source for source, _ in fresh], [pixels for _, pixels in fresh], patience(told))
        waiting.clear()

    try:
        for name, picture in zip(names, _decode_all(store, names, files, policy, ledger, workers), strict=True):
            told.advance()
            done.append(picture._replace(pixels=None))
            if picture.pixels is not None:
                waiting.append(picture)
            if picture.file_digest and not picture.fault:
                ledger.note(name, picture.stat, picture.file_digest)
            # So that an interruption does not leave all later shards half full.
            if waiting and (len(store) + len(waiting)) % SHARD_ROWS == 0:
                commit()
                ledger.save(every=SAVE_EVERY)
    finally:
        commit()
        ledger.save()
    return done


def _decode_all(
    store: ImageStore,
    names: Sequence[str],
    files: Sequence[Path],
    policy: PixelPolicy,
    ledger: Ledger,
    workers: int,
) -> Iterator[Picture]:
    """Pictures in the order of the files; a file that is known by the ledger is not even opened."""
    known = store.known_sources
    found: list[Picture | None] = []
    for name, file in zip(names, files, strict=True):
        digest = ledger.known(name, file)
        source = source_key(digest, policy.recipe) if digest else ""
        found.append(Picture(digest, source, None, "", stat_of(file)) if source in known else None)
    crew = Crew(reading.decode_file, Shared(policy, frozenset(known)), reading.lost, workers)
    fresh = crew.map([file for file, each in zip(files, found, strict=True) if each is None])
    for each in found:
        yield next(fresh) if each is None else each
