"""The examples do what they say, from a store and a manifest alone."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pytest
from export_kit import BACKBONE, Rows, fill, image, manifest, prepare, recipe
from PIL import Image

from peftbench.protocol.workspace import Workspace
from stores import open_features

pytestmark = pytest.mark.slow
"""Each is a process of its own, which imports what an analysis imports."""

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

PATIENTS = 30
UMAPPED = 20
"""Pictures: more than the neighbours that the example asks for."""

DIM = 16
TELLING = 3
"""The number of the embedding that tells of the event."""

PROGRAM = """
import json, runpy, sys
out, without, program, store, manifest, *asked = sys.argv[1:]
if without:
    sys.modules[without] = None
for words in json.loads(asked[0]):
    sys.argv = [program, store, manifest, *words]
    runpy.run_path(program, run_name="__main__")
with open(out, "w") as stream:
    json.dump(sorted(sys.modules), stream)
"""


class Made(NamedTuple):
    """A store and a manifest on disk, and what is in them."""

    store: str
    manifest: str
    features: Rows
    frame: pd.DataFrame


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two X-rays of each of some patients; one number of the embedding tells who goes to intensive care."""
    place = Workspace(tmp_path_factory.mktemp("examples") / "workspace")
    random = np.random.default_rng(0)
    event = np.repeat(np.arange(PATIENTS) % 3 == 0, 2)
    features = random.normal(size=(len(event), DIM)).astype(np.float32)
    features[:, TELLING] += 5 * event
    # The second X-ray of a patient looks like the first.
    features[1::2] = features[::2] + np.float32(0.01)
    order = random.permutation(len(event))
    store = fill(place, BACKBONE, recipe(["embedding"]), {"embedding": features[np.argsort(order)]})
    icu = np.where(event, "yes", "no").astype(object)
    icu[-2:] = "transferred"
    cohort = manifest([image(int(row)) for row in order], icu=icu)
    prepare(place, cohort)
    return Made(str(store.folder), str(place.manifest("phantom")), features, pd.read_parquet(place.manifest("phantom")))


def run(made: Made, folder: Path, name: str, *words: str, without: str = "") -> str:
    """Run an example as a process of its own; what it wrote on stdout."""
    return run_all(made, folder, name, [words], without)


def run_all(made: Made, folder: Path, name: str, asked: Sequence[Sequence[str]], without: str = "") -> str:
    """Run an example several times, one after the other in a process of its own; what it wrote on stdout.

    UMAP's loops are run by Python as they are written: of so few pictures that takes seconds, compiling them a minute.
    """
    loaded = folder / "modules.json"
    command = [sys.executable, "-c", PROGRAM, str(loaded), without]
    command += [str(EXAMPLES / name), made.store, made.manifest, json.dumps(asked)]
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env, timeout=240)
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(loaded.read_text()))
    assert modules.isdisjoint({"peftbench", "torch", "cli"})
    loaded.unlink()
    return done.stdout


def test_the_store_is_what_the_fixture_says(made: Made) -> None:
    found = open_features(made.store).view(made.manifest).load()
    np.testing.assert_array_equal(found.matrix, made.features)
    assert found.ids == made.frame["sample_id"].tolist()


class TestPipeline:
    def test_it_scores_what_the_embedding_tells(self, made: Made, tmp_path: Path) -> None:
        said = run(made, tmp_path, "sklearn_pipeline.py", "--label", "icu")
        assert said.startswith("58 images of 29 patients, prevalence 0.34\n")
        scores = dict(re.findall(r"^([A-Z-]+) +(\d\.\d\d) ± \d\.\d\d$", said, flags=re.MULTILINE))
        assert list(scores) == ["MCC", "PR-AUC", "ROC-AUC"]
        assert float(scores["ROC-AUC"]) > 0.9

    def test_and_finds_nothing_in_what_it_does_not(self, made: Made, tmp_path: Path) -> None:
        # Patients would be recognised from their other X-ray, were they in two folds.
        frame = made.frame.assign(icu=np.repeat(np.random.default_rng(3).permutation(["yes", "no"] * 15), 2))
        frame.to_parquet(tmp_path / "shuffled.parquet")
        said = run(
            made._replace(manifest=str(tmp_path / "shuffled.parquet")),
            tmp_path,
            "sklearn_pipeline.py",
            "--label",
            "icu",
        )
        assert abs(float(re.search(r"MCC +(-?\d\.\d\d)", said)[1])) < 0.5  # type: ignore[index]


