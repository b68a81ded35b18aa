"""The features are what they were: a change in a library, or in ours, that moves them does not pass unnoticed.

How they were made and how they are made anew is in `golden_kit.py`.
"""

from pathlib import Path

import numpy as np
import pytest
from golden_kit import FULL, TINY, full_features, stored_full, stored_tiny, tiny_features
from tiny_kit import NAMES, golden_pixels, tiny

from peftbench.backbones.folding import folded

pytestmark = pytest.mark.slow

CLOSE = 1e-5
"""Largest difference, by the largest value: what another processor may change."""

LARGEST = 300_000
"""Bytes that may be committed."""


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_small_backbones_compute_what_they_computed(name: str) -> None:
    found, expected = tiny_features(name), stored_tiny(name)
    assert found.keys() == expected.keys()
    assert {each: apart(found[each], value) < CLOSE for each, value in expected.items()} == dict.fromkeys(found, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "dinov2-l"])
def test_those_of_full_size_too(name: str) -> None:
    """What dinov2-l computes at full size is held in `test_parity.py`, against stored numbers of the original."""
    found, expected = full_features(name), stored_full(name)
    assert found.keys() == expected.keys()
    for each, value in expected.items():
        assert apart(np.array(found[each]["starts"]), np.array(value["starts"])) < 2 * CLOSE
        assert found[each]["norm"] == pytest.approx(value["norm"], rel=CLOSE)


def test_no_two_backbones_have_the_same_features() -> None:
    """Else one could be loaded for another."""
    with np.load(TINY) as stored:
        seen = {stored[each].tobytes() for each in stored.files}
        assert len(seen) == len(stored.files) == 6 * 2 + 6 * 3


def test_what_is_stored_is_of_some_size_and_no_more() -> None:
    assert all(1e-2 < float(np.abs(value).max()) < 100 for name in NAMES for value in stored_tiny(name).values())
    assert {path.name for path in TINY.parent.iterdir()} == {TINY.name, FULL.name}
    assert sum(path.stat().st_size for path in Path(TINY.parent).iterdir()) < LARGEST


@pytest.mark.parametrize("name", [name for name in NAMES if tiny(name).card.folds])
def test_folded_they_are_within_what_the_golden_rows_forgive(name: str) -> None:
    """What is stored with `graph=folded` may be set beside golden rows, which are not."""
    backbone = tiny(name)
    found = backbone.outputs(folded(backbone.module()), golden_pixels(backbone.card))
    assert all(apart(found[each].numpy(), value) < 2 * CLOSE for each, value in stored_tiny(name).items())
