"""`store export`: whatever the format, its own library reads the stored bits back, with the cohort's labels."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import typer
from export_kit import BACKBONE, SHAPES, Rows, fill, image, manifest, names_in, prepare, recipe, values
from typer.testing import CliRunner

from cli.store.export import export as export_verb
from peftbench.errors import ConfigError, MissingPackageError, NotPreparedError, UnknownNameError
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.workspace import Workspace
from peftbench.store import export
from peftbench.store.exporting import FORMATS
from stores.errors import RowsMissingError, StoreDamagedError, StoreMismatchError
from stores.exports import flat
from stores.features import FeatureStore
from stores.images import ImageStore

STORED = 12
CHOSEN = [7, 2, 11, 2, 0, 5]
"""Rows of the cohort's samples: in another order than stored, one of them twice."""

FILES = {"hdf5": "t.h5", "parquet": "t.parquet", "npy": "t.npy", "h5ad": "t.h5ad", "torch": "t.pt"}
FILES |= {"safetensors": "t.safetensors"}

every_format = pytest.mark.parametrize("format_", FORMATS)
both_types = pytest.mark.parametrize("dtype", ["float16", "float32"])


class Found(NamedTuple):
    """What a format's own library reads."""

    ids: list[str]
    images: list[str]
    outputs: dict[str, Rows]
    provenance: dict[str, Any]
    icu: list[str] | None
    view: list[str | None] | None


class Made(NamedTuple):
    """A workspace with a store of more images than its cohort has."""

    place: Workspace
    store: FeatureStore
    manifest: Manifest
    outputs: dict[str, Rows]


def make(folder: Path, dtype: str = "float32") -> Made:
    place = Workspace(folder / "workspace")
    outputs = {name: values(STORED, shape, dtype, seed) for seed, (name, shape) in enumerate(SHAPES.items())}
    store = fill(place, BACKBONE, recipe(dtype=dtype), outputs)
    prepare(place, manifest([image(row) for row in CHOSEN]))
    return Made(place, store, Manifest.read("phantom", place.manifest("phantom")), outputs)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path)


def texts(file: Any, name: str) -> list[str]:
    return list(file[name].asstr()[:])


def read_hdf5(path: Path) -> Found:
    with h5py.File(path) as file:
        main = file["features"].attrs["output"]
        outputs = {main: file["features"][:], **{name: rows[:] for name, rows in file.get("outputs", {}).items()}}
        labelled = "samples" in file
        view = None
        if labelled:
            told = zip(texts(file, "samples/view"), file["missing/view"], strict=True)
            view = [None if gone else text for text, gone in told]
        return Found(
            texts(file, "ids"),
            texts(file, "images"),
            outputs,
            json.loads(file.attrs["provenance"]),
            texts(file, "samples/icu") if labelled else None,
            view,
        )


def read_parquet(path: Path) -> Found:
    table = pq.read_table(path)
    outputs = {}
    for name in set(table.column_names) & set(SHAPES):
        shape = json.loads(table.schema.field(name).metadata[b"shape"])
        outputs[name] = table[name].combine_chunks().flatten().to_numpy().reshape(-1, *shape)
    labelled = "icu" in table.column_names
    return Found(
        table["id"].to_pylist(),
        table["image"].to_pylist(),
        outputs,
        json.loads(table.schema.metadata[b"peftbench"]),
        table["icu"].to_pylist() if labelled else None,
        table["view"].to_pylist() if labelled else None,
    )


def read_npy(path: Path) -> Found:
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    outputs = {name: np.load(path.parent / each["file"]) for name, each in about["outputs"].items()}
    table = pd.read_csv(path.parent / about["table"], keep_default_na=False, dtype=str)
    labelled = "icu" in table
    # A CSV cannot tell missing text from empty text.
    view = [{2: None}.get(row, text) for row, text in enumerate(table["view"])] if labelled else None
    icu = table["icu"].tolist() if labelled else None
    return Found(table["id"].tolist(), table["image"].tolist(), outputs, about["provenance"], icu, view)


