"""The image store: a picture comes back as it was, is there once, and is found from the file it came from."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores_kit import (
    SIDE,
    Picture,
    add_pictures,
    bytes_of,
    chunk_files,
    drawn,
    filled_images,
    flip,
    holds_pictures,
    picture,
    source,
)

from stores import images as image_module
from stores.errors import (
    RowsMissingError,
    StoreDamagedError,
    StoreLockedError,
    StoreMismatchError,
    StoreNotFoundError,
)
from stores.images import CHUNK_ROWS, SHARD_ROWS, ImageStore
from stores.keys import pixels_digest
from stores.repair import keep_rows
from stores.rows import RowStore


def everything(store: ImageStore) -> dict[str, Picture]:
    names, pictures = store.read(0, len(store))
    return dict(zip(names, pictures, strict=True))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore.create(tmp_path / "images", "minmax|long side 8", SIDE)


@pytest.fixture(scope="module")
def seventy(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    """70 pictures in two shards."""
    return filled_images(tmp_path_factory.mktemp("seventy") / "images", 70)


class TestRoundtrip:
    @pytest.mark.slow
    @given(extents=st.lists(st.tuples(st.integers(1, SIDE), st.integers(1, SIDE)), min_size=1, max_size=9))
    @settings(deadline=None, max_examples=10)
    def test_pictures_of_any_extent_come_back_without_padding(self, extents: list[tuple[int, int]]) -> None:
        made = [picture(number, *extent) for number, extent in enumerate(extents)]
        with TemporaryDirectory() as scratch:
            store = ImageStore.create(Path(scratch) / "images", "policy", SIDE)
            names = store.append([source(number) for number in range(len(made))], made)
            found = everything(ImageStore.open(Path(scratch) / "images"))
        assert names == [pixels_digest(each) for each in made]
        for name, each in zip(names, made, strict=True):
            np.testing.assert_array_equal(found[name], each)
            assert pixels_digest(found[name]) == name

    def test_shards_fill_over_several_appends(self, store: ImageStore) -> None:
        start = 0
        for stop in (1, SHARD_ROWS - 1, SHARD_ROWS + 1, 2 * SHARD_ROWS, 2 * SHARD_ROWS + 10):
            add_pictures(store, start, stop)
            holds_pictures(store.folder, range(stop))
            start = stop

    @pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (3, 9), (60, 70), (68, 99)])
    def test_a_range_of_rows_is_that_part_of_all(self, seventy: ImageStore, start: int, stop: int) -> None:
        names, pictures = seventy.read(0, 70)
        part_names, part = seventy.read(start, stop)
        assert part_names == names[start:stop]
        for one, other in zip(part, pictures[start:stop], strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_black_picture_is_a_picture(self, store: ImageStore) -> None:
        black = np.zeros((3, 4), dtype=np.uint8)
        (name,) = store.append([source("black")], [black])
        np.testing.assert_array_equal(everything(ImageStore.open(store.folder))[name], black)

    def test_black_pictures_of_different_extents_are_different_pictures(self, store: ImageStore) -> None:
        made = [picture(0), np.zeros((3, 4), dtype=np.uint8), np.zeros((4, 3), dtype=np.uint8)]
        names = store.append([source(number) for number in range(3)], made)
        found = everything(store)
        assert [found[name].shape for name in names] == [(5, 7), (3, 4), (4, 3)]

    def test_no_pictures_are_no_pictures(self, store: ImageStore) -> None:
        assert store.append([], []) == []
        assert (len(store), store.images, store.gather([])) == (0, [], [])


class TestGathering:
    @given(wanted=st.lists(st.integers(0, 69), max_size=20))
    @settings(deadline=None, max_examples=30)
    def test_pictures_come_in_the_order_asked_for_and_as_often(self, seventy: ImageStore, wanted: list[int]) -> None:
        names = seventy.images
        _, made = drawn(wanted)
        gathered = seventy.gather([names[row] for row in wanted])
        assert len(gathered) == len(made)
        for one, other in zip(gathered, made, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_pictures_added_later_are_gathered_as_well(self, store: ImageStore) -> None:
        for start, stop in ((0, 3), (3, 11), (11, 70), (70, 71)):
            add_pictures(store, start, stop)
            gathered = store.gather(store.images)
            assert [pixels_digest(each) for each in gathered] == store.images

    def test_damage_is_said_at_the_first_touch_and_plays_no_part_elsewhere(self, tmp_path: Path) -> None:
        store = filled_images(tmp_path / "images", 70)
        names = store.images
        flip(store.folder / "pictures" / "pixels" / "c.0.0.0", CHUNK_ROWS * SIDE * SIDE + 9)
        untouched = names[:CHUNK_ROWS] + names[2 * CHUNK_ROWS :]
        assert [pixels_digest(each) for each in store.gather(untouched)] == untouched
        with pytest.raises(StoreDamagedError, match="chunk 1 of 'pixels'"):
            store.gather([names[CHUNK_ROWS]])

    def test_an_image_that_is_not_there_is_an_error(self, seventy: ImageStore) -> None:
        with pytest.raises(RowsMissingError, match="1 images are not in the image store"):
            seventy.gather([seventy.images[0], "f" * 64])


class TestIdentity:
    def test_equal_pixels_from_two_files_are_one_picture(self, store: ImageStore) -> None:
        names = store.append([source("a"), source("b")], [picture(1), picture(1)])
        assert names[0] == names[1]
        assert len(store) == 1
        assert store.known_sources == {source("a"): names[0], source("b"): names[0]}

    def test_a_picture_that_is_there_is_not_stored_again(self, store: ImageStore) -> None:
        first = store.append([source("a")], [picture(1)])
        again = ImageStore.open(store.folder)
        assert again.append([source("b"), source("c")], [picture(2), picture(1)]) == [
            pixels_digest(picture(2)),
            *first,
        ]
        assert len(again) == 2

    def test_sources_are_known_to_whoever_opens_the_store_next(self, store: ImageStore) -> None:
        names = store.append([source("a"), source("b")], [picture(1), picture(2)])
        store.append([source("c"), source("a")], [picture(1), picture(1)])
        known = dict(zip([source("a"), source("b"), source("c")], [*names, names[0]], strict=True))
        reader = ImageStore.open(store.folder)
        assert reader.known_sources == known
        assert [table.rows for table in reader.tables] == [2, 3], "a source that is known adds no row"

    def test_appending_what_is_known_changes_nothing(self, tmp_path: Path) -> None:
        store = filled_images(tmp_path / "images", 30, 70)
        before = bytes_of(store.folder)
        add_pictures(ImageStore.open(store.folder), 0, 70)
        assert bytes_of(store.folder) == before

    def test_every_known_source_points_at_a_picture(self, store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(**_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(store._sources, "append", fail)
        with pytest.raises(KeyboardInterrupt):
            store.append([source("a")], [picture(1)])
        reader = ImageStore.open(store.folder)
        assert pixels_digest(picture(1)) in reader
        assert reader.known_sources == {}
        reader.append([source("a")], [picture(1)])
        assert len(reader) == 1
        assert reader.known_sources == {source("a"): pixels_digest(picture(1))}

    def test_rows_are_found_by_image(self, seventy: ImageStore) -> None:
        names, _ = seventy.read(0, 70)
        assert seventy.rows_of([names[69], names[0], names[69]]).tolist() == [69, 0, 69]

    def test_an_image_that_is_not_there_is_an_error_with_the_next_step(self, seventy: ImageStore) -> None:
        names, _ = seventy.read(0, 1)
        with pytest.raises(RowsMissingError, match=r"1 images are not in .* run `peftbench prepare` again"):
            seventy.rows_of([names[0], "f" * 64])

    @pytest.mark.parametrize("dropped", [0, 9, 19])
    def test_pictures_that_moved_in_a_repair_are_found_where_they_are_now(self, tmp_path: Path, dropped: int) -> None:
        store = filled_images(tmp_path / "images", 20)
        pictures, _ = ImageStore.open(store.folder).tables
        keep_rows(pictures, np.arange(20) != dropped)
        add_pictures(store, 0, 21)
        assert sorted(store.images) == sorted(pixels_digest(each) for each in drawn(range(21))[1])
        assert [pixels_digest(each) for each in store.gather(store.images)] == store.images
        assert [pixels_digest(each) for each in ImageStore.open(store.folder).gather(store.images)] == store.images

    def test_a_source_whose_picture_was_dropped_is_unknown(self, tmp_path: Path) -> None:
        store = filled_images(tmp_path / "images", 20)
        pictures, _ = store.tables
        keep_rows(pictures, np.arange(20) != 3)
        reader = ImageStore.open(store.folder)
        assert source(3) not in reader.known_sources
        assert len(reader.known_sources) == 19


class TestRefusals:
    @pytest.mark.parametrize("extent", [(SIDE + 1, 1), (1, SIDE + 1)])
    def test_a_picture_larger_than_the_canvas_is_refused_with_all_beside_it(
        self, store: ImageStore, extent: tuple[int, int]
    ) -> None:
        with pytest.raises(StoreMismatchError, match=f"{extent[0]} x {extent[1]} does not fit a canvas of {SIDE}"):
            store.append([source("a"), source("b")], [picture(1), picture(2, *extent)])
        reader = ImageStore.open(store.folder)
        assert (len(reader), reader.known_sources) == (0, {})

    def test_as_many_sources_as_pictures_are_expected(self, store: ImageStore) -> None:
        with pytest.raises(ValueError, match="zip"):
            store.append([source("a")], [picture(1), picture(2)])
        assert len(ImageStore.open(store.folder)) == 0

    @pytest.mark.parametrize(("policy", "side"), [("another", SIDE), ("minmax|long side 8", SIDE + 1)])
    def test_another_policy_or_side_is_refused(self, store: ImageStore, policy: str, side: int) -> None:
        with pytest.raises(StoreMismatchError, match="made otherwise"):
            ImageStore.create(store.folder, policy, side)
        again = ImageStore.create(store.folder, store.policy, SIDE)
        assert (again.side, again.policy, again.folder) == (SIDE, "minmax|long side 8", store.folder)

    @pytest.mark.parametrize("changes", [{"kind": "features"}, {"side": None}, {"side": "wide"}])
    @pytest.mark.parametrize("table", [0, 1])
    def test_a_store_of_another_kind_is_no_image_store(
        self, store: ImageStore, table: int, changes: dict[str, Any]
    ) -> None:
        rows = store.tables[table]
        replace(rows.commit, attributes={**rows.attributes, **changes}).write(rows.folder)
        with pytest.raises(StoreMismatchError, match=r"no image store|not an image store's"):
            ImageStore.open(store.folder)

    def test_an_absent_store_is_not_found(self, tmp_path: Path) -> None:
        with pytest.raises(StoreNotFoundError):
            ImageStore.open(tmp_path / "nowhere")

    @pytest.mark.parametrize("table", [0, 1])
    def test_a_second_writer_is_refused(self, store: ImageStore, table: int) -> None:
        other = ImageStore.open(store.folder)
        with store.tables[table].writing(), pytest.raises(StoreLockedError):
            other.append([source("a")], [picture(1)])
        holds_pictures(store.folder, [])


def test_a_shard_holds_the_stated_number_of_pictures(seventy: ImageStore) -> None:
    pictures, _ = seventy.tables
    assert len(chunk_files(pictures.folder / "pixels")) == -(-70 // image_module.SHARD_ROWS)


def test_what_is_not_picture_is_zero(seventy: ImageStore) -> None:
    pictures: RowStore = seventy.tables[0]
    for canvas, (height, width) in zip(pictures.read("pixels"), pictures.read("extent"), strict=True):
        assert not canvas[height:].any()
        assert not canvas[:, width:].any()
