"""The unit of work: one probe on one fold. Arrays in, arrays out, so that any process can do it.

What is fitted sees the training part (or a support set) alone; what is chosen sees in addition the validation part, or
the support images each by the fit without it. The test part is only predicted.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from peftbench.probing.families.family import Events, Features, Options, Vector
from peftbench.probing.families.logistic import FEW_COSTS
from peftbench.probing.given import Given, View
from peftbench.probing.gram import GramSource, fit_costs, pick, support_sets
from peftbench.probing.permuting import Labellings, null_scores
from peftbench.probing.registry import family_of
from peftbench.probing.selecting import EQUAL, Choice, Criterion, choose, choose_left_out, losses_of
from peftbench.protocol.calibration import apply_temperature, fit_temperature
from peftbench.protocol.metrics import THRESHOLD
from peftbench.protocol.names import LOGISTIC

PROBE_SCHEMA = 2
"""Raised whenever the same features and split would give other predictions."""

Positions = npt.NDArray[np.int64]

ChosenOn = Literal["validation", "support"]


@dataclass(frozen=True)
class Task:
    """One probe on one fold.

    Attributes:
        given: name of what the probe may see (see `peftbench.probing.work`).
        probe: name of the family.
        event: (n,) 0 or 1, of all the task's rows.
        train, validation, test: positions of the rows in each role.
        supports: (draws, m) positions of support sets; None to fit on the whole training part.
        chosen_on: where the setting is chosen; with the whole training part always `validation`.
        criterion: what decides.
        options: what families are told.
        calibrate: whether scores are scaled by a temperature that is learnt where the setting is chosen.
        patients: (n,) number of each row's patient.
        unit: of the MCC under permuted labels.
        labels: permuted ones, to which the logistic probe is fitted anew; None for none.
        time: (n,) days to the event, or under observation without it, of a Cox probe; NaN in rows that it cannot use.
    """

    given: str
    probe: str
    event: Events
    train: Positions
    validation: Positions
    test: Positions
    supports: Positions | None = None
    chosen_on: ChosenOn = "validation"
    criterion: Criterion = "log-loss"
    options: Options = field(default_factory=Options)
    calibrate: bool = False
    patients: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    unit: str = "image"
    labels: Labellings | None = None
    time: Vector | None = None


class Answer(NamedTuple):
    """What a cell found; a fit on the whole training part is one draw.

    Attributes:
        test: (draws, tested) probability of the event.
        held_out: (draws, k) of the rows that the setting was chosen on.
        held_out_at: (draws, k) their positions.
        chosen: of each draw.
        null: (permutations,) MCC of the test part under permuted labels; empty where none was asked for.
    """

    test: npt.NDArray[np.float64]
    held_out: npt.NDArray[np.float64]
    held_out_at: Positions
    chosen: list[dict[str, Any]]
    null: Vector


def solve(task: Task, given: Given) -> Answer:
    """Do one cell.

    Args:
        task: what.
        given: what the probe may see, rows as the task's.

    Raises:
        ProbeError: the probe cannot be fitted.
        ConvergenceError: a solution was not found.
    """
    if task.time is not None:
        return _cox(task, task.time, given)
    if task.supports is None:
        found = _whole(task, given)
    elif task.probe == LOGISTIC and given.clinical is None:
        found = _stacked(task, given)
    else:
        found = _one_by_one(task, given)
    return _calibrated(task, found) if task.calibrate else found


def _whole(task: Task, given: Given) -> Answer:
    """A fit on the whole training part, chosen on the validation part, over all readings."""
    reading, view, choice = _best_reading(task, given, task.train)
    model = choice.candidate.model
    held_out = model.probability(view.rows(task.validation))
    test = model.probability(view.rows(task.test))
    null = np.empty(0) if task.labels is None else _null(task, task.labels, given)
    told = _told(task, reading, choice, len(given.readings))
    return Answer(test[None], held_out[None], task.validation[None], [told], null)


def _cox(task: Task, time: Vector, given: Given) -> Answer:
    """A Cox model on the rows whose time is known; the scores are log hazards."""
    from peftbench.probing.survival import cox_fold  # noqa: PLC0415 - needs a package of its own

    usable = np.flatnonzero(np.isfinite(time))
    parts = [np.flatnonzero(np.isin(usable, each)) for each in (task.train, task.validation, task.test)]
    view = View.of(given, given.names()[0], usable[parts[0]])
    observed = task.event[usable] == 1
    found = cox_fold(view.rows(usable), time[usable], observed, *parts, scaled=view.blocks is not None)
    chosen = {"penalty": found.penalty, "validation_log_likelihood": found.validation_likelihood}
    return Answer(found.test_risk[None], found.validation_risk[None], usable[parts[1]][None], [chosen], np.empty(0))


def _best_reading(task: Task, given: Given, train: Positions) -> tuple[str, View, Choice]:
    best: tuple[str, View, Choice] | None = None
    family = family_of(task.probe)
    for reading in given.names():
        view = View.of(given, reading, train)
        models = family.candidates(view.rows(train), task.event[train], view.options(task.options))
        if task.chosen_on == "support":
            choice = choose_left_out(models, task.event[train], task.criterion)
        else:
            held_out = view.rows(task.validation)
            choice = choose(models, held_out, task.event[task.validation], task.criterion, path=family.path)
        if best is None or choice.loss < best[2].loss - EQUAL:
            best = (reading, view, choice)
    assert best is not None  # noqa: S101 - there is always a reading
    return best


def _told(task: Task, reading: str, choice: Choice, readings: int) -> dict[str, Any]:
    told: dict[str, Any] = {**choice.candidate.settings}
    if readings > 1:
        told["reading"] = reading
    name = {"log-loss": "log_loss", "mcc": "1_minus_mcc"}[task.criterion]
    return {**told, f"{task.chosen_on}_{name}": choice.loss}


def _one_by_one(task: Task, given: Given) -> Answer:
    """A fit on each support set, in turn."""
    assert task.supports is not None  # noqa: S101 - as `solve` looks
    answers = []
    for support in task.supports:
        reading, view, choice = _best_reading(task, given, support)
        model = choice.candidate.model
        on_support = task.chosen_on == "support"
        at = support if on_support else task.validation
        left_out = model.left_out if on_support else model.probability(view.rows(at))
        # Without a closed form nothing is known of the support images: they tune no threshold.
        held_out = np.empty(0) if left_out is None else left_out
        test = model.probability(view.rows(task.test))
        answers.append((test, held_out, at[: len(held_out)], _told(task, reading, choice, len(given.readings))))
    test, held_out, at, chosen = zip(*answers, strict=True)
    return Answer(np.stack(test), np.stack(held_out), np.stack(at), list(chosen), np.empty(0))


def _stacked(task: Task, given: Given) -> Answer:
    """Logistic regressions on all support sets at once, in the space of their Gram matrices, over all readings."""
    assert task.supports is not None  # noqa: S101 - as `solve` looks
    balanced = task.options.class_weight == "balanced"
    best: Answer | None = None
    losses = np.full(len(task.supports), np.inf)
    for reading, features in given.readings.items():
        found = _stack(task, _source(features), balanced=balanced)
        if len(given.readings) > 1:
            found = found._replace(chosen=[{**each, "reading": reading} for each in found.chosen])
        loss = np.array([next(v for k, v in each.items() if k.startswith(task.chosen_on)) for each in found.chosen])
        if best is None:
            best, losses = found, loss
            continue
        better = loss < losses - EQUAL
        losses = np.where(better, loss, losses)
        best.test[better], best.held_out[better] = found.test[better], found.held_out[better]
        best = best._replace(chosen=[(found if new else best).chosen[at] for at, new in enumerate(better)])
    assert best is not None  # noqa: S101 - there is always a reading
    return best


_SOURCES: dict[int, tuple[Features, GramSource]] = {}
"""The last Gram matrix: it serves every fold and size of a backbone. Features are held, so that none takes their id."""


def _source(features: Features) -> GramSource:
    held = _SOURCES.get(id(features))
    if held is None or held[0] is not features:
        _SOURCES.clear()
        held = _SOURCES[id(features)] = (features, GramSource.of(features))
    return held[1]


def _stack(task: Task, source: GramSource, *, balanced: bool) -> Answer:
    assert task.supports is not None  # noqa: S101 - as `solve` looks
    support = support_sets(source, task.event, task.supports, balanced=balanced)
    fits = fit_costs(support, FEW_COSTS, left_out=task.chosen_on == "support")
    if task.chosen_on == "support":
        at = task.supports
        held_out = expit(np.stack([fit.left_out for fit in fits], axis=2))
    else:
        at = np.broadcast_to(task.validation, (len(task.supports), len(task.validation)))
        held_out = expit(source.predict(support, fits, task.validation))
    losses = losses_of(task.event[at], held_out, task.criterion)
    # Of equals the smallest C; where nothing can be told, the smallest as well.
    known = np.where(np.isnan(losses), np.inf, losses)
    picked = (known <= known.min(axis=1, keepdims=True) + EQUAL).argmax(axis=1)
    chosen_fits = pick(fits, picked)
    test = expit(source.predict(support, [chosen_fits], task.test)[:, :, 0])
    rows = np.arange(len(picked))
    name = {"log-loss": "log_loss", "mcc": "1_minus_mcc"}[task.criterion]
    chosen = [
        {"C": FEW_COSTS[cost], f"{task.chosen_on}_{name}": float(losses[draw, cost])}
        for draw, cost in enumerate(picked.tolist())
    ]
    held = held_out[rows, :, picked]
    # A support image whose class has no other is told nothing of by the fit without it.
    held = np.where(np.isnan(held), THRESHOLD, held)
    return Answer(test, held, np.array(at), chosen, np.empty(0))


def _calibrated(task: Task, found: Answer) -> Answer:
    """Scores scaled by a temperature, draw by draw, learnt on what the setting was chosen on."""
    test, held_out, chosen = found.test.copy(), found.held_out.copy(), []
    for draw, at in enumerate(found.held_out_at):
        temperature = fit_temperature(task.event[at], held_out[draw]) if len(at) else 1.0
        test[draw] = apply_temperature(test[draw], temperature)
        held_out[draw] = apply_temperature(held_out[draw], temperature)
        chosen.append({**found.chosen[draw], "temperature": temperature})
    return found._replace(test=test, held_out=held_out, chosen=chosen)


def _null(task: Task, labels: Labellings, given: Given) -> Vector:
    parts = (task.train, task.validation, task.test)
    return null_scores(given, labels, parts, task.patients, task.options, task.criterion, task.unit)
