"""Tables on terminals of any width: nothing is lost, and nothing is broken within a word."""

import re

import pytest
from rich.console import Console

from cli.console import Table

COLUMNS = ["task", "backbone", "strategy", ">MCC", ">PR-AUC", ">gain over the strongest control", ">learns"]

ROWS = [
    [
        "PHA_icu",
        "efficientnet-lite0",
        "LoRA r4",
        "0.65 ± 0.28",
        "0.91 ± 0.02",
        "-0.25 (-1.31 to 0.80), images",
        "7 (1 %)",
    ],
    [
        "PHA_icu",
        "efficientnet-lite0",
        "FFT",
        "0.55 ± 0.18",
        "0.88 ± 0.03",
        "-0.35 (-1.11 to 0.40), images",
        "3,373,570",
    ],
]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Shown":
    monkeypatch.setattr(Console, "is_terminal", True)
    return Shown(capsys, monkeypatch)


class Shown:
    """What a terminal shows of a table."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, columns: list[str], rows: list[list[str]], width: int, whole: tuple[str, ...] = ()) -> list[str]:
        self.monkeypatch.setenv("COLUMNS", str(width))
        Table("", columns, rows, whole).show()
        lines = re.sub(r"\x1b\[[0-9;]*m", "", self.capsys.readouterr().out).splitlines()
        assert max(map(len, lines)) <= width
        return lines


@pytest.mark.parametrize("width", [200, 120, 100, 80])
def test_every_text_stands_whole_in_some_line_of_its_row(shown: Shown, width: int) -> None:
    lines = shown(COLUMNS, ROWS, width, ("backbone", ">MCC"))
    for row in ROWS:
        own = [line for line in lines if row[2] in line]
        assert all("PHA_icu" in line and "efficientnet-lite0" in line for line in own)
        for text in row:
            assert any(text in line for line in own)
    # A row is one line of each table.
    tables = sum("task" in line for line in lines)
    assert sum("PHA_icu" in line for line in lines) == tables * len(ROWS)
    assert (tables == 1) == (width >= 120)


def test_columns_stay_in_their_order_and_stand_once(shown: Shown) -> None:
    lines = shown(COLUMNS, ROWS, 80)
    told = " ".join(line for line in lines if "task" in line)
    places = [told.index(column.removeprefix(">")) for column in COLUMNS]
    assert places == sorted(places)
    assert all(told.count(column.removeprefix(">")) == 1 for column in COLUMNS[3:])


def test_one_that_says_what_a_row_is_in_most_of_the_width_is_broken_as_before(shown: Shown) -> None:
    lines = shown(["path", ">rows"], [["a" * 120, "12"]], 80)
    assert sum("rows" in line for line in lines) == 1
    assert sum("a" in line.replace("path", "") for line in lines) == 2
