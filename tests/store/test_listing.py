"""`store ls` and `store info`: what there is, what made it, and in what two differ."""

from pathlib import Path

import pytest
from store_kit import BACKBONE, COHORT, RECIPE, SAMPLES, features, flip

from peftbench import store as verbs
from peftbench.errors import ConfigError
from peftbench.protocol.workspace import Workspace
from stores.errors import StoreDamagedError
from stores.features import FeatureStore


class TestListing:
    def test_every_store_is_told_with_its_size(self, place: Workspace, store: FeatureStore) -> None:
        mine, pictures = verbs.ls(workspace=place).stores
        assert (mine.kind, mine.name, mine.key) == ("features", "resnet18-random-0", store.recipe.key[:16])
        assert (mine.rows, mine.dtype, mine.state) == (SAMPLES, "float32", "sound")
        assert mine.outputs == {"embedding": [6], "block_cls": [4, 3]}
        assert (pictures.kind, pictures.name, pictures.rows) == ("images", COHORT, SAMPLES)
        assert min(mine.bytes, pictures.bytes) > SAMPLES * 6 * 4
        assert mine.files == len([path for path in store.folder.rglob("*") if path.is_file()])

    def test_a_workspace_without_stores_has_an_empty_frame(self, tmp_path: Path) -> None:
        frame = verbs.ls(workspace=tmp_path / "nowhere").frame
        assert frame.empty
        assert "state" in frame.columns

    def test_a_damaged_store_is_listed_as_such(self, place: Workspace, store: FeatureStore) -> None:
        (store.folder / "embedding" / "c.0.0").unlink()
        assert [each.state for each in verbs.ls(workspace=place).stores] == ["damaged", "sound"]

    def test_a_store_that_is_being_written_names_the_writer(self, place: Workspace, store: FeatureStore) -> None:
        with FeatureStore.open(store.folder).writing():
            (mine, _) = verbs.ls(workspace=place).stores
        assert mine.state.startswith("being written by process ")


class TestInfo:
    def test_the_recipe_is_told_in_the_words_of_the_field(self, place: Workspace, store: FeatureStore) -> None:
        found = verbs.info(BACKBONE, workspace=place)
        assert (found.key, found.rows, found.digest) == (store.recipe.key, SAMPLES, store.digest)
        assert found.recipe == RECIPE.ingredients
        assert found.recipe["interpolation"] == "bicubic"
        assert found.recipe["block_cls: pooling"] == "cls"
        assert (found.compared_with, found.differs_in) == (None, ())

    @pytest.mark.parametrize(
        ("changes", "ingredients"),
        [
            ({"transform": RECIPE.transform.replace("bicubic", "bilinear")}, ["interpolation"]),
            ({"transform": RECIPE.transform.replace("resize(224", "resize(256")}, ["resize"]),
            ({"weights": "1" * 64, "dtype": "float16"}, ["weights", "dtype"]),
            ({"libraries": {"torch": "2.7.0"}}, ["library torch"]),
        ],
    )
    def test_two_stores_are_compared_ingredient_by_ingredient(
        self, place: Workspace, store: FeatureStore, changes: dict[str, object], ingredients: list[str]
    ) -> None:
        other = features(place, store.images, **changes)
        found = verbs.info(store.folder, other.recipe.key, workspace=place)
        assert [each.ingredient for each in found.differs_in] == ingredients
        assert found.compared_with == str(other.folder)

    def test_a_store_does_not_differ_from_itself(self, place: Workspace, store: FeatureStore) -> None:
        assert verbs.info(BACKBONE, store.folder, workspace=place).differs_in == ()

    def test_pictures_tell_their_pixel_policy(self, place: Workspace, store: FeatureStore) -> None:
        assert verbs.info(COHORT, workspace=place).recipe["pixel policy"] == "minmax|long side 8"

    @pytest.mark.parametrize("words", [(COHORT, BACKBONE), (BACKBONE, COHORT)])
    def test_pictures_are_not_compared_with_features(
        self, place: Workspace, store: FeatureStore, words: tuple[str, str]
    ) -> None:
        with pytest.raises(ConfigError, match="holds images: only feature stores are compared"):
            verbs.info(*words, workspace=place)

    def test_a_store_that_cannot_be_opened_says_why(self, place: Workspace, store: FeatureStore) -> None:
        flip(store.folder / "commit.json", 40)
        with pytest.raises(StoreDamagedError, match="peftbench store repair"):
            verbs.info(store.folder, workspace=place)
