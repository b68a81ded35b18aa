"""Permuted labels: what the whole procedure scores where features cannot tell the outcome.

Outcomes are dealt anew among the patients of each test part, and so every test part keeps its number of patients with
the event, as the stratified division gave it. Each labelling is one of the whole task: the folds, which train on each
other's test parts, see the same one. For every labelling everything is done again: fit, choice of C (and of the
reading) on the validation part, test. So under the hypothesis that outcomes are exchangeable among the patients of a
part, true and permuted scores are drawn alike, and the share of permuted ones that are as high is a p value.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from peftbench.probing.families.family import Options, Vector
from peftbench.probing.families.logistic import COSTS
from peftbench.probing.families.scaling import Scaler
from peftbench.probing.given import Given, View
from peftbench.probing.logistic import LabelPath
from peftbench.probing.selecting import EQUAL, PLATEAU, Criterion, losses_of
from peftbench.protocol.metrics import THRESHOLD, Confusion, by_patient, matthews

Positions = npt.NDArray[np.int64]

Labellings = npt.NDArray[np.int8]
"""(n, permutations) 0 or 1, of all the task's rows."""


def permuted_labels(
    event: npt.NDArray[np.int64],
    patients: npt.NDArray[np.int64],
    tests: Sequence[Positions],
    permutations: int,
    seed: int,
) -> Labellings:
    """Labellings of a task: each patient is given the outcome of another one of the same test part.

    Args:
        event: (n,) 0 or 1.
        patients: (n,) number of each row's patient; an outcome is a patient's, an event in any image.
        tests: positions of the rows that each fold tests; rows that never test are a part of their own.
        permutations: how many.
        seed: of the permutations.
    """
    known, position = np.unique(patients, return_inverse=True)
    outcome = (np.bincount(position, weights=event) > 0).astype(np.int8)
    part = np.full(len(known), -1)
    for fold, rows in enumerate(tests):
        part[position[rows]] = fold
    members = [np.flatnonzero(part == each) for each in np.unique(part)]
    random = np.random.default_rng([seed, permutations, len(event)])
    dealt = np.empty((len(known), permutations), dtype=np.int8)
    for labelling in range(permutations):
        for rows in members:
            dealt[rows, labelling] = outcome[random.permutation(rows)]
    return np.asarray(dealt[position])


def null_scores(
    given: Given,
    labels: Labellings,
    parts: tuple[Positions, Positions, Positions],
    patients: npt.NDArray[np.int64],
    options: Options,
    criterion: Criterion,
    unit: str,
) -> Vector:
    """MCC of a fold's test part under each labelling, the logistic probe fitted and chosen anew.

    Args:
        given: what the probe may see.
        labels: of all rows.
        parts: positions of the rows that train, validate and test.
        patients: (n,) number of each row's patient.
        options: scaling and class weights.
        criterion: what decides.
        unit: `image` or `patient`.

    Returns:
        (permutations,) MCC; NaN where a labelling leaves training or test with one class.
    """
    train, _, test = parts
    usable = _both(labels[train]) & _both(labels[test])
    null = np.full(labels.shape[1], np.nan)
    if not usable.any():
        return null
    chosen = labels[:, usable].astype(np.int64)
    best = np.full(chosen.shape[1], np.inf)
    scores = np.full((len(test), chosen.shape[1]), THRESHOLD)
    for reading in given.names():
        view = View.of(given, reading, train)
        _follow(view, chosen, parts, view.options(options), criterion, best, scores)
    null[usable] = [_mcc(chosen[test, at], scores[:, at], patients[test], unit) for at in range(chosen.shape[1])]
    return null


def _follow(
    view: View,
    labels: npt.NDArray[np.int64],
    parts: tuple[Positions, Positions, Positions],
    options: Options,
    criterion: Criterion,
    best: Vector,
    scores: npt.NDArray[np.float64],
) -> None:
    """Walk the path of C with all labellings side by side; take over what is better, as `selecting.choose` would."""
    train, validation, test = parts
    features = view.rows(train)
    scaler = Scaler.fit(features, options.scaling)
    path = LabelPath(scaler.apply(features), labels[train], balanced=options.class_weight == "balanced")
    held_out, tested = (path.project(scaler.apply(view.rows(each))) for each in (validation, test))
    own = np.full(labels.shape[1], np.inf)
    since = np.zeros(labels.shape[1], dtype=np.int64)
    for coefficient in path.walk(COSTS):
        loss = losses_of(labels[validation].T, _probability(held_out, coefficient).T[..., None], criterion)[:, 0]
        # A labelling whose path is at its end takes nothing more from it.
        ended = (since >= PLATEAU) & (criterion == "log-loss")
        better = (loss < own - EQUAL) & ~ended
        since = np.where(better, 0, since + 1)
        own = np.where(better, loss, own)
        taken = better & (loss < best - EQUAL)
        # Where nothing can be told of a labelling, the simplest model is taken, as everywhere.
        taken |= np.isnan(loss) & np.isinf(best) & (scores == THRESHOLD).all(axis=0)
        best[taken & ~np.isnan(loss)] = loss[taken & ~np.isnan(loss)]
        scores[:, taken] = _probability(tested, coefficient)[:, taken]
        if ended.all():
            return


def _both(labels: Labellings) -> npt.NDArray[np.bool_]:
    return np.asarray((labels.min(axis=0) == 0) & (labels.max(axis=0) == 1))


def _probability(features: npt.NDArray[np.float64], coefficient: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(expit(features @ coefficient[:-1] + coefficient[-1]), dtype=np.float64)


def _mcc(truth: npt.NDArray[np.int64], score: Vector, patients: npt.NDArray[np.int64], unit: str) -> float:
    if unit == "patient":
        truth, score = by_patient(patients, truth, score)
    return matthews(Confusion.of(truth, (score >= THRESHOLD).astype(np.int64)))
