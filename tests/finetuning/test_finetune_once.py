"""What is finished is read, whatever decides a number makes another record, and nothing of two is ever mixed."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from progress_kit import Ear
from verb_kit import (
    CNN,
    TASK,
    VIT_NAME,
    Trainings,
    copied,
    lasting,
    manifest_of,
    record_of,
    records_in,
    row_of_call,
    rows_of_call,
)

from peftbench.backbones.registry import CARDS
from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.finetuning import runs
from peftbench.protocol import provenance
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.records import read_record
from peftbench.protocol.results import FinetuneRow
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow

FOLDS: dict[str, Any] = {"split": "3-fold"}


@pytest.fixture(scope="module")
def finished(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, FinetuneRow]:
    """A workspace with a record of three folds; no test writes to it."""
    place = copied(prepared, tmp_path_factory.mktemp("finished") / "workspace")
    return place, row_of_call(place, CNN, "fft", **FOLDS)


@pytest.fixture
def own(finished: tuple[Workspace, FinetuneRow], tmp_path: Path) -> Workspace:
    """A copy to write to."""
    return copied(finished[0], tmp_path / "own")


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


def again(place: Workspace, **options: Any) -> FinetuneRow:
    return row_of_call(place, CNN, "fft", **{**FOLDS, **options})


class TestMadeOnce:
    def test_a_finished_record_is_read_and_left_untouched(
        self, finished: tuple[Workspace, FinetuneRow], own: Workspace, trainings: Trainings
    ) -> None:
        before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in own.root.rglob("*.*")}
        row = again(own)
        assert len(trainings) == 0
        where = {"record": ""}
        assert row.model_copy(update=where).model_dump_json() == finished[1].model_copy(update=where).model_dump_json()
        assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in own.root.rglob("*.*")} == before

    def test_no_picture_is_read_for_it(self, own: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("peftbench.finetuning.feed.Feed._read", lambda *_: pytest.fail("a picture was read"))
        again(own)

    def test_two_workspaces_hold_the_same_bytes(
        self, finished: tuple[Workspace, FinetuneRow], place: Workspace
    ) -> None:
        assert lasting(again(place).record) == lasting(finished[1].record)

    @pytest.mark.parametrize("strategy", ["lp", "lora", "vera", "bitfit", "ia3"])
    def test_so_does_every_strategy_with_augmentation_and_dropout(
        self, place: Workspace, tmp_path: Path, strategy: str
    ) -> None:
        other = copied(place, tmp_path / "other")
        torch.manual_seed(1)
        one = row_of_call(place, VIT_NAME, strategy, set_=["epochs=2", "batch_size=8"])
        torch.manual_seed(2)
        torch.rand(3)
        two = row_of_call(other, VIT_NAME, strategy, set_=["epochs=2", "batch_size=8"])
        assert lasting(one.record) == lasting(two.record)

    def test_the_callers_random_state_stays_as_it_was(self, place: Workspace) -> None:
        torch.manual_seed(5)
        expected = torch.rand(4)
        torch.manual_seed(5)
        row_of_call(place, CNN, "fft")
        assert torch.equal(torch.rand(4), expected)
        assert not torch.are_deterministic_algorithms_enabled()

    def test_what_else_is_in_the_call_changes_nothing(
        self, finished: tuple[Workspace, FinetuneRow], place: Workspace
    ) -> None:
        rows = rows_of_call(place, [f"{CNN}@random:3", CNN], ["lp", "bitfit", "fft"], task=["PHA_icu", TASK], **FOLDS)
        (row,) = [row for row in rows if (row.task, row.backbone, row.strategy) == (TASK, CNN, "FFT")]
        assert lasting(row.record) == lasting(finished[1].record)

    def test_force_makes_it_again_with_the_same_bytes(self, own: Workspace, trainings: Trainings) -> None:
        (folder,) = records_in(own)
        before, inode = lasting(folder), (folder / "record.json").stat().st_ino
        again(own, force=True)
        assert trainings.names == ["fold-0", "fold-1", "fold-2"]
        assert (folder / "record.json").stat().st_ino != inode
        assert lasting(folder) == before
        assert not (folder / "cells").exists()

    @pytest.mark.parametrize("harm", ["predictions flipped", "predictions gone", "record gone", "record cut"])
    def test_a_damaged_record_is_made_again(self, own: Workspace, trainings: Trainings, harm: str) -> None:
        (folder,) = records_in(own)
        before = lasting(folder)
        table, record = folder / "predictions.parquet", folder / "record.json"
        data = table.read_bytes()
        {
            "predictions flipped": lambda: table.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:]),
            "predictions gone": table.unlink,
            "record gone": record.unlink,
            "record cut": lambda: os.truncate(record, 100),
        }[harm]()
        again(own)
        assert len(trainings) == 3
        assert lasting(folder) == before
        assert read_record(folder).status == "complete"

    def test_without_its_checkpoints_a_record_is_whole(self, own: Workspace, trainings: Trainings) -> None:
        (folder,) = records_in(own)
        shutil.rmtree(folder / "checkpoints")
        again(own)
        assert len(trainings) == 0

    def test_of_a_checkpoint_that_is_gone_it_is_said_that_it_cannot_predict(self, own: Workspace) -> None:
        (gone,) = own.results.rglob("fold-1.safetensors")
        gone.unlink()
        ear = Ear()
        again(own, progress=ear)
        (note,) = [each for each in ear.notes if "fold-1.safetensors is no longer in" in each]
        assert "--force trains it again" in note

    def test_made_again_without_checkpoints_it_keeps_none_of_the_old(self, own: Workspace) -> None:
        """They would be another training's, whose digests nobody knows."""
        row = again(own, force=True, checkpoints="none")
        assert record_of(row).provenance["checkpoints"] == {}
        assert list(Path(row.record).rglob("*.safetensors")) == []

    def test_checkpoints_that_are_asked_for_and_were_not_kept_are_missed(self, place: Workspace) -> None:
        again(place, checkpoints="none")
        ear = Ear()
        again(place, checkpoints="all", progress=ear)
        assert any("checkpoint" in note and "--force" in note for note in ear.notes)

    def test_other_permutations_are_drawn_and_nothing_is_trained(self, own: Workspace, trainings: Trainings) -> None:
        (folder,) = records_in(own)
        row = again(own, permutations=19)
        assert (len(trainings), row.record) == (0, str(folder))
        assert record_of(row).null["permutations"] == 19
        assert again(own, permutations=0).p_value != again(own, permutations=0).p_value, "NaN"
        assert record_of(again(own, permutations=9)).null["permutations"] == 9
        assert len(trainings) == 0