def read_h5ad(path: Path) -> Found:
    import anndata

    data = anndata.read_h5ad(path)
    told = data.uns["peftbench"]
    shapes = json.loads(told["shapes"])
    outputs = {told["main_output"]: np.asarray(data.X)}
    outputs |= {name: np.asarray(rows).reshape(-1, *shapes[name]) for name, rows in data.obsm.items()}
    labelled = "icu" in data.obs
    return Found(
        data.obs_names.tolist(),
        data.obs["image"].astype(object).tolist(),
        outputs,
        json.loads(told["provenance"]),
        data.obs["icu"].astype(object).tolist() if labelled else None,
        [None if pd.isna(text) else text for text in data.obs["view"].astype(object)] if labelled else None,
    )


def read_torch(path: Path) -> Found:
    import torch

    content = torch.load(path, weights_only=True)
    main = content["provenance"]["main_output"]
    outputs = {name: rows.numpy() for name, rows in {main: content["features"], **content["outputs"]}.items()}
    samples = content["samples"]
    return Found(
        content["ids"], content["images"], outputs, content["provenance"], samples.get("icu"), samples.get("view")
    )


def read_safetensors(path: Path) -> Found:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    with safe_open(path, framework="numpy") as file:
        told = {name: json.loads(text) for name, text in file.metadata().items()}
    main = told["provenance"]["main_output"]
    outputs = {name.replace("features", main).removeprefix("outputs."): rows for name, rows in load_file(path).items()}
    samples = told["samples"]
    return Found(told["ids"], told["images"], outputs, told["provenance"], samples.get("icu"), samples.get("view"))


READERS: dict[str, Callable[[Path], Found]] = {
    "hdf5": read_hdf5,
    "parquet": read_parquet,
    "npy": read_npy,
    "h5ad": read_h5ad,
    "torch": read_torch,
    "safetensors": read_safetensors,
}


def same_bits(found: Rows, expected: Rows) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


class TestRoundtrip:
    @pytest.mark.slow
    @every_format
    @both_types
    def test_a_cohort_in_the_manifests_order_with_its_columns(self, tmp_path: Path, format_: str, dtype: str) -> None:
        made = make(tmp_path, dtype)
        done = export(BACKBONE, tmp_path / FILES[format_], cohort="phantom", workspace=made.place)
        found = READERS[format_](tmp_path / FILES[format_])
        assert found.ids == made.manifest.frame["sample_id"].tolist()
        assert found.images == [image(row) for row in CHOSEN]
        assert set(found.outputs) == set(SHAPES)
        for name, rows in found.outputs.items():
            same_bits(rows, made.outputs[name][CHOSEN])
        assert found.icu == made.manifest.frame["icu"].tolist()
        assert found.view == ["AP", "PA", None, "", "AP", "PA"]
        assert found.provenance == done.provenance
        assert (done.format, done.rows, done.outputs) == (format_, 6, {"embedding": [5], "block_cls": [2, 3]})
        assert done.path == done.files[0] == str(tmp_path / FILES[format_])

    @every_format
    def test_all_rows_in_stored_order_by_image_digest(self, made: Made, tmp_path: Path, format_: str) -> None:
        export(BACKBONE, tmp_path / FILES[format_], workspace=made.place)
        found = READERS[format_](tmp_path / FILES[format_])
        assert found.ids == found.images == [image(row) for row in range(STORED)]
        for name, rows in found.outputs.items():
            same_bits(rows, made.outputs[name])
        assert (found.icu, found.view) == (None, None)

    @pytest.mark.slow
    @every_format
    @pytest.mark.parametrize(
        ("asked", "main"), [(["embedding"], "embedding"), ("block_cls", "block_cls"), (list(SHAPES)[::-1], "embedding")]
    )
    def test_some_outputs(self, made: Made, tmp_path: Path, format_: str, asked: Any, main: str) -> None:
        done = export(BACKBONE, tmp_path / FILES[format_], outputs=asked, workspace=made.place)
        found = READERS[format_](tmp_path / FILES[format_])
        assert set(found.outputs) == set(done.outputs) == set([asked] if isinstance(asked, str) else asked)
        assert found.provenance["main_output"] == main
        rows = found.outputs[main]
        same_bits(rows.reshape(-1, *SHAPES[main]), made.outputs[main])

    def test_anndata_has_every_column(self, made: Made, tmp_path: Path) -> None:
        import anndata

        export(BACKBONE, tmp_path / "t.h5ad", cohort="phantom", workspace=made.place)
        obs, frame = anndata.read_h5ad(tmp_path / "t.h5ad").obs, made.manifest.frame
        assert list(obs) == ["image", *frame]
        for name in ("beds", "age", "visits", "intubated"):
            pd.testing.assert_series_equal(obs[name].reset_index(drop=True), frame[name])
        assert obs["icu"].dtype == "category"
        assert obs["taken"].astype(object).tolist() == [str(each) for each in frame["taken"]]

    def test_parquet_gives_the_manifest_back(self, made: Made, tmp_path: Path) -> None:
        export(BACKBONE, tmp_path / "t.parquet", cohort="phantom", workspace=made.place)
        found = pd.read_parquet(tmp_path / "t.parquet")
        pd.testing.assert_frame_equal(found[list(made.manifest.frame)], made.manifest.frame)


