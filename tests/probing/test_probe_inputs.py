"""What a probe reads: the right store's rows in the task's order, or the view alone."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from probe_kit import BACKBONE, DIM, cohort_rows, recipe
from progress_kit import Ear

from peftbench.errors import NotPreparedError, UnknownNameError
from peftbench.probing.given import Given
from peftbench.probing.inputs import ProbeInput, stored_features
from peftbench.protocol.workspace import Workspace
from stores.errors import StoreDamagedError
from stores.features import FeatureStore
from stores.rows import exchange_names

ROWS = cohort_rows(5, 7)
IMAGES = ROWS.frame["image_digest"].tolist()


def store(place: Workspace, images: list[str], age: int = 0, backbone: str = BACKBONE, **changes: str) -> FeatureStore:
    """A store of images whose first feature is their number, committed `age` seconds before the epoch's second day."""
    given = recipe(**changes)
    made = FeatureStore.create(place.features(backbone, given.key), given, {"embedding": (DIM,)})
    matrix = np.repeat([[int(image, 16)] for image in images], DIM, axis=1).astype(np.float32)
    made.append(images, {"embedding": matrix})
    os.utime(made.folder / "commit.json", (86_400 - age, 86_400 - age))
    return made


def read(place: Workspace, pin: str | None = None) -> tuple[ProbeInput, list[str]]:
    ear = Ear()
    return stored_features(ROWS, BACKBONE, place, ear, pin), ear.notes


def matrix_of(found: ProbeInput) -> np.ndarray:
    (matrix,) = found.given.readings.values()
    return matrix


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


class TestStoredFeatures:
    def test_rows_come_in_the_order_of_the_task(self, place: Workspace) -> None:
        made = store(place, [*reversed(IMAGES), f"{99:064x}"])
        found, notes = read(place)
        assert matrix_of(found)[:, 0].tolist() == list(range(len(IMAGES)))
        assert found.identity == made.recipe.key
        assert found.origin == {"recipe": made.recipe.to_json()}
        assert (found.name, notes) == (BACKBONE, [])

    def test_of_several_the_newest_is_taken_and_the_user_told(self, place: Workspace) -> None:
        keys = {age: store(place, IMAGES, age, weights=str(age) * 64).recipe.key for age in (3, 1, 2)}
        found, (note,) = read(place)
        assert found.identity == keys[1]
        assert "3 feature stores" in note
        assert keys[1][:16] in note
        assert "--features" in note

    @pytest.mark.parametrize("length", [6, 16, 64])
    def test_a_pin_takes_the_store_it_names_without_a_word(self, place: Workspace, length: int) -> None:
        keys = [store(place, IMAGES, age, weights=str(age) * 64).recipe.key for age in (3, 1, 2)]
        for key in keys:
            found, notes = read(place, key[:length])
            assert (found.identity, notes) == (key, [])

    def test_a_pin_that_fits_no_store_lists_those_that_are(self, place: Workspace) -> None:
        keys = [store(place, IMAGES, weights=digit * 64).recipe.key for digit in "12"]
        with pytest.raises(NotPreparedError, match="'zzz'") as caught:
            read(place, "zzz")
        assert all(key[:16] in str(caught.value) for key in keys)

    def test_a_store_that_lacks_images_is_passed_over_for_one_that_does_not(self, place: Workspace) -> None:
        whole = store(place, IMAGES, age=9)
        store(place, IMAGES[:-1], age=1, weights="1" * 64)
        found, notes = read(place)
        assert (found.identity, notes) == (whole.recipe.key, [])

    def test_missing_images_are_counted_and_the_command_named(self, place: Workspace) -> None:
        store(place, IMAGES[:5])
        store(place, IMAGES[:9], weights="1" * 64)
        with pytest.raises(NotPreparedError, match=r"lack 3 of the 12 images") as caught:
            read(place)
        assert f"`peftbench extract toy --backbone {BACKBONE}`" in str(caught.value)

    def test_without_a_store_the_command_and_what_is_there_are_named(self, place: Workspace) -> None:
        store(place, IMAGES, backbone="efficientnet-lite0")
        with pytest.raises(NotPreparedError, match=f"`peftbench extract toy --backbone {BACKBONE}`") as caught:
            read(place)
        assert "efficientnet-lite0" in str(caught.value)

    def test_an_unknown_backbone_names_the_nearest(self, place: Workspace) -> None:
        with pytest.raises(UnknownNameError, match=r"'resnet81'.* did you mean resnet18"):
            stored_features(ROWS, "resnet81@random:0", place, Ear())

    def test_a_store_that_was_never_committed_is_not_there(self, place: Workspace) -> None:
        (store(place, IMAGES).folder / "commit.json").unlink()
        with pytest.raises(NotPreparedError):
            read(place)

    def test_damaged_features_are_not_probed(self, place: Workspace) -> None:
        path = store(place, IMAGES).folder / "embedding" / "c.0.0"
        data = bytearray(path.read_bytes())
        data[9] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(StoreDamagedError):
            read(place)

    def test_a_damaged_store_is_passed_over_for_a_sound_one_and_that_is_said(self, place: Workspace) -> None:
        sound = store(place, IMAGES, age=9, weights="1" * 64)
        damaged = store(place, IMAGES, age=1)
        path = damaged.folder / "embedding" / "c.0.0"
        path.write_bytes(path.read_bytes()[:-1])
        found, notes = read(place)
        assert found.identity == sound.recipe.key
        assert len(notes) == 1
        assert notes[0].startswith("passed over: ")

    def test_what_a_repair_left_that_was_cut_short_is_no_store(self, place: Workspace) -> None:
        """Its copy may hold all rows, and the store that it was to replace is damaged."""
        made = store(place, IMAGES, age=9)
        for each in exchange_names(made.folder):
            shutil.copytree(made.folder, each)
        found, notes = read(place)
        assert (found.identity, notes) == (made.recipe.key, [])
        shutil.rmtree(made.folder)
        for each in exchange_names(made.folder):
            (each / "commit.json").write_bytes(b"")
        with pytest.raises(NotPreparedError, match="no features of"):
            read(place)

    def test_the_digest_is_of_what_is_probed_and_of_nothing_else(self, place: Workspace) -> None:
        made = store(place, IMAGES)
        first = read(place)[0].digest
        made.append([f"{99:064x}"], {"embedding": np.ones((1, DIM), dtype=np.float32)})
        assert read(place)[0].digest == first, "images of other cohorts play no part"
        found = read(place)[0]
        changed = found._replace(given=Given({"embedding": matrix_of(found) + 1}))
        assert changed.digest != first
