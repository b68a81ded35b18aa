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

import pandas as pd
from pydantic import BaseModel, ConfigDict

from peftbench.errors import RecordError
from peftbench.protocol.results import json_ready
from peftbench.protocol.workspace import Workspace, path_name
from stores.atomic import write_atomic
from stores.keys import canonical_json, digest_of, file_digest

RECORD_SCHEMA = 2

RECORD_FILE = "record.json"
PREDICTIONS_FILE = "predictions.parquet"

_DIGEST = "digest"

PREDICTION_COLUMNS = ("fold", "draw", "role", "sample_id", "patient_id", "event", "score")
"""Of every predictions table: where, who, the truth (0 or 1), and the probability of the event (of a Cox probe: the log
hazard). Roles are `validation`, `test`, and `left-out`: an image of a support set by the fit without it."""


class RunConfig(BaseModel):
    """All that decides a record's numbers; its canonical JSON is the record's identity.

    Attributes:
        task: the question.
        backbone: as named, or `control:...`.
        strategy: which parameters learn, e.g. `LP`.
        probe: e.g. `logistic`.
        regime: how much of the training part is used: `full`, `reduced`, `few-shot`, `center few-shot`.
        scheme: how patients are divided.
        folds: how many.
        shots: images a class (and centre) of a few-shot regime, images in all of `reduced`.
        draws: support sets a fold.
        seed: of the split and of whatever is random.
        settings: of the probe.
        task_digest: of the task's rows and labels.
        split_digest: of the division.
        features: key of the feature store, or of what the control sees.
        features_digest: of the matrix that was probed.
        version: of peftbench.
        external: the task of another cohort that the models were tested on; empty for the task's own test parts.
        external_digest: of that task's rows and labels, as far as they were used.
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
    external: str = ""
    external_digest: str = ""

    @property
    def identity(self) -> str:
        """SHA-256 of the configuration's canonical JSON."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def run_name(self) -> str:
        """Name of the record's folder."""
        size = "" if self.shots is None else f"-{self.shots}"
        elsewhere = f"-on-{self.external}" if self.external else ""
        words = f"{self.probe}-{self.regime}{size}{elsewhere}-{self.scheme}-{self.folds}-seed{self.seed}"
        return path_name(f"{words[:120]}-{self.identity[:12]}")

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
        threshold: tuned on the validation part; NaN where there was nothing to tune it on.
    """

    unit: str
    fold: int
    draw: int
    size: int
    events: int
    metrics: Mapping[str, float]
    reasons: Mapping[str, str]
    chosen: Mapping[str, Any]
    threshold: float = math.nan


class Record(BaseModel):
    """A record as `record.json` holds it.

    Attributes:
        schema_version: of this form.
        identity: of `config`.
        config: what was run.
        task: question, unit, caveat, images, patients, events, event_patients, prevalence.
        scores: one entry a unit, fold and draw (see `FoldScore`).
        summary: unit to metric to {"mean", "std", "folds"}: over folds, each the mean of its draws; what is NaN is left
            out.
        distribution: unit to metric to {"draws", "mean", "std", "q05", "q25", "median", "q75", "q95", "worst_decile"}:
            over the support sets of a fold, averaged over folds; empty for a single draw.
        null: the score under permuted labels: `how`, `metric`, `unit`, `permutations`, `mean`, `std`, `q95` and the p
            value `p`; empty where it was switched off.
        strata: one entry a stratum (`column`, `value`), in the task's unit: `size`, `events`, `folds` (with both
            classes), `mcc_mean`, `mcc_std`, `pr_auc_mean`, `pr_auc_std`.
        reliability: one entry a bin (`low`, `high`, `count`, `score`, `share`) of all test parts, in the task's unit.
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
    distribution: dict[str, dict[str, dict[str, int | float | None]]] = {}
    null: dict[str, Any] = {}
    strata: list[dict[str, Any]] = []
    reliability: list[dict[str, Any]] = []
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
        """Mean and standard deviation of a metric over folds; NaN where it is not defined, or not of this record."""
        found = self.summary.get(unit, {}).get(metric, {"mean": None, "std": None})
        mean, std = found["mean"], found["std"]
        return math.nan if mean is None else float(mean), math.nan if std is None else float(std)


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
