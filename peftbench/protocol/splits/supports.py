"""The support sets of a regime: which sizes a task allows, and the sets themselves, fold by fold.

Regimes and sizes are those of the command line, `full` among them; `Draws` has the sets.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from peftbench.errors import SplitError
from peftbench.protocol.splits.draws import Draws
from peftbench.protocol.splits.split import Split
from peftbench.protocol.splits.units import home_centers
from peftbench.protocol.tasks import TaskRows

Regime = Literal["full", "reduced", "few-shot", "center-few-shot"]

REGIMES: tuple[Regime, ...] = get_args(Regime)
"""As the command line spells them."""

SIZES: dict[Regime, tuple[int, ...]] = {
    "full": (),
    "reduced": (256,),
    "few-shot": (2, 4, 8, 16, 32),
    "center-few-shot": (2, 4, 8, 16),
}
"""Shots a class (and centre), or images in all: those of the paper."""

Supports = Mapping[int, list[npt.NDArray[np.int64]]]
"""Size to one (draws, m) array of positions a fold."""


def regime_name(regime: Regime) -> str:
    """A regime as the protocol calls it, in records and in the words that draws are ordered by."""
    return regime.replace("center-few-shot", "center few-shot")


def support_sets_of(
    rows: TaskRows, split: Split, regime: Regime, sizes: Sequence[int] | None, draws: int
) -> tuple[Supports, list[str]]:
    """The support sets of every size that the task allows, and what a user must know.

    Of sizes that were asked for none is left out: the first that does not fit is refused.

    Args:
        rows: the task's rows.
        split: their division.
        regime: how much of the training part is used; not `full`.
        sizes: that were asked for; None for the paper's, as far as the task has them.
        draws: support sets a fold and size.

    Raises:
        SplitError: a size that was asked for does not fit, none fits, or the task has one centre only.
    """
    if regime == "center-few-shot":
        _refuse_one_center(rows)
    drawn, name = Draws(rows, split), regime_name(regime)
    fitting: list[int] = []
    notes: list[str] = []
    for size in sizes or SIZES[regime]:
        try:
            for fold in range(split.folds):
                _refuse_repeats(rows, split, fold, drawn.of(name, fold, size, 0), regime, draws)
        except SplitError as error:
            if sizes is not None:
                raise
            if not fitting:
                raise SplitError(
                    f"{error}; {size} is the default of --regime {regime}: name another with --shots"
                ) from error
            notes.append(f"{size} and more are left out: {error}")
            break
        fitting.append(size)
    found: dict[int, list[npt.NDArray[np.int64]]] = {size: [] for size in fitting}
    for fold in range(split.folds):
        # All sizes of a draw in a row: they share its order.
        sets = [[drawn.of(name, fold, size, draw) for size in fitting] for draw in range(draws)]
        for at, size in enumerate(fitting):
            found[size].append(np.stack([each[at] for each in sets]))
    return found, [*notes, *_repeated(found, draws)]


def _repeated(found: Supports, draws: int) -> list[str]:
    """A note for each size of which some draws are the same set: where patients have few images of a class."""
    notes = []
    for size, folds in found.items():
        distinct = min(len(np.unique(sets, axis=0)) for sets in folds)
        if distinct < draws:
            notes.append(f"of {draws} draws of size {size} as few as {distinct} are distinct in a fold")
    return notes


def _refuse_one_center(rows: TaskRows) -> None:
    centers = sorted(set(map(str, home_centers(rows.frame))) - {""})
    if len(centers) < 2:
        raise SplitError(
            f"{rows.task.name} has {len(centers)} centre ({', '.join(centers) or 'none known'}), and center few-shot "
            "draws from each of several: take --regime few-shot"
        )


def _refuse_repeats(
    rows: TaskRows, split: Split, fold: int, support: npt.NDArray[np.int64], regime: Regime, draws: int
) -> None:
    """Refuse more draws than there are distinct support sets."""
    event = rows.frame["event"].to_numpy()
    train = split.positions(fold, "train")
    sets = 1
    center = home_centers(rows.frame) if regime == "center-few-shot" else np.full(len(event), "")
    for each in set(center[train]):
        for outcome in (0, 1):
            there = int(((event[train] == outcome) & (center[train] == each)).sum())
            sets *= math.comb(there, int(((event[support] == outcome) & (center[support] == each)).sum()))
    if sets < draws:
        raise SplitError(
            f"{rows.task.name}, fold {split.names[fold]!r} has {sets} distinct support sets of {len(support)} images "
            f"in training, {draws} draws are asked for: ask for at most --draws {sets}, or for other --shots"
        )
