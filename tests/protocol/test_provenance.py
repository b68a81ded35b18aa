"""Provenance: versions that are installed, and seconds that add up."""

import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from peftbench.protocol import provenance


def test_versions_are_those_installed_and_absent_packages_are_left_out() -> None:
    assert provenance.versions(["numpy", "no-such-package-anywhere"]) == {"numpy": np.__version__}


def test_a_phase_adds_up_over_blocks_and_counts_blocks_that_fail() -> None:
    watch = provenance.Stopwatch()
    seen = [0.0]
    for failing in (False, True, False):
        with suppress(ZeroDivisionError), watch.phase("fit"):
            time.sleep(0.01)
            _ = 1 / (not failing)
        seen.append(watch.seconds["fit"])
    assert all(later - earlier >= 0.01 for earlier, later in pairwise(seen))
    assert set(watch.seconds) == {"fit"}


def kilobytes(path: Path, name: str) -> float:
    """A line of a file in /proc, in units of 1024 bytes."""
    (line,) = [line for line in path.read_text().splitlines() if line.startswith(f"{name}:")]
    return float(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux has /proc")
def test_peak_memory_is_in_megabytes() -> None:
    peak = provenance.peak_memory_mb()
    assert kilobytes(Path("/proc/self/status"), "VmRSS") * 1024 / 1e6 <= peak * 1.01
    assert peak <= kilobytes(Path("/proc/meminfo"), "MemTotal") * 1024 / 1e6


def test_provenance_names_the_software_that_makes_numbers() -> None:
    assert set(provenance.provenance()["packages"]) >= {"numpy", "scipy", "pandas", "zarr"}
