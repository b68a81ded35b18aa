"""A phantom of three centres with stored features, prepared once."""

import shutil
from pathlib import Path

import pytest
from probe_kit import write_features

from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.protocol.workspace import Workspace


@pytest.fixture(scope="package")
def three_centers(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Forty patients of one to three images, and features that tell of the event; no test writes to it."""
    folder = tmp_path_factory.mktemp("three-centers")
    place = Workspace(folder / "workspace")
    prepare("phantom", write_phantom(folder / "raw", PhantomConfig(patients=40, size=64)), workspace=place)
    write_features(place)
    return place


@pytest.fixture
def own_place(three_centers: Workspace, tmp_path: Path) -> Workspace:
    """A copy to write to."""
    return Workspace(Path(shutil.copytree(three_centers.root, tmp_path / "own-place")))
