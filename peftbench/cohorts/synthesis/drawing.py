"""The drawing of many pictures, in as many processes as pay off; always in the plans' order and the same bytes.

It writes nothing to the disk: when the run is cut short, no process is left that could put a file into a folder that
is being taken away.
"""

import io
import warnings
from collections.abc import Generator, Sequence
from itertools import chain
from typing import NamedTuple

import joblib
from PIL import Image

from peftbench.cohorts.synthesis.config import PhantomConfig
from peftbench.cohorts.synthesis.picture import render
from peftbench.cohorts.synthesis.plan import ImagePlan

_MOST_PROCESSES = 4
"""More would wait for the one process that writes, and take its memory from others."""

_CHUNK = 4
"""Pictures drawn on one errand to a process: few, so that progress is told often and little is held in memory."""

_FIXED_COST = 60_000
"""What a picture costs whatever its size (streams, vessels), in pixels that could be drawn in that time."""

_WORTH_PROCESSES = 16_000_000
"""Cost in pixels, about three seconds, below which starting processes takes longer than they save."""


class DrawnPicture(NamedTuple):
    """A picture as it will lie on the disk."""

    png: bytes
    opacity_extent: float


def processes_for(config: PhantomConfig, images: int) -> int:
    """How many processes to draw in; 1 is this one."""
    cost = images * (_FIXED_COST + config.size**2)
    return min(joblib.cpu_count(), _MOST_PROCESSES) if cost >= _WORTH_PROCESSES else 1


def draw(config: PhantomConfig, plans: Sequence[ImagePlan], processes: int) -> Generator[DrawnPicture, None, None]:
    """The pictures of the plans, in order. Close the iterator to stop early: its processes end with it."""
    if processes == 1:
        return (_draw_one(config, plan) for plan in plans)
    return _draw_apart(config, plans, processes)


def _draw_apart(
    config: PhantomConfig, plans: Sequence[ImagePlan], processes: int
) -> Generator[DrawnPicture, None, None]:
    chunked = (plans[start : start + _CHUNK] for start in range(0, len(plans), _CHUNK))
    errands = (joblib.delayed(_draw_chunk)(config, chunk) for chunk in chunked)
    # One BLAS and OpenMP thread a process: more would only compete for the same cores.
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        team = joblib.Parallel(n_jobs=processes, batch_size=1, pre_dispatch="2*n_jobs", return_as="generator")
    chunks = team(errands)
    try:
        yield from chain.from_iterable(chunks)
    finally:
        with warnings.catch_warnings():
            # Stopped early, joblib tells that work was lost: whoever stopped knows.
            warnings.simplefilter("ignore", UserWarning)
            chunks.close()


def _draw_chunk(config: PhantomConfig, plans: Sequence[ImagePlan]) -> list[DrawnPicture]:
    return [_draw_one(config, plan) for plan in plans]


def _draw_one(config: PhantomConfig, plan: ImagePlan) -> DrawnPicture:
    picture = render(config, plan)
    file = io.BytesIO()
    # Level 1: noise does not compress, higher levels cost more time than drawing the picture.
    Image.fromarray(picture.pixels).save(file, format="png", compress_level=1)
    return DrawnPicture(file.getvalue(), picture.opacity_extent)
