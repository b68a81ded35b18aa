"""The verb `finetune`, end to end on the phantom: what it answers, and a record that stands beside a probe's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors
from progress_kit import Ear
from sklearn.metrics import average_precision_score, matthews_corrcoef
from verb_kit import (
    CNN,
    QUICK,
    SHORT,
    TASK,
    VIT_NAME,
    WIDTH,
    copied,
    images_in,
    manifest_of,
    record_of,
    records_in,
    row_of_call,
    rows_of_call,
)

import peftbench
from peftbench.analysis.results import gain, results_table, strongest_control
from peftbench.cohorts.registry import TASKS
from peftbench.protocol.names import TRAINED
from peftbench.protocol.provenance import version
from peftbench.protocol.records import iter_records, read_predictions, read_record
from peftbench.protocol.results import FinetuneResult, FinetuneRow, ProbeRow
from peftbench.protocol.splits import hold_out
from peftbench.protocol.tasks import rows_of
from peftbench.protocol.workspace import Workspace
from stores.keys import file_digest

STRATEGIES = ["lp", "fft", "lora", "vera", "bitfit", "ia3"]

KEYS = {
    "task", "backbone", "probe", "regime", "scheme", "folds", "shots", "draws", "external", "mcc_mean", "mcc_std",
    "mcc_low", "mcc_high", "mcc_tuned_mean", "mcc_tuned_std", "mcc_q05", "mcc_q95", "mcc_worst_decile",
    "pr_auc_mean", "pr_auc_std", "c_index_mean", "c_index_std", "prevalence", "control", "gain_mean", "gain_low",
    "gain_high", "p_value", "record", "strategy", "rank", "trainable_parameters", "trainable_percent", "epochs",
    "seconds", "images_per_second", "peak_memory_mb",
}  # fmt: skip

Adapted = tuple[Workspace, FinetuneResult]


@pytest.fixture(scope="module")
def adapted(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    """A workspace in which the small transformer was adapted by all strategies in three folds; nobody writes to it."""
    place = copied(prepared, tmp_path_factory.mktemp("adapted") / "workspace")
    options: dict[str, Any] = {**QUICK, "split": "3-fold", "rank": [2, 4]}
    return place, peftbench.finetune(TASK, VIT_NAME, STRATEGIES, workspace=place, **options)


@pytest.fixture(scope="module")
def beside(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, list[Any]]:
    """A workspace in which features were probed, with controls, and then the same backbone was adapted."""
    place = copied(prepared, tmp_path_factory.mktemp("beside") / "workspace")
    peftbench.extract("phantom", CNN, workspace=place, device="cpu", precision="fp32")
    probed = peftbench.probe(TASK, CNN, workspace=place, split="3-fold").results
    return place, [*probed, *rows_of_call(place, CNN, ["lp", "fft"], split="3-fold")]


def of(rows: list[Any], kind: type, backbone: str = CNN) -> list[Any]:
    return [row for row in rows if isinstance(row, kind) and row.backbone == backbone]


class TestAnswer:
    def test_one_row_a_strategy_and_rank_in_the_order_asked_for(self, adapted: Adapted) -> None:
        found = [(row.task, row.backbone, row.strategy, row.rank) for row in adapted[1].results]
        expected = [("LP", None), ("FFT", None), ("LoRA", 2), ("LoRA", 4), ("VeRA", 2), ("VeRA", 4)]
        assert found == [(TASK, VIT_NAME, *each) for each in [*expected, ("BitFit", None), ("IA3", None)]]

    def test_every_row_has_every_key(self, adapted: Adapted) -> None:
        answer = adapted[1].to_json()
        assert set(answer) == {"results"}
        assert [set(row) for row in answer["results"]] == [KEYS] * 8
        json.dumps(answer, allow_nan=False)

    def test_what_was_asked_for_stands_in_it(self, adapted: Adapted) -> None:
        for row in adapted[1].results:
            assert (row.probe, row.regime, row.scheme, row.folds) == (TRAINED, "full", "k-fold", 3)
            assert (row.shots, row.draws, row.external) == (None, 1, "")
            assert row.epochs == 3 * 2, "three folds of two epochs"
            assert 0 < row.prevalence < 1
            assert 0.1 <= row.p_value <= 1, "nine permutations"

    def test_scores_are_those_of_the_saved_predictions(self, adapted: Adapted) -> None:
        for row in adapted[1].results:
            held = read_predictions(Path(row.record)).query("role == 'test'").groupby("fold")
            mcc = [matthews_corrcoef(part["event"], part["score"] >= 0.5) for _, part in held]
            area = [average_precision_score(part["event"], part["score"]) for _, part in held]
            assert (row.mcc_mean, row.mcc_std) == pytest.approx((np.mean(mcc), np.std(mcc, ddof=1)))
            assert (row.pr_auc_mean, row.pr_auc_std) == pytest.approx((np.mean(area), np.std(area, ddof=1)))

    def test_how_much_learns_and_what_it_cost(self, adapted: Adapted) -> None:
        rows = {(row.strategy, row.rank): row for row in adapted[1].results}
        head = 2 * 32 + 2
        assert rows["LP", None].trainable_parameters == head
        assert rows["FFT", None].trainable_percent == 100
        # Four matrices of 32 x 32 in each of six blocks, and the head.
        assert rows["LoRA", 4].trainable_parameters == 6 * 4 * 4 * 64 + head
        assert rows["LoRA", 2].trainable_parameters == 6 * 4 * 2 * 64 + head
        for row in rows.values():
            assert 0 < row.trainable_percent <= 100
            assert row.seconds > 0
            assert row.images_per_second > 0
            assert row.peak_memory_mb > 10

    def test_the_frame_has_a_line_a_row(self, adapted: Adapted) -> None:
        frame = adapted[1].frame
        assert set(frame.columns) == KEYS
        assert frame["strategy"].tolist() == [row.strategy for row in adapted[1].results]

    @pytest.mark.slow
    def test_tasks_and_backbones_each_have_their_rows(self, place: Workspace) -> None:
        rows = rows_of_call(place, [CNN, VIT_NAME, CNN], ["LP", "lp"], task=["PHA_icu", TASK, TASK])
        assert {(row.backbone, row.task) for row in rows} == {
            (b, t) for b in (CNN, VIT_NAME) for t in ("PHA_icu", TASK)
        }
        assert len(rows) == 4, "what is named twice is done once"

    def test_progress_reaches_what_was_announced(self, place: Workspace) -> None:
        ear = Ear()
        rows_of_call(place, CNN, ["lp", "fft"], split="3-fold", progress=ear)
        assert ear.done == ear.expected


class TestRecord:
    def test_every_image_of_a_fold_is_validated_or_tested_once(self, adapted: Adapted) -> None:
        place, answer = adapted
        rows = rows_of(TASKS[TASK], manifest_of(place))
        for row in answer.results:
            held = read_predictions(Path(row.record))
            assert not held.duplicated(["fold", "role", "sample_id"]).any()
            assert set(held["role"]) == {"validation", "test"}
            tests = held[held["role"] == "test"].set_index("sample_id").sort_index()
            expected = rows.frame.set_index("sample_id").sort_index()
            assert tests.index.tolist() == expected.index.tolist()
            assert tests["event"].tolist() == expected["event"].tolist()
            assert held["score"].between(0, 1).all()

    def test_its_split_is_saved_and_its_parts_are_those_of_the_split(self, place: Workspace) -> None:
        row = row_of_call(place)
        split = hold_out(rows_of(TASKS[TASK], manifest_of(place)))
        (path,) = place.splits(TASK).iterdir()
        pd.testing.assert_frame_equal(pd.read_parquet(path), split.frame)
        assert record_of(row).config.split_digest == split.digest
        for role in ("validation", "test"):
            part = split.frame.query("role == @role")
            assert images_in(row.record, role) == set(zip(part["fold"], part["sample_id"], strict=True))

    def test_it_says_what_it_was_made_of(self, adapted: Adapted) -> None:
        place, answer = adapted
        rows = rows_of(TASKS[TASK], manifest_of(place))
        record = record_of(answer.results[3])
        assert record.config.strategy == "LoRA r4"
        assert record.config.task_digest == rows.digest
        assert record.config.version == version()
        settings = record.config.settings
        assert (settings["epochs"], settings["batch_size"], settings["augmentation"]) == (2, 8, None)
        assert (settings["strategy"], settings["rank"], settings["precision"]) == ("LoRA", 4, "fp32")
        assert record.provenance["features"]["recipe"]["architecture"] == "transformers:Dinov2Model(test)"
        assert record.provenance["training"]["settings"]["schedule"] == "cosine"
        assert {"torch", "peft"} <= set(record.provenance["training"]["libraries"])
        assert record.predictions_digest == file_digest(Path(answer.results[3].record) / "predictions.parquet")
        assert (record.task["images"], record.task["events"]) == (rows.images, rows.events)
        chosen = [score["chosen"] for score in record.scores]
        assert all({"epoch", "epochs", "head_learning_rate", "validation_log_loss"} <= set(each) for each in chosen)

    def test_it_says_what_it_cost(self, adapted: Adapted) -> None:
        row = adapted[1].results[1]
        cost = record_of(row).cost
        assert {"load", "train", "validate", "predict", "score and write"} <= set(cost["seconds"])
        assert row.seconds == pytest.approx(sum(cost["seconds"].values()))
        assert (cost["device"], cost["precision"]) == ("cpu", "fp32")
        assert (cost["gpu_memory_mb"], cost["energy_joules"]) == (None, None)
        assert cost["trainable_parameters"] == row.trainable_parameters

    def test_checkpoints_have_their_digests_in_it_and_say_whose_they_are(self, adapted: Adapted) -> None:
        for row in adapted[1].results:
            record = record_of(row)
            found = record.provenance["checkpoints"]
            assert set(found) == {f"fold-{fold}.safetensors" for fold in range(3)}
            for name, digest in found.items():
                path = Path(row.record) / "checkpoints" / name
                assert file_digest(path) == digest
                with safetensors.safe_open(path, framework="np") as held:
                    about = json.loads(held.metadata()["peftbench"])
                    assert held.get_tensor("head.weight").shape == (2, 32)
                assert (about["identity"], about["backbone"]) == (record.identity, VIT_NAME)
                assert (about["strategy"], about["rank"]) == (row.strategy, row.rank)
                assert f"fold-{about['fold']}.safetensors" == name

    def test_its_history_has_a_line_an_epoch_and_head(self, adapted: Adapted) -> None:
        for row in adapted[1].results:
            history = pd.read_csv(Path(row.record) / "history.csv")
            key = ["fold", "draw", "epoch", "head_rate"]
            expected = [[fold, 0, epoch, rate] for fold in range(3) for epoch in (1, 2) for rate in (0.001, 0.01)]
            assert history.sort_values(key)[key].to_numpy().tolist() == expected
            assert history[["train_loss", "validation_loss", "rate", "images_per_second"]].notna().all(axis=None)

    def test_of_what_was_under_way_nothing_is_left(self, adapted: Adapted) -> None:
        for row in adapted[1].results:
            found = {path.name for path in Path(row.record).iterdir()}
            assert found == {"record.json", "predictions.parquet", "history.csv", "checkpoints", "writer.lock"}

    def test_no_raw_identifier_reaches_a_record(self, adapted: Adapted, phantom_raw: Path) -> None:
        raw = pd.read_csv(phantom_raw / "phantom.csv")
        identifiers = {*raw["patient_id"], *raw["image_id"]}
        results = adapted[0].results
        told = "".join(path.read_text() for path in [*results.rglob("*.json"), *results.rglob("*.csv")])
        told += "".join(pd.read_parquet(path).to_csv() for path in results.rglob("*.parquet"))
        told += "".join(path.read_bytes().decode("latin-1") for path in results.rglob("*.safetensors"))
        assert len(told) > 10_000
        assert not [each for each in identifiers if each in told]

    @pytest.mark.parametrize(("asked", "kept"), [("auto", True), ("all", True), ("none", False)])
    def test_checkpoints_are_kept_as_asked(self, place: Workspace, asked: str, kept: bool) -> None:
        row = row_of_call(place, CNN, "fft", checkpoints=asked)
        assert (Path(row.record) / "checkpoints").is_dir() == kept
        assert bool(record_of(row).provenance["checkpoints"]) == kept

    def test_of_full_fine_tuning_on_support_sets_none_are_kept_unless_asked_for(self, place: Workspace) -> None:
        words: dict[str, Any] = {"regime": "few-shot", "shots": 2, "draws": 2}
        kept = {row.strategy: record_of(row).provenance["checkpoints"] for row in rows_of_call(
            place, CNN, ["lp", "fft"], **words
        )}  # fmt: skip
        assert set(kept["LP"]) == {"fold-0.safetensors", "fold-0-draw-1.safetensors"}
        assert kept["FFT"] == {}
        row = row_of_call(place, CNN, "fft", checkpoints="all", force=True, **words)
        assert set(record_of(row).provenance["checkpoints"]) == {"fold-0.safetensors", "fold-0-draw-1.safetensors"}


class TestBesideAProbe:
    def test_both_were_divided_alike_and_tested_on_the_same_images(self, beside: tuple[Workspace, list[Any]]) -> None:
        (probed,), tuned = of(beside[1], ProbeRow), of(beside[1], FinetuneRow)
        for row in tuned:
            for part in ("split_digest", "task_digest", "scheme", "folds", "seed", "version"):
                assert getattr(record_of(row).config, part) == getattr(read_record(Path(probed.record)).config, part)
            for role in ("validation", "test"):
                assert images_in(row.record, role) == images_in(probed.record, role)
        assert len(list((beside[0].root / "splits" / TASK).iterdir())) == 1

    def test_the_gain_is_over_the_strongest_control_that_was_probed(self, beside: tuple[Workspace, list[Any]]) -> None:
        place, rows = beside
        records = [record for _, record in iter_records(place)]
        controls = [each for each in records if each.config.backbone.startswith("control:")]
        probed = {row.backbone: row for row in rows if isinstance(row, ProbeRow)}
        for row in of(rows, FinetuneRow):
            record = record_of(row)
            strongest = strongest_control(record, controls)
            assert strongest is not None
            assert row.control == strongest.config.backbone == probed[CNN].control
            expected = gain(record, strongest)
            assert (row.gain_mean, row.gain_low, row.gain_high) == pytest.approx(
                (expected.mean, expected.low, expected.high)
            )

    def test_both_stand_in_the_results_table_and_in_the_report(
        self, beside: tuple[Workspace, list[Any]], tmp_path: Path
    ) -> None:
        place, rows = beside
        table = results_table([record for _, record in iter_records(place)])
        mine = table[table["backbone"] == CNN].set_index(["strategy", "probe"])
        assert set(mine.index) == {("LP", "logistic"), ("LP", TRAINED), ("FFT", TRAINED)}
        assert (mine["control"] == of(rows, ProbeRow)[0].control).all()
        assert mine["gain_mean"].notna().all()
        done = peftbench.report(workspace=place, out=tmp_path / "report")
        assert done.records == len(rows)
        saved = pd.read_csv(tmp_path / "report" / "results.csv")
        assert sorted(saved["identity"]) == sorted(table["identity"])
        told = (tmp_path / "report" / "results.md").read_text()
        assert TRAINED in told
        assert "FFT" in told

    def test_without_controls_it_says_how_they_are_made(self, place: Workspace) -> None:
        ear = Ear()
        row = row_of_call(place, progress=ear)
        assert (row.control, np.isnan(row.gain_mean)) == ("", True)
        (note,) = [each for each in ear.notes if "no control is recorded" in each]
        assert f"`peftbench probe {TASK}` with the same split, seed and regime" in note

    def test_controls_of_other_folds_are_none_of_its(self, place: Workspace) -> None:
        ear = Ear()
        peftbench.probe(TASK, workspace=place, split="3-fold")
        assert row_of_call(place, progress=ear).control == ""
        assert any("no control is recorded" in each for each in ear.notes)
        peftbench.probe(TASK, workspace=place, split="hold-out")
        ear = Ear()
        assert row_of_call(place, progress=ear).control.startswith("control:")
        assert not any("no control is recorded" in each for each in ear.notes)

    def test_untrained_weights_that_were_adapted_alike_are_a_control(self, place: Workspace) -> None:
        rows = rows_of_call(place, [CNN, f"{CNN}@random:0"], ["lp", "fft"])
        controls = {(row.backbone, row.strategy): row.control for row in rows}
        assert controls == {
            (CNN, "LP"): f"{CNN}@random:0",
            (CNN, "FFT"): f"{CNN}@random:0",
            (f"{CNN}@random:0", "LP"): "",
            (f"{CNN}@random:0", "FFT"): "",
        }
        scores = {(row.backbone, row.strategy): row.mcc_mean for row in rows}
        for row in rows[:2]:
            assert row.gain_mean == pytest.approx(row.mcc_mean - scores[f"{CNN}@random:0", row.strategy])


class TestStrategies:
    def test_a_rank_is_eight_unless_said(self, place: Workspace) -> None:
        assert row_of_call(place, VIT_NAME, "vera").rank == 8

    def test_the_width_of_the_head_is_the_embeddings(self, place: Workspace) -> None:
        assert row_of_call(place, CNN).trainable_parameters == 2 * WIDTH + 2

    def test_what_goes_beyond_the_papers_matrix_is_said(self, place: Workspace) -> None:
        ear = Ear()
        rows_of_call(place, CNN, "ia3", progress=ear)
        assert f"IA3 on {CNN} goes beyond the paper: it scales channels of convolutions" in ear.notes

    def test_the_papers_preset_on_a_processor_is_remarked(self, place: Workspace) -> None:
        ear = Ear()
        rows_of_call(place, CNN, preset="paper", set_=(*SHORT, "warmup_epochs=0"), progress=ear)
        assert any("--preset quick" in each for each in ear.notes)

    @pytest.mark.slow
    def test_a_real_backbone_is_adapted_too(self, place: Workspace) -> None:
        row = row_of_call(place, "resnet18@random:0", "lp")
        assert row.trainable_parameters == 2 * 512 + 2
        assert len(records_in(place)) == 1
