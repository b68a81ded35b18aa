"""Whole trainings on small encoders: what they have in common whatever the strategy."""

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from finetune_kit import (
    CPU,
    WORDS,
    Shown,
    Trained,
    adaptation_of,
    assert_close_tensors,
    assert_same_tensors,
    assert_same_training,
    bench_of,
    encoder_of,
    finished,
    parts_of,
    settings,
    shown_in,
    statistics_of,
    timeless,
    trained,
    trainer_of,
)
from progress_kit import Ear

from peftbench.backbones.device import Returned
from peftbench.errors import StrategyError
from peftbench.finetuning.bench import reproducible
from peftbench.finetuning.trainer import Parts, Trainer, log_loss, mcc_of
from peftbench.imaging.augmentation import Augmentation

STRATEGIES = ["LP", "FFT", "LoRA", "VeRA", "BitFit", "IA3"]

STRONG = Augmentation(probability=0.9)


def scores_of(found: Trained, part: np.ndarray) -> np.ndarray:
    return found.scores[found.at.best["head"]][part]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_trainings_are_equal_to_the_bit(shown: Shown, strategy: str) -> None:
    how = settings(epochs=2, augmentation=STRONG, dropout=0.3, head_learning_rates=(1e-2, 1e-3), clip=1.0)
    first, second = (trained(bench_of("vit", shown), strategy, how, parts_of(shown)) for _ in range(2))
    assert_same_training(first, second)


@pytest.mark.parametrize("name", ["dense", "swin"])
def test_two_full_fine_tunings_are_equal_to_the_bit(shown: Shown, name: str) -> None:
    how = settings(epochs=2, augmentation=STRONG)
    first, second = (trained(bench_of(name, shown), "FFT", how, parts_of(shown)) for _ in range(2))
    assert_same_training(first, second)


@pytest.mark.parametrize("strategy", ["LP", "LoRA"])
def test_other_words_train_otherwise(shown: Shown, strategy: str) -> None:
    first, second = (
        trained(bench_of("vit", shown), strategy, settings(), parts_of(shown), words=words)
        for words in (WORDS, (*WORDS, 1))
    )
    assert not torch.equal(first.tensors["head.weight"], second.tensors["head.weight"])
    assert first.losses() != second.losses()


def test_a_training_does_not_depend_on_the_callers_generators_and_leaves_them_as_they_were(shown: Shown) -> None:
    how = settings(augmentation=STRONG, dropout=0.5)
    bench, found = bench_of("dinov2", shown), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the generator that others share
        state, settled = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
        with reproducible(CPU):
            trainer = trainer_of(bench, "LoRA", how, parts_of(shown))
            found.append(finished(trainer))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.are_deterministic_algorithms_enabled() == settled
    assert_same_training(*found)


def test_pictures_from_memory_and_from_the_store_train_alike(shown: Shown) -> None:
    how = settings(augmentation=STRONG)
    resident = trained(bench_of("dense", shown), "FFT", how, parts_of(shown))
    streamed = trained(bench_of("dense", shown, resident_bytes=0), "FFT", how, parts_of(shown))
    assert_same_training(streamed, resident)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "micro"), [("FFT", 1), *((each, 3) for each in STRATEGIES)])
def test_a_step_in_pieces_is_the_step_as_a_whole(shown: Shown, strategy: str, micro: int) -> None:
    # Sixteen images in steps of eight: pieces of three, three and two among them.
    how = {"epochs": 2, "augmentation": STRONG, "head_learning_rates": (1e-2, 1e-3)}
    whole = trained(bench_of("vit", shown), strategy, settings(**how), parts_of(shown))
    pieces = trained(bench_of("vit", shown), strategy, settings(**how, micro_batch=micro), parts_of(shown))
    assert pieces.losses() == pytest.approx(whole.losses(), rel=1e-5)
    # Adam divides by the gradient's size: of gradients near zero it makes steps of rounding.
    assert_close_tensors(pieces.tensors, whole.tensors, atol=2e-4)
    np.testing.assert_allclose(pieces.scores, whole.scores, atol=1e-4)


