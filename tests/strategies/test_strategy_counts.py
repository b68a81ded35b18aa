"""How many parameters learn: the whole table, on the architectures in full size, without memory for their weights."""

import copy
from functools import cache

import pytest
from torch import nn

from peftbench.backbones.cards import CARDS
from peftbench.strategies.adapting import adapt
from peftbench.strategies.counting import CLASSES, count_all, shapes_of
from peftbench.strategies.layers import find_layers
from peftbench.strategies.matrix import standing
from peftbench.strategies.options import Options
from peftbench.strategies.targets import PRESETS

COLUMNS = [("LP", None), ("BitFit", None), ("LoRA", 4), ("LoRA", 8), ("LoRA", 16), ("VeRA", 8), ("IA3", None)]

_RESNET50 = (4_098, 30_658, 321_870, 639_642, 1_275_186, None, 30_658)
_BASE = (1_538, 104_450, 296_450, 591_362, 1_181_186, 38_786, 56_834)
_LARGE = (2_050, 274_434, 788_482, 1_574_914, 3_147_778, 101_122, 149_506)
TABLE: dict[str, tuple[int | None, ...]] = {
    "resnet18": (1_026, 5_826, 144_718, 288_410, 575_794, None, 5_826),
    "resnet50": _RESNET50,
    "medclip-resnet50": _RESNET50,
    "densenet121": (2_050, 43_874, 444_110, 886_170, 1_770_290, None, 12_290),
    "dinov2-s": (770, 52_226, 148_226, 295_682, 590_594, 19_586, 28_418),
    "dinov2-b": _BASE,
    "pubmedclip": _BASE,
    "biomedclip": _BASE,
    "dinov2-l": _LARGE,
    "clip-large": _LARGE,
    "medclip-swin": (1_538, 53_762, 142_850, 284_162, 566_786, 19_586, 28_034),
}
"""Counted once by hand of PEFT's own models, with a head of two classes; None where nothing can be adapted."""

WITH_MLP = {"dinov2-s": 664_322, "dinov2-b": 1_328_642, "dinov2-l": 3_540_994, "medclip-swin": 637_442}
"""LoRA of rank 8 on attention and feed-forward layers."""

SLOW = {"dinov2-l", "clip-large", "dinov2-b", "pubmedclip", "biomedclip", "resnet50", "medclip-resnet50", "densenet121"}
"""Of the same code as smaller ones."""


def _marked(names: list[str]) -> list[object]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


@cache
def shapes(name: str) -> nn.Module:
    return shapes_of(CARDS[name])


def learning(name: str, strategy: str, options: Options) -> int:
    card = CARDS[name]
    return adapt(copy.deepcopy(shapes(name)), card, strategy, options).parameters + CLASSES * (card.embedding + 1)


def test_all_of_the_paper_are_in_the_table() -> None:
    assert set(TABLE) == {name for name in CARDS if name != "efficientnet-lite0"}


@pytest.mark.parametrize("name", _marked(list(TABLE)))
def test_they_are_those_of_the_table(name: str) -> None:
    for (strategy, rank), expected in zip(COLUMNS, TABLE[name], strict=True):
        if expected is None:
            assert standing(CARDS[name], strategy).verdict == "refused"
        else:
            assert learning(name, strategy, Options(rank=rank)) == expected, (strategy, rank)


@pytest.mark.parametrize("name", _marked(list(TABLE)))
def test_everything_learns_of_everything(name: str) -> None:
    card = CARDS[name]
    assert learning(name, "FFT", Options()) == card.parameters + CLASSES * (card.embedding + 1)


@pytest.mark.parametrize("name", _marked(list(WITH_MLP)))
def test_with_the_feed_forward_layers_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "LoRA", (("query", "key", "value", "output", "fc1", "fc2"),))
    assert learning(name, "LoRA", Options(rank=8)) == WITH_MLP[name]


class TestLayers:
    @pytest.mark.parametrize("name", _marked(list(CARDS)))
    def test_the_card_knows_how_many_there_are(self, name: str) -> None:
        card, module = CARDS[name], shapes(name)
        assert {part: len(find_layers(module, group)) for part, group in card.layers.items()} == {
            part: group.count for part, group in card.layers.items()
        }

    @pytest.mark.parametrize("name", _marked(["dinov2-s", "clip-large", "biomedclip", "medclip-swin"]))
    def test_the_parts_of_a_transformer_are_all_its_linear_layers_but_those_that_join_patches(self, name: str) -> None:
        found = [each for group in CARDS[name].layers.values() for each in find_layers(shapes(name), group)]
        linear = [each for each, layer in shapes(name).named_modules() if isinstance(layer, nn.Linear)]
        assert sorted(found) == sorted(each for each in linear if "downsample" not in each)

    @pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
    def test_the_first_convolutions_are_the_stem_and_that_of_every_block(self, name: str) -> None:
        found = find_layers(shapes(name), CARDS[name].layers["first_convolution"])
        assert {each.rpartition(".")[2] for each in found} == {"conv1"}

    def test_the_paper_adapted_what_its_configurations_say(self) -> None:
        said = {name: CARDS[name].paper_targets for name in CARDS}
        assert {said[name] for name in ("dinov2-s", "dinov2-b", "dinov2-l", "biomedclip")} == {
            ("query", "key", "value", "fc1", "fc2")
        }
        assert {said[name] for name in ("clip-large", "pubmedclip")} == {("query", "key", "value")}
        assert said["medclip-swin"] == ("query", "value", "output", "fc1", "fc2")
        assert {said[name] for name in ("resnet18", "resnet50", "densenet121", "medclip-resnet50")} == {
            ("first_convolution",)
        }


class TestListing:
    def test_a_row_a_strategy_preset_and_rank(self) -> None:
        found = {(each.strategy, each.targets, each.rank): each for each in count_all(CARDS["dinov2-s"])}
        assert found["LoRA", "attention", 8].parameters == 295_682
        assert found["LoRA", "attention", 8].layers == 48
        assert found["LoRA", "attention", 8].percent == pytest.approx(100 * 295_682 / (22_056_576 + 295_682))
        assert found["LoRA", "paper", 8].parameters == 590_594
        assert found["VeRA", "paper", 8].layers == 36
        assert found["FFT", None, None].percent == 100
        assert len(found) == 1 + 1 + 6 + 2 + 2 + 1

    def test_what_is_refused_says_why(self) -> None:
        (vera,) = [each for each in count_all(CARDS["resnet18"]) if each.strategy == "VeRA"]
        assert vera.parameters is None
        assert vera.note == "it adapts linear layers, and there are only convolutions"
