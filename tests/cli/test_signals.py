"""Ctrl-C and SIGTERM of a real process: what was finished is kept, the message says so, the next run completes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_kit import BACKBONE, PATIENTS, SCRIPT, faults, files, invoke, rows_of, run, start
from forking import Forked, fork

from stores.features import FeatureStore
from stores.lock import writer_lock

pytestmark = pytest.mark.slow

MESSAGE = "interrupted: what was finished is kept; run the same command again to go on"

SLOWLY = """
import time
from peftbench.extraction import embed
original = embed.Engine.embed
def embed_slowly(self, pixels):
    time.sleep(0.2)
    return original(self, pixels)
embed.Engine.embed = embed_slowly
from cli.main import main
main()
"""
"""The command line on a machine of which two batches a second is much."""


SWALLOWED = """
import importlib.abc, os, signal, sys, time

class Swallowing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "numpy":
            try:
                os.kill(os.getpid(), {signal})
                time.sleep(1)
            except KeyboardInterrupt:
                raise ImportError("cannot load module more than once per process")

sys.meta_path.insert(0, Swallowing())
from cli.main import main
main()
"""
"""A signal while numpy is imported: its C code turns an interrupt into whatever it stumbles over next."""


def wait_for(process: "subprocess.Popen[str] | Forked", beginning: str) -> list[str]:
    """Read stderr until a line begins so."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(beginning):
            return seen
    raise AssertionError(f"no line begins with {beginning!r}: {''.join(seen)}")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_an_extraction_stopped_by_a_signal_goes_on_where_it_stood(
    raw: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    place = ("--workspace", str(tmp_path / "workspace"))
    assert invoke("prepare", "phantom", "--raw", str(raw), *place).code == 0
    words = ("extract", "phantom", "--backbone", BACKBONE, "--batch-size", "2", *place, "--json")
    # A real start once: the other one is a fork, which the signal finds in the same place.
    begun = start(*words, program=SLOWLY) if number == signal.SIGINT else fork(SLOWLY, *words)
    with begun as process:
        wait_for(process, "embedding phantom")
        time.sleep(1)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == code
    assert stdout == ""
    assert stderr.splitlines() == [MESSAGE]
    (store,) = (tmp_path / "workspace" / "features" / "resnet18-random-0").iterdir()
    kept = len(FeatureStore.open(store))
    assert 0 < kept < PATIENTS
    (row,) = rows_of(invoke(*words))
    assert (row["total"], row["reused"], row["embedded"]) == (PATIENTS, kept, PATIENTS - kept)
    finished = FeatureStore.open(store)
    assert len(finished) == PATIENTS
    assert faults(store) == []


@pytest.mark.slow
def test_an_extraction_that_waits_for_another_can_be_stopped(raw: Path, tmp_path: Path) -> None:
    place = ("--workspace", str(tmp_path / "workspace"))
    assert invoke("prepare", "phantom", "--raw", str(raw), *place).code == 0
    words = ("extract", "phantom", "--backbone", BACKBONE, *place, "--json")
    (row,) = rows_of(invoke(*words))
    store = Path(row["store"])
    (store / "commit.json").unlink()
    with writer_lock(store), fork(SCRIPT, *words) as process:
        seen = wait_for(process, "note: ")
        assert "is being written by process" in seen[-1]
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines() == [MESSAGE]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_while_libraries_are_imported_is_answered_like_any_other(
    raw: Path, number: signal.Signals, code: int
) -> None:
    program = SWALLOWED.format(signal=int(number))
    done = run("prepare", "phantom", "--raw", str(raw), "--json", program=program)
    assert done.code == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines() == [MESSAGE]


@pytest.mark.slow
def test_a_phantom_stopped_while_it_is_drawn_leaves_no_half_of_it(tmp_path: Path) -> None:
    words = ("prepare", "phantom", "--workspace", str(tmp_path / "workspace"))
    with start(*words) as process:
        wait_for(process, "note: no --raw given")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1] == MESSAGE
    assert "Traceback" not in stderr
    assert files(tmp_path / "workspace") == set()


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    """`peftbench list tasks | head -1`: the pipe is closed before the table is written."""
    with start("list", "tasks") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_one_that_comes_when_all_is_done_changes_nothing(number: signal.Signals) -> None:
    """While libraries say goodbye, which takes those of models most of a second."""
    program = f"""
import atexit, os
atexit.register(os.kill, os.getpid(), {int(number)})
from cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program, "list", "tasks"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "HAN_icu" in done.stdout
