"""A hospital's own identifiers: pseudonyms with a key that stays with the raw data, and no trace of them elsewhere."""

import csv
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from dicom_kit import radiograph, write_dicom
from hannover_kit import everything_written
from numpy.random import default_rng

from peftbench.cohorts import secrets
from peftbench.cohorts.describe import describe
from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.secrets import KEY_FILE, published, with_key
from peftbench.errors import ConfigError, PeftbenchError
from peftbench.protocol.manifest import Manifest, pseudonym
from peftbench.protocol.results import PrepareResult
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow

NAME, BIRTH, REMARK, WARD = "Fuchsbichler^Apollonia", "19311107", "Kötzschenbroda", "Wolkenstein"


def patient(number: int) -> str:
    return f"Zweigelt-47{number:02d}"


def exam(number: int) -> str:
    return f"Mendelssohn_{number:04d}"


def day(number: int) -> str:
    return f"2019-07-{number + 11}"


COUNT = 12

BROKEN, STRAY = 5, "Oberpfaffing_Station7"

PLANTED = (
    *(patient(number) for number in range(COUNT // 2)),
    *(exam(number) for number in range(COUNT)),
    *(text for number in range(COUNT) for text in (day(number), day(number).replace("-", ""))),
    *(NAME, BIRTH, REMARK, WARD, STRAY, "Zweigelt", "Mendelssohn", "Fuchsbichler", "Oberpfaffing"),
)


def write(raw: Path) -> Path:
    """A ward's export: names in the table, in headers and in file names; one file broken, one that nobody names."""
    with_names = [("patient", "exam", "day", "died", "name", "remark")]
    for number in range(COUNT):
        who = patient(number // 2)
        with_names.append((who, exam(number), day(number), "ja" if number < 4 else "nein", NAME, REMARK))
        write_dicom(
            raw / "films" / f"{exam(number)}.dcm",
            radiograph(default_rng(number), (24, 20)),
            PatientID=who,
            PatientName=NAME,
            PatientBirthDate=BIRTH,
            StudyDate=day(number).replace("-", ""),
            InstitutionName=WARD,
            view=("AP", "PA")[number % 2],
        )
    broken = raw / "films" / f"{exam(BROKEN)}.dcm"
    broken.write_bytes(broken.read_bytes()[:-200])
    shutil.copyfile(raw / "films" / f"{exam(0)}.dcm", raw / "films" / f"{STRAY}.dcm")
    with (raw / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(with_names)
    return raw


USUAL: dict[str, Any] = {
    "name": "mercy", "table": "t.csv", "images": "films", "patient": "patient",
    "label": "died", "event": "ja", "no_event": "nein",
}  # fmt: skip

WAYS: dict[str, dict[str, Any]] = {
    "a row an image": {"file": "{exam}", "id": "exam", "order": "day", "view": "dicom:ViewPosition"},
    "by header": {"match": "dicom:PatientID", "order": "dicom:StudyDate"},
    "by name": {"match": "stem", "key": "exam", "order": "day"},
    "by path": {"match": "path:exam", "path": "films/(?P<exam>.*)[.]dcm", "key": "exam"},
}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("ward") / "raw")


@pytest.fixture
def raw(export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(export, tmp_path / "raw"))


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def prepared(raw: Path, place: Workspace, key_file: Path | None = None, **more: Any) -> PrepareResult:
    options = {**USUAL, **(more or WAYS["a row an image"])}
    return prepare(describe("table", **options), raw, workspace=place, key_file=key_file, workers=1)


def frame_of(place: Workspace) -> pd.DataFrame:
    return Manifest.read("mercy", place.manifest("mercy")).frame


def leaks(pieces: Iterator[tuple[str, bytes]], planted: tuple[str, ...] = PLANTED) -> set[tuple[str, str]]:
    wanted = [(text, text.encode(code).lower()) for text in planted for code in ("utf-8", "utf-16-le", "latin-1")]
    return {(name, text) for name, piece in pieces for text, form in wanted if form in piece.lower()}


def everywhere(place: Workspace) -> Iterator[tuple[str, bytes]]:
    yield from everything_written(place.root)
    for path in place.root.rglob("*.parquet"):
        yield path.name, str(pq.read_schema(path).metadata).encode()


class TestNoTrace:
    @pytest.mark.parametrize("way", WAYS)
    def test_of_an_identifier_is_in_the_workspace_or_the_answer(self, raw: Path, place: Workspace, way: str) -> None:
        result = prepared(raw, place, **WAYS[way])
        assert result.images > 0
        assert leaks(everywhere(place)) == set()
        assert leaks(iter([("answer", json.dumps(result.to_json(), ensure_ascii=False).encode())])) == set()

    @pytest.mark.parametrize(
        "rule",
        [
            f"patient={patient(0)},{patient(1)}",
            f"day={day(0)}",
            f"exam={exam(0)}",
            f"dicom:StudyDate={day(1).replace('-', '')}",
            f"dicom:PatientID={patient(0)}",
        ],
    )
    def test_is_left_by_a_rule_on_identifiers(self, raw: Path, place: Workspace, rule: str) -> None:
        """Refused, or kept out of what is written; never copied into description, card and answer."""
        try:
            result = prepared(raw, place, **WAYS["a row an image"], keep=rule)
        except ConfigError as error:
            assert "keep" in str(error)  # noqa: PT017 - either is right
        else:
            assert leaks(iter([("answer", json.dumps(result.to_json()).encode())])) == set()
        assert leaks(everywhere(place)) == set()

    def test_rejected_files_are_told_by_their_line(self, raw: Path, place: Workspace) -> None:
        result = prepared(raw, place)
        assert [each.file for each in result.rejected] == [f"line {BROKEN + 2}"]

    @pytest.mark.parametrize("wrong", ["patient", "exam", "day", "broken"])
    def test_is_in_a_refusal_beyond_the_value_that_is_not_understood(
        self, raw: Path, place: Workspace, wrong: str
    ) -> None:
        options = {**WAYS["a row an image"]}
        if wrong == "broken":
            for path in (raw / "films").iterdir():
                path.write_bytes(b"")
        else:
            options["view" if wrong == "day" else wrong if wrong == "patient" else "id"] = "nosuch"
        with pytest.raises(PeftbenchError) as caught:
            prepared(raw, place, **options)
        assert leaks(iter([("refusal", str(caught.value).encode())])) == set()
        assert leaks(everywhere(place)) == set()

    def test_the_search_finds_what_is_planted(self, raw: Path, place: Workspace) -> None:
        prepared(raw, place)
        path = place.cohort("mercy") / "notes.parquet"
        pd.DataFrame({"remark": [f"of {patient(3)}"] * 500}).to_parquet(path)
        assert {text for _, text in leaks(everywhere(place))} == {patient(3), "Zweigelt"}

    def test_dates_become_days_since_the_first_image(self, raw: Path, place: Workspace) -> None:
        prepared(raw, place)
        assert set(frame_of(place)["acquired"]) == {0, 1}


class TestKey:
    def test_it_lies_beside_the_raw_data_for_its_owner_alone_and_is_drawn_once(
        self, raw: Path, place: Workspace
    ) -> None:
        result = prepared(raw, place)
        path = raw / KEY_FILE
        assert result.private == str(raw)
        drawn = path.read_bytes()
        assert len(bytes.fromhex(drawn.decode())) == 32
        assert prepared(raw, place) == result
        assert path.read_bytes() == drawn
        for each in sorted(raw.glob("peftbench-*")):
            assert stat.S_IMODE(each.stat().st_mode) == 0o600, each.name
        assert {each.name for each in raw.glob("peftbench-*")} == {
            KEY_FILE,
            "peftbench-mercy-ids.csv",
            "peftbench-mercy-rejected.csv",
        }

    def test_two_hospitals_have_other_pseudonyms_for_one_number(self, raw: Path, export: Path, tmp_path: Path) -> None:
        names = []
        for folder in ("one", "two"):
            place = Workspace(tmp_path / folder / "workspace")
            prepared(Path(shutil.copytree(export, tmp_path / folder / "raw")), place)
            names.append(set(frame_of(place)["patient_id"]))
        assert not names[0] & names[1]
        assert not {pseudonym("mercy", "patient", patient(number)) for number in range(COUNT)} & set.union(*names)

    def test_one_key_gives_one_pseudonym_wherever_it_is_used(self, raw: Path, tmp_path: Path) -> None:
        key = tmp_path / "keys" / "k"
        key.parent.mkdir()
        names = []
        for folder in ("one", "two"):
            place = Workspace(tmp_path / folder)
            prepared(raw, place, key)
            names.append(frame_of(place)["patient_id"].tolist())
        assert names[0] == names[1]
        assert not (raw / KEY_FILE).exists()

    def test_the_mapping_leads_every_sample_back(self, raw: Path, place: Workspace) -> None:
        prepared(raw, place)
        with (raw / "peftbench-mercy-ids.csv").open(newline="") as stream:
            mapping = {row[0]: row[1:] for row in csv.reader(stream)}
        table = pd.read_csv(raw / "t.csv", dtype=str).set_index("exam")
        for row in frame_of(place).itertuples():
            raw_id, patient_id, raw_patient = mapping[row.sample_id]
            assert (patient_id, raw_patient) == (row.patient_id, table.loc[raw_id, "patient"])
            assert {"ja": "yes", "nein": "no"}[table.loc[raw_id, "died"]] == row.died

    def test_the_rejected_files_are_named_to_their_owner(self, raw: Path, place: Workspace) -> None:
        prepared(raw, place)
        (row,) = csv.DictReader((raw / "peftbench-mercy-rejected.csv").read_text().splitlines())
        assert row["file"] == f"films/{exam(BROKEN)}.dcm"
        assert row["line"] == str(BROKEN + 2)
        assert row["reason"]

    @pytest.mark.parametrize(
        ("harm", "said"),
        [
            (lambda path: path.write_text("ab" * 32), "is not the one that mercy was prepared with"),
            (lambda path: path.unlink(), "key of mercy's pseudonyms is not at"),
            (lambda path: path.write_text("no key\n"), "holds no key: expected 64 hexadecimal digits"),
            (lambda path: path.write_text("abcd"), "has 2 bytes, expected at least 32"),
            (lambda path: path.write_bytes(b"\xff\xfe\x00"), "holds no key"),
            (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        ],
        ids=["another", "lost", "text", "short", "bytes", "folder"],
    )
    def test_another_or_a_lost_key_is_refused_and_nothing_changes(
        self, raw: Path, place: Workspace, harm: Any, said: str
    ) -> None:
        prepared(raw, place)
        before = snapshot(place)
        harm(raw / KEY_FILE)
        with pytest.raises(ConfigError) as caught:
            prepared(raw, place)
        assert said in str(caught.value)
        assert snapshot(place) == before

    @pytest.mark.parametrize("way", ["named", "raw folder inside", "by a link"])
    def test_in_the_workspace_it_is_refused(self, raw: Path, place: Workspace, tmp_path: Path, way: str) -> None:
        place.root.mkdir()
        key = place.root / "key" if way == "named" else None
        if way == "raw folder inside":
            raw = Path(shutil.copytree(raw, place.root / "raw"))
        if way == "by a link":
            (tmp_path / "link").symlink_to(place.root, target_is_directory=True)
            key = tmp_path / "link" / "key"
        with pytest.raises(ConfigError, match=r"would lie in the workspace: keep it elsewhere, with --key-file"):
            prepared(raw, place, key)
        assert not list(place.root.rglob("*.key"))
        assert not place.manifest("mercy").exists()

    def test_a_raw_folder_that_cannot_be_written_needs_another_place(
        self, raw: Path, place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = os.open

        def refusing(path: Any, flags: int, *more: Any, **named: Any) -> int:
            if Path(path).is_relative_to(raw) and flags & os.O_CREAT:
                raise OSError(30, "Read-only file system", str(path))
            return original(path, flags, *more, **named)

        monkeypatch.setattr(secrets.os, "open", refusing)
        with pytest.raises(ConfigError, match=r"Read-only file system.*not in the workspace with --key-file"):
            prepared(raw, place)
        assert not place.manifest("mercy").exists()
        (tmp_path / "keys").mkdir()
        assert prepared(raw, place, tmp_path / "keys" / "k").images == COUNT - 1
        assert not list(raw.glob("peftbench-*"))
        assert (tmp_path / "keys" / "peftbench-mercy-ids.csv").is_file()

    def test_a_folder_for_the_key_that_does_not_exist_is_named(
        self, raw: Path, place: Workspace, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match="gone/k cannot be written"):
            prepared(raw, place, tmp_path / "gone" / "k")


def snapshot(place: Workspace) -> Mapping[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(place.root.rglob("*")) if path.is_file()}


def test_a_fingerprint_tells_keys_apart_and_does_not_tell_them(tmp_path: Path) -> None:
    one, two = (with_key("mercy", tmp_path / name) for name in ("one", "two"))
    assert one.fingerprint != two.fingerprint
    assert one.key is not None
    assert one.key.hex()[:16] != one.fingerprint
    assert published("mercy").fingerprint == ""
    assert one.of("patient", "1") != one.of("sample", "1")
    assert one.of("patient", "1") == with_key("mercy", tmp_path / "one").of("patient", "1")


def test_of_a_published_cohort_nothing_is_kept_beside_the_raw_data(tmp_path: Path) -> None:
    assert published("hannover").note("ids", ("a",), [("b",)]) is None
    assert published("hannover").of("patient", "a") == pseudonym("hannover", "patient", "a")
