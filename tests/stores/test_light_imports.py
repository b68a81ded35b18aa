"""Whoever only reads stores, probes and analyses installs no GPU stack."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stores_kit import DIM, filled

import stores

HEAVY = ("torch", "torchvision", "timm", "transformers", "peft", "open_clip")

PROGRAM = """
import importlib, json, pkgutil, sys
names = []
for room in sys.argv[1].split(","):
    names.append(room)
    module = importlib.import_module(room)
    names += [found.name for found in pkgutil.walk_packages(module.__path__, room + ".")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted(sys.modules)]))
"""


def imported_by(rooms: str) -> tuple[list[str], set[str]]:
    """Modules of the rooms, and all that is imported with them in a fresh interpreter."""
    command = [sys.executable, "-c", PROGRAM, rooms]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    names, loaded = json.loads(done.stdout)
    return names, set(loaded)


@pytest.mark.slow
@pytest.mark.parametrize("room", ["stores", "peftbench.protocol", "peftbench.probing", "peftbench.analysis"])
def test_a_room_imports_no_model_library(room: str) -> None:
    names, loaded = imported_by(room)
    assert len(names) > 2, "the room's modules are imported one by one"
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.slow
def test_the_stores_know_nothing_of_the_benchmark() -> None:
    _, loaded = imported_by("stores")
    assert not {name for name in loaded if name.split(".")[0] in {"peftbench", "cli", "pandas", "sklearn"}}


@pytest.mark.parametrize("name", stores.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(stores, name).__name__ == name


OUTSIDE = """
import json, sys
from stores import open_features
store = open_features(sys.argv[1])
X, ids = store.load()
rows = store.load_mapped().matrix[3:5]
print(json.dumps([X.shape, len(ids), rows.shape, sorted(sys.modules)]))
"""


def test_an_outside_analysis_reads_features_with_numpy_alone(tmp_path: Path) -> None:
    folder = filled(tmp_path / "features", 10).folder
    command = [sys.executable, "-c", OUTSIDE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    *found, loaded = json.loads(done.stdout)
    assert found == [[10, DIM], 10, [2, DIM]]
    packages = {name.split(".")[0] for name in loaded}
    assert packages.isdisjoint({"zarr", "h5py", "pyarrow", "obstore", "pandas", "peftbench", "cli", *HEAVY})


def test_importing_the_library_does_not_wait_for_zarr() -> None:
    program = "import stores, peftbench, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert set(json.loads(done.stdout)).isdisjoint({"zarr", "numpy", "pandas", *HEAVY})
