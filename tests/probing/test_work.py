"""Cells in processes or in this one: the same bits, nothing lost, repeated or mixed however a call ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probe_kit import BACKBONE, files
from progress_kit import Ear

from peftbench.probing import work
from peftbench.probing.cells import Answer, Task, solve
from peftbench.probing.families.family import ProbeError
from peftbench.probing.given import Given
from peftbench.probing.probe import probe
from peftbench.probing.registry import PROBES, expand
from peftbench.probing.work import Errand, run
from peftbench.protocol.kept import forget
from peftbench.protocol.records import iter_records, read_record
from peftbench.protocol.workspace import Workspace

TASK = "PHA_icu_all"

MODULE = '''
"""Classifiers of somebody's own, which tell of every fit."""

import os
import time
from pathlib import Path

from sklearn.naive_bayes import GaussianNB


class Slow(GaussianNB):
    def fit(self, rows, labels):
        with Path(os.environ["FITS"]).open("a") as stream:
            stream.write("fit\\n")
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return super().fit(rows, labels)


class Deadly(GaussianNB):
    def fit(self, rows, labels):
        if os.getpid() != int(os.environ["SPARED"]):
            os._exit(1)
        return super().fit(rows, labels)


class Faulty(GaussianNB):
    def fit(self, rows, labels):
        raise ValueError("these features\\nare not mine")
