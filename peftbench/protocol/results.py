"""What the verbs answer: the objects behind `--json`, in the shape that is kept stable."""

import math
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field


class Result(BaseModel):
    """Base of all answers: frozen, and printable as one line of JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """The answer as JSON's types; what is not a number (NaN) becomes null."""
        value: dict[str, Any] = json_ready(self.model_dump(mode="python"))
        return value


class RejectedFile(Result):
    """A file that `prepare` left out, and why."""

    file: str
    reason: str


class TaskCounts(Result):
    """What a task uses of a cohort.

    Attributes:
        images: number of images.
        patients: number of patients.
        events: images with the event.
        event_patients: patients with the event in at least one image.
        left_out: images of the cohort that it does not use, by reason.
        views: view to images with and without the event: where these differ much, the view gives the outcome away.
    """

    images: int
    patients: int
    events: int
    event_patients: int = 0
    left_out: dict[str, int] = Field(default_factory=dict)
    views: dict[str, tuple[int, int]] = Field(default_factory=dict)


class PrepareResult(Result):
    """What `prepare` found.

    Attributes:
        cohort: its name.
        images: number of images.
        patients: number of patients.
        centers: number of centres.
        rejected: files and rows that cannot be used, each with its reason.
        source: what the rows were at first, and how many.
        further_files: files of a row beyond its first, where a row is a series.
        left_out: rows that the cohort's rules leave out, by reason, in the order of the rules.
        notes: what else was noticed.
        private: folder that holds the key, the mapping to raw identifiers and the names of rejected files; empty for
            published cohorts.
        tasks: the tasks by name.
    """

    cohort: str
    images: int
    patients: int
    centers: int
    rejected: list[RejectedFile]
    source: str
    further_files: int
    left_out: dict[str, int]
    notes: list[str]
    private: str
    tasks: dict[str, TaskCounts]

    @property
    def frame(self) -> pd.DataFrame:
        """One row a task: images, patients, events."""
        columns = ["images", "patients", "events", "event_patients"]
        rows = [[getattr(counts, column) for column in columns] for counts in self.tasks.values()]
        return pd.DataFrame(rows, index=list(self.tasks), columns=columns)


class ExtractRow(Result):
    """What `extract` did for one backbone.

    Attributes:
        cohort: whose images.
        backbone: as named, with `@random:SEED` for untrained weights.
        total: distinct images of the cohort.
        embedded: computed now.
        reused: found in the store.
        dim: length of an embedding.
        precision: of the forward pass.
        batch_size: pictures in a forward pass.
        seconds: of reading, transforming and the forward pass (0 where nothing was computed).
        images_per_second: `embedded` by `seconds`.
        store: path of the feature store.
    """

    cohort: str
    backbone: str
    total: int
    embedded: int
    reused: int
    dim: int
    precision: str
    batch_size: int
    seconds: float
    images_per_second: float
    store: str


class FidelityRow(Result):
    """What one short way of computing features keeps of them.

    Attributes:
        backbone: as named.
        comparison: of what with what.
        images: compared.
        lowest: cosine of the two embeddings of an image, over the images.
        median: over the images.
        share: of images whose cosine reaches the aim.
    """

    backbone: str
    comparison: str
    images: int
    lowest: float
    median: float
    share: float


