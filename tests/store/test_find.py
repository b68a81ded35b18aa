"""Which store is meant by what a user writes."""

import os
from pathlib import Path

import pytest
from store_kit import BACKBONE, COHORT, features

from peftbench.errors import ConfigError
from peftbench.protocol.workspace import Workspace
from peftbench.store.find import Place, all_stores, chosen_stores, find_local, find_store, size_of
from stores.features import FeatureStore
from stores.rows import exchange_names


def names(place: Workspace) -> list[tuple[str, str]]:
    return [(each.kind, each.name) for each in all_stores(place)]


def test_all_stores_of_a_workspace_are_found(place: Workspace, store: FeatureStore) -> None:
    assert names(place) == [("features", "resnet18-random-0"), ("images", COHORT)]


def test_an_empty_workspace_has_none(tmp_path: Path) -> None:
    assert all_stores(Workspace(tmp_path / "nowhere")) == []


@pytest.mark.parametrize("lost", ["commit.json", "zarr.json"])
def test_a_store_that_lost_a_record_is_still_one(place: Workspace, store: FeatureStore, lost: str) -> None:
    (store.folder / lost).unlink()
    assert ("features", "resnet18-random-0") in names(place)


def test_stores_under_repair_are_not_listed(place: Workspace, store: FeatureStore) -> None:
    fresh, _ = exchange_names(store.folder)
    features(place, store.images).folder.rename(fresh)
    assert names(place) == [("images", COHORT)]


def test_an_exchange_that_was_cut_short_is_completed(place: Workspace, store: FeatureStore) -> None:
    fresh, old = exchange_names(store.folder)
    store.folder.rename(fresh)
    old.mkdir()
    assert ("features", "resnet18-random-0") in names(place)
    assert len(FeatureStore.open(store.folder)) == len(store)


class TestFinding:
    def test_by_folder_name_key_and_spelling(self, place: Workspace, store: FeatureStore) -> None:
        key = store.recipe.key
        for text in (str(store.folder), key, key[:16], key[:4], BACKBONE, "resnet18-random-0"):
            assert find_local(text, place).folder.resolve() == store.folder.resolve()

    def test_a_relative_folder_is_the_store_of_the_workspace(self, place: Workspace, store: FeatureStore) -> None:
        relative = os.path.relpath(store.folder)
        assert find_store(relative, place) == Place("features", "resnet18-random-0", store.folder)

    def test_a_folder_outside_the_workspace(self, tmp_path: Path, store: FeatureStore) -> None:
        elsewhere = Workspace(tmp_path / "elsewhere")
        assert find_local(str(store.folder), elsewhere).folder == store.folder

    def test_pictures_are_found_by_their_cohort(self, place: Workspace, store: FeatureStore) -> None:
        assert find_local(COHORT, place).kind == "images"

    def test_an_address_is_answered_as_it_is(self, place: Workspace) -> None:
        assert find_store("s3://bucket/key", place) == "s3://bucket/key"
        with pytest.raises(ConfigError, match="on another machine"):
            find_local("s3://bucket/key", place)

    def test_what_is_not_there_lists_what_is(self, place: Workspace, store: FeatureStore) -> None:
        with pytest.raises(ConfigError, match=r"no store 'resnet81'.*resnet18-random-0/.*toy/.*peftbench store ls"):
            find_store("resnet81", place)

    def test_three_characters_are_too_few_for_a_key(self, place: Workspace, store: FeatureStore) -> None:
        with pytest.raises(ConfigError, match="no store"):
            find_store(store.recipe.key[:3], place)

    def test_a_name_of_two_stores_lists_their_keys(self, place: Workspace, store: FeatureStore) -> None:
        other = features(place, store.images, weights="1" * 64)
        with pytest.raises(ConfigError, match="2 stores are called") as caught:
            find_store(BACKBONE, place)
        assert all(each.recipe.key[:16] in str(caught.value) for each in (store, other))

    def test_without_a_name_all_are_chosen(self, place: Workspace, store: FeatureStore) -> None:
        assert chosen_stores([], place) == all_stores(place)
        assert len(chosen_stores([BACKBONE, store.recipe.key], place)) == 1

    def test_a_workspace_without_stores_says_what_makes_them(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="peftbench extract"):
            chosen_stores([], Workspace(tmp_path / "empty"))


def test_the_size_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "full").write_bytes(b"x" * 100_000)
    with (tmp_path / "a" / "hole").open("wb") as stream:
        stream.truncate(50_000_000)
    size, files = size_of(tmp_path / "a")
    assert files == 2
    assert 100_000 <= size < 1_000_000
