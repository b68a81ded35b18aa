"""The real Hannover download: counts, labels and the absence of its identifiers."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hannover_kit import leaks
from PIL import Image

from peftbench.cohorts.prepare import prepare
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.results import PrepareResult
from peftbench.protocol.workspace import Workspace
from stores.images import ImageStore
from stores.keys import file_digest, pixels_digest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("hannover") / "workspace")


@pytest.fixture(scope="module")
def result(hannover_raw: Path, place: Workspace) -> PrepareResult:
    return prepare("hannover", hannover_raw, workspace=place)


@pytest.fixture(scope="module")
def frame(result: PrepareResult, place: Workspace) -> pd.DataFrame:
    return Manifest.read("hannover", place.manifest("hannover")).frame


@pytest.fixture(scope="module")
def card(result: PrepareResult, place: Workspace) -> dict:
    return json.loads(place.card("hannover").read_text())


@pytest.fixture(scope="module")
def raw_table(hannover_raw: Path) -> pd.DataFrame:
    """The table as downloaded, indexed by the digest of each image's file, so that no pseudonym is needed."""
    table = pd.read_csv(hannover_raw / "data.csv")
    table.index = pd.Index([file_digest(hannover_raw / "png" / f"{image}.png") for image in table["image_id"]])
    return table


class TestCounts:
    def test_every_image_of_every_patient_is_used(self, result: PrepareResult) -> None:
        assert (result.cohort, result.images, result.patients, result.centers) == ("hannover", 243, 71, 1)
        assert result.rejected == []

    @pytest.mark.parametrize(
        ("task", "images", "patients", "events"),
        [
            ("HAN_icu", 71, 71, 29),
            ("HAN_icu_prospective", 92, 67, 35),
            ("HAN_icu_all", 243, 71, 186),
            ("HAN_m_all", 243, 71, 48),
        ],
    )
    def test_tasks_have_the_known_size(
        self, result: PrepareResult, task: str, images: int, patients: int, events: int
    ) -> None:
        found = result.tasks[task]
        assert (found.images, found.patients, found.events) == (images, patients, events)

    def test_the_view_alone_tells_much_of_the_outcome(self, card: dict) -> None:
        assert card["tasks"]["HAN_icu_all"]["views"] == {
            "AP": {"event": 179, "no event": 15},
            "PA": {"event": 7, "no event": 42},
        }

    def test_the_card_says_what_was_left_out_and_why(self, card: dict) -> None:
        tasks = card["tasks"]
        assert tasks["HAN_icu"]["excluded"] == {"not the patient's first image": 243 - 71}
        assert tasks["HAN_icu_prospective"]["excluded"] == {"taken after admission to the ICU": 243 - 92}
        assert tasks["HAN_icu_all"]["excluded"] == {}
        assert tasks["HAN_icu_all"]["event_patients"] == 29
        assert tasks["HAN_m_all"]["event_patients"] == 5
        assert (card["images"], card["patients"], card["centers"]) == (243, 71, {"Hannover": 243})


class TestManifest:
    def test_it_has_the_documented_columns(self, frame: pd.DataFrame) -> None:
        assert list(frame.columns) == [
            "sample_id", "patient_id", "center", "view", "acquired", "file_digest", "image_digest",
            "icu", "death", "days_to_icu", "days_to_death", "sex", "modality", "days_observed", "age", "size", "weight",
            "crp", "d_dimer", "factor_xii", "ldh", "lymphocytes", "neutrophils", "pco2", "po2",
        ]  # fmt: skip
        assert frame["sample_id"].is_unique
        assert frame.loc[:, :"death"].notna().all(axis=None)
        assert frame[["modality", "days_observed"]].notna().all(axis=None)

    def test_labels_are_those_of_the_raw_table(self, frame: pd.DataFrame, raw_table: pd.DataFrame) -> None:
        raw = raw_table.loc[frame["file_digest"]].reset_index(drop=True)
        in_icu = raw_table.loc[raw_table["icu_admission_offset"].notna(), "patient_id"].unique()
        died = raw_table.loc[raw_table["death_offset"].notna(), "patient_id"].unique()
        assert ((frame["icu"] == "yes") == raw["patient_id"].isin(in_icu)).all()
        assert ((frame["death"] == "yes") == raw["patient_id"].isin(died)).all()
        assert (frame["view"].str.lower() == raw["projection"]).all()
        assert (frame["acquired"] == -raw["admission_offset"]).all()
        pd.testing.assert_series_equal(frame["days_to_icu"], raw["icu_admission_offset"], check_names=False)

    def test_pseudonyms_tell_patients_apart_as_the_raw_ids_do(
        self, frame: pd.DataFrame, raw_table: pd.DataFrame
    ) -> None:
        raw = raw_table.loc[frame["file_digest"], "patient_id"].reset_index(drop=True)
        pairs = pd.DataFrame({"raw": raw, "pseudonym": frame["patient_id"]}).drop_duplicates()
        assert len(pairs) == pairs["raw"].nunique() == pairs["pseudonym"].nunique() == 71

    def test_a_patients_images_stand_together_in_the_order_of_acquisition(self, frame: pd.DataFrame) -> None:
        assert frame["patient_id"].is_monotonic_increasing
        assert frame.groupby("patient_id")["acquired"].is_monotonic_increasing.all()

    def test_the_prospective_task_sees_nobody_after_admission_to_the_icu(self, frame: pd.DataFrame, card: dict) -> None:
        kept = frame[(frame["days_to_icu"] >= 0) | frame["days_to_icu"].isna()]
        assert len(kept) == card["tasks"]["HAN_icu_prospective"]["images"]
        assert kept.loc[kept["days_to_icu"].isna(), "icu"].eq("no").all()


class TestPixels:
    def test_the_store_holds_what_the_digests_name(
        self, frame: pd.DataFrame, card: dict, place: Workspace, hannover_raw: Path
    ) -> None:
        store = ImageStore.open(place.images("hannover", card["image_store"]))
        images, pictures = store.read(0, len(store))
        assert set(images) == set(frame["image_digest"])
        assert [pixels_digest(each) for each in pictures] == images
        assert max(max(each.shape) for each in pictures) == 512
        for path in sorted((hannover_raw / "png").iterdir())[:10]:
            width, height = Image.open(path).size
            row = frame.loc[frame["file_digest"] == file_digest(path), "image_digest"].item()
            shape = pictures[images.index(row)].shape
            assert shape[0] / shape[1] == pytest.approx(height / width, rel=2 / 512)


def test_no_identifier_of_the_raw_table_reaches_the_workspace(
    result: PrepareResult, place: Workspace, raw_table: pd.DataFrame
) -> None:
    identifiers = {*raw_table["patient_id"], *raw_table["image_id"]}
    assert len(identifiers) == 71 + 243
    assert leaks(place.root, identifiers) == []
