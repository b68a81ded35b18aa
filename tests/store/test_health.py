"""`store verify` and `store repair` over a workspace; what they find in a single store is tested beside the stores."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from store_kit import BACKBONE, SAMPLES, content, features, flip, made, pictures, rows

from peftbench import store as verbs
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore
from stores.images import ImageStore
from stores.keys import digest_of


def test_a_sound_workspace_is_sound_and_left_alone(place: Workspace, store: FeatureStore) -> None:
    before = content(place.root)
    for deep in (False, True):
        found = verbs.verify(deep=deep, workspace=place)
        assert found.sound
        assert [each.kind for each in found.stores] == ["features", "images", "sources"]
    assert all(each.dropped == 0 and not each.faults for each in verbs.repair(workspace=place).stores)
    assert content(place.root) == before


def test_only_what_is_named_is_looked_at(place: Workspace, store: FeatureStore) -> None:
    other = features(place, store.images, weights="1" * 64)
    flip(store.folder / "embedding" / "c.0.0", 50)
    assert verbs.verify(other.folder, deep=True, workspace=place).sound
    assert not verbs.verify([other.folder, store.recipe.key], deep=True, workspace=place).sound


def test_a_flipped_byte_costs_one_row_which_can_be_embedded_again(place: Workspace, store: FeatureStore) -> None:
    images = store.images
    flip(store.folder / "block_cls" / "c.0.0.0", 5 * 4 * 3 * 4 + 7)
    assert verbs.verify(workspace=place).sound, "sizes do not tell"
    (features_verdict, *others) = verbs.verify(deep=True, workspace=place).stores
    (fault,) = features_verdict.faults
    assert fault.rows == [0, SAMPLES]
    assert all(each.sound for each in others)
    (mended, *_) = verbs.repair(BACKBONE, workspace=place).stores
    assert (mended.kept, mended.dropped) == (SAMPLES - 1, 1)
    again = FeatureStore.open(store.folder)
    (lost,) = again.missing(images)
    assert lost == images[5]
    original = rows(images)
    again.append([lost], {name: values[5:6] for name, values in original.items()})
    for name, values in original.items():
        np.testing.assert_array_equal(again.load(images, name).matrix, values)
    assert verbs.verify(deep=True, workspace=place).sound


def test_what_may_not_be_read_is_not_damage(
    place: Workspace, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, opened = content(place.root), os.open

    def refuse(path: object, *words: int) -> int:
        if str(path).endswith("embedding/c.0.0"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *words)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(os, "open", refuse)
    for verb in (verbs.repair, verbs.verify):
        with pytest.raises(PermissionError):
            verb(BACKBONE, workspace=place, **({"deep": True} if verb is verbs.verify else {}))
    monkeypatch.undo()
    assert content(place.root) == before


def test_a_store_of_another_version_does_not_keep_the_others_from_being_looked_at(
    place: Workspace, store: FeatureStore
) -> None:
    other = features(place, store.images, weights="1" * 64)
    (store.folder / "commit.json").write_text('{"schema":1,"rows":0}')
    verdicts = {each.path: each.sound for each in verbs.verify(workspace=place).stores}
    assert (verdicts[str(store.folder)], verdicts[str(other.folder)]) == (False, True)
    repairs = {each.path: each.mended for each in verbs.repair(workspace=place).stores}
    assert (repairs[str(store.folder)], repairs[str(other.folder)]) == (False, True)


@pytest.mark.slow
def test_threads_that_append_to_one_store_take_turns(place: Workspace) -> None:
    images = [digest_of(["thread", row]) for row in range(48)]
    store, values = features(place, images[:0]), rows(images)

    def append(start: int) -> int:
        part = {name: each[start : start + 4] for name, each in values.items()}
        return store.append(images[start : start + 4], part)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(append, range(0, 48, 4))) == 48
    again = FeatureStore.open(store.folder)
    for name, each in values.items():
        np.testing.assert_array_equal(again.load(images, name).matrix, each)
    assert verbs.verify(BACKBONE, deep=True, workspace=place).sound


def test_a_damaged_picture_is_decoded_again(place: Workspace) -> None:
    images = made(place)
    folder = next((place.root / "cohorts").glob("*/images/*"))
    flip(folder / "pictures" / "pixels" / "c.1.0.0", 70)
    found = verbs.verify(deep=True, workspace=place)
    assert [each.sound for each in found.stores] == [False, True]
    dropped = {each.path.rsplit("/", 1)[-1]: each.dropped for each in verbs.repair(workspace=place).stores}
    assert dropped == {"pictures": 1, "sources": 1}
    store = ImageStore.open(folder)
    (lost,) = [image for image in images if image not in store]
    row = images.index(lost)
    source = digest_of(["source", row])
    assert source not in store.known_sources
    assert store.append([source], [pictures()[row]]) == [lost]
    np.testing.assert_array_equal(ImageStore.open(folder).gather([lost])[0], pictures()[row])
    assert verbs.verify(deep=True, workspace=place).sound
