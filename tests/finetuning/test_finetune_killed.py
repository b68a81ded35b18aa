"""A fine-tuning that is stopped or killed, at any moment, and started again ends with the bytes of one that was not."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from finetune_killer import SETS
from forking import Forked, fork
from verb_kit import CNN, TASK, VIT_NAME, WORDS, copied, lasting, records_in, row_of_call

from peftbench.protocol.workspace import Workspace
from stores.lock import writer_lock

pytestmark = pytest.mark.slow

IMPORTED = ("peftbench.finetuning.finetune", "vit_kit")

MESSAGE = "interrupted: what was finished is kept; run the same command again to go on"

HERE = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import finetune_killer
"""

KILLER = f"{HERE}\nfinetune_killer.main(*sys.argv[1:])\n"

COMMAND = f"""{HERE}
finetune_killer.prepare_process()
from cli.main import main
main()
"""
"""The command line with tiny backbones, keeping a state at every step."""

SLOWLY = f"""{HERE}
finetune_killer.prepare_process()
from peftbench.finetuning import trainer
original = trainer.Trainer._step
def slowly(self, *words):
    time.sleep(0.05)
    original(self, *words)
trainer.Trainer._step = slowly
from cli.main import main
main()
"""
"""The same, but a step takes its time."""

SELDOM = SLOWLY.replace("finetune_killer.prepare_process()", "import torch\ntorch.set_num_threads(1)\n"
                        "from verb_kit import CARDS_OF_TESTS\nfrom peftbench.backbones.registry import CARDS\n"
                        "CARDS.update((card.name, card) for card in CARDS_OF_TESTS)")  # fmt: skip
"""The same with states as far apart as they are for a user: that of the stop is the only one."""


def started(program: str, place: Workspace, *more: str, backbone: str = CNN, strategy: str = "fft") -> Forked:
    words = ("--backbone", backbone, "--strategy", strategy, "--workspace", str(place.root), "--json")
    sets = [word for each in SETS for word in ("--set", each)]
    given = [*WORDS, "--split", "3-fold", *sets, *more]
    return fork(program, "finetune", TASK, *words, *given, imported=IMPORTED, OMP_NUM_THREADS="1")


def finished(process: Forked) -> Path:
    """The folder of its one record, after checking that it ended well."""
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    (row,) = json.loads(stdout)["results"]
    return Path(row["record"])


