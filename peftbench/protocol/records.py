"""The record: what a run left. Every path of the benchmark writes this one form.

A record is a folder. `predictions.parquet` holds one row an image, fold and draw; `record.json` holds the
configuration, metrics, provenance and cost, the digest of the predictions and its own. It is written last and
atomically: a folder without a sound `record.json` is no record.
"""

import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from peftbench.errors import RecordError
from peftbench.protocol import metrics
from peftbench.protocol.results import json_ready
from peftbench.protocol.workspace import Workspace
from stores.atomic import write_atomic
from stores.keys import canonical_json, digest_of, file_digest

RECORD_SCHEMA = 1

RECORD_FILE = "record.json"
PREDICTIONS_FILE = "predictions.parquet"

_DIGEST = "digest"

PREDICTION_COLUMNS = ("fold", "draw", "role", "sample_id", "patient_id", "event", "score")
"""Of every predictions table: where, who, the truth (0 or 1), and the probability of the event."""


class RunConfig(BaseModel):
    """All that decides a record's numbers; its canonical JSON is the record's identity.

    Attributes:
        task: the question.
        backbone: as named, or `control:...`.
        strategy: which parameters learn, e.g. `LP`.
        probe: e.g. `logistic`.
        regime: how much of the training part is used: `full`.
        scheme: how patients are divided.
        folds: how many.
        shots: images a class of a few-shot regime.
        draws: support sets a fold.
        seed: of the split and of whatever is random.
        settings: of the probe.
        task_digest: of the task's rows and labels.
        split_digest: of the division.
        features: key of the feature store, or of what the control sees.
        features_digest: of the matrix that was probed.
        version: of peftbench.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    backbone: str
    strategy: str
    probe: str
    regime: str
    scheme: str
    folds: int
    shots: int | None
    draws: int
    seed: int
    settings: dict[str, Any]
    task_digest: str
    split_digest: str
    features: str
    features_digest: str
    version: str

    @property
    def identity(self) -> str:
        """SHA-256 of the configuration's canonical JSON."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def run_name(self) -> str:
        """Name of the record's folder."""
        return f"{self.regime}-{self.scheme}-{self.folds}-seed{self.seed}-{self.identity[:12]}"

    def folder(self, workspace: Workspace) -> Path:
        """Where the record lies."""
        return workspace.record(self.task, self.backbone, self.strategy, self.run_name)


class FoldScore(NamedTuple):
    """Metrics of one fold and draw on its test part.

    Attributes:
        unit: `image` or `patient`.
        fold: from 0.
        draw: from 0.
        size: number of units.
        events: units with the event.
        metrics: metric to value, NaN where it is not defined.
        reasons: metric to why it is NaN.
        chosen: what was selected on the validation part, e.g. {"C": 0.01}.
    """

    unit: str
    fold: int
    draw: int
    size: int
    events: int
    metrics: Mapping[str, float]
    reasons: Mapping[str, str]
    chosen: Mapping[str, float]


