"""The verb `predict`: pictures of every kind in, one row a file out, and nothing of them stays."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dicom_kit import radiograph, write_dicom
from PIL import Image
from predict_kit import BACKBONE, TASK, Made, files, scores_of, small_vit
from progress_kit import Ear

import peftbench
from peftbench.benchmark.predict import predict
from peftbench.errors import DecodeError
from peftbench.protocol.records import read_record
from peftbench.protocol.results import PredictResult

pytestmark = pytest.mark.usefixtures("vit")


@pytest.fixture(scope="module")
def few(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three new pictures, one of them twice, and what is no picture; nobody writes to it."""
    folder = tmp_path_factory.mktemp("named") / "few"
    (folder / "below").mkdir(parents=True)
    for name, source in zip(("c.png", "a.png", "below/b.png"), sorted(made.fresh.iterdir()), strict=False):
        shutil.copy(source, folder / name)
    Image.open(folder / "a.png").save(folder / "below" / "again.tif")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no picture, as its ending says")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module", params=["probe", "lora"])
def answer(request: pytest.FixtureRequest, made: Made, few: Path) -> PredictResult:
    """What a record of each kind says of that folder."""
    with small_vit():
        return asked(getattr(made, request.param), few)


def asked(record: Path, *named: Path, **options: Any) -> PredictResult:
    return predict(record, named, **{"device": "cpu", **options})


class TestRows:
    def test_one_a_file_of_a_folder_by_name(self, answer: PredictResult) -> None:
        names = ["a.png", "below/again.tif", "below/b.png", "broken.png", "c.png"]
        assert [row.file for row in answer.results] == names
        assert list(answer.frame["file"]) == names

    def test_a_file_that_cannot_be_read_is_a_row_with_its_fault(self, answer: PredictResult) -> None:
        broken = answer.results[3]
        assert "truncated" in broken.fault
        assert math.isnan(broken.score)
        assert (broken.decision, broken.seen) == ("", False)
        assert [each.model_dump() for each in answer.rejected] == [{"file": "broken.png", "reason": broken.fault}]
        assert answer.to_json()["results"][3]["score"] is None

    def test_scores_are_probabilities_with_their_range_and_decision(self, answer: PredictResult) -> None:
        for row in answer.results:
            if not row.fault:
                assert 0 <= row.lowest <= row.score <= row.highest <= 1
                assert row.decision == ("yes" if row.score >= 0.5 else "no")
                assert not row.seen

    def test_the_same_picture_in_another_file_has_the_same_score(self, answer: PredictResult) -> None:
        rows = {row.file: row for row in answer.results}
        assert rows["below/again.tif"].score == rows["a.png"].score
        assert rows["below/b.png"].score != rows["a.png"].score

    def test_the_mean_of_all_models_counts(self, made: Made, few: Path, answer: PredictResult) -> None:
        record = Path(answer.record)
        found = scores_of(record, few)
        assert answer.models == len(found.scores) == read_record(record).config.folds
        column = dict(zip(found.images, found.scores.T, strict=True))
        for row, file in zip(answer.results, found.files, strict=True):
            if not row.fault:
                each = column[file.image]
                assert (row.score, row.lowest, row.highest) == (each.mean(), each.min(), each.max())

    def test_it_says_what_spoke(self, made: Made, answer: PredictResult) -> None:
        config = read_record(Path(answer.record)).config
        assert (answer.task, answer.event, answer.backbone) == (TASK, "icu", BACKBONE)
        assert (answer.strategy, answer.probe, answer.regime) == (config.strategy, config.probe, "full")
        assert answer.question.startswith("Will the patient be admitted to intensive care")
        assert "not for clinical use" in answer.caveat
        assert "generated images" in answer.caveat
        assert -1 <= answer.mcc_mean <= 1
        assert (answer.out, answer.notes, answer.shots) == ("", [], None)
        assert json.dumps(answer.to_json(), allow_nan=False)


