"""The Cox probe as a run: the same splits and inputs, rows whose time is known, concordance by fold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from peftbench.errors import ConfigError
from peftbench.probing.cells import Answer, Task
from peftbench.probing.runs import Run, stopwatch
from peftbench.probing.survival import COX_SCHEMA, SurvivalRows
from peftbench.probing.wanted import Wanted
from peftbench.probing.work import Done
from peftbench.protocol import provenance
from peftbench.protocol.judging import JUDGING, prediction_rows, task_facts
from peftbench.protocol.names import COX
from peftbench.protocol.records import FoldScore, Record, RunConfig
from peftbench.protocol.scoring import UNITS, summarise
from peftbench.protocol.survival_metrics import concordance
from peftbench.protocol.workspace import Workspace
from stores.keys import digest_of


@dataclass(frozen=True)
class CoxRun(Run):
    """One record of a Cox probe."""

    @cached_property
    def usable(self) -> SurvivalRows:
        """The rows whose time is known."""
        return SurvivalRows.of(self.rows)

    @cached_property
    def config(self) -> RunConfig:
        """All that decides its numbers: the times among it."""
        config = super().config
        times = digest_of([self.usable.positions.tolist(), self.usable.time.tolist()])
        kept = {name: config.settings[name] for name in ("probe_schema", "metrics_schema")}
        settings = {
            **kept,
            "cox_schema": COX_SCHEMA,
            "times": times,
            "libraries": provenance.versions(["scikit-survival"]),
        }
        return config.model_copy(update={"settings": settings})

    def _task(self, given: str, fold: int) -> Task:
        time = np.full(len(self.rows.frame), np.nan)
        time[self.usable.positions] = self.usable.time
        return replace(super()._task(given, fold), time=time, labels=None)

    def record(self, done: Sequence[Done], place: Workspace) -> Record:
        """Judge the answers by concordance and write the record."""
        watch = stopwatch(done)
        with watch.phase(JUDGING):
            parts = [self._hazards(fold, each.answer) for fold, each in enumerate(done)]
            scores = [self._judged(fold, each.answer, unit) for fold, each in enumerate(done) for unit in UNITS]
        predictions = pd.concat(parts, ignore_index=True)
        return self._write(place, watch, predictions, scores, task=task_facts(self.rows), summary=summarise(scores))

    def _remarks(self) -> Sequence[str]:
        left_out = [f"{each.images} images left out: {each.reason}" for each in self.usable.exclusions]
        return [*left_out, *self.notes]

    def _origin(self) -> dict[str, Any]:
        begin = self.rows.task.time.origin if self.rows.task.time is not None else ""
        times = {"used": len(self.usable.time), "of": self.rows.images, "origin": begin}
        return {**super()._origin(), "times": times}

    def announce(self) -> list[str]:
        """What a user must know before believing a concordance."""
        used = self.usable
        if not used.exclusions:
            return []
        why = "; ".join(f"{each.reason}: {each.images}" for each in used.exclusions)
        return [f"{self.rows.task.name}: cox uses {len(used.time)} of {used.images} images ({why})"]

    def _hazards(self, fold: int, answer: Answer) -> pd.DataFrame:
        test = self.usable.positions[self.usable.among(self.split.positions(fold, "test"))]
        at = np.concatenate([answer.held_out_at[0], test])
        role = np.array(["validation"] * len(answer.held_out_at[0]) + ["test"] * len(test), dtype=object)
        score = np.concatenate([answer.held_out[0], answer.test[0]])
        return prediction_rows(self.rows.frame.iloc[at], fold, role, score)

    def _judged(self, fold: int, answer: Answer, unit: str) -> FoldScore:
        """Concordance of the test part; of patients by the first image of each whose time is known."""
        tested, risk = self.usable.among(self.split.positions(fold, "test")), answer.test[0]
        if unit == "patient":
            patient = self.rows.frame["patient_id"].iloc[self.usable.positions[tested]]
            first = ~patient.duplicated().to_numpy(dtype=bool)
            tested, risk = tested[first], risk[first]
        found = concordance(self.usable.time[tested], self.usable.observed[tested], risk)
        events = int(self.usable.observed[tested].sum())
        reasons = {"c_index": found.reason} if np.isnan(found.value) else {}
        chosen = {**answer.chosen[0], "pairs": found.pairs}
        return FoldScore(unit, fold, 0, len(tested), events, {"c_index": found.value}, reasons, chosen)


def refuse_cox(wanted: Wanted, *, external: bool) -> None:
    """Refuse what a Cox probe has no answer to.

    Raises:
        ConfigError: it was asked for.
    """
    if COX not in wanted.probes:
        return
    if wanted.regime != "full" or external or wanted.reading != "embedding":
        raise ConfigError(
            "--probe cox fits on the whole training part and the embedding: leave --regime, --external and "
            "--reading out"
        )
    if wanted.criterion != "log-loss" or wanted.calibrate:
        raise ConfigError(
            "--probe cox chooses its penalty by partial likelihood and answers hazards, no probabilities: leave "
            "--choose-by and --calibrate out"
        )