@pytest.mark.parametrize("micro", [1, 3, None])
@pytest.mark.parametrize("balance", ["loss", "none"])
def test_gradients_of_a_step_are_those_of_the_weighted_mean(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, micro: int | None, balance: str
) -> None:
    # One class is three times as frequent, so that weights matter.
    train = np.array([0, 1, 2, 4, 6, 8, 10, 3])
    parts = Parts(shown.event[:24], train, np.arange(12, 24))
    how = settings(epochs=1, micro_batch=micro, balance=balance)
    trainer = trainer_of(bench_of("vit", shown), "FFT", how, parts)
    seen: dict[str, torch.Tensor] = {}
    for learner in trainer.learners:
        monkeypatch.setattr(learner, "step", lambda _: None)
    monkeypatch.setattr(
        trainer.scaler,
        "update",
        lambda: seen.update(
            {name: each.grad.clone() for name, each in trainer.classifier.named_parameters() if each.grad is not None}
        ),
    )
    pixels = encoder_of("vit").card.transform.shape([shown.pictures[number] for number in train])
    with reproducible(CPU):
        trainer.run()
        event = torch.from_numpy(shown.event[train])
        weight = torch.tensor([8 / 12, 2.0]) if balance == "loss" else torch.ones(2)
        trainer.classifier.zero_grad(set_to_none=True)
        trainer.classifier.set_modes(training=True)
        logits = trainer.classifier.heads[0](trainer.classifier.embed(pixels))
        torch.nn.CrossEntropyLoss(weight)(logits, event).backward()
    expected = {name: each.grad for name, each in trainer.classifier.named_parameters() if each.grad is not None}
    assert_close_tensors(seen, expected, atol=1e-6)


def test_heads_side_by_side_on_a_frozen_backbone_are_heads_alone(shown: Shown) -> None:
    rates = (1e-1, 1e-2, 1e-3)
    how = {"epochs": 6, "schedule": "plateau", "plateau_patience": 1, "warmup_epochs": 1, "augmentation": STRONG}
    together = trainer_of(bench_of("vit", shown), "LP", settings(**how, head_learning_rates=rates), parts_of(shown))
    first = [{name: each.clone() for name, each in head.state_dict().items()} for head in together.classifier.heads]
    found = finished(together)
    for number, rate in enumerate(rates):
        alone = trainer_of(bench_of("vit", shown), "LP", settings(**how, head_learning_rates=(rate,)), parts_of(shown))
        alone.classifier.heads[0].load_state_dict(first[number])
        single = finished(alone)
        for of in ("train_loss", "validation_loss", "validation_mcc"):
            assert found.losses(rate, of) == single.losses(rate, of)
        if found.at.best["head"] == number:
            assert_same_tensors(found.tensors, single.tensors)
    values = [min(found.losses(rate, "validation_loss")) for rate in rates]
    assert found.at.best["head"] == int(np.argmin(values))


@pytest.mark.parametrize("choose_by", ["log-loss", "mcc"])
def test_what_is_kept_is_the_best_epoch_on_the_validation_part(shown: Shown, choose_by: str) -> None:
    parts, rates = parts_of(shown), (3e-1, 3e-2)
    how = settings(epochs=12, head_learning_rates=rates, learning_rate=3e-2, choose_by=choose_by)
    found = trained(bench_of("dense", shown), "FFT", how, parts)
    best, history = found.at.best, found.at.history
    values = {
        (epoch, head): row[f"validation_loss_{rate:g}"] if choose_by == "log-loss" else -row[f"validation_mcc_{rate:g}"]
        for epoch, row in enumerate(history, 1)
        for head, rate in enumerate(rates)
    }
    assert values[best["epoch"], best["head"]] == pytest.approx(min(values.values()), abs=1e-9)
    earliest = min(epoch for (epoch, _), value in values.items() if value <= min(values.values()) + 1e-9)
    assert best["epoch"] == earliest
    score = scores_of(found, parts.validation)
    event = parts.event[parts.validation]
    assert log_loss(event, score) == pytest.approx(best["log_loss"], rel=1e-6)
    assert mcc_of(event, score) == best["mcc"]


def test_scores_afterwards_are_those_of_the_best_epoch_also_where_later_ones_are_worse(shown: Shown) -> None:
    parts = parts_of(shown)
    how = settings(epochs=10, head_learning_rates=(5e-2,), learning_rate=1e-1)
    found = trained(bench_of("vit", shown), "FFT", how, parts)
    losses = found.losses(5e-2, "validation_loss")
    assert found.at.best["epoch"] < 10, "the rates are to be so high that the last epoch is not the best"
    again = trained(bench_of("vit", shown), "FFT", how.model_copy(update={"epochs": found.at.best["epoch"]}), parts)
    assert_same_tensors(found.tensors, again.tensors)
    np.testing.assert_array_equal(found.scores, again.scores)
    assert losses[: found.at.best["epoch"]] == again.losses(5e-2, "validation_loss")


