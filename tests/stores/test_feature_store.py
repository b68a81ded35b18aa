"""The feature store: a row is found by its image, is there once, and is what was embedded."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores_kit import (
    DIM,
    RECIPE,
    SHAPES,
    bytes_of,
    chunk_files,
    embeddings,
    filled,
    flip,
    holds_exactly,
    image,
    images,
    outputs,
    recipe,
)

from stores import open_features
from stores.commit import COMMIT_FILE, Commit
from stores.errors import (
    NotFiniteError,
    RemoteError,
    RowsMissingError,
    StoreDamagedError,
    StoreMismatchError,
    StoreNotFoundError,
)
from stores.features import FeatureStore, not_finite
from stores.layout import Column
from stores.repair import keep_rows
from stores.rows import RowStore


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return filled(tmp_path / "features", 4, 10)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Ten rows that no test adds to."""
    return filled(tmp_path_factory.mktemp("shared") / "features", 4, 10)


def changed(name: str, values: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Outputs of the rows [10, ...) of which one is another."""
    return {**outputs(10, 10 + len(values)), name: values}


class TestRoundtrip:
    @given(order=st.permutations(range(12)), cuts=st.lists(st.integers(0, 12), max_size=4))
    @settings(deadline=None, max_examples=10)
    def test_every_row_is_found_whatever_the_order_and_the_portions(self, order: list[int], cuts: list[int]) -> None:
        edges = [0, *sorted(cuts), 12]
        every = outputs(0, 12)
        with TemporaryDirectory() as scratch:
            store = FeatureStore.create(Path(scratch) / "features", RECIPE, SHAPES)
            for start, stop in pairwise(edges):
                part = order[start:stop]
                values = {name: rows[part] for name, rows in every.items()}
                assert store.append([image(row) for row in part], values) == len(part)
            reader = FeatureStore.open(store.folder)
            for name, rows in every.items():
                np.testing.assert_array_equal(reader.load(images(0, 12), name).matrix, rows)
                np.testing.assert_array_equal(reader.load(output=name).matrix, rows[order])

    @given(sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=3))
    @settings(deadline=None, max_examples=6)
    def test_rows_survive_the_borders_of_chunks(self, sizes: list[int]) -> None:
        stops = np.cumsum(sizes).tolist()
        with TemporaryDirectory() as scratch:
            filled(Path(scratch) / "features", *stops)
            holds_exactly(Path(scratch) / "features", stops[-1])

    @pytest.mark.parametrize(
        "stops",
        [(1023, 1024), (1024, 1025), (1025, 2049), (1024, 2048, 2049), (8191, 8192), (8192, 8193), (9000, 9001)],
    )
    def test_rows_survive_appends_that_end_beside_a_border(self, tmp_path: Path, stops: tuple[int, ...]) -> None:
        filled(tmp_path / "features", *stops)
        holds_exactly(tmp_path / "features", stops[-1])

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_rows_are_stored_in_the_dtype_of_the_recipe(self, tmp_path: Path, dtype: str) -> None:
        thirds = {name: rows.astype(np.float64) / 3 for name, rows in outputs(0, 3).items()}
        store = FeatureStore.create(tmp_path / "features", recipe(dtype=dtype), SHAPES)
        store.append(images(0, 3), thirds)
        for name, rows in thirds.items():
            matrix = open_features(store.folder).load(output=name).matrix
            assert matrix.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(matrix, rows.astype(dtype))

    def test_an_embedding_of_zeros_is_a_row_as_well(self, tmp_path: Path) -> None:
        store = FeatureStore.create(tmp_path / "features", RECIPE, SHAPES)
        store.append(images(0, 2), {name: np.zeros_like(rows) for name, rows in outputs(0, 2).items()})
        np.testing.assert_array_equal(open_features(store.folder).load().matrix, np.zeros((2, DIM)))

    def test_rows_may_lie_in_memory_in_any_order(self, tmp_path: Path) -> None:
        store = FeatureStore.create(tmp_path / "features", RECIPE, SHAPES)
        store.append(images(0, 9), {name: np.asfortranarray(rows) for name, rows in outputs(0, 9).items()})
        holds_exactly(store.folder, 9)

    def test_an_empty_store_has_no_rows(self, tmp_path: Path) -> None:
        store = FeatureStore.create(tmp_path / "features", RECIPE, SHAPES)
        matrix, ids = store.load()
        assert (matrix.shape, ids, len(store)) == ((0, DIM), [], 0)
        assert store.load([]).matrix.shape == (0, DIM)
        assert store.load_mapped().matrix[:].shape == (0, DIM)

    def test_the_path_may_be_text(self, store: FeatureStore) -> None:
        assert len(open_features(str(store.folder))) == 10


class TestAsking:
    @given(wanted=st.lists(st.integers(0, 9), max_size=20), output=st.sampled_from(list(SHAPES)))
    @settings(deadline=None, max_examples=25)
    def test_rows_come_in_the_order_asked_for_and_as_often(
        self, shared: FeatureStore, wanted: list[int], output: str
    ) -> None:
        matrix, found = shared.load([image(row) for row in wanted], output)
        assert found == [image(row) for row in wanted]
        np.testing.assert_array_equal(matrix, outputs(0, 10)[output][wanted])

    @pytest.mark.parametrize("output", SHAPES)
    def test_mapped_rows_are_the_loaded_ones(self, shared: FeatureStore, output: str) -> None:
        mapped, ids = shared.load_mapped(output)
        matrix, images_loaded = shared.load(output=output)
        assert ids == images_loaded
        np.testing.assert_array_equal(mapped[:], matrix)
        rows = shared.rows_of([image(7), image(2), image(7)])
        np.testing.assert_array_equal(mapped[rows], shared.load([image(7), image(2), image(7)], output).matrix)

    def test_mapping_reads_no_row_that_is_not_asked_for(self, tmp_path: Path) -> None:
        folder = filled(tmp_path / "features", 3000).folder
        mapped = FeatureStore.open(folder).load_mapped().matrix
        for name in ("c.0.0", "c.2.0"):
            flip(folder / "embedding" / name)
        np.testing.assert_array_equal(mapped[1024:2048], embeddings(1024, 2048))
        with pytest.raises(StoreDamagedError, match="chunk 2 of 'embedding'"):
            mapped[[1500, 2048]]

    @pytest.mark.parametrize("ask", [FeatureStore.load_mapped, lambda store, output: store.load(output=output)])
    @pytest.mark.parametrize("output", ["image", "checksum", "other", ""])
    def test_an_output_that_is_not_stored_is_refused_with_those_that_are(
        self, shared: FeatureStore, ask: Callable[[FeatureStore, str], object], output: str
    ) -> None:
        with pytest.raises(StoreMismatchError, match=f"has no output '{output}': it has .*embedding"):
            ask(shared, output)

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
        others = {name: -rows for name, rows in outputs(8, 12).items()}
        assert store.append(images(8, 12), others) == 2
        for name, rows in outputs(8, 12).items():
            matrix = open_features(store.folder).load(images(8, 12), name).matrix
            np.testing.assert_array_equal(matrix, np.concatenate([rows[:2], -rows[2:]]))

    def test_appending_only_known_images_leaves_the_store_untouched(self, store: FeatureStore) -> None:
        before = bytes_of(store.folder)
        assert store.append(images(0, 10), outputs(0, 10)) == 0
        assert store.append([], outputs(0, 0)) == 0
        assert bytes_of(store.folder) == before

    def test_of_equal_images_in_one_call_the_first_counts(self, store: FeatureStore) -> None:
        assert store.append([image(10), image(11), image(10)], outputs(10, 13)) == 2
        holds_exactly(store.folder, 12)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("output", SHAPES)
    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_an_embedding_that_is_no_number_is_refused_and_nothing_is_stored(
        self, tmp_path: Path, bad: float, output: str, dtype: str
    ) -> None:
        store = FeatureStore.create(tmp_path / "features", recipe(dtype=dtype), SHAPES)
        store.append(images(0, 10), outputs(0, 10))
        values = outputs(10, 14)
        values[output][2, 1] = bad
        before = bytes_of(store.folder)
        with pytest.raises(
            NotFiniteError, match=f"'{output}' of image {image(12)[:12]} holds NaN or infinity as {dtype}"
        ):
            store.append(images(10, 14), values)
        assert bytes_of(store.folder) == before

    @pytest.mark.parametrize(("dtype", "number"), [("float16", 65520.0), ("float32", 1e300)])
    def test_a_number_too_large_for_the_stored_dtype_is_refused(
        self, tmp_path: Path, dtype: str, number: float
    ) -> None:
        store = FeatureStore.create(tmp_path / "features", recipe(dtype=dtype), SHAPES)
        with pytest.raises(ValueError, match=f"infinity as {dtype} .*--dtype float32"):
            store.append(images(10, 11), changed("embedding", np.full((1, DIM), number)))
        assert len(open_features(store.folder)) == 0

    @pytest.mark.parametrize("number", [65504.0, -65504.0, 65519.0, 6e-8, 0.0, -0.0])
    def test_the_last_numbers_of_float16_are_numbers(self, tmp_path: Path, number: float) -> None:
        store = FeatureStore.create(tmp_path / "features", recipe(dtype="float16"), SHAPES)
        store.append(images(10, 11), changed("embedding", np.full((1, DIM), number)))
        np.testing.assert_array_equal(open_features(store.folder).load().matrix, np.full((1, DIM), np.float16(number)))

    @pytest.mark.parametrize("shape", [(2, DIM), (4, DIM), (3, DIM + 1), (3,), (3, DIM, 1)])
    def test_a_matrix_of_another_shape_is_refused(self, store: FeatureStore, shape: tuple[int, ...]) -> None:
        with pytest.raises(StoreMismatchError, match=r"expected \(3, 3\) values of 'embedding', got"):
            store.append(images(10, 13), {**outputs(10, 13), "embedding": np.ones(shape, dtype=np.float32)})
        holds_exactly(store.folder, 10)

    @pytest.mark.parametrize("names", [("embedding",), ("blocks",), ("embedding", "blocks", "other"), ()])
    def test_other_outputs_than_the_recipes_are_refused(self, store: FeatureStore, names: tuple[str, ...]) -> None:
        with pytest.raises(StoreMismatchError, match=r"expected the outputs \['blocks', 'embedding'\], got"):
            store.append(images(10, 13), dict.fromkeys(names, embeddings(10, 13)))
        holds_exactly(store.folder, 10)

    @pytest.mark.parametrize("name", ["", "abc", "zz" * 32, "ab" * 31, "AB" * 32, "ab " * 21 + "a"])
    def test_a_name_that_is_no_digest_is_refused(self, store: FeatureStore, name: str) -> None:
        with pytest.raises(ValueError, match="hex"):
            store.append([name], outputs(10, 11))
        holds_exactly(store.folder, 10)


@given(bits=st.lists(st.integers(0, 2**16 - 1), min_size=6, max_size=6))
def test_of_float16_the_same_rows_are_not_finite_as_numpy_says(bits: list[int]) -> None:
    rows = np.array(bits, dtype=np.uint16).view(np.float16).reshape(3, 2)
    assert not_finite(rows).tolist() == np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist()


@pytest.mark.usefixtures("small_chunks")
class TestRefreshing:
    def test_another_process_is_seen_after_a_refresh(self, store: FeatureStore) -> None:
        reader = open_features(store.folder)
        assert reader.missing(images(9, 12)) == images(10, 12)
        store.append(images(10, 12), outputs(10, 12))
        assert reader.missing(images(9, 12)) == images(10, 12)
        reader.refresh()
        assert reader.missing(images(9, 12)) == []
        np.testing.assert_array_equal(reader.load(images(9, 12)).matrix, embeddings(9, 12))

    def test_a_reader_that_follows_sees_the_images_of_every_append(self, tmp_path: Path) -> None:
        store = filled(tmp_path / "features", 5)
        reader = open_features(store.folder)
        for stop in (31, 32, 33, 64, 100):
            store.append(images(0, stop), outputs(0, stop))
            reader.refresh()
            assert reader.images == store.images == images(0, stop)
            np.testing.assert_array_equal(reader.load(images(0, stop)).matrix, embeddings(0, stop))

    def test_full_chunks_of_digests_are_not_read_again(self, tmp_path: Path) -> None:
        store = filled(tmp_path / "features", 40)
        assert len(store.images) == 40
        flip(store.folder / "image" / "c.0.0")
        store.append(images(40, 50), outputs(40, 50))
        assert store.images == images(0, 50)

    @pytest.mark.parametrize("dropped", [0, 20, 39, 69])
    def test_rows_that_moved_in_a_repair_are_found_where_they_are_now(self, tmp_path: Path, dropped: int) -> None:
        store = filled(tmp_path / "features", 70)
        assert len(store.images) == 70
        kept = np.arange(70) != dropped
        keep_rows(RowStore.open(store.folder, store.rows.own_columns), kept)
        store.refresh()
        left = np.flatnonzero(kept).tolist()
        assert store.images == [image(row) for row in left]
        assert store.missing(images(0, 70)) == [image(dropped)]
        np.testing.assert_array_equal(store.load([image(row) for row in left]).matrix, embeddings(0, 70)[left])
        assert store.append(images(0, 70), outputs(0, 70)) == 1
        assert sorted(store.images) == sorted(images(0, 70))
        np.testing.assert_array_equal(open_features(store.folder).load(images(0, 70)).matrix, embeddings(0, 70))


class TestIdentity:
    @pytest.mark.parametrize(
        "changes", [{"weights": "1" * 64}, {"transform": "resize(96)"}, {"dtype": "float16"}, {"batch_size": 1}]
    )
    def test_a_folder_of_another_recipe_is_refused(self, store: FeatureStore, changes: dict[str, Any]) -> None:
        with pytest.raises(StoreMismatchError, match="made otherwise"):
            FeatureStore.create(store.folder, recipe(**changes), SHAPES)
        holds_exactly(store.folder, 10)

    def test_a_folder_with_other_outputs_is_refused(self, store: FeatureStore) -> None:
        with pytest.raises(StoreMismatchError, match="made otherwise"):
            FeatureStore.create(store.folder, recipe(outputs={"embedding": "layer4|avgpool"}), {"embedding": (DIM,)})

    @pytest.mark.parametrize("shapes", [{**SHAPES, "embedding": (DIM + 1,)}, {**SHAPES, "blocks": (8,)}])
    def test_a_folder_of_another_length_is_refused(
        self, store: FeatureStore, shapes: dict[str, tuple[int, ...]]
    ) -> None:
        with pytest.raises(StoreMismatchError, match="made otherwise"):
            FeatureStore.create(store.folder, RECIPE, shapes)

    @pytest.mark.parametrize("shapes", [{}, {"embedding": (DIM,)}, {**SHAPES, "more": (2,)}])
    def test_shapes_must_be_of_the_recipes_outputs(self, tmp_path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        with pytest.raises(
            StoreMismatchError, match=r"shapes are given of .*, the recipe's are \['blocks', 'embedding'\]"
        ):
            FeatureStore.create(tmp_path / "features", RECIPE, shapes)
        assert not (tmp_path / "features").exists()

    def test_recipe_and_shapes_are_read_back(self, store: FeatureStore) -> None:
        reader = open_features(store.folder)
        assert reader.recipe == RECIPE
        assert reader.recipe.key == RECIPE.key
        assert (reader.outputs, reader.dim, len(reader)) == (SHAPES, DIM, 10)
        assert (reader.folder, reader.where) == (store.folder, str(store.folder))

    @pytest.mark.parametrize("ingredient", list(RECIPE.to_json()))
    def test_an_ingredient_altered_on_disk_is_noticed(self, store: FeatureStore, ingredient: str) -> None:
        # The record is written anew, with a digest that fits: what notices it is the key.
        others = {
            "libraries": {"torch": "9"},
            "outputs": {**RECIPE.outputs, "blocks": "x"},
            "schema": 99,
            "batch_size": 7,
        }
        attributes = store.rows.attributes
        attributes["recipe"] = {**attributes["recipe"], ingredient: others.get(ingredient, "other")}
        replace(store.rows.commit, attributes=attributes).write(store.folder)
        with pytest.raises(StoreMismatchError, match="does not fit its recipe"):
            open_features(store.folder)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("key", "0" * 64),
            ("kind", "images"),
            ("kind", None),
            ("recipe", None),
            ("recipe", {}),
            ("recipe", {**RECIPE.to_json(), "more": 1}),
            ("recipe", {**RECIPE.to_json(), "outputs": {}}),
            ("shapes", {}),
            ("shapes", {"embedding": "x", "blocks": [2, 4]}),
        ],
    )
    def test_another_attribute_altered_on_disk_is_noticed(self, store: FeatureStore, name: str, value: object) -> None:
        replace(store.rows.commit, attributes={**store.rows.attributes, name: value}).write(store.folder)
        with pytest.raises(StoreMismatchError, match=str(store.folder)):
            open_features(store.folder)

    def test_a_store_of_another_kind_is_no_feature_store(self, tmp_path: Path) -> None:
        RowStore.create(tmp_path / "rows", {"one": Column("int64")}, {"kind": "images"})
        with pytest.raises(StoreMismatchError, match=r"no feature store \(its kind is 'images'\)"):
            open_features(tmp_path / "rows")

    def test_an_absent_store_is_not_found(self, tmp_path: Path) -> None:
        with pytest.raises(StoreNotFoundError):
            open_features(tmp_path / "nowhere")

    def test_the_digest_is_of_the_rows_not_of_the_portions(self, store: FeatureStore, tmp_path: Path) -> None:
        assert filled(tmp_path / "twin", 10).digest == store.digest
        assert filled(tmp_path / "other", 4, 9).digest != store.digest

    def test_the_commit_record_says_what_the_store_is(self, store: FeatureStore) -> None:
        attributes = json.loads((store.folder / COMMIT_FILE).read_text())["attributes"]
        assert attributes == {
            "kind": "features",
            "key": RECIPE.key,
            "recipe": RECIPE.to_json(),
            "shapes": {"embedding": [DIM], "blocks": [2, 4]},
        }

    def test_an_image_that_stands_twice_is_noticed(self, store: FeatureStore) -> None:
        rows = RowStore.open(store.folder, store.rows.own_columns)
        rows.append(**outputs(3, 4), image=rows.read("image", 3, 4))
        with pytest.raises(StoreDamagedError, match=r"holds an image twice: .*repair"):
            open_features(store.folder).load(images(0, 2))


class Elsewhere:
    """The files of a store on a machine that is not this one."""

    def __init__(self, store: FeatureStore) -> None:
        self.where = "there://store"
        self._local = store.rows._local

    def read_file(self, name: str) -> bytes | None:
        return self._local.read_file(name)

    def read_rows(self, extent: Any, start: int, stop: int) -> Any:
        return self._local.read_rows(extent, start, stop)


class TestElsewhere:
    def test_a_store_may_be_read_wherever_its_files_are(self, store: FeatureStore) -> None:
        reader = FeatureStore.open(Elsewhere(store))
        np.testing.assert_array_equal(reader.load(images(2, 9)).matrix, embeddings(2, 9))
        assert (reader.where, len(reader)) == ("there://store", 10)

    @pytest.mark.parametrize(
        "ask",
        [
            lambda store: store.load_mapped(),
            lambda store: store.append(images(10, 11), outputs(10, 11)),
            lambda store: store.folder,
        ],
    )
    def test_but_it_is_only_read(self, store: FeatureStore, ask: Callable[[FeatureStore], object]) -> None:
        before = bytes_of(store.folder)
        with pytest.raises(RemoteError, match="there://store is on another machine, where it can only be read"):
            ask(FeatureStore.open(Elsewhere(store)))
        assert bytes_of(store.folder) == before


def test_every_output_lies_in_its_own_array(store: FeatureStore) -> None:
    assert {path.parent.name for path in chunk_files(store.folder)} == {*SHAPES, "image", "checksum"}
    assert set(Commit.parse((store.folder / COMMIT_FILE).read_bytes(), "").checksums) == {*SHAPES, "image", "checksum"}