class TestWhichStore:
    @pytest.mark.parametrize("spelling", ["name", "key", "start", "folder", "address"])
    def test_a_store_is_named_by(self, made: Made, tmp_path: Path, spelling: str) -> None:
        key, folder = made.store.recipe.key, made.store.folder
        names = {"name": BACKBONE, "key": key, "start": key[:6], "folder": folder, "address": folder.as_uri()}
        done = export(names[spelling], tmp_path / "t.npy", cohort="phantom", workspace=made.place)
        same_bits(np.load(tmp_path / "t.npy"), made.outputs["embedding"][CHOSEN])
        assert done.provenance["store_key"] == key

    def test_images_are_refused(self, made: Made, tmp_path: Path) -> None:
        ImageStore.create(made.place.images("phantom", "ab" * 32), policy="ab" * 32, side=8)
        with pytest.raises(ConfigError, match="holds images: only features are exported"):
            export("phantom", tmp_path / "t.npy", workspace=made.place)

    def test_a_store_without_rows_is_refused(self, tmp_path: Path) -> None:
        place = Workspace(tmp_path)
        FeatureStore.create(place.features(BACKBONE, recipe().key), recipe(), SHAPES)
        with pytest.raises(ConfigError, match="holds no rows yet: run `peftbench extract`"):
            export(BACKBONE, tmp_path / "t.npy", workspace=place)

    def test_a_damaged_store_leaves_no_file(self, made: Made, tmp_path: Path) -> None:
        chunk = made.store.folder / "block_cls" / "c.0.0.0"
        content = bytearray(chunk.read_bytes())
        content[17] ^= 1
        chunk.write_bytes(content)
        with pytest.raises(StoreDamagedError, match="peftbench store repair"):
            export(BACKBONE, tmp_path / "t.npy", workspace=made.place)
        assert set(tmp_path.iterdir()) == {made.place.root}


