"""Fitted on one cohort, tested on another: a disease stays, a hospital's habit does not; what both hold is left out."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from probe_kit import recipe
from sklearn.metrics import matthews_corrcoef

from peftbench.cohorts.describe import describe
from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.errors import ConfigError, NotPreparedError
from peftbench.probing.probe import probe
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.records import Record, read_predictions, read_record
from peftbench.protocol.results import ProbeResult
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore

pytestmark = pytest.mark.slow

HOME, AWAY = "PHA_icu_all", "elsewhere_icu"

TELLING, SHORTCUT = "resnet18@random:0", "resnet18@random:1"
"""Names under which made-up features are stored: of the disease's extent, and of the view."""

PATIENTS = 60


def own(name: str, raw: Path, place: Workspace, **changes: Any) -> None:
    words = {
        "name": name, "table": "phantom.csv", "images": "images", "file": "{image_id}", "patient": "patient_id",
        "center": "center", "view": "view", "order": "day", "label": "icu", "event": "1", "no_event": "0",
        "covariates": ("opacity_extent",),
    }  # fmt: skip
    prepare(describe("table", **{**words, **changes}), raw, workspace=place, workers=1)


def frame_of(cohort: str, place: Workspace) -> pd.DataFrame:
    return Manifest.read(cohort, place.manifest(cohort)).frame


def store(place: Workspace, name: str, cohorts: tuple[str, ...] = ("phantom", "elsewhere"), **changes: Any) -> None:
    """Features that hold one thing and noise: how ill the patient is, or how the film was taken."""
    frame = pd.concat([frame_of(each, place) for each in cohorts]).drop_duplicates("image_digest")
    extent = frame["opacity_extent"].astype(float).to_numpy()
    told = (extent - extent.mean()) / extent.std() if name == TELLING else 2.0 * (frame["view"] == "AP") - 1.0
    noise = np.random.default_rng(0).normal(size=(len(frame), 6))
    matrix = np.column_stack([2.0 * told, noise]).astype(np.float32)
    given = recipe(**changes)
    made = FeatureStore.create(place.features(name, given.key), given, {"embedding": (7,)})
    made.append(frame["image_digest"].tolist(), {"embedding": matrix})


