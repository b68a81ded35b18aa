"""A damaged store is not added to, the way to mend it is named, and mended it costs what was damaged and no more."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from extraction_kit import (
    InterruptedAfter,
    assert_equal_to_the_bit,
    by_image,
    faults,
    images_of,
    run,
    stores_of,
)

from peftbench.extraction import embed
from peftbench.protocol.workspace import Workspace
from stores import features
from stores.errors import StoreDamagedError
from stores.features import FeatureStore
from stores.repair import repair

BATCH = 3
CHUNK = 4
"""Rows; some sixteen images fill several files."""

OUTPUTS = ("embedding", "stages")

Damage = Callable[[Path], None]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK_ROWS", CHUNK)


@pytest.fixture
def whole(place: Workspace) -> Path:
    """A store that has all images."""
    return Path(run(place, batch_size=BATCH).store)


@pytest.fixture
def started(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of three full files and one of one row: an extraction was stopped, and has more to add."""
    monkeypatch.setattr(embed, "COMMIT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        # Loading the backbone advances as well.
        run(place, batch_size=BATCH, progress=InterruptedAfter(1 + 3 * CHUNK // BATCH))
    (store,) = stores_of(place)
    assert len(FeatureStore.open(store)) == 5 * BATCH
    return store


def flipped(name: str, offset: int = 40) -> Damage:
    def damage(store: Path) -> None:
        content = bytearray((store / name).read_bytes())
        content[offset] ^= 1
        (store / name).write_bytes(content)

    return damage


def missing(name: str) -> Damage:
    return lambda store: (store / name).unlink()


def cut(name: str, count: int = 1) -> Damage:
    return lambda store: (store / name).write_bytes((store / name).read_bytes()[:-count])


def outputs_of(store: Path) -> dict[str, dict[str, np.ndarray]]:
    return {name: by_image(store, name) for name in OUTPUTS}


def assert_mended(place: Workspace, store: Path, before: dict[str, dict[str, np.ndarray]], dropped: int) -> None:
    """Assert that after a repair the next extraction embeds what was dropped, to the bit, and the store is sound."""
    (done,) = repair(store)
    total = len(images_of(place))
    held = len(next(iter(before.values())))
    assert (done.kept, done.dropped) == (held - dropped, dropped)
    assert done.faults
    assert faults(store) == []
    left = outputs_of(store)
    row = run(place, batch_size=BATCH)
    assert (row.embedded, row.reused, Path(row.store)) == (total - held + dropped, held - dropped, store)
    after = outputs_of(store)
    for name, rows in before.items():
        assert left[name].keys() < rows.keys() or not dropped
        assert_equal_to_the_bit(left[name], {image: rows[image] for image in left[name]})
        assert_equal_to_the_bit({image: after[name][image] for image in rows}, rows)
        assert after[name].keys() == set(images_of(place))
    assert faults(store) == []


class TestRefused:
    """Found when the store is opened, or when its last file is written on: nothing is embedded and nothing changes."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("damage", "dropped"),
        [
            pytest.param(missing("embedding/c.1.0"), CHUNK, id="a file is gone"),
            pytest.param(missing("stages/c.0.0"), CHUNK, id="a file of another output is gone"),
            pytest.param(cut("stages/c.2.0"), 0, id="a file lacks the end of its checksum"),
            pytest.param(cut("stages/c.2.0", 100), 1, id="a file is cut short in its last row"),
            pytest.param(flipped("commit.json"), 0, id="the commit record is altered"),
            pytest.param(missing("embedding/zarr.json"), 0, id="metadata are gone"),
        ],
    )
    def test_a_store_that_has_all_rows(self, place: Workspace, whole: Path, damage: Damage, dropped: int) -> None:
        before = outputs_of(whole)
        damage(whole)
        harmed = {path: path.read_bytes() for path in whole.rglob("*.*") if path.is_file()}
        with pytest.raises(StoreDamagedError, match="`peftbench store repair`"):
            run(place, batch_size=BATCH)
        assert {path: path.read_bytes() for path in whole.rglob("*.*") if path.is_file()} == harmed
        assert_mended(place, whole, before, dropped)

    @pytest.mark.parametrize(
        "damage", [flipped("embedding/c.3.0"), flipped("stages/c.3.0")], ids=["embedding", "another output"]
    )
    def test_a_flipped_byte_where_rows_are_to_be_added(self, place: Workspace, started: Path, damage: Damage) -> None:
        before = outputs_of(started)
        damage(started)
        with pytest.raises(StoreDamagedError, match=r"chunk 3 of .*`peftbench store repair`"):
            run(place, batch_size=BATCH)
        assert_mended(place, started, before, 1)

    def test_a_flipped_byte_in_the_digests(self, place: Workspace, whole: Path) -> None:
        before = outputs_of(whole)
        flipped("image/c.0.0")(whole)
        with pytest.raises(StoreDamagedError, match=r"chunk 0 of 'image'.*`peftbench store repair`"):
            run(place, batch_size=BATCH)
        assert_mended(place, whole, before, 1)


class TestFoundByVerifying:
    @pytest.mark.parametrize("name", [*OUTPUTS, "image"])
    def test_a_flipped_byte_costs_its_row(self, place: Workspace, whole: Path, name: str) -> None:
        before = outputs_of(whole)
        flipped(f"{name}/c.{0 if name == 'image' else 1}.0")(whole)
        assert len(faults(whole)) == 1
        assert_mended(place, whole, before, 1)

    def test_damage_in_several_places_costs_each_of_them_once(self, place: Workspace, whole: Path) -> None:
        before = outputs_of(whole)
        row = 4 * 24
        for damage in (
            flipped("embedding/c.0.0"),
            flipped("stages/c.0.0"),
            flipped("stages/c.0.0", row + 1),
            missing("stages/c.2.0"),
        ):
            damage(whole)
        assert_mended(place, whole, before, 2 + CHUNK)

    def test_a_sound_store_is_left_as_it_is(self, place: Workspace, whole: Path) -> None:
        files = {path: path.read_bytes() for path in whole.rglob("*.*") if path.is_file()}
        (done,) = repair(whole)
        assert (done.dropped, done.faults) == (0, [])
        assert {path: path.read_bytes() for path in whole.rglob("*.*") if path.is_file()} == files
        assert run(place, batch_size=BATCH).embedded == 0

    @pytest.mark.parametrize("renames", [0, 1], ids=["before the first rename", "between the two"])
    def test_a_repair_that_was_killed_costs_nothing_that_it_had_kept(
        self, place: Workspace, whole: Path, monkeypatch: pytest.MonkeyPatch, renames: int
    ) -> None:
        before = outputs_of(whole)
        flipped("stages/c.1.0")(whole)
        original, left = Path.rename, iter(range(renames))

        def killed(self: Path, target: Path) -> Path:
            if (self.name.startswith(".") or target.name.startswith(".")) and next(left, None) is None:
                raise KeyboardInterrupt
            return original(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            with pytest.raises(KeyboardInterrupt):
                repair(whole)
        if not renames:
            assert_mended(place, whole, before, 1)
            return
        assert not whole.exists()
        row = run(place, batch_size=BATCH)
        assert (row.embedded, row.reused) == (1, len(before["stages"]) - 1)
        for name, rows in before.items():
            assert_equal_to_the_bit(by_image(whole, name), rows)
        assert faults(whole) == []