class TestProvenance:
    def test_it_says_what_made_the_rows(self, made: Made, tmp_path: Path) -> None:
        told = export(BACKBONE, tmp_path / "t.npy", cohort="phantom", workspace=made.place).provenance
        assert told["store_key"] == made.store.recipe.key
        assert told["store_digest"] == made.store.digest
        assert told["recipe"] == made.store.recipe.to_json()
        assert told["outputs"]["block_cls"] == {"tensor": "block_cls|none", "shape": [2, 3]}
        assert (told["cohort"], told["manifest_digest"]) == ("phantom", made.manifest.digest)
        assert (told["rows"], told["backbone"]) == (len(CHOSEN), BACKBONE)
        assert pd.Timestamp(told["created"]).utcoffset() == pd.Timedelta(0)
        assert told["peftbench"]

    def test_it_points_to_the_licences_that_are_known(self, made: Made, tmp_path: Path) -> None:
        told = export(BACKBONE, tmp_path / "a.npy", cohort="phantom", workspace=made.place).provenance["licences"]
        assert told["weights"].startswith("Apache-2.0; ")
        assert set(told) == {"weights", "images"}
        assert set(export(BACKBONE, tmp_path / "b.npy", workspace=made.place).provenance["licences"]) == {"weights"}

    def test_untrained_weights_have_a_name_and_no_licence(self, tmp_path: Path) -> None:
        place = Workspace(tmp_path / "workspace")
        fill(place, "resnet18@random:3", recipe(["embedding"]), {"embedding": values(4, (5,))})
        told = export("resnet18@random:3", tmp_path / "t.npy", workspace=place).provenance
        assert (told["backbone"], told["licences"]) == ("resnet18@random:3", {})

    @every_format
    def test_no_path_of_this_machine_is_in_any_file(self, made: Made, tmp_path: Path, format_: str) -> None:
        done = export(made.store.folder, tmp_path / FILES[format_], cohort="phantom", workspace=made.place)
        for file in done.files:
            content = Path(file).read_bytes()
            for path in (str(tmp_path), str(Path.home()), sys.prefix):
                assert path.encode() not in content


