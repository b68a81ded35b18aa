"""Records: read as written, complete or nothing, and every change on disk is noticed."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, matthews_corrcoef

from peftbench.errors import RecordError
from peftbench.protocol.records import (
    PREDICTION_COLUMNS,
    RECORD_SCHEMA,
    Record,
    RunConfig,
    finished,
    iter_records,
    read_predictions,
    read_record,
    write_predictions,
)
from peftbench.protocol.scoring import score_folds, summarise
from peftbench.protocol.workspace import Workspace

CONFIG = RunConfig(
    task="TOY",
    backbone="resnet18@random:0",
    strategy="LP",
    probe="logistic",
    regime="full",
    scheme="k-fold",
    folds=3,
    shots=None,
    draws=1,
    seed=0,
    settings={"C": [1e-05, 0.1, 10.0], "standardised": True},
    task_digest="t" * 64,
    split_digest="s" * 64,
    features="f" * 64,
    features_digest="d" * 64,
    version="0.1.0",
)

CHANGES: dict[str, Any] = {
    "task": "TOY_m",
    "backbone": "resnet18",
    "strategy": "LoRA",
    "probe": "ridge",
    "regime": "few-shot",
    "scheme": "LOCO",
    "folds": 4,
    "shots": 8,
    "draws": 2,
    "seed": 1,
    "settings": {"C": [1e-05, 0.1, 1.0], "standardised": True},
    "task_digest": "u" * 64,
    "split_digest": "u" * 64,
    "features": "u" * 64,
    "features_digest": "u" * 64,
    "version": "0.1.1",
    "external": "TOY_elsewhere",
    "external_digest": "u" * 64,
}


def predictions() -> pd.DataFrame:
    """Three folds of eight images of four patients; in the last nobody has the event."""
    random = np.random.default_rng(0)
    parts = []
    for fold in range(3):
        for role, count in (("validation", 6), ("test", 8)):
            event = np.arange(count) // 2 % 2 if fold < 2 else np.zeros(count, dtype=np.int64)
            parts.append(
                pd.DataFrame(
                    {
                        "fold": fold,
                        "draw": 0,
                        "role": role,
                        "sample_id": [f"s-{fold}-{role}-{row}" for row in range(count)],
                        "patient_id": [f"p-{row // 2}" for row in range(count)],
                        "event": event,
                        "score": np.clip(random.normal(0.3 + 0.3 * event, 0.25), 0, 1),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


CHOSEN = {(fold, 0): {"C": 0.1, "validation_log_loss": 0.5 + fold} for fold in range(3)}


def write_record(folder: Path, config: RunConfig = CONFIG) -> Record:
    frame = predictions()
    scores = score_folds(frame, CHOSEN)
    record = Record(
        identity=config.identity,
        config=config,
        task={"unit": "image", "prevalence": 0.5},
        scores=[score._asdict() for score in scores],
        summary=summarise(scores),
        notes=["three folds"],
        provenance={"packages": {"numpy": "2.0"}},
        cost={"seconds": {"fit": 0.5}},
        predictions_digest=write_predictions(folder, frame),
        status="complete",
    )
    record.write(folder)
    return record


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "run"
    write_record(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy to break for good."""
    return Path(shutil.copytree(sound, tmp_path / "run"))


class TestIdentity:
    def test_every_field_is_tested(self) -> None:
        assert set(CHANGES) == set(RunConfig.model_fields)

    @pytest.mark.parametrize("field", CHANGES)
    def test_changing_one_field_changes_identity_and_folder(self, field: str) -> None:
        other = CONFIG.model_copy(update={field: CHANGES[field]})
        place = Workspace(Path("workspace"))
        assert other.identity != CONFIG.identity
        assert other.folder(place) != CONFIG.folder(place)

    def test_it_survives_being_written_as_json(self) -> None:
        assert RunConfig.model_validate(json.loads(CONFIG.model_dump_json())).identity == CONFIG.identity

    def test_the_folder_of_an_external_validation_names_the_other_task(self) -> None:
        other = CONFIG.model_copy(update={"external": "TOY_elsewhere"})
        assert "-on-TOY_elsewhere-" in other.run_name
        assert "-on-" not in CONFIG.run_name

    def test_unknown_words_are_refused(self) -> None:
        with pytest.raises(ValueError, match="Extra inputs"):
            RunConfig(**CONFIG.model_dump(), surprise=1)


