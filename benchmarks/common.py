"""What every benchmark shares: a cohort to measure on, and how figures are printed."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# One of these scripts is called as the library `stores` is: their folder must not be where imports look for it.
sys.path[:] = [each for each in sys.path if Path(each).resolve() != Path(__file__).resolve().parent]

from peftbench.protocol.provenance import provenance

HANNOVER = Path(__file__).resolve().parents[2] / "shared" / "data" / "hannover"


@dataclass(frozen=True)
class Figure:
    """One measured ratio.

    Attributes:
        what: is measured.
        value: in `unit`.
        reference: what it is compared with, in the same unit.
        unit: of both.
        ratio: of value to reference, the median over interleaved rounds.
        aim: the ratio wanted at least, or at most where `at_most` is set.
    """

    what: str
    value: float
    reference: float
    unit: str
    ratio: float
    aim: float | None = None
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """Whether the aim is met."""
        if self.aim is None:
            return ""
        met = self.ratio <= self.aim if self.at_most else self.ratio >= self.aim
        return "met" if met else "missed"


def arguments(description: str, more: Callable[[argparse.ArgumentParser], None] = lambda _: None) -> argparse.Namespace:
    """The options of a benchmark, and more of its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    more(parser)
    parser.add_argument("--json", action="store_true", help="end with one JSON object of the figures")
    parser.add_argument("--raw", type=Path, default=None, help="a Hannover download; by default the phantom")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are shown")
    return parser.parse_args()


def show(title: str, figures: Sequence[Figure], *, as_json: bool, reference: str) -> None:
    """Print the figures as a Markdown table, and as JSON if wished."""
    print(f"## {title}\n")
    print(f"| what | measured | {reference} | ratio | aim | |")
    print("|---|---:|---:|---:|---:|---|")
    for each in figures:
        sign = "<=" if each.at_most else ">="
        aim = "" if each.aim is None else f"{sign} {each.aim:g}"
        print(
            f"| {each.what} | {each.value:.3g} {each.unit} | {each.reference:.3g} {each.unit} "
            f"| {each.ratio:.2f} | {aim} | {each.verdict} |"
        )
    if as_json:
        rows = [{**asdict(each), "verdict": each.verdict} for each in figures]
        print(json.dumps({"benchmark": title, "figures": rows, "provenance": provenance()}))


def interleaved(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Run the measures by turns, so that a slow minute of the machine meets them all; answers each one's values."""
    values: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for measure, found in zip(measures, values, strict=True):
            found.append(measure())
    return values


def median_ratio(values: Sequence[float], references: Sequence[float]) -> float:
    """Median over the rounds of value by reference."""
    return statistics.median(value / reference for value, reference in zip(values, references, strict=True))