class Record(BaseModel):
    """A record as `record.json` holds it.

    Attributes:
        schema_version: of this form.
        identity: of `config`.
        config: what was run.
        task: question, unit, caveat, images, patients, events, event_patients, prevalence.
        scores: one entry a unit, fold and draw (see `FoldScore`).
        summary: unit to metric to {"mean", "std", "folds"}: over folds and draws, those that are NaN left out.
        notes: what a reader must know.
        provenance: versions, commit, digests, the features' recipe.
        cost: seconds by phase, device, peak memory, parameters that learned.
        predictions_digest: SHA-256 of the predictions file.
        status: `complete`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = RECORD_SCHEMA
    identity: str
    config: RunConfig
    task: dict[str, Any]
    scores: list[dict[str, Any]]
    summary: dict[str, dict[str, dict[str, int | float | None]]]
    notes: list[str]
    provenance: dict[str, Any]
    cost: dict[str, Any]
    predictions_digest: str
    status: str

    def write(self, folder: Path) -> None:
        """Make the record complete; the predictions must lie there already."""
        body = json_ready(self.model_dump(mode="python"))
        write_atomic(folder / RECORD_FILE, canonical_json({**body, _DIGEST: digest_of(body)}))

    def score(self, metric: str, unit: str) -> tuple[float, float]:
        """Mean and standard deviation of a metric over folds and draws; NaN where it is not defined."""
        found = self.summary[unit][metric]
        mean, std = found["mean"], found["std"]
        return math.nan if mean is None else float(mean), math.nan if std is None else float(std)


def score_folds(predictions: pd.DataFrame, chosen: Mapping[tuple[int, int], Mapping[str, float]]) -> list[FoldScore]:
    """Metrics of each fold and draw on its test part, at image and at patient level.

    Args:
        predictions: columns as in `PREDICTION_COLUMNS`.
        chosen: (fold, draw) to what was selected on the validation part.
    """
    scores = []
    tested = predictions[predictions["role"] == "test"]
    for cell in chosen:
        part = tested[(tested["fold"] == cell[0]) & (tested["draw"] == cell[1])]
        image = (part["event"].to_numpy(), part["score"].to_numpy())
        patient = metrics.by_patient(part["patient_id"].to_numpy(), *image)
        for unit, (event, score) in (("image", image), ("patient", patient)):
            found = metrics.evaluate(event, score)
            scores.append(
                FoldScore(unit, *cell, len(event), int(event.sum()), found.values, found.reasons, chosen[cell])
            )
    return scores


def summarise(scores: list[FoldScore]) -> dict[str, dict[str, dict[str, int | float | None]]]:
    """Mean, standard deviation and number of usable cells of each metric, by unit."""
    summary: dict[str, dict[str, dict[str, int | float | None]]] = {}
    for unit in ("image", "patient"):
        cells = [score for score in scores if score.unit == unit]
        for metric in metrics.NAMES:
            found = np.array([cell.metrics[metric] for cell in cells])
            mean, std = metrics.mean_and_std(found)
            usable = int((~np.isnan(found)).sum())
            summary.setdefault(unit, {})[metric] = {"mean": mean, "std": std, "folds": usable}
    return summary


def write_predictions(folder: Path, predictions: pd.DataFrame) -> str:
    """Save the predictions atomically; answers the digest of the file."""
    buffer = io.BytesIO()
    predictions.loc[:, list(PREDICTION_COLUMNS)].to_parquet(buffer, index=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / PREDICTIONS_FILE, buffer.getvalue())
    return file_digest(folder / PREDICTIONS_FILE)


def read_record(folder: Path) -> Record:
    """A complete record.

    Raises:
        RecordError: it is missing, damaged, or its predictions are not those it was written with.
    """
    advice = "delete that folder and run the command again"
    try:
        body = json.loads((folder / RECORD_FILE).read_text())
        sealed = body.pop(_DIGEST, None) == digest_of(body)
        record = Record.model_validate(body)
        found = file_digest(folder / PREDICTIONS_FILE)
    except FileNotFoundError as error:
        lost = Path(error.filename).name
        raise RecordError(f"the record {folder} is not complete ({lost} is missing): {advice}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise RecordError(f"the record {folder} cannot be read ({str(error).splitlines()[0]}): {advice}") from error
    if not sealed or record.schema_version != RECORD_SCHEMA:
        raise RecordError(f"the record {folder} was altered, or has the form of another version: {advice}")
    if found != record.predictions_digest:
        raise RecordError(f"the predictions of {folder} are not those of its record: {advice}")
    if record.identity != record.config.identity:
        raise RecordError(f"the configuration in {folder} is not the one that was run: {advice}")
    return record


def finished(folder: Path) -> Record | None:
    """The record, if it is complete and sound; else None."""
    try:
        return read_record(folder)
    except RecordError:
        return None


def read_predictions(folder: Path) -> pd.DataFrame:
    """The predictions of a record: columns as in `PREDICTION_COLUMNS`."""
    return pd.read_parquet(folder / PREDICTIONS_FILE)


def iter_records(workspace: Workspace) -> Iterator[tuple[Path, Record]]:
    """All complete records of a workspace, in the order of their paths; damaged ones raise.

    Raises:
        RecordError: a record is damaged.
    """
    for path in sorted(workspace.results.glob(f"*/*/*/*/{RECORD_FILE}")):
        yield path.parent, read_record(path.parent)
