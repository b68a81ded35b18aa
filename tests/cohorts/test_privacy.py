"""No identifier of the raw download reaches the workspace or stderr, through all verbs, each a process of its own."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forking import fork
from hannover_kit import COLUMNS, Row, picture
from PIL import Image
from PIL.PngImagePlugin import PngInfo

PATIENTS = 14
BACKBONE = "resnet18@random:0"

NAME = "Fuchsbichler^Apollonia"
BIRTHPLACE = "Kötzschenbroda"
BIRTH_DATE = "1931-11-07"
INSURANCE = "KVNR-X310719114"
PHYSICIAN = "Dr. Tschirnhausen"
WARD = "Station Wolkenstein"
FOLDER = "Ablage_Oberpfaffing"
REJECTED = "thorax_Unlesbar_0099"


def patient_id(number: int) -> str:
    return f"Zweigelt-47{number:02d}"


def image_id(number: int) -> str:
    return f"thorax_Mendelssohn_{number:04d}"


PLANTED = (
    *(patient_id(number) for number in range(PATIENTS)),
    *(image_id(number) for number in range(PATIENTS)),
    *(NAME, BIRTHPLACE, BIRTH_DATE, INSURANCE, PHYSICIAN, WARD, FOLDER, REJECTED),
    # Parts that would remain if an identifier were cut, split or cleaned.
    *("Zweigelt", "Mendelssohn", "Fuchsbichler", "Apollonia", "Unlesbar", "Oberpfaffing"),
)


def save(path: Path, number: int) -> None:
    """A picture with identifiers in every place that a PNG has for them."""
    notes = PngInfo()
    notes.add_text("Patient Name", NAME)
    notes.add_text("Comment", f"geboren {BIRTH_DATE}", zip=True)
    notes.add_itxt("Description", f"geboren am {BIRTH_DATE} in {BIRTHPLACE}", lang="de", tkey="Beschreibung")
    exif = Image.Exif()
    exif[0x010E] = f"{NAME}, {WARD}"
    exif[0x013B] = PHYSICIAN
    exif[0x9C9C] = f"{patient_id(number)} {NAME}".encode("utf-16-le")
    Image.fromarray(picture(number, (60, 48))).save(path, pnginfo=notes, exif=exif)


def write_download(raw: Path) -> Path:
    """A download of Hannover's form, as a clinic might have it before anybody cared: names everywhere."""
    (raw / "png").mkdir(parents=True)
    extra = ("name", "birth_date", "insurance", "remark")
    rows = [[*COLUMNS, *extra]]
    images = [*map(image_id, range(PATIENTS)), REJECTED]
    for number, image in enumerate(images):
        patient = patient_id(number % PATIENTS)
        cells = Row(patient, image, icu="2.0" if number % 2 else "", projection=("ap", "pa")[number % 3 == 0]).cells()
        rows.append([*cells, NAME, BIRTH_DATE, INSURANCE, f"{WARD}, {PHYSICIAN}"])
        save(raw / "png" / f"{image}.png", number)
    broken = raw / "png" / f"{REJECTED}.png"
    broken.write_bytes(broken.read_bytes()[:-200])
    with (raw / "data.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return raw


class Said(NamedTuple):
    """What a verb left on the terminal."""

    stdout: str
    stderr: str


class Traces(NamedTuple):
    """All that the verbs left behind."""

    workspace: Path
    scratch: Path
    said: dict[str, Said]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Traces:
    root = tmp_path_factory.mktemp("privacy")
    raw, workspace, scratch = write_download(root / FOLDER), root / "workspace", root / "scratch"
    scratch.mkdir()
    verbs = {
        "prepare": ("prepare", "hannover", "--raw", str(raw)),
        "prepare again": ("prepare", "hannover", "--raw", str(raw), "--json"),
        "extract": ("extract", "hannover", "--backbone", BACKBONE),
        "probe": ("probe", "HAN_icu", "HAN_icu_all", "--backbone", BACKBONE),
        "report": ("report",),
    }
    env = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "TMPDIR": str(scratch)}
    said = {}
    for verb, words in verbs.items():
        with fork("from cli.main import main; main()", *words, "--workspace", str(workspace), **env) as process:
            said[verb] = Said(*process.communicate(timeout=120))
            assert process.returncode == 0, said[verb].stderr
    return Traces(workspace, scratch, said)


def forms(text: str) -> set[bytes]:
    """A text in every encoding in which it may lie in a file, in small letters."""
    spelled = {text, text.lower(), text.upper(), json.dumps(text)[1:-1]}
    encoded = {each.encode(code) for each in spelled for code in ("utf-8", "utf-16-le", "latin-1")}
    return {each.lower() for each in (*encoded, *(each.hex().encode() for each in encoded))}


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all files; tables as well with what their compressed pages hold."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        yield name, name.encode()
        if path.is_file():
            yield name, path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield name, table.to_pandas().to_csv().encode()
            yield name, str(pq.read_schema(path).metadata).encode()


