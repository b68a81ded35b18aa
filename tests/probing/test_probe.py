"""The verb `probe`, end to end on the phantom: the same bits again, made once, and beside its control."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from probe_kit import BACKBONE, files, manifest_of, write_features
from progress_kit import Ear
from sklearn.metrics import average_precision_score, matthews_corrcoef

from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.registry import TASKS
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.errors import ConfigError, NotPreparedError, SplitError, UnknownNameError
from peftbench.probing.probe import probe
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.records import read_predictions, read_record
from peftbench.protocol.results import ProbeResult
from peftbench.protocol.splits import k_fold
from peftbench.protocol.tasks import rows_of
from peftbench.protocol.workspace import Workspace
from stores.keys import file_digest

CONTROLS = ["control:view", "control:center", "control:images", "control:metadata"]
"""Of the phantom, which has two views, three centres, and one or two images a patient."""


@pytest.fixture(scope="module")
def prepared(phantom_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The phantom and features of it; no test writes to it."""
    place = Workspace(tmp_path_factory.mktemp("prepared") / "workspace")
    prepare("phantom", phantom_raw, workspace=place)
    write_features(place)
    return place


@pytest.fixture
def place(prepared: Workspace, tmp_path: Path) -> Workspace:
    return copy_of(prepared, tmp_path / "workspace")


@pytest.fixture(scope="module")
def probed(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, ProbeResult]:
    """A workspace with records, and what was answered; no test writes to it."""
    place = copy_of(prepared, tmp_path_factory.mktemp("probed") / "workspace")
    return place, probe("PHA_icu_all", BACKBONE, workspace=place)


def copy_of(place: Workspace, root: Path) -> Workspace:
    # Copied with its times: which of two stores is the newer one must not change.
    return Workspace(Path(shutil.copytree(place.root, root)))


def records(place: Workspace, name: str = "predictions.parquet") -> dict[str, bytes]:
    return {path: data for path, data in files(place.results).items() if path.endswith(name)}


def numbers(place: Workspace) -> dict[str, object]:
    """What of the records is the same on any machine at any time."""
    parts = (
        "identity", "config", "task", "scores", "summary", "distribution", "null", "strata", "reliability", "notes",
        "predictions_digest",
    )  # fmt: skip
    told = {path: json.loads(data) for path, data in records(place, "record.json").items()}
    return {path: {part: record[part] for part in parts} for path, record in told.items()}


class TestSameBits:
    @pytest.mark.slow
    def test_two_workspaces_hold_the_same_numbers_to_the_bit(
        self, probed: tuple[Workspace, ProbeResult], place: Workspace
    ) -> None:
        probe("PHA_icu_all", BACKBONE, workspace=place)
        assert len(records(place)) == 1 + len(CONTROLS)
        assert records(place) == records(probed[0])
        assert numbers(place) == numbers(probed[0])
        assert files(place.root / "splits") == files(probed[0].root / "splits")

    def test_made_again_by_force_they_are_the_same_to_the_bit(
        self, probed: tuple[Workspace, ProbeResult], tmp_path: Path
    ) -> None:
        place = copy_of(probed[0], tmp_path / "workspace")
        before = {path: path.stat().st_ino for path in place.results.rglob("record.json")}
        again = probe("PHA_icu_all", BACKBONE, workspace=place, force=True)
        assert all(path.stat().st_ino != number for path, number in before.items()), "they were written anew"
        assert records(place) == records(probed[0])
        assert numbers(place) == numbers(probed[0])
        assert again.frame.drop(columns="record").equals(probed[1].frame.drop(columns="record"))

    def test_the_order_in_which_images_were_embedded_does_not_matter(
        self, probed: tuple[Workspace, ProbeResult], place: Workspace
    ) -> None:
        (folder,) = place.features_of(BACKBONE).iterdir()
        shutil.rmtree(folder)
        write_features(place, share=0.4)
        write_features(place, step=-1)
        probe("PHA_icu_all", BACKBONE, workspace=place)
        assert records(place) == records(probed[0])


