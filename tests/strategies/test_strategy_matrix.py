"""What fits what, by name alone: no torch is imported for it."""

import subprocess
import sys

import pytest

from peftbench.backbones.cards import CARDS
from peftbench.errors import StrategyError, UnknownNameError
from peftbench.strategies.matrix import RANKED, Standing, canonical, matrix_rows, refuse_unfit, standing
from peftbench.strategies.registry import STRATEGIES


class TestNames:
    @pytest.mark.parametrize("name", STRATEGIES)
    def test_in_any_case(self, name: str) -> None:
        assert {canonical(each) for each in (name, name.lower(), name.upper(), name.title())} == {name}

    @pytest.mark.parametrize(("name", "near"), [("LoRAA", "LoRA"), ("bitfitt", "BitFit"), ("IA", "IA3")])
    def test_an_unknown_one_is_answered_with_the_nearest(self, name: str, near: str) -> None:
        with pytest.raises(UnknownNameError, match=f"unknown strategy '{name}': did you mean .*{near}"):
            canonical(name)

    def test_those_with_a_rank_are_strategies(self) -> None:
        assert set(RANKED) < set(STRATEGIES)


class TestStanding:
    def test_every_backbone_has_all_six(self) -> None:
        rows = matrix_rows(CARDS)
        assert [row.backbone for row in rows] == list(CARDS)
        assert all(list(row.standings) == list(STRATEGIES) for row in rows)
        assert all(bool(each.reason) == (each.verdict != "paper") for row in rows for each in row.standings.values())

    def test_as_in_the_paper_and_beyond_it(self) -> None:
        assert standing(CARDS["dinov2-s"], "vera") == Standing("paper", "")
        assert standing(CARDS["medclip-swin"], "VeRA").verdict == "extension"
        assert standing(CARDS["resnet18"], "IA3").verdict == "extension"
        assert standing(CARDS["resnet18"], "VeRA") == Standing(
            "refused", "it adapts linear layers, and there are only convolutions"
        )

    def test_what_a_card_says_nothing_of_is_refused(self) -> None:
        card = CARDS["resnet18"].model_copy(update={"strategies": ("LP",), "extensions": {}, "refused": {}})
        assert standing(card, "FFT") == Standing("refused", "its card does not say that it fits")

    def test_the_error_says_why_and_what_fits(self) -> None:
        said = (
            r"^VeRA does not fit the backbone 'resnet18' \(it adapts linear layers, and there are only "
            r"convolutions\): choose one of LP, FFT, LoRA, BitFit, IA3$"
        )
        with pytest.raises(StrategyError, match=said):
            refuse_unfit(CARDS["resnet18"], "vera")
        refuse_unfit(CARDS["resnet18"], "ia3")


def test_no_torch_is_imported() -> None:
    program = (
        "import sys; from peftbench.strategies import matrix, options, targets; matrix.matrix_rows(); "
        "print({'torch', 'peft', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
