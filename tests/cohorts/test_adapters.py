"""Each published cohort against an imitation whose truth is known: the adapter must find that truth, and no other."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import imitation_aiforcovid as afc
import imitation_cidc as cidc
import imitation_cocross as cocross
import imitation_covid19_ar as car
import imitation_stony_brook as sbu
import numpy as np
import pandas as pd
import pytest
from openpyxl import load_workbook

from peftbench.cohorts import stony_brook
from peftbench.cohorts.describe import describe
from peftbench.cohorts.harmonise import harmonise
from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.registry import COHORTS, get_task
from peftbench.cohorts.rows import read_rows
from peftbench.cohorts.secrets import published
from peftbench.errors import RawDataError
from peftbench.imaging.dicom import read_header
from peftbench.protocol.manifest import REQUIRED, Manifest, pseudonym
from peftbench.protocol.results import PrepareResult
from peftbench.protocol.splits import make_split
from peftbench.protocol.tasks import rows_of
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow


def manifest_of(cohort: str, place: Path) -> Manifest:
    return Manifest.read(cohort, Workspace(place).manifest(cohort))


def used_by(task: str, manifest: Manifest) -> pd.DataFrame:
    return rows_of(get_task(task), manifest).frame


def prepared(cohort: str, raw: Path) -> tuple[PrepareResult, pd.DataFrame]:
    place = raw.parent / "workspace"
    result = prepare(cohort, raw, workspace=place, workers=1, side=32)
    return result, manifest_of(cohort, place).frame


def undecoded(cohort: str, raw: Path) -> Manifest:
    """The manifest without its digests: what the rules make of tables and headers, in seconds at any scale."""
    declared = COHORTS[cohort]
    rows = read_rows(declared, raw)
    frame = harmonise(declared, rows.table).reset_index(drop=True)
    ids = [pseudonym(cohort, "sample", each) for each in rows.table[declared.id]]
    patients = [pseudonym(cohort, "patient", each) for each in rows.table[declared.patient]]
    frame = frame.assign(sample_id=ids, patient_id=patients, file_digest="", image_digest="")
    order = [*REQUIRED, *(name for name in frame.columns if name not in REQUIRED)]
    return Manifest(cohort, frame[order].sort_values(["patient_id", "acquired"], kind="stable", ignore_index=True))


def rename_sheet_column(path: Path, old: str, new: str) -> None:
    book = load_workbook(path)
    for cell in book.worksheets[0][1]:
        cell.value = new if cell.value == old else cell.value
    book.save(path)


class TestAIforCOVID:
    @pytest.mark.slow
    def test_at_full_scale_it_is_the_published_cohort(self, full_aiforcovid: Path, tmp_path: Path) -> None:
        (tmp_path / "raw").symlink_to(full_aiforcovid)
        result, frame = prepared("aiforcovid", tmp_path / "raw")
        assert (result.images, result.patients, result.centers, result.rejected) == (1585, 1585, 6, [])
        assert frame["severity"].value_counts().to_dict() == {"no": 839, "yes": 746}
        counts = pd.crosstab(frame["center"], frame["severity"])
        assert {name: (row["no"], row["yes"]) for name, row in counts.iterrows()} == dict(afc.HOSPITALS)
        for task in ("AFC", "AFC_m"):
            rows = rows_of(get_task(task), manifest_of("aiforcovid", tmp_path / "workspace"))
            split = make_split(rows, rows.task.scheme, 0)
            tests = dict(zip(split.names, split.unit_counts(rows)["test"], strict=True))
            assert tests == {"A": 120, "B": 104, "C": 151, "D": 139, "E": 101, "F": 970}
        truth = {pseudonym("aiforcovid", "sample", each.image): each for each in afc.patients()}
        for row in frame.itertuples():
            told = truth[row.sample_id]
            assert (row.center, row.severity == "yes", row.death == "yes") == (told.hospital, told.severe, told.dead)

    @pytest.mark.parametrize("death", afc.DEATHS)
    def test_every_way_of_writing_death_is_understood(self, tmp_path: Path, death: str) -> None:
        _, frame = prepared("aiforcovid", afc.write(tmp_path / "raw", scale=0.01, size=8, death=death))
        truth = {pseudonym("aiforcovid", "sample", each.image): each.dead for each in afc.patients(0.01)}
        assert dict(zip(frame["sample_id"], frame["death"] == "yes", strict=True)) == truth
        assert set(frame["center"]) == set("ABCDEF"), "also where the sheet says ' a'"

    def test_a_way_of_writing_death_that_is_not_known_is_refused_with_its_values(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(afc.DEATHS, "other", ("vivo", "morto"))
        raw = afc.write(tmp_path / "raw", scale=0.01, size=8, death="other")
        with pytest.raises(RawDataError, match=r"'vivo' \(\d+ rows\), 'morto' \(\d+ rows\).*expected one of .*yes"):
            prepare("aiforcovid", raw, workspace=tmp_path / "workspace")
        assert not [path for path in (tmp_path / "workspace").rglob("*") if path.is_file()]

    def test_files_that_do_not_decode_are_rejected_and_the_others_used(self, tmp_path: Path) -> None:
        result, frame = prepared("aiforcovid", afc.write(tmp_path / "raw", scale=0.01, size=8, broken=3))
        total = len(afc.patients(0.01))
        assert (result.images, len(frame), len(result.rejected)) == (total - 3, total - 3, 3)
        assert all(each.file.endswith(".dcm") and each.reason for each in result.rejected)

    def test_without_one_sheet_the_others_are_used_and_its_files_are_counted(self, tmp_path: Path) -> None:
        raw = afc.write(tmp_path / "raw", scale=0.01, size=8)
        (raw / "AIforCOVID_r3.xlsx").unlink()
        result, _ = prepared("aiforcovid", raw)
        third = sum(each.release.folder == "imgs_r3" for each in afc.patients(0.01))
        assert result.images == len(afc.patients(0.01)) - third
        assert [note for note in result.notes if note.startswith(f"{third} files")]

    @pytest.mark.parametrize("column", ["Prognosis", "Death", "Hospital"])
    def test_a_sheet_that_lacks_a_column_is_named_rather_than_read_as_unlabelled(
        self, tmp_path: Path, column: str
    ) -> None:
        raw = afc.write(tmp_path / "raw", scale=0.01, size=8)
        rename_sheet_column(raw / "AIforCOVID_r2.xlsx", column, "other")
        with pytest.raises(RawDataError, match=rf"AIforCOVID_r2.xlsx.*{column}"):
            prepare("aiforcovid", raw, workspace=tmp_path / "workspace")

    @pytest.mark.parametrize("name", ["imgs_r3_copy", "films"])
    def test_a_folder_of_another_name_is_found_or_its_rows_are_rejected(self, tmp_path: Path, name: str) -> None:
        raw = afc.write(tmp_path / "raw", scale=0.01, size=8)
        (raw / "imgs_r3").rename(raw / name)
        result, _ = prepared("aiforcovid", raw)
        third = sum(each.release.folder == "imgs_r3" for each in afc.patients(0.01))
        assert len(result.rejected) == (0 if name.startswith("imgs") else third)
        assert {each.reason for each in result.rejected} <= {"file is missing"}

    def test_where_no_folder_has_its_name_the_download_is_refused(self, tmp_path: Path) -> None:
        raw = afc.write(tmp_path / "raw", scale=0.01, size=8)
        for number, folder in enumerate(sorted(raw.glob("imgs*"))):
            folder.rename(raw / f"films{number}")
        with pytest.raises(RawDataError, match=r"none of the \d+ images of aiforcovid.*imgs.*file is missing.*--raw"):
            prepare("aiforcovid", raw, workspace=tmp_path / "workspace")


@pytest.fixture(scope="module")
def arkansas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return car.write(tmp_path_factory.mktemp("car") / "raw", size=8)


@pytest.fixture(scope="module")
def arkansas_result(arkansas: Path) -> tuple[PrepareResult, pd.DataFrame]:
    return prepared("covid19-ar", arkansas)


class TestCOVID19AR:
    def test_the_film_of_each_patient_is_the_true_one(
        self, arkansas: Path, arkansas_result: tuple[PrepareResult, pd.DataFrame]
    ) -> None:
        used = used_by("CAR", manifest_of("covid19-ar", arkansas.parent / "workspace"))
        truth = {name: each for name, each in car.truth(arkansas).items() if each.film and each.icu is not None}
        expected = {
            pseudonym("covid19-ar", "patient", name): (
                hashlib.sha256((arkansas / str(each.film)).read_bytes()).hexdigest(),
                int(bool(each.icu)),
            )
            for name, each in truth.items()
        }
        rows = zip(used["patient_id"], used["file_digest"], used["event"], strict=True)
        assert {patient: (digest, event) for patient, digest, event in rows} == expected
        assert len(used) == 99
        assert used["event"].sum() == 29

    def test_study_folders_are_found_with_and_without_na(
        self, arkansas: Path, arkansas_result: tuple[PrepareResult, pd.DataFrame]
    ) -> None:
        films = [str(each.film) for each in car.truth(arkansas).values() if each.film and each.icu is not None]
        assert {"-NA-XR" in film for film in films} == {True, False}
        assert arkansas_result[0].rejected == []

    def test_what_is_left_out_is_counted(self, arkansas_result: tuple[PrepareResult, pd.DataFrame]) -> None:
        result, frame = arkansas_result
        assert result.left_out["no radiograph: CT"] == 108
        assert result.left_out[f"no row in {car.TABLE}"] == 1
        assert result.left_out["not of the chest: XR ABDOMEN 1 VIEW PORTABLE"] > 0
        assert result.images == len(frame) == car.FILMS - 1
        assert [note for note in result.notes if note.endswith("have no image")]

    def test_a_header_in_the_first_row_is_refused_with_what_stands_in_the_second(self, tmp_path: Path) -> None:
        raw = car.write(tmp_path / "raw", patients=6, size=8)
        book = load_workbook(raw / car.TABLE)
        book.worksheets[0].delete_rows(1)
        book.save(raw / car.TABLE)
        with pytest.raises(RawDataError, match=r"lacks the columns.*PATIENT_ID.*it has COVID-19-AR-"):
            prepare("covid19-ar", raw, workspace=tmp_path / "workspace")


def check_exposures(manifest: Manifest, films: list[sbu.Film]) -> None:
    """The variants without duplicates show every exposure of the chest exactly once, by its raw film."""
    by_sample = {pseudonym("stony-brook", "sample", each.instance_uid): each for each in films if each.chest}
    assert set(manifest.frame["sample_id"]) == set(by_sample)
    for task in ("NY_all_dedup", "NY_all_icu_dedup"):
        used = [by_sample[sample] for sample in used_by(task, manifest)["sample_id"]]
        assert sorted(each.exposure for each in used) == sorted({each.exposure for each in films if each.chest})
        assert not any(each.processed for each in used)
        apart = pd.DataFrame({"patient": [each.patient.name for each in used], "at": [each.acquired for each in used]})
        gaps = apart.sort_values("at").groupby("patient")["at"].diff().dropna()
        assert gaps.min().total_seconds() > sbu.PAIR_WITHIN
    first = sbu.first_films(films)
    used = used_by("NY_small", manifest)
    assert {by_sample[sample].instance_uid for sample in used["sample_id"]} == {
        each.instance_uid for each in first.values()
    }
    assert {by_sample[row.sample_id].patient.deceased == bool(row.event) for row in used.itertuples()} == {True}


class TestStonyBrook:
    def test_films_are_the_right_ones_at_a_twentieth_of_the_scale(self, tmp_path: Path) -> None:
        result, _ = prepared("stony-brook", sbu.write(tmp_path / "raw", scale=0.02))
        films = sbu.download(0.02).films
        assert result.images == sum(each.chest for each in films)
        assert result.tasks["NY_small"].images == result.tasks["NY_icu"].images == result.patients
        check_exposures(manifest_of("stony-brook", tmp_path / "workspace"), films)

    def test_where_the_raw_film_cannot_be_read_its_copy_is_used(self, tmp_path: Path) -> None:
        raw, films = sbu.write(tmp_path / "raw", scale=0.02), [each for each in sbu.download(0.02).films if each.chest]
        paired = {each.exposure for each in films if each.processed}
        lost = next(each for each in films if not each.processed and each.exposure in paired)
        paths = {read_header(each, ["SOPInstanceUID"])["SOPInstanceUID"]: each for each in raw.rglob("*-AP-*/*.dcm")}
        path = paths[lost.instance_uid]
        path.write_bytes(path.read_bytes()[:-20])
        result, _ = prepared("stony-brook", raw)
        assert [each.file.endswith(path.name) for each in result.rejected] == [True]
        assert result.tasks["NY_all_dedup"].images == len({each.exposure for each in films})

    @pytest.mark.slow
    def test_at_full_scale_the_rules_give_the_papers_counts(self, full_stony_brook: Path) -> None:
        manifest = undecoded("stony-brook", full_stony_brook)
        assert len(used_by("NY_all", manifest)) == len(used_by("NY_all_icu", manifest)) == 13_639
        for task in ("NY_small", "NY_icu"):
            used = used_by(task, manifest)
            assert len(used) == used["patient_id"].nunique() == 1365
        assert used_by("NY_small", manifest)["event"].sum() == 177
        check_exposures(manifest, sbu.download().films)


def films_at(*films: dict[str, str]) -> pd.DataFrame:
    """Films of one patient, all of one day and of the same series unless said otherwise."""
    usual = {
        "Subject ID": "A1",
        "Study Date": "03-05-1900",
        "dicom:ViewPosition": "AP",
        "dicom:AcquisitionTime": "100000",
        "dicom:SeriesNumber": "1",
        "dicom:ImageType": "ORIGINAL\\PRIMARY",
        "dicom:ReferencedImageSequence": "",
    }
    return pd.DataFrame([{**usual, "id": str(number), **film} for number, film in enumerate(films)])


T, N, D, R = "dicom:AcquisitionTime", "dicom:SeriesNumber", "dicom:ImageType", "dicom:ReferencedImageSequence"


class TestExposures:
    @pytest.mark.parametrize(
        ("films", "raw"),
        [
            pytest.param([{T: "100000"}, {T: "100004", N: "2"}], "0", id="within seconds"),
            pytest.param([{T: "100000"}, {T: "100005", N: "2"}], "0", id="five seconds"),
            pytest.param([{T: "100000"}, {T: "100006", N: "2"}], "01", id="six seconds"),
            pytest.param([{N: "10"}, {N: "9"}], "1", id="at once: the lower number, as a number"),
            pytest.param([{T: "100000", R: "present"}, {T: "100002", N: "2"}], "1", id="the copy comes first"),
            pytest.param([{T: "100000", D: "DERIVED\\PRIMARY"}, {T: "100002"}], "1", id="derived comes first"),
            pytest.param([{T: ""}, {T: "", N: "2"}], "01", id="without a time"),
            pytest.param([{T: "100000", "Subject ID": "A2"}, {T: "100001"}], "01", id="two patients"),
            pytest.param([{T: "100000"}, {T: "100001", "Study Date": "03-06-1900"}], "01", id="two days"),
            pytest.param([{T: "235958"}, {T: "000001", "Study Date": "03-06-1900", N: "2"}], "0", id="across midnight"),
        ],
    )
    def test_of_one_exposure_one_film_is_raw(self, films: list[dict[str, str]], raw: str) -> None:
        found = stony_brook.derive(films_at(*films))
        first = found.drop_duplicates(["Subject ID", "exposure"])
        assert sorted(first["id"]) == sorted(raw)

    def test_five_seconds_are_five_seconds_at_any_time(self) -> None:
        """Days with fractions cannot tell 5 from 5.00000001 seconds."""
        times = [f"{hour:02d}{minute:02d}" for hour in range(24) for minute in range(0, 60, 7)]
        shots = [
            {"Subject ID": f"A{number}", "Study Date": day, T: f"{time}{second}", N: second}
            for day in ("01-02-1900", "07-21-1901")
            for number, time in enumerate(times, len(times) * (day > "07"))
            for second in ("10", "15")
        ]
        found = stony_brook.derive(films_at(*shots))
        assert set(found["exposure"]) == {"1"}
        assert found.drop_duplicates("Subject ID")[N].tolist() == ["10"] * (2 * len(times))


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cidc.write(tmp_path_factory.mktemp("cidc") / "raw", size=32)


@pytest.fixture(scope="module")
def frame(collection: Path) -> pd.DataFrame:
    """CIDC's manifest beside the table that it is of."""
    _, found = prepared("cidc", collection)
    table = pd.read_csv(collection / "metadata.csv", encoding_errors="replace", keep_default_na=False, dtype=str)
    table["sample_id"] = [pseudonym("cidc", "sample", name) for name in table["filename"]]
    return found.merge(table, on="sample_id", suffixes=("", "_raw"), validate="one_to_one")


