"""A weights folder of the test's own, and two small backbones in the registry."""

from pathlib import Path

import pytest
from weights_kit import tiny_card

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.cards import CARDS


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody else's caches are looked into, and no network is forbidden by the environment."""
    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PEFTBENCH_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "weights"


@pytest.fixture(autouse=True)
def cards(monkeypatch: pytest.MonkeyPatch) -> dict[str, BackboneCard]:
    made = {name: tiny_card(name) for name in ("tiny", "small")}
    for name, card in made.items():
        monkeypatch.setitem(CARDS, name, card)
    return made
