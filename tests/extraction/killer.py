"""A process that starts extractions and kills them: `python killer.py WORKSPACE REFERENCE.npz ROUNDS SEED`.

It has imported everything and run nothing (no forward pass, no store, no thread), so that a fork of it is as good as
a new process and costs milliseconds. Each round one child embeds, tells of what it does through a pipe, and is killed
some time after one of its tidings; another child then reads the store as any reader would. What came of it is one line
of JSON on stdout.
"""

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
from extraction_kit import TINY, run, stores_of

from peftbench.backbones.registry import CARDS
from peftbench.extraction import embed
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore

BATCH = 3
BATCHES_A_ROUND = 2
"""After so many a child stands still until it is killed: so it cannot finish."""

TIDINGS = 3 + BATCHES_A_ROUND
"""Loading begins, has ended, embedding begins, and each batch."""

LONGEST = 0.06
"""Seconds from a tiding to the kill: more than a batch takes with its commit."""


class Telling:
    """A progress that writes a byte at everything it hears, and takes its time."""

    def __init__(self, handle: int, batches: float = float("inf")) -> None:
        self.handle, self.left, self.embedding = handle, batches, False

    def start(self, label: str, total: int) -> None:
        self.embedding = label.startswith("embedding")
        os.write(self.handle, b".")

    def advance(self, count: int = 1) -> None:
        os.write(self.handle, b".")
        time.sleep(0.005)
        if self.embedding:
            self.left -= 1
            if self.left < 0:
                time.sleep(60)

    def note(self, message: str) -> None:
        pass


def forked(work: Callable[[], object]) -> int:
    """Run in a child of its own; answers its number."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:  # noqa: BLE001 - whatever it is, the parent is to hear of it
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(place: Workspace, tidings: int, delay: float) -> int:
    """Start an extraction and kill it so many seconds after so many tidings; answers its exit code."""
    heard, told = os.pipe()
    child = forked(lambda: run(place, batch_size=BATCH, progress=Telling(told, BATCHES_A_ROUND)))
    os.close(told)
    for _ in range(tidings):
        os.read(heard, 1)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.close(heard)
    return exit_code(child)


def read_as_anybody(place: Workspace, expected: dict[str, np.ndarray]) -> None:
    """Every committed row is there once, and is what an uninterrupted run made of its image."""
    for folder in stores_of(place):
        if not (folder / "commit.json").exists():
            continue
        store = FeatureStore.open(folder)
        for name in store.outputs:
            matrix, images = store.load(output=name)
            assert len(set(images)) == len(images) == len(matrix)
            rows = [int(np.flatnonzero(expected["images"] == image)[0]) for image in images]
            np.testing.assert_array_equal(matrix, expected[name][rows])


def committed(place: Workspace) -> int:
    return sum(json.loads(path.read_text())["rows"] for path in place.features_of("tiny").glob("*/commit.json"))


def remains(place: Workspace) -> set[str]:
    """What tells of an append that was cut short: files under no name yet, and shapes that lag behind."""
    folder = place.features_of("tiny")
    scratch = {str(path) for path in folder.rglob("*.part") if path.is_file()}
    shapes = {path: json.loads(path.read_text())["shape"][0] for path in folder.glob("*/*/zarr.json")}
    return scratch | {f"{path} of {rows}" for path, rows in shapes.items() if rows != committed(place)}


def main(root: str, reference: str, rounds: str, seed: str) -> None:
    CARDS[TINY.name] = TINY
    embed.COMMIT_SECONDS = 0.0
    place, chance = Workspace(Path(root)), random.Random(int(seed))  # noqa: S311 - moments, not secrets
    expected = dict(np.load(reference))
    assert threading.active_count() == 1
    seen: set[str] = set()
    outcome: dict[str, list[object]] = {"codes": [], "readers": [], "rows": [], "torn": []}
    for _ in range(int(rounds)):
        outcome["codes"].append(killed(place, chance.randrange(TIDINGS + 1), chance.uniform(0, LONGEST)))
        outcome["rows"].append(committed(place))
        outcome["torn"].append(not remains(place) <= seen)
        seen |= remains(place)
        outcome["readers"].append(exit_code(forked(lambda: read_as_anybody(place, expected))))
    outcome["last"] = [exit_code(forked(lambda: run(place, batch_size=BATCH)))]
    sys.stdout.write(json.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
