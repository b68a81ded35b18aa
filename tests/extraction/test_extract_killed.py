"""An extraction that is killed twenty times, at any moment, and started again loses nothing and doubles nothing."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from extraction_kit import faults, images_of, run, stores_of
from killer import BATCH, BATCHES_A_ROUND

from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore

KILLS = 20
SEED = 2026


@pytest.fixture
def many(tmp_path: Path) -> Workspace:
    """A workspace with more images prepared than all the rounds together can embed."""
    config = PhantomConfig(patients=64, images_per_patient=3, size=64, seed=9)
    place = Workspace(tmp_path / "workspace")
    prepare("phantom", write_phantom(tmp_path / "raw", config), workspace=place)
    assert len(images_of(place)) > KILLS * BATCHES_A_ROUND * BATCH
    return place


@pytest.mark.slow
def test_killed_twenty_times_it_stores_every_row_once_and_to_the_bit(many: Workspace, tmp_path: Path) -> None:
    alone = Workspace(Path(shutil.copytree(many.root, tmp_path / "alone")))
    store = FeatureStore.open(Path(run(alone, batch_size=BATCH).store))
    expected = {name: store.load(output=name).matrix for name in store.outputs}
    np.savez(tmp_path / "reference.npz", images=np.array(store.images), **expected)

    words = [str(many.root), str(tmp_path / "reference.npz"), str(KILLS), str(SEED)]
    program = Path(__file__).with_name("killer.py")
    done = subprocess.run(
        [sys.executable, str(program), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["codes"] == [-9] * KILLS, done.stderr
    assert outcome["readers"] == [0] * KILLS, done.stderr
    assert outcome["last"] == [0], done.stderr
    rows = outcome["rows"]
    assert all(before <= after for before, after in pairwise(rows)), "what was committed stays"
    assert len(set(rows)) >= KILLS / 10, "many rounds went on where another stood"
    assert 0 < rows[-1] < len(images_of(many))
    # Whether a kill met the midst of a commit is luck; each of its steps is met in `test_store_interruption.py`.
    assert len(outcome["torn"]) == KILLS

    (folder,) = stores_of(many)
    found = FeatureStore.open(folder)
    assert sorted(found.images) == sorted(images_of(many))
    for name, matrix in expected.items():
        np.testing.assert_array_equal(found.load(store.images, name).matrix, matrix)
    assert faults(folder) == []
