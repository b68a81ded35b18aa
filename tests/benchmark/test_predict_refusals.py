"""What cannot predict, and what does not match, is refused by a sentence that says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from predict_kit import BACKBONE, TASK, Made, assert_as_recorded, probed, recorded, scores_of, tuned
from progress_kit import Ear
from vit_kit import TinyViT

from peftbench.benchmark.predict import predict
from peftbench.benchmark.predicting_encoder import differences, precision_of
from peftbench.benchmark.predicting_record import open_source
from peftbench.cohorts.prepare import prepare
from peftbench.errors import (
    ConfigError,
    DeviceError,
    MissingPackageError,
    NotPreparedError,
    PeftbenchError,
    RecordError,
    UnknownNameError,
)
from peftbench.extraction.extract import extract
from peftbench.imaging import policy as policy_module
from peftbench.probing import runs
from peftbench.probing.probe import probe
from peftbench.protocol.records import Record, read_record
from peftbench.protocol.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("vit")]

CPU = torch.device("cpu")


def refused(error: type[PeftbenchError], *parts: str, record: Path | str, images: Any, **options: Any) -> str:
    """The sentence, which must hold these parts."""
    with pytest.raises(error) as raised:
        predict(record, images, **{"device": "cpu", **options})
    told = str(raised.value)
    assert [part for part in parts if part not in told] == []
    return told


def rewritten(folder: Path, change: Callable[[Record], Record]) -> Path:
    """A record changed as only a program could, with its seals."""
    record = change(read_record(folder))
    record = record.model_copy(update={"identity": record.config.identity})
    new = record.config.folder(Workspace(folder.parents[4]))
    if new != folder:
        shutil.copytree(folder, new)
    record.write(new)
    return new


def with_config(**changes: Any) -> Callable[[Record], Record]:
    return lambda record: record.model_copy(update={"config": record.config.model_copy(update=changes)})


class TestRecord:
    def test_none_at_all(self, made: Made, tmp_path: Path) -> None:
        refused(ConfigError, "there is no record", "peftbench probe --json", record=tmp_path / "no", images=made.fresh)

    def test_a_folder_that_is_none(self, made: Made) -> None:
        told = refused(ConfigError, "is no record, it has no record.json", record=made.place.root, images=made.fresh)
        assert "delete" not in told

    def test_its_file_is_as_good_as_its_folder(self, made: Made) -> None:
        assert open_source(made.probe / "record.json", None).folder == made.probe

    def test_a_damaged_one(self, own: Made) -> None:
        body = json.loads((own.probe / "record.json").read_text())
        (own.probe / "record.json").write_text(json.dumps({**body, "notes": ["forged"]}))
        refused(RecordError, "was altered", record=own.probe, images=own.fresh)

    def test_a_control(self, own: Made) -> None:
        (row,) = probe(TASK, workspace=own.place, workers=1, permutations=0).results[:1]
        refused(ConfigError, "control:view", "sees no image", record=row.record, images=own.fresh)

    @pytest.mark.parametrize(
        ("change", "part"),
        [
            ({"backbone": f"{BACKBONE} + clinical"}, f"name the record of {BACKBONE} alone"),
            ({"probe": "cox"}, "answers hazards"),
            (
                {"external": "AFC", "external_digest": "0", "features_digest": "0"},
                f"peftbench probe {TASK} --backbone {BACKBONE}",
            ),
        ],
        ids=["clinical", "cox", "external"],
    )
    def test_what_has_no_probability_of_a_picture(self, own: Made, change: dict[str, Any], part: str) -> None:
        refused(ConfigError, part, record=rewritten(own.probe, with_config(**change)), images=own.fresh)

    def test_a_test_elsewhere_names_the_record_of_its_models(self, own: Made) -> None:
        config = read_record(own.lora).config
        words = {"settings": {**config.settings, "fold_models": "averaged"}, "external": "AFC"}
        moved = rewritten(own.lora, with_config(**words))
        refused(ConfigError, f"name the record of the models themselves, {own.lora}", record=moved, images=own.fresh)


class TestWorkspace:
    def test_the_records_own_is_found_from_anywhere(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PEFTBENCH_WORKSPACE", "/nowhere")
        monkeypatch.chdir(made.probe.parents[4])
        assert open_source(made.probe.relative_to(Path.cwd()), None).place.root == made.place.root

    def test_a_record_that_was_moved_out(self, made: Made, tmp_path: Path) -> None:
        moved = Path(shutil.copytree(made.probe, tmp_path / "moved"))
        refused(ConfigError, "lies in no workspace", "--workspace DIR", record=moved, images=made.fresh)
        source = open_source(moved, made.place)
        assert source.place == made.place
        assert predict(moved, made.some[:2], workspace=made.place, device="cpu").models > 1

    def test_checkpoints_that_were_moved_out(self, made: Made, tmp_path: Path) -> None:
        moved = Path(shutil.copytree(made.lora, tmp_path / "moved"))
        there, here = (predict(each, made.some[:2], workspace=made.place, device="cpu") for each in (moved, made.lora))
        assert there.frame.equals(here.frame)

    def test_one_in_which_the_cohort_is_not_prepared(self, made: Made, tmp_path: Path) -> None:
        refused(
            NotPreparedError, "peftbench prepare phantom",
            record=made.probe, images=made.fresh, workspace=tmp_path / "empty",
        )  # fmt: skip


class TestCohort:
    def test_prepared_by_another_policy(self, own: Made) -> None:
        prepare("phantom", own.pictures.parent, workspace=own.place, policy="percentile", workers=1)
        refused(RecordError, "minmax(8bit)", "percentile(", record=own.lora, images=own.fresh)
        refused(RecordError, "other rows or labels", record=own.probe, images=own.fresh)

    def test_prepared_by_another_decoder(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(policy_module, "DECODER", "grey9")
        for record in (made.probe, made.lora):
            refused(RecordError, "grey2|", "grey9|", "make the record again", record=record, images=made.fresh)

    def test_with_other_labels(self, own: Made, tmp_path: Path) -> None:
        raw = Path(shutil.copytree(own.pictures.parent, tmp_path / "raw"))
        table = pd.read_csv(raw / "phantom.csv")
        patient = table["patient_id"] == table["patient_id"].iloc[0]
        table.loc[patient, "icu"] = 1 - table.loc[patient, "icu"]
        table.to_csv(raw / "phantom.csv", index=False)
        prepare("phantom", raw, workspace=own.place, workers=1)
        refused(RecordError, "other rows or labels", f"peftbench probe {TASK}", record=own.probe, images=own.fresh)
        answer = predict(own.lora, own.some[:2], device="cpu")
        assert "not known as seen" in answer.notes[0]

    def test_a_task_that_the_workspace_does_not_know(self, own: Made) -> None:
        moved = rewritten(own.probe, with_config(task="PHA_gone"))
        refused(UnknownNameError, "PHA_gone", record=moved, images=own.fresh)


class TestBackbone:
    def test_other_weights(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TinyViT, "pretrained", TinyViT.build)
        for record in (made.probe, made.lora):
            told = refused(RecordError, "its weights:", "peftbench weights verify", record=record, images=made.fresh)
            assert read_record(record).provenance["features"]["recipe"]["weights"][:12] in told

    def test_weights_of_the_users_own_are_named_by_their_file(self, own: Made, tmp_path: Path) -> None:
        mine, other = tmp_path / "mine.pt", tmp_path / "other.pt"
        for path in (mine, other):
            torch.save(TinyViT().build().state_dict(), path)
        backbone = f"{BACKBONE}@file:{mine}"
        extract("phantom", backbone, workspace=own.place, device="cpu", precision="fp32")
        renamed = mine.rename(tmp_path / "renamed.pt")
        mine.write_bytes(renamed.read_bytes())
        for record in (probed(own.place, backbone), tuned(own.place, backbone, "lp")):
            mine.unlink(missing_ok=True)
            refused(ConfigError, "@mine-", "--weights PATH", record=record, images=own.fresh)
            refused(RecordError, "its weights", record=record, images=own.fresh, weights=other)
            found = scores_of(record, *own.some, weights=str(renamed))
            assert_as_recorded(found, recorded(record, own.place, "test"))
            mine.write_bytes(renamed.read_bytes())

    def test_weights_that_are_not_asked_for(self, own: Made) -> None:
        extract("phantom", f"{BACKBONE}@random:1", workspace=own.place, device="cpu", precision="fp32")
        record = probed(own.place, f"{BACKBONE}@random:1")
        refused(ConfigError, "leave --weights out", record=record, images=own.fresh, weights="some.pt")

    def test_a_folder_of_the_users_own(self, own: Made) -> None:
        moved = rewritten(own.lora, with_config(backbone="hf:mine-0a1b2c3d"))
        refused(ConfigError, "hf:mine-0a1b2c3d", "its folder) with --weights PATH", record=moved, images=own.fresh)

    def test_without_torch(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "peftbench.benchmark.predicting_probe", None)
        refused(MissingPackageError, "pip install", record=made.probe, images=made.fresh)


class TestPrecision:
    def test_fp16_on_a_processor(self) -> None:
        with pytest.raises(DeviceError, match=r"made in fp16, which needs a GPU: .* --precision fp32"):
            precision_of(None, "fp16", CPU)
        assert precision_of("fp32", "fp16", CPU) == "fp32"
        with pytest.raises(DeviceError, match="fp16 needs a GPU"):
            precision_of("fp16", "fp32", CPU)

    @pytest.mark.parametrize("name", ["auto", "fp8"])
    def test_an_unknown_one(self, made: Made, name: str) -> None:
        refused(ConfigError, f"unknown precision '{name}'", record=made.probe, images=made.fresh, precision=name)

    def test_an_unknown_device(self, made: Made) -> None:
        refused(DeviceError, "unknown device 'gpu'", record=made.probe, images=made.fresh, device="gpu")

    @pytest.mark.parametrize("kind", ["probe", "lora"])
    def test_another_one_is_said(self, made: Made, kind: str) -> None:
        ear = Ear()
        answer = predict(getattr(made, kind), made.fresh, device="cpu", precision="bf16", progress=ear)
        (note,) = answer.notes
        assert "last digits" in note
        assert "precision: bf16 here, fp32 there" in note
        exact = predict(getattr(made, kind), made.fresh, device="cpu")
        assert max(abs(answer.frame["score"] - exact.frame["score"])) < 0.1

    def test_what_differs_is_told_by_its_name(self) -> None:
        here = {"device": "cpu/AVX2", "libraries": {"torch": "2"}, "weights": "1", "batch_size": 16, "new": 1}
        there = {"device": "cuda/H100", "libraries": {"torch": "1"}, "weights": "2", "batch_size": 16, "old": 1}
        assert differences(here, there).endswith(
            "(device: cpu/AVX2 here, cuda/H100 there; version of torch: 2 here, 1 there)"
        )
        assert differences(there, there) == ""

    def test_features_of_another_device_are_predicted_with_small_batches(
        self, own: Made, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from peftbench.extraction import extract as extract_module

        with monkeypatch.context() as patch:
            patch.setattr(extract_module, "device_kind", lambda _: "cpu/SOMETHING")
            (row,) = extract(
                "phantom", BACKBONE, workspace=own.place, device="cpu", precision="fp32", batch_size=64
            ).results
        record = probed(own.place, features=Path(row.store).name)
        answer = predict(record, own.some, device="cpu")
        assert any("batch size: 16 here, 64 there" in note and "SOMETHING there" in note for note in answer.notes)
        assert_as_recorded(scores_of(record, *own.some), recorded(record, own.place, "test"))


class TestModels:
    def test_features_that_are_gone(self, own: Made) -> None:
        shutil.rmtree(own.place.features_of(BACKBONE))
        refused(NotPreparedError, "are not in", f"peftbench probe {TASK}", record=own.probe, images=own.fresh)

    def test_a_probe_that_would_not_be_the_same(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runs, "PROBE_SCHEMA", 99)
        refused(RecordError, "probe_schema", "not as in the record", record=made.probe, images=made.fresh)

    def test_a_split_that_would_not_be_the_same(self, own: Made) -> None:
        moved = rewritten(own.probe, with_config(split_digest="0" * 64))
        refused(RecordError, "divides PHA_icu_all otherwise", record=moved, images=own.fresh)

    def test_another_version_of_metrics_changes_no_score(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runs, "METRICS_SCHEMA", 99)
        assert predict(made.probe, made.some[:1], device="cpu").models > 1

    def test_a_checkpoint_that_was_not_kept(self, own: Made) -> None:
        record = tuned(own.place, strategy="lp", checkpoints="none", seed=9)
        refused(RecordError, "keeps no checkpoint", "--checkpoints all --force", record=record, images=own.fresh)

    def test_a_checkpoint_that_is_damaged_or_gone(self, own: Made) -> None:
        (path,) = (own.lora / "checkpoints").iterdir()
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        refused(RecordError, "is damaged", record=own.lora, images=own.fresh)
        path.unlink()
        refused(RecordError, "is missing", record=own.lora, images=own.fresh)


class TestWords:
    @pytest.mark.parametrize(
        ("out", "part"),
        [
            ("scores.txt", "ends in .csv"),
            ("none/scores.csv", "there is no folder"),
            ("folder.csv", "is a folder"),
        ],
    )
    def test_a_table_that_cannot_be_written(self, made: Made, tmp_path: Path, out: str, part: str) -> None:
        (tmp_path / "folder.csv").mkdir()
        refused(ConfigError, part, record=made.probe, images=made.fresh, out=tmp_path / out)

    def test_no_image_named(self, made: Made) -> None:
        refused(ConfigError, "no image named", record=made.probe, images=[])

    def test_a_folder_without_images(self, made: Made, tmp_path: Path) -> None:
        (tmp_path / "table.csv").touch()
        refused(ConfigError, "holds no image file", record=made.probe, images=tmp_path)