def leaks(pieces: Iterable[tuple[str, bytes]], planted: Iterable[str] = PLANTED) -> set[tuple[str, str]]:
    """Where which of the planted texts stand, in whatever form."""
    wanted = [(text, form) for text in planted for form in forms(text)]
    return {(name, text) for name, piece in pieces for text, form in wanted if form in piece.lower()}


@pytest.mark.slow
class TestNothingOfTheDownload:
    def test_is_in_the_workspace(self, traces: Traces) -> None:
        names = {name for name, _ in contents(traces.workspace)}
        for part in ("manifest.parquet", "commit.json", "c.0.0", "record.json", "predictions.parquet", "report.html"):
            assert any(name.endswith(part) for name in names), "every kind of file is searched"
        assert leaks(contents(traces.workspace)) == set()

    def test_is_in_what_the_verbs_say(self, traces: Traces) -> None:
        """But the names of rejected files, which `prepare` shows on the screen and keeps nowhere."""
        lines = [(verb, line.encode()) for verb, said in traces.said.items() for line in said.stderr.splitlines()]
        rejected = [(verb, line) for verb, line in lines if line.startswith(b"rejected ")]
        assert leaks(line for line in lines if line not in rejected) == set()
        assert [verb for verb, _ in rejected] == ["prepare", "prepare again"]
        assert {text for _, text in leaks(rejected)} == {REJECTED, "Unlesbar"}

    def test_is_in_what_they_answer(self, traces: Traces) -> None:
        """But the names of rejected files, for whoever asks for JSON."""
        found = leaks((verb, said.stdout.encode()) for verb, said in traces.said.items())
        assert found == {("prepare again", REJECTED), ("prepare again", "Unlesbar")}
        (rejected,) = json.loads(traces.said["prepare again"].stdout)["rejected"]
        assert rejected["file"] == f"png/{REJECTED}.png"

    def test_is_left_in_temporary_files(self, traces: Traces) -> None:
        assert leaks(contents(traces.scratch)) == set()


def in_a_table(workspace: Path, text: str) -> None:
    pd.DataFrame({"remark": ["nothing"] * 1000 + [f"of {text}"]}).to_parquet(
        workspace / "t.parquet", compression="zstd"
    )


def in_the_facts_of_a_table(workspace: Path, text: str) -> None:
    table = pa.table({"a": [1]}).replace_schema_metadata({"source": text})
    pq.write_table(table, workspace / "t.parquet")


class TestTheSearch:
    """Whatever the tests above do not find must be found where it is."""

    @pytest.mark.parametrize("text", [NAME, BIRTHPLACE, BIRTH_DATE, REJECTED, patient_id(3)])
    @pytest.mark.parametrize(
        "plant",
        [
            pytest.param(lambda folder, text: (folder / "log.txt").write_text(f"of {text}."), id="text"),
            pytest.param(lambda folder, text: (folder / "log.txt").write_text(text.upper()), id="capitals"),
            pytest.param(lambda folder, text: (folder / "x").write_bytes(b"\0\1" + text.encode()), id="bytes"),
            pytest.param(lambda folder, text: (folder / "x").write_bytes(text.encode("utf-16-le")), id="utf-16"),
            pytest.param(lambda folder, text: (folder / "x").write_text(text.encode().hex()), id="hexadecimal"),
            pytest.param(lambda folder, text: (folder / "x.json").write_text(json.dumps({"of": text})), id="JSON"),
            pytest.param(lambda folder, text: (folder / text).mkdir(), id="a folder's name"),
            pytest.param(in_a_table, id="a compressed table"),
            pytest.param(in_the_facts_of_a_table, id="the facts of a table"),
        ],
    )
    def test_finds_what_is_planted(self, tmp_path: Path, plant: Callable[[Path, str], object], text: str) -> None:
        plant(tmp_path, text)
        assert text in {found for _, found in leaks(contents(tmp_path))}

    @pytest.mark.slow
    def test_finds_it_in_the_very_workspace(self, traces: Traces) -> None:
        planted = traces.workspace / "results" / "note.txt"
        planted.write_text(f"image of {image_id(4)}")
        try:
            assert leaks(contents(traces.workspace)) == {
                ("results/note.txt", image_id(4)),
                ("results/note.txt", "Mendelssohn"),
            }
        finally:
            planted.unlink()

    def test_the_pictures_do_carry_what_is_searched_for(self, tmp_path: Path) -> None:
        raw = write_download(tmp_path / FOLDER)
        found = {text for _, text in leaks(contents(tmp_path))}
        assert found == set(PLANTED)
        # What is compressed is found through Pillow.
        with Image.open(raw / "png" / f"{image_id(0)}.png") as opened:
            opened.load()
            assert opened.text["Comment"] == f"geboren {BIRTH_DATE}"
            assert opened.getexif()[0x013B] == PHYSICIAN
