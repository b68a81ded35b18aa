"""The imitations hold what is known of the data sets: read here with pydicom, openpyxl, pandas and Pillow alone."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dicom_kit
import imitation_aiforcovid
import imitation_cidc
import imitation_cocross
import imitation_covid19_ar
import imitation_stony_brook
import nbia_kit
import numpy as np
import numpy.typing as npt
import openpyxl
import pandas as pd
import pydicom
import pytest
from dicom_kit import HTJ2K_PIXELS, LOSSY, SYNTAXES, VoiLut, quick_dicom, radiograph, uid_of, write_dicom
from gdcm_change import change_syntax
from hannover_kit import write_hannover
from PIL import Image
from pydicom.config import settings

pytestmark = pytest.mark.slow

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """What is written must be valid: pydicom may not overlook anything."""
    before = settings.reading_validation_mode
    settings.reading_validation_mode = pydicom.config.RAISE
    yield
    settings.reading_validation_mode = before


def film(bits: int = 12, seed: int = 0, extent: tuple[int, int] = (37, 33)) -> npt.NDArray[Any]:
    return radiograph(np.random.default_rng(seed), extent, bits)


FORMS: dict[str, tuple[npt.NDArray[Any], dict[str, Any]]] = {
    "8 bit": (film(8), {}),
    "12 bit": (film(12), {"bits_stored": 12}),
    "16 bit": (film(16), {}),
    "signed": ((film(12).astype(np.int32) - 2040).astype(np.int16), {"signed": True, "bits_stored": 12}),
    "one frame": (film(12), {"bits_stored": 12, "frames": 1}),
    "three frames": (np.stack([film(12, seed) for seed in range(3)]), {"bits_stored": 12, "frames": 3}),
    "colour": (np.dstack([film(8, seed) for seed in range(3)]), {"photometric": "RGB"}),
}


class TestDicom:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("syntax", [name for name, uid in SYNTAXES.items() if uid not in LOSSY][:-1])
    def test_what_is_stored_without_loss_comes_back(self, tmp_path: Path, syntax: str, form: str) -> None:
        pixels, options = FORMS[form]
        file = pydicom.dcmread(write_dicom(tmp_path / "a" / "1-1.dcm", pixels, transfer_syntax=syntax, **options))
        assert file.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
        assert ("NumberOfFrames" in file) == ("frames" in options)
        np.testing.assert_array_equal(file.pixel_array, pixels)
        assert file.pixel_array.dtype.newbyteorder("=") == pixels.dtype

    @pytest.mark.parametrize("form", ["8 bit", "12 bit", "16 bit", "signed", "three frames", "colour"])
    @pytest.mark.parametrize("syntax", ["jpeg_baseline", "jpeg_ls_near", "jpeg_2000"])
    def test_what_is_stored_with_loss_comes_back_nearly(self, tmp_path: Path, syntax: str, form: str) -> None:
        pixels, options = FORMS[form]
        if syntax == "jpeg_baseline" and pixels.dtype != np.uint8:
            with pytest.raises(NotImplementedError, match="up to 8 bits"):
                write_dicom(tmp_path / "1-1.dcm", pixels, transfer_syntax=syntax, **options)
            return
        file = pydicom.dcmread(write_dicom(tmp_path / "1-1.dcm", pixels, transfer_syntax=syntax, **options))
        error = np.abs(file.pixel_array.astype(int) - pixels)
        limit = dicom_kit.NEAR_LOSSLESS_ERROR if syntax == "jpeg_ls_near" else np.ptp(pixels.astype(int)) / 8
        # Blue and red lose more than grey does when they are stored as differences from it.
        assert error.max() <= (limit * 2 if "YBR" in file.PhotometricInterpretation else limit)
        assert error.max() > 0
        assert file.LossyImageCompression == "01"

    def test_12_bit_extended_jpeg_is_right_although_pydicom_cannot_read_it(self, tmp_path: Path) -> None:
        pixels = film(12) // 2 + 1000
        path = write_dicom(tmp_path / "1-1.dcm", pixels, bits_stored=12, transfer_syntax="jpeg_extended")
        with pytest.raises(RuntimeError, match="12-bit"):
            _ = pydicom.dcmread(path).pixel_array
        change_syntax(path, tmp_path / "plain.dcm", "ExplicitVRLittleEndian")
        read = pydicom.dcmread(tmp_path / "plain.dcm").pixel_array
        assert np.abs(read.astype(int) - pixels).max() <= 2

    def test_what_cannot_be_encoded_is_said(self, tmp_path: Path) -> None:
        for bits, extent, syntax in ((16, (40, 40), "jpeg_extended"), (12, (8, 8), "jpeg_2000")):
            with pytest.raises(NotImplementedError):
                write_dicom(tmp_path / "1-1.dcm", film(bits, extent=extent), bits_stored=bits, transfer_syntax=syntax)

    def test_one_picture_in_high_throughput_jpeg_2000(self, tmp_path: Path) -> None:
        pytest.importorskip("pylibjpeg")
        options = {"bits_stored": 12, "transfer_syntax": "htj2k_lossless"}
        file = pydicom.dcmread(write_dicom(tmp_path / "1-1.dcm", HTJ2K_PIXELS, **options))
        np.testing.assert_array_equal(file.pixel_array, HTJ2K_PIXELS)
        with pytest.raises(NotImplementedError, match="only HTJ2K_PIXELS"):
            write_dicom(tmp_path / "1-1.dcm", film(12), **options)

    @pytest.mark.parametrize("syntax", ["implicit", "explicit", "big_endian", "deflated", "jpeg_ls"])
    def test_headers(self, tmp_path: Path, syntax: str) -> None:
        path = write_dicom(
            tmp_path / "1-1.dcm",
            film(12),
            transfer_syntax=syntax,
            photometric="MONOCHROME1",
            bits_stored=12,
            window=[(2000, 400), (1000, 50)],
            voi_lut=VoiLut(100, 8, range(256)),
            rescale=(2, -1024),
            padding=(0, 10),
            view="PA",
            Modality="DX",
            StudyDate="19000102",
            PatientName=None,
        )
        file = pydicom.dcmread(path)
        assert (file.PhotometricInterpretation, file.BitsStored, file.HighBit) == ("MONOCHROME1", 12, 11)
        assert (list(file.WindowCenter), list(file.WindowWidth)) == ([2000, 1000], [400, 50])
        assert file.VOILUTSequence[0].LUTDescriptor == [256, 100, 8]
        # In the implicit syntax pydicom takes the table for bytes.
        assert len(file.VOILUTSequence[0].LUTData) == (512 if syntax == "implicit" else 256)
        assert (file.RescaleSlope, file.RescaleIntercept) == (2, -1024)
        assert (file.PixelPaddingValue, file.PixelPaddingRangeLimit) == (0, 10)
        assert (file.ViewPosition, file.Modality, file.StudyDate) == ("PA", "DX", "19000102")
        assert file.SOPClassUID == file.file_meta.MediaStorageSOPClassUID == dicom_kit.SOP_CLASSES["DX"]
        assert "PatientName" not in file

    def test_a_view_may_be_empty_or_absent(self, tmp_path: Path) -> None:
        assert pydicom.dcmread(write_dicom(tmp_path / "a.dcm", film(), view="")).ViewPosition == ""
        assert "ViewPosition" not in pydicom.dcmread(write_dicom(tmp_path / "b.dcm", film()))

    def test_the_quick_writer_says_what_the_other_says(self, tmp_path: Path) -> None:
        reference = {"ReferencedSOPClassUID": dicom_kit.SOP_CLASSES["CR"], "ReferencedSOPInstanceUID": uid_of(2)}
        headers = {"PatientID": "A000801", "ImageType": ["DERIVED", "PRIMARY"], "SeriesNumber": 1001, "Modality": "CR"}
        headers |= {"StudyDescription": "", "SOPInstanceUID": uid_of(1)}
        path = tmp_path / "1-1.dcm"
        path.write_bytes(
            quick_dicom(film(), **headers, SOPClassUID=dicom_kit.SOP_CLASSES["CR"], ReferencedImageSequence=[reference])
        )
        quick, slow = pydicom.dcmread(path), pydicom.dcmread(write_dicom(tmp_path / "b.dcm", film(), bits_stored=12))
        np.testing.assert_array_equal(quick.pixel_array, film())
        for keyword, value in headers.items():
            assert quick[keyword].value == value
        assert quick.ReferencedImageSequence[0].ReferencedSOPInstanceUID == uid_of(2)
        for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PhotometricInterpretation"):
            assert quick[keyword].value == slow[keyword].value

    def test_identifiers_are_valid_and_their_ends_vary(self) -> None:
        uids = [pydicom.uid.UID(uid_of("study", number)) for number in range(200)]
        assert all(uid.is_valid for uid in uids)
        assert len({uid[-5:] for uid in uids}) > 190


def sheets(raw: Path) -> pd.DataFrame:
    return pd.concat([pd.read_excel(raw / f"AIforCOVID{name}.xlsx") for name in ("", "_r2", "_r3")], ignore_index=True)


@pytest.fixture(scope="module")
def aiforcovid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imitation_aiforcovid.write(tmp_path_factory.mktemp("aiforcovid") / "raw", scale=0.2, broken=3)


class TestAIforCOVID:
    def test_patients_by_hospital_outcome_and_release(self) -> None:
        everybody = imitation_aiforcovid.patients()
        assert len(everybody) == 1585
        assert Counter(each.severe for each in everybody) == {False: 839, True: 746}
        mild = {name: sum(each.hospital == name and not each.severe for each in everybody) for name in "ABCDEF"}
        assert mild == {"A": 35, "B": 59, "C": 70, "D": 76, "E": 55, "F": 544}
        assert Counter(each.hospital for each in everybody)["F"] == 970
        starts = Counter(re.sub(r"\d+$", "", each.image) for each in everybody)
        assert starts == {"P_": 820, "P_1_": 163, "P_2_": 120, "P_3_": 482}
        assert all(each.severe for each in everybody if each.dead)
        assert np.mean([each.dead for each in everybody]) == pytest.approx(0.15, abs=0.001)
        first = {int(each.image[2:]) for each in everybody if each.release.folder == "imgs"}
        assert (min(first), max(first), len(first)) == (1, 844, 820)

    def test_every_row_has_its_file_and_every_file_its_row(self, aiforcovid: Path) -> None:
        for name, folder in (("", "imgs"), ("_r2", "imgs_r2"), ("_r3", "imgs_r3")):
            table = pd.read_excel(aiforcovid / f"AIforCOVID{name}.xlsx")
            assert sorted(table["ImageFile"]) == sorted(path.stem for path in (aiforcovid / folder).iterdir())
        assert sheets(aiforcovid)["ImageFile"].is_unique

    def test_the_sheets_say_what_is_true(self, aiforcovid: Path) -> None:
        table = sheets(aiforcovid).set_index("ImageFile")
        for each in imitation_aiforcovid.patients(0.2):
            row = table.loc[each.image]
            assert row["Hospital"].strip().upper() == each.hospital
            assert row["Prognosis"] == ("SEVERE" if each.severe else "MILD")
            assert row["Death"] == ("yes" if each.dead else "no")
        assert (table["Hospital"].str.strip() != table["Hospital"]).any()
        assert table["Hospital"].str.strip().str.islower().any()
        assert table["CRP"].isna().mean() == pytest.approx(0.25, abs=0.1)
        assert {"Positivity at admission", "Chronic Kidney disease", "D-dimer", "Position"} <= set(table.columns)

    @pytest.mark.parametrize("death", imitation_aiforcovid.DEATHS)
    def test_deaths_are_written_as_asked(self, tmp_path: Path, death: str) -> None:
        raw = imitation_aiforcovid.write(tmp_path, scale=0.01, death=death, size=8)
        dead = {each.image for each in imitation_aiforcovid.patients(0.01) if each.dead}
        rows = list(openpyxl.load_workbook(raw / "AIforCOVID.xlsx").active.iter_rows(values_only=True))
        table = pd.DataFrame(rows[1:], columns=rows[0], dtype=object)
        alive_as, dead_as = imitation_aiforcovid.DEATHS[death]
        for image, value in zip(table["ImageFile"], table["Death"], strict=True):
            if death == "dates":
                assert (value is not None and value.year == 2020) == (image in dead)
            else:
                assert value == (dead_as if image in dead else alive_as)
                assert type(value) is type(alive_as)

    def test_pictures_are_as_mixed_as_the_real_ones(self, aiforcovid: Path) -> None:
        seen, decoded, lost = Counter[Any](), 0, 0
        for path in sorted(aiforcovid.glob("imgs*/*.dcm")):
            file = pydicom.dcmread(path)
            syntax = file.file_meta.TransferSyntaxUID
            seen.update([file.PhotometricInterpretation, file.BitsStored, syntax.is_compressed])
            try:
                seen[f"{file.pixel_array.ndim}D"] += 1
            except ValueError:
                lost += 1
            else:
                decoded += 1
                assert np.ptp(file.pixel_array.astype(int)) > 100
        assert {"MONOCHROME1", "MONOCHROME2", "RGB", 8, 12, 16, True, False, "2D", "3D"} <= set(seen)
        assert lost == 3
        assert seen["3D"] < decoded / 10
        assert seen["MONOCHROME1"] < seen["MONOCHROME2"]

    @pytest.mark.slow
    def test_full_scale(self, full_aiforcovid: Path) -> None:
        raw = full_aiforcovid
        assert sheets(raw)["Prognosis"].value_counts().to_dict() == {"MILD": 839, "SEVERE": 746}
        counts = [len(list((raw / folder).iterdir())) for folder in ("imgs", "imgs_r2", "imgs_r3")]
        assert counts == [820, 283, 482]


def index_of(raw: Path, manifest: str) -> pd.DataFrame:
    return pd.read_csv(raw / manifest / "metadata.csv", keep_default_na=False)


def check_index_against_files(raw: Path, manifest: str, rows: pd.DataFrame) -> None:
    """Every series' folder holds as many files as the index says, and their headers say what it says."""
    for row in rows.to_dict("records"):
        folder = raw / manifest / row["File Location"].replace("\\", "/")
        files = sorted(folder.iterdir())
        assert len(files) == row["Number of Images"], folder
        header = pydicom.dcmread(files[0], stop_before_pixels=True)
        assert row["Subject ID"] == header.PatientID == folder.parts[-3]
        assert row["Series UID"] == header.SeriesInstanceUID
        assert row["Study UID"] == header.StudyInstanceUID
        assert row["SOP Class UID"] == header.SOPClassUID == header.file_meta.MediaStorageSOPClassUID
        assert (row["Modality"], row["Study Description"]) == (header.Modality, header.StudyDescription)
        assert row["Series Description"] == header.SeriesDescription
        date = header.StudyDate
        assert row["Study Date"] == f"{date[4:6]}-{date[6:]}-{date[:4]}"
        described, end = re.escape(header.StudyDescription), header.StudyInstanceUID[-5:]
        assert re.fullmatch(rf"{row['Study Date']}-(NA-)?{described}-{end}", folder.parts[-2])
        series = re.escape(header.SeriesDescription or "NA")
        assert re.fullmatch(rf"{header.SeriesNumber}\.000000-{series}-{header.SeriesInstanceUID[-5:]}", folder.name)


