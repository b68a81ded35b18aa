"""Repair: what is damaged is dropped, what is sound is kept bit by bit, whatever happens meanwhile."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores_kit import (
    EVERY_STEP,
    RECIPE,
    ROWS,
    SHAPES,
    SIDE,
    PowerCutError,
    add_pictures,
    append,
    bytes_of,
    chunk_files,
    cut_before,
    drawn,
    emptied,
    faults,
    filled,
    filled_images,
    flip,
    forge,
    halved,
    holds_pictures,
    holds_rows,
    image,
    images,
    killed_at,
    longer,
    outputs,
    swap,
    truncated,
)

from stores import rows as rows_module
from stores.commit import COMMIT_FILE, Commit
from stores.errors import StoreDamagedError, StoreError, StoreLockedError, StoreMismatchError, StoreNotFoundError
from stores.features import FeatureStore
from stores.images import ImageStore
from stores.keys import pack_digests, pixels_digest
from stores.local import LocalFiles
from stores.lock import Wait, writer_lock
from stores.repair import Repair, keep_rows, repair
from stores.rows import RowStore, exchange_names
from stores.verify import columns_of

pytestmark = pytest.mark.usefixtures("small_chunks")

CHUNK = 8 * SIDE * SIDE + 4
"""Bytes of a chunk of pictures."""


def facts_of(folder: Path) -> dict[str, Any]:
    """All files below a folder; of metadata, what they say."""
    return {name: json.loads(data) if name.endswith(".json") else data for name, data in bytes_of(folder).items()}


def without(rows: Sequence[int], total: int = ROWS) -> list[int]:
    return [row for row in range(total) if row not in set(rows)]


def mended(folder: Path, dropped: Sequence[int]) -> Repair:
    """Repair a feature store, and assert that exactly these rows are gone and can be added again."""
    (done,) = repair(folder)
    assert (done.folder, done.kept, done.dropped) == (folder, ROWS - len(dropped), len(dropped))
    assert done.faults
    holds_rows(folder, without(dropped))
    assert left_behind(folder) == []
    assert append(folder, 0, ROWS) == len(dropped)
    holds_rows(folder, [*without(dropped), *sorted(dropped)])
    return done


def left_behind(folder: Path) -> list[str]:
    return [each.name for each in folder.parent.iterdir() if each.name.startswith(".")]


class TestSoundStores:
    def test_they_are_left_as_they_are_byte_for_byte(self, sound: Path, sound_images: Path) -> None:
        for folder in (sound, sound_images):
            before = bytes_of(folder)
            done = repair(folder)
            assert [(each.dropped, each.faults) for each in done] == [(0, [])] * len(done)
            assert bytes_of(folder) == before
            assert left_behind(folder) == []

    def test_the_rest_of_an_interrupted_append_is_no_damage(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            cut_before(patch, [(rows_module.Commit, "write")], 0, PowerCutError())
            with pytest.raises(PowerCutError):
                append(folder, ROWS, 200)
        before = bytes_of(folder)
        assert repair(folder) == [Repair(folder, ROWS, 0, [])]
        assert bytes_of(folder) == before


class TestRows:
    @pytest.mark.slow
    @pytest.mark.parametrize("row", [0, 15, 16, 47, ROWS - 1])
    @pytest.mark.parametrize(("name", "chunk"), [("embedding", 16), ("blocks", 16), ("image", 32)])
    def test_a_flipped_byte_costs_the_row_that_holds_it(self, folder: Path, name: str, chunk: int, row: int) -> None:
        size = RowStore.open(folder, columns_of).columns[name].row_bytes
        flip(chunk_files(folder / name)[row // chunk], row % chunk * size + size // 2)
        done = mended(folder, [row])
        assert f"chunk {row // chunk} of '{name}'" in done.faults[0].what

    @pytest.mark.parametrize("name", [*SHAPES, "image", "checksum"])
    @pytest.mark.parametrize("offset", [-1, -5])
    def test_a_flipped_byte_outside_of_all_rows_costs_none(self, folder: Path, name: str, offset: int) -> None:
        last = chunk_files(folder / name)[-1]
        flip(last, last.stat().st_size + offset)
        mended(folder, [])

    def test_damaged_checksums_of_rows_cost_none(self, folder: Path) -> None:
        for path in chunk_files(folder / "checksum"):
            flip(path)
        mended(folder, [])

    def test_lost_checksums_of_rows_cost_none(self, folder: Path) -> None:
        shutil.rmtree(folder / "checksum")
        mended(folder, [])

    def test_where_the_rows_checksums_are_damaged_as_well_the_chunk_is_lost(self, folder: Path) -> None:
        flip(folder / "checksum" / "c.0.0")
        flip(folder / "embedding" / "c.1.0")
        flip(folder / "embedding" / "c.2.0", 12 * 5)
        mended(folder, [*range(16, 32), 37])

    def test_several_damaged_columns_cost_the_rows_of_each(self, folder: Path) -> None:
        flip(folder / "embedding" / "c.0.0", 12 * 3)
        flip(folder / "blocks" / "c.0.0.0", 32 * 5)
        flip(folder / "blocks" / "c.2.0.0", 32 * 5)
        flip(folder / "image" / "c.2.0", 32 * 3)
        mended(folder, [3, 5, 37, 67])

    @pytest.mark.parametrize(
        ("name", "number", "rows"),
        [("embedding", 0, range(16)), ("blocks", 4, range(64, ROWS)), ("image", 1, range(32, 64))],
    )
    def test_a_lost_chunk_costs_its_rows(self, folder: Path, name: str, number: int, rows: range) -> None:
        chunk_files(folder / name)[number].unlink()
        mended(folder, rows)

    @pytest.mark.parametrize(
        ("harm", "rows"), [(truncated, []), (longer, []), (halved, range(24, 32)), (emptied, range(16, 32))]
    )
    def test_a_file_of_another_size_costs_the_rows_it_lacks(
        self, folder: Path, harm: Callable[[Path], None], rows: Sequence[int]
    ) -> None:
        harm(folder / "blocks" / "c.1.0.0")
        mended(folder, rows)

    def test_chunk_files_that_changed_places_cost_the_rows_of_both(self, folder: Path) -> None:
        swap(folder / "blocks" / "c.1.0.0", folder / "blocks" / "c.3.0.0")
        mended(folder, [*range(16, 32), *range(48, 64)])

    @pytest.mark.parametrize("name", [*SHAPES, "image"])
    def test_an_old_version_of_a_chunk_costs_the_rows_it_did_not_have(self, folder: Path, name: str) -> None:
        last = chunk_files(folder / name)[-1]
        older = last.read_bytes()
        append(folder, ROWS, ROWS + 3)
        last.write_bytes(older)
        (done,) = repair(folder)
        assert (done.kept, done.dropped) == (ROWS, 3)
        holds_rows(folder, range(ROWS))

    def test_rows_of_zeros_are_kept_and_none_are_made(self, tmp_path: Path) -> None:
        store = FeatureStore.create(tmp_path / "features", RECIPE, SHAPES)
        values = outputs(0, 40)
        for matrix in values.values():
            matrix[[3, 20]] = 0
        store.append(images(0, 40), values)
        flip(store.folder / "embedding" / "c.0.0", 12 * 7)
        flip(store.folder / "image" / "c.0.0", 32 * 25)
        repair(store.folder)
        left = without([7, 25], 40)
        found, names = FeatureStore.open(store.folder).load()
        assert names == [image(row) for row in left]
        np.testing.assert_array_equal(found, values["embedding"][left])

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_number_that_is_none_costs_its_row(self, folder: Path, bad: float) -> None:
        blocks = outputs(0, ROWS)["blocks"]
        blocks[[9, 40], 1, 2] = bad
        forge(folder, {"blocks": blocks})
        mended(folder, [9, 40])

    def test_an_image_that_stands_twice_keeps_its_first_row(self, folder: Path) -> None:
        digests = images(0, ROWS)
        digests[50] = digests[3]
        forge(folder, {"image": pack_digests(digests)})
        mended(folder, [50])

    def test_a_store_of_which_nothing_is_sound_is_empty_then(self, folder: Path) -> None:
        for path in chunk_files(folder / "image"):
            emptied(path)
        mended(folder, range(ROWS))

    def test_large_stores_are_copied_in_parts(self, tmp_path: Path) -> None:
        folder = filled(tmp_path / "features", 900).folder
        flip(folder / "embedding" / "c.0.0")
        flip(folder / "embedding" / "c.30.0")
        for number in range(16, 32):
            (folder / "blocks" / f"c.{number}.0.0").unlink()
        (done,) = repair(folder)
        assert done.dropped == 1 + 256
        holds_rows(folder, without([0, *range(256, 512)], 900))


DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "lose", "grow"]), st.integers(0, 2**16), st.floats(0, 1, exclude_max=True)
    ),
    min_size=1,
    max_size=8,
)


def harm(path: Path, kind: str, place: float) -> None:
    if not path.exists() or not path.stat().st_size:
        return
    size = path.stat().st_size
    if kind == "flip":
        flip(path, int(place * size), 0x55)
    elif kind == "cut":
        os.truncate(path, int(place * size))
    elif kind == "lose":
        path.unlink()
    else:
        longer(path)


def provable_rows(before: RowStore, folder: Path) -> list[int]:
    """Rows of a damaged store that can be told to be what they were: by their chunk, or by their own checksum."""

    def chunk_is_sound(name: str, row: int) -> bool:
        path = folder / name / before.columns[name].file_name(row // before.columns[name].rows_per_file)
        return path.exists() and path.read_bytes() == (before.folder / path.relative_to(folder)).read_bytes()

    def row_is_sound(name: str, row: int) -> bool:
        column = before.columns[name]
        path = folder / name / column.file_name(row // column.chunk_rows)
        start = row % column.chunk_rows * column.row_bytes
        bytes_now = path.read_bytes()[start : start + column.row_bytes] if path.exists() else b""
        return bytes_now == before.read(name, row, row + 1).tobytes()

    return [
        row
        for row in range(before.rows)
        if all(
            chunk_is_sound(name, row) or (row_is_sound(name, row) and chunk_is_sound("checksum", row))
            for name in before.own_columns
        )
    ]


@pytest.mark.slow
@given(damages=DAMAGES)
@settings(deadline=None, max_examples=20)
def test_whatever_was_damaged_every_row_that_can_be_proven_is_kept_and_no_other(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, damages: list[tuple[str, int, float]]
) -> None:
    folder = Path(shutil.copytree(sound, tmp_path_factory.mktemp("broken") / "features"))
    files = chunk_files(folder)
    for kind, number, place in damages:
        harm(files[number % len(files)], kind, place)
    provable = provable_rows(RowStore.open(sound, columns_of), folder)
    repair(folder)
    holds_rows(folder, provable)
    append(folder, 0, ROWS)
    holds_rows(folder, [*provable, *without(provable)])


class TestRecords:
    @pytest.mark.parametrize("lose", [Path.unlink, emptied, halved])
    def test_a_lost_commit_record_is_made_again_without_losing_a_row(
        self, folder: Path, lose: Callable[[Path], None]
    ) -> None:
        before = facts_of(folder)
        lose(folder / COMMIT_FILE)
        (done,) = repair(folder)
        assert (done.kept, done.dropped) == (ROWS, 0)
        assert "commit" in done.faults[0].what
        assert facts_of(folder) == before

    @pytest.mark.parametrize("lose", [Path.unlink, emptied, halved])
    @pytest.mark.parametrize("name", ["zarr.json", "embedding/zarr.json", "checksum/zarr.json"])
    def test_lost_metadata_are_written_again(self, folder: Path, name: str, lose: Callable[[Path], None]) -> None:
        before = facts_of(folder)
        lose(folder / name)
        (done,) = repair(folder)
        assert (done.kept, done.dropped) == (ROWS, 0)
        assert facts_of(folder) == before

    def test_altered_metadata_are_written_again(self, folder: Path) -> None:
        before = facts_of(folder)
        for path in folder.rglob("zarr.json"):
            path.write_text(path.read_text().replace("crc32c", "gzip").replace(str(ROWS), "7"))
        assert repair(folder)[0].dropped == 0
        assert facts_of(folder) == before

    def test_a_lost_commit_record_and_a_damaged_row_cost_the_row(self, folder: Path) -> None:
        flip(folder / "blocks" / "c.1.0.0", 32 * 5)
        (folder / COMMIT_FILE).unlink()
        mended(folder, [21])

    def test_a_lost_commit_record_and_a_lost_chunk_cost_its_rows(self, folder: Path) -> None:
        (folder / "blocks" / "c.1.0.0").unlink()
        (folder / COMMIT_FILE).unlink()
        mended(folder, range(16, 32))

    def test_a_lost_commit_record_and_chunks_that_changed_places_cost_the_rows_of_both(self, folder: Path) -> None:
        swap(folder / "embedding" / "c.1.0", folder / "embedding" / "c.2.0")
        (folder / COMMIT_FILE).unlink()
        mended(folder, range(16, 48))

    def test_the_record_of_an_image_store_is_made_again(self, gallery: Path) -> None:
        before = facts_of(gallery)
        for table in ("pictures", "sources"):
            (gallery / table / COMMIT_FILE).unlink()
        assert [(each.kept, each.dropped) for each in repair(gallery)] == [(70, 0), (70, 0)]
        assert facts_of(gallery) == before

    @pytest.mark.parametrize("lose", [Path.unlink, emptied])
    def test_where_both_are_lost_nothing_is_touched_and_the_next_step_named(
        self, folder: Path, lose: Callable[[Path], None]
    ) -> None:
        for name in (COMMIT_FILE, "zarr.json"):
            lose(folder / name)
        before = bytes_of(folder)
        with pytest.raises(StoreDamagedError, match="has lost both its commit record and its metadata: delete that"):
            repair(folder)
        assert bytes_of(folder) == before

    def test_a_record_that_was_altered_with_its_digest_costs_no_row_that_is_sound(self, folder: Path) -> None:
        commit = RowStore.open(folder, columns_of).commit
        rows_module.replace(commit, rows=40).write(folder)
        (done,) = repair(folder)
        assert done.kept >= 32
        holds_rows(folder, range(done.kept))

    def test_shapes_that_lag_are_mended(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            cut_before(patch, [(rows_module, "publish")], 0, PowerCutError())
            with pytest.raises(PowerCutError):
                append(folder, ROWS, 90)
        (done,) = repair(folder)
        assert (done.kept, done.dropped) == (90, 0)
        holds_rows(folder, range(90))

    def test_a_folder_that_is_no_store_is_not_found_and_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("mine")
        for folder in (tmp_path / "mine", tmp_path / "nowhere"):
            with pytest.raises(StoreNotFoundError, match="holds no store"):
                repair(folder)
        assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]

    def test_a_store_of_another_form_is_left_alone(self, folder: Path) -> None:
        (folder / COMMIT_FILE).write_text('{"schema":1}')
        before = bytes_of(folder)
        with pytest.raises(StoreMismatchError):
            repair(folder)
        assert bytes_of(folder) == before


class TestPictures:
    def test_a_damaged_picture_is_dropped_with_its_source_and_decoded_again_once(self, gallery: Path) -> None:
        flip(gallery / "pictures" / "pixels" / "c.0.0.0", 3 * CHUNK + 2 * SIDE * SIDE)
        pictures, sources = repair(gallery)
        assert (pictures.kept, pictures.dropped, sources.kept, sources.dropped) == (69, 1, 69, 1)
        holds_pictures(gallery, without([26], 70))
        store = ImageStore.open(gallery)
        add_pictures(store, 0, 70)
        holds_pictures(gallery, [*without([26], 70), 26])
        assert [table.rows for table in store.tables] == [70, 70]

    def test_a_lost_shard_costs_its_pictures(self, gallery: Path) -> None:
        (gallery / "pictures" / "pixels" / "c.1.0.0").unlink()
        repair(gallery)
        holds_pictures(gallery, range(64))

    def test_a_damaged_index_costs_no_picture(self, gallery: Path) -> None:
        shard = gallery / "pictures" / "pixels" / "c.0.0.0"
        flip(shard, shard.stat().st_size - 20)
        repair(gallery)
        holds_pictures(gallery, range(70))

    def test_shards_that_changed_places_cost_their_pictures(self, tmp_path: Path) -> None:
        folder = filled_images(tmp_path / "images", 130).folder
        swap(*chunk_files(folder / "pictures" / "pixels")[:2])
        repair(folder)
        holds_pictures(folder, [128, 129])

    def test_a_picture_under_another_ones_digest_is_dropped(self, gallery: Path) -> None:
        digests = [pixels_digest(each) for each in drawn(range(70))[1]]
        digests[9] = "ab" * 32
        forge(gallery / "pictures", {"image": pack_digests(digests)})
        repair(gallery)
        holds_pictures(gallery, without([9], 70))

    @pytest.mark.parametrize("name", ["source", "image"])
    def test_a_damaged_source_costs_no_picture_and_is_decoded_again(self, gallery: Path, name: str) -> None:
        flip(gallery / "sources" / name / "c.0.0", 32 * 7)
        pictures, sources = repair(gallery)
        assert (pictures.dropped, sources.dropped) == (0, 1)
        store = ImageStore.open(gallery)
        assert len(store.known_sources) == 69
        add_pictures(store, 0, 70)
        holds_pictures(gallery, range(70))
        assert [table.rows for table in store.tables] == [70, 70]

    def test_decoding_again_before_the_sources_were_repaired_names_no_source_twice(self, gallery: Path) -> None:
        flip(gallery / "pictures" / "pixels" / "c.0.0.0", 3 * CHUNK)
        repair(gallery / "pictures")
        store = ImageStore.open(gallery)
        assert len(store.known_sources) == 69
        add_pictures(store, 0, 70)
        assert [table.rows for table in store.tables] == [70, 70]
        holds_pictures(gallery, [*without([24], 70), 24])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A small store of which the rows 3, 5 and [16, 20) are damaged."""
    folder = filled(tmp_path / "broken" / "features", 20).folder
    flip(folder / "embedding" / "c.0.0", 12 * 3)
    flip(folder / "blocks" / "c.0.0.0", 32 * 5)
    (folder / "embedding" / "c.1.0").unlink()
    return folder