class TestMadeOnce:
    def test_a_finished_record_is_read_and_left_untouched(self, place: Workspace) -> None:
        first = probe("PHA_icu", BACKBONE, workspace=place)
        before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in place.root.rglob("*.*")}
        again = probe("PHA_icu", BACKBONE, workspace=place)
        assert again.to_json() == first.to_json()
        assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in place.root.rglob("*.*")} == before

    @pytest.mark.slow
    @pytest.mark.parametrize("harm", ["predictions flipped", "predictions gone", "record gone", "record cut"])
    def test_a_damaged_record_is_made_again(
        self, probed: tuple[Workspace, ProbeResult], tmp_path: Path, harm: str
    ) -> None:
        place = copy_of(probed[0], tmp_path / "workspace")
        (folder,) = place.record("PHA_icu_all", BACKBONE, "LP", "x").parent.iterdir()
        table, record = folder / "predictions.parquet", folder / "record.json"
        data = table.read_bytes()
        {
            "predictions flipped": lambda: table.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:]),
            "predictions gone": table.unlink,
            "record gone": record.unlink,
            "record cut": lambda: os.truncate(record, 100),
        }[harm]()
        probe("PHA_icu_all", BACKBONE, workspace=place)
        assert records(place) == records(probed[0])
        assert numbers(place) == numbers(probed[0])

    def test_another_seed_or_other_features_make_another_record(self, place: Workspace) -> None:
        probe("PHA_icu", BACKBONE, workspace=place, control=False)
        probe("PHA_icu", BACKBONE, workspace=place, control=False, seed=1)
        write_features(place, seed=1, weights="1" * 64)
        probe("PHA_icu", BACKBONE, workspace=place, control=False)
        assert len(records(place)) == 3

    def test_a_label_that_was_corrected_makes_another_record(self, place: Workspace) -> None:
        probe("PHA_icu", BACKBONE, workspace=place, control=False)
        manifest = manifest_of(place)
        first = manifest.frame["patient_id"] == manifest.frame["patient_id"][0]
        other = {"yes": "no", "no": "yes"}[manifest.frame["icu"][0]]
        corrected = manifest.frame.assign(icu=manifest.frame["icu"].mask(first, other))
        Manifest("phantom", corrected).write(place.manifest("phantom"))
        probe("PHA_icu", BACKBONE, workspace=place, control=False)
        assert len(records(place)) == 2

    @pytest.mark.slow
    @pytest.mark.parametrize("runs", [1, 2])
    def test_progress_reaches_what_was_announced(self, place: Workspace, runs: int) -> None:
        for _ in range(runs):
            ear = Ear()
            probe(["PHA_icu", "PHA_icu_all"], BACKBONE, workspace=place, progress=ear)
        assert ear.done == ear.expected == 2 * (1 + len(CONTROLS)) * 5


