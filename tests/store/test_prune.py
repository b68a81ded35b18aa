"""`store prune` removes what nothing needs, and nothing else."""

import os
import shutil
from pathlib import Path

import pytest
from progress_kit import Ear
from store_kit import BACKBONE, COHORT, POLICY, SAMPLES, content, features, rows, write_manifest

from peftbench import store as verbs
from peftbench.errors import ConfigError, NotPreparedError
from peftbench.protocol.workspace import Workspace
from stores.atomic import write_atomic
from stores.errors import StoreDamagedError, StoreError
from stores.features import FeatureStore
from stores.images import ImageStore
from stores.keys import canonical_json
from stores.lock import writer_lock
from stores.rows import exchange_names

pytestmark = pytest.mark.slow


def leave(store: FeatureStore) -> list[Path]:
    """What interrupted writes leave behind."""
    scratch = store.folder / "embedding" / ".c.0.0.ab12.part"
    scratch.write_bytes(b"half")
    beyond = store.folder / "embedding" / "c.7.0"
    beyond.write_bytes(b"uncommitted")
    _, old = exchange_names(store.folder)
    old.mkdir()
    (old / "rest").write_bytes(b"rest")
    return [scratch, beyond, old]


def record(place: Workspace, key: str) -> None:
    folder = place.record("TOY", BACKBONE, "LP", "run")
    folder.mkdir(parents=True)
    write_atomic(folder / "record.json", canonical_json({"config": {"features": key}}))


def aged(store: FeatureStore, seconds: int) -> FeatureStore:
    os.utime(store.folder / "commit.json", (86_400 - seconds, 86_400 - seconds))
    return store


class TestLeftovers:
    def test_a_tidy_workspace_is_left_alone(self, place: Workspace, store: FeatureStore) -> None:
        before = content(place.root)
        assert verbs.prune(workspace=place).removed == []
        assert content(place.root) == before

    def test_what_interrupted_writes_left_is_removed(self, place: Workspace, store: FeatureStore) -> None:
        before = content(place.root)
        paths = leave(store)
        with_leftovers = content(place.root)
        dry = verbs.prune(dry_run=True, workspace=place)
        assert content(place.root) == with_leftovers
        done = verbs.prune(workspace=place)
        assert {each.path for each in done.removed} == {str(path) for path in paths}
        assert [each.path for each in dry.removed] == [each.path for each in done.removed]
        assert content(place.root) == before

    def test_a_store_that_is_being_written_is_left_alone_and_that_is_said(
        self, place: Workspace, store: FeatureStore
    ) -> None:
        paths, ear = leave(store), Ear()
        with writer_lock(store.folder):
            assert verbs.prune(workspace=place, progress=ear).removed == []
        assert all(path.exists() for path in paths)
        assert "being written by process" in ear.notes[0]

    def test_chunks_of_a_damaged_store_are_left_for_repair(self, place: Workspace, store: FeatureStore) -> None:
        (store.folder / "commit.json").unlink()
        before = content(place.root)
        verbs.prune(workspace=place)
        assert content(place.root) == before

    def test_pictures_whose_exchange_was_cut_short_come_back_and_are_not_removed(
        self, place: Workspace, store: FeatureStore
    ) -> None:
        pictures = place.images(COHORT, POLICY) / "pictures"
        fresh, old = exchange_names(pictures)
        shutil.copytree(pictures, fresh)
        pictures.rename(old)
        verbs.prune(workspace=place)
        assert ImageStore.open(place.images(COHORT, POLICY)).images == store.images
        assert verbs.verify(deep=True, workspace=place).sound


