"""Runs: a probe on an input under a regime, as cells to do, and the record that their answers make."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.probing.cells import PROBE_SCHEMA, Answer, Task
from peftbench.probing.families.family import Options, Scaling
from peftbench.probing.families.logistic import COSTS, FEW_COSTS
from peftbench.probing.inputs import ProbeInput
from peftbench.probing.permuting import Labellings, permuted_labels
from peftbench.probing.registry import PROBES, family_of
from peftbench.probing.wanted import Wanted
from peftbench.probing.work import Done, Errand
from peftbench.protocol import provenance
from peftbench.protocol.judging import (
    JUDGING,
    ground_of,
    judge,
    null_of_test_labels,
    prediction_rows,
    split_facts,
    task_facts,
    write_complete,
)
from peftbench.protocol.kept import KEPT, forget
from peftbench.protocol.metrics import METRICS_SCHEMA
from peftbench.protocol.names import LOGISTIC
from peftbench.protocol.records import FoldScore, Record, RunConfig
from peftbench.protocol.scoring import null_of
from peftbench.protocol.splits import Split
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace

REFITTED = "labels permuted among the patients of each test part; fitted and chosen anew"

REFIT_ROWS = 4096
"""Images of a task up to which permuted labels are fitted anew."""

LIBRARIES = ("scikit-learn", "xgboost")
"""Whose versions decide what a classifier that is not the benchmark's own predicts."""


