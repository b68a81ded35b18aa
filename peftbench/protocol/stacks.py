"""Many scores of the same units at once: what `metrics` and `calibration` say of one vector, for a stack of them.

A few-shot grid scores the same test part some thousand times. Here the scores of k draws are the rows of one matrix;
tested for equality with the functions for a single vector, which say what each metric is.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.protocol.metrics import ECE_BINS, THRESHOLD, TUNED, FloatVector, IntVector

Matrix = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Cell = tuple[int, int]


class Stack(NamedTuple):
    """Draws of one fold that hold the same units in the same order.

    Attributes:
        cells: (fold, draw) of each.
        patient: (n,) number of the patient, by the sorted names.
        event: (n,) 0 or 1.
        score: (k, n) probability of the event.
    """

    cells: list[Cell]
    patient: IntVector
    event: IntVector
    score: Matrix

    @property
    def fold(self) -> int:
        """The fold of all of them."""
        return self.cells[0][0]

    def in_unit(self, unit: str) -> "Stack":
        """As images, or as patients: an event in any image, the mean score of the images."""
        if unit == "image":
            return self
        patients, position = np.unique(self.patient, return_inverse=True)
        event = (np.bincount(position, weights=self.event) > 0).astype(np.int64)
        wide = position + len(patients) * np.arange(len(self.score))[:, None]
        totals = np.bincount(wide.ravel(), weights=self.score.ravel()).reshape(len(self.score), len(patients))
        means = np.clip(totals / np.bincount(position), 0.0, 1.0)
        return Stack(self.cells, patients, event, means)


def stacks_of(predictions: pd.DataFrame) -> list[Stack]:
    """A predictions table as stacks, in the order of folds and draws; draws that differ in their units stand alone.

    Args:
        predictions: rows of one role, columns as in `records.PREDICTION_COLUMNS`.

    Raises:
        ValueError: an event is neither 0 nor 1, or a score no probability.
    """
    fold, draw, event = (predictions[name].to_numpy(dtype=np.int64) for name in ("fold", "draw", "event"))
    score = predictions["score"].to_numpy(dtype=np.float64)
    if not np.isin(event, (0, 1)).all() or not ((score >= 0) & (score <= 1)).all():
        raise ValueError("predictions hold events of 0 and 1, and scores that are probabilities, in [0, 1]")
    patient = pd.factorize(predictions["patient_id"], sort=True)[0].astype(np.int64)
    order = np.lexsort((draw, fold))
    starts = np.flatnonzero(np.diff(fold[order], prepend=-1) | np.diff(draw[order], prepend=-1))
    found: list[Stack] = []
    for rows in _alike(np.split(order, starts[1:]) if len(order) else [], fold, patient, event):
        cells = [(int(fold[each]), int(draw[each])) for each in rows[:, 0]]
        found.append(Stack(cells, patient[rows[0]], event[rows[0]], score[rows]))
    return found


def _alike(cells: list[IntVector], fold: IntVector, patient: IntVector, event: IntVector) -> Iterator[IntVector]:
    """(k, n) rows of neighbouring cells of one fold with the same units."""
    group: list[IntVector] = []
    for cell in cells:
        first = group[0] if group else cell
        same = len(cell) == len(first) and fold[cell[0]] == fold[first[0]]
        if same and (patient[cell] == patient[first]).all() and (event[cell] == event[first]).all():
            group.append(cell)
            continue
        yield np.stack(group)
        group = [cell]
    if group:
        yield np.stack(group)


def evaluate_stack(event: IntVector, score: Matrix) -> dict[str, FloatVector]:
    """As `metrics.evaluate`, of every row; all NaN but for `brier` and `ece` where the truth has one class only.

    Args:
        event: (n,) 0 or 1.
        score: (k, n) probability of the event.
    """
    decided = decisions_stack(event, score >= THRESHOLD)
    ranking = _ranking_stack(event, score)
    brier = np.mean((score - event) ** 2, axis=1)
    found = {**ranking, **decided, "brier": brier, "ece": _calibration_error(event, score)}
    names = (
        "mcc", "pr_auc", "roc_auc", "balanced_accuracy", "sensitivity", "specificity", "f1", "brier", "ece",
    )  # fmt: skip
    return {name: found[name] for name in names}


def tuned_stack(event: IntVector, score: Matrix, thresholds: FloatVector) -> dict[str, FloatVector]:
    """As `metrics.at_tuned_threshold`, each row at a threshold of its own."""
    decided = decisions_stack(event, score >= thresholds[:, None])
    return {f"{name}_tuned": decided[name] for name in TUNED}


def decisions_stack(event: IntVector, decided: Mask) -> dict[str, FloatVector]:
    """The metrics of a decision, `metrics.TUNED`, of every row.

    Args:
        event: (n,) 0 or 1.
        decided: (k, n).
    """
    events, count = float(event.sum()), float(len(event))
    hit = decided[:, event == 1].sum(axis=1).astype(np.float64)
    chosen = decided.sum(axis=1).astype(np.float64)
    false_alarm, miss = chosen - hit, events - hit
    rejection = count - events - false_alarm
    nowhere = np.full(len(decided), np.nan)
    sensitivity = hit / events if events else nowhere
    specificity = rejection / (count - events) if events < count else nowhere
    both = 0 < events < count
    return {
        "mcc": _matthews(hit, false_alarm, rejection, miss) if both else nowhere,
        "balanced_accuracy": (sensitivity + specificity) / 2.0,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1": 2.0 * hit / (2.0 * hit + false_alarm + miss) if both else nowhere,
    }


def _matthews(hit: FloatVector, false_alarm: FloatVector, rejection: FloatVector, miss: FloatVector) -> FloatVector:
    spread = (hit + false_alarm) * (hit + miss) * (rejection + false_alarm) * (rejection + miss)
    return np.where(
        spread > 0, (hit * rejection - false_alarm * miss) / np.sqrt(np.where(spread > 0, spread, 1.0)), 0.0
    )


def _ranking_stack(event: IntVector, score: Matrix) -> dict[str, FloatVector]:
    """PR-AUC and ROC-AUC: one sort serves both."""
    count, events = len(event), int(event.sum())
    if not 0 < events < count:
        nowhere = np.full(len(score), np.nan)
        return {"pr_auc": nowhere, "roc_auc": nowhere}
    order = np.argsort(-score, axis=1, kind="stable")
    ranked, truth = np.take_along_axis(score, order, axis=1), event[order]
    edge = np.diff(ranked, axis=1) != 0
    ends = np.ones((len(score), 1), dtype=bool)
    last, first = np.hstack([edge, ends]), np.hstack([ends, edge])
    at = np.arange(count)
    hits = np.cumsum(truth, axis=1)
    recall = np.where(last, hits / events, 0.0)
    before = np.hstack([np.zeros((len(score), 1)), np.maximum.accumulate(recall, axis=1)[:, :-1]])
    area = np.sum(np.where(last, (recall - before) * (hits / (at + 1)), 0.0), axis=1)
    begin = np.maximum.accumulate(np.where(first, at, 0), axis=1)
    end = np.minimum.accumulate(np.where(last, at, count)[:, ::-1], axis=1)[:, ::-1]
    midrank = count - (begin + end) / 2.0
    excess = np.sum(np.where(truth == 1, midrank, 0.0), axis=1) - events * (events + 1) / 2.0
    return {"pr_auc": area, "roc_auc": excess / (events * (count - events))}


def _calibration_error(event: IntVector, score: Matrix, bins: int = ECE_BINS) -> FloatVector:
    position = np.minimum((score * bins).astype(np.int64), bins - 1) + bins * np.arange(len(score))[:, None]
    gap = np.bincount(position.ravel(), weights=(score - event).ravel(), minlength=bins * len(score))
    return np.asarray(np.abs(gap.reshape(len(score), bins)).sum(axis=1) / score.shape[1])


def best_thresholds(event: npt.NDArray[np.int64], score: Matrix) -> FloatVector:
    """As `calibration.best_threshold`, of every row.

    Args:
        event: (k, n) 0 or 1: rows may differ in their truth.
        score: (k, n) probability of the event.
    """
    order = np.argsort(-score, axis=1, kind="stable")
    ranked, truth = np.take_along_axis(score, order, axis=1), np.take_along_axis(event, order, axis=1)
    count, events = float(score.shape[1]), event.sum(axis=1).astype(np.float64)[:, None]
    above, below = ranked[:, :-1], ranked[:, 1:]
    hits, decided = np.cumsum(truth, axis=1)[:, :-1], np.arange(1.0, count)
    spread = np.sqrt(decided * events * (count - events) * (count - decided))
    with np.errstate(invalid="ignore", divide="ignore"):
        matthews = np.where(above != below, (hits * count - decided * events) / spread, -np.inf)
    half = (above + below) / 2.0
    cuts = np.where(half > below, half, above)
    # Deciding for nobody needs a threshold above the highest score, which is not there where that is 1.
    nobody = np.where(ranked[:, :1] < 1, 0.0, -np.inf)
    ends = np.hstack([ranked[:, -1:] / 2.0, (ranked[:, :1] + 1.0) / 2.0, np.full((len(score), 1), THRESHOLD)])
    cuts = np.hstack([cuts, ends])
    matthews = np.hstack([matthews, np.zeros_like(nobody), nobody, _matthews_at_half(truth, ranked)[:, None]])
    equal = matthews >= matthews.max(axis=1, keepdims=True) - 1e-12
    nearest = np.where(equal, np.abs(cuts - THRESHOLD), np.inf).argmin(axis=1)
    both = ((events > 0) & (events < count))[:, 0]
    return np.where(both, cuts[np.arange(len(cuts)), nearest], THRESHOLD)


def _matthews_at_half(truth: npt.NDArray[np.int64], score: Matrix) -> FloatVector:
    decision = score >= THRESHOLD
    hit, decided = ((truth == 1) & decision).sum(axis=1), decision.sum(axis=1)
    events, count = truth.sum(axis=1), score.shape[1]
    false_alarm, miss = decided - hit, events - hit
    return _matthews(*(each.astype(np.float64) for each in (hit, false_alarm, count - events - false_alarm, miss)))