'''

PROGRAM = """
import sys
sys.path.insert(0, {modules!r})
from peftbench.probing import work
work.WORTH_KEEPING = 0.0
work.WORTH_PROCESSES = {worth}
from cli.main import main
main()
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the classifiers above, on the path; fits are told to `fits` beside it."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "own_probes.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("FITS", str(tmp_path / "fits"))
    monkeypatch.setenv("SPARED", str(os.getpid()))
    monkeypatch.delitem(sys.modules, "own_probes", raising=False)
    return folder


@pytest.fixture
def processes_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "WORTH_PROCESSES", 0.0)


@pytest.fixture
def all_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "WORTH_KEEPING", 0.0)


def fits(tmp_path: Path) -> int:
    path = tmp_path / "fits"
    return len(path.read_text().splitlines()) if path.exists() else 0


def predictions(place: Workspace) -> dict[str, bytes]:
    return {path: data for path, data in files(place.results).items() if path.endswith(".parquet")}


def numbers(place: Workspace) -> dict[str, Any]:
    """What of the records is the same on any machine at any time."""
    told = {path: json.loads(data) for path, data in files(place.results).items() if path.endswith("record.json")}
    return {
        path: {name: record[name] for name in record if name not in ("cost", "provenance", "digest")}
        for path, record in told.items()
    }


def copy_of(place: Workspace, root: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(place.root, root)))


def kept_cells(place: Workspace) -> list[Path]:
    return sorted(place.results.rglob("cells/*"))


class TestProcesses:
    @pytest.mark.slow
    @pytest.mark.usefixtures("processes_pay")
    @pytest.mark.parametrize(
        "words",
        [
            {"probe": ["logistic", "ridge"]},
            pytest.param({"regime": "few-shot", "shots": [2, 4], "draws": 3}, marks=pytest.mark.slow),
        ],
        ids=["full", "few-shot"],
    )
    def test_the_records_are_those_of_one_process_to_the_bit(
        self, three_centers: Workspace, tmp_path: Path, words: dict[str, Any]
    ) -> None:
        found = []
        for workers in (1, 2):
            place = copy_of(three_centers, tmp_path / f"of-{workers}")
            ear = Ear()
            probe(TASK, BACKBONE, workspace=place, workers=workers, permutations=9, progress=ear, **words)
            assert ear.done == ear.expected
            found.append((predictions(place), numbers(place)))
        assert found[0] == found[1]
        assert len(found[0][0]) == 2 * 5

    @pytest.mark.slow
    @pytest.mark.usefixtures("processes_pay", "modules")
    def test_one_that_dies_is_told_of_in_a_sentence(self, own_place: Workspace) -> None:
        with pytest.raises(ProbeError, match=r"a process died of the probe 'own_probes.Deadly'.* --workers 1"):
            probe(TASK, BACKBONE, workspace=own_place, probe="own_probes.Deadly", workers=2, permutations=0)
        assert not list(own_place.results.rglob("record.json"))

    @pytest.mark.slow
    @pytest.mark.usefixtures("processes_pay", "modules")
    @pytest.mark.parametrize("workers", [1, 2])
    def test_so_is_a_classifier_that_cannot_be_fitted(self, own_place: Workspace, workers: int) -> None:
        told = r"the probe own_probes.Faulty cannot be fitted to \d+ images .*: these features are not mine"
        with pytest.raises(ProbeError, match=told):
            probe(TASK, BACKBONE, workspace=own_place, probe="own_probes.Faulty", workers=workers, permutations=0)

    @pytest.mark.usefixtures("modules")
    def test_few_cells_are_not_worth_a_process(self, own_place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(work, "_together", lambda *_: pytest.fail("a process was started"))
        probe(TASK, BACKBONE, workspace=own_place, workers=2, permutations=0)


class StopError(Exception):
    """Stands for whatever ends a call."""


class TestKept:
    @pytest.mark.slow
    @pytest.mark.usefixtures("all_is_kept")
    @pytest.mark.parametrize("name", PROBES)
    @pytest.mark.parametrize("words", [{}, {"regime": "few-shot", "shots": 4, "draws": 3}], ids=["full", "few-shot"])
    def test_a_call_that_was_ended_goes_on_where_it_stood(
        self,
        three_centers: Workspace,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        words: dict[str, Any],
    ) -> None:
        given = {"probe": name, "control": False, "permutations": 9, "calibrate": "temperature", **words}
        undisturbed, place = (copy_of(three_centers, tmp_path / each) for each in ("undisturbed", "ended"))
        probe(TASK, BACKBONE, workspace=undisturbed, **given)
        solved: list[int] = []

        def counted(task: Task, seen: Given) -> Answer:
            if len(solved) == 3:
                raise StopError
            solved.append(1)
            return solve(task, seen)

        monkeypatch.setattr(work, "solve", counted)
        with pytest.raises(StopError):
            probe(TASK, BACKBONE, workspace=place, **given)
        assert len(kept_cells(place)) == 3
        assert not list(iter_records(place))
        monkeypatch.setattr(work, "solve", lambda task, seen: solved.append(1) or solve(task, seen))
        probe(TASK, BACKBONE, workspace=place, **given)
        assert len(solved) == 5, "what was kept is not solved again"
        assert predictions(place) == predictions(undisturbed)
        assert numbers(place) == numbers(undisturbed)
        assert not list(place.results.rglob("cells"))

    @pytest.mark.slow
    @pytest.mark.usefixtures("all_is_kept")
    @pytest.mark.parametrize("harm", ["flipped", "cut", "empty"])
    def test_a_kept_cell_that_is_damaged_is_solved_again(
        self, three_centers: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
    ) -> None:
        undisturbed, place = (copy_of(three_centers, tmp_path / each) for each in ("undisturbed", "ended"))
        given: dict[str, Any] = {"control": False, "permutations": 0}
        probe(TASK, BACKBONE, workspace=undisturbed, **given)
        with monkeypatch.context() as patch:
            patch.setattr("peftbench.probing.runs.Run.record", lambda *_: (_ for _ in ()).throw(StopError))
            with pytest.raises(StopError):
                probe(TASK, BACKBONE, workspace=place, **given)
        cells = kept_cells(place)
        assert len(cells) == 5
        data = bytearray(cells[2].read_bytes())
        # In the middle of the first member's numbers.
        data[200] ^= 1
        cells[2].write_bytes({"flipped": bytes(data), "cut": bytes(data[:-40]), "empty": b""}[harm])
        probe(TASK, BACKBONE, workspace=place, **given)
        assert predictions(place) == predictions(undisturbed)

    def test_whatever_byte_is_flipped_a_kept_cell_is_what_it_was_or_nothing(self, tmp_path: Path) -> None:
        random = np.random.default_rng(0)
        parts = np.array_split(random.permutation(40), 3)
        path = tmp_path / "kept.npz"
        answer = solve(Task("toy", "logistic", np.arange(40) % 2, *parts), Given({"x": random.normal(size=(40, 3))}))
        work._keep(answer, path)
        data = path.read_bytes()
        for at in range(0, len(data), 23):
            path.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
            found = work._read_kept(path)
            if found is not None:
                np.testing.assert_array_equal(found.answer.test, answer.test)
                np.testing.assert_array_equal(found.answer.held_out, answer.held_out)
                assert found.answer.chosen == answer.chosen

    def test_what_took_no_time_is_not_kept(self, own_place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("peftbench.probing.runs.Run.record", lambda *_: (_ for _ in ()).throw(StopError))
        with pytest.raises(StopError):
            probe(TASK, BACKBONE, workspace=own_place, control=False, permutations=0)
        assert kept_cells(own_place) == []

    @pytest.mark.slow
    @pytest.mark.usefixtures("processes_pay", "all_is_kept")
    def test_kept_cells_that_vanish_meanwhile_are_solved_again_and_nothing_is_mixed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another call that made the same record deletes what was kept for it."""
        random = np.random.default_rng(0)
        features, event = random.normal(size=(40, 3)), np.arange(40) % 2
        given = {"toy": Given({"embedding": features})}
        parts = [np.array_split(random.permutation(40), 3) for _ in range(6)]
        tasks = [Task("toy", "logistic", event, *each) for each in parts]
        errands = [Errand(each, tmp_path / f"{at}.npz") for at, each in enumerate(tasks)]
        expected = [solve(each, given["toy"]).test for each in tasks]
        for errand in errands[2:4]:
            next(run([errand], given, 1, tmp_path))
        read, asked = work._read_kept, []

        def vanishing(path: Path) -> Any:
            asked.append(path)
            # Looked at once to see what is left to do; when its turn comes, it is gone.
            if asked.count(path) > 1:
                path.unlink(missing_ok=True)
            return read(path)

        monkeypatch.setattr(work, "_read_kept", vanishing)
        for found, wanted in zip(run(errands, given, 2, tmp_path), expected, strict=True):
            np.testing.assert_array_equal(found.answer.test, wanted)

    def test_matrices_of_a_call_that_was_killed_are_taken_away_and_no_others(self, tmp_path: Path) -> None:
        ended = subprocess.Popen([sys.executable, "-c", "pass"])
        ended.wait()
        for owner in (ended.pid, os.getpid()):
            (tmp_path / f"{work.SHELF}{owner}-x").mkdir()
            (tmp_path / f"{work.SHELF}{owner}-x" / "0-0.npy").touch()
        work._clear(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [f"{work.SHELF}{os.getpid()}-x"]

    def test_another_call_that_keeps_a_cell_meanwhile_is_no_fault(self, tmp_path: Path) -> None:
        (tmp_path / "cells").mkdir()
        (tmp_path / "cells" / "another").mkdir()
        forget(tmp_path)
        assert (tmp_path / "cells").is_dir()


def start(place: Workspace, modules: Path, *words: str, worth: float = 1e9, pause: float = 0.05) -> Any:
    """A call as a process of its own."""
    program = PROGRAM.format(modules=str(modules), worth=worth)
    given = ["probe", TASK, "--backbone", BACKBONE, "--probe", "own_probes.Slow", "--permutations", "0", *words]

    def listen() -> None:
        # Whoever runs the tests in the background of a shell has SIGINT ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-c", program, *given, "--workspace", str(place.root), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PAUSE": str(pause)},
        preexec_fn=listen,  # noqa: PLW1509 - no threads are started here
    )


def running(mark: str) -> list[int]:
    """Processes that were started with a word in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_text(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [each for each in found if each != os.getpid()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked up in /proc")
class TestInterrupted:
    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize(
        ("number", "code"),
        [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
        ids=str,
    )
    def test_a_call_that_was_stopped_goes_on_where_it_stood(
        self, three_centers: Workspace, tmp_path: Path, modules: Path, number: signal.Signals, code: int, workers: int
    ) -> None:
        undisturbed, place = (copy_of(three_centers, tmp_path / each) for each in ("undisturbed", "stopped"))
        again: dict[str, Any] = {"probe": "own_probes.Slow", "permutations": 0}
        probe(TASK, BACKBONE, workspace=undisturbed, **again)
        total = fits(tmp_path)
        assert total == 25, "five inputs, five folds"
        (tmp_path / "fits").unlink()
        worth = 0.0 if workers > 1 else 1e9
        with start(place, modules, "--workers", str(workers), worth=worth, pause=0.1) as process:
            while fits(tmp_path) < 12:
                time.sleep(0.01)
                assert process.poll() is None
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=30)
        assert (process.returncode, stdout) == (code, "")
        if number != signal.SIGKILL:
            told = "interrupted: what was finished is kept; run the same command again to go on"
            assert stderr.splitlines() == ["probing PHA_icu_all: 25", told]
        deadline = time.monotonic() + 10
        while running(str(tmp_path / "fits")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running(str(tmp_path / "fits")) == [], "no process stays behind"
        finished = len(list(iter_records(place)))
        kept = [each for each in kept_cells(place) if each.suffix == ".npz"]
        assert finished
        (tmp_path / "fits").unlink()
        probe(TASK, BACKBONE, workspace=place, **again)
        assert fits(tmp_path) == total - 5 * finished - len(kept)
        assert predictions(place) == predictions(undisturbed)
        assert numbers(place) == numbers(undisturbed)
        assert not list(place.results.rglob("cells"))

    def test_two_calls_at_once_end_in_the_same_records(
        self, three_centers: Workspace, tmp_path: Path, modules: Path
    ) -> None:
        alone, place = (copy_of(three_centers, tmp_path / each) for each in ("alone", "together"))
        probe(TASK, BACKBONE, workspace=alone, probe="own_probes.Slow", permutations=0)
        calls = [start(place, modules, "--workers", str(each), worth=0.0, pause=0.03) for each in (1, 2)]
        answers = []
        for process in calls:
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr
            answers.append([{**row, "record": ""} for row in json.loads(stdout)["results"]])
        assert answers[0] == answers[1]
        assert predictions(place) == predictions(alone)
        assert numbers(place) == numbers(alone)
        for folder, _ in iter_records(place):
            assert read_record(folder).status == "complete"
        assert not list(place.results.rglob("cells"))


@pytest.mark.slow
@pytest.mark.usefixtures("processes_pay")
def test_every_probe_in_one_call_is_the_same_again(three_centers: Workspace, tmp_path: Path) -> None:
    both = []
    for workers in (1, 2):
        place = copy_of(three_centers, tmp_path / str(workers))
        given: dict[str, Any] = {"probe": "all", "split": "hold-out", "permutations": 9, "workers": workers}
        rows = probe("PHA_icu", BACKBONE, workspace=place, control=False, **given).results
        assert [row.probe for row in rows] == expand(["all"])
        assert all(-1 <= row.mcc_mean <= 1 and row.p_value >= 0.1 for row in rows)
        both.append((predictions(place), numbers(place)))
    for one, other in zip(*both, strict=True):
        assert [path for path in one if one[path] != other[path]] == []
