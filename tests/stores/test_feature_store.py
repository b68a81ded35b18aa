"""The feature store: a row is found by its image, is there once, and is what was embedded."""

import os
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from stores_kit import DIM, RECIPE, embeddings, filled, holds_exactly, image, images, recipe

from stores import open_features
from stores.errors import RowsMissingError, StoreMismatchError, StoreNotFoundError
from stores.features import FeatureStore
from stores.keys import pack_digests
from stores.rows import RowStore


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return filled(tmp_path / "features", 4, 10)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Ten rows that no test adds to."""
    return filled(tmp_path_factory.mktemp("shared") / "features", 4, 10)


class TestRoundtrip:
    @given(order=st.permutations(range(12)), cuts=st.lists(st.integers(0, 12), max_size=4))
    @settings(deadline=None, max_examples=12)
    def test_every_row_is_found_whatever_the_order_and_the_portions(self, order: list[int], cuts: list[int]) -> None:
        edges = [0, *sorted(cuts), 12]
        with TemporaryDirectory() as scratch:
            store = FeatureStore.create(Path(scratch) / "features", RECIPE, DIM)
            for start, stop in pairwise(edges):
                part = order[start:stop]
                assert store.append([image(row) for row in part], embeddings(0, 12)[part]) == len(part)
            reader = FeatureStore.open(store.folder)
            np.testing.assert_array_equal(reader.load(images(0, 12)).matrix, embeddings(0, 12))
            np.testing.assert_array_equal(reader.load().matrix, embeddings(0, 12)[order])

    @given(sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=3))
    @settings(deadline=None, max_examples=8)
    def test_rows_survive_the_borders_of_chunks(self, sizes: list[int]) -> None:
        stops = np.cumsum(sizes).tolist()
        with TemporaryDirectory() as scratch:
            filled(Path(scratch) / "features", *stops)
            holds_exactly(Path(scratch) / "features", stops[-1])

    @pytest.mark.parametrize("stops", [(1023, 1024), (1024, 1025), (1025, 2049), (1024, 2048, 2049)])
    def test_rows_survive_appends_that_end_beside_a_border(self, tmp_path: Path, stops: tuple[int, ...]) -> None:
        filled(tmp_path / "features", *stops)
        holds_exactly(tmp_path / "features", stops[-1])

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_rows_are_stored_in_the_dtype_of_the_recipe(self, tmp_path: Path, dtype: str) -> None:
        store = FeatureStore.create(tmp_path / "features", recipe(dtype=dtype), DIM)
        store.append(images(0, 3), embeddings(0, 3).astype(np.float64) / 3)
        matrix = open_features(store.folder).load().matrix
        assert matrix.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(matrix, (embeddings(0, 3).astype(np.float64) / 3).astype(dtype))

    def test_an_embedding_of_zeros_is_a_row_as_well(self, tmp_path: Path) -> None:
        store = FeatureStore.create(tmp_path / "features", RECIPE, DIM)
        store.append(images(0, 2), np.zeros((2, DIM), dtype=np.float32))
        np.testing.assert_array_equal(open_features(store.folder).load().matrix, np.zeros((2, DIM)))

    def test_the_path_may_be_text(self, store: FeatureStore) -> None:
        assert len(open_features(str(store.folder))) == 10


class TestAsking:
    @given(wanted=st.lists(st.integers(0, 9), max_size=20))
    @settings(deadline=None, max_examples=25)
    def test_rows_come_in_the_order_asked_for_and_as_often(self, shared: FeatureStore, wanted: list[int]) -> None:
        matrix, found = shared.load([image(row) for row in wanted])
        assert found == [image(row) for row in wanted]
        np.testing.assert_array_equal(matrix, embeddings(0, 10)[wanted])

    def test_missing_images_are_named_once_in_the_order_given(self, store: FeatureStore) -> None:
        asked = [image(row) for row in (99, 3, 50, 99, 0)]
        assert store.missing(asked) == [image(99), image(50)]

    def test_images_without_a_row_are_counted_and_the_next_step_named(self, store: FeatureStore) -> None:
        with pytest.raises(RowsMissingError, match=f"2 of 4 images .*{image(50)[:12]}: run `peftbench extract` again"):
            store.load([image(0), image(50), image(51), image(50), image(1)])

    def test_a_missing_row_is_a_lookup_error_too(self, store: FeatureStore) -> None:
        with pytest.raises(LookupError):
            store.load([image(50)])


class TestAppending:
    def test_an_image_that_is_there_keeps_its_row(self, store: FeatureStore) -> None:
        assert store.append(images(8, 12), np.full((4, DIM), -1, dtype=np.float32)) == 2
        matrix = open_features(store.folder).load(images(8, 12)).matrix
        np.testing.assert_array_equal(matrix[:2], embeddings(8, 10))
        np.testing.assert_array_equal(matrix[2:], np.full((2, DIM), -1))

    def test_appending_only_known_images_leaves_the_store_untouched(self, store: FeatureStore) -> None:
        before = {path: path.read_bytes() for path in store.folder.rglob("*.json")}
        assert store.append(images(0, 10), embeddings(0, 10)) == 0
        assert {path: path.read_bytes() for path in store.folder.rglob("*.json")} == before

    def test_of_equal_images_in_one_call_the_first_counts(self, store: FeatureStore) -> None:
        assert store.append([image(10), image(11), image(10)], embeddings(10, 13)) == 2
        np.testing.assert_array_equal(store.load(images(10, 12)).matrix, embeddings(10, 12))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_an_embedding_that_is_no_number_is_refused_and_nothing_is_stored(
        self, store: FeatureStore, bad: float
    ) -> None:
        matrix = embeddings(10, 14)
        matrix[2, 1] = bad
        with pytest.raises(ValueError, match=f"image {image(12)[:12]} holds NaN or infinity"):
            store.append(images(10, 14), matrix)
        holds_exactly(store.folder, 10)

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    @pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
    def test_a_number_too_large_for_the_stored_dtype_is_refused(self, tmp_path: Path, dtype: str) -> None:
        store = FeatureStore.create(tmp_path / "features", recipe(dtype=dtype), DIM)
        with pytest.raises(ValueError, match="infinity"):
            store.append(images(0, 1), np.full((1, DIM), 1e300))
        assert len(open_features(store.folder)) == 0

    @pytest.mark.parametrize("shape", [(2, DIM), (4, DIM), (3, DIM + 1), (3,), (3, DIM, 1)])
    def test_a_matrix_of_another_shape_is_refused(self, store: FeatureStore, shape: tuple[int, ...]) -> None:
        with pytest.raises(StoreMismatchError, match=r"expected \(3, 3\) features"):
            store.append(images(10, 13), np.ones(shape, dtype=np.float32))
        holds_exactly(store.folder, 10)

    @pytest.mark.parametrize("name", ["", "abc", "zz" * 32, "ab" * 31])
    def test_a_name_that_is_no_digest_is_refused(self, store: FeatureStore, name: str) -> None:
        with pytest.raises(ValueError, match=r"hex|reshape|columns"):
            store.append([name], embeddings(10, 11))
        holds_exactly(store.folder, 10)

    def test_another_process_is_seen_after_a_refresh(self, store: FeatureStore) -> None:
        reader = open_features(store.folder)
        store.append(images(10, 12), embeddings(10, 12))
        assert reader.missing(images(9, 12)) == images(10, 12)
        reader.refresh()
        assert reader.missing(images(9, 12)) == []
        np.testing.assert_array_equal(reader.load(images(9, 12)).matrix, embeddings(9, 12))


class TestIdentity:
    @pytest.mark.parametrize("changes", [{"weights": "1" * 64}, {"transform": "resize(96)"}, {"dtype": "float16"}])
    def test_a_folder_of_another_recipe_is_refused(self, store: FeatureStore, changes: dict[str, str]) -> None:
        with pytest.raises(StoreMismatchError):
            FeatureStore.create(store.folder, recipe(**changes), DIM)

    def test_a_folder_of_another_length_is_refused(self, store: FeatureStore) -> None:
        with pytest.raises(StoreMismatchError):
            FeatureStore.create(store.folder, RECIPE, DIM + 1)

    def test_the_recipe_is_read_back(self, store: FeatureStore) -> None:
        reader = open_features(store.folder)
        assert reader.recipe == RECIPE
        assert (reader.dim, len(reader), reader.folder) == (DIM, 10, store.folder)

    @pytest.mark.parametrize("ingredient", list(RECIPE.to_json()))
    def test_an_ingredient_altered_on_disk_is_noticed(self, store: FeatureStore, ingredient: str) -> None:
        group = zarr.open_group(str(store.folder), mode="r+")
        altered = {"libraries": {"torch": "9"}, "schema": 99}.get(ingredient, "other")
        group.attrs["recipe"] = {**group.attrs["recipe"], ingredient: altered}
        with pytest.raises(StoreMismatchError, match="does not fit its recipe"):
            open_features(store.folder)

    @pytest.mark.parametrize("name", ["key", "dim", "kind"])
    def test_another_attribute_altered_on_disk_is_noticed(self, store: FeatureStore, name: str) -> None:
        zarr.open_group(str(store.folder), mode="r+").attrs[name] = {"key": "0" * 64, "dim": 7, "kind": "images"}[name]
        with pytest.raises(StoreMismatchError):
            open_features(store.folder)

    def test_a_store_of_another_kind_is_no_feature_store(self, tmp_path: Path) -> None:
        RowStore.create(tmp_path / "rows", {}, {"kind": "images"})
        with pytest.raises(StoreMismatchError, match="no feature store"):
            open_features(tmp_path / "rows")

    def test_an_absent_store_is_not_found(self, tmp_path: Path) -> None:
        with pytest.raises(StoreNotFoundError):
            open_features(tmp_path / "nowhere")

    def test_equal_appends_make_equal_digests(self, store: FeatureStore, tmp_path: Path) -> None:
        assert filled(tmp_path / "twin", 4, 10).digest == store.digest
        assert filled(tmp_path / "other", 4, 9).digest != store.digest


def test_a_plain_zarr_reader_finds_matrix_and_digests(store: FeatureStore) -> None:
    group = zarr.open_group(os.fspath(store.folder), mode="r")
    np.testing.assert_array_equal(group["embedding"][:], embeddings(0, 10))
    np.testing.assert_array_equal(group["image"][:], pack_digests(images(0, 10)))
    assert group["embedding"].metadata.dimension_names == ("row", "feature")
    assert group["image"].metadata.dimension_names == ("row", "byte")
    assert group.attrs["recipe"] == RECIPE.to_json()
