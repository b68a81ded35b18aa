"""Imitations at full scale, written once for all tests that only read them, whichever process runs those."""

import fcntl
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import imitation_aiforcovid
import imitation_stony_brook
import pytest


def once(factory: pytest.TempPathFactory, name: str, write: Callable[[Path], object]) -> Path:
    """A folder that the first to ask writes; the other processes of this run wait and then share it."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, begun = shared / name, shared / f"{name}.begun"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            write(begun)
            begun.rename(folder)
    return folder


@pytest.fixture(scope="session")
def full_aiforcovid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "full-aiforcovid", partial(imitation_aiforcovid.write, size=8))


@pytest.fixture(scope="session")
def full_stony_brook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "full-stony-brook", imitation_stony_brook.write)