class TestRefusals:
    @every_format
    def test_a_file_that_is_there_is_replaced_only_if_asked(self, made: Made, tmp_path: Path, format_: str) -> None:
        path = tmp_path / FILES[format_]
        path.write_bytes(b"old")
        with pytest.raises(ConfigError, match=rf"{path.name} exists: name another file, or .* --overwrite"):
            export(BACKBONE, path, workspace=made.place)
        assert path.read_bytes() == b"old"
        export(BACKBONE, path, overwrite=True, workspace=made.place)
        same_bits(READERS[format_](path).outputs["embedding"], made.outputs["embedding"])

    @pytest.mark.parametrize("name", ["t.csv", "t.json", "t.block_cls.npy"])
    def test_so_is_a_companion(self, made: Made, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"of the user")
        with pytest.raises(ConfigError, match=f"{name} exists"):
            export(BACKBONE, tmp_path / "t.npy", workspace=made.place)
        assert (tmp_path / name).read_bytes() == b"of the user"

    def test_a_folder_is_never_replaced(self, made: Made, tmp_path: Path) -> None:
        (tmp_path / "t.h5").mkdir()
        with pytest.raises(ConfigError, match="is a folder"):
            export(BACKBONE, tmp_path / "t.h5", overwrite=True, workspace=made.place)

    def test_the_folder_must_be_there(self, made: Made, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"nowhere of 't.h5' does not exist: make it first"):
            export(BACKBONE, tmp_path / "nowhere" / "t.h5", workspace=made.place)

    def test_the_target_must_be_here(self, made: Made) -> None:
        with pytest.raises(ConfigError, match="is on another machine"):
            export(BACKBONE, "s3://bucket/t.h5", workspace=made.place)

    @pytest.mark.parametrize("name", ["t", "t.xlsx", "t.h5.gz"])
    def test_an_unknown_ending(self, made: Made, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError, match=r"names no format: expected one of \.h5, .*\.safetensors, or a --format"):
            export(BACKBONE, tmp_path / name, workspace=made.place)

    def test_an_unknown_format(self, made: Made, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="unknown format 'xlsx': expected one of hdf5, parquet"):
            export(BACKBONE, tmp_path / "t.h5", format="xlsx", workspace=made.place)

    @pytest.mark.parametrize(("name", "format_"), [("t.parquet", "hdf5"), ("t.bin", "npy"), ("t.csv", "npy")])
    def test_an_ending_that_contradicts_the_format(self, made: Made, tmp_path: Path, name: str, format_: str) -> None:
        with pytest.raises(ConfigError, match=rf"does not end like the format '{format_}': expected \."):
            export(BACKBONE, tmp_path / name, format=format_, workspace=made.place)

    @pytest.mark.parametrize(("name", "format_"), [("T.H5", None), ("t.features", "hdf5"), ("t.hdf5", "hdf5")])
    def test_a_format_may_be_told_by_name_or_in_capitals(
        self, made: Made, tmp_path: Path, name: str, format_: str | None
    ) -> None:
        assert export(BACKBONE, tmp_path / name, format=format_, workspace=made.place).format == "hdf5"
        same_bits(read_hdf5(tmp_path / name).outputs["embedding"], made.outputs["embedding"])

    @pytest.mark.parametrize("asked", ["stages", ["embedding", "stages"], []])
    def test_an_unknown_output(self, made: Made, tmp_path: Path, asked: Any) -> None:
        with pytest.raises(ConfigError, match=r"no output .*: the store .* has block_cls, embedding"):
            export(BACKBONE, tmp_path / "t.h5", outputs=asked, workspace=made.place)

    def test_an_unknown_cohort(self, made: Made, tmp_path: Path) -> None:
        with pytest.raises(UnknownNameError, match="unknown cohort 'phantm': did you mean phantom"):
            export(BACKBONE, tmp_path / "t.h5", cohort="phantm", workspace=made.place)

    def test_a_cohort_that_is_not_prepared(self, made: Made, tmp_path: Path) -> None:
        with pytest.raises(NotPreparedError, match="peftbench prepare hannover --raw DIR"):
            export(BACKBONE, tmp_path / "t.h5", cohort="hannover", workspace=made.place)

    def test_a_cohort_of_the_users_own_needs_no_registry(self, made: Made, tmp_path: Path) -> None:
        prepare(made.place, manifest([image(3)], cohort="ours"))
        told = export(BACKBONE, tmp_path / "t.h5", cohort="ours", workspace=made.place).provenance
        assert (told["cohort"], set(told["licences"])) == ("ours", {"weights"})

    def test_a_cohort_with_images_that_have_no_features(self, made: Made, tmp_path: Path) -> None:
        prepare(made.place, manifest([image(row) for row in (1, 50, 51, 50)]))
        message = (
            "2 of the 3 images of cohort 'phantom' have no features .* `peftbench extract phantom --backbone effic"
        )
        with pytest.raises(RowsMissingError, match=message):
            export(BACKBONE, tmp_path / "t.h5", cohort="phantom", workspace=made.place)
        assert not (tmp_path / "t.h5").exists()

    @pytest.mark.parametrize(
        ("format_", "package", "extra"),
        [("h5ad", "anndata", "formats"), ("safetensors", "safetensors", "formats"), ("torch", "torch", "models")],
    )
    def test_a_package_that_is_not_installed(
        self, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str, package: str, extra: str
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingPackageError, match=rf"'{package}'.*pip install 'peftbench\[{extra}\]'"):
            export(BACKBONE, tmp_path / FILES[format_], workspace=made.place)
        assert not (tmp_path / FILES[format_]).exists()

    @pytest.mark.parametrize(("format_", "column"), [("parquet", "id"), ("npy", "image"), ("h5ad", "image")])
    def test_a_column_in_the_place_of_another(self, made: Made, tmp_path: Path, format_: str, column: str) -> None:
        prepare(made.place, manifest([image(3)], **{column: "x"}))
        with pytest.raises(StoreMismatchError, match="rename it in the table, or write HDF5"):
            export(BACKBONE, tmp_path / FILES[format_], cohort="phantom", workspace=made.place)
        export(BACKBONE, tmp_path / "t.h5", cohort="phantom", workspace=made.place)

    def test_more_text_than_a_safetensors_header_holds(
        self, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The package `peftbench.store` has the function of this name in the module's place.
        monkeypatch.setattr(sys.modules["peftbench.store.exporting"], "SAFETENSORS_HEADER", 1000)
        with pytest.raises(ConfigError, match=r"a safetensors file can hold 1000: export to \.h5 or \.parquet"):
            export(BACKBONE, tmp_path / "t.safetensors", workspace=made.place)
        assert not (tmp_path / "t.safetensors").exists()


@every_format
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    target = tmp_path / "out"
    target.mkdir()
    monkeypatch.setattr("stores.atomic.os.fsync", fail)
    told = ConfigError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(told, match="No space left on device.*--to" if told is ConfigError else None):
        export(BACKBONE, target / FILES[format_], workspace=made.place)
    monkeypatch.undo()
    assert list(target.iterdir()) == []


class TestCommandLine:
    @staticmethod
    def run(made: Made, *words: str) -> Any:
        app = typer.Typer()
        app.command("export")(export_verb)
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, "--workspace", str(made.place.root)])

    def test_it_answers_with_one_object(self, made: Made, tmp_path: Path) -> None:
        words = [
            "--to",
            str(tmp_path / "t.h5"),
            "--cohort",
            "phantom",
            "--output",
            "block_cls",
            "--output",
            "embedding",
        ]
        done = self.run(made, BACKBONE, *words, "--json")
        assert done.exit_code == 0, done.output
        answer = json.loads(done.stdout)
        assert answer["files"] == [str(tmp_path / "t.h5")]
        assert answer["outputs"] == {"embedding": [5], "block_cls": [2, 3]}
        assert answer["provenance"] == read_hdf5(tmp_path / "t.h5").provenance

    def test_or_with_a_table(self, made: Made, tmp_path: Path) -> None:
        done = self.run(made, BACKBONE, "--to", str(tmp_path / "t.npy"))
        assert done.exit_code == 0, done.output
        assert all(name in done.stdout for name in ("t.npy", "t.csv", "t.json", "t.block_cls.npy", "block_cls 2x3"))

    def test_an_error_is_one_sentence(self, made: Made, tmp_path: Path) -> None:
        (tmp_path / "t.h5").write_bytes(b"old")
        done = self.run(made, BACKBONE, "--to", str(tmp_path / "t.h5"))
        assert done.exit_code == 2
        assert done.stderr.startswith("error: ")
        assert "--overwrite" in done.stderr
        assert self.run(made, BACKBONE, "--to", str(tmp_path / "t.h5"), "--overwrite").exit_code == 0

    def test_an_address_as_target_is_understood_as_one(self, made: Made) -> None:
        assert "is on another machine" in self.run(made, BACKBONE, "--to", "s3://bucket/t.h5").stderr


@pytest.mark.slow
def test_exporting_without_torch_imports_no_torch(made: Made, tmp_path: Path) -> None:
    program = (
        "import sys, peftbench.store as store\n"
        "for name in ('t.h5', 't.parquet', 't.npy'):\n"
        "    store.export(sys.argv[1], sys.argv[2] + '/' + name, workspace=sys.argv[3])\n"
        "print(*(name for name in ('torch', 'anndata', 'safetensors') if name in sys.modules))"
    )
    words = [sys.executable, "-c", program, BACKBONE, str(tmp_path), str(made.place.root)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
    assert {"t.h5", "t.parquet", "t.npy"} <= names_in(tmp_path)


def test_what_is_flattened_can_be_unfolded(made: Made, tmp_path: Path) -> None:
    import anndata

    export(BACKBONE, tmp_path / "t.h5ad", workspace=made.place)
    found = anndata.read_h5ad(tmp_path / "t.h5ad")
    same_bits(found.obsm["block_cls"], flat(made.outputs["block_cls"]))
    assert found.uns["peftbench"]["store_key"] == made.store.recipe.key
