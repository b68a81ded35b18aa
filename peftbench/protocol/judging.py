"""From a door's predictions to its record: what all that predicts does alike once it has predicted.

A test on another cohort is judged by its fold `HEADLINE`: the mean score of the models of all folds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.protocol import provenance
from peftbench.protocol.names import HEADLINE
from peftbench.protocol.records import FoldScore, Record, RunConfig, write_predictions
from peftbench.protocol.scoring import (
    Cells,
    distribution,
    null_of,
    permuted_test_labels,
    reliability_curve,
    score_folds,
    summarise,
    within_strata,
)
from peftbench.protocol.splits import Split
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace

NOT_REFITTED = "labels of the test parts permuted among their patients; nothing fitted anew"

JUDGING = "score and write"
"""The phase of a stopwatch that judging belongs to."""


class Judged(NamedTuple):
    """What a record says of predictions; the attributes are called as the record's.

    Attributes:
        scores: of each unit, fold and draw.
        summary: unit to metric to its mean and deviation over folds.
        distribution: unit to metric to its distribution over support sets; empty for a single draw.
        strata: scores within each view and centre.
        reliability: bins of the reliability curve.
    """

    scores: list[FoldScore]
    summary: dict[str, dict[str, dict[str, int | float | None]]]
    distribution: dict[str, dict[str, dict[str, int | float | None]]]
    strata: list[dict[str, Any]]
    reliability: list[dict[str, float | int]]

    def mcc(self, unit: str) -> float:
        """Mean MCC of the summary; NaN where it is not defined."""
        found = self.summary[unit]["mcc"]["mean"]
        return math.nan if found is None else float(found)

    def told(self) -> dict[str, Any]:
        """All but the scores, as keywords of `write_complete`."""
        return {name: value for name, value in self._asdict().items() if name != "scores"}


def judge(predictions: pd.DataFrame, chosen: Cells, rows: TaskRows) -> Judged:
    """Judge predictions on a task's own test parts.

    Args:
        predictions: columns as in `records.PREDICTION_COLUMNS`.
        chosen: (fold, draw) to what was selected there.
        rows: the task's rows.
    """
    scores, unit = score_folds(predictions, chosen), rows.task.unit
    return Judged(
        scores,
        summarise(scores),
        distribution(scores),
        within_strata(predictions, rows.frame, unit),
        reliability_curve(predictions, unit),
    )


def judge_elsewhere(predictions: pd.DataFrame, chosen: Sequence[Mapping[str, Any]], rows: TaskRows) -> Judged:
    """Judge predictions on another cohort: each model has its scores, the rest is of all models together.

    Args:
        predictions: as `together` makes them.
        chosen: of each model, what was selected at home.
        rows: of the task that was tested on.
    """
    of_each: Cells = {(fold, 0): picked for fold, picked in enumerate(chosen)}
    scores = score_folds(predictions, {**of_each, (HEADLINE, 0): {"models": len(chosen)}})
    headline, unit = headline_of(predictions), rows.task.unit
    return Judged(
        scores,
        summarise([score for score in scores if score.fold == HEADLINE]),
        {},
        within_strata(headline, rows.frame, unit),
        reliability_curve(headline, unit),
    )


def null_of_test_labels(
    predictions: pd.DataFrame, unit: str, permutations: int, seed: int, observed: float
) -> dict[str, Any]:
    """What a record says of its score under permuted labels, where nothing is fitted anew; empty without permutations.

    Args:
        predictions: whose test parts are taken.
        unit: `image` or `patient`.
        permutations: how many.
        seed: of the permutations.
        observed: mean MCC with the true labels; where it is NaN there is nothing to compare.
    """
    if not permutations or math.isnan(observed):
        return {}
    return null_of(observed, permuted_test_labels(predictions, unit, permutations, seed), NOT_REFITTED, unit)


def prediction_rows(
    rows: pd.DataFrame,
    fold: int,
    role: str | npt.NDArray[np.object_],
    score: npt.NDArray[np.float64],
    draw: int | npt.NDArray[np.int64] = 0,
) -> pd.DataFrame:
    """A part of a predictions table.

    Args:
        rows: of the task, one a score.
        fold: of all.
        role: of all, or of each.
        score: (n,).
        draw: of all, or of each.
    """
    return pd.DataFrame(
        {
            "fold": fold,
            "draw": draw,
            "role": role,
            "sample_id": rows["sample_id"].to_numpy(),
            "patient_id": rows["patient_id"].to_numpy(),
            "event": rows["event"].to_numpy(dtype=np.int64),
            "score": score,
        }
    )


class Spoken(NamedTuple):
    """What one model said at home and elsewhere.

    Attributes:
        held_out_at: (v,) positions at home of the rows that its setting was chosen on.
        held_out: (v,) its scores there.
        test: (n,) its scores of all rows elsewhere.
    """

    held_out_at: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.float64]
    test: npt.NDArray[np.float64]


def together(home: pd.DataFrame, theirs: pd.DataFrame, models: Sequence[Spoken]) -> pd.DataFrame:
    """Predictions of each model, and of all together as the fold `HEADLINE`; thresholds are tuned at home.

    Args:
        home: rows of the task that was fitted on.
        theirs: rows of the task that was tested on.
        models: one a fold.
    """
    parts = []
    for fold, model in enumerate(models):
        tuned = prediction_rows(home.iloc[model.held_out_at], fold, "validation", model.held_out)
        parts += [tuned, prediction_rows(theirs, fold, "test", model.test), tuned.assign(fold=HEADLINE)]
    mean = np.mean([model.test for model in models], axis=0)
    parts.append(prediction_rows(theirs, HEADLINE, "test", mean))
    return pd.concat(parts, ignore_index=True)


def headline_of(predictions: pd.DataFrame) -> pd.DataFrame:
    """Of predictions on another cohort, those of all models together."""
    return predictions[predictions["fold"] == HEADLINE]


def task_facts(rows: TaskRows) -> dict[str, Any]:
    """What a record says of its task."""
    return {
        "question": rows.task.question,
        "cohort": rows.task.cohort,
        "unit": rows.task.unit,
        "caveat": rows.task.caveat,
        "images": rows.images,
        "patients": rows.patients,
        "events": rows.events,
        "event_patients": rows.event_patients,
        "prevalence": rows.prevalence,
    }


def ground_of(rows: TaskRows, split: Split) -> dict[str, Any]:
    """What a record's configuration says of the rows and folds that it stands on, and of this software."""
    return {
        "task": rows.task.name,
        "scheme": split.scheme,
        "folds": split.folds,
        "task_digest": rows.digest,
        "split_digest": split.digest,
        "version": provenance.version(),
    }


