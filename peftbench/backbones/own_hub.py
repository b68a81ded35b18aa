"""The libraries' own downloads: of the user's own models alone, whose weights their libraries find.

Where there is no network the hub's package asks six times with growing pauses, half a minute a file; here it is asked
once, and what is cached is used.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from typing import Any

from huggingface_hub import constants, get_session

from peftbench.backbones.download import is_offline

PATIENCE = 5.0
"""Seconds that the hub has to answer."""

REMEMBERED = 60.0
"""Seconds for which its answer is believed."""


@contextmanager
def downloads_by_libraries() -> Iterator[None]:
    """While a library may download: its messages go to stderr, and where the hub is out of reach nothing asks it."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or is_offline() or not _answers(int(time.monotonic() // REMEMBERED))
    try:
        # torch's hub prints on stdout, which belongs to the verb's answer.
        with redirect_stdout(sys.stderr):
            yield
    finally:
        constants.HF_HUB_OFFLINE = before


@lru_cache(maxsize=1)
def _answers(_when: int) -> bool:
    session: Any = get_session()
    try:
        session.head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # noqa: BLE001 - the errors of whichever HTTP library the hub's package uses
        return False
    return True


def told_by(error: Exception) -> str:
    """What a library said, on one line and not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200].rsplit(' ', 1)[0]} ..."