def wait_for(process: Forked, beginning: str) -> list[str]:
    """Read stderr until a line begins so."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(beginning):
            return seen
    raise AssertionError(f"no line begins with {beginning!r}: {''.join(seen)}")


def kept(place: Workspace) -> set[str]:
    return {path.name for path in place.results.rglob("cells/*")}


@pytest.fixture(scope="module")
def undisturbed(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, bytes]]:
    """What a training of a backbone by a strategy leaves that nobody disturbs, made once."""
    made: dict[tuple[str, str], dict[str, bytes]] = {}

    def of(backbone: str = CNN, strategy: str = "fft") -> dict[str, bytes]:
        if (backbone, strategy) not in made:
            place = copied(prepared, tmp_path_factory.mktemp("undisturbed") / "workspace")
            row = row_of_call(place, backbone, strategy, split="3-fold", set_=SETS)
            made[backbone, strategy] = lasting(row.record)
        return made[backbone, strategy]

    return of


class TestStopped:
    @pytest.mark.parametrize(
        ("number", "code"),
        [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)],
        ids=["SIGTERM", "SIGUSR1", "SIGINT"],
    )
    def test_by_a_signal_it_keeps_its_state_and_goes_on_from_there(
        self, place: Workspace, undisturbed: Callable[..., dict[str, bytes]], number: signal.Signals, code: int
    ) -> None:
        with started(SELDOM, place) as process:
            wait_for(process, f"training {CNN} with FFT, fold 1")
            time.sleep(0.2)
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=30)
        assert process.returncode == code, stderr
        assert stdout == ""
        assert stderr.splitlines()[-1] == MESSAGE
        assert "Traceback" not in stderr
        assert kept(place) == {"fold-0.npz", "fold-1.state"}
        assert records_in(place) == []
        with started(COMMAND, place) as process:
            said = wait_for(process, f"training {CNN} with FFT, fold 1")
            assert not any("fold 0" in line for line in said), "a finished fold is not trained again"
            folder = finished(process)
        assert lasting(folder) == undisturbed()
        assert kept(place) == set()
        assert not (folder / "cells").exists()

    def test_time_and_again_it_comes_to_the_same_end(
        self, place: Workspace, undisturbed: Callable[..., dict[str, bytes]]
    ) -> None:
        """A queue that takes the machine away every half second."""
        for _ in range(40):
            with started(SELDOM, place) as process:
                while process.poll() is None and not any(place.results.rglob("record.json")):
                    if "training" in process.stderr.readline():
                        time.sleep(0.5)
                        process.send_signal(signal.SIGUSR1)
                        break
                process.communicate(timeout=30)
            if process.returncode == 0:
                break
            assert process.returncode == 75
        else:
            pytest.fail("it never came to an end")
        (folder,) = records_in(place)
        assert lasting(folder) == undisturbed()

    def test_a_second_signal_stops_it_at_once(self, place: Workspace) -> None:
        with started(SLOWLY.replace("0.05", "5"), place) as process:
            wait_for(process, "training")
            time.sleep(0.3)
            start = time.monotonic()
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        assert process.returncode == 75
        assert time.monotonic() - start < 4

    def test_while_it_waits_for_another_it_can_be_stopped_too(self, place: Workspace) -> None:
        with started(COMMAND, place) as process:
            folder = finished(process)
        (folder / "record.json").unlink()
        with writer_lock(folder), started(COMMAND, place) as process:
            said = wait_for(process, "note: the store")
            assert "is being written by process" in said[-1]
            process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=20)
        assert process.returncode == 75
        assert stdout == ""
        assert stderr.splitlines() == [MESSAGE]


class TestTogether:
    def test_two_calls_at_once_train_once_and_answer_alike(
        self, place: Workspace, undisturbed: Callable[..., dict[str, bytes]]
    ) -> None:
        with started(SLOWLY, place) as first:
            wait_for(first, "training")
            with started(SLOWLY, place) as second:
                said = wait_for(second, "note: the store")
                assert "is being written by process" in said[-1]
                mine, yours = finished(first), finished(second)
        assert mine == yours
        assert lasting(mine) == undisturbed()
        assert not (mine / "cells").exists()

    def test_who_waits_for_one_that_is_killed_takes_over_what_it_had(
        self, place: Workspace, undisturbed: Callable[..., dict[str, bytes]]
    ) -> None:
        with started(SLOWLY, place) as first:
            wait_for(first, f"training {CNN} with FFT, fold 1")
            with started(COMMAND, place) as second:
                wait_for(second, "note: the store")
                first.kill()
                said = wait_for(second, "training")
                assert any("took over the store" in line for line in said)
                assert "fold 1" in said[-1]
                folder = finished(second)
        assert lasting(folder) == undisturbed()


class TestKilled:
    @pytest.mark.parametrize(
        ("backbone", "strategy", "most"), [(CNN, "fft", 16), (VIT_NAME, "lora", 14), (CNN, "lp", 16)]
    )
    def test_at_random_moments_it_comes_to_the_same_end(
        self,
        place: Workspace,
        undisturbed: Callable[..., dict[str, bytes]],
        backbone: str,
        strategy: str,
        most: int,
    ) -> None:
        rounds = 4
        words = (str(place.root), backbone, strategy, str(rounds), str(most), "2026")
        with fork(KILLER, *words, imported=IMPORTED, OMP_NUM_THREADS="1") as process:
            stdout, stderr = process.communicate(timeout=240)
        assert process.returncode == 0, stderr
        outcome = json.loads(stdout)
        assert set(outcome["codes"]) <= {-9, 0}
        assert outcome["codes"].count(-9) >= rounds // 2, stderr
        assert outcome["faults"] == []
        assert outcome["last"] == [0], stderr
        assert len({tuple(each) for each in outcome["kept"]}) >= 2, "rounds went on where others stood"
        (folder,) = records_in(place)
        assert lasting(folder) == undisturbed(backbone, strategy)
        assert not (folder / "cells").exists()

    @pytest.mark.parametrize("name", ["fold-1.safetensors", "fold-1.state", "record.json"])
    def test_in_the_midst_of_a_write_nothing_of_the_half_is_left_in_the_end(
        self, place: Workspace, undisturbed: Callable[..., dict[str, bytes]], name: str
    ) -> None:
        """It dies with the bytes written and the name not yet given."""
        dying = COMMAND.replace(
            "from cli.main",
            "from pathlib import Path\n"
            "rename = Path.replace\n"
            "def dying(self, target):\n"
            f"    if Path(target).name == {name!r}:\n"
            "        os.kill(os.getpid(), 9)\n"
            "    return rename(self, target)\n"
            "Path.replace = dying\n"
            "from cli.main",
        )
        with started(dying, place) as process:
            process.communicate(timeout=60)
        assert process.returncode == -9
        assert [path for path in place.results.rglob("*.part") if name in path.name] != []
        assert records_in(place) == []
        with started(COMMAND, place) as process:
            folder = finished(process)
        assert lasting(folder) == undisturbed()
        assert list(folder.rglob("*.part")) == []

    def test_behind_its_last_write_it_leaves_nothing_that_a_next_call_does_not_clear(
        self, place: Workspace, undisturbed: Callable[..., dict[str, bytes]]
    ) -> None:
        dying = COMMAND.replace(
            "from cli.main",
            "from peftbench.finetuning import runs\n"
            "runs.forget = lambda folder: os.kill(os.getpid(), 9)\n"
            "from cli.main",
        )
        with started(dying, place) as process:
            process.communicate(timeout=60)
        assert process.returncode == -9
        (folder,) = records_in(place)
        with started(COMMAND, place) as process:
            finished(process)
        assert lasting(folder) == undisturbed()
        assert not (folder / "cells").exists()


def test_a_process_of_its_own_says_the_object_alone(place: Workspace) -> None:
    """A real start: no kit, a backbone that needs no download, and stdout with one line."""
    words = ["finetune", TASK, "--backbone", "efficientnet-lite0@random:0", "--strategy", "lp", *WORDS]
    words += ["--set", "epochs=1", "--set", "augmentation=none", "--workspace", str(place.root), "--json"]
    done = subprocess.run(
        [os.sys.executable, "-m", "cli", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["results"][0]["strategy"] == "LP"
    assert "\x1b" not in done.stdout + done.stderr