LEFT = without([3, 5, *range(16, 20)], 20)


def again(folder: Path, broken: Path) -> Path:
    shutil.rmtree(folder.parent, ignore_errors=True)
    return Path(shutil.copytree(broken, folder))


class TestInterruption:
    @pytest.mark.slow
    @pytest.mark.parametrize(("record_is_lost", "stride"), [(False, 1), (True, 5)])
    def test_killed_at_any_step_and_run_again_it_loses_no_sound_row(
        self, broken: Path, tmp_path: Path, record_is_lost: bool, stride: int
    ) -> None:
        if record_is_lost:
            (broken / COMMIT_FILE).unlink()
        folder = tmp_path / "scratch" / "features"
        for turn in count(0, stride):
            again(folder, broken)
            with pytest.MonkeyPatch.context() as patch:
                killed = killed_at(turn, lambda: repair(folder), patch)
            repair(folder)
            holds_rows(folder, LEFT)
            if not killed:
                break
        assert turn > 30

    @pytest.mark.slow
    @pytest.mark.parametrize("step", [*EVERY_STEP, (shutil, "rmtree"), (rows_module.Commit, "write")], ids=str)
    def test_failing_at_any_step_and_run_again_it_loses_no_sound_row(
        self, broken: Path, tmp_path: Path, step: tuple[object, str]
    ) -> None:
        folder = tmp_path / "scratch" / "features"
        # Of the many files that are named or removed, every third is enough.
        for turn in count(0, 3 if step[1] in {"mkdir", "replace", "unlink"} else 1):
            again(folder, broken)
            with pytest.MonkeyPatch.context() as patch:
                cut_before(patch, [step], turn, PowerCutError())
                try:
                    repair(folder)
                except PowerCutError:
                    failed = True
                else:
                    failed = False
            repair(folder)
            holds_rows(folder, LEFT)
            if not failed:
                break

    @pytest.mark.slow
    def test_killed_at_any_step_whoever_writes_next_loses_no_sound_row(self, broken: Path, tmp_path: Path) -> None:
        folder = tmp_path / "scratch" / "features"
        mended_by_another = 0
        for turn in count(0, 4):
            again(folder, broken)
            with pytest.MonkeyPatch.context() as patch:
                killed = killed_at(turn, lambda: repair(folder), patch)
            try:
                FeatureStore.create(folder, RECIPE, SHAPES)
                append(folder, 100, 101)
            except StoreError:
                repair(folder)
                append(folder, 100, 101)
            else:
                mended_by_another += 1
            holds_rows(folder, [*LEFT, 100])
            if not killed:
                break
        assert mended_by_another > 2

    @pytest.mark.slow
    def test_an_image_store_loses_no_sound_picture_either(self, tmp_path: Path) -> None:
        damaged = filled_images(tmp_path / "damaged" / "images", 40).folder
        flip(damaged / "pictures" / "pixels" / "c.0.0.0", 3 * CHUNK)
        flip(damaged / "sources" / "source" / "c.1.0", 32 * 7)
        folder = tmp_path / "scratch" / "images"
        for turn in count(0, 9):
            again(folder, damaged)
            with pytest.MonkeyPatch.context() as patch:
                killed = killed_at(turn, lambda: repair(folder), patch)
            repair(folder)
            store = ImageStore.open(folder)
            assert store.images == [pixels_digest(each) for each in drawn(without([24], 40))[1]]
            assert len(store.known_sources) == 38
            add_pictures(store, 0, 40)
            holds_pictures(folder, [*without([24], 40), 24])
            if not killed:
                break
        assert turn > 60

    def test_a_full_disk_leaves_the_damaged_store_as_it_was(
        self, broken: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            cut_before(patch, [(rows_module, "write_parts")], 3, OSError(28, "No space left on device"))
            with pytest.raises(OSError, match="No space left"):
                repair(broken)
        assert faults(broken) != []
        assert left_behind(broken) == [], "the room that the copy took is free again"
        repair(broken)
        holds_rows(broken, LEFT)


def parts_of(folder: Path) -> tuple[LocalFiles, Any, Commit]:
    """What a store is made of that was opened before it was damaged."""
    commit = Commit.parse((folder / COMMIT_FILE).read_bytes(), str(folder))
    return LocalFiles(folder), columns_of(commit.attributes), commit


def entered(block: AbstractContextManager[None]) -> None:
    with block:
        pass


def between_the_renames(patch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Do something when a store has left its place and its successor has not taken it yet."""
    original = Path.rename
    acted: list[bool] = []

    def rename(path: Path, target: Path) -> Path:
        moved = original(path, target)
        if not acted:
            acted.append(True)
            act()
        return moved

    patch.setattr(Path, "rename", rename)


class TestOthers:
    def test_a_store_that_is_being_written_is_left_alone(self, broken: Path) -> None:
        before = bytes_of(broken)
        with writer_lock(broken), pytest.raises(StoreLockedError, match="being written by process"):
            repair(broken)
        assert bytes_of(broken) == before

    def test_repair_waits_for_a_writer(self, broken: Path) -> None:
        told: list[str] = []
        held = ExitStack()
        held.enter_context(writer_lock(broken))
        repair(broken, Wait(told.append, held.close, 10, 0.001))
        assert "waiting until it has ended" in told[0]
        holds_rows(broken, LEFT)

    def test_a_writer_that_waited_for_a_repair_writes_to_what_it_left(self, broken: Path) -> None:
        late = RowStore(*parts_of(broken))
        whole = {**outputs(0, 20), "image": pack_digests(images(0, 20))}
        told: list[str] = []
        mending = ExitStack()
        mending.enter_context(writer_lock(broken))

        def mend() -> None:
            keep_rows(RowStore(*parts_of(broken)), np.arange(20) < 14, lambda name, low, high: whole[name][low:high])
            mending.close()

        with late.writing(Wait(told.append, mend, 10, 0.001)):
            late.append(**outputs(14, 40), image=pack_digests(images(14, 40)))
        holds_rows(broken, range(40))

    def test_nobody_writes_to_the_successor_before_it_has_taken_its_place(
        self, broken: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused = []

        def look() -> None:
            with pytest.raises(StoreLockedError), writer_lock(exchange_names(broken)[0]):
                pass
            refused.append(True)

        with monkeypatch.context() as patch:
            between_the_renames(patch, look)
            repair(broken)
        assert refused
        holds_rows(broken, LEFT)

    @pytest.mark.parametrize("who", ["maker", "writer", "lock", "repairer"])
    @pytest.mark.parametrize("dies", [False, True])
    def test_who_comes_between_the_two_renames_costs_no_row(
        self, broken: Path, monkeypatch: pytest.MonkeyPatch, who: str, dies: bool
    ) -> None:
        other = RowStore(*parts_of(broken))

        def come() -> None:
            acts: dict[str, Callable[[], Any]] = {
                "maker": lambda: FeatureStore.create(broken, RECIPE, SHAPES),
                "writer": lambda: entered(other.writing()),
                "lock": lambda: entered(writer_lock(broken)),
                "repairer": lambda: repair(broken),
            }
            with suppress(StoreError):
                acts[who]()
            if dies:
                raise PowerCutError

        with monkeypatch.context() as patch:
            between_the_renames(patch, come)
            with suppress(PowerCutError):
                repair(broken)
        FeatureStore.create(broken, RECIPE, SHAPES)
        holds_rows(broken, LEFT)

    def test_who_looked_just_before_the_store_left_its_place_makes_no_other(
        self, broken: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            cut_before(patch, [(os, "rename")], 1, PowerCutError())
            with pytest.raises(PowerCutError):
                repair(broken)
        assert not broken.exists()
        looks = count()
        finish = rows_module.finish_exchange
        monkeypatch.setattr(rows_module, "finish_exchange", lambda folder: next(looks) and finish(folder))
        FeatureStore.create(broken, RECIPE, SHAPES)
        holds_rows(broken, LEFT)

    def test_a_store_made_anew_meanwhile_is_not_put_aside_and_what_was_kept_neither(
        self, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = filled(tmp_path / "other", 3).folder
        with monkeypatch.context() as patch:
            between_the_renames(patch, lambda: shutil.copytree(other, broken))
            with pytest.raises(StoreError, match="was made anew while it was repaired: what was kept of it is in"):
                repair(broken)
        holds_rows(broken, range(3))
        holds_rows(exchange_names(broken)[0], LEFT)

    def test_a_reader_that_was_open_is_told_that_rows_have_moved(self, broken: Path) -> None:
        reader = FeatureStore(RowStore(*parts_of(broken)), RECIPE)
        repair(broken)
        with pytest.raises(StoreMismatchError, match="was changed since it was opened: open it again"):
            reader.load()
        reader.refresh()
        assert len(reader.images) == len(LEFT)


def test_only_the_marked_rows_are_kept(folder: Path) -> None:
    kept = np.zeros(ROWS, dtype=bool)
    kept[[0, 15, 16, 40, 74]] = True
    with writer_lock(folder):
        keep_rows(RowStore.open(folder, columns_of), kept)
    holds_rows(folder, [0, 15, 16, 40, 74])


def test_keeping_nothing_leaves_an_empty_store(folder: Path) -> None:
    keep_rows(RowStore.open(folder, columns_of), np.zeros(ROWS, dtype=bool))
    holds_rows(folder, [])
    append(folder, 0, 20)
    holds_rows(folder, range(20))