@pytest.mark.parametrize("choose_by", ["log-loss", "mcc"])
def test_of_equal_epochs_and_heads_the_first_is_kept(shown: Shown, choose_by: str) -> None:
    # At such rates nothing moves.
    how = settings(epochs=3, head_learning_rates=(1e-12, 2e-12), choose_by=choose_by)
    trainer = trainer_of(bench_of("vit", shown), "LP", how, parts_of(shown), cached=True)
    first, second = trainer.classifier.heads
    second.load_state_dict(first.state_dict())
    at = finished(trainer).at
    assert (at.best["epoch"], at.best["head"]) == (1, 0)
    assert at.stale == [2, 2]


def test_it_stops_early_when_no_head_gets_better(shown: Shown) -> None:
    how = {"epochs": 40, "head_learning_rates": (1.0, 3.0), "early_stop": 4}
    found = trained(bench_of("vit", shown), "LP", settings(**how), parts_of(shown))
    epochs = len(found.at.history)
    assert epochs < 40
    assert min(found.at.stale) == 4
    last = [int(np.argmin(found.losses(rate, "validation_loss"))) + 1 for rate in (1.0, 3.0)]
    assert epochs == max(last) + 4
    longer = trained(bench_of("vit", shown), "LP", settings(**{**how, "early_stop": 1000}), parts_of(shown))
    assert timeless(longer.at.history)[:epochs] == timeless(found.at.history)


@pytest.mark.parametrize(("epochs", "every", "looked"), [(7, 3, [3, 6, 7]), (4, 9, [4]), (4, 2, [2, 4])])
def test_it_looks_at_the_validation_part_every_so_often_and_at_the_end(
    shown: Shown, epochs: int, every: int, looked: list[int]
) -> None:
    found = trained(
        bench_of("vit", shown), "LP", settings(epochs=epochs, evaluate_every=every), parts_of(shown), cached=True
    )
    assert [row["epoch"] for row in found.at.history] == list(range(1, epochs + 1))
    assert [row["epoch"] for row in found.at.history if "validation_loss_0.01" in row] == looked
    assert found.at.best["epoch"] in looked


def test_how_often_it_looks_does_not_change_what_it_learns(shown: Shown) -> None:
    how = {"epochs": 4, "augmentation": STRONG, "dropout": 0.2}
    always = trained(bench_of("vit", shown), "LoRA", settings(**how), parts_of(shown))
    once = trained(bench_of("vit", shown), "LoRA", settings(**how, evaluate_every=4), parts_of(shown))
    assert once.losses() == always.losses()
    assert once.at.history[-1]["validation_loss_0.01"] == always.at.history[-1]["validation_loss_0.01"]


@pytest.mark.parametrize("choose_by", ["log-loss", "mcc"])
@pytest.mark.parametrize("only", [0, 1])
def test_a_validation_part_of_one_class_is_judged_by_its_log_loss(shown: Shown, choose_by: str, only: int) -> None:
    numbers = np.arange(24)
    alike = numbers[16:][shown.event[16:24] == only]
    found = trained(
        bench_of("vit", shown), "LP", settings(choose_by=choose_by), Parts(shown.event[:24], numbers[:16], alike)
    )
    losses = found.losses(of="validation_loss")
    assert all(math.isnan(each) for each in found.losses(of="validation_mcc"))
    assert all(math.isfinite(each) for each in losses)
    assert found.at.best["epoch"] == int(np.argmin(losses)) + 1
    assert math.isnan(found.at.best["mcc"])


@pytest.mark.parametrize(
    ("name", "strategy"), [("resnet", "frozen FFT"), *(("dense", each) for each in ("LP", "LoRA", "BitFit", "IA3"))]
)
def test_running_statistics_stay_through_a_whole_training(shown: Shown, name: str, strategy: str) -> None:
    how = settings(epochs=2, batch_norm="frozen" if "frozen" in strategy else "by strategy")
    found = trained(bench_of(name, shown), strategy.removeprefix("frozen "), how, parts_of(shown))
    before = statistics_of(encoder_of(name).module)
    after = {
        name.replace(".base_layer", ""): each for name, each in statistics_of(found.trainer.classifier.backbone).items()
    }
    assert_same_tensors(after, before)


