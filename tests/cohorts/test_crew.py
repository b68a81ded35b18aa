"""Work in several processes: in order, whatever an item does to its process, and nothing is left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peftbench.cohorts.crew import Crew, workers_or_default
from peftbench.errors import ConfigError

pytestmark = pytest.mark.slow

ITEMS = 60


def work(item: int, shared: int) -> tuple[int, int]:
    """What the processes do; they import it from this file."""
    if item == 11:
        os._exit(0)
    if item == 22:
        ctypes.string_at(0)
    if item == 33:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 44:
        raise ValueError("not caught")
    if item == 55:
        _ = bytearray(64 << 30)
    return item * shared, os.getpid()


def chatty(item: int, shared: str) -> str:
    os.write(1, b"a decoder's banner\n")
    print(shared)  # noqa: T201
    return shared * item


def slow(item: int, shared: float) -> int:
    time.sleep(shared)
    return item


def stuck(item: int, shared: None) -> tuple[int, int]:
    time.sleep(60 if item == 2 else 0)
    return item, item


def died(item: int) -> tuple[int, int]:
    return -item, 0


FATAL = (11, 22, 33, 44, 55)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_item_that_kills_its_process_costs_itself_alone(workers: int) -> None:
    found = list(Crew(work, 10, died, workers).map(range(ITEMS)))
    assert [answer for answer, _ in found] == [-item if item in FATAL else 10 * item for item in range(ITEMS)]
    assert os.getpid() not in {process for _, process in found}


def test_every_item_may_kill_its_process() -> None:
    assert list(Crew(work, 10, died, 2).map([11] * 4, few=0)) == [(-11, 0)] * 4


def test_an_item_that_hangs_is_given_up() -> None:
    assert list(Crew(stuck, None, died, 2, patience=0.5).map([1, 2, 3, 4], few=0)) == [(1, 1), (-2, 0), (3, 3), (4, 4)]


def test_few_items_are_done_here() -> None:
    assert {process for _, process in Crew(work, 10, died, 2).map(range(5))} == {os.getpid()}
    assert list(Crew(work, 10, died, 2).map([])) == []


def test_what_a_decoder_prints_is_no_answer() -> None:
    assert list(Crew(chatty, "x", str, 2).map(range(40))) == ["x" * item for item in range(40)]


def test_large_answers_pass() -> None:
    found = list(Crew(chatty, "x" * 1_000_000, str, 2).map([3] * 4, few=0))
    assert {len(each) for each in found} == {3_000_000}


def test_no_more_is_begun_than_is_soon_asked_for() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(10_000):
            taken.append(number)
            yield number

    answers = Crew(slow, 0.0, int, 2).map(items())
    for _ in range(5):
        next(answers)
    assert len(taken) < 100
    answers.close()


def children() -> set[int]:
    """Processes of this process, by the kernel's list."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("end", ["exhausted", "closed", "raised"])
def test_no_process_is_left(end: str) -> None:
    before = children()
    answers = Crew(slow, 0.01, int, 2).map(range(40))
    next(answers)
    assert len(children() - before) == 2
    if end == "exhausted":
        assert len(list(answers)) == 39
    elif end == "closed":
        answers.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            answers.throw(KeyboardInterrupt)
    assert children() == before


def command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


PARENT = """
import sys
sys.path.insert(0, {folder!r})
from test_crew import slow
from peftbench.cohorts.crew import Crew
answers = Crew(slow, 0.05, int, 2).map(range(10_000), few=0)
next(answers)
print("begun", flush=True)
for _ in answers: pass
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_when_the_parent_is_killed_its_processes_end() -> None:
    program = PARENT.format(folder=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "begun\n"
        hands = {
            path.parent
            for path in Path("/proc").glob("[0-9]*/stat")
            if path.read_text().rpartition(")")[2].split()[1] == str(parent.pid)
        }
        assert len(hands) == 2
        assert all("crew" in command_of(hand) for hand in hands)
        parent.kill()
    deadline = time.monotonic() + 10
    while any("crew" in command_of(hand) for hand in hands) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [hand for hand in hands if "crew" in command_of(hand)]


def download(raw: Path, images: int) -> Path:
    """A raw folder of so many images, two a patient; its imports are not for the processes that import this file."""
    from hannover_kit import Row, write_hannover

    return write_hannover(raw, [Row(f"aa{number // 2:06d}", f"b{number:07d}") for number in range(images)])


SCRIPT = """
import sys, peftbench
print(peftbench.prepare("hannover", sys.argv[1], workspace=sys.argv[2], workers=2).images)
"""
"""As users write them: with no guard around what a child process must not do again."""


@pytest.mark.parametrize(
    "how", ["-c", pytest.param("script", marks=pytest.mark.slow), pytest.param("stdin", marks=pytest.mark.slow)]
)
def test_a_program_without_a_guard_can_prepare(tmp_path: Path, how: str) -> None:
    words = [str(download(tmp_path / "raw", 40)), str(tmp_path / "workspace")]
    (tmp_path / "script.py").write_text(SCRIPT)
    start = {"script": [str(tmp_path / "script.py")], "-c": ["-c", SCRIPT], "stdin": ["-"]}[how]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, *start, *words],
        input=SCRIPT if how == "stdin" else "",
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "40\n"


@pytest.mark.parametrize("workers", [0, -1])
def test_a_number_of_processes_is_positive(workers: int) -> None:
    with pytest.raises(ConfigError, match=f"--workers is {workers}, expected at least 1"):
        workers_or_default(workers)


def test_by_default_it_is_a_process_a_core() -> None:
    assert 1 <= workers_or_default(None) <= (os.cpu_count() or 1)
    assert workers_or_default(7) == 7


def prepared(raw: Path, workspace: Path, workers: int) -> dict[str, bytes]:
    from peftbench.cohorts.prepare import prepare

    prepare("hannover", raw, workspace=workspace, workers=workers, side=48)
    return {
        path.relative_to(workspace).as_posix(): path.read_bytes()
        for path in sorted(workspace.rglob("*"))
        if path.is_file() and path.name != "files.parquet"
    }


@pytest.mark.slow
def test_the_number_of_processes_plays_no_part_in_what_is_written(tmp_path: Path) -> None:
    raw = download(tmp_path / "raw", 70)
    written: list[dict[str, Any]] = [prepared(raw, tmp_path / str(each), each) for each in (1, 2, 3)]
    assert written[0].keys() == written[1].keys() == written[2].keys()
    different = [name for name in written[0] if len({each[name] for each in written}) > 1]
    assert [name for name in different if not name.endswith(("commit.json", ".lock"))] == []
