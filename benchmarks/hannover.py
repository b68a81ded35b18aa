"""The Hannover tables of docs/hannover.md: every probe and every regime, beside its controls.

    python benchmarks/hannover.py --raw DIR [--workspace DIR] [--draws N]

A workspace that is named keeps its records, so that a second run reads them.
"""

import argparse
import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from common import HANNOVER

import peftbench
from peftbench.probing.registry import expand
from peftbench.protocol.results import ProbeRow

BACKBONES = ("efficientnet-lite0", "resnet18@random:0")

TASKS = ("HAN_icu", "HAN_icu_prospective", "HAN_icu_all", "HAN_m_all")

CONTROLS = ("control:view", "control:images", "control:metadata")

OWN = ("logistic", "ridge", "knn", "centroid")

NAMES = {
    "efficientnet-lite0": "lite0",
    "resnet18@random:0": "resnet18, random",
    "efficientnet-lite0 + clinical": "lite0 + clinical",
    "resnet18@random:0 + clinical": "resnet18, random + clinical",
    "control:view": "*view*",
    "control:images": "*images*",
    "control:metadata": "*metadata*",
    "control:clinical": "*clinical*",
}


def number(value: float) -> str:
    """Two decimals; a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def spread(row: ProbeRow) -> str:
    """Mean and deviation of the MCC."""
    return f"{number(row.mcc_mean)} ± {number(row.mcc_std)}"


def drawn(row: ProbeRow) -> str:
    """Mean of the MCC, and its range over draws."""
    return f"{number(row.mcc_mean)} ({number(row.mcc_q05)} to {number(row.mcc_q95)})"


def table(head: str, columns: Sequence[str], rows: Iterable[tuple[str, dict[str, str]]]) -> None:
    """Print a Markdown table: a name, then a cell for each column."""
    print(f"| {head} | " + " | ".join(NAMES.get(each, each) for each in columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for name, cells in rows:
        print(f"| {name} | " + " | ".join(cells.get(column, "-") for column in columns) + " |")
    print()


def full(task: str, place: str) -> None:
    """Every probe on the whole training part."""
    probes = expand(["all"])
    found = peftbench.probe(task, BACKBONES, probe=probes, workspace=place).results
    rows = [(name, {row.backbone: spread(row) for row in found if row.probe == name}) for name in probes]
    print(f"### {task}\n")
    table("probe", (*BACKBONES, *CONTROLS), rows)


def few(task: str, regime: str, place: str, draws: int) -> None:
    """The benchmark's own probes on support sets."""
    found = peftbench.probe(task, BACKBONES, probe=OWN, regime=regime, draws=draws, workspace=place).results
    print(f"### {task}, {regime}, {draws} draws\n")
    sizes = sorted({row.shots for row in found if row.shots is not None})
    rows = [
        (
            f"{probe}, {size}",
            {row.backbone: drawn(row) for row in found if row.probe == probe and row.shots == size},
        )
        for probe in OWN
        for size in sizes
    ]
    table("probe, images a class", (*BACKBONES, *CONTROLS), rows)


def reduced(task: str, images: int, place: str, draws: int) -> None:
    """The benchmark's own probes on fewer images than there are."""
    found = peftbench.probe(
        task, BACKBONES, probe=OWN, regime="reduced", shots=images, draws=draws, workspace=place
    ).results
    print(f"### {task}, reduced to {images} images, {draws} draws\n")
    rows = [(probe, {row.backbone: drawn(row) for row in found if row.probe == probe}) for probe in OWN]
    table("probe", (*BACKBONES, *CONTROLS), rows)


def clinical(place: str) -> None:
    """Clinical variables alone, features alone, and both."""
    found = peftbench.probe(TASKS, BACKBONES, with_="clinical", workspace=place).results
    columns = ("control:clinical", *(name for each in BACKBONES for name in (each, f"{each} + clinical")))
    rows = [(task, {row.backbone: spread(row) for row in found if row.task == task}) for task in TASKS]
    print("### With clinical variables, logistic\n")
    table("task", columns, rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, default=HANNOVER, help="a Hannover download")
    parser.add_argument("--workspace", default=None, help="keeps the records; by default a temporary folder")
    parser.add_argument("--draws", type=int, default=100)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = chosen.workspace or folder
        peftbench.prepare("hannover", chosen.raw, workspace=place)
        peftbench.extract("hannover", BACKBONES, workspace=place)
        print("## The whole training part\n")
        for task in TASKS:
            full(task, place)
        print("## Support sets\n")
        for task in ("HAN_icu", "HAN_icu_all"):
            few(task, "few-shot", place, chosen.draws)
        reduced("HAN_icu_all", 64, place, chosen.draws)
        print("## Clinical variables\n")
        clinical(place)


if __name__ == "__main__":
    main()
