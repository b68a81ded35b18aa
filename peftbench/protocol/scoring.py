"""From predictions to what a record says of them: by fold and draw, over draws, under permuted labels, within strata.

Everything here reads a predictions table (columns as in `records.PREDICTION_COLUMNS`) and nothing else, so that all
that predicts is judged alike.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.protocol import metrics
from peftbench.protocol.calibration import reliability
from peftbench.protocol.metrics import FloatVector, IntVector
from peftbench.protocol.records import FoldScore
from peftbench.protocol.stacks import Cell, Stack, best_thresholds, evaluate_stack, stacks_of, tuned_stack

Cells = Mapping[tuple[int, int], Mapping[str, Any]]
"""(fold, draw) to what was selected there."""

UNITS = ("image", "patient")

TUNED_ON = ("validation", "left-out")
"""Roles of predictions that a threshold is tuned on."""

QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}

LOSSES = ("brier", "ece")
"""Metrics of which more is worse."""

STRATA = ("view", "center")
"""Columns of the manifest within whose values scores are told."""

NO_TUNING = "no validation part to tune a threshold on"


class Part(NamedTuple):
    """Truth and score of one part, in one unit.

    Attributes:
        event: (n,) 0 or 1.
        score: (n,) probability of the event.
    """

    event: IntVector
    score: FloatVector


def in_unit(part: pd.DataFrame, unit: str) -> Part:
    """Rows of a predictions table as images, or as patients (an event in any image, the mean score)."""
    event, score = part["event"].to_numpy(), part["score"].to_numpy()
    return (
        Part(event, score)
        if unit == "image"
        else Part(*metrics.by_patient(part["patient_id"].to_numpy(), event, score))
    )


def score_folds(predictions: pd.DataFrame, chosen: Cells) -> list[FoldScore]:
    """Metrics of each fold and draw on its test part, at image and at patient level.

    At the threshold 0.5, and at the one with the highest MCC on the fold's own validation part (in a few-shot regime:
    on the support images, each by the fit without it).

    Args:
        predictions: of test parts, and of what a threshold is tuned on.
        chosen: (fold, draw) to what was selected on the validation part.
    """
    found: dict[tuple[str, int, int], FoldScore] = {}
    for unit in UNITS:
        thresholds = _thresholds(predictions, unit)
        for stack in _stacks(predictions, ("test",)):
            found |= {(unit, *cell): score for cell, score in _score(stack.in_unit(unit), unit, thresholds).items()}
    return [found[unit, *cell]._replace(chosen=picked) for cell, picked in chosen.items() for unit in UNITS]


def _stacks(predictions: pd.DataFrame, roles: Sequence[str]) -> list[Stack]:
    return stacks_of(predictions[predictions["role"].isin(roles)])


def _thresholds(predictions: pd.DataFrame, unit: str) -> dict[Cell, float]:
    """Cell to the threshold that is best on what it may be tuned on."""
    by_size: dict[int, list[Stack]] = {}
    for stack in _stacks(predictions, TUNED_ON):
        units = stack.in_unit(unit)
        by_size.setdefault(len(units.event), []).append(units)
    found: dict[Cell, float] = {}
    for stacks in by_size.values():
        event = np.vstack([np.broadcast_to(each.event, each.score.shape) for each in stacks])
        best = best_thresholds(event, np.vstack([each.score for each in stacks])).tolist()
        found |= dict(zip([cell for each in stacks for cell in each.cells], best, strict=True))
    return found


def _score(stack: Stack, unit: str, thresholds: Mapping[Cell, float]) -> dict[Cell, FoldScore]:
    """The metrics of each draw, at the threshold 0.5 and at its own."""
    threshold = np.array([thresholds.get(cell, math.nan) for cell in stack.cells])
    known = ~np.isnan(threshold)
    decided = tuned_stack(stack.event, stack.score, threshold)
    tuned = {name: np.where(known, each, math.nan) for name, each in decided.items()}
    values = {name: each.tolist() for name, each in {**evaluate_stack(stack.event, stack.score), **tuned}.items()}
    events, reason = int(stack.event.sum()), metrics.one_class(stack.event)
    scores = {}
    for at, cell in enumerate(stack.cells):
        found = {name: each[at] for name, each in values.items()}
        untuned = {} if known[at] else dict.fromkeys(metrics.TUNED_NAMES, NO_TUNING)
        why = {name: untuned.get(name, reason) for name, value in found.items() if math.isnan(value)}
        scores[cell] = FoldScore(unit, *cell, len(stack.event), events, found, why, {}, float(threshold[at]))
    return scores


def summarise(scores: Sequence[FoldScore]) -> dict[str, dict[str, dict[str, int | float | None]]]:
    """Unit to metric to mean, standard deviation and number of usable folds: each fold is the mean of its draws."""
    summary: dict[str, dict[str, dict[str, int | float | None]]] = {}
    for unit, metric, table in _tables(scores):
        found = np.array([metrics.mean_and_std(row)[0] for row in table])
        mean, std = metrics.mean_and_std(found)
        summary.setdefault(unit, {})[metric] = {"mean": mean, "std": std, "folds": int((~np.isnan(found)).sum())}
    return summary


def distribution(scores: Sequence[FoldScore]) -> dict[str, dict[str, dict[str, int | float | None]]]:
    """Unit to metric to its distribution over support sets: what another one would give, on the same test part.

    Support sets of different folds are drawn apart, so to average scores over folds first would hide what a single set
    costs. Quantiles, deviation and tails are those of a fold's own draws, averaged over folds. `worst_decile` is the
    mean of the worst tenth (one at least): of losses (Brier score, calibration error) the highest. Empty for a single
    draw.
    """
    if len({score.draw for score in scores}) < 2:
        return {}
    told: dict[str, dict[str, dict[str, int | float | None]]] = {}
    for unit, metric, table in _tables(scores):
        folds = [_spread(row[~np.isnan(row)], worst_high=metric in LOSSES) for row in table if not np.isnan(row).all()]
        if folds:
            means = {name: float(np.nanmean([fold[name] for fold in folds])) for name in folds[0]}
            told.setdefault(unit, {})[metric] = {"draws": table.shape[1], **means}
    return told


def _spread(values: FloatVector, *, worst_high: bool) -> dict[str, float]:
    """Of one fold's draws: mean, deviation, quantiles, and the mean of the worst tenth."""
    mean, std = metrics.mean_and_std(values)
    quantiles = dict(zip(QUANTILES, map(float, np.quantile(values, list(QUANTILES.values()))), strict=True))
    ordered = np.sort(values)[:: -1 if worst_high else 1]
    return {"mean": mean, "std": std, **quantiles, "worst_decile": float(ordered[: max(1, len(values) // 10)].mean())}


def _tables(scores: Sequence[FoldScore]) -> Iterator[tuple[str, str, FloatVector]]:
    """Unit, metric, and its values as (folds, draws), NaN where it is not defined."""
    folds, draws = (
        {value: at for at, value in enumerate(sorted({getattr(score, name) for score in scores}))}
        for name in ("fold", "draw")
    )
    for unit in UNITS:
        cells = [score for score in scores if score.unit == unit]
        for metric in cells[0].metrics if cells else ():
            table = np.full((len(folds), len(draws)), np.nan)
            for score in cells:
                table[folds[score.fold], draws[score.draw]] = score.metrics[metric]
            yield unit, metric, table


def within_strata(predictions: pd.DataFrame, frame: pd.DataFrame, unit: str) -> list[dict[str, Any]]:
    """Scores within each view and each centre, where there are several: what is left when a shortcut is held fixed.

    Args:
        predictions: whose test parts are taken.
        frame: the rows' manifest, for `sample_id` and the columns of `STRATA`.
        unit: `image` or `patient`; a patient counts in every stratum that has images of the patient's.
    """
    tested = predictions[predictions["role"] == "test"]
    told = []
    for column in STRATA:
        if column not in frame.columns:
            continue
        value = frame[column].astype(object).where(frame[column].notna(), "").map(str)
        if value.nunique() < 2:
            continue
        of_row = tested["sample_id"].map(dict(zip(frame["sample_id"], value, strict=True)))
        told += [
            {"column": column, "value": str(name), "unit": unit, **_stratum(part, unit)}
            for name, part in tested.groupby(of_row)
        ]
    return told


def _stratum(part: pd.DataFrame, unit: str) -> dict[str, Any]:
    stacks = [stack.in_unit(unit) for stack in stacks_of(part)]
    found = [evaluate_stack(stack.event, stack.score) for stack in stacks]
    mcc, pr_auc = (_over_folds(stacks, [each[name] for each in found]) for name in ("mcc", "pr_auc"))
    whole = in_unit(part.drop_duplicates("sample_id"), unit)
    return {
        "size": len(whole.event),
        "events": int(whole.event.sum()),
        "folds": len({stack.fold for stack in stacks if 0 < stack.event.sum() < len(stack.event)}),
        "mcc_mean": mcc[0], "mcc_std": mcc[1], "pr_auc_mean": pr_auc[0], "pr_auc_std": pr_auc[1],
    }  # fmt: skip


def _over_folds(stacks: Sequence[Stack], values: Sequence[FloatVector]) -> tuple[float, float]:
    """Mean and standard deviation over folds, each the mean of its draws."""
    by_fold: dict[int, list[FloatVector]] = {}
    for stack, value in zip(stacks, values, strict=True):
        by_fold.setdefault(stack.fold, []).append(value)
    return metrics.mean_and_std([metrics.mean_and_std(np.concatenate(each))[0] for each in by_fold.values()])


def reliability_curve(predictions: pd.DataFrame, unit: str) -> list[dict[str, float | int]]:
    """The reliability curve over all test parts together."""
    stacks = [stack.in_unit(unit) for stack in _stacks(predictions, ("test",))]
    event = np.concatenate([np.tile(stack.event, len(stack.score)) for stack in stacks])
    score = np.concatenate([stack.score.ravel() for stack in stacks])
    return [asdict(each) for each in reliability(event, score)]


def permuted_test_labels(predictions: pd.DataFrame, unit: str, permutations: int, seed: int) -> npt.NDArray[np.float64]:
    """Mean MCC over folds and draws under labels permuted among the patients of each test part; scores stay.

    Args:
        predictions: whose test parts are taken.
        unit: `image` or `patient`.
        permutations: how many.
        seed: of the permutations.

    Returns:
        (permutations,) mean MCC; NaN where no fold has both classes.
    """
    sums, usable = np.zeros(permutations), 0
    random = np.random.default_rng([seed, permutations])
    orders: tuple[int, npt.NDArray[np.int64]] | None = None
    for stack in _stacks(predictions, ("test",)):
        patients = stack.in_unit("patient")
        if orders is None or orders[0] != stack.fold:
            # One permutation serves all draws of a fold: they test the same patients.
            shuffles = [random.permutation(len(patients.event)) for _ in range(permutations)]
            orders = (stack.fold, np.stack(shuffles))
        if not 0 < patients.event.sum() < len(patients.event):
            continue
        shuffled, units = patients.event[orders[1]], patients
        if unit == "image":
            shuffled, units = shuffled[:, np.unique(stack.patient, return_inverse=True)[1]], stack
        sums += _matthews(shuffled, units.score >= metrics.THRESHOLD).sum(axis=1)
        usable += len(stack.cells)
    return sums / usable if usable else np.full(permutations, np.nan)


def _matthews(truth: npt.NDArray[np.int64], decided: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(p, k) MCC of decisions (k, n) against truths (p, n); 0 where either has one class only."""
    count, events = truth.shape[1], truth.sum(axis=1)[:, None]
    chosen = decided.sum(axis=1)
    # In floating point, which multiplies matrices fast; counts stay whole.
    hits = truth.astype(np.float64) @ decided.T.astype(np.float64)
    spread = np.sqrt(1.0 * events * (count - events) * chosen * (count - chosen))
    found = np.where(spread > 0, (hits * count - events * chosen) / np.where(spread > 0, spread, 1.0), 0.0)
    return np.asarray(found, dtype=np.float64)


def null_of(observed: float, values: npt.NDArray[np.float64], how: str, unit: str) -> dict[str, Any]:
    """What a record says of its score under permuted labels.

    The p value counts the observed one among the permutations, and so is never 0 (Phipson and Smyth 2010).

    Args:
        observed: mean MCC with the true labels.
        values: (permutations,) mean MCC without them.
        how: what was permuted, and what was fitted anew.
        unit: of the MCC.
    """
    found = values[~np.isnan(values)]
    if not len(found) or math.isnan(observed):
        return {}
    mean, std = metrics.mean_and_std(found)
    p = (1 + int((found >= observed - 1e-12).sum())) / (1 + len(found))
    q95 = float(np.quantile(found, 0.95))
    return {
        "how": how, "metric": "mcc", "unit": unit, "permutations": len(found),
        "mean": mean, "std": std, "q95": q95, "p": p,
    }  # fmt: skip
