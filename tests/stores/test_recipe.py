"""Recipes: every ingredient counts for the key, and a difference is told in the field's own words."""

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores_kit import RECIPE, recipe

from stores.recipe import Difference, FeatureRecipe, transform_parts

OUTPUTS = dict(RECIPE.outputs)
TRANSFORM = RECIPE.transform


def transform(old: str, new: str) -> dict[str, str]:
    assert old in TRANSFORM
    return {"transform": TRANSFORM.replace(old, new)}


CHANGES: list[tuple[dict[str, Any], Difference]] = [
    ({"weights": "1" * 64}, Difference("weights", "0" * 64, "1" * 64)),
    ({"architecture": "timm:tinier"}, Difference("architecture", "timm:tiny", "timm:tinier")),
    (transform("bicubic", "bilinear"), Difference("interpolation", "bicubic", "bilinear")),
    (transform("bicubic,", ""), Difference("interpolation", "bicubic", "not stated")),
    (transform(",antialias", ""), Difference("antialiasing", "yes", "no")),
    (transform("224", "256"), Difference("resize", "224", "256")),
    (transform("mean=0.5", "mean=0.4"), Difference("mean", "0.5", "0.4")),
    (transform("std=0.25", "std=0.3"), Difference("std", "0.25", "0.3")),
    (transform("|normalize", "|centercrop(200)|normalize"), Difference("crop", "", "200")),
    (transform("|normalize", "|rgb|normalize"), Difference("channels", "", "rgb")),
    (transform("|normalize", "|equalize(8)|normalize"), Difference("transform: equalize", "", "8")),
    ({"outputs": {**OUTPUTS, "embedding": "layer3|avgpool"}}, Difference("embedding: layer", "layer4", "layer3")),
    ({"outputs": {**OUTPUTS, "embedding": "layer4|maxpool"}}, Difference("embedding: pooling", "avgpool", "maxpool")),
    ({"outputs": {**OUTPUTS, "embedding": "layer4"}}, Difference("embedding: pooling", "avgpool", "none")),
    ({"outputs": {**OUTPUTS, "blocks": "layer4|mean"}}, Difference("blocks: layer", "layer3,layer4", "layer4")),
    ({"outputs": {**OUTPUTS, "blocks": "layer3,layer4|max"}}, Difference("blocks: pooling", "mean", "max")),
    ({"dtype": "float16"}, Difference("dtype", "float32", "float16")),
    ({"precision": "bf16"}, Difference("precision", "fp32", "bf16")),
    ({"device": "cuda/NVIDIA H100"}, Difference("device", "cpu/AVX512", "cuda/NVIDIA H100")),
    ({"batch_size": 8}, Difference("batch size", "16", "8")),
    ({"memory_layout": "channels_last"}, Difference("memory layout", "contiguous", "channels_last")),
    ({"libraries": {"torch": "2.6.1", "timm": "1.0.15"}}, Difference("library torch", "2.6.0", "2.6.1")),
    ({"libraries": {"torch": "2.6.0"}}, Difference("library timm", "1.0.15", "")),
    ({"libraries": {**RECIPE.libraries, "numpy": "2.0"}}, Difference("library numpy", "", "2.0")),
    ({"graph": "folded"}, Difference("graph", "eager", "folded")),
    ({"graph": "folded+compiled"}, Difference("graph", "eager", "folded+compiled")),
    ({"schema": 99}, Difference("schema", str(RECIPE.schema), "99")),
]