@dataclass(frozen=True)
class Run:
    """One record to be made.

    Attributes:
        rows: the task's rows.
        split: their division.
        given: what is probed.
        probe: name of the family.
        wanted: the options.
        size: of the support sets; None for the whole training part.
        supports: (draws, m) positions a fold; None for the whole training part.
        notes: what a reader must know.
    """

    rows: TaskRows
    split: Split
    given: ProbeInput
    probe: str
    wanted: Wanted
    size: int | None = None
    supports: Sequence[npt.NDArray[np.int64]] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def cells(self) -> int:
        """How many cells it takes."""
        return self.split.folds

    @cached_property
    def config(self) -> RunConfig:
        """All that decides its numbers."""
        return RunConfig(
            **ground_of(self.rows, self.split),
            backbone=self.given.name,
            strategy="LP" if self.probe == LOGISTIC else "probe",
            probe=self.probe,
            regime=self.wanted.regime_name,
            shots=self.size,
            draws=self.wanted.draws,
            seed=self.wanted.seed,
            settings=self._settings(),
            features=self.given.identity,
            features_digest=self.given.digest,
        )

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "class_weight": self.wanted.class_weight,
            "scaling": self._scaling,
            "chosen_by": self.wanted.criterion,
            "chosen_on": self.wanted.chosen_on,
            "reading": self.wanted.reading,
            "calibration": "temperature" if self.wanted.calibrate else "none",
            "permutations": self.wanted.permutations,
            "probe_schema": PROBE_SCHEMA,
            "metrics_schema": METRICS_SCHEMA,
        }
        if self.probe == LOGISTIC:
            settings["C"] = list(COSTS if self.supports is None else FEW_COSTS)
        if self.probe not in PROBES:
            settings["libraries"] = provenance.versions(LIBRARIES)
            # Of a class of the user's own its name alone does not say what it does.
            own = "." in self.probe or ":" in self.probe
            settings["source"] = getattr(family_of(self.probe), "source", {}) if own else {}
        return settings

    @property
    def _scaling(self) -> Scaling:
        """Of a handful of images one scale for all features, of a training part one for each."""
        return "feature" if self.supports is None else "global"

    def errands(self, given: str, place: Workspace) -> list[Errand]:
        """One cell a fold.

        Args:
            given: name under which the matrices are handed over.
            place: the workspace.
        """
        folder = self.config.folder(place) / KEPT
        return [Errand(self._task(given, fold), folder / f"fold-{fold}.npz") for fold in range(self.split.folds)]

    def _task(self, given: str, fold: int) -> Task:
        options = Options(self._scaling, self.wanted.class_weight, self.wanted.seed, self.wanted.chosen_on == "support")
        return Task(
            given=given,
            probe=self.probe,
            event=self.rows.frame["event"].to_numpy(dtype=np.int64),
            train=self.split.positions(fold, "train"),
            validation=self.split.positions(fold, "validation"),
            test=self.split.positions(fold, "test"),
            supports=None if self.supports is None else self.supports[fold],
            chosen_on=self.wanted.chosen_on,
            criterion=self.wanted.criterion,
            options=options,
            calibrate=self.wanted.calibrate,
            patients=self._patients,
            unit=self.rows.task.unit,
            labels=self._labels if self._refits else None,
        )

    @property
    def _refits(self) -> bool:
        """Whether labellings are fitted anew: where that takes seconds, not hours."""
        logistic = self.probe == LOGISTIC and self.supports is None and self.wanted.permutations > 0
        return logistic and self.rows.images <= REFIT_ROWS

    @cached_property
    def _labels(self) -> Labellings:
        return permuted_labels(
            self.rows.frame["event"].to_numpy(dtype=np.int64),
            self._patients,
            [self.split.positions(fold, "test") for fold in range(self.split.folds)],
            self.wanted.permutations,
            self.wanted.seed,
        )

    @cached_property
    def _patients(self) -> npt.NDArray[np.int64]:
        return np.asarray(pd.factorize(self.rows.frame["patient_id"])[0], dtype=np.int64)

    def record(self, done: Sequence[Done], place: Workspace) -> Record:
        """Score the answers and write the record; what was kept of single cells is deleted."""
        watch = stopwatch(done)
        answers = [each.answer for each in done]
        with watch.phase(JUDGING):
            predictions = pd.concat(
                [self._predicted(fold, each) for fold, each in enumerate(answers)], ignore_index=True
            )
            chosen = {
                (fold, draw): picked for fold, each in enumerate(answers) for draw, picked in enumerate(each.chosen)
            }
            judged = judge(predictions, chosen, self.rows)
            null = self._null(predictions, answers, judged.mcc(self.rows.task.unit))
        said = {"task": task_facts(self.rows), "null": null, **judged.told()}
        return self._write(place, watch, predictions, judged.scores, **said)

    def _write(
        self,
        place: Workspace,
        watch: provenance.Stopwatch,
        predictions: pd.DataFrame,
        scores: Sequence[FoldScore],
        **said: Any,
    ) -> Record:
        """Write predictions and record; what was kept of single cells is deleted.

        Args:
            place: the workspace.
            watch: seconds so far.
            predictions: of the record.
            scores: of them.
            said: what else the record says, as its attributes are called.
        """
        notes = [*self.split.notes, *self._remarks()]
        record = write_complete(
            self.config, place, predictions, scores, notes, self._origin(), self._cost(), watch, **said
        )
        forget(self.config.folder(place))
        return record

    def _remarks(self) -> Sequence[str]:
        """What a reader must know besides what the split says."""
        return self.notes

    def _origin(self) -> dict[str, Any]:
        """Where the numbers come from, besides software and machine."""
        return {"features": self.given.origin, "split": split_facts(self.rows, self.split)}

    def _cost(self) -> dict[str, Any]:
        return {
            "device": "cpu",
            "trainable_parameters": self.given.features + 1 if self.probe in {LOGISTIC, "ridge"} else None,
        }

    def _predicted(self, fold: int, answer: Answer) -> pd.DataFrame:
        """The predictions of a fold: of each draw the rows that its setting was chosen on, then the test part."""
        test = self.split.positions(fold, "test")
        held = "validation" if self.wanted.chosen_on == "validation" else "left-out"
        draws = len(answer.test)
        at = np.concatenate([np.hstack([answer.held_out_at[draw], test]) for draw in range(draws)])
        score = np.concatenate([np.hstack([answer.held_out[draw], answer.test[draw]]) for draw in range(draws)])
        role = np.array([held] * answer.held_out.shape[1] + ["test"] * len(test), dtype=object)
        draw = np.repeat(np.arange(draws), len(role))
        return prediction_rows(self.rows.frame.iloc[at], fold, np.tile(role, draws), score, draw)

    def _null(self, predictions: pd.DataFrame, answers: Sequence[Answer], observed: float) -> dict[str, Any]:
        unit, wanted = self.rows.task.unit, self.wanted
        if not self._refits:
            return null_of_test_labels(predictions, unit, wanted.permutations, wanted.seed, observed)
        table = np.stack([each.null for each in answers])
        usable = (~np.isnan(table)).any(axis=0)
        return null_of(observed, np.nanmean(table[:, usable], axis=0), REFITTED, unit)


def stopwatch(done: Sequence[Done]) -> provenance.Stopwatch:
    """One that knows what the cells took."""
    watch = provenance.Stopwatch()
    watch.seconds["fit and predict"] = sum(each.seconds for each in done)
    return watch
