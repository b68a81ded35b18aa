"""Tiny backbones beside the real ones, a prepared phantom, and one thread for torch."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from finetune_kit import Shown, shown_in
from verb_kit import CARDS_OF_TESTS

from peftbench.backbones.registry import CARDS
from peftbench.cohorts.prepare import prepare
from peftbench.protocol.workspace import Workspace


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def tiny_backbones() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for card in CARDS_OF_TESTS:
            patch.setitem(CARDS, card.name, card)
        yield


@pytest.fixture(scope="package")
def prepared(phantom_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The phantom prepared and nothing else; no test writes to it."""
    place = Workspace(tmp_path_factory.mktemp("prepared") / "workspace")
    prepare("phantom", phantom_raw, workspace=place)
    return place


@pytest.fixture
def place(prepared: Workspace, tmp_path: Path) -> Workspace:
    """A copy to write to."""
    return Workspace(Path(shutil.copytree(prepared.root, tmp_path / "workspace")))


@pytest.fixture(scope="package")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Sixty pictures, every other with the event: those are brighter below, the others above."""
    return shown_in(tmp_path_factory.mktemp("shown") / "images", 60)
