"""A workspace to predict from, made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from predict_kit import BACKBONE, Made, probed, small_vit, tuned

from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.extraction.extract import extract
from peftbench.protocol.workspace import Workspace


@pytest.fixture
def vit() -> Iterator[None]:
    """The backbone of the tests is known."""
    with small_vit():
        yield


@pytest.fixture(scope="package")
def made(phantom_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The phantom with features, the record of a probe and of a fine-tuning; no test writes to it."""
    place = Workspace(tmp_path_factory.mktemp("predict") / "workspace")
    fresh = write_phantom(tmp_path_factory.mktemp("fresh") / "phantom", PhantomConfig(patients=6, size=128, seed=7))
    with small_vit():
        prepare("phantom", phantom_raw, workspace=place, workers=1)
        extract("phantom", BACKBONE, workspace=place, device="cpu", precision="fp32")
        return Made(place, phantom_raw / "images", fresh / "images", probed(place), tuned(place))


@pytest.fixture
def own(made: Made, tmp_path: Path) -> Made:
    """A copy to write to."""
    return made.copied(tmp_path / "own-workspace")
