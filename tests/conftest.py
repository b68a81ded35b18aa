"""What all tests share: one thread everywhere, no weights in anybody's home, and data made once a session."""

import atexit
import os
import shutil
import tempfile

# Before numpy or torch is imported by anything: two libraries' thread pools on two cores fight each other.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Also for the processes that tests start. Whoever tests weights names a folder of the test's own.
os.environ["PEFTBENCH_WEIGHTS"] = tempfile.mkdtemp(prefix="peftbench-weights-")
atexit.register(shutil.rmtree, os.environ["PEFTBENCH_WEIGHTS"], ignore_errors=True)

from pathlib import Path  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# The same examples on every machine; `HYPOTHESIS_PROFILE=search` looks for new ones.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

ROOT = Path(__file__).resolve().parents[1]

HANNOVER = ROOT.parent / "shared" / "data" / "hannover"
"""The real data set as downloaded; it lies beside the project, never in it."""


@pytest.fixture(scope="session")
def hannover_raw() -> Path:
    if not (HANNOVER / "data.csv").is_file():
        pytest.skip("the Hannover data set is not beside the project (../shared/data/hannover)")
    return HANNOVER


@pytest.fixture(scope="session")
def phantom_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small phantom download: 30 patients, 128 pixels."""
    from peftbench.cohorts.synthesis import PhantomConfig, write_phantom

    folder = tmp_path_factory.mktemp("raw") / "phantom"
    return write_phantom(folder, PhantomConfig(patients=30, size=128))
