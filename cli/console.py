"""What a verb says: progress and notes on stderr, the answer on stdout, an error as one sentence."""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

USER_ERROR = 2

PREEMPTED = 75
"""Exit code of a job that was told to stop and can go on: EX_TEMPFAIL of sysexits.h, "try again"."""

STATUS_SECONDS = 10.0
"""Between two lines on where a job stands, in a log."""

KEYS_SHARE = 0.85
"""Of a terminal's width that the columns which say what a row is may take, if others are to stand beside them."""

_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Signals:
    """Ctrl-C and SIGTERM, kept until a moment at which stopping loses nothing.

    Raised wherever they arrive they would hit C extensions in the middle of their import, which turn them into crashes,
    or a file between two writes. So the first one is only noted; progress raises it between two pieces of work. The
    second one stops at once, which the stores survive as they survive kill -9.

    Attributes:
        received: the first one, if there was one.
        preempted: see `reported`.
        last_command: whether the process ends with this command: then signals are noted to its very end, for who has
            finished is not to be told by its exit code that it was killed.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.preempted: int | None = None
        self.last_command = False

    def note(self, number: int, _frame: object) -> None:
        """The handler."""
        if self.received is not None:
            self._write("\x1b[?25h\nstopped at once: what was committed is kept\n")
            os._exit(self.exit_code)
        self.received = signal.Signals(number)
        self._write("\nstopping at the next safe moment; once more to stop at once\n")

    @staticmethod
    def _write(text: str) -> None:
        # Not through Python's buffers: the interrupted code may be in the middle of using them.
        if os.isatty(2):
            os.write(2, text.encode())

    def check(self) -> None:
        """Raise what was received, here and now."""
        if self.received is not None:
            raise KeyboardInterrupt

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as a shell would say it; of a preempted job what it was told to say."""
        if self.preempted is not None and self.received in (signal.SIGTERM, signal.SIGUSR1):
            return self.preempted
        return 128 + int(self.received or signal.SIGINT)


SIGNALS = Signals()


_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def reported(*, debug: bool, preempted: int | None = None) -> Iterator[None]:
    """Turn whatever goes wrong in the block into one message on stderr and an exit code; no traceback.

    2 for everything the user can mend, 130 for Ctrl-C, 143 for SIGTERM.

    Args:
        debug: show the traceback as well.
        preempted: exit code on SIGTERM, and on SIGUSR1, which clusters send ahead of it; None for those of a shell.
    """
    SIGNALS.received, SIGNALS.preempted = None, preempted
    watched = _STOPS if preempted is None else (*_STOPS, signal.SIGUSR1)
    previous = {each: signal.signal(each, SIGNALS.note) for each in watched}
    try:
        yield
    except KeyboardInterrupt as stop:
        _interrupted(stop, debug=debug)
    except Exception as error:
        # Processes that draw or compute for this one got the same signal; what they say of it is not news.
        if SIGNALS.received is not None:
            _interrupted(error, debug=debug)
        message = sentence(error)
        if debug or not message:
            raise
        say(f"error: {message}")
        raise typer.Exit(USER_ERROR) from error
    finally:
        if not SIGNALS.last_command:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _interrupted(cause: BaseException, *, debug: bool) -> NoReturn:
    if debug:
        raise cause
    say("interrupted: what was finished is kept; run the same command again to go on")
    raise typer.Exit(SIGNALS.exit_code) from cause


