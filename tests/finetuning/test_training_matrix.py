"""Every strategy on every architecture learns; and what can tell sixteen pictures by heart does."""

from typing import Any

import numpy as np
import pytest
from finetune_kit import BUILDS, Shown, adaptation_of, bench_of, parts_of, settings, trained

from peftbench.backbones.cards import CARDS
from peftbench.finetuning.trainer import Parts, mcc_of
from peftbench.strategies.matrix import standing
from peftbench.strategies.registry import STRATEGIES

HEAVY = ("resnet", "lite0")
"""With millions of parameters: their widths cannot be chosen."""


def cells() -> list[Any]:
    found = []
    for name, build in BUILDS.items():
        for strategy in STRATEGIES:
            verdict = standing(CARDS[build.of], strategy).verdict
            if name == "dense" or verdict == "refused":
                continue
            marks = [pytest.mark.slow] if name in HEAVY else []
            found.append(pytest.param(name, strategy, marks=marks, id=f"{strategy}-{name}-{verdict}"))
    return found


def test_the_matrix_has_all_cells() -> None:
    # Three CNNs without VeRA, four transformers.
    assert len(cells()) == 3 * 5 + 4 * 6


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strategy"), cells())
def test_every_cell_of_the_matrix_lowers_the_training_loss(shown: Shown, name: str, strategy: str) -> None:
    rate = 1e-3 if strategy == "FFT" or name in HEAVY else 3e-2
    head = 1e-3 if name in HEAVY else 1e-2
    how = settings(epochs=6, head_learning_rates=(head,), learning_rate=rate, evaluate_every=6)
    found = trained(bench_of(name, shown), strategy, how, parts_of(shown))
    losses = found.losses(head)
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    if strategy != "LP":
        frozen = trained(bench_of(name, shown), "LP", how, parts_of(shown))
        assert losses != frozen.losses(head)
        assert len(found.tensors) > len(frozen.tensors)


CAN = [
    ("vit", "LP", 60, 3e-1, 1.0),
    ("vit", "FFT", 16, 1e-2, 1e-3),
    ("vit", "LoRA", 16, 1e-2, 3e-2),
    ("vit", "VeRA", 40, 1e-2, 3e-2),
    ("vit", "BitFit", 60, 1e-1, 1e-3),
    ("vit", "IA3", 30, 1e-1, 3e-2),
    *(
        pytest.param("resnet", strategy, 5, 1e-3, 1e-3, marks=pytest.mark.slow)
        for strategy in ("LP", "FFT", "LoRA", "BitFit", "IA3")
    ),
]
"""Backbone, strategy, epochs, rates of head and backbone."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strategy", "epochs", "head", "rate"), CAN)
def test_sixteen_pictures_are_learnt_by_heart(
    shown: Shown, name: str, strategy: str, epochs: int, head: float, rate: float
) -> None:
    numbers = np.arange(16)
    parts = Parts(shown.event[:16], numbers, numbers)
    how = settings(epochs=epochs, head_learning_rates=(head,), learning_rate=rate, alpha=4.0, choose_by="mcc")
    found = trained(bench_of(name, shown, 16), strategy, how, parts)
    assert mcc_of(shown.event[:16], found.scores[0]) == 1.0
    assert found.at.best["mcc"] == 1.0


def test_a_strategy_has_a_rank_where_it_needs_one() -> None:
    assert {each: adaptation_of(each).rank is not None for each in STRATEGIES} == {
        "LP": False,
        "FFT": False,
        "LoRA": True,
        "VeRA": True,
        "BitFit": False,
        "IA3": False,
    }
