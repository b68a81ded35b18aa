"""Backbones by name: the spelling, the cards, and that naming them imports nothing heavy."""

import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.backbones.registry import CARDS, BackboneSpec, get_card, parse_backbone
from peftbench.errors import ConfigError, PeftbenchError, UnknownNameError


class TestSpelling:
    @pytest.mark.parametrize("name", sorted(CARDS))
    def test_a_name_alone_means_pretrained(self, name: str) -> None:
        spec = parse_backbone(name)
        assert spec == BackboneSpec(CARDS[name])
        assert spec.random_seed is None
        assert spec.name == name
        assert spec.title == CARDS[name].title

    @given(st.sampled_from(sorted(CARDS)), st.integers(0, 10**9 - 1))
    def test_a_seed_comes_back_in_the_name(self, name: str, seed: int) -> None:
        spec = parse_backbone(f"{name}@random:{seed}")
        assert spec.random_seed == seed
        assert spec.name == f"{name}@random:{seed}"
        assert parse_backbone(spec.name) == spec

    def test_the_title_of_untrained_weights_says_so(self) -> None:
        title = parse_backbone("resnet18@random:3").title
        assert title.startswith("ResNet-18, ")
        assert "random weights" in title

    @pytest.mark.parametrize(
        "weights",
        ["", "random", "random:", "random:-1", "random:x", "random:1.5", "random:0 ", "imagenet", "random:0@1"],
    )
    def test_other_weights_are_refused_and_the_form_is_shown(self, weights: str) -> None:
        with pytest.raises(ConfigError, match=rf"{re.escape(repr(weights))}.*expected resnet18@random:SEED"):
            parse_backbone(f"resnet18@{weights}")

    @pytest.mark.parametrize("text", ["resnet18@random:007", "resnet18@random:٣"])
    def test_one_seed_has_one_spelling(self, text: str) -> None:
        """Records and stores of a backbone are found by its name."""
        try:
            spec = parse_backbone(text)
        except PeftbenchError:
            return
        assert parse_backbone(spec.name) == spec
        assert re.fullmatch(r"resnet18@random:(0|[1-9][0-9]*)", spec.name)

    @pytest.mark.parametrize(
        ("wrong", "meant"),
        [
            ("resnet81", "resnet18"),
            ("ResNet18", "resnet18"),
            ("efficientnet", "efficientnet-lite0"),
            ("resnet", "resnet18"),
        ],
    )
    def test_a_near_miss_is_answered_with_what_was_meant(self, wrong: str, meant: str) -> None:
        with pytest.raises(UnknownNameError, match=rf"unknown backbone '{wrong}': did you mean .*{meant}"):
            get_card(wrong)

    @pytest.mark.parametrize("wrong", ["", "zzz", "@random:0"])
    def test_a_name_like_none_is_answered_with_all(self, wrong: str) -> None:
        with pytest.raises(UnknownNameError, match="known are efficientnet-lite0, resnet18") as caught:
            parse_backbone(wrong)
        assert "peftbench list backbones" in str(caught.value)
        assert isinstance(caught.value, ValueError)


def test_names_and_cards_are_there_without_torch() -> None:
    program = (
        "import json, sys; from peftbench.backbones.registry import parse_backbone; "
        "parse_backbone('resnet18@random:1'); print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(done.stdout))
    assert "peftbench.backbones.registry" in loaded
    assert loaded.isdisjoint({"torch", "torchvision", "timm", "transformers", "peft", "open_clip"})