@pytest.fixture(scope="module")
def covid19_ar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imitation_covid19_ar.write(tmp_path_factory.mktemp("ar") / "raw", size=12)


class TestCovid19AR:
    def test_the_index_describes_the_files(self, covid19_ar: Path) -> None:
        index = index_of(covid19_ar, imitation_covid19_ar.MANIFEST)
        assert tuple(index.columns) == nbia_kit.INDEX_COLUMNS
        assert index["Subject ID"].nunique() == 105
        assert index["File Location"].str.startswith(".\\COVID-19-AR\\COVID-19-AR-16").all()
        check_index_against_files(covid19_ar, imitation_covid19_ar.MANIFEST, index.sample(80, random_state=0))
        assert index["Number of Images"].sum() == len(list(covid19_ar.rglob("*.dcm")))

    def test_films_are_among_other_things(self, covid19_ar: Path) -> None:
        index = index_of(covid19_ar, imitation_covid19_ar.MANIFEST)
        films = index[index["Modality"].isin(["CR", "DX"]) & index["Study Description"].str.contains("CHEST")]
        assert films["Number of Images"].sum() == 262
        assert set(films["Study Description"]) == {
            "XR CHEST AP PORTABLE",
            "XR CHEST AP ONLY",
            "XR CHEST PA AND LATERAL",
            "XR CHEST PA ONLY",
            "XR ACUTE ABDOMINAL SERIES W PA CHEST PORTABLE",
        }
        assert {"SCOUT", "COR MPR", "LATERAL", ""} <= set(index["Series Description"])
        assert index.loc[index["Modality"] == "CT", "Study Description"].str.contains("CHEST").any()
        folders = index["File Location"].str.contains("-NA-")
        assert 0.4 < folders.mean() < 0.9
        assert folders.groupby(index["Subject ID"]).nunique().eq(1).mean() > 0.8

    def test_headers_are_as_mixed_as_the_real_ones(self, covid19_ar: Path) -> None:
        seen, laterals = Counter[Any](), 0
        for path in covid19_ar.rglob("*.dcm"):
            file = pydicom.dcmread(path)
            assert file.pixel_array.ndim == 2
            if file.Modality in ("CR", "DX"):
                seen.update([file.BitsStored, file.PhotometricInterpretation, file.get("ViewPosition", "absent")])
                laterals += "ViewPosition" not in file and "lat" in file.SeriesDescription.lower()
        assert {8, 12, 16, "MONOCHROME1", "MONOCHROME2", "AP", "PA", "LL", "", "absent"} <= set(seen)
        assert laterals > 3, "told by the series' description alone"

    def test_the_sheet(self, covid19_ar: Path) -> None:
        path = covid19_ar / imitation_covid19_ar.TABLE
        rows = list(openpyxl.load_workbook(path).active.iter_rows(values_only=True))
        assert rows[0][0]
        assert not any(rows[0][1:])
        assert rows[1][:4] == ("PATIENT_ID", "AGE", "SEX", "RACE")
        table = pd.read_excel(path, header=1).set_index("PATIENT_ID")
        folders = {each.name for each in (covid19_ar / imitation_covid19_ar.MANIFEST / "COVID-19-AR").iterdir()}
        assert set(table.index) < folders
        assert len(folders - set(table.index)) == 1
        assert set(table["ICU Admit"]) == set(table["MORTALITY"]) == {"Y", "N"}
        assert ((table["# ICU admits"] > 0) == (table["ICU Admit"] == "Y")).all()
        assert set(table["COVID TEST POSITIVE"]) == {"Y"}

    def test_the_truth_is_what_the_rule_finds_on_the_disk(self, covid19_ar: Path) -> None:
        told = imitation_covid19_ar.truth(covid19_ar)
        assert {name: each.film for name, each in told.items()} == found_by_the_rule(covid19_ar, set(told))
        table = pd.read_excel(covid19_ar / imitation_covid19_ar.TABLE, header=1).set_index("PATIENT_ID")
        for name, each in told.items():
            written = table.loc[name] if name in table.index else None
            assert each.icu == (None if written is None else written["ICU Admit"] == "Y")
            assert each.dead == (None if written is None else written["MORTALITY"] == "Y")
        usable = [each for each in told.values() if each.film and each.icu is not None]
        assert (len(usable), sum(each.icu for each in usable)) == (99, 29)
        assert sum(each.film is None for each in told.values()) == 5

    def test_neither_dates_nor_numbers_sort_as_text(self, covid19_ar: Path) -> None:
        """Whoever sorts folder names takes another film for some patients."""
        wrong = 0
        for name, each in imitation_covid19_ar.truth(covid19_ar).items():
            patient = covid19_ar / imitation_covid19_ar.MANIFEST / "COVID-19-AR" / name
            films = sorted(path.relative_to(covid19_ar).as_posix() for path in patient.rglob("*CHEST*/*/*.dcm"))
            films = [path for path in films if "XR" in path]
            wrong += each.film is not None and films[0] != each.film
        assert wrong > 10

    def test_few_patients(self, tmp_path: Path) -> None:
        told = imitation_covid19_ar.truth(imitation_covid19_ar.write(tmp_path / "raw", patients=12, size=8))
        assert len(told) == 12
        assert {each.icu for each in told.values()} == {True, False, None}
        assert None in {each.film for each in told.values()}


