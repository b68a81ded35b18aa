"""An extraction that is cut short keeps what it finished, and the next one ends as if nothing had happened."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from extraction_kit import InterruptedAfter, assert_equal_to_the_bit, by_image, images_of, run, stores_of

from peftbench.extraction import embed
from peftbench.protocol.workspace import Workspace
from stores.errors import StoreLockedError, StoreNotFoundError
from stores.features import FeatureStore

BATCH = 3


@pytest.fixture
def uninterrupted(place: Workspace, tmp_path: Path, prepared: Path) -> dict[str, np.ndarray]:
    """The features of a run of its own, in a workspace of its own."""
    other = Workspace(Path(shutil.copytree(prepared, tmp_path / "uninterrupted")))
    return by_image(run(other, batch_size=BATCH).store)


class TestInterrupted:
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

        def interrupted(self: embed.Engine, pixels: torch.Tensor) -> np.ndarray:
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
        assert FeatureStore.open(store).damaged_blocks() == []

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

        def failing(self: embed.Engine, pixels: torch.Tensor) -> np.ndarray:
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


PROGRAM = """
import sys
import torch
from peftbench.extraction import embed
embed.COMMIT_SECONDS = 0.0
torch.set_num_threads(1)
from cli.main import main
sys.argv = ["peftbench", *sys.argv[1:]]
main()
"""
"""The command line, committing every batch: an ordinary run of a small cohort would end before its first commit."""

BACKBONE = "resnet18@random:0"


def extraction(place: Workspace) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "extract", "phantom", "--backbone", BACKBONE]
    options = ["--device", "cpu", "--precision", "fp32", "--batch-size", str(BATCH), "--workspace", str(place.root)]
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def committed(place: Workspace) -> int:
    try:
        return sum(len(FeatureStore.open(folder)) for folder in stores_of(place, BACKBONE))
    except StoreNotFoundError:
        return 0


@pytest.mark.slow
def test_killed_at_any_moment_it_loses_nothing_it_had_committed(
    place: Workspace, tmp_path: Path, prepared: Path
) -> None:
    other = Workspace(Path(shutil.copytree(prepared, tmp_path / "uninterrupted")))
    expected = by_image(run(other, BACKBONE, batch_size=BATCH).store)
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
        (store,) = stores_of(place, BACKBONE)
        found = by_image(store)
        assert len(found) > kept
        assert FeatureStore.open(store).damaged_blocks() == []
        assert_equal_to_the_bit(found, {image: expected[image] for image in found})
        kept = len(found)
    assert kept < len(expected)
    row = run(place, BACKBONE, batch_size=BATCH)
    assert (row.reused, row.embedded) == (kept, len(expected) - kept)
    assert_equal_to_the_bit(by_image(row.store), expected)


@pytest.mark.slow
def test_of_two_extractions_at_once_the_second_says_who_is_writing(place: Workspace) -> None:
    with extraction(place) as process:
        try:
            while committed(place) == 0 and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGSTOP)
            with pytest.raises(
                StoreLockedError, match=rf"is being written by process {process.pid} on .*run the command"
            ):
                run(place, BACKBONE, batch_size=BATCH)
        finally:
            process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert len(by_image(stores_of(place, BACKBONE)[0])) == len(images_of(place))
