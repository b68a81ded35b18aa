"""Running the command line: within this process where that is enough, as a process of its own where it is not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from typer.testing import CliRunner

from cli.main import app
from stores.verify import Fault, verify

BACKBONE = "resnet18@random:0"
"""Needs no download."""

PATIENTS = 16
"""Of the small phantom, each with one picture."""

SCRIPT = "from cli.main import main; main()"


class Done(NamedTuple):
    """What a command left."""

    code: int
    stdout: str
    stderr: str
    exception: BaseException | None = None

    @property
    def answer(self) -> dict[str, Any]:
        """The one object on stdout, after checking that it is alone there."""
        assert self.code == 0, self.stderr or self.exception
        assert self.stdout.count("\n") == 1, f"expected one line on stdout, got {self.stdout!r}"
        assert self.stdout.endswith("\n")
        value: dict[str, Any] = json.loads(self.stdout, parse_constant=self.no_constant)
        return value

    @property
    def error(self) -> str:
        """The one sentence of a refusal, after checking that it is all that was said of it."""
        assert self.code == 2, (self.code, self.stderr, self.exception)
        assert self.stdout == ""
        assert "Traceback" not in self.stderr
        lines = self.stderr.splitlines()
        assert [line.startswith("error: ") for line in lines].count(True) == 1
        assert lines[-1].startswith("error: "), "nothing follows it"
        return lines[-1].removeprefix("error: ")

    @staticmethod
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")


def invoke(*words: str, env: dict[str, str] | None = None) -> Done:
    """Run within this process."""
    result = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", **(env or {})}).invoke(app, list(words))
    exception = None if isinstance(result.exception, SystemExit) else result.exception
    return Done(result.exit_code, result.stdout, result.stderr, exception)


def start(*words: str, program: str = SCRIPT, **env: str) -> "subprocess.Popen[str]":
    """Start a process of its own."""

    def listen() -> None:
        # Whoever runs the tests in the background of a shell has SIGINT ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1", **env},
        preexec_fn=listen,  # noqa: PLW1509 - no threads are started here
    )


def run(*words: str, program: str = SCRIPT, **env: str) -> Done:
    """Run as a process of its own and wait."""
    with start(*words, program=program, **env) as process:
        stdout, stderr = process.communicate(timeout=120)
        return Done(process.returncode, stdout, stderr)


def rows_of(done: Done) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = done.answer["results"]
    return rows


def faults(store: Path) -> list[Fault]:
    """What is wrong with a store when every byte of it is read."""
    return [fault for verdict in verify(store, deep=True) for fault in verdict.faults]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