def found_by_the_rule(raw: Path, names: set[str]) -> dict[str, str | None]:
    """Modality CR or DX, chest description, not lateral, earliest date, lowest series number: from the headers."""
    candidates: dict[str, list[tuple[Any, ...]]] = {name: [] for name in names}
    for path in raw.rglob("*.dcm"):
        file = pydicom.dcmread(path, stop_before_pixels=True)
        view = file.get("ViewPosition", "")
        lateral = view in ("LL", "RL", "LATERAL") or (not view and "lat" in file.SeriesDescription.lower())
        if file.Modality in ("CR", "DX") and "CHEST" in file.StudyDescription and not lateral:
            place = (file.StudyDate, int(file.SeriesNumber), path.relative_to(raw).as_posix())
            candidates[file.PatientID].append(place)
    return {name: min(places)[-1] if places else None for name, places in candidates.items()}


@pytest.fixture(scope="module")
def stony_brook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imitation_stony_brook.write(tmp_path_factory.mktemp("sbu") / "raw", scale=0.03)


class TestStonyBrook:
    def test_the_plan_has_the_counts_of_the_collection(self) -> None:
        plan = imitation_stony_brook.download()
        films = plan.films
        assert len(films) + len(plan.others) == 17_951
        assert Counter(each.series.modality for each in films) == {"CR": 11_509, "DX": 2_623}
        assert Counter(each.view for each in films) == {"AP": 14_079, "PA": 44, "LATERAL": 9}
        assert sum(each.chest for each in films) == 13_639
        assert sum(each.series.study.startswith("ABDOMEN") for each in films) == 487
        exposures = Counter(each.exposure for each in films)
        assert sum(count for count in exposures.values() if count == 2) == 13_784
        assert len({each.patient for each in films}) == len(imitation_stony_brook.first_films(films)) == 1365
        chest = Counter(each.patient for each in films if each.chest)
        for deceased, mean in ((True, 27.7), (False, 7.4)):
            counts = [count for patient, count in chest.items() if patient.deceased == deceased]
            assert np.mean(counts) == pytest.approx(mean, abs=0.06)
        assert Counter(each.deceased for each in plan.patients) == {False: 1201, True: 183}
        assert {each.series.date.year for each in films} == {1900, 1901}
        assert {each.modality for each in plan.others} == {"CT", "MR", "NM", "PT", "OT", "SR"}

    def test_the_index_describes_the_files(self, stony_brook: Path) -> None:
        index = index_of(stony_brook, imitation_stony_brook.MANIFEST)
        assert tuple(index.columns) == nbia_kit.INDEX_COLUMNS
        check_index_against_files(stony_brook, imitation_stony_brook.MANIFEST, index)
        assert index["Number of Images"].sum() == len(list(stony_brook.rglob("*.dcm")))
        assert index["Subject ID"].str.fullmatch(r"A\d{6}").all()

    def test_films_say_what_is_true(self, stony_brook: Path) -> None:
        for film_ in imitation_stony_brook.download(0.03).films:
            file = pydicom.dcmread(stony_brook / film_.file)
            assert (file.BitsAllocated, file.BitsStored, file.PhotometricInterpretation) == (16, 12, "MONOCHROME2")
            assert (file.ViewPosition, file.SOPInstanceUID) == (film_.view, film_.instance_uid)
            assert file.AcquisitionTime[:6] == f"{film_.acquired:%H%M%S}"
            assert file.ImageType[0] == ("DERIVED" if film_.derived else "ORIGINAL")
            assert ("ReferencedImageSequence" in file) == bool(film_.raw_uid)

    def test_pairs_are_one_exposure_in_two_tones(self, stony_brook: Path) -> None:
        frame = pd.DataFrame(imitation_stony_brook.download(0.03).films)
        pairs = [group.sort_values("processed") for _, group in frame.groupby("exposure") if len(group) == 2]
        assert len(pairs) > 150
        told = Counter[bool]()
        for pair in pairs:
            raw, copy = (imitation_stony_brook.Film(*row) for row in pair.itertuples(index=False))
            assert abs((raw.acquired - copy.acquired).total_seconds()) <= 5
            assert raw.series.study_uid == copy.series.study_uid
            assert raw.series.series_uid != copy.series.series_uid
            assert copy.raw_uid in ("", raw.instance_uid)
            told[bool(copy.raw_uid) or copy.derived] += 1
            if not (copy.raw_uid or copy.derived):
                assert (raw.acquired, raw.series.number) < (copy.acquired, copy.series.number)
            one, other = (pydicom.dcmread(stony_brook / each.file).pixel_array for each in (raw, copy))
            assert (one != other).any()
            order = np.argsort(one, axis=None)
            assert (np.diff(other.ravel()[order].astype(int)) >= 0).all()
        assert 0 < told[False] < told[True]

    def test_no_other_films_are_within_seconds(self) -> None:
        frame = pd.DataFrame(imitation_stony_brook.download(0.3).films)
        frame["name"] = [patient.name for patient in frame["patient"]]
        first = frame.groupby(["name", "exposure"])["acquired"].min().sort_values().reset_index()
        apart = first.groupby("name")["acquired"].diff().dropna()
        assert apart.min().total_seconds() > 60

    def test_pictures_differ(self, stony_brook: Path) -> None:
        plan = imitation_stony_brook.download(0.03)
        contents = {pydicom.dcmread(stony_brook / each.file).PixelData for each in plan.films}
        assert len(contents) == len(plan.films)

    def test_the_clinical_table(self, stony_brook: Path) -> None:
        path = stony_brook / imitation_stony_brook.TABLE
        names = path.read_text().splitlines()[0].split(",")
        assert len(names) == 131
        assert [count for count in Counter(names).values() if count > 1] == [2]
        table = pd.read_csv(path)
        assert set(table["last.status"]) == {"discharged", "deceased"}
        assert set(table["is_icu"]) == {True, False}
        assert set(table["was_ventilated"]) == {"Yes", "No"}
        assert set(table["age.splits"]) == {"[18,59]", "(59,74]", "(74,90]"}
        assert table["visit_start_datetime"].str.fullmatch(r"\d\d/\d\d/190[01]").all()
        index = index_of(stony_brook, imitation_stony_brook.MANIFEST)
        assert set(index["Subject ID"]) <= set(table["to_patient_id"])
        truth = {each.name: each.deceased for each in imitation_stony_brook.download(0.03).patients}
        written = dict(zip(table["to_patient_id"], table["last.status"] == "deceased", strict=True))
        assert written == truth

    def test_without_the_other_series_only_films_are_written(self, tmp_path: Path) -> None:
        raw = imitation_stony_brook.write(tmp_path, scale=0.01, ct=False)
        assert len(list(raw.rglob("*.dcm"))) == len(imitation_stony_brook.download(0.01).films)

    @pytest.mark.slow
    def test_full_scale(self, full_stony_brook: Path) -> None:
        raw = full_stony_brook
        index = index_of(raw, imitation_stony_brook.MANIFEST)
        films = index[index["Modality"].isin(["CR", "DX"])]
        assert (len(index), len(films), films["Subject ID"].nunique()) == (17_951, 14_132, 1365)
        assert films["Study Description"].str.startswith("CHEST").sum() == 13_639
        assert len(list(raw.rglob("*.dcm"))) == 14_132
        table = pd.read_csv(raw / imitation_stony_brook.TABLE)
        assert table.shape == (1384, 131)
        assert table["last.status"].value_counts().to_dict() == {"discharged": 1201, "deceased": 183}
        sample = films.sample(300, random_state=0)
        check_index_against_files(raw, imitation_stony_brook.MANIFEST, sample)


