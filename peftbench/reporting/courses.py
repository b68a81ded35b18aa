"""The course of a training, epoch by epoch: of the head that was kept, as the history in a record's folder has it."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from peftbench.errors import RecordError
from peftbench.finetuning.history import HISTORY_FILE
from peftbench.protocol.records import Record

QUANTITIES = ("train_loss", "validation_loss", "validation_mcc")
"""What is followed over the epochs; on validation NaN where nobody looked."""


@dataclass(frozen=True, eq=False)
class Course:
    """One training: of a fold and a draw.

    Attributes:
        fold: from 0.
        draw: from 0.
        kept: the epoch whose head and backbone were kept, from 1.
        frame: one row an epoch, by which it is indexed: `QUANTITIES` of the head that was kept.
    """

    fold: int
    draw: int
    kept: int
    frame: pd.DataFrame

    @property
    def epochs(self) -> int:
        """How many were trained."""
        return int(self.frame.index[-1])


def read_courses(folder: Path, record: Record) -> tuple[Course, ...]:
    """The courses of a record's trainings, by fold and draw; none where its folder holds no history.

    Raises:
        RecordError: the history cannot be read.
    """
    path = folder / HISTORY_FILE
    if not path.is_file():
        return ()
    try:
        return courses_of(pd.read_csv(path), record)
    except (OSError, ValueError, KeyError) as error:
        raise RecordError(
            f"the history {path} cannot be read ({str(error).splitlines()[0]}): delete its folder and run `peftbench "
            "finetune` again"
        ) from error


def courses_of(history: pd.DataFrame, record: Record) -> tuple[Course, ...]:
    """The courses of a record's trainings, by fold and draw.

    Args:
        history: as `peftbench.finetuning.history.history_table` makes it.
        record: which head and epoch were kept.
    """
    chosen = {(score["fold"], score["draw"]): score["chosen"] for score in record.scores}
    kept = pd.DataFrame(
        [(*cell, each["epoch"], float(each["head_learning_rate"])) for cell, each in chosen.items() if "epoch" in each],
        columns=["fold", "draw", "kept", "wanted"],
    )
    # The history shortens rates in its names: the nearest is the one. All at once, because draws are many.
    found = history.merge(kept, on=["fold", "draw"]).sort_values(["fold", "draw", "epoch"], kind="stable")
    distance = (found["head_rate"] - found["wanted"]).abs()
    found = found[distance == distance.groupby([found["fold"], found["draw"]]).transform("min")].set_index("epoch")
    return tuple(_course(part) for _, part in found.groupby(["fold", "draw"]))


def _course(part: pd.DataFrame) -> Course:
    fold, draw, kept = (int(part[name].iloc[0]) for name in ("fold", "draw", "kept"))
    return Course(fold, draw, kept, part[list(QUANTITIES)].astype(float))
