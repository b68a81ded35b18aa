"""The image store: a picture comes back as it was, is there once, and is found from the file it came from."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from stores import images as image_module
from stores.errors import RowsMissingError, StoreLockedError, StoreMismatchError, StoreNotFoundError
from stores.images import SHARD_ROWS, ImageStore
from stores.keys import digest_of, pixels_digest

SIDE = 8

Picture = npt.NDArray[np.uint8]


def source(name: object) -> str:
    return digest_of(["source", name])


def picture(number: int, height: int = 5, width: int = 7) -> Picture:
    """A picture known from its number and extent."""
    return np.random.default_rng([number, height, width]).integers(0, 256, (height, width), dtype=np.uint8)


def everything(store: ImageStore) -> dict[str, Picture]:
    names, pictures = store.read(0, len(store))
    return dict(zip(names, pictures, strict=True))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore.create(tmp_path / "images", "minmax|long side 8", SIDE)


class TestRoundtrip:
    @given(extents=st.lists(st.tuples(st.integers(1, SIDE), st.integers(1, SIDE)), min_size=1, max_size=9))
    @settings(deadline=None, max_examples=10)
    def test_pictures_of_any_extent_come_back_without_padding(self, extents: list[tuple[int, int]]) -> None:
        drawn = [picture(number, *extent) for number, extent in enumerate(extents)]
        with TemporaryDirectory() as scratch:
            store = ImageStore.create(Path(scratch) / "images", "policy", SIDE)
            names = store.append([source(number) for number in range(len(drawn))], drawn)
            found = everything(ImageStore.open(Path(scratch) / "images"))
        assert names == [pixels_digest(each) for each in drawn]
        for name, each in zip(names, drawn, strict=True):
            np.testing.assert_array_equal(found[name], each)
            assert pixels_digest(found[name]) == name

    def test_shards_fill_over_several_appends(self, store: ImageStore, tmp_path: Path) -> None:
        total = 2 * SHARD_ROWS + 10
        stops = [1, SHARD_ROWS - 1, SHARD_ROWS + 1, 2 * SHARD_ROWS, total]
        drawn = [picture(number, 3 + number % 6, 3 + number // 2 % 6) for number in range(total)]
        for start, stop in zip([0, *stops], stops, strict=False):
            store.append([source(number) for number in range(start, stop)], drawn[start:stop])
            names, pictures = ImageStore.open(tmp_path / "images").read(0, stop)
            assert names == [pixels_digest(each) for each in drawn[:stop]]
            for found, each in zip(pictures, drawn, strict=False):
                np.testing.assert_array_equal(found, each)

    @pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (3, 9), (60, 70), (68, 99)])
    def test_a_range_of_rows_is_that_part_of_all(self, seventy: ImageStore, start: int, stop: int) -> None:
        names, pictures = seventy.read(0, 70)
        part_names, part = seventy.read(start, stop)
        assert part_names == names[start:stop]
        for one, other in zip(part, pictures[start:stop], strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_black_picture_is_a_picture(self, store: ImageStore, tmp_path: Path) -> None:
        black = np.zeros((3, 4), dtype=np.uint8)
        (name,) = store.append([source("black")], [black])
        np.testing.assert_array_equal(everything(ImageStore.open(tmp_path / "images"))[name], black)

    def test_black_pictures_of_different_extents_are_different_pictures(self, store: ImageStore) -> None:
        drawn = [picture(0), np.zeros((3, 4), dtype=np.uint8), np.zeros((4, 3), dtype=np.uint8)]
        names = store.append([source(number) for number in range(3)], drawn)
        found = everything(store)
        assert [found[name].shape for name in names] == [(5, 7), (3, 4), (4, 3)]


@pytest.fixture(scope="module")
def seventy(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    """70 pictures in two shards."""
    store = ImageStore.create(tmp_path_factory.mktemp("seventy") / "images", "policy", SIDE)
    store.append([source(number) for number in range(70)], [picture(number) for number in range(70)])
    return store


class TestIdentity:
    def test_equal_pixels_from_two_files_are_one_picture(self, store: ImageStore) -> None:
        names = store.append([source("a"), source("b")], [picture(1), picture(1)])
        assert names[0] == names[1]
        assert len(store) == 1
        assert store.known_sources == {source("a"): names[0], source("b"): names[0]}

    def test_a_picture_that_is_there_is_not_stored_again(self, store: ImageStore, tmp_path: Path) -> None:
        first = store.append([source("a")], [picture(1)])
        again = ImageStore.open(tmp_path / "images")
        assert again.append([source("b"), source("c")], [picture(2), picture(1)]) == [
            pixels_digest(picture(2)),
            *first,
        ]
        assert len(again) == 2

    def test_sources_are_known_to_whoever_opens_the_store_next(self, store: ImageStore, tmp_path: Path) -> None:
        names = store.append([source("a"), source("b")], [picture(1), picture(2)])
        store.append([source("c"), source("a")], [picture(1), picture(1)])
        known = dict(zip([source("a"), source("b"), source("c")], [*names, names[0]], strict=True))
        reader = ImageStore.open(tmp_path / "images")
        assert reader.known_sources == known
        assert reader._sources.rows == 3, "a source that is known adds no row"

    def test_every_known_source_points_at_a_picture(
        self, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(**_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(store._sources, "append", fail)
        with pytest.raises(KeyboardInterrupt):
            store.append([source("a")], [picture(1)])
        reader = ImageStore.open(tmp_path / "images")
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


class TestRefusals:
    @pytest.mark.parametrize("extent", [(SIDE + 1, 1), (1, SIDE + 1)])
    def test_a_picture_larger_than_the_canvas_is_refused_with_all_beside_it(
        self, store: ImageStore, tmp_path: Path, extent: tuple[int, int]
    ) -> None:
        with pytest.raises(StoreMismatchError, match=f"{extent[0]} x {extent[1]} does not fit a canvas of {SIDE}"):
            store.append([source("a"), source("b")], [picture(1), picture(2, *extent)])
        reader = ImageStore.open(tmp_path / "images")
        assert (len(reader), reader.known_sources) == (0, {})

    def test_another_policy_or_side_is_refused(self, store: ImageStore, tmp_path: Path) -> None:
        for policy, side in (("another", SIDE), (store.policy, SIDE + 1)):
            with pytest.raises(StoreMismatchError):
                ImageStore.create(tmp_path / "images", policy, side)
        assert ImageStore.create(tmp_path / "images", store.policy, SIDE).side == SIDE

    def test_a_feature_store_is_no_image_store(self, store: ImageStore, tmp_path: Path) -> None:
        zarr.open_group(str(tmp_path / "images" / "pictures"), mode="r+").attrs["kind"] = "features"
        with pytest.raises(StoreMismatchError, match="no image store"):
            ImageStore.open(tmp_path / "images")

    def test_an_absent_store_is_not_found(self, tmp_path: Path) -> None:
        with pytest.raises(StoreNotFoundError):
            ImageStore.open(tmp_path / "nowhere")

    def test_a_second_writer_is_refused(self, store: ImageStore, tmp_path: Path) -> None:
        other = ImageStore.open(tmp_path / "images")
        with store._pictures.writing(), pytest.raises(StoreLockedError):
            other.append([source("a")], [picture(1)])


def test_a_plain_zarr_reader_finds_the_pictures(seventy: ImageStore) -> None:
    names, pictures = seventy.read(0, 70)
    group = zarr.open_group(str(seventy._pictures.folder), mode="r")
    for row in (0, 63, 64, 69):
        height, width = group["extent"][row]
        np.testing.assert_array_equal(group["pixels"][row][:height, :width], pictures[row])
        assert bytes(group["image"][row]).hex() == names[row]
        assert not group["pixels"][row][height:].any()
        assert not group["pixels"][row][:, width:].any()
    assert group["pixels"].metadata.dimension_names == ("row", "y", "x")


def test_every_chunk_and_index_of_the_pictures_carries_a_checksum(seventy: ImageStore) -> None:
    metadata = json.loads((seventy._pictures.folder / "pixels" / "zarr.json").read_text())
    (sharding,) = metadata["codecs"]
    for part in ("codecs", "index_codecs"):
        assert sharding["configuration"][part][-1]["name"] == "crc32c"


def test_a_shard_holds_the_stated_number_of_pictures(seventy: ImageStore) -> None:
    shards = [path for path in (seventy._pictures.folder / "pixels" / "c").rglob("*") if path.is_file()]
    assert len(shards) == -(-70 // image_module.SHARD_ROWS)
