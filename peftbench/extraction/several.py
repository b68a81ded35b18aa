"""Several devices at once: a process each computes its part of the images, this one alone writes.

A part is a range of rows of the image store, so that each process reads files of its own. What comes back are finished
batches. A process that fails or vanishes ends the whole; what had arrived is committed.
"""

import contextlib
import itertools
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from peftbench.backbones.device import Precision
from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import BackboneSpec
from peftbench.errors import DeviceError
from peftbench.extraction.embed import Rows, produce
from peftbench.extraction.engine import Engine
from peftbench.imaging.ahead import in_order
from stores.images import SHARD_ROWS, ImageStore

PATIENCE = 0.2
"""Seconds after which the process that waits looks whether it is to stop."""

WAITING = 4
"""Finished batches of each process that may wait to be sent."""


class Job(NamedTuple):
    """What a process is to do.

    Attributes:
        spec: the backbone.
        weights: digest that its tensors must have, once loaded.
        device: where it computes.
        precision: of the forward pass.
        batch_size: pictures in a forward pass.
        compiled: whether torch compiles the network.
        pictures: folder of the image store.
        images: digests.
        threads: cores that it may use on the processor.
    """

    spec: BackboneSpec
    weights: str
    device: str
    precision: Precision
    batch_size: int
    compiled: bool
    pictures: Path
    images: list[str]
    threads: int


class Failure(NamedTuple):
    """What went wrong in a process, as text: the error itself may not survive the way."""

    device: str
    sentence: str


def parts_of(pictures: ImageStore, images: Sequence[str], count: int) -> list[list[str]]:
    """Images in `count` parts of about equal size, each of neighbouring rows; whole files where there are many."""
    rows = pictures.rows_of(images)
    order = np.argsort(rows, kind="stable")
    cuts = [round(len(order) * number / count) for number in range(count + 1)]
    if len(order) >= count * SHARD_ROWS * 4:
        # Moved to where a file begins: no two processes read the same one.
        shards = rows[order] // SHARD_ROWS
        starts = np.flatnonzero(np.r_[True, shards[1:] != shards[:-1], True])
        cuts = [int(starts[np.abs(starts - cut).argmin()]) if 0 < cut < len(order) else cut for cut in cuts]
    return [[images[row] for row in order[start:stop]] for start, stop in itertools.pairwise(cuts)]


def produce_apart(jobs: Sequence[Job], checked: Callable[[], None]) -> Generator[Rows, None, None]:
    """Rows of all jobs as they are finished, in no particular order.

    Args:
        jobs: one a process.
        checked: called while waiting; may raise to stop.

    Raises:
        DeviceError: a process failed; what it said is in the message.
    """
    crew: list[_Hand] = []
    try:
        with _deaf_to_interrupts():
            for job in jobs:
                crew.append(_started(job))  # noqa: PERF401 - those that started are to be ended if another cannot
        yield from _arriving(crew, checked)
    finally:
        for hand in crew:
            hand.process.terminate()
        for hand in crew:
            hand.process.join()
            hand.line.close()


class _Hand(NamedTuple):
    """A process, its job, and a line of its own: one that is killed while it speaks cuts off no other."""

    job: Job
    process: BaseProcess
    line: Connection


def _started(job: Job) -> _Hand:
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, its), daemon=True)
    try:
        process.start()
    finally:
        # Only the process has it now, so that the line ends when the process does.
        its.close()
    return _Hand(job, process, mine)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started in here never hears Ctrl-C, which a terminal sends to all and this process answers for all."""
    # Started by the first process otherwise, and in doing so it lets signals through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _arriving(crew: Sequence[_Hand], checked: Callable[[], None]) -> Iterator[Rows]:
    at_work: dict[Any, _Hand] = {hand.line: hand for hand in crew}
    while at_work:
        checked()
        for line in wait(list(at_work), PATIENCE):
            message = _heard(at_work[line])
            if message is None:
                del at_work[line]
            else:
                yield message


def _heard(hand: _Hand) -> Rows | None:
    """Rows, or nothing when the job is done."""
    try:
        message: Rows | Failure | None = hand.line.recv()
    except (EOFError, OSError):
        hand.process.join()
        raise DeviceError(
            f"the process on {hand.job.device} ended with {hand.process.exitcode} and said nothing (was it killed, or "
            "out of memory?): what had arrived is kept; run the same command again"
        ) from None
    if isinstance(message, Failure):
        raise DeviceError(f"the process on {message.device} failed: {message.sentence}")
    return message


def _work(job: Job, line: Connection) -> None:
    """What runs in a process. When nobody listens any more, the next word ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        torch.set_num_threads(job.threads)
        with ThreadPoolExecutor(1, "peftbench-send") as pool:
            # Batches wait here while this process goes on.
            for _ in in_order(pool, line.send, _rows_of(job), ahead=WAITING):
                pass
        line.send(None)
    except Exception as error:  # noqa: BLE001 - it is told to the other process
        sentence = " ".join(str(error).split()) or type(error).__name__
        with contextlib.suppress(OSError):
            line.send(Failure(job.device, sentence))


def _rows_of(job: Job) -> Iterator[Rows]:
    encoder = load_encoder(job.spec)
    if encoder.weights_digest != job.weights:
        raise DeviceError("its weights are others than a moment ago")
    engine = Engine(encoder, torch.device(job.device), job.precision, job.batch_size, compiled=job.compiled)
    yield from produce(engine, ImageStore.open(job.pictures), job.images, job.threads)
