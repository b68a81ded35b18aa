"""Importing scikit-learn costs more than probing, so the families that do without it do not import it."""

import subprocess
import sys


def test_families_import_nothing_heavy() -> None:
    names = ("ridge", "knn", "centroid", "scaling", "slope", "classical", "custom", "wrapping")
    modules = ", ".join(f"peftbench.probing.families.{name}" for name in names)
    program = f"import sys; sys.modules.update(dict.fromkeys(['sklearn', 'xgboost', 'torch'])); import {modules}"
    subprocess.run([sys.executable, "-c", program], check=True)
