"""Rates by epoch, weight decay, clipping, and a state from which it goes on."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from finetune_kit import CPU, settings
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from peftbench.finetuning.learner import Learner

RATE = 0.1

SCALER = torch.amp.GradScaler("cpu", enabled=False)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))


def learner(module: nn.Module, **changes: Any) -> Learner:
    return Learner(list(module.parameters()), RATE, settings(**changes))


def rates(losses: Sequence[float], **changes: Any) -> list[float]:
    """Of each epoch, where the validation part says these losses; NaN where nobody looked."""
    made, found = learner(network(), **changes), []
    for epoch, loss in enumerate(losses):
        made.begin_epoch(epoch)
        found.append(made.current_rate)
        if not math.isnan(loss):
            made.end_epoch(epoch, loss)
    return found


def step(made: Learner, module: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    module(torch.randn(5, 4)).square().mean().backward()
    made.step(SCALER)


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_rates_rise_linearly_in_the_warm_up_and_reach_the_full_one_behind_it(schedule: str, warmup: int) -> None:
    found = rates([1.0] * 6, epochs=50, schedule=schedule, warmup_epochs=warmup)
    assert found[:warmup] == pytest.approx([RATE * (epoch + 1) / (warmup + 1) for epoch in range(warmup)])
    assert found[warmup] == pytest.approx(RATE)
    assert 0 < found[0] <= RATE


def test_a_constant_rate_stays() -> None:
    assert rates([1.0] * 30, epochs=30, schedule="constant", warmup_epochs=3)[3:] == [RATE] * 27


@pytest.mark.parametrize("warmup", [0, 3])
def test_a_cosine_is_torchs_own(warmup: int) -> None:
    epochs, low = 20, 1e-3
    optimizer = torch.optim.SGD(network().parameters(), lr=RATE)
    reference, expected = CosineAnnealingLR(optimizer, epochs - warmup, eta_min=low), []
    for _ in range(epochs - warmup):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    found = rates([1.0] * epochs, epochs=epochs, schedule="cosine", warmup_epochs=warmup, min_learning_rate=low)
    assert found[warmup:] == pytest.approx(expected, rel=1e-12)


def test_a_cosine_never_rises_to_the_lowest_rate() -> None:
    found = rates([1.0] * 9, epochs=9, schedule="cosine", min_learning_rate=1.0)
    assert found == [RATE] * 9


def test_a_warm_up_longer_than_the_training_ends_below_the_full_rate() -> None:
    assert max(rates([1.0] * 4, epochs=4, schedule="cosine", warmup_epochs=10)) < RATE


LOSSES = [1.0, 0.9, 0.95, 0.93, 0.97, 0.91, 0.89, 0.92, 0.92, 0.92, 0.92, 0.92, 0.92, 0.92, 0.92, 0.92, 0.92, 0.92]


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("patience", [1, 2, 4])
def test_a_plateau_is_torchs_own_from_the_end_of_the_warm_up_on(warmup: int, patience: int) -> None:
    optimizer = torch.optim.SGD(network().parameters(), lr=RATE)
    reference = ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, min_lr=1e-2)
    expected = []
    for loss in LOSSES[warmup:]:
        expected.append(optimizer.param_groups[0]["lr"])
        reference.step(loss)
    how = {"schedule": "plateau", "plateau_patience": patience, "plateau_factor": 0.5, "min_learning_rate": 1e-2}
    found = rates(LOSSES, epochs=18, warmup_epochs=warmup, **how)
    assert found[warmup:] == pytest.approx(expected, rel=1e-12)
    assert found[-1] < RATE


def test_losses_of_the_warm_up_do_not_count_for_the_plateau() -> None:
    # Were the first, low loss remembered, no later one would be better.
    found = rates([0.1, 1.0, 0.9, 0.8, 0.7, 0.6], epochs=6, schedule="plateau", warmup_epochs=1, plateau_patience=1)
    assert found[1:] == [RATE] * 5


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_patience_counts_epochs_however_often_somebody_looks(every: int) -> None:
    epochs = 30
    losses = [1.0 if (epoch + 1) % every == 0 else math.nan for epoch in range(epochs)]
    how = {"schedule": "plateau", "plateau_patience": 6, "plateau_factor": 0.5, "evaluate_every": every}
    found = rates(losses, epochs=epochs, **how)
    fell = next(epoch for epoch in range(epochs) if found[epoch] < RATE)
    # The first look is the best; the rate falls at the first look more than six epochs behind it.
    first = every
    looks = [epoch for epoch in range(every, epochs + 1, every) if epoch - first > 6]
    assert fell == looks[0]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_other_schedules_do_not_hear_of_losses(schedule: str) -> None:
    how = {"epochs": 10, "schedule": schedule, "plateau_patience": 1}
    assert rates([1.0] * 10, **how) == rates([0.5**epoch for epoch in range(10)], **how)


def test_weights_decay_only_where_they_are_matrices() -> None:
    module = network()
    before = {name: each.detach().clone() for name, each in module.named_parameters()}
    made = learner(module, weight_decay=0.5)
    for each in module.parameters():
        each.grad = torch.zeros_like(each)
    made.step(SCALER)
    for name, each in module.named_parameters():
        expected = before[name] * (1 - RATE * 0.5) if each.ndim > 1 else before[name]
        torch.testing.assert_close(each.detach(), expected, rtol=1e-6, atol=0.0)


def test_scaling_vectors_do_not_decay_whatever_their_shape() -> None:
    # As the library shapes those of IA3, for linear layers and for convolutions.
    vectors = [nn.Parameter(torch.ones(shape)) for shape in ((5,), (5, 1), (1, 5), (1, 5, 1, 1), (1,), ())]
    matrices = [nn.Parameter(torch.ones(shape)) for shape in ((5, 2), (2, 5, 1, 1), (1, 1, 3, 3))]
    made = Learner([*vectors, *matrices], RATE, settings(weight_decay=0.5))
    for each in (*vectors, *matrices):
        each.grad = torch.zeros_like(each)
    made.step(SCALER)
    assert all(bool((each == 1.0).all()) for each in vectors)
    assert all(bool((each < 1.0).all()) for each in matrices)


def test_a_step_is_adamw_with_its_default_moments() -> None:
    module = network()
    twin = copy.deepcopy(module)
    made = learner(module, weight_decay=0.1)
    matrices = [each for each in twin.parameters() if each.ndim > 1]
    vectors = [each for each in twin.parameters() if each.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=RATE, foreach=False, fused=False)
    for seed in range(4):
        step(made, module, seed)
        torch.manual_seed(seed)
        twin(torch.randn(5, 4)).square().mean().backward()
        reference.step()
        reference.zero_grad()
    for mine, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [1e-4, 1e-2, 1e6])
def test_the_gradient_is_cut_to_a_norm_over_all_parameters(monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    module = network()
    module(torch.randn(5, 4, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    expected = [each.grad.clone() for each in module.parameters() if each.grad is not None]
    norm = math.sqrt(sum(float(each.square().sum()) for each in expected))
    made = learner(module, clip=limit)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        made.optimizer,
        "step",
        lambda *_: seen.extend(each.grad.clone() for each in module.parameters() if each.grad is not None),
    )
    made.step(SCALER)
    for cut, whole in zip(seen, expected, strict=True):
        torch.testing.assert_close(cut, whole * min(1.0, limit / norm), rtol=1e-4, atol=0.0)


def test_gradients_are_forgotten_after_a_step() -> None:
    module = network()
    made = learner(module)
    step(made, module, 0)
    assert all(each.grad is None for each in module.parameters())


def test_a_parameter_without_a_gradient_stays_as_it_is() -> None:
    module = network()
    before = module[2].weight.detach().clone()  # type: ignore[index, union-attr]
    made = learner(module, weight_decay=0.5, clip=1.0)
    module[0](torch.ones(1, 4)).sum().backward()  # type: ignore[index, operator]
    made.step(SCALER)
    assert torch.equal(module[2].weight, before)  # type: ignore[index, union-attr, arg-type]


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "constant"])
@pytest.mark.parametrize("stop", [0, 1, 4, 7])
def test_it_goes_on_from_its_state_as_if_never_stopped(schedule: str, stop: int) -> None:
    how: dict[str, Any] = {"epochs": 12, "schedule": schedule, "warmup_epochs": 2, "plateau_patience": 1}

    def epochs(made: Learner, module: nn.Module, first: int, last: int) -> list[float]:
        found = []
        for epoch in range(first, last):
            made.begin_epoch(epoch)
            found.append(made.current_rate)
            step(made, module, epoch)
            made.end_epoch(epoch, LOSSES[epoch])
        return found

    whole = network()
    expected = epochs(learner(whole, **how), whole, 0, 12)
    part = network()
    first = learner(part, **how)
    found = epochs(first, part, 0, stop)
    state, weights = copy.deepcopy(first.state_dict()), copy.deepcopy(part.state_dict())
    fresh = network()
    second = learner(fresh, **how)
    fresh.load_state_dict(weights)
    second.load_state_dict(state)
    found += epochs(second, fresh, stop, 12)
    assert found == expected
    for mine, theirs in zip(fresh.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_vectors_alone_or_matrices_alone_are_taken_as_well() -> None:
    vector, matrix = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 3))
    for each in (vector, matrix):
        made = Learner([each], RATE, settings())
        each.grad = torch.ones_like(each)
        made.step(SCALER)
        assert made.current_rate == RATE
        assert each.device == CPU
