"""Every line of docs/reuse.md that can be run is run, in order, in a workspace as `prepare` and `extract` leave it."""

import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import pytest
from export_kit import BACKBONE, Rows, fill, image, manifest, prepare, values
from typer.testing import CliRunner

from peftbench.backbones.registry import CARDS
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore
from stores.keys import pixels_digest
from stores.recipe import FeatureRecipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reuse.md").read_text(encoding="utf-8")

STORED = 12
CHOSEN = [9, 4, 0, 11, 4, 7]
"""Rows of the cohort's samples."""


class Block(NamedTuple):
    """A piece of the page that can be run; `kind` is `python` or `sh`."""

    kind: str
    text: str


def blocks() -> list[Block]:
    """Fenced code by its language, indented code as commands, in the page's order."""
    pattern = re.compile(
        r"^```(?P<kind>\w+)\n(?P<fenced>.*?)^```$|(?P<indented>(?:^    [^\n]+\n)+)", re.MULTILINE | re.DOTALL
    )
    found = []
    for match in pattern.finditer(PAGE):
        indented = match["indented"]
        found.append(Block(match["kind"], match["fenced"]) if indented is None else Block("sh", indented))
    return found


class Made(NamedTuple):
    """What the page's snippets work on, and the names they have left."""

    store: FeatureStore
    outputs: dict[str, Rows]
    names: dict[str, Any]


def make(folder: Path) -> tuple[FeatureStore, dict[str, Rows]]:
    """Features of EfficientNet-Lite0's shapes, and a cohort."""
    card = CARDS[BACKBONE]
    recipe = FeatureRecipe(
        architecture=card.architecture,
        weights="0" * 64,
        transform=str(card.transform),
        outputs={output.name: output.tensor for output in card.outputs},
        dtype="float32",
        precision="fp32",
        device="cpu/AVX512",
        batch_size=16,
        libraries={"torch": "2.6.0", "timm": "1.0.15"},
    )
    place = Workspace(folder / "workspace")
    outputs = {output.name: values(STORED, output.shape, seed=seed) for seed, output in enumerate(card.outputs)}
    cohort = manifest([image(row) for row in CHOSEN], "hannover", icu=["yes", "no"] * (len(CHOSEN) // 2))
    prepare(place, cohort)
    return fill(place, BACKBONE, recipe, outputs), outputs


def upload(folder: Path, bucket: str, prefix: str, endpoint: str) -> None:
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=bucket)
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder).as_posix()}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The page, run from its first line to its last."""
    server_of = pytest.importorskip("moto.server")
    folder = tmp_path_factory.mktemp("reuse")
    store, outputs = make(folder)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.delenv("PEFTBENCH_WORKSPACE", raising=False)
            host, port = server.get_host_and_port()
            for name, value in {
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_REGION": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://{host}:{port}",
                "AWS_ALLOW_HTTP": "true",
            }.items():
                patch.setenv(name, value)
            upload(store.folder, "hospital", "features/efficientnet-lite0", f"http://{host}:{port}")
            names: dict[str, Any] = {}
            for block in blocks():
                run(block, names)
            yield Made(store, outputs, names)
    finally:
        server.stop()


def run(block: Block, names: dict[str, Any]) -> None:
    if block.kind == "python":
        exec(compile(block.text, f"docs/reuse.md: {block.text.splitlines()[0]}", "exec"), names)  # noqa: S102
        # What a snippet shows the reader under a name that a later one uses again.
        names.setdefault("shown", []).append({name: value for name, value in names.items() if name != "shown"})
        return
    for line in block.text.splitlines():
        words = shlex.split(line)
        if words[:2] == ["pip", "install"]:
            check_requirement(words[2])
        else:
            assert words[0] == "peftbench", f"the page shows a command that nobody runs: {line}"
            peftbench(*words[1:])


def peftbench(*words: str) -> None:
    from cli.main import app

    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    assert done.exit_code == 0, (words, done.stderr, done.exception)


def check_requirement(text: str) -> None:
    """What is to be installed is this project, with extras that it has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = re.fullmatch(r"(?:peftbench|\.)(?:\[([\w,]+)\])?", text)
    assert found, text
    assert set((found[1] or "").split(",")) - {""} <= set(extras)


def snippet(made: Made, word: str) -> dict[str, Any]:
    """The names after the first snippet in which a word stands."""
    python = [block for block in blocks() if block.kind == "python"]
    index = next(index for index, block in enumerate(python) if word in block.text)
    shown: dict[str, Any] = made.names["shown"][index]
    return shown


def same_bits(found: Any, expected: Rows) -> None:
    found = np.asarray(found)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def test_the_page_has_blocks_of_both_kinds() -> None:
    kinds = [block.kind for block in blocks()]
    assert kinds.count("python") == PAGE.count("```python")
    assert kinds.count("sh") == 4
    assert set(kinds) == {"python", "sh"}


def test_a_store_is_opened_and_loaded(made: Made) -> None:
    names = snippet(made, "open_features(folder)")
    same_bits(names["X"], made.outputs["embedding"])
    assert names["images"] == [image(row) for row in range(STORED)]


