"""The verb `prepare` for one's own table, as typed: every verb knows it afterwards, mistakes cost nothing."""

import csv
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cli_kit import Done, files, invoke, start
from openpyxl import Workbook
from PIL import Image

from peftbench.imaging.policy import PixelPolicy
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.workspace import Workspace
from stores.images import ImageStore

pytestmark = pytest.mark.slow

PATIENTS = 24
SECRET = ("Zweigelt", "Mendelssohn", "2019-07-", "201907")
MESSAGE = "interrupted: what was finished is kept; run the same command again to go on"


def write(raw: Path, patients: int = PATIENTS, side: int = 24) -> Path:
    """Patients with two films each, in a table and a folder, named as a hospital names them."""
    (raw / "films").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (raw / "t.csv").open("w", newline="") as stream:
        table = csv.writer(stream, delimiter=";")
        table.writerow(["patient", "exam", "day", "projection", "site", "icu"])
        for number in range(2 * patients):
            who = number // 2
            exam = f"Mendelssohn_{number:04d}"
            view = "AP" if who % 2 else "PA"
            icu = ("ja", "nein")[(who // 2) % 2]
            table.writerow([f"Zweigelt-{who}", exam, f"2019-07-{number % 28 + 1:02d}", view, "NS"[who % 2], icu])
            Image.fromarray(rng.integers(0, 255, (side, side), dtype=np.uint8)).save(
                raw / "films" / f"{exam}.png", compress_level=0
            )
    return raw


TABLE = (
    "--table", "t.csv", "--images", "films", "--file", "{exam}", "--patient", "patient", "--order", "day",
    "--view", "projection", "--center", "site", "--label", "icu", "--event", "ja", "--no-event", "nein",
)  # fmt: skip

MERCY = ("prepare", "table", "--name", "mercy", *TABLE)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("ward") / "raw")


@pytest.fixture(scope="module")
def done(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A workspace in which it is prepared, and what was answered."""
    place = tmp_path_factory.mktemp("place") / "workspace"
    return place, invoke(*MERCY, "--raw", str(raw), "--workspace", str(place), "--json")


def in_place(done: tuple[Path, Done], *words: str) -> Done:
    return invoke(*words, "--workspace", str(done[0]))


class TestAfterwards:
    def test_the_answer_says_what_there_is(self, done: tuple[Path, Done], raw: Path) -> None:
        answer = done[1].answer
        assert (answer["cohort"], answer["images"], answer["patients"], answer["centers"]) == ("mercy", 48, 24, 2)
        assert set(answer["tasks"]) == {"mercy_icu", "mercy_icu_all"}
        assert answer["private"] == str(raw)
        assert answer["tasks"]["mercy_icu"]["images"] == PATIENTS
        assert answer["tasks"]["mercy_icu"]["event_patients"] == PATIENTS // 2

    @pytest.mark.parametrize(("kind", "names"), [("cohorts", {"mercy"}), ("tasks", {"mercy_icu", "mercy_icu_all"})])
    def test_it_is_listed_in_its_workspace_alone(self, done: tuple[Path, Done], kind: str, names: set[str]) -> None:
        entries = in_place(done, "list", kind, "--json").answer[kind]
        assert names <= {each["name"] for each in entries}
        elsewhere = invoke("list", kind, "--json").answer[kind]
        assert not names & {each["name"] for each in elsewhere}

    def test_its_task_can_be_probed_by_the_view_alone(self, done: tuple[Path, Done]) -> None:
        row, *_ = in_place(done, "probe", "mercy_icu", "--json").answer["results"]
        assert (row["task"], row["backbone"], row["prevalence"]) == ("mercy_icu", "control:view", 0.5)

    def test_an_unknown_task_is_answered_with_its_own(self, done: tuple[Path, Done]) -> None:
        assert "did you mean mercy_icu" in in_place(done, "probe", "mercy_ico").error

    def test_by_its_name_it_is_prepared_again_without_options(self, done: tuple[Path, Done], raw: Path) -> None:
        assert in_place(done, "prepare", "mercy", "--raw", str(raw), "--json").answer == done[1].answer
        assert "described already" in in_place(done, "prepare", "mercy", "--raw", str(raw), "--label", "icu").error

    def test_on_the_screen_are_the_flow_and_the_tasks(self, done: tuple[Path, Done], raw: Path) -> None:
        shown = in_place(done, "prepare", "mercy", "--raw", str(raw))
        assert shown.code == 0
        for part in ("48 rows in t.csv", "images of 24 patients", "mercy_icu", "AP 6 of 12; PA 6 of 12"):
            assert part in shown.stdout
        assert "keep them secret" in shown.stderr
        assert not [secret for secret in SECRET if secret in shown.stdout + shown.stderr]

    def test_no_identifier_is_said_or_written(self, done: tuple[Path, Done]) -> None:
        place, told = done
        frame = Manifest.read("mercy", Workspace(place).manifest("mercy")).frame
        card = Workspace(place).card("mercy").read_text() + Workspace(place).description("mercy").read_text()
        for secret in SECRET:
            assert secret not in told.stdout + told.stderr + card + frame.to_csv()


def test_by_a_file_it_is_the_same_cohort(raw: Path, done: tuple[Path, Done], tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "name": "mercy", "table": "t.csv", "images": "films", "file": "{exam}", "patient": "patient", "order": "day",
        "view": "projection", "center": "site", "labels": {"icu": {"column": "icu", "event": "ja", "no_event": "nein"}},
    }  # fmt: skip
    (tmp_path / "mercy.yaml").write_text(yaml.safe_dump(words))
    place = tmp_path / "place"
    found = invoke(
        "prepare", "table", "--describe", "mercy.yaml", "--raw", str(raw), "--workspace", str(place), "--json"
    )
    assert found.answer == done[1].answer
    one, two = (Workspace(each).description("mercy").read_bytes() for each in (place, done[0]))
    assert json.loads(one) == json.loads(two)
    assert Workspace(place).manifest("mercy").read_bytes() == Workspace(done[0]).manifest("mercy").read_bytes()


def changed(*options: str) -> tuple[str, ...]:
    """The words for mercy with options said otherwise, or left out where nothing follows them."""
    words, named = list(MERCY), dict(zip(options[::2], options[1::2], strict=True))
    for option, value in named.items():
        at = words.index(option) if option in words else None
        if at is not None:
            del words[at : at + 2]
        words += [option, value] if value else []
    return tuple(words)


REFUSED: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "no options": (("prepare", "table"), ["'table'", "--table FILE", "--patient COLUMN"]),
    "no patient": (changed("--patient", ""), ["--patient COLUMN"]),
    "no label": (changed("--label", ""), ["--label"]),
    "no event": (changed("--event", ""), ["--event"]),
    "no file": (changed("--file", ""), ["--file", "--match"]),
    "a column that is not there": (changed("--label", "died"), ["t.csv lacks the column died", "it has patient, exam"]),
    "a value that is not known": (changed("--no-event", "no"), ["'nein' (24 rows)", "expected one of", "ja"]),
    "one value for both": (changed("--no-event", "JA"), ["'icu'", "event"]),
    "a table that is not there": (changed("--table", "gone.csv"), ["has no gone.csv", "it holds films"]),
    "a name that is taken": (changed("--name", "hannover"), ["'hannover'", "give your cohort another"]),
    "a name that is none": (changed("--name", "a b"), ["name", "'a b'"]),
    "no workers": ((*MERCY, "--workers", "0"), ["--workers is 0, expected at least 1"]),
    "a policy that is none": (
        (*MERCY, "--policy", "minimax"),
        ["unknown pixel policy 'minimax'", "did you mean minmax"],
    ),
    "a small side": ((*MERCY, "--side", "31"), ["--side is 31, expected 32 to 4096"]),
    "a share above 1": ((*MERCY, "--max-rejected", "1.5"), ["--max-rejected is 1.5, expected a share from 0 to 1"]),
    "a rule that is none": ((*MERCY, "--keep", "site"), ["--keep is 'site'", "COLUMN=VALUE"]),
    "a header that is none": ((*MERCY, "--header", "0"), ["header", "0"]),
    "a covariate of the manifest": ((*MERCY, "--covariate", "patient_id"), ["patient_id"]),
    "a description that is not there": ((*MERCY, "--describe", "gone.yaml"), ["gone.yaml cannot be read"]),
    "a key in the workspace": ((*MERCY, "--key-file", "workspace/key"), ["in the workspace", "--key-file FILE"]),
    "a key's folder that is not there": (
        (*MERCY, "--key-file", "gone/key"),
        ["gone/key cannot be written", "--key-file"],
    ),
    "options for a known cohort": (("prepare", "hannover", "--label", "icu"), ["described already", "prepare table"]),
    "a misspelt cohort": (("prepare", "tabel"), ["unknown cohort 'tabel'"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_sentence_and_leaves_nothing(raw: Path, tmp_path: Path, case: str) -> None:
    words, parts = REFUSED[case]
    error = invoke(*words, "--raw", str(raw), "--json").error
    assert [part for part in parts if part not in error] == []
    left = files(tmp_path / "workspace") if (tmp_path / "workspace").exists() else set()
    assert not [name for name in left if name.endswith(("manifest.parquet", "card.json", "cohort.json"))]


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.xlsx", b"PK\3\4 no workbook"), ("t.parquet", b"PAR1"), ("t.csv", b""), ("t.xls", b"\xd0\xcf\x11\xe0" * 9)],
)
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_bytes(content)
    assert name in invoke(*changed("--table", name), "--raw", "raw").error


def test_a_formula_without_a_result_is_one_sentence(raw: Path, tmp_path: Path) -> None:
    book = Workbook()
    for row in (["patient", "exam", "icu"], ["P1", "x1", '=IF(1=1,"ja","nein")']):
        book.worksheets[0].append(row)
    (tmp_path / "raw").mkdir()
    book.save(tmp_path / "raw" / "t.xlsx")
    words = ("prepare", "table", "--table", "t.xlsx", "--file", "{exam}", "--patient", "patient", "--label", "icu",
             "--event", "ja", "--no-event", "nein")  # fmt: skip
    assert "formula" in invoke(*words, "--raw", "raw").error


def test_rejected_files_are_said_by_line_and_do_not_stop_it(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", 6)
    (raw / "films" / "Mendelssohn_0003.png").write_bytes(b"")
    found = invoke(*MERCY, "--raw", str(raw))
    assert found.code == 0
    assert "rejected line 5: file is empty (0 bytes)" in found.stderr
    assert not [secret for secret in SECRET if secret in found.stdout + found.stderr]
    assert invoke("prepare", "mercy", "--raw", str(raw), "--max-rejected", "0").code == 2


LARGE = 400
"""Films: enough to be stopped amid them."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("large") / "raw", LARGE // 2, side=300)


@pytest.fixture(scope="module")
def undisturbed(large: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    place = Workspace(tmp_path_factory.mktemp("undisturbed"))
    assert invoke(*MERCY, "--raw", str(large), "--workspace", str(place.root)).code == 0
    return place


def children_of(parent: int) -> set[Path]:
    """Processes that a process has started, as folders of /proc."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if path.read_text().rpartition(")")[2].split()[1] == str(parent):
                found.add(path.parent)
        except OSError:
            continue
    return found


def is_hand(process: Path) -> bool:
    try:
        return b"cohorts.crew" in (process / "cmdline").read_bytes()
    except OSError:
        return False


def stored(place: Workspace) -> int:
    try:
        return len(ImageStore.open(place.images("mercy", PixelPolicy().digest)))
    except (OSError, LookupError, ValueError):
        return 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_stopped_it_leaves_no_process_and_goes_on_where_it_stood(
    large: Path, undisturbed: Workspace, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    place = Workspace(tmp_path / "place")
    words = (*MERCY, "--raw", str(large), "--workspace", str(place.root), "--workers", "2", "--json")
    with start(*words) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not stored(place):
            time.sleep(0.02)
        hands = {each for each in children_of(process.pid) if is_hand(each)}
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    assert stdout == ""
    if number != signal.SIGKILL:
        assert stderr.splitlines()[-1] == MESSAGE
    assert len(hands) == 2
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(is_hand, hands)):
        time.sleep(0.05)
    assert not any(map(is_hand, hands))
    assert not place.manifest("mercy").exists()
    assert 0 < stored(place) < LARGE
    assert invoke(*words).answer["images"] == LARGE
    assert place.manifest("mercy").read_bytes() == undisturbed.manifest("mercy").read_bytes()
