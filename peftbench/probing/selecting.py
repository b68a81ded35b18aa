"""Which of a family's models is taken: the one that does best on rows it was not fitted to."""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from peftbench.probing.families.family import Candidate, Events, Features, ProbeError, Vector
from peftbench.protocol.metrics import Confusion, balanced_log_loss, matthews

Criterion = Literal["log-loss", "mcc"]

CRITERIA: tuple[Criterion, ...] = ("log-loss", "mcc")
"""What `--choose-by` takes: balanced log loss, or MCC at the threshold 0.5."""

PLATEAU = 5
"""Candidates of a path in a row that do no better, after which the rest of it is not fitted."""


EQUAL = 1e-9
"""Losses that differ by less are equal: what is left of rounding."""


class Choice(NamedTuple):
    """A model and why it was taken.

    Attributes:
        candidate: it.
        loss: of the chosen criterion; NaN where there was nothing to choose on.
        tried: how many candidates were looked at.
    """

    candidate: Candidate
    loss: float
    tried: int


def loss_of(event: Events, score: Vector, criterion: Criterion) -> float:
    """What is made small: the balanced log loss, or 1 - MCC; NaN where one class only is there to judge by."""
    if not 0 < event.sum() < len(event):
        return math.nan
    if criterion == "log-loss":
        return balanced_log_loss(event, score)
    return 1.0 - matthews(Confusion.of(event, (score >= 0.5).astype(np.int64)))


def losses_of(event: Events, score: npt.NDArray[np.float64], criterion: Criterion) -> npt.NDArray[np.float64]:
    """(sets, settings) `loss_of` of many sets and settings at once; scores that are NaN are left out.

    Args:
        event: (sets, m) 0 or 1.
        score: (sets, m, settings) probability of the event, or NaN where nothing is known.
        criterion: what decides.
    """
    known, truth = ~np.isnan(score), (event == 1)[:, :, None]
    yes, no = known & truth, known & ~truth
    events, others = yes.sum(axis=1), no.sum(axis=1)
    if criterion == "log-loss":
        told = np.clip(np.where(known, score, 0.5), 1e-15, 1.0 - 1e-15)
        loss = -np.where(truth, np.log(told), np.log1p(-told))
        found = [np.where(each, loss, 0.0).sum(axis=1) / np.maximum(each.sum(axis=1), 1) for each in (yes, no)]
        answer = (found[0] + found[1]) / 2.0
    else:
        hit, rejection = ((yes & (score >= 0.5)).sum(axis=1), (no & (score < 0.5)).sum(axis=1))
        decided, refused = hit + others - rejection, rejection + events - hit
        spread = 1.0 * events * others * decided * refused
        covariance = 1.0 * hit * rejection - 1.0 * (others - rejection) * (events - hit)
        answer = 1.0 - np.where(spread > 0, covariance / np.sqrt(np.maximum(spread, 1.0)), 0.0)
    return np.where((events > 0) & (others > 0), answer, np.nan)


def choose(
    candidates: Iterable[Candidate], features: Features, event: Events, criterion: Criterion, *, path: bool
) -> Choice:
    """The candidate with the least loss on held-out rows; of equals the first, which is the simplest.

    Along a path the log loss falls, then rises, so that the search ends when `PLATEAU` candidates in a row did no
    better; MCC jumps, and is looked at to the end.

    Args:
        candidates: the simplest first.
        features: (m, d) held-out rows.
        event: (m,) their labels.
        criterion: what decides.
        path: whether the candidates are one path of a single strength.

    Raises:
        ProbeError: there is no candidate.
    """
    best: Choice | None = None
    since = tried = 0
    for tried, candidate in enumerate(candidates, start=1):
        loss = loss_of(event, candidate.model.probability(features), criterion)
        if best is None or loss < best.loss - EQUAL:
            best, since = Choice(candidate, loss, tried), 0
        else:
            since += 1
        if path and criterion == "log-loss" and since >= PLATEAU:
            break
    return _found(best, tried)


def choose_left_out(candidates: Iterable[Candidate], event: Events, criterion: Criterion) -> Choice:
    """The candidate with the least loss on its own training rows, each by the fit without it.

    Where a family knows no closed form for that, its first candidate is taken: nothing is left to choose on.

    Args:
        candidates: the simplest first.
        event: (n,) labels of the training rows.
        criterion: what decides.

    Raises:
        ProbeError: there is no candidate.
    """
    best: Choice | None = None
    tried = 0
    for tried, candidate in enumerate(candidates, start=1):
        left_out = candidate.model.left_out
        if left_out is None:
            return Choice(candidate, math.nan, tried)
        loss = loss_of(event, left_out, criterion)
        if best is None or loss < best.loss - EQUAL:
            best = Choice(candidate, loss, tried)
    return _found(best, tried)


def _found(best: Choice | None, tried: int) -> Choice:
    if best is None:
        raise ProbeError("a probe offered no model to choose: report this as a defect")
    return best._replace(tried=tried)
