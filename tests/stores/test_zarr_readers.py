"""What other readers of Zarr see: plain labelled arrays, of committed rows alone, without a warning."""

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from stores_kit import (
    RECIPE,
    SHAPES,
    SIDE,
    PowerCutError,
    append,
    chunk_files,
    cut_before,
    embeddings,
    faults,
    filled,
    filled_images,
    flipped,
    holds_exactly,
    images,
    outputs,
    recipe,
)

from stores import rows
from stores.errors import StoreMismatchError
from stores.features import FeatureStore
from stores.keys import pack_digests, unpack_digests
from stores.rows import RowStore
from stores.verify import columns_of, tables_of

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("features") / "features", 600, 1500).folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled_images(tmp_path_factory.mktemp("images") / "images", 30, 70).folder


@pytest.fixture(scope="module", params=["features", "pictures", "sources"])
def table(request: pytest.FixtureRequest, features: Path, pictures: Path) -> Path:
    """One table of each kind."""
    return features if request.param == "features" else pictures / request.param


class TestZarr:
    @pytest.mark.parametrize("consolidated", [None, True, False])
    def test_a_group_has_every_array_as_this_library_reads_it(self, table: Path, consolidated: bool | None) -> None:
        store = RowStore.open(table, columns_of)
        group = zarr.open_group(str(table), mode="r", use_consolidated=consolidated)
        if consolidated is not False:
            assert sorted(group.array_keys()) == sorted(store.columns)
        for name in store.columns:
            found: Any = group[name]
            np.testing.assert_array_equal(found[:], store.read(name))
            assert (found.shape, found.dtype) == (store.read(name).shape, store.read(name).dtype)

    def test_every_array_can_be_opened_on_its_own(self, table: Path) -> None:
        store = RowStore.open(table, columns_of)
        for name, column in store.columns.items():
            array = zarr.open_array(str(table / name), mode="r")
            np.testing.assert_array_equal(array[:], store.read(name))
            assert array.metadata.dimension_names == ("row", *column.dimensions)
            assert dict(array.attrs) == dict(column.attributes or {})

    def test_the_group_says_what_the_store_is(self, table: Path) -> None:
        group = zarr.open_group(str(table), mode="r")
        assert dict(group.attrs) == RowStore.open(table, columns_of).attributes

    def test_the_group_knows_its_arrays_without_looking_at_them(self, features: Path, tmp_path: Path) -> None:
        (tmp_path / "zarr.json").write_bytes((features / "zarr.json").read_bytes())
        group = zarr.open_group(str(tmp_path), mode="r")
        assert {name: array.shape for name, array in group.arrays()} == {
            "embedding": (1500, 3),
            "blocks": (1500, 2, 4),
            "image": (1500, 32),
            "checksum": (1500, 3),
        }

    def test_zarr_notices_a_flipped_byte_too(self, table: Path) -> None:
        for path in chunk_files(table):
            array = zarr.open_array(str(path.parent), mode="r")
            with flipped(path), pytest.raises(ValueError, match="checksum"):
                array[:]

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_every_dtype_is_read(self, tmp_path: Path, dtype: str) -> None:
        store = FeatureStore.create(tmp_path / "features", recipe(dtype=dtype), SHAPES)
        store.append(images(0, 9), outputs(0, 9))
        for name, values in outputs(0, 9).items():
            found: Any = zarr.open_array(str(tmp_path / "features" / name), mode="r")[:]
            assert found.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(found, values.astype(dtype))

    def test_an_empty_store_is_read_as_empty(self, tmp_path: Path) -> None:
        FeatureStore.create(tmp_path / "features", RECIPE, SHAPES)
        assert zarr.open_group(str(tmp_path / "features"), mode="r")["embedding"].shape == (0, 3)

    @pytest.mark.parametrize("shape", [(1,), (2, 3), (1, 1), (2, 3, 4), ()])
    def test_outputs_of_any_shape_are_refused_or_read(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        shapes = {**SHAPES, "blocks": shape}
        values = {"embedding": embeddings(0, 5), "blocks": embeddings(0, 5, shape)}
        try:
            store = FeatureStore.create(tmp_path / "features", RECIPE, shapes)
        except StoreMismatchError:
            assert len(shape) not in {1, 2}
            return
        store.append(images(0, 5), values)
        for name, expected in values.items():
            found: Any = zarr.open_group(str(tmp_path / "features"), mode="r")[name]
            np.testing.assert_array_equal(found[:], expected)


class TestXarray:
    def test_outputs_of_different_width_stand_side_by_side_labelled_by_their_image(self, features: Path) -> None:
        found = xarray.open_zarr(features)
        assert dict(found.sizes) == {
            "row": 1500,
            "feature": 3,
            "blocks_block": 2,
            "blocks_feature": 4,
            "byte": 32,
            "array": 3,
        }
        assert found["embedding"].dims == ("row", "feature")
        assert found["blocks"].dims == ("row", "blocks_block", "blocks_feature")
        assert "image" in found.coords
        for name, values in outputs(0, 1500).items():
            np.testing.assert_array_equal(found[name].values, values)
            assert found[name].dtype == np.float32
        assert unpack_digests(found["image"].values) == images(0, 1500)

    def test_outputs_say_where_they_come_from(self, features: Path) -> None:
        found = xarray.open_zarr(features)
        assert found["embedding"].attrs["long_name"] == "embedding: layer4|avgpool"
        assert found["blocks"].attrs["long_name"] == "blocks: layer3,layer4|mean"
        assert found.attrs["recipe"] == RECIPE.to_json()
        assert found.attrs["key"] == RECIPE.key

    def test_a_row_is_picked_by_its_number(self, features: Path) -> None:
        row = xarray.open_zarr(features).isel(row=1234)
        np.testing.assert_array_equal(row["embedding"].values, outputs(1234, 1235)["embedding"][0])
        assert unpack_digests(row["image"].values[None]) == images(1234, 1235)

    def test_a_number_that_is_zero_stays_a_number(self, tmp_path: Path) -> None:
        store = FeatureStore.create(tmp_path / "features", RECIPE, SHAPES)
        store.append(images(0, 2), {name: np.zeros_like(values) for name, values in outputs(0, 2).items()})
        np.testing.assert_array_equal(xarray.open_zarr(store.folder)["embedding"].values, np.zeros((2, 3)))

    def test_pictures_are_labelled_by_image_and_extent(self, pictures: Path) -> None:
        found = xarray.open_zarr(pictures / "pictures")
        assert found["pixels"].dims == ("row", "y", "x")
        assert {"image", "extent"} <= set(found.coords)
        assert found["pixels"].shape == (70, SIDE, SIDE)
        assert found.attrs["policy"] == "policy"


STEPS: dict[str, tuple[object, str]] = {
    "files": (rows, "write_parts"),
    "commit": (rows.Commit, "write"),
    "shapes": (rows, "write_atomic"),
}


def appended(folder: Path, start: int, stop: int, step: str, turn: int) -> bool:
    """Append; cut short before a step for the time number `turn`. Answers whether there were fewer, and it was not."""
    with pytest.MonkeyPatch.context() as patch:
        cut_before(patch, [STEPS[step]], turn, PowerCutError())
        try:
            append(folder, start, stop)
        except PowerCutError:
            return False
    return True


def seen_by_zarr(folder: Path) -> list[dict[str, Any]]:
    """What readers of all kinds see at this moment."""
    every = [zarr.open_group(str(folder), mode="r", use_consolidated=way) for way in (None, True, False)]
    alone = {name: zarr.open_array(str(folder / name), mode="r") for name in (*SHAPES, "image")}
    return [{name: group[name][:] for name in alone} for group in [*every, alone]]


def are_rows(seen: dict[str, Any], committed: set[int]) -> None:
    """Assert that a reader sees as many whole rows as may be committed, and in each array no other."""
    for name, values in {**outputs(0, 2500), "image": pack_digests(images(0, 2500))}.items():
        assert len(seen[name]) in committed
        np.testing.assert_array_equal(seen[name], values[: len(seen[name])])


def written_to(folder: Path) -> None:
    with FeatureStore.open(folder).writing():
        pass


class TestAppending:
    """1,000 rows are committed; 1,500 more are offered, of which the first 24 share a chunk with them."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return filled(tmp_path / "features", 1000).folder

    @pytest.mark.slow
    @pytest.mark.parametrize("step", STEPS)
    def test_no_reader_sees_a_row_that_is_not_committed(self, folder: Path, step: str) -> None:
        committed = 2500 if step == "shapes" else 1000
        for turn in count():
            if appended(folder, 1000, 2500, step, turn):
                break
            assert len(FeatureStore.open(folder)) == committed
            for seen in seen_by_zarr(folder):
                are_rows(seen, {1000, committed})
            if committed > 1000:
                shutil.rmtree(folder)
                filled(folder, 1000)
        assert turn >= 1
        for seen in seen_by_zarr(folder):
            are_rows(seen, {2500})

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "heal",
        [
            lambda folder: FeatureStore.create(folder, RECIPE, SHAPES),
            lambda folder: FeatureStore.open(folder).append(images(0, 5), outputs(0, 5)),
            written_to,
        ],
        ids=["create", "append", "writing"],
    )
    @pytest.mark.parametrize("turn", range(5))
    def test_shapes_that_lag_are_told_and_healed_by_whoever_writes_next(
        self, folder: Path, turn: int, heal: Callable[[Path], object]
    ) -> None:
        assert not appended(folder, 1000, 2500, "shapes", turn)
        lagging = faults(folder, deep=False)
        assert len(lagging) == 5 - turn, "of the group and four arrays"
        assert all("state another number of rows than the 2500 committed" in each for each in lagging)
        heal(folder)
        for seen in seen_by_zarr(folder):
            are_rows(seen, {2500})
        holds_exactly(folder, 2500)

    @pytest.mark.slow
    def test_a_reader_that_looks_in_the_middle_of_appends_sees_whole_rows(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks = 0
        original = rows.write_parts

        def look(path: Path, parts: list[Any]) -> None:
            nonlocal looks
            original(path, parts)
            looks += 1
            for seen in seen_by_zarr(folder):
                are_rows(seen, {1000})

        monkeypatch.setattr(rows, "WRITERS", 1)
        monkeypatch.setattr(rows, "write_parts", look)
        append(folder, 1000, 2500)
        assert looks >= 8

    def test_what_an_interrupted_append_left_stays_invisible_after_the_next_one(self, folder: Path) -> None:
        assert not appended(folder, 5000, 6500, "commit", 0)
        append(folder, 1000, 1001)
        for seen in seen_by_zarr(folder):
            are_rows(seen, {1001})


def test_the_tables_of_an_image_store_are_groups_of_their_own(pictures: Path) -> None:
    assert [zarr.open_group(str(table), mode="r").attrs["kind"] for table in tables_of(pictures)] == [
        "images",
        "sources",
    ]
