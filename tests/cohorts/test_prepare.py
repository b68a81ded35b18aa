"""Preparing: twice costs once, a bad file costs itself alone, and a bad download costs nothing that was there."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hannover_kit import ROWS, Row, image_file, leaks, picture, write_hannover
from PIL import Image
from progress_kit import Ear

from peftbench.cohorts import prepare as module
from peftbench.cohorts import synthesis
from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.registry import COHORTS, TASKS, get_task
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.errors import ConfigError, RawDataError, UnknownNameError, WorkspaceError
from peftbench.imaging import reading
from peftbench.imaging.decode import PixelPolicy
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.progress import Silent
from peftbench.protocol.workspace import ENVIRONMENT, Workspace
from stores.images import ImageStore
from stores.lock import writer_lock


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_hannover(tmp_path / "raw")


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded, as it happens."""
    names: list[str] = []
    read, decode = reading.read_bytes, reading.canonical_pixels
    opened: list[str] = []

    def noting(path: Path) -> bytes:
        opened.append(path.stem)
        return read(path)

    def counting(content: bytes, policy: PixelPolicy) -> object:
        names.append(opened[-1])
        return decode(content, policy)

    monkeypatch.setattr(reading, "read_bytes", noting)
    monkeypatch.setattr(reading, "canonical_pixels", counting)
    return names


def frame_of(place: Workspace, cohort: str = "hannover") -> pd.DataFrame:
    return Manifest.read(cohort, place.manifest(cohort)).frame


def store_of(place: Workspace, cohort: str = "hannover") -> ImageStore:
    return ImageStore.open(place.images(cohort, json.loads(place.card(cohort).read_text())["image_store"]))