@pytest.mark.parametrize("name", ["dense", "resnet"])
def test_running_statistics_follow_every_step_of_full_fine_tuning(shown: Shown, name: str) -> None:
    found = trained(bench_of(name, shown), "FFT", settings(epochs=3, evaluate_every=3), parts_of(shown))
    before = statistics_of(encoder_of(name).module)
    after = statistics_of(found.trainer.classifier.backbone)
    for key, each in before.items():
        if key.endswith("num_batches_tracked"):
            assert int(after[key]) - int(each) == 6
        else:
            assert not torch.equal(after[key], each)
    kept = {key: each for key, each in found.tensors.items() if key in after}
    assert_same_tensors(kept, after)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_frozen_is_as_the_encoder_has_it(shown: Shown, strategy: str) -> None:
    found = trained(bench_of("vit", shown), strategy, settings(learning_rate=1e-2), parts_of(shown))
    backbone = found.trainer.classifier.backbone
    own = encoder_of("vit").module.state_dict()
    learnt = set(found.tensors)
    kept = {name.replace(".base_layer", ""): each for name, each in backbone.state_dict().items() if name not in learnt}
    shared = kept.keys() & own.keys()
    assert_same_tensors({name: kept[name] for name in shared}, {name: own[name] for name in shared})
    if strategy in ("LP", "LoRA", "VeRA", "IA3"):
        assert shared == own.keys()


def test_a_frozen_tensor_that_changes_is_found(shown: Shown) -> None:
    trainer = trainer_of(bench_of("vit", shown), "LoRA", settings(), parts_of(shown))
    classifier, calls = trainer.classifier, itertools.count()
    embed = classifier.embed

    def meddling(pixels: torch.Tensor) -> torch.Tensor:
        if next(calls) == 3:
            with torch.no_grad():
                next(each for each in classifier.backbone.parameters() if not each.requires_grad).add_(1.0)
        return embed(pixels)

    classifier.embed = meddling  # type: ignore[method-assign]
    with pytest.raises(StrategyError, match="frozen tensors changed"):
        finished(trainer)


@pytest.mark.parametrize("strategy", ["LP", "FFT", "LoRA"])
def test_half_precision_trains_nearly_as_fp32(shown: Shown, strategy: str) -> None:
    how = settings(epochs=3)
    exact = trained(bench_of("vit", shown), strategy, how, parts_of(shown))
    half = trained(bench_of("vit", shown, precision="bf16"), strategy, how, parts_of(shown))
    assert all(tensor.dtype == torch.float32 for tensor in half.tensors.values())
    assert half.losses() == pytest.approx(exact.losses(), abs=0.02)
    assert half.losses() != exact.losses()
    np.testing.assert_allclose(half.scores, exact.scores, atol=0.03)
    again = trained(bench_of("vit", shown, precision="bf16"), strategy, how, parts_of(shown))
    assert_same_training(again, half)


@pytest.mark.parametrize("name", ["dense", "dinov2"])
def test_known_embeddings_train_as_pictures_do(shown: Shown, name: str) -> None:
    how = settings(epochs=5, head_learning_rates=(1e-2, 1e-1))
    pictures = trained(bench_of(name, shown), "LP", how, parts_of(shown))
    known = trained(bench_of(name, shown), "LP", how, parts_of(shown), cached=True)
    # Whether a picture is embedded beside these or those may move its last bits.
    assert known.losses() == pytest.approx(pictures.losses(), rel=1e-5)
    np.testing.assert_allclose(known.scores, pictures.scores, atol=1e-5)
    assert known.at.best["epoch"] == pictures.at.best["epoch"]