class TestCIDC:
    def test_films_of_covid_that_are_there_are_used(self, collection: Path, frame: pd.DataFrame) -> None:
        table = pd.read_csv(collection / "metadata.csv", encoding_errors="replace", keep_default_na=False, dtype=str)
        wanted = table[(table["modality"] == "X-ray") & table["finding"].str.contains("COVID-19")]
        there = [(collection / row["folder"] / row["filename"]).is_file() for row in wanted.to_dict("records")]
        assert 0 < sum(there) < len(there)
        assert set(frame["filename"]) == set(wanted.loc[there, "filename"])

    @pytest.mark.parametrize(
        ("label", "column", "meaning"),
        [("icu", "went_icu", {"Y": "yes", "N": "no"}), ("death", "survival", {"N": "yes", "Y": "no"})],
    )
    def test_question_marks_blanks_and_would_have_been_stated_are_no_labels(
        self, frame: pd.DataFrame, label: str, column: str, meaning: dict[str, str]
    ) -> None:
        found = dict(Counter(zip(frame[column], frame[label].fillna("unknown"), strict=True)))
        assert {(raw, meaning.get(raw, "unknown")) for raw, _ in found} == set(found)
        assert {"?", ""} < {raw for raw, _ in found}

    def test_views_and_centres(self, frame: pd.DataFrame) -> None:
        views = {"PA": "PA", "AP": "AP", "AP Supine": "AP", "L": "LATERAL", "?": None, "": None}
        for raw, found in set(zip(frame["view_raw"], frame["view"], strict=True)):
            assert found == views[raw] or (views[raw] is None and pd.isna(found))
        assert set(frame["center"].dropna()) <= {place for place in cidc.LOCATIONS if place}

    def test_a_place_is_one_place_whatever_bytes_the_notes_beside_it_hold(self, frame: pd.DataFrame) -> None:
        """One row may hold UTF-8 in one cell and Latin-1 in the next."""
        assert not [place for place in frame["center"].dropna() if "Ã" in place or "\ufffd" in place]
        assert {place for place in cidc.LOCATIONS if "ô" in place or "ã" in place} & set(frame["center"])

    def test_files_that_are_missing_are_rejected_alone(self, tmp_path: Path) -> None:
        raw = cidc.write(tmp_path / "raw", patients=24, size=32, rt_pcr=True)
        result, _ = prepared("cidc", raw)
        assert result.rejected
        assert {each.reason for each in result.rejected} == {"file is missing"}
        assert not any((raw / each.file).exists() for each in result.rejected)