class TestIngredients:
    def test_every_field_of_a_recipe_is_tested(self) -> None:
        assert {name for changes, _ in CHANGES for name in changes} == {
            field.name for field in dataclasses.fields(FeatureRecipe)
        }

    @pytest.mark.parametrize(("changes", "difference"), CHANGES, ids=[each.ingredient for _, each in CHANGES])
    def test_one_that_changes_changes_the_key_and_is_named(
        self, changes: dict[str, Any], difference: Difference
    ) -> None:
        assert recipe(**changes).key != RECIPE.key
        assert RECIPE.differences(recipe(**changes)) == [difference]

    def test_no_two_changes_share_a_key(self) -> None:
        assert len({recipe(**changes).key for changes, _ in CHANGES} | {RECIPE.key}) == len(CHANGES) + 1

    def test_an_added_output_changes_the_key_and_is_named_with_layer_and_pooling(self) -> None:
        other = recipe(outputs={**OUTPUTS, "patch_mean": "norm|mean"})
        assert other.key != RECIPE.key
        assert RECIPE.differences(other) == [
            Difference("patch_mean: layer", "", "norm"),
            Difference("patch_mean: pooling", "", "mean"),
        ]
        assert other.differences(RECIPE) == [
            Difference("patch_mean: layer", "norm", ""),
            Difference("patch_mean: pooling", "mean", ""),
        ]

    def test_several_changes_are_all_named(self) -> None:
        other = recipe(precision="bf16", batch_size=8, **transform("bicubic", "bilinear"))
        assert [each.ingredient for each in RECIPE.differences(other)] == ["interpolation", "precision", "batch size"]

    @pytest.mark.parametrize(
        "other",
        [
            "normalize(mean=0.5;std=0.25)|resize(224,bicubic,antialias)",
            f"resize(512,bicubic,antialias)|{TRANSFORM}",
            "resize(224,antialias,bicubic)|normalize(mean=0.5;std=0.25)",
        ],
        ids=["order", "a step twice", "order of words"],
    )
    def test_what_no_part_tells_is_told_by_the_whole(self, other: str) -> None:
        assert RECIPE.differences(recipe(transform=other, precision="bf16")) == [
            Difference("transform", TRANSFORM, other),
            Difference("precision", "fp32", "bf16"),
        ]

    def test_an_output_without_pooling_is_not_one_whose_pooling_is_called_none(self) -> None:
        mine, theirs = (recipe(outputs={"embedding": output}) for output in ("layer4", "layer4|none"))
        (difference,) = mine.differences(theirs)
        assert difference == Difference("outputs", str({"embedding": "layer4"}), str({"embedding": "layer4|none"}))


WORDS = st.sampled_from(["a", "b", "none", "", "a|b", "b|a", "a|none", "yes", "mean=1"])
STEPS = st.sampled_from(
    ["resize(8)", "resize(8,bicubic)", "resize(8,antialias)", "crop(4)", "centercrop(4)", "rgb", "grey", "normalize(1)",
     "normalize(mean=1)", "normalize(std=1;mean=1)", "flip", "flip()", "flip(yes)", ""]
)  # fmt: skip
RECIPES = st.builds(
    FeatureRecipe,
    architecture=WORDS,
    weights=WORDS,
    transform=st.lists(STEPS, max_size=3).map("|".join),
    outputs=st.dictionaries(st.sampled_from(["x", "y_1"]), WORDS, max_size=2).flatmap(
        lambda others: WORDS.map(lambda word: {**others, "embedding": word})
    ),
    dtype=st.sampled_from(["float16", "float32"]),
    precision=WORDS,
    device=WORDS,
    batch_size=st.integers(1, 2),
    libraries=st.dictionaries(st.sampled_from(["torch", "timm"]), WORDS, max_size=2),
    graph=st.sampled_from(["eager", "folded", "compiled"]),
    schema=st.integers(1, 2),
)


