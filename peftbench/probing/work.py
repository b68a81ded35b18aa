"""Cells done one after the other, or in several processes where that is worth their start; finished ones are kept.

Each cell runs on one BLAS thread: more make small problems slower, and the last bits depend on their number; in this
process whoever calls sees to it. Matrices go to the processes as files that are mapped, so that all
share one copy in memory.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from peftbench.cohorts.crew import Crew
from peftbench.errors import PeftbenchError
from peftbench.probing.cells import Answer, Task, solve
from peftbench.probing.families.family import Features, ProbeError
from peftbench.probing.given import Given
from peftbench.protocol.kept import keep, read_kept

WORTH_PROCESSES = 4.0
"""Seconds of work that must be left before processes are started: the start itself takes one or two."""

WORTH_KEEPING = 1.0
"""Seconds that a cell must have taken to be kept until its record is complete."""

SHELF = ".probe-"
"""Begins the name of a folder of matrices; the number of its process follows."""

_ARRAYS = ("test", "held_out", "held_out_at", "null")
"""Of an answer."""


class Errand(NamedTuple):
    """A cell, and where its answer is kept until its record is complete.

    Attributes:
        task: what to do.
        kept: the file.
    """

    task: Task
    kept: Path


class Done(NamedTuple):
    """An answer, and what it took.

    Attributes:
        answer: it.
        seconds: of one core; 0 where it was kept from an earlier run.
    """

    answer: Answer
    seconds: float


class Fault(NamedTuple):
    """Why a cell has no answer: a sentence for the user, or a defect."""

    message: str
    defect: bool


class _Filed(NamedTuple):
    readings: Mapping[str, Path]
    clinical: Path | None


def run(errands: Sequence[Errand], given: Mapping[str, Given], workers: int, shelf: Path) -> Iterator[Done]:
    """The answers, in the order of the errands; each is kept before it is told, if it took long.

    Args:
        errands: cells, those of one `given` in a row.
        given: name to what a probe may see.
        workers: processes at most.
        shelf: folder in which matrices are laid out for processes, and taken away again, those too that a call which
            was killed has left there.

    Raises:
        ProbeError: a cell cannot be done.
    """
    started = time.perf_counter()
    done = 0
    for at, errand in enumerate(errands):
        kept = _read_kept(errand.kept)
        spent = time.perf_counter() - started
        if kept is None and workers > 1 and done and spent / done * (len(errands) - at) > WORTH_PROCESSES:
            yield from _together(errands[at:], given, workers, shelf)
            return
        if kept is None:
            done += 1
            kept = _checked(_timed(errand.task, given[errand.task.given]), errand)
        yield kept


def _together(errands: Sequence[Errand], given: Mapping[str, Given], workers: int, shelf: Path) -> Iterator[Done]:
    """As `run`, in processes; what is kept already is read when its turn comes."""
    _clear(shelf)
    with tempfile.TemporaryDirectory(prefix=f"{SHELF}{os.getpid()}-", dir=shelf) as folder:
        names = {errand.task.given for errand in errands}
        filed = {name: _file(given[name], Path(folder), at) for at, name in enumerate(sorted(names))}
        crew = Crew(do, filed, _died, min(workers, len(errands)), memory=None, patience=None)
        kept = [errand.kept.exists() and _read_kept(errand.kept) is not None for errand in errands]
        answers = crew.map((each.task for each, old in zip(errands, kept, strict=True) if not old), few=0)
        for errand, old in zip(errands, kept, strict=True):
            if not old:
                yield _checked(next(answers), errand)
                continue
            # Gone where another call has meanwhile made the same record.
            again = _read_kept(errand.kept)
            yield again or _checked(_timed(errand.task, given[errand.task.given]), errand)


def _clear(shelf: Path) -> None:
    """Take away what processes that are no more have left."""
    for path in shelf.glob(f"{SHELF}*"):
        owner = path.name.removeprefix(SHELF).partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def do(task: Task, filed: Mapping[str, _Filed]) -> Done | Fault:
    """A cell in a process of a crew; never raises."""
    try:
        _one_thread()
        return _timed(task, _mapped(filed[task.given]))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process must hear of it
        defect = not isinstance(error, PeftbenchError)
        return Fault(f"{type(error).__name__}: {error}" if defect else str(error), defect)


@cache
def _one_thread() -> None:
    threadpool_limits(1)


def _timed(task: Task, given: Given) -> Done:
    start = time.perf_counter()
    return Done(solve(task, given), time.perf_counter() - start)


def _checked(done: Done | Fault, errand: Errand) -> Done:
    if isinstance(done, Fault):
        told = f"the probe {errand.task.probe!r} failed: {done.message}"
        raise RuntimeError(told) if done.defect else ProbeError(done.message)
    if done.seconds >= WORTH_KEEPING:
        _keep(done.answer, errand.kept)
    return done


def _died(task: Task) -> Fault:
    told = f"a process died of the probe {task.probe!r}, most likely for want of memory: run again with --workers 1"
    return Fault(told, defect=False)


def _file(given: Given, folder: Path, number: int) -> _Filed:
    readings = {}
    for at, (name, matrix) in enumerate(given.readings.items()):
        readings[name] = folder / f"{number}-{at}.npy"
        np.save(readings[name], matrix)
    clinical = None
    if given.clinical is not None:
        clinical = folder / f"{number}-clinical.npy"
        np.save(clinical, given.clinical)
    return _Filed(readings, clinical)


@cache
def _matrix(path: Path) -> Features:
    mapped: Features = np.load(path, mmap_mode="r")
    return mapped


def _mapped(filed: _Filed) -> Given:
    clinical = None if filed.clinical is None else _matrix(filed.clinical)
    return Given({name: _matrix(path) for name, path in filed.readings.items()}, clinical)


def _keep(answer: Answer, path: Path) -> None:
    arrays = {name: getattr(answer, name) for name in _ARRAYS}
    # The folder is gone again where another call has just made the same record.
    with suppress(FileNotFoundError):
        keep(path, arrays, answer.chosen)


def _read_kept(path: Path) -> Done | None:
    kept = read_kept(path)
    if kept is None or set(kept.arrays) != set(_ARRAYS):
        return None
    return Done(Answer(**kept.arrays, chosen=kept.told), 0.0)
