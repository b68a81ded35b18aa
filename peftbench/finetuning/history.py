"""The history of a training: one row an epoch, as CSV in the record."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

HISTORY_FILE = "history.csv"

_OF_A_HEAD = ("train_loss", "validation_loss", "validation_mcc")


def history_table(histories: Sequence[tuple[int, int, Sequence[Mapping[str, Any]]]]) -> pd.DataFrame:
    """Fold, draw, epoch, head by head.

    Args:
        histories: fold, draw, and the rows of their epochs.

    Returns:
        One row a fold, draw, epoch and head: `fold`, `draw`, `epoch`, `head_rate`, `train_loss`, `validation_loss` and
        `validation_mcc` (NaN where nobody looked), `rate` (of the backbone; of a frozen one, of the head), `seconds`
        and `images_per_second` of the epoch.
    """
    rows = []
    for fold, draw, epochs in histories:
        for epoch in epochs:
            shared = {key: epoch[key] for key in ("epoch", "rate", "seconds", "images_per_second")}
            rates = [key.removeprefix("train_loss_") for key in epoch if key.startswith("train_loss_")]
            rows += [
                {
                    "fold": fold,
                    "draw": draw,
                    "head_rate": float(rate),
                    **{name: epoch.get(f"{name}_{rate}") for name in _OF_A_HEAD},
                    **shared,
                    "rate": epoch.get(f"rate_{rate}", epoch["rate"]),
                }
                for rate in rates
            ]
    columns = ["fold", "draw", "epoch", "head_rate", *_OF_A_HEAD, "rate", "seconds", "images_per_second"]
    return pd.DataFrame(rows, columns=columns)