def test_pictures_are_embedded_once_for_all_trainings_on_a_frozen_backbone(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, embedded = bench_of("dense", shown), []
    outputs = type(bench.encoder.loader).outputs

    def counted(self: Any, module: Any, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        embedded.append(len(pixels))
        return outputs(self, module, pixels)  # type: ignore[no-any-return]

    monkeypatch.setattr(type(bench.encoder.loader), "outputs", counted)
    for words in (WORDS, (*WORDS, 1)):
        trained(bench, "LP", settings(), parts_of(shown), words=words, cached=True)
    assert sum(embedded) == 24


def test_no_picture_is_read_where_embeddings_are_known(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of("dense", shown)
    trainer = trainer_of(bench, "LP", settings(), parts_of(shown), cached=True)
    monkeypatch.setattr(bench.feed, "batches", None)
    assert finished(trainer).at.epoch == 3


def test_it_tells_of_every_picture_and_epoch(shown: Shown) -> None:
    ear = Ear()
    rows: list[dict[str, Any]] = []
    bench = bench_of("vit", shown, told=ear)
    bench.feed.ready()
    done = ear.done
    made = bench.classifier(adaptation_of("LoRA"), settings(), WORDS, 1)
    trainer = Trainer(made, bench.feed, parts_of(shown), settings(), "fp32", WORDS, ear, followed=rows.append)  # type: ignore[arg-type]
    with reproducible(CPU):
        at = trainer.run()
    assert ear.done - done == 3 * 16
    assert rows == at.history
    assert len(ear.standings) == 3
    assert ear.standings[0].startswith("epoch 1/3, loss 0.")
    assert "on validation" in ear.standings[0]
    assert "images/s" in ear.standings[0]


def test_a_row_of_the_history_says_what_happened(shown: Shown) -> None:
    how = settings(head_learning_rates=(1e-2, 1e-3), learning_rate=5e-4, schedule="cosine", warmup_epochs=1)
    found = trained(bench_of("vit", shown), "BitFit", how, parts_of(shown, train=15))
    assert [row["steps"] for row in found.at.history] == [2, 2, 2]
    assert [row["rate"] for row in found.at.history] == pytest.approx([2.5e-4, 5e-4, 2.5e-4], abs=1e-6)
    names = [f"{of}_{rate}" for of in ("train_loss", "validation_loss", "validation_mcc") for rate in ("0.01", "0.001")]
    for row in found.at.history:
        assert set(row) == {"epoch", "steps", "rate", "seconds", "images_per_second", *names}
        assert all(isinstance(value, int | float) for value in row.values())
        assert row["seconds"] > 0
        assert row["images_per_second"] == pytest.approx(15 / row["seconds"])


def test_the_first_training_loss_is_that_of_untrained_heads(shown: Shown) -> None:
    # A rate so small that nothing moves: the loss of an epoch is the mean over its steps.
    how = settings(epochs=1, head_learning_rates=(1e-9,), balance="none")
    found = trained(bench_of("vit", shown), "LP", how, parts_of(shown, train=15))
    score, event = found.scores[0][:15], shown.event[:15]
    expected = -np.where(event == 1, np.log(score), np.log1p(-score)).mean()
    assert found.losses(1e-9) == pytest.approx([expected], rel=1e-5)


def test_what_takes_no_part_is_said(shown: Shown) -> None:
    assert trained(bench_of("dinov2", shown), "FFT", settings(), parts_of(shown)).at.idle == ["embeddings.mask_token"]
    assert trained(bench_of("vit", shown), "FFT", settings(), parts_of(shown)).at.idle == []


@pytest.mark.parametrize("balance", ["loss", "sampler", "both", "none"])
def test_every_way_of_balancing_trains(shown: Shown, balance: str) -> None:
    how = settings(epochs=4, balance=balance, head_learning_rates=(1e-1,))
    found = trained(bench_of("vit", shown), "LP", how, parts_of(shown), cached=True)
    assert all(math.isfinite(each) for each in found.losses(1e-1))


def test_balancing_lifts_the_rare_class(tmp_path: Any) -> None:
    shown = shown_in(tmp_path / "images", 60, signal=0.0)
    frequent, rare = np.flatnonzero(shown.event == 0), np.flatnonzero(shown.event == 1)
    train = np.concatenate([frequent[:27], rare[:3]])
    parts = Parts(shown.event, train, np.concatenate([frequent[27:], rare[27:]]))
    means = {}
    for balance in ("none", "loss", "sampler"):
        how = settings(epochs=30, balance=balance, head_learning_rates=(1e-1,), evaluate_every=30)
        means[balance] = trained(bench_of("dense", shown, 60), "LP", how, parts, cached=True).scores.mean()
    assert means["none"] < 0.2
    assert min(means["loss"], means["sampler"]) > 0.3


def test_the_last_step_is_waited_for_on_the_clock_of_training(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which is told of the next step while it computes the last."""
    judge = Trainer._refuse_nan
    monkeypatch.setattr(Trainer, "_note", lambda self, losses, _: self._unseen.append((Returned.of(losses), 0)))

    def slow(self: Trainer, losses: Returned, step: int) -> None:
        time.sleep(0.2)
        judge(self, losses, step)

    monkeypatch.setattr(Trainer, "_refuse_nan", slow)
    found = trained(bench_of("dense", shown), "LP", settings(epochs=1), parts_of(shown))
    assert found.at.seconds["train"] >= 0.2 * found.at.history[0]["steps"]
