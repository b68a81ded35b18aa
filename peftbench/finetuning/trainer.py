"""The training loop: epochs of steps, a look at the validation part after each, the best kept.

Everything random in a step is drawn from a seed that its cell, epoch and number tell, and the order of an epoch from
one that cell and epoch tell. So no state of a generator has to be carried: a training that was stopped between two
steps and goes on is the one that was never stopped, to the bit on a processor.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.nn import functional

from peftbench.backbones.device import Precision, Returned, autocast, sent
from peftbench.errors import PeftbenchError
from peftbench.finetuning.classifier import Classifier
from peftbench.finetuning.cost import Meter
from peftbench.finetuning.feed import Feed, Positions, epoch_order, seed_of
from peftbench.finetuning.learner import Learner
from peftbench.finetuning.predicting import Scores, probabilities
from peftbench.finetuning.training import Training
from peftbench.imaging.augmentation import augment
from peftbench.protocol.metrics import THRESHOLD, Confusion, balanced_log_loss, matthews
from peftbench.protocol.progress import Progress
from peftbench.strategies.adapting import learning_state, load_learning_state
from peftbench.strategies.guard import Guard

EQUAL = 1e-9
"""Validation losses that differ by less are equal: the earlier epoch is kept."""


class TrainingError(PeftbenchError, RuntimeError):
    """A training cannot go on."""


class Parts(NamedTuple):
    """Who trains and who validates, as numbers of the feed.

    Attributes:
        event: (n,) 0 or 1, of all pictures of the feed.
        train: positions.
        validation: positions.
    """

    event: Positions
    train: Positions
    validation: Positions


@dataclass
class Standing:
    """How far a training is, apart from its tensors.

    Attributes:
        epoch: under way, from 0.
        step: of the epoch, the next one.
        seen: images of the epoch so far.
        best_value: lowest of each head on validation so far: the log loss, or 1 - MCC.
        stale: epochs since, of each head.
        best: `value`, `log_loss`, `mcc`, `head` and `epoch` of what is kept.
        history: one row an epoch.
        seconds: of training and of validation so far.
        idle: tensors that learn and take no part in the forward pass.
    """

    epoch: int = 0
    step: int = 0
    seen: int = 0
    best_value: list[float] = field(default_factory=list)
    stale: list[int] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "validate": 0.0})
    idle: list[str] = field(default_factory=list)


class Keeper(Protocol):
    """Somebody who keeps the state of a training where an interruption cannot reach it."""

    def read(self) -> dict[str, Any] | None:
        """What was kept; None where there is nothing."""

    def due(self) -> bool:
        """Whether it is time to keep the next one."""

    def write(self, state: dict[str, Any]) -> None:
        """Keep a state, all or nothing."""


class Forgetful:
    """Keeps nothing."""

    def read(self) -> dict[str, Any] | None:
        """Nothing."""
        return None

    def due(self) -> bool:
        """Never."""
        return False

    def write(self, state: dict[str, Any]) -> None:
        """Forget it."""


class Trainer:
    """Trains a classifier on a part of a feed's pictures.

    Args:
        classifier: on its device.
        feed: the pictures.
        parts: who trains and validates.
        how: the settings.
        precision: of the forward pass.
        words: that tell this cell from all others, for its seeds.
        told: hears of every step.
        keeper: of the state.
        embeddings: (pictures, d) of all pictures of the feed, where the backbone is frozen and nothing is augmented:
            then no picture is looked at twice.
        followed: hears the row of each epoch.
        meter: of what it costs.
    """

    def __init__(
        self,
        classifier: Classifier,
        feed: Feed,
        parts: Parts,
        how: Training,
        precision: Precision,
        words: Sequence[object],
        told: Progress,
        keeper: Keeper | None = None,
        embeddings: torch.Tensor | None = None,
        followed: Callable[[Mapping[str, Any]], None] = lambda _: None,
        meter: Meter | None = None,
    ) -> None:
        self.classifier, self.feed, self.parts, self.how = classifier, feed, parts, how
        self.precision, self.words, self.told, self.embeddings = precision, words, told, embeddings
        self.followed, self.keeper, self.meter = followed, keeper or Forgetful(), meter
        self.device, heads = feed.device, len(classifier.heads)
        self.learners = learners_of(classifier, how)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.weight = torch.tensor(class_weights(parts, how), dtype=torch.float32)
        self.there = self.weight.to(self.device)
        self.guard = Guard.of(classifier.backbone)
        self.best: dict[str, torch.Tensor] = {}
        self.at = Standing(best_value=[math.inf] * heads, stale=[0] * heads)
        self.sums = torch.zeros(heads, dtype=torch.float64, device=self.device)
        self._unseen: list[tuple[Returned, int]] = []

    def run(self) -> Standing:
        """Train to the end, from where the keeper says; afterwards the classifier is the best one found.

        Raises:
            TrainingError: the loss is no number.
            StrategyError: what should be frozen has changed, or an adapter got no gradient.
        """
        if (state := self.keeper.read()) is not None:
            self._take_up(state)
        while self.at.epoch < self.how.epochs and min(self.at.stale) < self.how.early_stop:
            self._epoch()
        self.guard.check_unchanged()
        self.classifier.load(self.best, self.at.best["head"])
        return self.at

    def scores(self, positions: Positions) -> Scores:
        """(heads, n) probability of the event of some pictures, by each head."""
        self.classifier.set_modes(training=False)
        stream = self._stream(_pieces(positions, 2 * (self.how.micro_batch or self.how.batch_size)))
        embeddings = (self._embedded(each) for each in stream)
        return probabilities(
            self.classifier, embeddings, self.device, self.precision, lambda: self._safe_moment(0)
        )  # fmt: skip

    def _epoch(self) -> None:
        """The steps of an epoch that are left, and the look at the validation part."""
        at, how, train = self.at, self.how, self.parts.train
        for learner in self.learners:
            learner.begin_epoch(at.epoch)
        seed = seed_of(*self.words, "order", at.epoch)
        order = epoch_order(self.parts.event[train], how.batch_size, how.balance, seed)
        steps = len(order)
        pieces = [_pieces(train[each], how.micro_batch or how.batch_size) for each in order[at.step :]]
        self.classifier.set_modes(training=True)
        # One stream for the whole epoch: the next step's pictures are read while this one computes.
        stream = self._stream([piece for step in pieces for piece in step])
        for step in pieces:
            start = time.perf_counter()
            self._step(step, stream)
            if at.step == steps:
                # The last one is waited for on the clock of training, not on that of validation.
                self._refuse_all_nan()
            at.seconds["train"] += time.perf_counter() - start
            self._safe_moment(sum(map(len, step)))
        start = time.perf_counter()
        self._look()
        at.seconds["validate"] += time.perf_counter() - start
        at.epoch, at.step, at.seen = at.epoch + 1, 0, 0
        self.sums.zero_()
        if self.keeper.due():
            self.keeper.write(self._state())

    def _step(self, pieces: Sequence[Positions], stream: Iterator[torch.Tensor]) -> None:
        """One step: the gradients of its pieces add up to that of the whole."""
        at = self.at
        numbers = np.concatenate(pieces)
        torch.manual_seed(seed_of(*self.words, "step", at.epoch, at.step))
        generator = torch.Generator().manual_seed(seed_of(*self.words, "augmentation", at.epoch, at.step))
        total = self.weight[torch.from_numpy(self.parts.event[numbers])].sum().item()
        losses = torch.zeros_like(self.sums)
        for piece in pieces:
            event = torch.from_numpy(self.parts.event[piece])
            with autocast(self.device, self.precision):
                logits = self.classifier(self._embedded(next(stream), generator))
            loss = losses_of(logits, sent(event, self.device), self.there) / total
            self.scaler.scale(loss.sum()).backward()  # type: ignore[no-untyped-call]
            losses += loss.detach()
        self._note(losses, len(numbers))
        first = at.epoch == 0 and at.step == 0
        if first:
            at.idle = list(self.guard.check_gradients())
        for learner in self.learners:
            learner.step(self.scaler)
        self.scaler.update()
        if first:
            self.guard.check_unchanged()
        at.seen += len(numbers)
        at.step += 1

    def _embedded(self, given: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Embeddings of a batch of the stream, augmented where a generator is given."""
        if self.embeddings is not None:
            return given
        if generator is not None and self.how.augmentation is not None:
            # Where pixels go does not depend on the precision of the forward pass.
            with torch.autocast(self.device.type, enabled=False):
                given = augment(given, self.how.augmentation, generator)
        return self.classifier.embed(given)

    def _stream(self, batches: Sequence[Positions]) -> Iterator[torch.Tensor]:
        """Pictures of each batch, or their embeddings where these are known."""
        if self.embeddings is None:
            return self.feed.batches(batches)
        known = self.embeddings
        return (known[torch.from_numpy(each).to(known.device)] for each in batches)

    def _note(self, losses: torch.Tensor, count: int) -> None:
        """Count a step's losses, and refuse what is no number; on a GPU a step late, so as not to wait for it."""
        self.sums += losses * count
        self._unseen.append((Returned.of(losses), self.at.step))
        if self.device.type == "cpu" or len(self._unseen) > 1:
            self._refuse_nan(*self._unseen.pop(0))

    def _refuse_all_nan(self) -> None:
        while self._unseen:
            self._refuse_nan(*self._unseen.pop(0))

    def _refuse_nan(self, losses: Returned, step: int) -> None:
        for loss, rate in zip(losses.values(), self.how.head_learning_rates, strict=True):
            if not math.isfinite(loss):
                raise TrainingError(self._no_number(f"the training loss is {loss}", step + 1, rate))

    def _no_number(self, what: str, step: int, rate: float) -> str:
        return (
            f"{what} in epoch {self.at.epoch + 1}, step {step} (head rate {rate:g}, backbone rate "
            f"{self.how.learning_rate:g}, {self.precision}): what was kept before is left as it is; lower the rate "
            "with --set learning_rate=... or --set head_learning_rates=..., set clip=1, or take --precision fp32"
        )

    def _look(self) -> None:
        """At the validation part, if it is time; what is best is kept, and a row of history written."""
        at, how = self.at, self.how
        self._refuse_all_nan()
        row: dict[str, Any] = {"epoch": at.epoch + 1, "steps": at.step, "rate": self.learners[-1].current_rate}
        if not self.classifier.learns:
            rates = zip(how.head_learning_rates, self.learners, strict=True)
            row |= {f"rate_{rate:g}": learner.current_rate for rate, learner in rates}
        means = (self.sums / max(1, at.seen)).tolist()
        row |= {f"train_loss_{rate:g}": each for rate, each in zip(how.head_learning_rates, means, strict=True)}
        losses = [math.nan] * len(means)
        if (at.epoch + 1) % how.evaluate_every == 0 or at.epoch + 1 == how.epochs:
            losses = self._judge(row)
        for learner, loss in zip(self.learners, [*losses, min(losses)], strict=False):
            if not math.isnan(loss):
                learner.end_epoch(at.epoch, loss)
        seconds = at.seconds["train"] - sum(each["seconds"] for each in at.history)
        row |= {"seconds": seconds, "images_per_second": at.seen / max(seconds, 1e-9)}
        at.history.append(row)
        self.followed(row)
        self.told.status(self._told(row))

    def _judge(self, row: dict[str, Any]) -> list[float]:
        """Log losses of the heads on the validation part; keeps what is better than all before."""
        at, how = self.at, self.how
        event = self.parts.event[self.parts.validation]
        losses = []
        for head, (rate, score) in enumerate(
            zip(how.head_learning_rates, self.scores(self.parts.validation), strict=True)
        ):
            if not np.isfinite(score).all():
                raise TrainingError(self._no_number("validation scores are no numbers", at.step, rate))
            loss, mcc = log_loss(event, score), mcc_of(event, score)
            losses.append(loss)
            row |= {f"validation_loss_{rate:g}": loss, f"validation_mcc_{rate:g}": mcc}
            # Where one class only is there, MCC says nothing.
            value = loss if how.choose_by == "log-loss" or math.isnan(mcc) else 1.0 - mcc
            if value < at.best_value[head] - EQUAL:
                at.best_value[head], at.stale[head] = value, 0
            else:
                at.stale[head] += how.evaluate_every
            if not at.best or value < at.best["value"] - EQUAL:
                at.best = {"value": value, "log_loss": loss, "mcc": mcc, "head": head, "epoch": at.epoch + 1}
                self.best = self.classifier.learnt(head)
        return losses

    def _told(self, row: dict[str, Any]) -> str:
        best, rates = self.at.best, self.how.head_learning_rates
        rate = f"{rates[best['head']]:g}" if best else f"{rates[0]:g}"
        told = f"epoch {row['epoch']}/{self.how.epochs}, loss {row[f'train_loss_{rate}']:.3f}"
        if f"validation_loss_{rate}" in row:
            told += f", on validation {row[f'validation_loss_{rate}']:.3f}, MCC {row[f'validation_mcc_{rate}']:.2f}"
        if best:
            told += f" (best {best['log_loss']:.3f} in epoch {best['epoch']})"
        return f"{told}, {row['images_per_second']:.1f} images/s"

    def _safe_moment(self, count: int) -> None:
        """Between two steps: what stops the process stops it here, and the state is kept first."""
        try:
            self.told.advance(count)
        except KeyboardInterrupt:
            self.keeper.write(self._state())
            raise
        if count and self.keeper.due():
            self.keeper.write(self._state())

    def _state(self) -> dict[str, Any]:
        self._refuse_all_nan()
        return {
            "standing": asdict(self.at),
            "backbone": learning_state(self.classifier.backbone),
            "heads": self.classifier.heads.state_dict(),
            "learners": [each.state_dict() for each in self.learners],
            "scaler": self.scaler.state_dict(),
            "sums": self.sums,
            "best": self.best,
            "cost": self.meter.told() if self.meter else {},
        }

    def _take_up(self, state: dict[str, Any]) -> None:
        self.at = Standing(**state["standing"])
        load_learning_state(self.classifier.backbone, state["backbone"])
        self.classifier.heads.load_state_dict(state["heads"])
        for learner, each in zip(self.learners, state["learners"], strict=True):
            learner.load_state_dict(each)
        self.scaler.load_state_dict(state["scaler"])
        self.sums.copy_(state["sums"])
        self.best = dict(state["best"])
        if self.meter:
            self.meter.take_up(state["cost"])
        self.told.advance(self.at.epoch * len(self.parts.train) + self.at.seen)