class FidelityResult(Result):
    """What `fidelity` found.

    Attributes:
        cohort: whose images.
        aim: cosine that every image should reach.
        results: one row a backbone and comparison.
    """

    cohort: str
    aim: float
    results: list[FidelityRow]

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a frame."""
        return pd.DataFrame([row.model_dump() for row in self.results])


class ScoreRow(Result):
    """The score of one backbone under one probe or strategy, over folds and draws.

    Attributes:
        task: the question.
        backbone: as named; `control:...` for a probe that sees no image, `... + clinical` with clinical variables.
        probe: e.g. `logistic`; of a fine-tuning `trained head`.
        regime: how much of the training part was used.
        scheme: how patients were divided.
        folds: number of folds.
        shots: images a class (and centre) of a few-shot regime, images in all of `reduced`, else null.
        draws: support sets a fold.
        external: the other cohort's task that was tested on; empty for the task's own test parts.
        mcc_mean, mcc_std, pr_auc_mean, pr_auc_std: over the folds' test parts, each the mean of its draws, in the
            task's unit; decisions at the threshold 0.5.
        mcc_low, mcc_high: 95 % interval by patients drawn anew, of a test on another cohort alone.
        mcc_tuned_mean, mcc_tuned_std: decisions at the threshold that is best on the validation part.
        mcc_q05, mcc_q95, mcc_worst_decile: over the support sets of a fold, averaged over folds; null for one draw.
        c_index_mean, c_index_std: concordance, of a Cox probe alone.
        prevalence: share of the units with the event: the chance level of PR-AUC.
        control: the strongest control on the same folds; empty where there is none.
        gain_mean, gain_low, gain_high: paired difference in MCC to that control, with its 95 % interval.
        p_value: share of permuted labellings that score as high.
        record: path of the record.
    """

    task: str
    backbone: str
    probe: str
    regime: str
    scheme: str
    folds: int
    shots: int | None
    draws: int
    external: str
    mcc_mean: float
    mcc_std: float
    pr_auc_mean: float
    pr_auc_std: float
    mcc_low: float
    mcc_high: float
    mcc_tuned_mean: float
    mcc_tuned_std: float
    mcc_q05: float
    mcc_q95: float
    mcc_worst_decile: float
    c_index_mean: float
    c_index_std: float
    prevalence: float
    control: str
    gain_mean: float
    gain_low: float
    gain_high: float
    p_value: float
    record: str


class ProbeRow(ScoreRow):
    """The score of one backbone under one probe, over folds and draws."""


class FinetuneRow(ScoreRow):
    """The score of one backbone under one strategy, over folds and draws, and what it cost.

    Attributes:
        strategy: which parameters learnt.
        rank: of those that have one, else null.
        trainable_parameters: how many learnt, with the head.
        trainable_percent: of all parameters of backbone and head.
        epochs: over all folds and draws.
        seconds: over all phases, folds and draws.
        images_per_second: in training.
        peak_memory_mb: of the process, in 10^6 bytes.
    """

    strategy: str
    rank: int | None
    trainable_parameters: int
    trainable_percent: float
    epochs: int
    seconds: float
    images_per_second: float
    peak_memory_mb: float


class ExtractResult(Result):
    """What `extract` did, one row a backbone."""

    results: list[ExtractRow]

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a frame."""
        return pd.DataFrame([row.model_dump() for row in self.results])


class ProbeResult(Result):
    """The scores of `probe`, one row a task and backbone, controls among them."""

    results: list[ProbeRow]

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a frame."""
        return pd.DataFrame([row.model_dump() for row in self.results])


class FinetuneResult(Result):
    """The scores of `finetune`, one row a task, backbone and strategy."""

    results: list[FinetuneRow]

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a frame."""
        return pd.DataFrame([row.model_dump() for row in self.results])


class PredictRow(Result):
    """What a record's models say of one picture.

    Attributes:
        file: as the user named it; of a folder that was named, relative to it.
        score: mean probability of the event over the models; NaN where the file cannot be read.
        lowest, highest: over the models.
        decision: the task's word for the score at the threshold 0.5, e.g. `yes`; empty where there is no score.
        seen: whether the picture, by its pixels, is one of the cohort that the models were made on: its score is no
            prediction then.
        fault: why the file cannot be read; empty where it can.
    """

    file: str
    score: float
    lowest: float
    highest: float
    decision: str
    seen: bool
    fault: str


class PredictResult(Result):
    """What `predict` answers: one row a file.

    Attributes:
        record: path of the record.
        task: of the record.
        question: of the task.
        event: what the scores are the probability of.
        backbone: as named.
        strategy: which parameters learnt.
        probe: e.g. `logistic`; of a fine-tuning `trained head`.
        regime: how much of the training part was used.
        shots: images a class (and centre) of a few-shot regime, images in all of `reduced`, else null.
        models: number of models whose mean counts: one a fold and draw.
        mcc_mean, mcc_std: of the record on its own test parts, over folds.
        caveat: what a reader must know before using a score.
        notes: what differs here from where the record was made, and what else was noticed.
        out: path of the table that was written; empty where none was asked for.
        results: one row a file, in the order named.
    """

    record: str
    task: str
    question: str
    event: str
    backbone: str
    strategy: str
    probe: str
    regime: str
    shots: int | None
    models: int
    mcc_mean: float
    mcc_std: float
    caveat: str
    notes: list[str]
    out: str
    results: list[PredictRow]

    @property
    def rejected(self) -> list[RejectedFile]:
        """The files that cannot be read, and why."""
        return [RejectedFile(file=row.file, reason=row.fault) for row in self.results if row.fault]

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a frame."""
        return pd.DataFrame([row.model_dump() for row in self.results])


class ReportResult(Result):
    """Where `report` wrote.

    Attributes:
        records: how many records the report shows.
        tables: paths of the tables (Markdown, CSV).
        html: path of the page.
    """

    records: int
    tables: list[str]
    html: str


def json_ready(value: Any) -> Any:
    """A value of dicts, lists and scalars with NaN and infinity as None, which JSON has a word for."""
    if isinstance(value, dict):
        return {key: json_ready(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
