"""Clinical variables and times: what is known when the film is taken, and for how long somebody was seen."""

from pathlib import Path
from typing import Any

import imitation_aiforcovid as afc
import pandas as pd
import pytest
from hannover_kit import Row, write_hannover
from openpyxl import load_workbook
from pydantic import ValidationError

from peftbench.cohorts import hannover, stony_brook
from peftbench.cohorts.declaration import Cohort
from peftbench.cohorts.describe import describe
from peftbench.cohorts.harmonise import harmonise
from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.registry import COHORTS
from peftbench.cohorts.rows import read_rows
from peftbench.errors import ConfigError
from peftbench.probing.clinical import clinical_table
from peftbench.probing.survival import SurvivalRows
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.tasks import rows_of
from peftbench.protocol.workspace import Workspace

MERCY: dict[str, Any] = {
    "name": "mercy",
    "table": "t.csv",
    "file": "{exam}",
    "patient": "patient",
    "labels": {"died": {"column": "Died", "event": "yes", "no_event": "no"}},
    "covariates": {"age": {"column": "Age at exam"}, "to_death": "to_death", "seen": "seen"},
}
TIMED = {"name": "mercy_died", "label": "died", "time": {"event": "to_death", "censored": "seen"}}


def table_of(cohort: str, raw: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The raw rows, and what becomes of them."""
    rows = read_rows(COHORTS[cohort], raw).table
    return rows, harmonise(COHORTS[cohort], rows)


class TestDeclaration:
    @pytest.mark.parametrize("cohort", COHORTS)
    def test_no_published_cohort_gives_its_outcome_away(self, cohort: str) -> None:
        declared = COHORTS[cohort]
        assert set(declared.clinical) <= set(declared.covariates)
        telling = {"opacity_extent", "ventilated", "exposure", "days_to_icu", "days_to_death", "days_observed"}
        assert not set(declared.clinical) & (telling | set(declared.labels))

    @pytest.mark.parametrize(
        ("clinical", "told"),
        [
            (["died"], "'died' is an outcome"),
            (["Died"], "'Died' is no covariate"),
            (["height"], r"'height' is no covariate: expected one of age, to_death, seen"),
            (["again"], "'again' is an outcome"),
            (["to_death"], "'to_death' is the time to an outcome"),
        ],
    )
    def test_what_is_not_known_at_the_film_is_refused(self, clinical: list[str], told: str) -> None:
        said = describe("table", {**MERCY, "tasks": [TIMED]}).model_dump()
        if clinical == ["again"]:
            said["covariates"]["again"] = {"column": "Died"}
        with pytest.raises(ValidationError, match=told):
            Cohort.model_validate({**said, "clinical": clinical})

    def test_a_time_is_a_covariate(self) -> None:
        found = describe("table", {**MERCY, "tasks": [TIMED]})
        assert found.tasks[0].time is not None
        assert found.tasks[0].time.columns == ("to_death", "seen")
        wrong = {**TIMED, "time": {"event": "to_deth", "censored": "seen"}}
        with pytest.raises(ConfigError, match=r"'mercy_died' reads its time from 'to_deth'.*age, to_death, seen"):
            describe("table", {**MERCY, "tasks": [wrong]})
        with pytest.raises(ConfigError, match=r"unknown word 'tasks.0.time.cencored'.*censored"):
            describe("table", {**MERCY, "tasks": [{**TIMED, "time": {"event": "seen", "cencored": "seen"}}]})


class TestDescription:
    @pytest.mark.parametrize("clinical", ["age", "Age at exam", ["age", "Age at exam"]])
    def test_a_clinical_variable_is_called_by_its_name_or_its_column(self, clinical: Any) -> None:
        assert describe("table", {**MERCY, "clinical": clinical}).clinical == ("age",)
        assert describe("table", MERCY, clinical=clinical).clinical == ("age",)

    def test_a_column_that_is_no_covariate_becomes_one(self) -> None:
        found = describe("table", MERCY, clinical=("age", "CRP [mg/l]"))
        assert found.clinical == ("age", "crp_mg_l")
        assert (found.covariates["crp_mg_l"].column, found.covariates["crp_mg_l"].kind) == ("CRP [mg/l]", "auto")
        bare = {word: said for word, said in MERCY.items() if word != "covariates"}
        assert describe("table", bare, clinical="Age").clinical == ("age",)
        assert describe("table", {**bare, "covariates": ["Sex"], "clinical": ["Sex"]}).clinical == ("sex",)

    @pytest.mark.parametrize("outcome", ["died", "Died"])
    def test_the_outcome_is_refused_by_either_name(self, outcome: str) -> None:
        with pytest.raises(ConfigError, match=f"'{outcome}' is"):
            describe("table", MERCY, clinical=outcome)

    def test_who_somebody_is_stays_secret(self) -> None:
        with pytest.raises(ConfigError, match="identif"):
            describe("table", MERCY, clinical="patient")

    def test_a_preset_takes_them_too(self) -> None:
        found = describe("cocross", clinical="Age")
        assert (found.clinical, found.covariates["age"].column) == (("age",), "Age")

    def test_without_any_there_are_none(self) -> None:
        assert describe("table", MERCY).clinical == ()


class TestHannover:
    def test_a_blood_value_drawn_after_the_film_is_not_known(self) -> None:
        films = pd.DataFrame(
            [
                {"crp_offset": "-3.0", "crp_val": "12.0"},
                {"crp_offset": "0.0", "crp_val": "-inf"},
                {"crp_offset": "1.0", "crp_val": "99.0"},
                {"crp_offset": "", "crp_val": "77.0"},
                {"crp_offset": "", "crp_val": ""},
            ]
        ).assign(patient_id="a", admission_offset="0", icu_admission_offset="", death_offset="")
        found = hannover.derive(films)
        assert found["crp_known"].tolist() == ["12.0", "-inf", "", "", ""]
        assert "ldh_known" not in found.columns

    def test_somebody_is_under_observation_until_the_last_trace(self) -> None:
        usual = {"icu_admission_offset": "", "icu_release_offset": "", "death_offset": "", "crp_offset": ""}
        films = pd.DataFrame(
            [
                {**usual, "patient_id": "films", "admission_offset": "0"},
                {**usual, "patient_id": "films", "admission_offset": "-6"},
                {**usual, "patient_id": "blood", "admission_offset": "-2", "crp_offset": "3"},
                {**usual, "patient_id": "earlier", "admission_offset": "-2", "crp_offset": "-3"},
                {**usual, "patient_id": "icu", "admission_offset": "-1", "icu_release_offset": "8.0"},
                {**usual, "patient_id": "died", "admission_offset": "-1", "death_offset": "4.0"},
            ]
        ).assign(crp_val="1.0")
        assert hannover.derive(films)["days_observed"].tolist() == ["6.0", "0.0", "3.0", "0.0", "8.0", "4.0"]

    def test_a_table_without_blood_values_is_prepared_all_the_same(self, tmp_path: Path) -> None:
        rows = (Row("aa000001", "b0000001"), Row("aa000001", "b0000002", "-3"), Row("aa000002", "b0000003", "0", "2.0"))
        place = Workspace(tmp_path / "workspace")
        prepare("hannover", write_hannover(tmp_path / "raw", rows), workspace=place, workers=1)
        manifest = Manifest.read("hannover", place.manifest("hannover"))
        assert manifest.frame["crp"].isna().all()
        task = next(each for each in COHORTS["hannover"].tasks if each.name == "HAN_icu_all")
        found = clinical_table(rows_of(task, manifest), COHORTS["hannover"].clinical)
        assert found.names == ()
        assert "crp: unknown in every row, left out" in found.notes
        survival = SurvivalRows.of(rows_of(task, manifest))
        assert sorted(zip(survival.time, survival.observed, strict=True)) == [(2.0, True), (3.0, False)]

    def test_offsets_above_zero_are_after_the_film(self, hannover_raw: Path) -> None:
        """A value that stands beside several films was drawn on one day: film's day plus offset, and never minus."""
        table = pd.read_csv(hannover_raw / "data.csv").assign(day=lambda each: -each["admission_offset"])

        def days(lab: str, sign: int) -> int:
            drawn = table[table[f"{lab}_offset"].abs() > 0]
            day = drawn["day"] + sign * drawn[f"{lab}_offset"]
            return int(day.groupby([drawn["patient_id"], drawn[f"{lab}_val"]]).nunique().sum())

        several = ("factor_xii", "lymphocytes", "neutrophils", "d-dimer")
        assert all(days(lab, 1) < days(lab, -1) for lab in several), {
            lab: (days(lab, 1), days(lab, -1)) for lab in several
        }

    def test_the_real_table(self, hannover_raw: Path) -> None:
        raw, found = table_of("hannover", hannover_raw)
        counts = {"crp": 172, "d_dimer": 83, "factor_xii": 58, "ldh": 126, "lymphocytes": 73, "neutrophils": 73}
        counts |= {"pco2": 170, "po2": 170, "sex": 243, "age": 0, "size": 0, "weight": 0}
        assert {name: int(found[name].notna().sum()) for name in COHORTS["hannover"].clinical} == counts
        for lab in hannover.LABS:
            offset = pd.to_numeric(raw[f"{lab}_offset"], errors="coerce")
            known = found[lab.replace("-", "_")].notna()
            assert (offset[known] <= 0).all()
            assert (pd.to_numeric(raw[f"{lab}_val"])[known].astype(float) == found[lab.replace("-", "_")][known]).all()
        assert (found["days_observed"] >= 0).all()
        dead = found["days_to_death"].notna()
        assert (found["days_observed"] >= found["days_to_death"])[dead].all()

    @pytest.mark.parametrize(
        ("task", "rows", "events"),
        [("HAN_icu", 26, 6), ("HAN_icu_prospective", 33, 7), ("HAN_icu_all", 33, 7), ("HAN_m_all", 193, 45)],
    )
    def test_few_rows_tell_a_time(self, hannover_raw: Path, task: str, rows: int, events: int) -> None:
        raw, found = table_of("hannover", hannover_raw)
        ids = {"sample_id": raw["image_id"], "patient_id": raw["patient_id"], "file_digest": "", "image_digest": ""}
        frame = found.assign(**ids).sort_values(["patient_id", "acquired"], kind="stable", ignore_index=True)
        asked = next(each for each in COHORTS["hannover"].tasks if each.name == task)
        survival = SurvivalRows.of(rows_of(asked, Manifest("hannover", frame)))
        assert (len(survival.time), int(survival.observed.sum())) == (rows, events)
        left_out = sum(each.images for each in survival.exclusions)
        assert len(survival.time) + left_out == survival.images


class TestStonyBrook:
    def films(self, **more: str) -> pd.DataFrame:
        usual = {
            "Subject ID": "A1", "dicom:ViewPosition": "AP", "dicom:AcquisitionTime": "100000",
            "dicom:SeriesNumber": "1", "dicom:ImageType": "ORIGINAL", "dicom:ReferencedImageSequence": "", **more,
        }  # fmt: skip
        return pd.DataFrame([{**usual, "Study Date": day} for day in ("03-05-1900", "03-04-1900", "03-20-1900")])

    def test_the_stay_is_counted_from_the_patients_first_film(self) -> None:
        found = stony_brook.derive(self.films(length_of_stay="7"))
        assert found["stay_left"].tolist() == ["7.0", "6.0", "-9.0"]

    @pytest.mark.parametrize("more", [{}, {"length_of_stay": ""}])
    def test_without_a_length_it_is_not_known(self, more: dict[str, str]) -> None:
        assert set(stony_brook.derive(self.films(**more))["stay_left"]) == {""}

    def test_only_deaths_have_a_time(self) -> None:
        assert {task.name: bool(task.time) for task in COHORTS["stony-brook"].tasks} == {
            "NY_small": True, "NY_icu": False, "NY_all": True, "NY_all_dedup": True, "NY_all_icu": False,
            "NY_all_icu_dedup": False,
        }  # fmt: skip


class TestAIforCOVID:
    def test_every_column_that_is_known_at_admission_is_there(self, tmp_path: Path) -> None:
        raw, found = table_of("aiforcovid", afc.write(tmp_path / "raw", scale=0.01, size=8))
        assert (pd.to_numeric(raw["CRP"], errors="coerce").dropna() == found["crp"].dropna()).all()
        assert found["crp"].notna().any()
        assert found["cough"].dropna().isin([0.0, 1.0]).all()
        declared = COHORTS["aiforcovid"]
        columns = {declared.covariates[name].column for name in declared.clinical}
        left_out = {"ImageFile", "Hospital", "Prognosis", "Death", "RespiratoryFailure"}
        assert columns == set(afc.COLUMNS) - left_out

    def test_a_sheet_without_them_is_prepared_all_the_same(self, tmp_path: Path) -> None:
        raw = afc.write(tmp_path / "raw", scale=0.01, size=8)
        for path in raw.glob("*.xlsx"):
            book = load_workbook(path)
            book.worksheets[0].delete_cols(5, 33)
            book.save(path)
        _, found = table_of("aiforcovid", raw)
        clinical = list(COHORTS["aiforcovid"].clinical)
        assert found[clinical].drop(columns=["age", "sex"]).isna().all(axis=None)
        assert found["age"].notna().any()
