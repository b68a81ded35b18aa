"""An extraction that is cut short keeps what it finished, and the next one ends as if nothing had happened."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from extraction_kit import (
    BATCH,
    SLOWER,
    InterruptedAfter,
    assert_equal_to_the_bit,
    by_image,
    committed,
    extraction,
    faults,
    images_of,
    run,
    stores_of,
)

from peftbench.extraction import embed
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore


@pytest.fixture
def uninterrupted(place: Workspace, tmp_path: Path, prepared: Path) -> dict[str, np.ndarray]:
    """The features of a run of its own, in a workspace of its own."""
    other = Workspace(Path(shutil.copytree(prepared, tmp_path / "uninterrupted")))
    return by_image(run(other, batch_size=BATCH).store)


class TestInterrupted:
    @pytest.mark.slow
    @pytest.mark.parametrize(("batches", "commit_seconds"), [(0, 5.0), (1, 5.0), (4, 5.0), (0, 0.0), (3, 0.0)])
    def test_finished_rows_are_kept_and_the_next_run_ends_to_the_bit(
        self,
        place: Workspace,
        uninterrupted: dict[str, np.ndarray],
        monkeypatch: pytest.MonkeyPatch,
        batches: int,
        commit_seconds: float,
    ) -> None:
        monkeypatch.setattr(embed, "COMMIT_SECONDS", commit_seconds)
        original, left = embed.Engine.embed, iter(range(batches))

        def interrupted(self: embed.Engine, pixels: torch.Tensor) -> embed.Outputs:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return original(self, pixels)

        monkeypatch.setattr(embed.Engine, "embed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(place, batch_size=BATCH)
        (store,) = stores_of(place)
        kept = by_image(store)
        assert len(kept) == batches * BATCH
        monkeypatch.setattr(embed.Engine, "embed", original)
        row = run(place, batch_size=BATCH)
        assert (row.embedded, row.reused) == (row.total - batches * BATCH, batches * BATCH)
        assert_equal_to_the_bit(by_image(row.store), uninterrupted)
        assert faults(store) == []

    @pytest.mark.slow
    def test_interrupted_again_and_again_it_still_arrives(
        self, place: Workspace, uninterrupted: dict[str, np.ndarray]
    ) -> None:
        for _ in range(len(images_of(place))):
            try:
                row = run(place, batch_size=BATCH, progress=InterruptedAfter(1))
            except KeyboardInterrupt:
                continue
            break
        assert_equal_to_the_bit(by_image(row.store), uninterrupted)

    def test_an_error_of_the_model_keeps_what_was_finished(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original, left = embed.Engine.embed, iter(range(2))

        def failing(self: embed.Engine, pixels: torch.Tensor) -> embed.Outputs:
            if next(left, None) is None:
                raise torch.OutOfMemoryError("no memory left")
            return original(self, pixels)

        monkeypatch.setattr(embed.Engine, "embed", failing)
        with pytest.raises(torch.OutOfMemoryError):
            run(place, batch_size=BATCH)
        assert len(by_image(stores_of(place)[0])) == 2 * BATCH

    def test_after_an_interruption_the_store_is_free(self, place: Workspace) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(place, batch_size=BATCH, progress=InterruptedAfter(1))
        with FeatureStore.open(stores_of(place)[0]).writing():
            pass


@pytest.mark.slow
def test_killed_at_any_moment_it_loses_nothing_it_had_committed(
    place: Workspace, tmp_path: Path, prepared: Path
) -> None:
    other = Workspace(Path(shutil.copytree(prepared, tmp_path / "uninterrupted")))
    expected = by_image(run(other, SLOWER, batch_size=BATCH).store)
    chance = np.random.default_rng(0)
    kept = 0
    for _ in range(2):
        with extraction(place) as process:
            # Not before it has come further than the one before, so that each kill falls into the loop.
            while committed(place) <= kept and process.poll() is None:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
            assert process.wait() == -signal.SIGKILL, "it was killed in its midst"
        (store,) = stores_of(place, SLOWER)
        found = by_image(store)
        assert len(found) > kept
        # Killed between a commit and the shapes, the store says fewer rows to other readers of Zarr: no row is lost.
        assert [fault for fault in faults(store) if fault.rows] == []
        assert_equal_to_the_bit(found, {image: expected[image] for image in found})
        kept = len(found)
    assert kept < len(expected)
    row = run(place, SLOWER, batch_size=BATCH)
    assert (row.reused, row.embedded) == (kept, len(expected) - kept)
    assert_equal_to_the_bit(by_image(row.store), expected)
    assert faults(row.store) == []
