"""What is learnt of scores on the validation part: a decision threshold, and a temperature; and how reliable they are.

Shared by all that predicts. Nothing here ever sees a test part's labels, but for `reliability`, which judges.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from peftbench.protocol.metrics import ECE_BINS, THRESHOLD, FloatVector, IntVector

CERTAIN = 1e-12
"""Scores nearer to 0 or 1 than this count as this near, so that their log odds are finite."""

TEMPERATURES = (0.05, 20.0)
"""The range of temperatures: beyond, a validation part says only that more would be better still."""


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability curve.

    Attributes:
        low, high: scores that fall into it, `high` excluded but for 1.
        count: how many did.
        score: their mean.
        share: of them that had the event.
    """

    low: float
    high: float
    count: int
    score: float
    share: float


def best_threshold(event: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """The threshold with the highest MCC; of equals the one nearest to 0.5.

    Thresholds lie half-way between neighbouring scores, so that a small change of a score changes no decision.

    Args:
        event: (n,) 0 or 1.
        score: (n,) probability of the event.

    Returns:
        A threshold in [0, 1]; 0.5 where one class only is there to judge by.
    """
    truth, probability = np.asarray(event, dtype=np.float64), np.asarray(score, dtype=np.float64)
    events, count = float(truth.sum()), len(truth)
    if not 0 < events < count:
        return THRESHOLD
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    last = np.flatnonzero(np.diff(ranked) != 0)
    hits, decided = np.cumsum(truth[order])[last], last + 1.0
    spread = np.sqrt(decided * events * (count - events) * (count - decided))
    matthews = (hits * count - decided * events) / spread
    # Deciding for all or for nobody has an MCC of 0, which is better than decisions that are turned round.
    ends = [ranked[-1] / 2.0, *([(ranked[0] + 1.0) / 2.0] if ranked[0] < 1 else []), THRESHOLD]
    cuts = np.append(_between(ranked[last], ranked[last + 1]), ends)
    matthews = np.append(matthews, np.zeros(len(ends)))
    matthews[-1] = _matthews_at(truth, probability, THRESHOLD)
    equal = np.flatnonzero(matthews >= matthews.max() - 1e-12)
    return float(cuts[equal[np.argmin(np.abs(cuts[equal] - THRESHOLD))]])


def _between(above: FloatVector, below: FloatVector) -> FloatVector:
    """Half-way; neighbours with no number between them are cut at the upper one, which a decision includes."""
    half = (above + below) / 2.0
    return np.where(half > below, half, above)


def _matthews_at(truth: FloatVector, probability: FloatVector, threshold: float) -> float:
    decision = (probability >= threshold).astype(np.float64)
    events, decided, count = truth.sum(), decision.sum(), len(truth)
    spread = np.sqrt(decided * events * (count - events) * (count - decided))
    return float((float(truth @ decision) * count - decided * events) / spread) if spread else 0.0


def fit_temperature(event: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """The temperature T by which log odds are divided so that the log loss is least (Guo et al. 2017, ICML).

    Args:
        event: (n,) 0 or 1.
        score: (n,) probability of the event.

    Returns:
        T within `TEMPERATURES`; 1 where one class only is there to judge by, or no score says anything (all 0.5).
    """
    truth, odds = np.asarray(event, dtype=np.float64), _log_odds(score)
    if not 0 < truth.sum() < len(truth) or not odds.any():
        return 1.0
    sign = 2.0 * truth - 1.0

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -sign * odds * np.exp(-log_temperature)).mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x))


def apply_temperature(score: npt.ArrayLike, temperature: float) -> FloatVector:
    """(n,) scores with log odds divided by a temperature; decisions at 0.5, and ranks, stay what they are."""
    return np.asarray(expit(_log_odds(score) / temperature), dtype=np.float64)


def reliability(event: IntVector, score: FloatVector, bins: int = ECE_BINS) -> list[Bin]:
    """The reliability curve: equal-width bins, those that hold nobody left out.

    The sum of count x |score - share| over all is n times `metrics.calibration_error`.

    Args:
        event: (n,) 0 or 1.
        score: (n,) probability of the event.
        bins: how many.
    """
    position = np.minimum((score * bins).astype(np.int64), bins - 1)
    count = np.bincount(position, minlength=bins)
    total, events = (np.bincount(position, weights=each, minlength=bins) for each in (score, event))
    return [
        Bin(at / bins, (at + 1) / bins, int(count[at]), float(total[at] / count[at]), float(events[at] / count[at]))
        for at in np.flatnonzero(count).tolist()
    ]


def _log_odds(score: npt.ArrayLike) -> FloatVector:
    return np.asarray(logit(np.clip(np.asarray(score, dtype=np.float64), CERTAIN, 1.0 - CERTAIN)), dtype=np.float64)