def cidc_table(raw: Path) -> pd.DataFrame:
    return pd.read_csv(raw / "metadata.csv", encoding_errors="replace", keep_default_na=False, dtype=str)


@pytest.fixture(scope="module")
def cidc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imitation_cidc.write(tmp_path_factory.mktemp("cidc") / "raw")


class TestCIDC:
    def test_the_header_is_the_real_one(self, cidc: Path, tmp_path: Path) -> None:
        line = (cidc / "metadata.csv").read_bytes().split(b"\n")[0].decode()
        assert line == (
            "patientid,offset,sex,age,finding,survival,intubated,intubation_present,went_icu,in_icu,"
            "needed_supplemental_O2,extubated,temperature,pO2_saturation,leukocyte_count,neutrophil_count,"
            "lymphocyte_count,view,modality,date,location,folder,filename,doi,url,license,clinical_notes,other_notes,"
        )
        later = imitation_cidc.write(tmp_path, patients=4, rt_pcr=True)
        assert "RT_PCR_positive" in cidc_table(later).columns

    def test_the_text_is_not_clean(self, cidc: Path) -> None:
        content = (cidc / "metadata.csv").read_bytes()
        with pytest.raises(UnicodeDecodeError):
            content.decode()
        assert "38.5°C".encode("latin-1") in content
        assert "38.5°C".encode() in content
        assert "Hôpital".encode() in content
        notes = cidc_table(cidc)["clinical_notes"]
        assert notes.str.contains("\n").any()
        assert notes.str.contains('"').any()
        assert notes.str.contains(",").any()

    def test_answers_have_all_their_variants(self, cidc: Path) -> None:
        table = cidc_table(cidc)
        assert table["patientid"].nunique() == 60
        assert table["patientid"].value_counts().max() > 1
        assert set(table["survival"]) == {"Y", "N", "?", ""}
        assert set(table["went_icu"]) == {"Y", "N", "?", "Would have been stated", ""}
        assert set(table["view"]) == {"PA", "AP", "AP Supine", "L", "Axial", "Coronal", "?", ""}
        assert set(table["modality"]) == {"X-ray", "CT"}
        assert set(table["folder"]) == {"images", "volumes"}
        covid = table["finding"].str.contains("COVID-19")
        assert 0.5 < covid.mean() < 0.95
        assert (table["finding"] == "COVID-19").any()
        assert table.iloc[:, -1].eq("").all()

    def test_pictures_have_all_modes_and_some_are_missing(self, cidc: Path) -> None:
        table = cidc_table(cidc)
        films = table[table["modality"] == "X-ray"]
        there = [(cidc / row["folder"] / row["filename"]).is_file() for row in films.to_dict("records")]
        assert 0.8 < np.mean(there) < 1
        seen, widths = Counter[str](), []
        for path in (cidc / "images").iterdir():
            with Image.open(path) as picture:
                picture.load()
                seen.update([picture.mode, path.suffix])
                widths.append(picture.width)
        assert set(seen) == {"L", "RGB", "RGBA", "P", ".jpg", ".jpeg", ".png", ".PNG"}
        assert max(widths) > 4 * min(widths)
        assert {path.name for path in (cidc / "images").iterdir()} < set(table["filename"])

    def test_a_third_is_hannovers(self, tmp_path: Path) -> None:
        hannover = write_hannover(tmp_path / "hannover")
        raw = imitation_cidc.write(tmp_path / "raw", patients=8, hannover=hannover)
        check_borrowed(raw, hannover)

    def test_a_third_is_of_the_real_hannover(self, tmp_path: Path, hannover_raw: Path) -> None:
        raw = imitation_cidc.write(tmp_path / "raw", hannover=hannover_raw)
        share = check_borrowed(raw, hannover_raw)
        assert share == pytest.approx(1 / 3, abs=0.08)


