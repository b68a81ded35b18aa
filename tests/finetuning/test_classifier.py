"""A backbone with heads: what a loss is, what weighs in it, and which gradient reaches whom."""

from typing import Any

import numpy as np
import pytest
import torch
from finetune_kit import (
    CPU,
    WORDS,
    Shown,
    adaptation_of,
    assert_close_tensors,
    assert_same_tensors,
    bench_of,
    encoder_of,
    gradients_of,
    settings,
    statistics_of,
)
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch import nn

from peftbench.errors import StrategyError
from peftbench.finetuning.classifier import HEAD, HEAD_DEVIATION, Classifier
from peftbench.finetuning.trainer import Parts, class_weights, learners_of, log_loss, losses_of, mcc_of

both = st.lists(st.integers(0, 1), min_size=2, max_size=60).filter(lambda each: 0 < sum(each) < len(each))


def classifier_of(shown: Shown, name: str, strategy: str, heads: int = 1, **changes: Any) -> Classifier:
    how = settings(**changes)
    return bench_of(name, shown).classifier(adaptation_of(strategy), how, WORDS, heads)


def pixels_of(shown: Shown, name: str, count: int = 6) -> torch.Tensor:
    return encoder_of(name).card.transform.shape(shown.pictures[:count])


def losses(classifier: Classifier, pixels: torch.Tensor) -> torch.Tensor:
    """A head's mean loss each, every other picture with the event."""
    logits = classifier(classifier.embed(pixels))
    return losses_of(logits, torch.arange(len(pixels)) % 2, torch.ones(2)) / len(pixels)


@given(both)
def test_classes_weigh_as_scikit_learn_balances_them(event: list[int]) -> None:
    numbers = np.arange(len(event))
    parts = Parts(np.array([*event, 0, 1, 1, 1]), numbers, numbers[:0])
    for balance in ("loss", "both"):
        expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=event)
        assert class_weights(parts, settings(balance=balance)) == pytest.approx(expected)
    for balance in ("sampler", "none"):
        assert class_weights(parts, settings(balance=balance)) == (1.0, 1.0)


@given(both, st.integers(1, 4), st.integers(0, 1000))
def test_losses_are_torchs_weighted_cross_entropy(event: list[int], heads: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((heads, len(event), 2), generator=generator)
    truth, weight = torch.tensor(event), torch.rand(2, generator=generator) + 0.1
    found = losses_of(logits, truth, weight) / float(weight[truth].sum())
    expected = torch.stack([nn.CrossEntropyLoss(weight)(each, truth) for each in logits])
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-6)


@given(both, st.integers(0, 1000))
def test_the_log_loss_is_scikit_learns_with_balanced_classes(event: list[int], seed: int) -> None:
    score = np.random.default_rng(seed).random(len(event))
    truth = np.array(event)
    weight = compute_sample_weight("balanced", truth)
    assert log_loss(truth, score) == pytest.approx(sklearn_log_loss(truth, score, sample_weight=weight))


@pytest.mark.parametrize("only", [0, 1])
def test_the_log_loss_of_one_class_is_the_plain_one(only: int) -> None:
    truth, score = np.full(5, only), np.array([0.1, 0.5, 0.9, 0.3, 0.7])
    assert log_loss(truth, score) == pytest.approx(sklearn_log_loss(truth, score, labels=[0, 1]))
    assert np.isnan(mcc_of(truth, score))


def test_a_score_of_a_half_is_a_decision_for_the_event() -> None:
    assert mcc_of(np.array([0, 1]), np.array([0.49, 0.5])) == 1.0


def test_heads_begin_small_and_without_a_bias(shown: Shown) -> None:
    classifier = classifier_of(shown, "resnet", "LP", heads=3)
    weights = torch.stack([head.weight.detach() for head in classifier.heads])  # type: ignore[misc]
    assert float(weights.std()) == pytest.approx(HEAD_DEVIATION, rel=0.05)
    assert all(not head.bias.any() for head in classifier.heads)  # type: ignore[union-attr, operator]
    assert not torch.equal(weights[0], weights[1])


def test_words_decide_the_first_weights(shown: Shown) -> None:
    bench = bench_of("dinov2", shown)
    states = [
        bench.classifier(adaptation_of("LoRA"), settings(), words, 1).state_dict()
        for words in (WORDS, WORDS, (*WORDS, 1))
    ]
    assert_same_tensors(states[0], states[1])
    assert not torch.equal(states[0]["heads.0.weight"], states[2]["heads.0.weight"])


@pytest.mark.parametrize("name", ["dense", "dinov2", "clip", "vit", "swin", "lite0"])
def test_an_embedding_is_that_of_the_encoder(shown: Shown, name: str) -> None:
    encoder, pixels = encoder_of(name), pixels_of(shown, name)
    classifier = classifier_of(shown, name, "LP")
    classifier.set_modes(training=False)
    crop = encoder.card.transform.crop
    with torch.inference_mode():
        batch = encoder.card.transform.normalise(pixels, torch.empty((6, 3, crop, crop)))
        expected = encoder.loader.outputs(encoder.module, batch)["embedding"]
    torch.testing.assert_close(classifier.embed(pixels), expected, rtol=1e-4, atol=1e-5)


def test_a_frozen_backbone_keeps_nothing_for_a_backward_pass(shown: Shown) -> None:
    pixels = pixels_of(shown, "dense")
    assert not classifier_of(shown, "dense", "LP").embed(pixels).requires_grad
    assert classifier_of(shown, "dense", "BitFit").embed(pixels).requires_grad


