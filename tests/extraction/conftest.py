"""Tiny backbones beside the real ones, a prepared phantom, and one thread for torch."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from extraction_kit import TINY, WIDE
from vit_kit import VIT

from peftbench.backbones.registry import CARDS
from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.protocol.workspace import Workspace


@pytest.fixture(autouse=True, scope="package")
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for card in (TINY, WIDE, VIT):
            patch.setitem(CARDS, card.name, card)
        yield


@pytest.fixture(scope="package")
def small_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of 8 patients: some 16 pictures of 96 pixels, portrait and landscape."""
    config = PhantomConfig(patients=8, size=96, seed=5)
    return write_phantom(tmp_path_factory.mktemp("raw") / "phantom", config)


@pytest.fixture(scope="package")
def prepared(small_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("prepared") / "workspace"
    prepare("phantom", small_raw, workspace=workspace)
    return workspace


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Workspace:
    """A workspace with the small phantom prepared and nothing embedded."""
    return Workspace(Path(shutil.copytree(prepared, tmp_path / "workspace")))