class TestPictures:
    @pytest.mark.parametrize("kind", ["probe", "lora"])
    def test_a_picture_of_the_cohort_is_said_to_be_seen_whatever_file_it_is_in(
        self, made: Made, tmp_path: Path, kind: str
    ) -> None:
        source = made.some[0]
        samples = np.asarray(Image.open(source))
        bits = 8 if samples.dtype == np.uint8 else 12
        film = write_dicom(
            tmp_path / "film.dcm", samples.astype(np.uint8 if bits == 8 else np.uint16), bits_stored=bits
        )
        ear = Ear()
        answer = asked(getattr(made, kind), source, film, sorted(made.fresh.iterdir())[0], progress=ear)
        assert [row.seen for row in answer.results] == [True, True, False]
        assert answer.results[0].score == answer.results[1].score
        (note,) = answer.notes
        assert note.startswith("2 of 3 pictures are of the cohort 'phantom' itself")
        assert ear.notes == [note]

    def test_dicoms_of_several_kinds(self, made: Made, tmp_path: Path) -> None:
        film = radiograph(np.random.default_rng(0), (150, 120))
        for syntax in ("explicit", "implicit", "jpeg_lossless", "rle"):
            write_dicom(tmp_path / "films" / syntax, film, transfer_syntax=syntax, bits_stored=12)
        inverse = (4095 - film).astype(np.uint16)
        write_dicom(tmp_path / "films" / "m1", inverse, photometric="MONOCHROME1", bits_stored=12)
        answer = asked(made.probe, tmp_path / "films")
        assert [row.file for row in answer.results] == ["explicit", "implicit", "jpeg_lossless", "m1", "rle"]
        assert len({row.score for row in answer.results}) == 1
        assert not answer.rejected

    def test_files_are_called_as_the_user_named_them(
        self, made: Made, few: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(few.parent)
        answer = asked(made.probe, Path("few/c.png"), Path("./few/below/../a.png"), few / "c.png")
        assert [row.file for row in answer.results] == ["few/c.png", "few/below/../a.png"]

    def test_folders_with_equal_names_are_told_apart(self, made: Made, few: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy(few / "c.png", other / "a.png")
        answer = asked(made.probe, few / "below", other, few)
        names = [row.file for row in answer.results]
        assert names == ["again.tif", "b.png", str(other / "a.png"), str(few / "a.png"), "broken.png", "c.png"]

    def test_a_name_that_is_no_text(self, made: Made, few: Path, tmp_path: Path) -> None:
        import os

        strange = tmp_path / os.fsdecode(b"r\xf6ntgen.png")
        shutil.copy(few / "c.png", strange)
        answer = asked(made.probe, strange, out=tmp_path / "scores.csv")
        assert answer.results[0].file.endswith("r�ntgen.png")
        assert json.dumps(answer.to_json(), ensure_ascii=False).encode()

    def test_where_no_file_can_be_read(self, made: Made, few: Path, tmp_path: Path) -> None:
        with pytest.raises(DecodeError, match=r"no file can be read \(.*broken.png, the first of 2: .*truncated"):
            asked(made.probe, few / "broken.png", few / "missing.png", out=tmp_path / "scores.csv")
        assert not (tmp_path / "scores.csv").exists()

    def test_more_than_are_taken_at_once(self, made: Made, few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from peftbench.benchmark import predicting_finetuned, predicting_probe

        whole = [asked(record, few).frame for record in (made.probe, made.lora)]
        monkeypatch.setattr(predicting_probe.RefittedProbe, "at_once", 2)
        monkeypatch.setattr(predicting_finetuned.FineTuned, "at_once", 2)
        for before, record in zip(whole, (made.probe, made.lora), strict=True):
            pd.testing.assert_frame_equal(asked(record, few).frame, before, rtol=0, atol=1e-6)


class TestTable:
    def test_it_is_the_answer_in_full_precision(self, made: Made, few: Path, tmp_path: Path) -> None:
        out = tmp_path / "scores.csv"
        answer = asked(made.probe, few, out=out)
        assert answer.out == str(out)
        table = pd.read_csv(out, keep_default_na=False, na_values={"score": "", "lowest": "", "highest": ""})
        pd.testing.assert_frame_equal(table, answer.frame, check_exact=True)

    def test_one_that_is_there_is_replaced(self, made: Made, few: Path, tmp_path: Path) -> None:
        out = tmp_path / "scores.csv"
        out.write_text("old")
        asked(made.probe, few, out=str(out))
        assert out.read_text().startswith("file,score,lowest,highest,decision,seen,fault\n")

    @pytest.mark.parametrize("label", ["decoding", "fitting", "predicting"])
    def test_stopped_in_between_it_leaves_what_was_there(
        self, made: Made, few: Path, tmp_path: Path, label: str
    ) -> None:
        class Stopped(Ear):
            def start(self, said: str, total: int) -> None:
                if said.startswith(label):
                    raise KeyboardInterrupt

            def status(self, message: str) -> None:
                pass

        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "scores.csv").write_text("old")
        record = made.lora if label == "predicting" else made.probe
        with pytest.raises(KeyboardInterrupt):
            asked(record, few, out=folder / "scores.csv", progress=Stopped())
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"scores.csv": "old"}


def test_predicted_pictures_enter_no_store(own: Made, few: Path) -> None:
    before = files(own.place.root)
    for record in (own.probe, own.lora):
        asked(record, few)
    assert files(own.place.root) == before


def test_it_is_a_verb_of_the_package() -> None:
    assert peftbench.predict is predict
    assert "predict" in dir(peftbench)
