"""Processes of their own that need not import anything first: forks of one that has imported all and run nothing.

`fork(program, *words)` is what `subprocess.Popen([sys.executable, "-c", program, *words])` is, seconds sooner: a real
process with a number, pipes and an exit code, that any signal reaches. For tests of what a process does while it runs,
and of what it leaves when it is killed. How a command starts, and a signal while it does, need a real start.
"""

import atexit
import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from functools import cache
from pathlib import Path
from typing import IO, Self

IMPORTED = ("torch", "torchvision", "cli.main", "peftbench.cohorts", "peftbench.extraction.extract")
IMPORTED += ("peftbench.weights", *(f"peftbench.backbones.{each}" for each in ("cnn", "conversion", "download")))


class Forked:
    """As much of `subprocess.Popen[str]` as tests ask for."""

    def __init__(self, stdout: IO[str], stderr: IO[str], fate: IO[str]) -> None:
        self.stdout, self.stderr, self._fate = stdout, stderr, fate
        self.returncode: int | None = None
        self.pid = int(fate.readline())
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def _watch(self) -> None:
        self.returncode = int(self._fate.readline())

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._watching.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        said: list[str] = []
        reading = threading.Thread(target=lambda: said.append(self.stdout.read()), daemon=True)
        reading.start()
        complaints = self.stderr.read()
        reading.join(timeout)
        self.wait(timeout)
        return said[0], complaints

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.stderr.close()
        self.wait(120)
        self._fate.close()


@cache
def _origin(*imported: str) -> socket.socket:
    """Start the process that others are forks of; it ends when this one does."""
    here, there = socket.socketpair()
    places = map(str, (Path(__file__).parent, Path(__file__).parents[1]))
    subprocess.Popen(
        [sys.executable, __file__, str(there.fileno()), *imported],
        pass_fds=[there.fileno()],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)},
        start_new_session=True,
    )
    there.close()
    atexit.register(here.close)
    return here


def fork(program: str, *words: str, imported: tuple[str, ...] = (), **env: str) -> Forked:
    """Run a program in a process of its own, in this one's folder and with its environment.

    Args:
        program: source, run as `__main__`.
        words: its `sys.argv[1:]`.
        imported: modules that it would wait for, besides those of extraction.
        env: what is added to the environment.
    """
    request = {"program": program, "words": words, "env": {**os.environ, **env}, "folder": str(Path.cwd())}
    pipes = [os.pipe() for _ in range(3)]
    content = json.dumps(request).encode()
    origin = _origin(*imported)
    socket.send_fds(origin, [len(content).to_bytes(8)], [written for _, written in pipes])
    origin.sendall(content)
    for _, written in pipes:
        os.close(written)
    return Forked(*(os.fdopen(read, encoding="utf-8") for read, _ in pipes))


def _serve(origin: socket.socket) -> None:
    # Guardians end by themselves.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        head, handles, _, _ = socket.recv_fds(origin, 8, 3)
        if not head:
            return
        size, content = int.from_bytes(head), b""
        while len(content) < size:
            content += origin.recv(size - len(content))
        if os.fork() == 0:
            origin.close()
            _guard(json.loads(content), *handles)
        for handle in handles:
            os.close(handle)


def _guard(request: dict[str, object], stdout: int, stderr: int, fate: int) -> None:
    """Fork the process itself and tell its number, then its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        os.close(fate)
        _run(request, stdout, stderr)
    os.close(stdout)
    os.close(stderr)
    os.write(fate, f"{child}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(fate, f"{code}\n".encode())
    os._exit(0)


def _run(request: dict[str, object], stdout: int, stderr: int) -> None:
    for handle, number in ((stdout, 1), (stderr, 2)):
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    os.chdir(str(request["folder"]))
    # Where temporary files lie is found out anew, in this environment.
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c", *request["words"]]  # type: ignore[misc]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    code = 0
    try:
        exec(compile(str(request["program"]), "<program>", "exec"), main.__dict__)  # noqa: S102 - the test's own
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - whatever it is, it is said as the interpreter would
        traceback.print_exc()
        code = 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for each in (*IMPORTED, *sys.argv[2:]):
        importlib.import_module(each)
    assert threading.active_count() == 1
    _serve(socket.socket(fileno=int(sys.argv[1])))