class TestAnswer:
    def test_scores_are_those_of_the_saved_predictions(self, probed: tuple[Workspace, ProbeResult]) -> None:
        for row in probed[1].results:
            tested = read_predictions(Path(row.record)).query("role == 'test'").groupby("fold")
            mcc = [matthews_corrcoef(part["event"], part["score"] >= 0.5) for _, part in tested]
            area = [average_precision_score(part["event"], part["score"]) for _, part in tested]
            assert len(mcc) == row.folds == 5
            assert (row.mcc_mean, row.mcc_std) == pytest.approx((np.mean(mcc), np.std(mcc, ddof=1)))
            assert (row.pr_auc_mean, row.pr_auc_std) == pytest.approx((np.mean(area), np.std(area, ddof=1)))

    def test_every_image_of_the_task_is_tested_once(self, probed: tuple[Workspace, ProbeResult]) -> None:
        rows = rows_of(TASKS["PHA_icu_all"], manifest_of(probed[0]))
        for row in probed[1].results:
            predictions = read_predictions(Path(row.record))
            tested = predictions[predictions["role"] == "test"].set_index("sample_id").sort_index()
            expected = rows.frame.set_index("sample_id").sort_index()
            assert tested.index.tolist() == expected.index.tolist()
            assert tested["event"].tolist() == expected["event"].tolist()

    def test_backbone_and_control_are_tested_on_the_saved_split(self, probed: tuple[Workspace, ProbeResult]) -> None:
        place, answer = probed
        split = k_fold(rows_of(TASKS["PHA_icu_all"], manifest_of(place)))
        (path,) = place.splits("PHA_icu_all").iterdir()
        pd.testing.assert_frame_equal(pd.read_parquet(path), split.frame)
        saved = split.frame[split.frame["role"] != "train"]
        for row in answer.results:
            found = read_predictions(Path(row.record))
            key = ["fold", "role", "sample_id", "patient_id"]
            one, other = (each[key].sort_values(key).to_numpy().tolist() for each in (found, saved))
            assert one == other

    def test_features_that_tell_of_the_event_beat_the_control(self, probed: tuple[Workspace, ProbeResult]) -> None:
        scores = probed[1].frame.set_index("backbone")["mcc_mean"]
        assert scores[BACKBONE] > max(0.3, scores["control:view"])

    def test_the_record_says_what_it_was_made_of(self, probed: tuple[Workspace, ProbeResult]) -> None:
        place, answer = probed
        (store,) = place.features_of(BACKBONE).iterdir()
        record = read_record(Path(answer.results[0].record))
        rows = rows_of(TASKS["PHA_icu_all"], manifest_of(place))
        assert record.config.features[:16] == store.name
        assert record.config.task_digest == rows.digest
        assert record.provenance["features"]["recipe"]["architecture"] == "torchvision:resnet18"
        assert record.predictions_digest == file_digest(Path(answer.results[0].record) / "predictions.parquet")
        assert (record.task["images"], record.task["events"]) == (rows.images, rows.events)
        assert record.cost["trainable_parameters"] == 6 + 1

    def test_no_raw_identifier_reaches_a_record_or_a_split(
        self, probed: tuple[Workspace, ProbeResult], phantom_raw: Path
    ) -> None:
        raw = pd.read_csv(phantom_raw / "phantom.csv")
        identifiers = {*raw["patient_id"], *raw["image_id"]}
        place = probed[0]
        tables = [*place.results.rglob("*.parquet"), *(place.root / "splits").rglob("*.parquet")]
        told = "".join(path.read_text() for path in place.results.rglob("*.json"))
        told += "".join(pd.read_parquet(path).to_csv() for path in tables)
        assert len(tables) == 1 + len(CONTROLS) + 1, "records and the split"
        assert not [each for each in identifiers if each in told]

    def test_in_a_task_of_patients_prevalence_counts_patients(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = TASKS["PHA_icu_all"].model_copy(update={"name": "PHA_icu_patients", "unit": "patient"})
        monkeypatch.setitem(TASKS, task.name, task)
        rows = rows_of(task, manifest_of(place))
        assert rows.event_patients / rows.patients != rows.events / rows.images
        for row in probe(task.name, workspace=place).results:
            record = read_record(Path(row.record))
            assert row.mcc_mean == record.score("mcc", "patient")[0]
            assert row.prevalence == pytest.approx(rows.event_patients / rows.patients)


class TestErrors:
    def test_an_unknown_task_names_the_nearest_before_anything_is_done(self, place: Workspace) -> None:
        with pytest.raises(UnknownNameError, match=r"'PHA_ice'.* did you mean PHA_icu"):
            probe(["PHA_icu", "PHA_ice"], BACKBONE, workspace=place)
        assert not place.results.exists()

    def test_a_cohort_that_is_not_prepared_names_the_command(self, tmp_path: Path) -> None:
        with pytest.raises(NotPreparedError, match="`peftbench prepare phantom"):
            probe("PHA_icu", workspace=tmp_path)

    def test_missing_features_name_the_command(self, place: Workspace) -> None:
        with pytest.raises(NotPreparedError, match="`peftbench extract phantom --backbone efficientnet-lite0`"):
            probe("PHA_icu", "efficientnet-lite0", workspace=place)
        assert not place.results.exists()

    def test_features_of_too_few_images_name_the_command(self, place: Workspace) -> None:
        write_features(place, "efficientnet-lite0", share=0.5)
        with pytest.raises(NotPreparedError, match=r"lack \d+ of the 30 images .*`peftbench extract phantom"):
            probe("PHA_icu", "efficientnet-lite0", workspace=place)

    def test_an_unknown_probe_is_refused(self, place: Workspace) -> None:
        with pytest.raises(UnknownNameError, match="unknown probe 'logistics': did you mean logistic"):
            probe("PHA_icu", BACKBONE, workspace=place, probe="logistics")

    def test_a_negative_seed_is_refused(self, place: Workspace) -> None:
        with pytest.raises(ConfigError, match="--seed is -1, expected 0 or more"):
            probe("PHA_icu", BACKBONE, workspace=place, seed=-1)

    def test_neither_backbone_nor_control_is_nothing_to_do(self, place: Workspace) -> None:
        with pytest.raises(ConfigError, match="nothing to probe"):
            probe("PHA_icu", workspace=place, control=False)

    def test_too_few_events_cannot_be_split(self, place: Workspace) -> None:
        manifest = manifest_of(place)
        Manifest("phantom", manifest.frame.assign(icu="no")).write(place.manifest("phantom"))
        with pytest.raises(SplitError, match="PHA_icu: 0 of 30 patients"):
            probe("PHA_icu", workspace=place)


class TestOptions:
    def test_several_stores_are_noted_and_one_may_be_pinned(self, place: Workspace) -> None:
        (old,) = place.features_of(BACKBONE).iterdir()
        os.utime(old / "commit.json", (0, 0))
        new = write_features(place, seed=1, weights="1" * 64)
        ear = Ear()
        (row,) = probe("PHA_icu", BACKBONE, workspace=place, control=False, progress=ear).results
        assert read_record(Path(row.record)).config.features == new.recipe.key
        assert new.recipe.key[:16] in ear.notes[0]
        (row,) = probe("PHA_icu", BACKBONE, workspace=place, control=False, features=old.name[:8]).results
        assert read_record(Path(row.record)).config.features.startswith(old.name)

    def test_a_backbone_named_twice_is_probed_once(self, place: Workspace) -> None:
        answer = probe("PHA_icu", [BACKBONE, BACKBONE], workspace=place)
        assert [row.backbone for row in answer.results] == [BACKBONE, *CONTROLS]

    def test_fewer_folds_are_said_and_written_down(self, place: Workspace) -> None:
        frame = manifest_of(place).frame
        few = frame.loc[frame["icu"] == "yes", "patient_id"].drop_duplicates().head(7)
        Manifest("phantom", frame.assign(icu=frame["patient_id"].isin(few).map({True: "yes", False: "no"}))).write(
            place.manifest("phantom")
        )
        ear = Ear()
        answer = probe("PHA_icu", workspace=place, progress=ear)
        assert ear.done == ear.expected == 3 * len(CONTROLS)
        assert "7 of 30 patients" in ear.notes[0]
        for row in answer.results:
            assert row.folds == 3
            assert read_record(Path(row.record)).notes == ear.notes


@pytest.mark.slow
@pytest.mark.parametrize(("confounder", "low", "high"), [(0.0, -0.35, 0.25), (1.0, 0.95, 1.0)])
def test_the_view_control_finds_a_confounder_if_there_is_one(
    tmp_path: Path, confounder: float, low: float, high: float
) -> None:
    # Over several divisions: one alone scatters widely with forty patients. Without a signal the mean lies below zero:
    # in a stratified division what the training part has too much of, the test part has too little of.
    config = PhantomConfig(patients=40, images_per_patient=1, size=64, confounder=confounder)
    prepare("phantom", write_phantom(tmp_path / "raw", config), workspace=tmp_path / "workspace")
    place = tmp_path / "workspace"
    rows = [probe("PHA_icu", workspace=place, seed=seed, permutations=0).results[0] for seed in range(5)]
    assert {row.backbone for row in rows} == {"control:view"}
    assert low <= np.mean([row.mcc_mean for row in rows]) <= high
    assert (np.mean([row.pr_auc_mean for row in rows]) > 0.9) == (confounder == 1)
