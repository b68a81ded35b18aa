"""Work on many files in several processes: in order, memory bounded, and a file that kills its process kills no other.

Processes are started as interpreters of their own that know nothing of this one's main module, so that a notebook or a
script without a guard can use them; each has a pipe of its own, so that it is known which file a process died of.
They end when the pipe does, however this process ends. Few files are done right here: starting a process takes longer.
"""

import os
import pickle
import queue
import resource
import select
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from itertools import chain, islice
from typing import IO, Any, Generic, TypeVar

from peftbench.errors import ConfigError, WorkspaceError

Item = TypeVar("Item")
Shared = TypeVar("Shared")
Answer = TypeVar("Answer")

FEW = 32
"""Items that are not worth a process of their own."""

AHEAD = 8
"""Items a process that are begun or waiting: as many answers at most are held in memory."""

MEMORY = 4 << 30
"""Bytes that a process may take beyond what it starts with: a file that needs more is no radiograph."""

PATIENCE = 600.0
"""Seconds that an item may take: a decoder or a network disk that hangs must not stop the others."""

_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(1 << 28), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
"""So that the C library keeps the memory of one film for the next: asking the kernel anew for each costs a third of the
time. Without an effect where there is another C library than GNU's."""

_START = "import sys; sys.path[:] = {path!r}; from peftbench.cohorts.crew import serve; serve()"


def workers_or_default(workers: int | None) -> int:
    """So many processes; by default one a core that this process may use.

    Raises:
        ConfigError: the number is not positive.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}, expected at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return workers or cores


class Crew(Generic[Item, Shared, Answer]):
    """Processes that do the same work on one item after the other.

    Args:
        work: what is done to an item, given what all share; a function of a module, which answers whatever goes wrong.
        shared: sent to each process once.
        died: the answer for an item whose process died of it.
        workers: processes.
        memory: bytes that a process may take beyond what it starts with; None for no bound.
        patience: seconds that an item may take; None for no bound.
    """

    def __init__(
        self,
        work: Callable[[Item, Shared], Answer],
        shared: Shared,
        died: Callable[[Item], Answer],
        workers: int,
        *,
        memory: int | None = MEMORY,
        patience: float | None = PATIENCE,
    ) -> None:
        self.work = work
        self.shared = shared
        self.died = died
        self.workers = workers
        self.memory = memory
        self.patience = patience

    def map(self, items: Iterable[Item], few: int = FEW) -> Iterator[Answer]:
        """The answers, in the order of the items; begun no more than is soon asked for.

        Args:
            items: what to work on.
            few: below so many items no process is started.

        Raises:
            WorkspaceError: no process can be started.
        """
        rest = iter(items)
        first = list(islice(rest, few))
        if len(first) < few:
            yield from (self.work(item, self.shared) for item in first)
        else:
            yield from self._apart(chain(first, rest))

    def _apart(self, items: Iterator[Item]) -> Iterator[Answer]:
        hands: queue.SimpleQueue[_Hand] = queue.SimpleQueue()
        started: list[_Hand] = []
        waiting: deque[Future[Answer]] = deque()

        def ask(item: Item) -> Answer:
            hand = hands.get()
            try:
                answer: Answer = hand.ask(item)
            except (EOFError, BrokenPipeError, pickle.UnpicklingError):
                hand.begin()
                hand.greet()
                return self.died(item)
            finally:
                hands.put(hand)
            return answer

        # A thread a process only waits for it.
        pool = ThreadPoolExecutor(self.workers)
        try:
            for _ in range(self.workers):
                started.append(_Hand(self.work, self.shared, self.memory, self.patience))
                hands.put(started[-1])
            for hand in started:
                hand.greet()
            while True:
                waiting.extend(pool.submit(ask, item) for item in islice(items, self.workers * AHEAD - len(waiting)))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for hand in started:
                hand.end()
            pool.shutdown(wait=True)


class _Hand:
    """One process, and the pipe to it."""

    def __init__(
        self, work: Callable[[Any, Any], Any], shared: Any, memory: int | None, patience: float | None
    ) -> None:
        self._task = pickle.dumps((work.__module__, work.__qualname__, shared, memory))
        self._patience = patience
        self._ended = False
        self.begin()

    def begin(self) -> None:
        """Start the process, again if it has died."""
        if self._ended:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Decoders written in C say there whatever they like.
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ALLOCATION},
            # Ctrl-C reaches the process that decides when to stop, and no other.
            start_new_session=True,
        )

    def greet(self) -> None:
        """Tell the process its work, and wait until it is ready.

        Raises:
            WorkspaceError: it does not start.
        """
        if self._ended:
            return
        try:
            _write(self._stdin, self._task)
            _read(self._stdout)
        except (EOFError, BrokenPipeError) as error:
            raise WorkspaceError(
                f"{sys.executable} cannot be started for a process that decodes: is the installation whole?"
            ) from error

    def ask(self, item: Any) -> Any:
        """The answer for an item.

        Raises:
            EOFError: the process died of it, or was killed because it took too long.
        """
        _write(self._stdin, pickle.dumps(item))
        if not select.select([self._stdout], [], [], self._patience)[0]:
            self._process.kill()
            self._process.wait()
            raise EOFError
        return pickle.loads(_read(self._stdout))  # noqa: S301 - from a process that this one has started

    def end(self) -> None:
        """End the process at once."""
        self._ended = True
        self._process.kill()
        self._process.wait()
        self._stdin.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 - as it was started
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None  # noqa: S101 - as it was started
        return self._process.stdout


def serve() -> None:
    """What a process of a crew does: learn its work, then answer item after item until the pipe ends."""
    asked = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    module, name, shared, memory = pickle.loads(_read(asked))  # noqa: S301 - from the process that has started this one
    work = getattr(import_module(module), name)
    _bound_memory(memory)
    _write(answers, b"ready")
    while True:
        try:
            item = pickle.loads(_read(asked))  # noqa: S301 - as above
        except EOFError:
            return
        _write(answers, pickle.dumps(work(item, shared), protocol=pickle.HIGHEST_PROTOCOL))


def _bound_memory(memory: int | None) -> None:
    if memory is None or sys.platform != "linux":
        return
    with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123 - no file
        held = int(stream.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or held + memory < soft:
        resource.setrlimit(resource.RLIMIT_AS, (held + memory, hard))


def _write(stream: IO[bytes], body: bytes) -> None:
    stream.write(struct.pack(">Q", len(body)))
    stream.write(body)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes:
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    length = int(struct.unpack(">Q", head)[0])
    body = stream.read(length)
    if len(body) < length:
        raise EOFError
    return body
