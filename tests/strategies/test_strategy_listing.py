"""`peftbench list strategies`: what fits what, one strategy, and what strategies train of one backbone."""

import json

import pytest
from typer.testing import CliRunner

from cli.main import app
from peftbench.backbones.cards import CARDS
from peftbench.benchmark.catalogue import list_names
from peftbench.errors import UnknownNameError
from peftbench.strategies.registry import STRATEGIES


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["list", "strategies", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


class TestAll:
    def test_every_entry_says_which_backbones_it_fits(self) -> None:
        entries = {each["name"]: each for each in list_names("strategies").entries}
        assert list(entries) == list(STRATEGIES)
        assert list(entries["VeRA"]["extensions"]) == ["medclip-swin"]
        assert entries["LP"]["backbones"] == list(CARDS)
        for entry in entries.values():
            assert sorted([*entry["backbones"], *entry["extensions"], *entry["refused"]]) == sorted(CARDS)

    def test_people_read_the_matrix_and_the_reasons_below_it(self) -> None:
        text = said()
        rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()[:1]}
        assert rows["resnet18"] == ["yes", "yes", "yes", "no", "yes", "extension"]
        assert rows["medclip-swin"] == ["yes", "yes", "yes", "extension", "yes", "yes"]
        assert rows["dinov2-l"] == ["yes"] * 6
        assert "it adapts linear layers, and there are only convolutions" in text
        assert text.index("linear layers, and there") > text.index("what fits what")

    def test_json_is_one_line_with_one_key(self) -> None:
        (line,) = said("--json").splitlines()
        assert list(json.loads(line)) == ["strategies"]


class TestOne:
    def test_a_strategy_has_its_card_in_any_case(self) -> None:
        assert list_names("strategies", "lora").entries == list_names("strategies", "LoRA").entries
        text = said("vera")
        assert "vector-based random matrix adaptation" in text
        assert "resnet18: it adapts linear layers" in text

    def test_a_backbone_has_a_row_a_strategy_preset_and_rank(self) -> None:
        entries = list_names("strategies", "resnet18").entries
        assert {each["backbone"] for each in entries} == {"resnet18"}
        assert {each["strategy"] for each in entries} == set(STRATEGIES)
        found = {(each["strategy"], each["targets"], each["rank"]): each["parameters"] for each in entries}
        assert found["LoRA", "attention", 16] == 575_794
        assert found["LP", None, None] == 1_026
        assert found["VeRA", None, None] is None
        (line,) = said("resnet18", "--json").splitlines()
        assert json.loads(line)["strategies"] == entries

    def test_people_read_all_of_it(self) -> None:
        text = said("resnet18")
        assert "resnet18: parameters that learn, with a head of two classes" in text
        assert all(each in text for each in ("575,794", "11,177,538", "only convolutions"))

    @pytest.mark.parametrize(
        ("name", "near"), [("LORAS", "LoRA"), ("dinov2-x", "dinov2-s"), ("timm:nothing-like", "timm")]
    )
    def test_an_unknown_name_is_answered_with_the_nearest(self, name: str, near: str) -> None:
        with pytest.raises(UnknownNameError, match=near):
            list_names("strategies", name)
