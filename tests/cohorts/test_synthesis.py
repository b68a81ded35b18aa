"""The phantom cohort: known truth, known counts, the same bytes again, and no half-written folder."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydantic
import pytest
from PIL import Image

from peftbench.cohorts import synthesis
from peftbench.cohorts.synthesis import (
    COLUMNS,
    ImagePlan,
    PhantomConfig,
    PhantomFolderError,
    Picture,
    drawing,
    picture,
    plan_cohort,
    render,
    write_phantom,
)
from peftbench.cohorts.synthesis import folder as folders
from peftbench.cohorts.synthesis.shapes import Field
from peftbench.errors import PeftbenchError
from peftbench.protocol.progress import Progress, Silent

SMALL = PhantomConfig(patients=12, size=64, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("raw") / "phantom", SMALL)


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "phantom.csv")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def first_images(config: PhantomConfig) -> pd.DataFrame:
    plans = [plan for plan in plan_cohort(config) if plan.image == 0]
    return pd.DataFrame(
        {
            "center": [plan.center for plan in plans],
            "ap": [plan.view == "AP" for plan in plans],
            "bits": [plan.bits for plan in plans],
            "severity": [plan.severity for plan in plans],
            "icu": [plan.icu for plan in plans],
        }
    )


class TestFolder:
    def test_the_same_configuration_gives_the_same_bytes(self, folder: Path, tmp_path: Path) -> None:
        again = write_phantom(tmp_path / "again", SMALL)
        assert contents(again) == contents(folder)

    def test_another_seed_gives_other_pictures_and_ids(self, folder: Path, tmp_path: Path) -> None:
        other = write_phantom(tmp_path / "other", SMALL.model_copy(update={"seed": 8}))
        assert not set(contents(other).values()) & set(contents(folder).values())
        assert {path.name for path in (other / "images").iterdir()}.isdisjoint(
            path.name for path in (folder / "images").iterdir()
        )

    def test_it_holds_a_table_pictures_and_its_configuration(self, folder: Path, table: pd.DataFrame) -> None:
        assert {path.name for path in folder.iterdir()} == {"phantom.csv", "phantom.json", "images"}
        assert tuple(table.columns) == COLUMNS
        assert {path.stem for path in (folder / "images").iterdir()} == set(table.image_id)
        record = json.loads((folder / "phantom.json").read_text())
        assert PhantomConfig(**record["config"]) == SMALL
        assert record["version"] == synthesis.GENERATOR_VERSION

    def test_a_folder_with_the_same_cohort_is_left_alone(self, folder: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        assert write_phantom(folder, SMALL) == folder
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    def test_missing_parents_and_an_empty_folder_are_fine(self, tmp_path: Path) -> None:
        empty = tmp_path / "some" / "where"
        empty.mkdir(parents=True)
        config = PhantomConfig(patients=6, size=64, images_per_patient=1)
        assert (write_phantom(empty, config) / "phantom.csv").is_file()
        assert (write_phantom(tmp_path / "not" / "there" / "yet", config) / "phantom.csv").is_file()


class TestRefusal:
    def test_another_configuration(self, folder: Path) -> None:
        before = contents(folder)
        with pytest.raises(PhantomFolderError, match=r'"seed": 7.* was expected there; choose another folder'):
            write_phantom(folder, SMALL.model_copy(update={"seed": 9}))
        assert contents(folder) == before

    def test_files_of_somebody_else(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("two years of work")
        with pytest.raises(PhantomFolderError, match=r"holds files but no phantom\.json"):
            write_phantom(tmp_path, SMALL)
        assert contents(tmp_path) == {"thesis.txt": b"two years of work"}

    def test_a_file_of_that_name(self, tmp_path: Path) -> None:
        (tmp_path / "phantom").write_text("")
        with pytest.raises(PhantomFolderError, match="is a file"):
            write_phantom(tmp_path / "phantom", SMALL)

    def test_a_cohort_that_lost_a_picture(self, tmp_path: Path) -> None:
        config = PhantomConfig(patients=6, size=64, images_per_patient=1)
        damaged = write_phantom(tmp_path / "damaged", config)
        next((damaged / "images").iterdir()).unlink()
        with pytest.raises(PhantomFolderError, match="lacks 1 of its files"):
            write_phantom(damaged, config)

    def test_the_error_is_the_projects_and_a_value_error(self) -> None:
        assert issubclass(PhantomFolderError, PeftbenchError)
        assert issubclass(PhantomFolderError, ValueError)


class TestInterruption:
    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
    def test_nothing_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
    ) -> None:
        drawn: list[str] = []

        def stop_at_the_fifth(config: PhantomConfig, plan: ImagePlan) -> Picture:
            if len(drawn) == 4:
                raise interruption
            drawn.append(plan.image_id)
            return render(config, plan)

        monkeypatch.setattr(drawing, "render", stop_at_the_fifth)
        with pytest.raises(interruption):
            write_phantom(tmp_path / "phantom", SMALL)
        assert len(drawn) == 4
        assert list(tmp_path.iterdir()) == []

    def test_a_rival_that_finished_first_wins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = PhantomConfig(patients=6, size=64, images_per_patient=1)
        target = tmp_path / "phantom"
        plain = folders._write_into

        def write_while_a_rival_does(partial: Path, asked: PhantomConfig, told: Progress) -> None:
            plain(partial, asked, told)
            plain(target, asked, told)

        monkeypatch.setattr(folders, "_write_into", write_while_a_rival_does)
        assert write_phantom(target, config) == target
        assert list(tmp_path.iterdir()) == [target]


class Told(Silent):
    """Remembers what it was told; interrupts at the image of that number."""

    def __init__(self, interrupt_at: int = -1) -> None:
        self.jobs: list[tuple[str, int]] = []
        self.advanced = 0
        self.interrupt_at = interrupt_at

    def start(self, label: str, total: int) -> None:
        self.jobs.append((label, total))

    def advance(self, count: int = 1) -> None:
        self.advanced += count
        if self.advanced == self.interrupt_at:
            raise KeyboardInterrupt


class TestProgress:
    def test_every_image_is_told(self, tmp_path: Path) -> None:
        config, told = PhantomConfig(patients=6, size=64), Told()
        images = list((write_phantom(tmp_path / "phantom", config, told) / "images").iterdir())
        assert told.jobs == [("drawing phantom", len(images))]
        assert told.advanced == len(images)

    def test_nothing_is_told_of_a_folder_that_is_reused(self, folder: Path) -> None:
        told = Told()
        write_phantom(folder, SMALL, told)
        assert told.jobs == []
        assert told.advanced == 0


class TestProcesses:
    @pytest.fixture
    def two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folders, "processes_for", lambda _config, _images: 2)

    @pytest.mark.slow
    @pytest.mark.usefixtures("two")
    def test_bytes_do_not_depend_on_their_number(self, folder: Path, tmp_path: Path) -> None:
        told = Told()
        apart = write_phantom(tmp_path / "apart", SMALL, told)
        assert contents(apart) == contents(folder)
        assert told.jobs == [("drawing phantom", told.advanced)]

    @pytest.mark.slow
    @pytest.mark.usefixtures("two")
    def test_an_interruption_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            write_phantom(tmp_path / "phantom", SMALL, Told(interrupt_at=5))
        assert list(tmp_path.iterdir()) == []

    def test_a_small_cohort_is_drawn_in_this_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(drawing.joblib, "cpu_count", lambda: 64)
        assert drawing.processes_for(PhantomConfig(size=160), 40) == 1
        assert drawing.processes_for(PhantomConfig(size=512), 240) == 4


class TestConfig:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("patients", 5),
            ("centers", 0),
            ("centers", 9),
            ("images_per_patient", 0),
            ("prevalence", 0.04),
            ("prevalence", 0.96),
            ("effect", -1.0),
            ("effect", float("nan")),
            ("confounder", -0.1),
            ("confounder", 1.1),
            ("size", 63),
            ("size", 4097),
            ("seed", -1),
            ("sead", 1),
        ],
    )
    def test_a_wrong_value_or_name_is_refused(self, field: str, value: float) -> None:
        with pytest.raises(pydantic.ValidationError, match=field):
            PhantomConfig.model_validate({field: value})

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(PhantomConfig(), "seed", 1)  # noqa: B010


class TestTable:
    def test_ids_are_eight_hex_digits_and_unique(self, table: pd.DataFrame) -> None:
        ids = [*table.patient_id.unique(), *table.image_id]
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch("[a-f][0-9a-f]{7}", name) for name in ids)

    def test_a_patient_has_one_outcome_one_center_and_images_in_order(self, table: pd.DataFrame) -> None:
        patients = table.groupby("patient_id", sort=False)
        assert len(patients) == SMALL.patients
        assert len(table[["patient_id", "icu", "center", "bits"]].drop_duplicates()) == SMALL.patients
        assert patients.day.apply(lambda days: days.is_monotonic_increasing and days.is_unique).all()
        assert patients.size().between(1, SMALL.images_per_patient).all()

    def test_about_two_images_a_patient_and_mostly_from_day_zero(self) -> None:
        config = PhantomConfig(patients=2000)
        plans = plan_cohort(config)
        assert len(plans) / config.patients == pytest.approx(2.0, abs=0.1)
        assert np.mean([plan.day == 0 for plan in plans if plan.image == 0]) > 0.8

    @pytest.mark.parametrize("patients", [6, 13, 120])
    @pytest.mark.parametrize("prevalence", [0.05, 0.4, 0.95])
    def test_the_number_of_events_is_exact(self, patients: int, prevalence: float) -> None:
        events = first_images(PhantomConfig(patients=patients, prevalence=prevalence)).icu.sum()
        assert events == min(max(round(prevalence * patients), 1), patients - 1)

    def test_events_have_more_opacity(self, table: pd.DataFrame) -> None:
        extent = table.groupby("icu").opacity_extent.mean()
        assert extent[1] > extent[0] + 0.05
        assert table.opacity_extent.between(0, 1).all()

    def test_without_effect_severity_says_nothing(self) -> None:
        patients = first_images(PhantomConfig(patients=4000, effect=0.0))
        means = patients.groupby("icu").severity.mean()
        assert means[1] - means[0] == pytest.approx(0.0, abs=0.15)

    @pytest.mark.parametrize("confounder", [0.0, 0.5, 0.9, 1.0])
    def test_the_view_follows_the_outcome_as_far_as_the_confounder_says(self, confounder: float) -> None:
        patients = first_images(PhantomConfig(patients=200, confounder=confounder))
        shares = patients.groupby("icu").ap.mean()
        assert shares[1] - shares[0] == pytest.approx(confounder, abs=0.02)

    def test_fully_confounded_views_never_change(self) -> None:
        assert all((plan.view == "AP") == bool(plan.icu) for plan in plan_cohort(PhantomConfig(confounder=1.0)))

    def test_centers_and_depths_are_independent_of_the_outcome(self) -> None:
        patients = first_images(PhantomConfig(patients=60, centers=4))
        assert sorted(patients.center.unique()) == list("ABCD")
        for trait in ("center", "bits"):
            counts = pd.crosstab(patients[trait], patients.icu)
            assert (counts.max() - counts.min() <= 1).all()


class TestPictures:
    @pytest.fixture
    def plans(self) -> Iterator[ImagePlan]:
        return iter(plan_cohort(SMALL))

    def test_both_depths_are_there_and_readable(self, folder: Path, table: pd.DataFrame) -> None:
        assert set(table.bits) == {8, 16}
        for row in table.itertuples():
            with Image.open(folder / "images" / f"{row.image_id}.png") as picture:
                assert picture.mode == {8: "L", 16: "I;16"}[int(str(row.bits))]
                pixels = np.asarray(picture)
            assert max(pixels.shape) == SMALL.size
            assert pixels.max() <= {8: 255, 16: 4095}[int(str(row.bits))]
            assert pixels.std() > 0.1 * pixels.max()

    def test_one_picture_can_be_drawn_alone(self, folder: Path) -> None:
        plan = plan_cohort(SMALL)[-1]
        with Image.open(folder / "images" / f"{plan.image_id}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), render(SMALL, plan).pixels)

    def test_more_patients_do_not_change_a_picture(self) -> None:
        plan = plan_cohort(SMALL)[0]
        larger = SMALL.model_copy(update={"patients": 30, "images_per_patient": 8})
        np.testing.assert_array_equal(render(SMALL, plan).pixels, render(larger, plan).pixels)

    def test_ap_lies_and_pa_stands(self, plans: Iterator[ImagePlan]) -> None:
        for plan in plans:
            height, width = render(SMALL, plan).pixels.shape
            assert (width > height) == (plan.view == "AP")

    def test_opacity_brightens_the_lungs(self) -> None:
        plan = replace(plan_cohort(SMALL)[0], bits=8)
        clear, sick = (render(SMALL, replace(plan, severity=severity)) for severity in (-3.0, 3.0))
        assert clear.opacity_extent < 0.02
        assert sick.opacity_extent > 0.5
        assert sick.pixels.mean() > clear.pixels.mean() + 5

    def test_the_truth_hardly_depends_on_the_size(self) -> None:
        plan = plan_cohort(SMALL)[0]
        small, large = (render(SMALL.model_copy(update={"size": size}), plan) for size in (64, 256))
        assert small.opacity_extent == pytest.approx(large.opacity_extent, abs=0.01)

    def test_drawn_in_single_precision(self, plans: Iterator[ImagePlan], monkeypatch: pytest.MonkeyPatch) -> None:
        """A stray float64 scalar would widen every map after it and double the time."""
        dtypes = set()
        plain = picture.enlarge

        def spy(drawn: Field, shape: tuple[int, int]) -> Field:
            dtypes.add(drawn.dtype)
            return plain(drawn, shape)

        monkeypatch.setattr(picture, "enlarge", spy)
        for plan in plans:
            render(SMALL, plan)
        assert dtypes == {np.dtype(np.float32)}