def check_borrowed(raw: Path, hannover: Path) -> float:
    """The pictures that carry a Hannover image's name are that image, re-saved; their share is returned."""
    table, pictures = cidc_table(raw), list((raw / "images").iterdir())
    borrowed = [path for path in pictures if (hannover / "png" / f"{path.stem}.png").is_file()]
    forms = Counter[tuple[bool, bool]]()
    for path in borrowed:
        with Image.open(hannover / "png" / f"{path.stem}.png") as one, Image.open(path) as other:
            forms[other.format == "JPEG", one.width != other.width] += 1
            small = [
                np.asarray(each.convert("L").resize((16, 16), Image.Resampling.BOX), float) for each in (one, other)
            ]
            assert 0.65 <= other.width / one.width <= 1.55
        assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.8
    assert set(forms) <= {(True, False), (True, True), (False, True)}
    assert borrowed
    originals = set(pd.read_csv(hannover / "data.csv")["patient_id"])
    assert not originals & set(table["patientid"])
    rows = table[table["filename"].isin([path.name for path in borrowed])]
    assert rows["location"].eq(imitation_cidc.HANNOVER_LOCATION).all()
    return len(borrowed) / len(pictures)


class TestCoCross:
    @pytest.mark.parametrize("sheet", ["csv", "xlsx"])
    @pytest.mark.parametrize("rows", ["patient", "image"])
    def test_table_and_pictures_belong_together(self, tmp_path: Path, sheet: str, rows: str) -> None:
        raw = imitation_cocross.write(tmp_path, sheet=sheet, rows=rows, size=8)
        path = raw / f"cocross.{sheet}"
        table = pd.read_csv(path) if sheet == "csv" else pd.read_excel(path)
        stems = {path.stem for path in (raw / "images").glob("*.jpeg")}
        assert len(stems) == 389
        assert set(table["ICU Outcome"]) == {"Death", "Alive"}
        if rows == "image":
            assert set(table["ID"]) == stems
            assert table["Patient"].nunique() == 150
            assert (table["ICU Outcome"] == "Alive").mean() == pytest.approx(0.63, abs=0.005)
        else:
            assert len(table) == 150
            assert {stem.split("_")[0] for stem in stems} == set(table["ID"])
        truth = {film_.stem: film_.died for film_ in imitation_cocross.films()}
        assert all(truth[row["ID"]] == (row["ICU Outcome"] == "Death") for row in table.to_dict("records"))


WRITERS: dict[str, tuple[Write, dict[str, Any]]] = {
    "aiforcovid": (imitation_aiforcovid.write, {"scale": 0.02, "size": 8, "broken": 1}),
    "covid19_ar": (imitation_covid19_ar.write, {"patients": 12, "size": 8}),
    "stony_brook": (imitation_stony_brook.write, {"scale": 0.01}),
    "cidc": (imitation_cidc.write, {"patients": 12, "size": 16}),
    "cocross": (imitation_cocross.write, {"images": 20, "patients": 9, "size": 8}),
}


def contents(raw: Path) -> dict[str, Any]:
    """All files by name; a workbook's cells, since its bytes hold the time of saving."""
    return {
        path.relative_to(raw).as_posix(): pd.read_excel(path).to_csv() if path.suffix == ".xlsx" else path.read_bytes()
        for path in sorted(raw.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", WRITERS)
def test_the_seed_decides_everything(tmp_path: Path, name: str) -> None:
    write, options = WRITERS[name]
    one, same, other = (
        contents(write(tmp_path / folder / "raw", **options, seed=seed))
        for folder, seed in (("one", 3), ("same", 3), ("other", 4))
    )
    assert one == same
    assert one != other