class TestComparison:
    @given(mine=RECIPES, theirs=RECIPES)
    @settings(deadline=None, max_examples=100)
    def test_two_recipes_differ_in_nothing_if_and_only_if_their_keys_are_equal(
        self, mine: FeatureRecipe, theirs: FeatureRecipe
    ) -> None:
        assert (mine.differences(theirs) == []) == (mine.key == theirs.key)

    @pytest.mark.slow
    @given(mine=RECIPES, data=st.data())
    @settings(deadline=None, max_examples=150)
    def test_recipes_that_differ_in_one_field_differ_in_nothing_if_and_only_if_their_keys_are_equal(
        self, mine: FeatureRecipe, data: st.DataObject
    ) -> None:
        field = data.draw(st.sampled_from(dataclasses.fields(FeatureRecipe))).name
        theirs = dataclasses.replace(mine, **{field: getattr(data.draw(RECIPES), field)})
        differences = mine.differences(theirs)
        assert (differences == []) == (mine.key == theirs.key)
        assert differences == [Difference(name, two, one) for name, one, two in theirs.differences(mine)] or (
            {each.ingredient for each in differences} == {each.ingredient for each in theirs.differences(mine)}
        )

    @given(mine=RECIPES)
    @settings(deadline=None, max_examples=50)
    def test_neither_outputs_nor_libraries_have_an_order(self, mine: FeatureRecipe) -> None:
        turned = dataclasses.replace(
            mine,
            outputs=dict(reversed(mine.outputs.items())),
            libraries=dict(reversed(mine.libraries.items())),
        )
        assert turned.key == mine.key
        assert mine.differences(turned) == []


class TestText:
    def test_the_key_is_the_digest_of_the_written_out_recipe(self) -> None:
        text = (
            '{"architecture":"timm:tiny","batch_size":16,"device":"cpu/AVX512","dtype":"float32",'
            '"libraries":{"timm":"1.0.15","torch":"2.6.0"},"memory_layout":"contiguous",'
            '"outputs":{"blocks":"layer3,layer4|mean","embedding":"layer4|avgpool"},"precision":"fp32","schema":2,'
            '"transform":"resize(224,bicubic,antialias)|normalize(mean=0.5;std=0.25)","weights":"' + "0" * 64 + '"}'
        )
        assert RECIPE.key == hashlib.sha256(text.encode()).hexdigest()

    @given(mine=RECIPES)
    @settings(deadline=None, max_examples=30)
    def test_a_recipe_survives_being_written_as_json(self, mine: FeatureRecipe) -> None:
        again = FeatureRecipe.from_json(json.loads(json.dumps(mine.to_json())))
        assert again == mine
        assert again.key == mine.key

    def test_a_graph_of_which_nothing_was_made_is_not_written_so_that_older_keys_stay(self) -> None:
        assert "graph" not in RECIPE.to_json()
        assert recipe(graph="eager").key == RECIPE.key
        older = {name: value for name, value in RECIPE.to_json().items() if name != "graph"}
        assert FeatureRecipe.from_json(older).graph == "eager"
        assert recipe(graph="folded").to_json()["graph"] == "folded"

    def test_the_ingredients_are_in_the_words_of_the_field(self) -> None:
        assert RECIPE.ingredients == {
            "architecture": "timm:tiny",
            "weights": "0" * 64,
            "resize": "224",
            "antialiasing": "yes",
            "interpolation": "bicubic",
            "mean": "0.5",
            "std": "0.25",
            "embedding: layer": "layer4",
            "embedding: pooling": "avgpool",
            "blocks: layer": "layer3,layer4",
            "blocks: pooling": "mean",
            "dtype": "float32",
            "precision": "fp32",
            "device": "cpu/AVX512",
            "batch size": "16",
            "library timm": "1.0.15",
            "library torch": "2.6.0",
            "memory layout": "contiguous",
            "schema": "2",
        }

    def test_a_step_that_is_not_known_stands_as_it_is(self) -> None:
        assert transform_parts("warp(3,4)|flip|a b") == {
            "transform: warp": "3,4",
            "transform: flip": "yes",
            "transform: a b": "yes",
        }


class TestRefusals:
    def test_a_recipe_without_an_embedding_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"outputs are \['blocks'\], 'embedding' must be one of them"):
            recipe(outputs={"blocks": "layer4|mean"})

    @pytest.mark.parametrize("name", ["image", "checksum", "Blocks", "4th", "a-b", "a/b", "..", "", "über"])
    def test_an_output_that_cannot_be_an_array_beside_the_others_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="an output cannot be called"):
            recipe(outputs={**OUTPUTS, name: "layer4|mean"})