class TestScores:
    def test_each_fold_is_scored_on_its_test_part_alone(self) -> None:
        frame = predictions()
        for score in score_folds(frame, CHOSEN):
            part = frame[(frame["fold"] == score.fold) & (frame["role"] == "test")]
            if score.unit == "patient":
                part = part.groupby("patient_id").agg({"event": "max", "score": "mean"})
            assert (score.size, score.events) == (len(part), part["event"].sum())
            assert score.chosen == CHOSEN[score.fold, score.draw]
            if score.fold < 2:
                assert score.metrics["mcc"] == pytest.approx(matthews_corrcoef(part["event"], part["score"] >= 0.5))
                area = average_precision_score(part["event"], part["score"])
                assert score.metrics["pr_auc"] == pytest.approx(area)
            else:
                assert math.isnan(score.metrics["mcc"])
                assert score.reasons["mcc"] == f"none of the {len(part)} has the event"

    def test_every_fold_is_scored_in_both_units(self) -> None:
        found = [(score.unit, score.fold) for score in score_folds(predictions(), CHOSEN)]
        assert sorted(found) == sorted((unit, fold) for unit in ("image", "patient") for fold in range(3))

    def test_the_summary_leaves_out_folds_without_a_value_and_counts_the_others(self) -> None:
        scores = score_folds(predictions(), CHOSEN)
        summary = summarise(scores)
        for unit in ("image", "patient"):
            values = [score.metrics["mcc"] for score in scores if score.unit == unit][:2]
            assert summary[unit]["mcc"]["folds"] == 2
            assert summary[unit]["mcc"]["mean"] == pytest.approx(np.mean(values))
            assert summary[unit]["mcc"]["std"] == pytest.approx(np.std(values, ddof=1))
            assert summary[unit]["brier"]["folds"] == 3


class TestRoundtrip:
    def test_a_record_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        written = write_record(tmp_path / "run")
        found = read_record(tmp_path / "run")
        assert found.config == written.config
        assert found.score("mcc", "image") == written.score("mcc", "image")
        assert found.score("pr_auc", "patient") == written.score("pr_auc", "patient")
        assert (found.notes, found.provenance, found.cost) == (written.notes, written.provenance, written.cost)

    def test_what_was_judged_beside_the_scores_survives(self, tmp_path: Path) -> None:
        written = write_record(tmp_path / "run")
        told: dict[str, Any] = {
            "distribution": {"image": {"mcc": {"draws": 2, "mean": 0.1, "std": None}}},
            "null": {"how": "labels of test patients", "permutations": 99, "p": 0.01},
            "strata": [{"column": "view", "value": "AP", "size": 3, "mcc_mean": 0.5}],
            "reliability": [{"low": 0.0, "high": 0.1, "count": 4, "score": 0.05, "share": 0.25}],
        }
        written.model_copy(update=told).write(tmp_path / "run")
        found = read_record(tmp_path / "run")
        assert {name: getattr(found, name) for name in told} == told

    def test_a_threshold_is_kept_with_its_fold(self, sound: Path) -> None:
        kept = {(score["unit"], score["fold"]): score["threshold"] for score in read_record(sound).scores}
        assert kept == {(score.unit, score.fold): score.threshold for score in score_folds(predictions(), CHOSEN)}

    def test_predictions_are_read_to_the_last_bit(self, sound: Path) -> None:
        pd.testing.assert_frame_equal(read_predictions(sound), predictions(), check_exact=True)

    def test_only_the_stated_columns_are_saved(self, tmp_path: Path) -> None:
        write_predictions(tmp_path, predictions().assign(name="Jane Doe"))
        assert tuple(read_predictions(tmp_path).columns) == PREDICTION_COLUMNS

    def test_what_is_not_defined_is_null_on_disk_and_nan_in_memory(self, sound: Path, tmp_path: Path) -> None:
        text = (sound / "record.json").read_text()
        assert "NaN" not in text
        last = [score for score in json.loads(text)["scores"] if score["fold"] == 2]
        assert [score["metrics"]["mcc"] for score in last] == [None, None]
        # A record without a single usable fold.
        frame = predictions()
        scores = score_folds(frame[frame["fold"] == 2], {(2, 0): {}})
        record = read_record(sound).model_copy(update={"summary": summarise(scores)})
        shutil.copytree(sound, tmp_path / "run")
        record.write(tmp_path / "run")
        assert all(map(math.isnan, read_record(tmp_path / "run").score("mcc", "image")))

    def test_a_score_of_zero_stays_zero(self, sound: Path) -> None:
        summary = {"image": {"mcc": {"mean": 0.0, "std": None, "folds": 1}}}
        mean, std = read_record(sound).model_copy(update={"summary": summary}).score("mcc", "image")
        assert mean == 0
        assert math.isnan(std)

    def test_equal_predictions_make_equal_bytes(self, sound: Path, tmp_path: Path) -> None:
        write_predictions(tmp_path, predictions())
        assert (tmp_path / "predictions.parquet").read_bytes() == (sound / "predictions.parquet").read_bytes()


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the record's JSON."""

    def apply(folder: Path) -> None:
        record = json.loads((folder / "record.json").read_text())
        change(record)
        (folder / "record.json").write_text(json.dumps(record))

    return apply


