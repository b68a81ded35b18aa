"""Metrics of a risk against times that may be censored. What is not defined on the data is NaN with a reason."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatVector = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

SURVIVAL_METRICS_SCHEMA = 1
"""Raised whenever a metric of the same risks and times would come out otherwise."""

_AT_ONCE = 256
"""Events that are compared with all rows at a time: bounds the memory, and is fast up to some ten thousand rows."""


class Concordance(NamedTuple):
    """Harrell's concordance index.

    Attributes:
        value: share of the comparable pairs whose risks stand in the right order; NaN where there is no such pair.
        pairs: how many are comparable.
        reason: why the value is NaN; empty where it is not.
    """

    value: float
    pairs: int
    reason: str = ""


def concordance(time: npt.ArrayLike, observed: npt.ArrayLike, risk: npt.ArrayLike) -> Concordance:
    """Harrell's concordance index (Harrell et al. 1982, JAMA 247:2543): 0.5 is chance, 1 the perfect order.

    A pair is comparable where it is known who came first: one had the event, and the other was watched for longer, or
    for as long without it. It counts 1 where the earlier one has the higher risk, and a half where both have the same.

    Args:
        time: (n,) days to the event, or under observation.
        observed: (n,) whether the event came.
        risk: (n,) any number that rises with the hazard.

    Raises:
        ValueError: the vectors differ in length, are empty, or hold something else than stated.
    """
    days, came, score = _validated(time, observed, risk)
    events = np.flatnonzero(came)
    pairs, twice_right = 0, 0
    for start in range(0, len(events), _AT_ONCE):
        mine = events[start : start + _AT_ONCE, None]
        later = (days > days[mine]) | ((days == days[mine]) & ~came)
        pairs += int(later.sum())
        twice_right += 2 * int((later & (score < score[mine])).sum()) + int((later & (score == score[mine])).sum())
    if not pairs:
        return Concordance(float("nan"), 0, _incomparable(came))
    return Concordance(twice_right / (2 * pairs), pairs)


def _incomparable(came: Flags) -> str:
    if not came.any():
        return f"the event came in none of the {len(came)} rows"
    return f"no row is known to have been free of the event for longer than those {int(came.sum())} that had it"


def _validated(
    time: npt.ArrayLike, observed: npt.ArrayLike, risk: npt.ArrayLike
) -> tuple[FloatVector, Flags, FloatVector]:
    days, score = np.asarray(time, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    flags = np.asarray(observed)
    if days.ndim != 1 or not days.size or not days.shape == flags.shape == score.shape:
        raise ValueError(
            f"time, observed and risk are equally long, not empty vectors: {days.shape}, {flags.shape}, {score.shape}"
        )
    if not np.isin(flags, (0, 1)).all():
        raise ValueError(f"observed holds true and false, or 1 and 0, only; found {np.unique(flags)[:5]}")
    if not (np.isfinite(days).all() and np.isfinite(score).all()):
        raise ValueError("time and risk hold finite numbers only")
    return days, flags.astype(bool), score