def split_facts(rows: TaskRows, split: Split) -> dict[str, Any]:
    """What a record says of its split: names of the folds, and units (patients) of each role fold by fold."""
    return {"names": list(split.names), "units": dict(split.unit_counts(rows))}


def write_complete(
    config: RunConfig,
    place: Workspace,
    predictions: pd.DataFrame,
    scores: Sequence[FoldScore],
    notes: Sequence[str],
    origin: Mapping[str, Any],
    cost: Mapping[str, Any],
    watch: provenance.Stopwatch,
    **said: Any,
) -> Record:
    """Write predictions and record.

    Args:
        config: all that decides the numbers.
        place: the workspace.
        predictions: of the record.
        scores: of them.
        notes: what a reader must know.
        origin: where the numbers come from, besides software and machine.
        cost: device and parameters that learned; seconds and peak memory of the process are added.
        watch: seconds so far.
        said: what else the record says, as its attributes are called.
    """
    folder = config.folder(place)
    with watch.phase(JUDGING):
        digest = write_predictions(folder, predictions)
    record = Record(
        identity=config.identity,
        config=config,
        scores=[score._asdict() for score in scores],
        notes=list(notes),
        provenance={**provenance.provenance(), **origin},
        cost={"seconds": watch.seconds, "peak_memory_mb": provenance.peak_memory_mb(), **cost},
        predictions_digest=digest,
        status="complete",
        **said,
    )
    record.write(folder)
    return record
