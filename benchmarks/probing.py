"""Time of `peftbench probe` on stored features, from process start to the printed answer.

    python benchmarks/probing.py [--raw DIR] [--json] [--rounds N]

One reference is a limit of three seconds; the other the time that Python needs to start and to import what any such
analysis imports: numpy, pandas and scikit-learn's logistic regression. Features are made once before; records are made
anew in every round.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from common import Figure, arguments, interleaved, median_ratio, show

import peftbench

BACKBONES = ("efficientnet-lite0", "resnet18@random:0")
LIMIT_SECONDS = 3.0
TASKS = {
    "hannover": ("HAN_icu", "HAN_icu_prospective", "HAN_icu_all", "HAN_m_all"),
    "phantom": ("PHA_icu", "PHA_icu_all"),
}


def seconds(command: Sequence[str]) -> float:
    """Wall time of a process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    return time.perf_counter() - start


def measure(name: str, command: Sequence[str], rounds: int) -> list[Figure]:
    """One call of `probe`, against the limit and against the imports."""
    imports = [sys.executable, "-c", "import numpy, pandas, sklearn.linear_model"]
    seconds(command)
    seconds(imports)
    ours, theirs = interleaved(rounds, lambda: seconds(command), lambda: seconds(imports))
    taken = statistics.median(ours)
    return [
        Figure(f"{name}, against the limit", taken, LIMIT_SECONDS, "s", taken / LIMIT_SECONDS, 1.0, at_most=True),
        Figure(f"{name}, against the imports", taken, statistics.median(theirs), "s", median_ratio(ours, theirs)),
    ]


def main() -> None:
    """Measure and print."""
    chosen = arguments(__doc__ or "")
    cohort = "hannover" if chosen.raw else "phantom"
    with tempfile.TemporaryDirectory() as folder:
        peftbench.prepare(cohort, chosen.raw, workspace=folder)
        peftbench.extract(cohort, BACKBONES, workspace=folder)
        options = ["--force", "--workspace", folder, *(f"--backbone={name}" for name in BACKBONES)]
        figures = []
        for tasks in (TASKS[cohort][:1], TASKS[cohort]):
            command = [sys.executable, "-m", "cli", "probe", *tasks, *options]
            figures += measure(f"2 backbones and the control on {len(tasks)} of the tasks", command, chosen.rounds)
    show(f"`peftbench probe` from process start, {cohort}", figures, as_json=chosen.json, reference="reference")


if __name__ == "__main__":
    main()