class TestCoCross:
    @pytest.mark.parametrize("sheet", ["csv", "xlsx"])
    def test_as_it_is_published(self, tmp_path: Path, sheet: str) -> None:
        result, frame = prepared("cocross", cocross.write(tmp_path / "raw", images=40, patients=17, sheet=sheet))
        films = cocross.films(40, 17)
        assert (result.images, result.patients) == (40, 17)
        assert result.tasks["CC"].events == sum(each.died for each in films) == (frame["death"] == "yes").sum()

    def check(self, result: PrepareResult) -> None:
        films = cocross.films(40, 17)
        assert (result.images, result.patients, result.rejected) == (40, 17, [])
        assert result.tasks["CC"].events == sum(each.died for each in films)

    def test_a_row_an_image_with_the_patient_in_another_column(self, tmp_path: Path) -> None:
        raw = cocross.write(tmp_path / "raw", images=40, patients=17, rows="image", size=8)
        declared = describe("cocross", patient="Patient", images="images")
        self.check(prepare(declared, raw, workspace=tmp_path / "workspace", workers=1))

    @pytest.mark.parametrize(
        "options",
        [
            {"key": "Code", "patient": "Code", "label": "Esito", "event": "Morto", "no_event": "Vivo"},
            {"table": "cocross.csv", "key": "Code", "patient": "Code", "label": "Esito", "event": "Morto",
             "no_event": ("Vivo", "vivo"), "images": "images"},
        ],
    )  # fmt: skip
    def test_other_columns_and_values_are_said_by_options(self, tmp_path: Path, options: dict[str, Any]) -> None:
        raw = cocross.write(tmp_path / "raw", images=40, patients=17, size=8)
        text = (raw / "cocross.csv").read_text()
        for old, new in (("ID,", "Code,"), ("ICU Outcome", "Esito"), ("Death", "Morto"), ("Alive", "Vivo")):
            text = text.replace(old, new)
        (raw / "cocross.csv").write_text(text)
        self.check(prepare(describe("cocross", **options), raw, workspace=tmp_path / "workspace", workers=1))


def test_pseudonyms_of_published_cohorts_stay_what_they_were(collection: Path) -> None:
    """A plain digest of cohort, kind and identifier; other results refer to them."""
    assert pseudonym("hannover", "patient", "aa000001") == published("hannover").of("patient", "aa000001")
    assert pseudonym("hannover", "sample", "b0000001") == "s-" + expected_digest("hannover", "sample", "b0000001")
    assert {COHORTS[name].identifiers for name in COHORTS} == {"published"}
    assert np.all([len(published(name).fingerprint) == 0 for name in COHORTS])


def expected_digest(cohort: str, kind: str, raw_id: str) -> str:
    words = f'["pseudonym","{cohort}","{kind}","{raw_id}"]'
    return hashlib.sha256(words.encode()).hexdigest()[:12]