def test_outputs_are_as_the_page_says(made: Made) -> None:
    names = snippet(made, "store.outputs")
    said = re.search(r"^store\.outputs +# (.*)$", PAGE, flags=re.MULTILINE)
    assert said
    assert str(dict(sorted(names["store"].outputs.items()))) == said[1]
    same_bits(names["stages"], made.outputs["stages"])
    same_bits(names["some"], made.outputs["embedding"][:3])


def test_a_cohort_comes_in_its_order(made: Made) -> None:
    names = snippet(made, "store.view(manifest)")
    assert names["ids"] == names["samples"]["sample_id"].tolist()
    same_bits(names["X"], made.outputs["embedding"][CHOSEN])
    same_bits(names["first"], made.outputs["embedding"][CHOSEN[::2]])


def test_rows_are_mapped(made: Made) -> None:
    same_bits(snippet(made, "load_mapped")["part"], made.outputs["embedding"][[5, 3, 8]])


def test_other_readers_see_the_same(made: Made) -> None:
    names = snippet(made, "xarray")
    same_bits(names["matrix"], made.outputs["embedding"])
    same_bits(names["data"]["embedding"].values, made.outputs["embedding"])
    assert names["data"]["embedding"].dims == ("row", "feature")
    assert "image" in names["data"].coords


def test_an_address_does_what_a_folder_does(made: Made) -> None:
    names = snippet(made, "s3://")
    same_bits(names["X"], made.outputs["embedding"])
    assert names["images"] == [image(row) for row in range(STORED)]


@pytest.mark.parametrize("suffix", [".h5", ".parquet", ".npy", ".h5ad", ".pt", ".safetensors"])
def test_exports_are_read_back_as_the_table_says(made: Made, suffix: str) -> None:
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("|")]
    (extra, code) = next(row[1:3] for row in rows if row[0] == suffix)
    check_requirement(f"peftbench[{extra}]" if extra else "peftbench")
    library = code.split("(")[0].rpartition(".")[0]
    libraries = {library.split(".")[0], *re.findall(r"\b(pandas|numpy)\.", code)}
    names = {name: importlib.import_module(name) for name in libraries}
    importlib.import_module(library)
    same_bits(eval(code, names), made.outputs["embedding"][CHOSEN])  # noqa: S307


def test_the_table_lists_what_else_a_file_holds(made: Made) -> None:
    with h5py.File("features.h5") as file:
        for name in ("ids", "images", "outputs/stages", "samples/icu", "missing/view"):
            assert name in file
    assert all(Path(name).is_file() for name in ("features.stages.npy", "features.csv", "features.json"))


def test_the_functions_write_too(made: Made) -> None:
    names = snippet(made, "write_hdf5")
    assert names["done"].files == ["again.parquet"]
    with h5py.File("short.h5") as file:
        same_bits(file["features"][:], made.outputs["embedding"][CHOSEN][:, :64])
        assert json.loads(file.attrs["provenance"]) == {"note": "first 64 numbers only"}


def test_sql_counts_from_one(made: Made) -> None:
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql("select avg(embedding[1]) from 'features.parquet' where icu = 'yes'").fetchall()[0][0]
    assert found == pytest.approx(made.outputs["embedding"][CHOSEN][::2, 0].astype(float).mean(), rel=1e-6)


def test_the_bytes_are_where_the_page_says(made: Made) -> None:
    names = snippet(made, "np.fromfile")
    same_bits(names["block"], made.outputs["embedding"])
    assert names["digests"] == [image(row) for row in range(STORED)]
    files = {path.relative_to(made.store.folder).as_posix() for path in made.store.folder.rglob("*") if path.is_file()}
    named = {name.replace("N", "0") for name in re.findall(r"^\| `([a-z]+[./][\w.]+)` \|", PAGE, flags=re.MULTILINE)}
    assert {"commit.json", "zarr.json", "embedding/c.0.0", "image/c.0.0", "checksum/c.0.0"} == named
    assert named <= files
    assert {"rows", "attributes", "checksums", "digest"} <= set(names["commit"])
    assert set(names["commit"]["attributes"]) == {"kind", "key", "recipe", "shapes"}


def test_chunks_have_the_rows_that_the_page_says(made: Made) -> None:
    for name, rows, width in (("embedding", 1024, 1280 * 4), ("image", 8192, 32), ("checksum", 8192, 3 * 4)):
        assert (made.store.folder / name / "c.0.0").stat().st_size == rows * width + 4


def test_the_digest_of_a_picture_is_as_the_page_says() -> None:
    import hashlib

    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert hashlib.sha256(b"pixels/1:2x3:" + pixels.tobytes()).hexdigest() == pixels_digest(pixels)


def test_nothing_was_written_but_what_the_page_names(made: Made) -> None:
    found = {path.name for path in Path().iterdir()}
    exported = {f"features{end}" for end in (".h5", ".parquet", ".npy", ".h5ad", ".pt", ".safetensors")}
    companions = {"features.stages.npy", "features.csv", "features.json"}
    assert found == {"workspace", "again.parquet", "short.h5"} | exported | companions


def test_the_manifest_is_one_that_prepare_would_leave(made: Made) -> None:
    frame = pd.read_parquet("workspace/cohorts/hannover/manifest.parquet")
    assert frame["image_digest"].tolist() == [image(row) for row in CHOSEN]
