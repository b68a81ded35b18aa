"""Activations computed anew: the same gradients, the same statistics of batch norms, less that is kept."""

import pytest
import torch
from finetune_kit import (
    BUILDS,
    CPU,
    WORDS,
    Shown,
    adaptation_of,
    assert_close_tensors,
    assert_same_tensors,
    assert_same_training,
    bench_of,
    encoder_of,
    gradients_of,
    parts_of,
    settings,
    statistics_of,
    trained,
)
from torch import nn
from torchvision.models import densenet121, resnet18, resnet50

from peftbench.finetuning.bench import reproducible
from peftbench.finetuning.checkpointing import blocks_of, save_memory
from peftbench.finetuning.classifier import Classifier


def pass_of(shown: Shown, name: str, strategy: str, *, checkpointing: bool, dropout: float = 0.3) -> Classifier:
    """A classifier after one forward and backward pass of five pictures."""
    how = settings(checkpointing=checkpointing, dropout=dropout)
    classifier = bench_of(name, shown).classifier(adaptation_of(strategy), how, WORDS, 1)
    classifier.set_modes(training=True)
    with reproducible(CPU):
        torch.manual_seed(7)
        pixels = encoder_of(name).card.transform.shape(shown.pictures[:5])
        logits = classifier(classifier.embed(pixels))[0]
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1, 1])).backward()
    return classifier


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("dense", "FFT"),
        ("densenet", "LoRA"),
        ("resnet", "FFT"),
        ("lite0", "FFT"),
        ("vit", "LoRA"),
        ("dinov2", "FFT"),
        ("clip", "BitFit"),
        ("swin", "FFT"),
        ("vit", "VeRA"),
        ("vit", "IA3"),
    ],
)
def test_gradients_and_statistics_are_those_of_kept_activations(shown: Shown, name: str, strategy: str) -> None:
    kept = pass_of(shown, name, strategy, checkpointing=False)
    anew = pass_of(shown, name, strategy, checkpointing=True)
    assert_same_tensors(statistics_of(anew.backbone), statistics_of(kept.backbone))
    scale = max(float(each.abs().max()) for each in gradients_of(kept).values())
    assert_close_tensors(gradients_of(anew), gradients_of(kept), atol=1e-6 * max(1.0, scale))


@pytest.mark.parametrize(("name", "strategy"), [("dense", "FFT"), ("vit", "LoRA"), ("dense", "BitFit")])
def test_whole_trainings_are_equal(shown: Shown, name: str, strategy: str) -> None:
    kept, anew = (
        trained(bench_of(name, shown), strategy, settings(checkpointing=checkpointing, dropout=0.2), parts_of(shown))
        for checkpointing in (False, True)
    )
    assert_same_training(anew, kept)


@pytest.mark.parametrize("name", [name for name in BUILDS if name != "dense"])
def test_blocks_run_twice_while_it_trains_and_once_while_it_does_not(
    shown: Shown, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = settings(checkpointing=True)
    classifier = bench_of(name, shown).classifier(adaptation_of("FFT"), how, WORDS, 1)
    kinds = (nn.Conv2d, nn.Linear)
    runs = {each: 0 for each in classifier.backbone.modules() if isinstance(each, kinds)}

    def count(layer: nn.Module, *_: object) -> None:
        runs[layer] += 1

    for each in runs:
        each.register_forward_pre_hook(count)
    pixels = encoder_of(name).card.transform.shape(shown.pictures[:4])
    classifier.set_modes(training=True)
    classifier(classifier.embed(pixels)).sum().backward()
    assert max(runs.values()) == 2
    assert sum(each == 2 for each in runs.values()) > 0.6 * len(runs)
    runs.update(dict.fromkeys(runs, 0))
    classifier.set_modes(training=False)
    with torch.no_grad():
        classifier(classifier.embed(pixels))
    assert set(runs.values()) == {1}


@pytest.mark.parametrize(
    ("module", "count", "kind"),
    [
        (resnet18, 8, "BasicBlock"),
        (resnet50, 16, "Bottleneck"),
        (densenet121, 4, "_DenseBlock"),
        (BUILDS["lite0"].loader.build, 16, "DepthwiseSeparableConv InvertedResidual"),
    ],
)
def test_blocks_are_the_innermost_that_stand_in_a_sequence(module: object, count: int, kind: str) -> None:
    with torch.device("meta"):
        found = blocks_of(module())  # type: ignore[operator]
    assert len(found) == count
    assert " ".join(sorted({type(each).__name__ for each in found})) == kind


@pytest.mark.parametrize("name", ["dense", "resnet", "lite0"])
@pytest.mark.parametrize("strategy", ["LoRA", "IA3", "BitFit"])
def test_blocks_with_adapters_are_the_blocks_without(shown: Shown, name: str, strategy: str) -> None:
    encoder = encoder_of(name)
    adapted = bench_of(name, shown).classifier(adaptation_of(strategy), settings(), WORDS, 1).backbone
    assert [type(each) for each in blocks_of(adapted)] == [type(each) for each in blocks_of(encoder.module)]


def test_batch_norms_are_as_they_were_behind_a_backward_pass(shown: Shown) -> None:
    classifier = pass_of(shown, "dense", "FFT", checkpointing=True)
    for norm in classifier.backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.momentum == 0.1
            assert int(norm.num_batches_tracked) == 1  # type: ignore[arg-type]


def test_a_model_without_blocks_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    save_memory(module)
    assert torch.equal(module(torch.zeros(1, 2)), module(torch.zeros(1, 2)))