@pytest.fixture(scope="module")
def raws(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two downloads: in the first every event lies (AP), in the second the view tells nothing."""
    folder = tmp_path_factory.mktemp("raws")
    settings = {"patients": PATIENTS, "size": 64, "images_per_patient": 2}
    home = write_phantom(folder / "home", PhantomConfig(**settings, confounder=1.0, seed=0))
    return home, write_phantom(folder / "away", PhantomConfig(**settings, confounder=0.0, seed=1))


@pytest.fixture(scope="module")
def place(raws: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Both cohorts in one workspace, with features of each kind; tests add records to it."""
    workspace = Workspace(tmp_path_factory.mktemp("external") / "workspace")
    prepare("phantom", raws[0], workspace=workspace, workers=1)
    own("elsewhere", raws[1], workspace)
    store(workspace, TELLING)
    store(workspace, SHORTCUT)
    return workspace


@pytest.fixture(scope="module")
def tested(place: Workspace) -> ProbeResult:
    return probe(HOME, [TELLING, SHORTCUT], workspace=place, external=AWAY, workers=1)


def record_of(result: ProbeResult, backbone: str) -> Record:
    return read_record(Path(next(row.record for row in result.results if row.backbone == backbone)))


class TestTheRightAnswer:
    def test_at_home_the_shortcut_is_perfect(self, place: Workspace) -> None:
        scores = probe(HOME, [TELLING, SHORTCUT], workspace=place, workers=1).frame.set_index("backbone")["mcc_mean"]
        assert scores[SHORTCUT] > 0.95
        assert scores["control:view"] > 0.95
        assert scores[TELLING] > 0.4

    def test_elsewhere_it_falls_to_chance_and_the_disease_stays(self, tested: ProbeResult) -> None:
        scores = tested.frame.set_index("backbone")["mcc_mean"]
        assert abs(scores[SHORTCUT]) < 0.3
        assert abs(scores["control:view"]) < 0.3
        assert scores[TELLING] > 0.4

    def test_the_gain_over_the_strongest_control_says_so(self, tested: ProbeResult) -> None:
        rows = {row.backbone: row for row in tested.results}
        assert rows[TELLING].gain_low > 0
        assert rows[SHORTCUT].gain_low <= 0
        assert rows[TELLING].p_value == pytest.approx(0.01)
        assert rows[SHORTCUT].p_value > 0.01


class TestTheRecord:
    def test_it_counts_the_rows_that_were_tested(self, tested: ProbeResult, place: Workspace) -> None:
        record = record_of(tested, TELLING)
        assert record.config.external == AWAY
        assert record.task["cohort"] == "elsewhere"
        assert record.task["images"] == record.task["patients"] == frame_of("elsewhere", place)["patient_id"].nunique()
        assert record.provenance["external"]["fitted_on"]["cohort"] == "phantom"

    def test_the_headline_is_the_mean_score_of_the_folds_models(self, tested: ProbeResult) -> None:
        row = next(each for each in tested.results if each.backbone == TELLING)
        predictions = read_predictions(Path(row.record))
        tests = predictions[predictions["role"] == "test"]
        models = tests[tests["fold"] >= 0].groupby("sample_id", sort=False)["score"].mean()
        together = tests[tests["fold"] == -1].set_index("sample_id")
        np.testing.assert_allclose(together["score"], models.loc[together.index], rtol=0, atol=1e-12)
        found = matthews_corrcoef(together["event"], together["score"] >= 0.5)
        assert row.mcc_mean == pytest.approx(found)
        assert sorted(tests["fold"].unique()) == [-1, 0, 1, 2, 3, 4]

    def test_settings_are_chosen_at_home(self, tested: ProbeResult, place: Workspace) -> None:
        """The models are those of the folds at home: the same C, the same scores of the validation part."""
        home = next(each for each in probe(HOME, TELLING, workspace=place).results if each.backbone == TELLING)
        away = next(each for each in tested.results if each.backbone == TELLING)
        parts = [read_predictions(Path(each.record)) for each in (home, away)]
        ours, theirs = (part[(part["role"] == "validation") & (part["fold"] >= 0)] for part in parts)
        pd.testing.assert_frame_equal(ours.reset_index(drop=True), theirs.reset_index(drop=True))

    def test_refitted_there_is_one_model(self, place: Workspace) -> None:
        result = probe(HOME, TELLING, workspace=place, external=AWAY, fold_models="refitted", workers=1)
        record = record_of(result, TELLING)
        assert record.provenance["external"]["how"] == "refitted"
        assert sorted({score["fold"] for score in record.scores}) == [-1, 0]
        assert record.score("mcc", "image")[0] > 0.4

    def test_run_again_it_is_read(self, tested: ProbeResult, place: Workspace) -> None:
        path = Path(tested.results[0].record) / "record.json"
        before = path.stat().st_ino
        again = probe(HOME, [TELLING, SHORTCUT], workspace=place, external=AWAY)
        assert again.to_json() == tested.to_json()
        assert path.stat().st_ino == before


class TestSharedImages:
    @pytest.fixture
    def mixed(self, raws: tuple[Path, Path], tmp_path: Path) -> Workspace:
        """A second cohort that holds ten patients of the first, under other names."""
        raw = Path(shutil.copytree(raws[1], tmp_path / "raw"))
        home, away = (pd.read_csv(each / "phantom.csv", dtype=str) for each in raws)
        taken = home[home["patient_id"].isin(sorted(home["patient_id"].unique())[:10])]
        for image in taken["image_id"]:
            shutil.copyfile(raws[0] / "images" / f"{image}.png", raw / "images" / f"copy{image}.png")
        taken = taken.assign(image_id="copy" + taken["image_id"], patient_id="copy" + taken["patient_id"])
        pd.concat([away, taken]).to_csv(raw / "phantom.csv", index=False)
        place = Workspace(tmp_path / "workspace")
        prepare("phantom", raws[0], workspace=place, workers=1)
        own("elsewhere", raw, place)
        store(place, TELLING)
        return place

    def test_they_and_their_patients_are_left_out_and_told(self, mixed: Workspace) -> None:
        result = probe(HOME, TELLING, workspace=mixed, external=AWAY, control=False, workers=1)
        record = record_of(result, TELLING)
        assert record.provenance["external"]["removed_patients"] == 10
        assert record.task["patients"] == PATIENTS
        assert any("10 patients" in note for note in record.notes)
        home = set(frame_of("phantom", mixed)["image_digest"])
        away = frame_of("elsewhere", mixed).set_index("sample_id")["image_digest"]
        predictions = read_predictions(Path(result.results[0].record))
        used = predictions.loc[predictions["role"] == "test", "sample_id"]
        assert not home & set(away.loc[used.unique()])

    def test_of_the_very_same_images_nothing_is_left(self, raws: tuple[Path, Path], tmp_path: Path) -> None:
        place = Workspace(tmp_path / "workspace")
        prepare("phantom", raws[0], workspace=place, workers=1)
        own("elsewhere", Path(shutil.copytree(raws[0], tmp_path / "raw")), place)
        store(place, TELLING)
        with pytest.raises(ConfigError, match="0 images are left"):
            probe(HOME, TELLING, workspace=place, external=AWAY)


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"external": "PHA_icu"}, "of the cohort 'phantom', as is"),
            ({"external": AWAY, "regime": "few-shot"}, "leave --regime few-shot out"),
            ({"external": AWAY, "with_": "clinical"}, "leave --with clinical out"),
            ({"external": AWAY, "probe": "cox"}, "--probe cox fits"),
            ({"external": AWAY, "fold_models": "best"}, "expected averaged or refitted"),
            ({"fold_models": "refitted"}, "add --external TASK"),
        ],
    )
    def test_what_does_not_go_together(self, place: Workspace, words: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            probe(HOME, TELLING, workspace=place, **words)

    def test_unequal_events(self, raws: tuple[Path, Path], tmp_path: Path, place: Workspace) -> None:
        own("third", raws[1], place, label="bits", event=("12",), no_event=("8", "10", "16"), covariates=())
        with pytest.raises(ConfigError, match=r"its event is 'bits'.*is 'icu'"):
            probe(HOME, TELLING, workspace=place, external="third_bits")

    def test_features_of_the_other_cohort_that_were_computed_otherwise(
        self, raws: tuple[Path, Path], tmp_path: Path
    ) -> None:
        place = Workspace(tmp_path / "workspace")
        prepare("phantom", raws[0], workspace=place, workers=1)
        own("elsewhere", raws[1], place)
        store(place, TELLING, ("phantom",))
        with pytest.raises(NotPreparedError, match="peftbench extract elsewhere"):
            probe(HOME, TELLING, workspace=place, external=AWAY)
        store(place, TELLING, ("elsewhere",), precision="bf16")
        with pytest.raises(NotPreparedError, match=r"no single feature store .* same device, precision and batch size"):
            probe(HOME, TELLING, workspace=place, external=AWAY)
