"""One fold of a probe: fit on the training part, choose C on the validation part, predict all that was not fitted."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.probing.logistic import Standardiser, fit_path
from peftbench.protocol.metrics import balanced_log_loss
from peftbench.protocol.splits import Split
from peftbench.protocol.tasks import TaskRows

PROBE_SCHEMA = 1
"""Raised whenever the same features and split would give other predictions."""

COSTS: tuple[float, ...] = tuple(float(f"{10.0**power:.6g}") for power in np.arange(-5.0, 1.25, 0.5))
"""Values of C that are tried: 1e-5 to 10, two a decade."""


class Cell(NamedTuple):
    """What one fold left.

    Attributes:
        predictions: of the validation and test parts, columns as in a record.
        chosen: C and its validation loss.
    """

    predictions: pd.DataFrame
    chosen: dict[str, float]


def probe_fold(
    rows: TaskRows, split: Split, fold: int, matrix: npt.NDArray[np.floating], costs: Sequence[float] = COSTS
) -> Cell:
    """The logistic probe on one fold.

    Standardisation and weights are learnt on the training part alone; C is the one with the lowest balanced log
    loss on the validation part, of equals the smallest. The test part is only predicted.

    Args:
        rows: the task's rows.
        split: the division.
        fold: from 0.
        matrix: (images, d), rows as the task's.
        costs: values of C, increasing.
    """
    train, validation, test = (split.positions(fold, role) for role in ("train", "validation", "test"))
    event = rows.frame["event"].to_numpy(dtype=np.int64)
    standardiser = Standardiser.fit(matrix[train])
    fits = fit_path(standardiser.apply(matrix[train]), event[train], costs)
    held_out = standardiser.apply(matrix[validation])
    losses = [balanced_log_loss(event[validation], fit.probability(held_out)) for fit in fits]
    best = int(np.argmin(losses))
    parts = [
        _predictions(rows, fold, role, positions, fits[best].probability(standardiser.apply(matrix[positions])))
        for role, positions in (("validation", validation), ("test", test))
    ]
    chosen = {"C": fits[best].C, "validation_log_loss": losses[best]}
    return Cell(pd.concat(parts, ignore_index=True), chosen)


def _predictions(
    rows: TaskRows, fold: int, role: str, positions: npt.NDArray[np.int64], score: npt.NDArray[np.float64]
) -> pd.DataFrame:
    chosen = rows.frame.iloc[positions]
    return pd.DataFrame(
        {
            "fold": fold,
            "draw": 0,
            "role": role,
            "sample_id": chosen["sample_id"].to_numpy(),
            "patient_id": chosen["patient_id"].to_numpy(),
            "event": chosen["event"].to_numpy(dtype=np.int64),
            "score": score,
        }
    )