class TestNeighbours:
    def test_the_other_x_ray_of_the_patient_is_nearest(self, made: Made, tmp_path: Path) -> None:
        sample = made.frame["sample_id"][10]
        said = run(made, tmp_path, "neighbours.py", sample, "--show", "view", "icu", "--count", "2")
        header, first, second, _ = said.splitlines()
        assert header.split() == ["sample_id", "patient_id", "view", "icu", "cosine"]
        assert (first.split()[0], first.split()[-1]) == (sample, "1.0000")
        assert second.split()[0] == made.frame["sample_id"][11]

    def test_the_others_are_ranked_by_cosine(self, made: Made, tmp_path: Path) -> None:
        said = run(made, tmp_path, "neighbours.py", "--other-patients", "--count", "4", "--show")
        rows = [line.split() for line in said.splitlines()[1:]]
        unit = made.features / np.linalg.norm(made.features, axis=1, keepdims=True)
        expected = pd.Series(unit @ unit[0], index=made.frame["sample_id"])[2:].nlargest(4)
        assert [row[0] for row in rows] == [made.frame["sample_id"][0], *expected.index]
        np.testing.assert_allclose([float(row[-1]) for row in rows[1:]], expected, atol=1e-4)

    def test_an_unknown_sample_is_named(self, made: Made, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match=r"s-none is not a sample of .*: one is s-000"):
            run(made, tmp_path, "neighbours.py", "s-none")


class TestSql:
    def test_it_counts_and_compares(self, made: Made, tmp_path: Path) -> None:
        said = run(made, tmp_path, "sql.py", "--label", "icu")
        by_label, by_patient, by_feature = said.strip().split("\n\n")
        assert [line.split() for line in by_label.splitlines()[2:]] == [
            ["no", "38", "19"],
            ["yes", "20", "10"],
            ["transferred", "2", "1"],
        ]
        assert by_patient.splitlines()[2].split()[:2] == ["p-000", "2"]
        # SQL counts from one.
        assert by_feature.splitlines()[2].split()[0] == str(TELLING + 1)

    def test_what_it_exports_is_the_cohort(self, made: Made, tmp_path: Path) -> None:
        run(made, tmp_path, "sql.py", "--label", "view", "--to", "it's.parquet")
        path = str(tmp_path / "it's.parquet")
        found = duckdb.execute("select id, embedding from read_parquet(?)", [path]).fetchall()
        assert [row[0] for row in found] == made.frame["sample_id"].tolist()
        np.testing.assert_array_equal(np.array([row[1] for row in found], dtype=np.float32), made.features)

    def test_an_export_that_is_there_is_asked_as_it_is(self, made: Made, tmp_path: Path) -> None:
        run(made, tmp_path, "sql.py", "--label", "icu")
        before = (tmp_path / "features.parquet").stat().st_mtime_ns
        run(made._replace(store="nowhere"), tmp_path, "sql.py", "--label", "icu")
        assert (tmp_path / "features.parquet").stat().st_mtime_ns == before


class TestPicture:
    @staticmethod
    def colours(path: Path) -> set[Any]:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 600
            return {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}

    def test_pca_alone(self, made: Made, tmp_path: Path) -> None:
        drawn = {"icu": 3, "view": 2, "age": 20, "patient_id": 8}
        asked = [("--label", label, "--to", f"{label}.png") for label in drawn]
        said = run_all(made, tmp_path, "picture.py", asked, without="umap")
        assert said.splitlines() == [f"wrote {label}.png: PCA by {label}" for label in drawn]
        for label, fewest in drawn.items():
            assert len(self.colours(tmp_path / f"{label}.png")) > fewest, label

    def test_pca_and_umap(self, made: Made, tmp_path: Path) -> None:
        pytest.importorskip("umap", reason="the extra `examples` is not installed")
        made.frame.head(UMAPPED).to_parquet(tmp_path / "few.parquet")
        few = made._replace(manifest=str(tmp_path / "few.parquet"))
        assert run(few, tmp_path, "picture.py") == "wrote picture.png: PCA and UMAP by view\n"
        with Image.open(tmp_path / "picture.png") as picture:
            assert picture.width > 2 * picture.height
        blue, orange = (0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)
        found = np.array([*self.colours(tmp_path / "picture.png")])
        for colour in (blue, orange):
            # Nine tenths of it over white.
            assert np.abs(found - (0.9 * np.array(colour) + 25.5)).max(axis=1).min() <= 1


def commands() -> list[str]:
    """The commands that the page on the examples shows."""
    lines = (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    return [line.strip().removeprefix("python examples/") for line in lines if line.startswith("    python ")]


def test_the_page_shows_every_example() -> None:
    assert [command.split()[0] for command in commands()] == [
        "sklearn_pipeline.py",
        "picture.py",
        "neighbours.py",
        "sql.py",
    ]
    assert {path.name for path in EXAMPLES.glob("*.py")} == {command.split()[0] for command in commands()}


@pytest.mark.parametrize(
    "command",
    [pytest.param(each, id=each.split()[0]) for each in commands()],
)
def test_what_the_page_shows_runs(made: Made, tmp_path: Path, command: str) -> None:
    name, store, table, *words = command.split()
    assert (store, table) == ("STORE", "MANIFEST")
    assert run(made, tmp_path, name, *words, without="umap")


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_imports_only_stores_and_libraries(name: str) -> None:
    tree = ast.parse((EXAMPLES / name).read_text(encoding="utf-8"))
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "stores" in imports
    assert not {each for each in imports if each.split(".")[0] in {"peftbench", "cli", "torch"}}