class TestUnfinished:
    def unfinished(self, place: Workspace, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Path:
        """A record whose cells are all trained and which is not written; answers its folder."""
        with monkeypatch.context() as patch:
            patch.setattr(runs, "write_complete", self.stopped)
            with pytest.raises(KeyboardInterrupt):
                again(place, **options)
        (folder,) = [path.parent for path in place.results.rglob("cells")]
        return folder

    @staticmethod
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def test_finished_folds_are_not_trained_again(
        self,
        finished: tuple[Workspace, FinetuneRow],
        place: Workspace,
        trainings: Trainings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder = self.unfinished(place, monkeypatch)
        assert {path.name for path in (folder / "cells").iterdir()} == {f"fold-{fold}.npz" for fold in range(3)}
        assert not (folder / "record.json").exists()
        trainings.cells.clear()
        row = again(place)
        assert len(trainings) == 0
        assert lasting(row.record) == lasting(finished[1].record)
        assert not (folder / "cells").exists()

    @pytest.mark.parametrize("harm", ["gone", "cut", "flipped", "without its checkpoint"])
    def test_of_those_only_what_is_damaged_is_trained_again(
        self,
        finished: tuple[Workspace, FinetuneRow],
        place: Workspace,
        trainings: Trainings,
        monkeypatch: pytest.MonkeyPatch,
        harm: str,
    ) -> None:
        folder = self.unfinished(place, monkeypatch)
        answer = folder / "cells" / "fold-1.npz"
        data = answer.read_bytes()
        {
            "gone": answer.unlink,
            "cut": lambda: os.truncate(answer, len(data) // 2),
            "flipped": lambda: answer.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:]),
            "without its checkpoint": (folder / "checkpoints" / "fold-1.safetensors").unlink,
        }[harm]()
        trainings.cells.clear()
        row = again(place)
        assert trainings.names == ["fold-1"]
        assert lasting(row.record) == lasting(finished[1].record)

    @pytest.mark.parametrize("harm", ["cut", "flipped", "no state at all"])
    def test_a_damaged_state_is_said_and_that_fold_begun_anew(
        self, finished: tuple[Workspace, FinetuneRow], place: Workspace, harm: str
    ) -> None:
        folder = self.stopped_in_a_fold(place)
        (state,) = (folder / "cells").glob("*.state")
        data = state.read_bytes()
        changed = {
            "cut": data[:-9],
            "flipped": data[:500] + bytes([data[500] ^ 1]) + data[501:],
            "no state at all": b"",
        }
        state.write_bytes(changed[harm])
        ear = Ear()
        row = again(place, progress=ear)
        assert any(f"the kept state {state.name} is damaged" in each for each in ear.notes)
        assert lasting(row.record) == lasting(finished[1].record)

    def test_a_fold_that_was_stopped_goes_on_from_its_state(
        self, finished: tuple[Workspace, FinetuneRow], place: Workspace
    ) -> None:
        folder = self.stopped_in_a_fold(place)
        assert {path.name for path in (folder / "cells").iterdir()} == {"fold-0.npz", "fold-1.state"}
        ear = Ear()
        row = again(place, progress=ear)
        assert not any("damaged" in each for each in ear.notes)
        assert lasting(row.record) == lasting(finished[1].record)

    def stopped_in_a_fold(self, place: Workspace) -> Path:
        with pytest.raises(KeyboardInterrupt):
            again(place, progress=StoppedIn(1))
        (folder,) = [path.parent for path in place.results.rglob("cells")]
        return folder

    def test_a_call_that_forces_goes_on_as_well_where_it_was_stopped(
        self, own: Workspace, trainings: Trainings
    ) -> None:
        """Or a job that is preempted time and again would never come to an end."""
        with pytest.raises(KeyboardInterrupt):
            again(own, force=True, progress=StoppedIn(2))
        trainings.cells.clear()
        again(own, force=True)
        assert trainings.names == ["fold-2"]

    def test_what_was_to_be_made_again_and_was_stopped_is_not_taken_for_finished(self, own: Workspace) -> None:
        """Its first checkpoints are of the new training already, and the old record names those of the old."""
        (folder,) = records_in(own)
        with pytest.raises(KeyboardInterrupt):
            again(own, force=True, progress=StoppedIn(1))
        assert not (folder / "record.json").exists()


class StoppedIn(Ear):
    """Stops, as Ctrl-C would, in the midst of a fold's first epoch."""

    def __init__(self, fold: int) -> None:
        super().__init__()
        self.label, self.steps = f"fold {fold}", 2

    def start(self, label: str, total: int) -> None:
        super().start(label, total)
        self.inside = label.startswith("training") and label.endswith(self.label)

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        self.steps -= count > 0 and self.inside
        if not self.steps:
            raise KeyboardInterrupt


def small(place: Workspace, **options: Any) -> FinetuneRow:
    return row_of_call(place, CNN, **{"strategy": "lora", **options})


class TestIdentity:
    @pytest.mark.parametrize(
        "words",
        [
            {"set_": ["epochs=1", "batch_size=8", "augmentation=none"]},
            {"set_": ["epochs=2", "batch_size=8"]},
            {"set_": ["epochs=2", "batch_size=8", "augmentation=none", "learning_rate=0.01"]},
            {"seed": 1},
            {"rank": 4},
            {"precision": "bf16"},
            {"preset": "paper", "set_": ["epochs=2", "batch_size=8", "augmentation=none", "targets=attention"]},
            {"strategy": "fft"},
            {"split": "LOCO"},
            {"regime": "reduced", "shots": 12, "draws": 1},
        ],
        ids=",".join,
    )
    def test_whatever_decides_a_number_makes_another_record(
        self, place: Workspace, trainings: Trainings, words: dict[str, Any]
    ) -> None:
        first = small(place)
        before = lasting(first.record)
        other = small(place, **words)
        assert other.record != first.record
        assert len(records_in(place)) == 2
        assert len(trainings) >= 2
        assert lasting(first.record) == before
        assert record_of(other).identity != record_of(first).identity

    @pytest.mark.parametrize("words", [{"track": "none"}, {"checkpoints": "all"}, {"device": "auto"}], ids=str)
    def test_what_decides_none_makes_none(self, place: Workspace, trainings: Trainings, words: dict[str, Any]) -> None:
        if torch.cuda.is_available():
            pytest.skip("here `auto` is a GPU")
        small(place)
        small(place, **words)
        assert (len(trainings), len(records_in(place))) == (1, 1)

    def test_a_preset_and_the_same_settings_in_a_file_are_one_configuration(
        self, place: Workspace, tmp_path: Path, trainings: Trainings
    ) -> None:
        small(place)
        (tmp_path / "mine.yaml").write_text("epochs: 2\nbatch_size: 8\naugmentation: null\n")
        (tmp_path / "mine.json").write_text(json.dumps({"preset": "quick", "epochs": 2, "augmentation": None}))
        small(place, preset=str(tmp_path / "mine.yaml"), set_=())
        small(place, preset=str(tmp_path / "mine.json"), set_="batch_size=8")
        assert len(trainings) == 1

    def test_another_version_makes_another_record(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        small(place)
        monkeypatch.setattr(provenance, "version", lambda: "99.0")
        assert record_of(small(place)).config.version == "99.0"
        assert len(records_in(place)) == 2

    def test_a_label_that_was_corrected_makes_another_record(self, place: Workspace) -> None:
        small(place)
        manifest = manifest_of(place)
        first = manifest.frame["patient_id"] == manifest.frame["patient_id"][0]
        other = {"yes": "no", "no": "yes"}[manifest.frame["icu"][0]]
        corrected = manifest.frame.assign(icu=manifest.frame["icu"].mask(first, other))
        Manifest("phantom", corrected).write(place.manifest("phantom"))
        small(place)
        assert len(records_in(place)) == 2

    def test_other_pictures_of_the_same_patients_make_another_record(self, tmp_path: Path) -> None:
        place = Workspace(tmp_path / "workspace")
        for size in (64, 72):
            raw = write_phantom(tmp_path / f"raw-{size}", PhantomConfig(patients=30, size=size))
            prepare("phantom", raw, workspace=place)
            small(place)
        assert len(records_in(place)) == 2

    def test_other_weights_under_the_same_name_make_another_record(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small(place)
        monkeypatch.setattr("verb_kit.PRETRAINED_SEED", 998)
        small(place)
        assert len(records_in(place)) == 2

    def test_another_transform_makes_another_record(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        small(place)
        card = CARDS[CNN]
        changed = replace(card.transform, resize=34)
        monkeypatch.setitem(CARDS, CNN, card.model_copy(update={"transform": changed}))
        small(place)
        assert len(records_in(place)) == 2

    def test_the_state_of_another_configuration_is_never_taken_up(self, place: Workspace) -> None:
        """Stopped with one rate and called with another: the second trains from its own beginning."""
        slow = ["epochs=2", "batch_size=8", "augmentation=none", "learning_rate=1e-5"]
        with pytest.raises(KeyboardInterrupt):
            again(place, set_=slow, progress=StoppedIn(1))
        row = again(place)
        alone = Workspace(Path(shutil.copytree(place.root / "cohorts", place.root.parent / "alone" / "cohorts")).parent)
        assert lasting(row.record) == lasting(again(alone).record)
        assert len([*place.results.rglob("cells")]) == 1, "what was stopped is kept for whoever goes on with it"
