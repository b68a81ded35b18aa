"""A workspace with one cohort, its pictures, and the features of one backbone."""

from pathlib import Path

import pytest
from store_kit import features, made

from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("PEFTBENCH_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def images(place: Workspace) -> list[str]:
    return made(place)


@pytest.fixture
def store(place: Workspace, images: list[str]) -> FeatureStore:
    return features(place, images)
