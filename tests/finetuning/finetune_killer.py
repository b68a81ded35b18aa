"""What a process does that starts fine-tunings and kills them: a fork of one that has imported all and run nothing.

Each round one child trains, tells of what it does through a pipe, and is killed some time after one of its tidings;
then whatever lies in the workspace is read as any reader would. What came of it is one line of JSON on stdout. A state
is kept at every step, so that a child which is killed has got somewhere.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from verb_kit import CARDS_OF_TESTS, row_of_call

from peftbench.backbones.registry import CARDS
from peftbench.finetuning import keeping, runs
from peftbench.finetuning.cells import Follow
from peftbench.protocol.progress import Silent
from peftbench.protocol.records import iter_records
from peftbench.protocol.workspace import Workspace

SETS = ("epochs=3", "batch_size=8")
"""With the augmentation of `quick`."""

LONGEST = 0.02
"""Seconds from a tiding to the kill: more than a step takes with its state."""


class Telling(Silent):
    """Writes a byte at everything it hears of a training."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def start(self, label: str, total: int) -> None:
        os.write(self.handle, b".")

    def advance(self, count: int = 1) -> None:
        os.write(self.handle, b".")


def prepare_process() -> None:
    """Tiny backbones, and a state at every step."""
    torch.set_num_threads(1)
    for card in CARDS_OF_TESTS:
        CARDS[card.name] = card
    keeping.STATE_SHARE = 0.0
    runs.Follow = lambda epoch, _: Follow(epoch, 0.0)  # type: ignore[misc, assignment]


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


def killed(work: Callable[[Telling], object], tidings: int, delay: float) -> int:
    """Start a training and kill it so many seconds after so many tidings; answers its exit code."""
    heard, told = os.pipe()
    child = forked(lambda: work(Telling(told)))
    os.close(told)
    for _ in range(tidings):
        os.read(heard, 1)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.close(heard)
    return exit_code(child)


def faults(place: Workspace) -> list[str]:
    """What of a workspace is half there; names that begin with a dot were never given to anybody."""
    found = []
    for path in place.results.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        try:
            if path.suffix == ".safetensors":
                safetensors.numpy.load_file(path)
            elif path.suffix == ".npz":
                with np.load(path) as held:
                    json.loads(str(held["told"]))
            elif path.suffix == ".state":
                content = path.read_bytes()
                assert hashlib.sha256(content[64:]).hexdigest().encode() == content[:64]
        except Exception as error:  # noqa: BLE001 - whatever a reader stumbles over
            found.append(f"{path.name}: {error!r}")
    list(iter_records(place))
    return found


def main(root: str, backbone: str, strategy: str, rounds: str, most: str, seed: str) -> None:
    """Kill so many trainings, each after at most so many tidings, then let one end."""
    prepare_process()
    place, chance = Workspace(Path(root)), random.Random(int(seed))  # noqa: S311 - moments, not secrets

    def work(told: Silent) -> None:
        row_of_call(place, backbone, strategy, split="3-fold", set_=SETS, progress=told)

    outcome: dict[str, list[object]] = {"codes": [], "faults": [], "kept": []}
    for _ in range(int(rounds)):
        outcome["codes"].append(killed(work, chance.randrange(int(most)), chance.uniform(0, LONGEST)))
        outcome["faults"] += faults(place)
        outcome["kept"].append(sorted(path.name for path in place.results.rglob("cells/*")))
    outcome["last"] = [exit_code(forked(lambda: work(Silent())))]
    sys.stdout.write(json.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