class TestSuperseded:
    def test_the_newest_and_those_that_a_record_names_stay(self, place: Workspace, images: list[str]) -> None:
        by_age = {age: aged(features(place, images, weights=str(age) * 64), age) for age in (1, 2, 3, 4)}
        other = features(place, images, backbone="efficientnet-lite0")
        record(place, by_age[3].recipe.key)
        done = verbs.prune(superseded=True, workspace=place)
        assert {each.path for each in done.removed} == {str(by_age[age].folder) for age in (2, 4)}
        left = [each.folder for each in (*by_age.values(), other) if each.folder.exists()]
        assert left == [by_age[1].folder, by_age[3].folder, other.folder]
        assert verbs.verify(deep=True, workspace=place).sound

    def test_a_store_is_kept_as_long_as_the_newer_one_lacks_some_of_its_images(
        self, place: Workspace, images: list[str]
    ) -> None:
        whole = aged(features(place, images), 9)
        part = aged(features(place, images[:-1], weights="1" * 64), 1)
        assert verbs.prune(superseded=True, workspace=place).removed == []
        part.append(images[-1:], rows(images[-1:]))
        assert [each.path for each in verbs.prune(superseded=True, workspace=place).removed] == [str(whole.folder)]

    def test_a_link_to_a_store_elsewhere_is_refused_before_anything_is_removed(
        self, place: Workspace, images: list[str], tmp_path: Path
    ) -> None:
        old = aged(features(place, images), 9)
        aged(features(place, images, weights="1" * 64), 1)
        moved = old.folder.rename(tmp_path / old.folder.name)
        old.folder.symlink_to(moved)
        with pytest.raises(StoreError, match="is a link: name the folder"):
            verbs.prune(superseded=True, workspace=place)
        assert len(FeatureStore.open(moved)) == SAMPLES

    def test_pictures_that_the_card_does_not_name_go(self, place: Workspace, store: FeatureStore) -> None:
        old = ImageStore.create(place.images(COHORT, "c" * 12), "another policy", 8)
        done = verbs.prune(superseded=True, workspace=place)
        assert [each.path for each in done.removed] == [str(old.folder)]
        assert ImageStore.open(place.images(COHORT, POLICY)).images == store.images

    def test_without_being_asked_nothing_is_superseded(self, place: Workspace, images: list[str]) -> None:
        stores = [features(place, images, weights=digit * 64) for digit in "12"]
        verbs.prune(workspace=place)
        assert all(each.folder.exists() for each in stores)

    def test_a_record_that_cannot_be_read_stops_it(self, place: Workspace, images: list[str]) -> None:
        stores = [features(place, images, weights=digit * 64) for digit in "12"]
        record(place, stores[0].recipe.key)
        next(place.results.rglob("record.json")).write_text("{")
        with pytest.raises(ConfigError, match=r"record\.json cannot be read"):
            verbs.prune(superseded=True, workspace=place)
        assert all(each.folder.exists() for each in stores)


class TestWithdrawn:
    def test_rows_of_images_in_no_cohort_go_and_leave_no_byte(self, place: Workspace, store: FeatureStore) -> None:
        images = store.images
        gone, stay = images[10:14], images[:10] + images[14:]
        before = FeatureStore.open(store.folder).load(stay).matrix
        secret = FeatureStore.open(store.folder).load(gone).matrix.tobytes()
        write_manifest(place, stay)
        done = verbs.prune(withdrawn=True, workspace=place)
        assert [each.rows for each in done.removed] == [4, 4, 4], "of features, sources and pictures"
        after = FeatureStore.open(store.folder)
        assert after.images == stay
        assert (after.load().matrix == before).all()
        assert ImageStore.open(place.images(COHORT, POLICY)).images == stay
        assert verbs.verify(deep=True, workspace=place).sound
        assert not any(secret[:24] in data for data in content(place.root).values())
        assert not any(bytes.fromhex(image) in data for data in content(place.root).values() for image in gone)

    def test_a_dry_run_only_tells(self, place: Workspace, store: FeatureStore) -> None:
        write_manifest(place, store.images[:-1])
        before = content(place.root)
        done = verbs.prune(withdrawn=True, dry_run=True, workspace=place)
        assert (done.dry_run, [each.rows for each in done.removed]) == (True, [1, 1, 1])
        assert content(place.root) == before

    def test_without_a_cohort_nothing_is_removed(self, place: Workspace, store: FeatureStore) -> None:
        place.cohort(COHORT).rename(place.root / "elsewhere")
        (place.root / "cohorts").rmdir()
        with pytest.raises(ConfigError, match="no cohort is prepared"):
            verbs.prune(withdrawn=True, workspace=place)
        assert len(FeatureStore.open(store.folder)) == SAMPLES

    def test_a_manifest_that_cannot_be_read_stops_it(self, place: Workspace, store: FeatureStore) -> None:
        place.manifest(COHORT).write_bytes(b"no parquet")
        with pytest.raises(NotPreparedError):
            verbs.prune(withdrawn=True, workspace=place)
        assert len(FeatureStore.open(store.folder)) == SAMPLES

    def test_a_damaged_store_is_repaired_first(self, place: Workspace, store: FeatureStore) -> None:
        path = store.folder / "embedding" / "c.0.0"
        path.write_bytes(path.read_bytes()[:-1])
        write_manifest(place, store.images[:-1])
        with pytest.raises(StoreDamagedError, match="peftbench store repair"):
            verbs.prune(withdrawn=True, workspace=place)