def learners_of(classifier: Classifier, how: Training) -> list[Learner]:
    """One for each head, then one for what learns in the backbone, if anything does."""
    learners = [
        Learner(list(head.parameters()), rate, how)
        for head, rate in zip(classifier.heads, how.head_learning_rates, strict=True)
    ]
    own = [each for each in classifier.backbone.parameters() if each.requires_grad]
    return [*learners, Learner(own, how.learning_rate, how)] if own else learners


def class_weights(parts: Parts, how: Training) -> tuple[float, float]:
    """What an image without and with the event weighs in the loss: on average 1."""
    if how.balance not in {"loss", "both"}:
        return 1.0, 1.0
    event = parts.event[parts.train]
    counts = [int((event == each).sum()) for each in (0, 1)]
    without, with_event = (len(event) / (2.0 * count) for count in counts)
    return without, with_event


def losses_of(logits: torch.Tensor, event: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(heads,) weighted sums of the cross-entropy.

    Args:
        logits: (heads, n, 2).
        event: (n,) 0 or 1.
        weight: (2,) of the classes.
    """
    heads, count, classes = logits.shape
    flat = logits.float().reshape(heads * count, classes)
    each = functional.cross_entropy(flat, event.repeat(heads), weight=weight, reduction="none")
    return each.reshape(heads, count).sum(dim=1).double()


def log_loss(event: Positions, score: Scores) -> float:
    """The balanced log loss; the plain one where only one class is there."""
    if 0 < event.sum() < len(event):
        return balanced_log_loss(event, score)
    told = np.clip(np.where(event == 1, score, 1.0 - score), 1e-15, 1.0)
    return float(-np.log(told).mean())


def mcc_of(event: Positions, score: Scores) -> float:
    """MCC at the threshold 0.5; NaN where the truth has one class only."""
    return matthews(Confusion.of(event, (score >= THRESHOLD).astype(np.int64)))


def _pieces(numbers: Positions, size: int) -> list[Positions]:
    """As few pieces as hold `size` at most, of sizes that differ by one at most."""
    return list(np.array_split(numbers, -(-len(numbers) // size))) if len(numbers) else []