def flip_predictions(position: float) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = bytearray((folder / "predictions.parquet").read_bytes())
        data[int(position * (len(data) - 1))] ^= 1
        (folder / "predictions.parquet").write_bytes(bytes(data))

    return apply


def cut_record(folder: Path) -> None:
    text = (folder / "record.json").read_text()
    (folder / "record.json").write_text(text[: len(text) // 2])


HARMS: dict[str, Callable[[Path], object]] = {
    "no record": lambda folder: (folder / "record.json").unlink(),
    "no predictions": lambda folder: (folder / "predictions.parquet").unlink(),
    "no folder": shutil.rmtree,
    "first byte of the predictions": flip_predictions(0),
    "a byte amid the predictions": flip_predictions(0.5),
    "last byte of the predictions": flip_predictions(1),
    "record cut short": cut_record,
    "record empty": lambda folder: (folder / "record.json").write_bytes(b""),
    "record is no text": lambda folder: (folder / "record.json").write_bytes(b"\xff\xfe\x00"),
    "record is a list": lambda folder: (folder / "record.json").write_text("[]"),
    "seed": edit(lambda record: record["config"].update(seed=7)),
    "setting": edit(lambda record: record["config"]["settings"].update(standardised=False)),
    "identity": edit(lambda record: record.update(identity="0" * 64)),
    "digest of the predictions": edit(lambda record: record.update(predictions_digest="0" * 64)),
    "scores gone": edit(lambda record: record.pop("scores")),
    "unknown word": edit(lambda record: record.update(surprise=1)),
}

ALTERED: dict[str, Callable[[Path], object]] = {
    "a fold's score": edit(lambda record: record["scores"][0]["metrics"].update(mcc=0.99)),
    "a mean": edit(lambda record: record["summary"]["image"]["mcc"].update(mean=0.99)),
    "the prevalence": edit(lambda record: record["task"].update(prevalence=0.01)),
    "a version": edit(lambda record: record["provenance"]["packages"].update(numpy="1.0")),
}


class TestDamage:
    @pytest.mark.parametrize("harm", HARMS)
    def test_damage_is_an_error_and_the_record_counts_as_absent(self, folder: Path, harm: str) -> None:
        assert finished(folder) is not None
        HARMS[harm](folder)
        with pytest.raises(RecordError, match=r"run"):
            read_record(folder)
        assert finished(folder) is None

    @pytest.mark.parametrize("what", ALTERED)
    def test_a_number_altered_in_the_record_is_noticed(self, folder: Path, what: str) -> None:
        ALTERED[what](folder)
        with pytest.raises(RecordError):
            read_record(folder)

    @pytest.mark.parametrize("schema", [RECORD_SCHEMA - 1, RECORD_SCHEMA + 1])
    def test_a_record_of_another_schema_is_not_taken_for_this_one(self, folder: Path, schema: int) -> None:
        body = read_record(folder).model_copy(update={"schema_version": schema})
        body.write(folder)
        with pytest.raises(RecordError, match="form of another version: delete that folder and run the command again"):
            read_record(folder)

    def test_a_run_that_wrote_only_its_predictions_left_no_record(self, tmp_path: Path) -> None:
        write_predictions(tmp_path / "run", predictions())
        assert finished(tmp_path / "run") is None
        with pytest.raises(RecordError, match=r"record.json is missing"):
            read_record(tmp_path / "run")

    def test_predictions_of_another_run_are_not_those_of_the_record(self, folder: Path) -> None:
        write_predictions(folder, predictions().assign(score=0.5))
        with pytest.raises(RecordError, match="not those of its record"):
            read_record(folder)


class TestIteration:
    def test_records_come_in_the_order_of_their_paths_and_incomplete_ones_do_not_come(self, tmp_path: Path) -> None:
        place = Workspace(tmp_path)
        configs = [CONFIG.model_copy(update={"task": name, "seed": seed}) for name in ("B", "A") for seed in (1, 0)]
        for config in configs:
            write_record(config.folder(place), config)
        (configs[0].folder(place) / "record.json").unlink()
        found = list(iter_records(place))
        assert [folder for folder, _ in found] == sorted(config.folder(place) for config in configs[1:])
        assert all(record.config.folder(place) == folder for folder, record in found)

    def test_a_damaged_record_is_not_passed_over_in_silence(self, tmp_path: Path) -> None:
        place = Workspace(tmp_path)
        write_record(CONFIG.folder(place))
        flip_predictions(0.5)(CONFIG.folder(place))
        with pytest.raises(RecordError):
            list(iter_records(place))

    def test_a_workspace_without_results_has_no_records(self, tmp_path: Path) -> None:
        assert list(iter_records(Workspace(tmp_path))) == []
