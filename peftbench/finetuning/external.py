"""External validation: trained on one cohort, tested on another's whole task, from the checkpoints that were kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from peftbench.finetuning.bench import Bench, reproducible
from peftbench.finetuning.feed import Feed
from peftbench.finetuning.memory import room_for
from peftbench.finetuning.predicting import predict, refuse_no_number, revived
from peftbench.protocol import provenance
from peftbench.protocol.elsewhere import Elsewhere
from peftbench.protocol.judging import (
    JUDGING,
    Spoken,
    headline_of,
    judge_elsewhere,
    null_of_test_labels,
    task_facts,
    together,
    write_complete,
)
from peftbench.protocol.progress import Progress, patience
from peftbench.protocol.records import Record, RunConfig, finished, read_predictions
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace
from stores.keys import digest_of
from stores.lock import writer_lock


@dataclass(frozen=True)
class ExternalTest:
    """One record to be made of a test elsewhere; the models are those of all folds, and their mean score counts.

    Attributes:
        home: the complete record of the trainings.
        rows: of the task that was trained on.
        there: what is tested on.
        bench: the backbone; its feed plays no part.
        feed: the pictures of what is tested on.
        permutations: labellings of the null distribution.
    """

    home: Record
    rows: TaskRows
    there: Elsewhere
    bench: Bench
    feed: Feed
    permutations: int

    @property
    def config(self) -> RunConfig:
        """All that decides its numbers: what decides those at home, and the rows elsewhere."""
        there, config = self.there.rows, self.home.config
        update = {
            "settings": {**config.settings, "fold_models": "averaged", "models": self._models},
            "external": there.task.name,
            "external_digest": there.digest,
        }
        return config.model_copy(update=update)

    @property
    def _models(self) -> str:
        """Of the checkpoints that are tested: trained again they may be others."""
        return digest_of(self.home.provenance["checkpoints"])

    def make(self, place: Workspace, told: Progress, *, force: bool = False) -> Record:
        """Test what was trained, and write the record; a complete one is read.

        Raises:
            RecordError: a checkpoint was not kept or is damaged.
            DeviceError: the pictures do not fit into memory, or the precision gives scores that are no numbers.
        """
        folder = self.config.folder(place)
        if not force and (record := finished(folder)) is not None:
            return record
        with writer_lock(folder, patience(told)):
            return self._make(place, told)

    def _make(self, place: Workspace, told: Progress) -> Record:
        watch, config = provenance.Stopwatch(), self.home.config
        told.start(f"testing {config.backbone} with {config.strategy} on {self.there.rows.task.name}", config.folds)
        with watch.phase("predict"), reproducible(self.bench.device), room_for(self._name):
            models = [self._spoken(fold, place, told) for fold in range(config.folds)]
        with watch.phase(JUDGING):
            predictions = together(self.rows.frame, self.there.rows.frame, models)
            judged = judge_elsewhere(predictions, self._chosen(), self.there.rows)
            unit, headline = self.there.rows.task.unit, headline_of(predictions)
            null = null_of_test_labels(headline, unit, self.permutations, config.seed, judged.mcc(unit))
        return write_complete(
            self.config,
            place,
            predictions,
            judged.scores,
            [*self.home.notes, *self.there.remarks(self.rows.task.cohort)],
            self._origin(),
            {**self.home.cost, "seconds": watch.seconds},
            watch,
            task=task_facts(self.there.rows),
            null=null,
            **judged.told(),
        )

    def _spoken(self, fold: int, place: Workspace, told: Progress) -> Spoken:
        """What the model of a fold says at home, as its record has it, and elsewhere."""
        home = read_predictions(self.home.config.folder(place))
        held: pd.DataFrame = home[(home["fold"] == fold) & (home["role"] == "validation")]
        position = {sample: at for at, sample in enumerate(self.rows.frame["sample_id"])}
        at = np.array([position[sample] for sample in held["sample_id"]], dtype=np.int64)
        classifier = revived(self.home, self.home.config.folder(place), fold, 0, self.bench)
        test = predict(classifier, self.feed, self.bench.precision, lambda: told.advance(0))
        refuse_no_number({"of the other cohort": test}, self._name, self.bench.precision)
        told.advance()
        return Spoken(at, held["score"].to_numpy(dtype=np.float64), test)

    @property
    def _name(self) -> str:
        return f"{self.home.config.backbone} with {self.home.config.strategy}"

    def _chosen(self) -> list[Mapping[str, Any]]:
        by_fold = {score["fold"]: score["chosen"] for score in self.home.scores}
        return [by_fold[fold] for fold in range(self.home.config.folds)]

    def _origin(self) -> dict[str, Any]:
        kept = {name: self.home.provenance[name] for name in ("features", "split", "training", "checkpoints")}
        return {**kept, "external": self.there.facts(self.rows, "averaged")}