class TestOnce:
    def test_the_second_time_nothing_is_decoded_and_nothing_changes(
        self, raw: Path, place: Workspace, decoded: list[str]
    ) -> None:
        first = prepare("hannover", raw, workspace=place)
        assert sorted(decoded) == sorted(row.image for row in ROWS)
        frame, digest = frame_of(place), store_of(place)._pictures.digest
        decoded.clear()
        assert prepare("hannover", raw, workspace=place) == first
        assert decoded == []
        pd.testing.assert_frame_equal(frame_of(place), frame)
        assert store_of(place)._pictures.digest == digest

    @pytest.mark.slow
    def test_a_changed_file_is_decoded_again_and_its_digests_change(
        self, raw: Path, place: Workspace, decoded: list[str]
    ) -> None:
        prepare("hannover", raw, workspace=place)
        before = frame_of(place).set_index("sample_id")
        decoded.clear()
        Image.fromarray(picture(99)).save(image_file(raw, "b0000003"))
        prepare("hannover", raw, workspace=place)
        after = frame_of(place).set_index("sample_id")
        assert decoded == ["b0000003"]
        changed = before["image_digest"] != after["image_digest"]
        assert changed.sum() == 1
        assert (changed == (before["file_digest"] != after["file_digest"])).all()

    @pytest.mark.slow
    def test_the_same_pixels_saved_as_another_file_are_the_same_image(
        self, raw: Path, place: Workspace, decoded: list[str]
    ) -> None:
        prepare("hannover", raw, workspace=place)
        before = frame_of(place).set_index("sample_id")
        decoded.clear()
        path = image_file(raw, "b0000003")
        pixels = np.asarray(Image.open(path))
        Image.fromarray(pixels).convert("RGB").save(path, compress_level=9)
        prepare("hannover", raw, workspace=place)
        after = frame_of(place).set_index("sample_id")
        assert decoded == ["b0000003"], "its bytes are new, so it is looked at"
        assert (before["file_digest"] != after["file_digest"]).sum() == 1
        assert (before["image_digest"] == after["image_digest"]).all()
        assert len(store_of(place)) == len(ROWS), "no picture was stored twice"

    def test_one_picture_under_two_names_is_stored_once(self, tmp_path: Path, place: Workspace) -> None:
        pictures = {row.image: picture(0 if row.image == "b0000006" else number) for number, row in enumerate(ROWS)}
        prepare("hannover", write_hannover(tmp_path / "raw", ROWS, pictures), workspace=place)
        frame = frame_of(place)
        assert len(frame) == len(ROWS)
        assert frame["image_digest"].nunique() == len(store_of(place)) == len(ROWS) - 1

    def test_what_an_interrupted_run_decoded_is_kept(
        self, raw: Path, place: Workspace, decoded: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = iter(range(3))

        class Impatient(module.Silent):
            def advance(self, count: int = 1) -> None:
                if next(seen, None) is None:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepare("hannover", raw, workspace=place, progress=Impatient())
        assert not place.manifest("hannover").exists()
        decoded.clear()
        prepare("hannover", raw, workspace=place)
        assert len(decoded) == len(ROWS) - 3
        assert len(store_of(place)) == len(ROWS)

    @pytest.mark.parametrize("writes", [0, 1])
    def test_cut_short_between_its_last_files_it_is_as_if_not_prepared(
        self, raw: Path, place: Workspace, monkeypatch: pytest.MonkeyPatch, writes: int
    ) -> None:
        """Card and manifest are two files; whoever finds a manifest must find all the rest."""
        left = iter(range(writes))

        def failing(original: Callable[..., None]) -> Callable[..., None]:
            def write(*words: object) -> None:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                original(*words)

            return write

        monkeypatch.setattr(module, "write_atomic", failing(module.write_atomic))
        monkeypatch.setattr(Manifest, "write", failing(Manifest.write))
        with pytest.raises(KeyboardInterrupt):
            prepare("hannover", raw, workspace=place)
        assert not place.manifest("hannover").exists()

    @pytest.mark.slow
    def test_row_order_and_machine_play_no_part_in_what_is_written(self, tmp_path: Path) -> None:
        frames = []
        for name, rows in (("one", ROWS), ("two", ROWS[::-1])):
            pictures = {row.image: picture(int(row.image[1:])) for row in rows}
            raw = write_hannover(tmp_path / name / "raw", rows, pictures)
            prepare("hannover", raw, workspace=tmp_path / name / "workspace")
            frames.append(frame_of(Workspace(tmp_path / name / "workspace")))
        pd.testing.assert_frame_equal(frames[0], frames[1])

    @pytest.mark.slow
    def test_another_policy_is_another_image_store_beside_the_old(self, raw: Path, place: Workspace) -> None:
        prepare("hannover", raw, workspace=place)
        old = store_of(place)
        prepare("hannover", raw, workspace=place, policy=PixelPolicy(side=32))
        new = store_of(place)
        assert new.policy != old.policy
        assert {store.name for store in place.images("hannover", "").iterdir()} == {
            PixelPolicy().digest[:12],
            PixelPolicy(side=32).digest[:12],
        }
        assert all(image in new for image in frame_of(place)["image_digest"])

    @pytest.mark.slow
    def test_another_writer_is_named(self, raw: Path, place: Workspace) -> None:
        prepare("hannover", raw, workspace=place)
        Image.fromarray(picture(99)).save(image_file(raw, "b0000003"))
        pictures = place.images("hannover", PixelPolicy().digest) / "pictures"
        ear = Impatient()
        with writer_lock(pictures), pytest.raises(KeyboardInterrupt):
            prepare("hannover", raw, workspace=place, progress=ear)
        assert re.search(r"is being written by process \d+ on .*: waiting", ear.notes[-1])
        assert prepare("hannover", raw, workspace=place).images == len(ROWS)


class Impatient(Ear):
    """Gives up, as Ctrl-C would, once it was told that it must wait."""

    def advance(self, count: int = 1) -> None:
        if self.notes and "waiting" in self.notes[-1]:
            raise KeyboardInterrupt


class TestManifest:
    def test_what_is_written_holds_no_raw_identifier(self, raw: Path, place: Workspace) -> None:
        (image_file(raw, "b0000002")).write_bytes(b"")
        prepare("hannover", raw, workspace=place)
        assert leaks(place.root, [name for row in ROWS for name in (row.patient, row.image)]) == []

    def test_the_search_for_identifiers_would_find_one(self, tmp_path: Path) -> None:
        """In plain text, in a path, amid hexadecimal digits, and within a compressed table."""
        (tmp_path / "aa000001").mkdir()
        (tmp_path / "log.txt").write_text("image b0000001ff")
        pd.DataFrame({"id": ["aa000003"] * 1000}).to_parquet(tmp_path / "table.parquet")
        found = leaks(tmp_path, ["aa000001", "b0000001", "aa000003", "aa000004"])
        assert {name for _, name in found} == {"aa000001", "b0000001", "aa000003"}

    def test_a_patient_ever_in_the_icu_carries_the_event_even_if_that_image_is_lost(
        self, tmp_path: Path, place: Workspace
    ) -> None:
        rows = (Row("aa000001", "b0000001", icu="3.0"), Row("aa000001", "b0000002"), Row("aa000002", "b0000003"))
        raw = write_hannover(tmp_path / "raw", rows)
        image_file(raw, "b0000001").unlink()
        prepare("hannover", raw, workspace=place)
        assert sorted(frame_of(place)["icu"]) == ["no", "yes"]

    def test_tasks_of_the_imitation(self, raw: Path, place: Workspace) -> None:
        found = prepare("hannover", raw, workspace=place)
        assert (found.images, found.patients, found.centers) == (6, 4, 1)
        tasks = {name: (each.images, each.patients, each.events) for name, each in found.tasks.items()}
        assert tasks == {
            "HAN_icu": (4, 4, 2),
            "HAN_icu_prospective": (5, 4, 2),
            "HAN_icu_all": (6, 4, 3),
            "HAN_m_all": (6, 4, 2),
        }

    def test_the_first_image_is_the_earliest_wherever_it_stands_in_the_table(
        self, tmp_path: Path, place: Workspace
    ) -> None:
        rows = (Row("aa000001", "b0000001", admission="-9"), Row("aa000001", "b0000002", admission="-2"))
        prepare("hannover", write_hannover(tmp_path / "raw", rows), workspace=place)
        assert frame_of(place)["acquired"].tolist() == [2, 9]

    def test_a_task_without_a_row_is_said_to_be_empty_and_does_not_stop_the_others(
        self, tmp_path: Path, place: Workspace
    ) -> None:
        rows = (Row("aa000001", "b0000001", icu="-1.0"), Row("aa000002", "b0000002", icu="-4.0"))
        found = prepare("hannover", write_hannover(tmp_path / "raw", rows), workspace=place)
        assert found.tasks["HAN_icu_prospective"].images == 0
        assert found.tasks["HAN_icu_all"].images == 2
        card = json.loads(place.card("hannover").read_text())
        assert "taken after admission to the ICU: 2" in card["tasks"]["HAN_icu_prospective"]["note"]

    def test_an_unknown_view_is_called_unknown_in_the_card(self, tmp_path: Path, place: Workspace) -> None:
        rows = [row._replace(projection="" if row.image == "b0000003" else row.projection) for row in ROWS]
        prepare("hannover", write_hannover(tmp_path / "raw", rows), workspace=place)
        views = json.loads(place.card("hannover").read_text())["tasks"]["HAN_icu_all"]["views"]
        assert views["unknown"] == {"event": 0, "no event": 1}
        assert set(views) == {"AP", "PA", "unknown"}

    def test_a_table_that_starts_with_a_byte_order_mark_is_read(self, raw: Path, place: Workspace) -> None:
        path = raw / "data.csv"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert prepare("hannover", raw, workspace=place).images == len(ROWS)


class TestPhantom:
    @pytest.mark.slow
    def test_the_manifest_is_the_generators_table(self, phantom_raw: Path, place: Workspace) -> None:
        result = prepare("phantom", phantom_raw, workspace=place)
        table = pd.read_csv(phantom_raw / "phantom.csv")
        assert (result.images, result.patients, result.centers) == (len(table), 30, table["center"].nunique())
        assert result.rejected == []
        first = table.sort_values(["patient_id", "day"], kind="stable").drop_duplicates("patient_id")
        found = result.tasks["PHA_icu"]
        assert (found.images, found.patients, found.events) == (30, 30, first["icu"].sum())
        assert result.tasks["PHA_icu_all"].events == table["icu"].sum()
        frame = frame_of(place, "phantom")
        assert sorted(frame["opacity_extent"]) == sorted(table["opacity_extent"])
        assert store_of(place, "phantom").policy == PixelPolicy().recipe

    def test_without_a_download_it_is_generated_in_the_workspace(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small = PhantomConfig(patients=6, images_per_patient=2, size=64)
        monkeypatch.setattr(synthesis, "PhantomConfig", lambda: small)
        result = prepare("phantom", workspace=place)
        assert result.patients == 6
        assert (place.raw("phantom") / "phantom.csv").is_file()
        assert prepare("phantom", workspace=place) == result

    @pytest.mark.slow
    def test_a_phantom_kept_elsewhere_gives_the_same_manifest(
        self, tmp_path: Path, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small = PhantomConfig(patients=6, images_per_patient=2, size=64)
        monkeypatch.setattr(synthesis, "PhantomConfig", lambda: small)
        prepare("phantom", workspace=place)
        elsewhere = Workspace(tmp_path / "elsewhere")
        prepare("phantom", write_phantom(tmp_path / "raw", small), workspace=elsewhere)
        pd.testing.assert_frame_equal(frame_of(place, "phantom"), frame_of(elsewhere, "phantom"))


class TestAsked:
    @pytest.mark.parametrize(
        ("wrong", "meant"), [("hanover", "hannover"), ("Hannover", "hannover"), ("fantom", "phantom")]
    )
    def test_an_unknown_cohort_is_answered_with_the_nearest(self, place: Workspace, wrong: str, meant: str) -> None:
        with pytest.raises(UnknownNameError, match=rf"unknown cohort '{wrong}': did you mean {meant}"):
            prepare(wrong, workspace=place)
        assert not place.root.exists()

    def test_an_unknown_task_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown task 'HAN_ICU': did you mean HAN_icu\?"):
            get_task("HAN_ICU")

    def test_a_real_cohort_needs_its_download(self, place: Workspace) -> None:
        with pytest.raises(ConfigError, match=r"'hannover' needs --raw DIR.*12275009"):
            prepare("hannover", workspace=place)
        assert not place.root.exists()

    @pytest.mark.parametrize("below", ["", "deeper/still"])
    def test_a_workspace_that_cannot_be_is_refused(self, raw: Path, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("kept")
        with pytest.raises(WorkspaceError, match=rf"cannot be written .*--workspace DIR or {ENVIRONMENT}"):
            prepare("hannover", raw, workspace=tmp_path / "file" / below)
        assert (tmp_path / "file").read_text() == "kept"

    def test_the_environment_names_the_workspace(
        self, raw: Path, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(ENVIRONMENT, str(place.root))
        prepare("hannover", raw)
        assert place.manifest("hannover").is_file()

    def test_every_task_belongs_to_its_cohort_and_names_are_unique(self) -> None:
        declared = [task for cohort in COHORTS.values() for task in cohort.tasks]
        assert len(declared) == len(TASKS)
        assert all(task.cohort == name for name, cohort in COHORTS.items() for task in cohort.tasks)


def test_a_download_that_became_bad_leaves_the_old_manifest_alone(raw: Path, place: Workspace) -> None:
    prepare("hannover", raw, workspace=place)
    before = place.manifest("hannover").read_bytes(), place.card("hannover").read_bytes()
    table = (raw / "data.csv").read_text()
    for broken in ("", table.splitlines()[0], table.replace(",0,", ",today,"), table.replace("b0", "c0")):
        (raw / "data.csv").write_text(broken)
        with pytest.raises(RawDataError):
            prepare("hannover", raw, workspace=place)
        assert (place.manifest("hannover").read_bytes(), place.card("hannover").read_bytes()) == before


class TestSharedPixels:
    def test_one_picture_of_two_patients_is_said_and_counted(self, tmp_path: Path, place: Workspace) -> None:
        """A split by patient cannot keep such images apart."""
        raw = write_hannover(tmp_path / "raw", ROWS)
        names = [row.image for row in {row.patient: row for row in ROWS}.values()][:2]
        shutil.copyfile(image_file(raw, names[0]), image_file(raw, names[1]))
        told = Listening()
        prepare("hannover", raw, workspace=place, progress=told)
        assert json.loads(place.card("hannover").read_text())["shared_between_patients"] == 1
        assert [note for note in told.notes if note.startswith("1 images stand under several patients")]

    def test_where_no_picture_is_shared_nothing_is_said(self, tmp_path: Path, place: Workspace) -> None:
        told = Listening()
        prepare("hannover", write_hannover(tmp_path / "raw", ROWS), workspace=place, progress=told)
        assert json.loads(place.card("hannover").read_text())["shared_between_patients"] == 0
        assert told.notes == []


class Listening(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
