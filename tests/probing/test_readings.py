"""Readings of one forward pass: the last block or the last four, with and without the mean patch token."""

from pathlib import Path

import numpy as np
import pytest
from probe_kit import recipe

from peftbench.errors import ConfigError
from peftbench.probing.cells import Task, solve
from peftbench.probing.given import Given
from peftbench.probing.inputs import read
from stores.errors import StoreDamagedError
from stores.features import FeatureStore

ROWS, DIM = 40, 5

NAMES = [f"{row:064x}" for row in range(ROWS)]


def store_of(folder: Path, **outputs: np.ndarray) -> FeatureStore:
    """A store with these outputs, rows as `NAMES`."""
    given = recipe(outputs={name: f"tensor of {name}" for name in outputs})
    store = FeatureStore.create(folder / "store", given, {name: each.shape[1:] for name, each in outputs.items()})
    store.append(NAMES, {name: each.astype(np.float32) for name, each in outputs.items()})
    return FeatureStore.open(folder / "store")


def transformer(folder: Path, seed: int = 0) -> tuple[FeatureStore, dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    outputs = {
        "embedding": random.normal(size=(ROWS, DIM)),
        "patch_mean": random.normal(size=(ROWS, DIM)),
        "block_cls": random.normal(size=(ROWS, 4, DIM)),
    }
    return store_of(folder, **outputs), outputs


def test_of_a_transformer_there_are_four(tmp_path: Path) -> None:
    store, outputs = transformer(tmp_path)
    found = read(store, NAMES, "blocks")
    assert {name: matrix.shape[1] for name, matrix in found.items()} == {
        "last block": DIM,
        "last four blocks": 4 * DIM,
        "last block + mean patch": 2 * DIM,
        "last four blocks + mean patch": 5 * DIM,
    }
    blocks = outputs["block_cls"].reshape(ROWS, -1).astype(np.float32)
    np.testing.assert_array_equal(found["last four blocks"], blocks)
    joined = np.hstack([blocks, outputs["patch_mean"].astype(np.float32)])
    np.testing.assert_array_equal(found["last four blocks + mean patch"], joined)
    assert list(read(store, NAMES, "embedding")) == ["embedding"]


def test_of_a_cnn_there_are_two(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    store = store_of(tmp_path, embedding=random.normal(size=(ROWS, DIM)), stages=random.normal(size=(ROWS, 7)))
    assert {name: each.shape[1] for name, each in read(store, NAMES, "blocks").items()} == {
        "embedding": DIM,
        "embedding + stages": DIM + 7,
    }


def test_where_there_is_neither_it_is_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, embedding=np.zeros((ROWS, DIM)))
    with pytest.raises(ConfigError, match="hold embedding only: take --reading embedding"):
        read(store, NAMES, "blocks")


@pytest.mark.parametrize("probe", ["logistic", "ridge", "knn", "centroid"])
def test_the_one_that_tells_is_chosen(probe: str) -> None:
    random = np.random.default_rng(0)
    event = np.tile([0, 1], ROWS)
    noise, telling = random.normal(size=(2 * ROWS, DIM)), random.normal(size=(2 * ROWS, DIM))
    telling[:, 0] += 4 * event
    parts = {"train": np.arange(40), "validation": np.arange(40, 60), "test": np.arange(60, 80)}
    task = Task("given", probe, event, **parts)
    for readings in ({"noise": noise, "telling": telling}, {"telling": telling, "noise": noise}):
        found = solve(task, Given(readings))
        assert found.chosen[0]["reading"] == "telling"
        assert ((found.test[0] >= 0.5) == event[60:]).mean() > 0.8
        alone = solve(task, Given({"telling": telling}))
        np.testing.assert_array_equal(found.test, alone.test)


@pytest.mark.parametrize("chosen_on", ["support", "validation"])
def test_on_support_sets_each_draw_chooses_its_own(chosen_on: str) -> None:
    random = np.random.default_rng(1)
    event = np.tile([0, 1], ROWS)
    noise, telling = random.normal(size=(2 * ROWS, DIM)), random.normal(size=(2 * ROWS, DIM))
    telling[:, 0] += 5 * event
    supports = np.stack([np.sort(random.choice(20, 4, replace=False))[:, None] * 2 + [0, 1] for _ in range(6)])
    parts = {"train": np.arange(40), "validation": np.arange(40, 60), "test": np.arange(60, 80)}
    task = Task("given", "logistic", event, **parts, supports=supports.reshape(6, -1), chosen_on=chosen_on)
    found = solve(task, Given({"noise": noise, "telling": telling}))
    alone = solve(task, Given({"telling": telling}))
    for draw, chosen in enumerate(found.chosen):
        if chosen["reading"] == "telling":
            np.testing.assert_array_equal(found.test[draw], alone.test[draw])
    assert sum(each["reading"] == "telling" for each in found.chosen) >= 5


@pytest.mark.parametrize("output", ["embedding", "patch_mean", "block_cls"])
def test_what_is_no_number_is_refused_in_any_output(
    tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = transformer(tmp_path)
    load = FeatureStore.load

    def spoilt(self: FeatureStore, images: list[str], output_: str = "embedding", **words: str) -> object:
        found = load(self, images, words.get("output", output_))
        if words.get("output") == output:
            found.matrix.flat[3] = np.nan
        return found

    monkeypatch.setattr(FeatureStore, "load", spoilt)
    with pytest.raises(StoreDamagedError, match=r"1 of 40 rows .* store verify --deep"):
        read(store, NAMES, "blocks")