def sentence(error: Exception) -> str:
    """The message for an error that the user can mend; empty for one that is a defect of the program."""
    from peftbench.errors import PeftbenchError
    from stores.errors import StoreError

    if isinstance(error, PeftbenchError | StoreError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _OUT_OF_SPACE:
        where = f" at {error.filename}" if error.filename else ""
        return (
            f"no space left{where} ({error.strerror}): what was committed is kept; free some space "
            "or name another --workspace, then run the same command again"
        )
    if isinstance(error, PermissionError):
        return f"no permission for {error.filename}: change its rights, or name another --workspace"
    if isinstance(error, OSError) and error.errno is not None:
        where = f" {error.filename}" if error.filename else ""
        return f"the system refuses{where} ({error.strerror}): mend that, or name another --workspace, and run again"
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return (
            "out of memory: what was committed is kept; run again with fewer images at a time (--batch-size of "
            "extract, --set micro_batch=... of finetune)"
        )
    return ""


def answer(value: Mapping[str, Any], *, as_json: bool, table: "Table | None" = None) -> None:
    """Print a verb's answer: one line of JSON, or a table."""
    if as_json:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()
    elif table is not None:
        table.show()


def say(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def number(value: float | None, digits: int = 2) -> str:
    """A number for people; a dash where there is none."""
    return "-" if value is None or value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - NaN


def spread(mean: float, std: float) -> str:
    """Mean and standard deviation for people."""
    return number(mean) if std != std else f"{number(mean)} ± {number(std)}"  # noqa: PLR0124 - NaN


class Table:
    """A table on stdout; columns whose name starts with > are right-aligned.

    Args:
        title: above it.
        columns: their names.
        rows: a text for each column.
        whole: names of columns that are never broken, because a user copies what stands in them.
    """

    def __init__(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], whole: Sequence[str] = ()
    ) -> None:
        self.whole = whole
        self.title = title
        self.columns = columns
        self.rows = rows

    def show(self) -> None:
        """Print it; on a narrow terminal as several tables of some columns each, that all begin with the same ones."""
        from rich.console import Console

        console = Console(markup=False)
        if not console.is_terminal:
            # A pipe has no width; a table that is cut there is of no use to anybody.
            console = Console(markup=False, width=200)
        if self.title:
            console.print(self.title, style="bold", highlight=False)
        if self.rows:
            for numbers in self._parts(console):
                console.print(self._of(numbers))

    def _parts(self, console: "Console") -> list[list[int]]:
        """Numbers of columns that are printed together."""
        every = list(range(len(self.columns)))
        first = next((number for number in every if self.columns[number].startswith(">")), len(every))
        parts = [every[:first]]
        if self._width(every, console) <= console.width or self._width(parts[0], console) > KEYS_SHARE * console.width:
            return [every]
        for number in every[first:]:
            if len(parts[-1]) > first and self._width([*parts[-1], number], console) > console.width:
                parts.append(every[:first])
            parts[-1].append(number)
        return parts

    def _width(self, numbers: Sequence[int], console: "Console") -> int:
        """Letters a line of a table in which nothing is broken."""
        from rich.measure import Measurement

        return Measurement.get(console, console.options.update(width=10_000), self._of(numbers)).maximum

    def _of(self, numbers: Sequence[int]) -> "RichTable":
        """A table of some of the columns."""
        from rich import box
        from rich.table import Table as RichTable

        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in (self.columns[number] for number in numbers):
            justify: Literal["right", "left"] = "right" if column.startswith(">") else "left"
            # What does not fit goes on in the next line: what is cut off could not be read or copied.
            whole = column in self.whole
            table.add_column(column.removeprefix(">"), justify=justify, overflow="fold", no_wrap=whole)
        for row in self.rows:
            table.add_row(*(row[number] for number in numbers))
        return table


class TerminalProgress:
    """Bars on stderr with counts and the time left; where stderr is no terminal, a line a job."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, markup=False)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._job: Any = None
        self._said = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, label: str, total: int) -> None:
        """A job of `total` items begins."""
        SIGNALS.check()
        self._job = self._bars.add_task(label, total=total, rate="", status="")
        self._said = 0.0
        if not self._console.is_terminal:
            say(f"{label}: {total}")

    def advance(self, count: int = 1) -> None:
        """So many more items of the job are done; a safe moment to stop at."""
        SIGNALS.check()
        if self._job is None:
            return
        self._bars.advance(self._job, count)
        speed = self._bars.tasks[self._job].speed
        self._bars.update(self._job, rate=f"{speed:.1f}/s" if speed else "")

    def status(self, message: str) -> None:
        """Where the job stands now: behind its bar; where stderr is no terminal, a line every few seconds."""
        if self._job is not None:
            self._bars.update(self._job, status=message)
        if not self._console.is_terminal and time.monotonic() - self._said > STATUS_SECONDS:
            self._said = time.monotonic()
            say(message)

    def note(self, message: str) -> None:
        """Something that the user should read."""
        if self._console.is_terminal:
            self._bars.console.print(f"note: {message}", soft_wrap=True)
        else:
            say(f"note: {message}")