def test_trainings_leave_the_encoder_as_it_is(shown: Shown) -> None:
    bench = bench_of("dense", shown)
    before = {name: each.clone() for name, each in bench.encoder.module.state_dict().items()}
    classifier = bench.classifier(adaptation_of("FFT"), settings(), WORDS, 1)
    classifier.set_modes(training=True)
    losses(classifier, pixels_of(shown, "dense")).sum().backward()
    for learner in learners_of(classifier, settings()):
        learner.step(torch.amp.GradScaler("cpu", enabled=False))
    assert_same_tensors(bench.encoder.module.state_dict(), before)
    assert not any(each.requires_grad for each in bench.encoder.module.parameters())


@pytest.mark.parametrize("strategy", ["FFT", "LoRA", "BitFit"])
def test_what_reaches_the_backbone_is_the_mean_of_the_heads_gradients(shown: Shown, strategy: str) -> None:
    pixels = pixels_of(shown, "vit")
    classifier = classifier_of(shown, "vit", strategy, heads=3)
    classifier.set_modes(training=True)
    losses(classifier, pixels).sum().backward()
    together = gradients_of(classifier.backbone)
    heads = [gradients_of(head) for head in classifier.heads]
    alone = []
    for number in range(3):
        single = Classifier(classifier.adapted, classifier.loader, classifier.card, 1)
        single.heads[0] = classifier.heads[number]
        single.zero_grad(set_to_none=True)
        losses(single, pixels).sum().backward()
        alone.append(gradients_of(single.backbone))
        assert_close_tensors(gradients_of(single.heads[0]), heads[number], atol=1e-7)
    mean = {name: sum(each[name] for each in alone) / 3 for name in together}
    assert any(float(each.abs().max()) > 1e-5 for each in mean.values())
    assert_close_tensors(together, mean, atol=1e-7)  # type: ignore[arg-type]


def test_one_learner_a_head_and_one_for_the_backbone(shown: Shown) -> None:
    how = settings(head_learning_rates=(0.1, 0.2), learning_rate=0.3)
    frozen = learners_of(classifier_of(shown, "dense", "LP", heads=2), how)
    assert [each.rate for each in frozen] == [0.1, 0.2]
    learning = learners_of(classifier_of(shown, "dense", "BitFit", heads=2), how)
    assert [each.rate for each in learning] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("strategy", ["LP", "FFT", "LoRA", "VeRA", "BitFit", "IA3"])
def test_what_was_learnt_is_put_into_a_fresh_one(shown: Shown, strategy: str) -> None:
    pixels = pixels_of(shown, "dinov2")
    classifier = classifier_of(shown, "dinov2", strategy, heads=2)
    with torch.no_grad():
        for each in classifier.parameters():
            if each.requires_grad:
                each.add_(0.05 * torch.randn(each.shape, generator=torch.Generator().manual_seed(each.numel())))
    learnt = classifier.learnt(1)
    assert all(tensor.device == CPU and tensor.is_contiguous() for tensor in learnt.values())
    fresh = classifier_of(shown, "dinov2", strategy)
    fresh.load(learnt)
    for each in (classifier, fresh):
        each.set_modes(training=False)
    with torch.no_grad():
        expected = classifier(classifier.embed(pixels))[1]
        assert torch.equal(fresh(fresh.embed(pixels))[0], expected)


def test_what_was_learnt_is_a_copy(shown: Shown) -> None:
    classifier = classifier_of(shown, "dense", "BitFit")
    learnt = classifier.learnt(0)
    before = {name: each.clone() for name, each in learnt.items()}
    with torch.no_grad():
        for each in classifier.parameters():
            each.add_(1.0)
    assert_same_tensors(learnt, before)


def test_what_another_strategy_learnt_is_refused(shown: Shown) -> None:
    learnt = classifier_of(shown, "dinov2", "LoRA").learnt(0)
    with pytest.raises(StrategyError, match="does not fit what learns"):
        classifier_of(shown, "dinov2", "BitFit").load(learnt)


def test_the_names_of_a_head_begin_so(shown: Shown) -> None:
    learnt = classifier_of(shown, "dinov2", "LP").learnt(0)
    assert sorted(learnt) == [f"{HEAD}bias", f"{HEAD}weight"]


@pytest.mark.parametrize("name", ["dense", "resnet", "lite0"])
@pytest.mark.parametrize(("strategy", "frozen"), [("LP", False), ("LoRA", False), ("BitFit", False), ("FFT", True)])
def test_batch_norms_follow_the_data_nowhere_but_in_full_fine_tuning(
    shown: Shown, name: str, strategy: str, frozen: bool
) -> None:
    classifier = classifier_of(shown, name, strategy, batch_norm="frozen" if frozen else "by strategy")
    before = statistics_of(classifier.backbone)
    classifier.set_modes(training=True)
    classifier.embed(pixels_of(shown, name))
    assert_same_tensors(statistics_of(classifier.backbone), before)


@pytest.mark.parametrize("name", ["dense", "resnet", "lite0"])
def test_in_full_fine_tuning_batch_norms_follow_the_data_while_it_trains(shown: Shown, name: str) -> None:
    classifier = classifier_of(shown, name, "FFT")
    before = statistics_of(classifier.backbone)
    pixels = pixels_of(shown, name)
    classifier.set_modes(training=False)
    classifier.embed(pixels)
    assert_same_tensors(statistics_of(classifier.backbone), before)
    classifier.set_modes(training=True)
    classifier.embed(pixels)
    after = statistics_of(classifier.backbone)
    assert all(not torch.equal(after[name], each) for name, each in before.items())
