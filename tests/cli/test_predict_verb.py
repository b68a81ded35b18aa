"""`predict` on the command line: its one object, its table, what it says beside them, and how it is stopped."""

import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from cli_kit import BACKBONE, Done, invoke, rows_of, run, start

from peftbench.cohorts.synthesis import PhantomConfig, write_phantom

KEYS = {
    "record", "task", "question", "event", "backbone", "strategy", "probe", "regime", "shots", "models", "mcc_mean",
    "mcc_std", "caveat", "notes", "out", "results",
}  # fmt: skip

ROW_KEYS = {"file", "score", "lowest", "highest", "decision", "seen", "fault"}

SLOWLY = """
import time
from peftbench.extraction import embed
original = embed.Engine.embed
def embed_slowly(self, pixels):
    time.sleep(30)
    return original(self, pixels)
embed.Engine.embed = embed_slowly
from cli.main import main
main()
"""


@pytest.fixture(scope="module")
def record(answers: dict[str, Done]) -> str:
    return next(str(row["record"]) for row in rows_of(answers["probe"]) if row["backbone"] == BACKBONE)


@pytest.fixture
def pictures(raw: Path, tmp_path: Path) -> Path:
    """Two new pictures, one of the cohort, and one that is broken."""
    fresh = write_phantom(tmp_path / "fresh", PhantomConfig(patients=6, images_per_patient=1, size=64, seed=9))
    folder = tmp_path / "films"
    folder.mkdir()
    for number, path in enumerate(sorted((fresh / "images").iterdir())[:2]):
        shutil.copy(path, folder / f"new-{number}.png")
    shutil.copy(min((raw / "images").iterdir()), folder / "seen.png")
    (folder / "broken.png").write_bytes(b"")
    return folder


def test_the_answer(record: str, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    done = invoke("predict", record, str(pictures), "--out", str(out), "--device", "cpu", "--json")
    assert set(done.answer) == KEYS
    rows = done.answer["results"]
    assert [set(row) for row in rows] == [ROW_KEYS] * 4
    assert [(row["file"], row["seen"], row["score"] is None) for row in rows] == [
        ("broken.png", False, True),
        ("new-0.png", False, False),
        ("new-1.png", False, False),
        ("seen.png", True, False),
    ]
    assert (done.answer["record"], done.answer["backbone"], done.answer["out"]) == (record, BACKBONE, str(out))
    assert (done.answer["strategy"], done.answer["probe"]) == ("LP", "logistic")
    assert "rejected broken.png: file is empty (0 bytes)" in done.stderr
    assert "note: 1 of 4 pictures are of the cohort 'phantom' itself" in done.stderr
    assert pd.read_csv(out)["score"].tolist()[1:] == [row["score"] for row in rows[1:]]


def test_for_people_it_prints_a_table(record: str, pictures: Path) -> None:
    done = invoke("predict", record, str(pictures), "--device", "cpu")
    assert done.code == 0
    for part in ("new-0.png", "lowest", "seen", "fault", "Will the patient be admitted", f"LP on {BACKBONE}"):
        assert part in done.stdout
    assert "not for clinical use" in done.stderr
    assert "MCC on its own test parts" in done.stderr


@pytest.mark.slow
def test_columns_that_say_nothing_are_left_out(record: str, pictures: Path) -> None:
    done = invoke("predict", record, str(pictures / "new-0.png"), "--device", "cpu")
    assert "fault" not in done.stdout
    assert "seen" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["gone", "x.png"], "there is no record gone"),
        ([".", "x.png"], "is no record"),
        (["{record}", "x.png"], "no file can be read (x.png: file is missing)"),
        (["{record}", "{pictures}", "--out", "scores.txt"], "ends in .csv"),
        (["{record}", "{pictures}", "--out", "gone/scores.csv"], "there is no folder gone"),
        (["{record}", "{pictures}", "--precision", "fp8"], "unknown precision"),
        (["{record}", "{pictures}", "--workspace", "gone"], "peftbench prepare phantom"),
        (["{record}", "{pictures}", "--weights", "own.pt"], "leave --weights out"),
    ],
    ids=lambda each: " ".join(each[1:]) if isinstance(each, list) else None,
)
def test_a_wrong_word_is_named_with_the_next_step(record: str, pictures: Path, words: list[str], part: str) -> None:
    filled = [word.format(record=record, pictures=pictures) for word in words]
    assert part in invoke("predict", *filled, "--json").error


def test_without_an_image_the_usage_is_shown(record: str) -> None:
    done = invoke("predict", record)
    assert done.code == 2
    assert "Usage" in done.stderr


@pytest.mark.slow
def test_a_record_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from cli.main import main; main()"
    assert "there is no record" in run("predict", str(tmp_path / "gone"), "x.png", program=program).error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM twice", "SIGKILL"])
def test_killed_it_leaves_the_table_that_was_there(
    record: str, pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "scores.csv").write_text("old")
    words = ("predict", record, str(pictures), "--out", str(folder / "scores.csv"), "--device", "cpu")
    with start(*words, program=SLOWLY) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("decoding"):
                break
        time.sleep(1)
        process.send_signal(number)
        time.sleep(0.2)
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode in (143, -number)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"scores.csv": "old"}
