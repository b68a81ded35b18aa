"""External validation: fitted on one cohort, choosing on its own validation part, tested on another's whole task.

For prognosis this is what tells a disease from a hospital's habits: what was learnt of the first hospital's wards does
not help in the second. Images that both cohorts hold, and their patients, are left out of the test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.errors import ConfigError, NotPreparedError
from peftbench.probing.cells import Task
from peftbench.probing.controls import metadata_controls
from peftbench.probing.inputs import ProbeInput, complete_stores, stored_features, stored_name, with_untrained
from peftbench.probing.runs import Run, stopwatch
from peftbench.probing.wanted import Wanted
from peftbench.probing.work import Done, Errand
from peftbench.protocol.elsewhere import Elsewhere, FoldModels
from peftbench.protocol.judging import (
    JUDGING,
    Judged,
    Spoken,
    headline_of,
    judge_elsewhere,
    null_of_test_labels,
    task_facts,
    together,
)
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.names import RANDOM_MARK
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.records import Record, RunConfig
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace


@dataclass(frozen=True)
class ExternalRun(Run):
    """One record to be made of a test elsewhere; `given` holds the rows of both tasks, those fitted on first.

    Attributes:
        elsewhere: what is tested on.
        fold_models: `averaged`: the mean score of the models of all folds; `refitted`: one model, fitted on the whole
            cohort but for the validation part of the first fold.
    """

    elsewhere: Elsewhere | None = None
    fold_models: FoldModels = "averaged"

    @property
    def there(self) -> Elsewhere:
        """What is tested on."""
        assert self.elsewhere is not None  # noqa: S101 - a run elsewhere has it
        return self.elsewhere

    @property
    def cells(self) -> int:
        """How many models are fitted."""
        return self.split.folds if self.fold_models == "averaged" else 1

    @cached_property
    def config(self) -> RunConfig:
        """All that decides its numbers."""
        config = super().config
        settings = {**config.settings, "fold_models": self.fold_models}
        there = self.there.rows
        return config.model_copy(
            update={"settings": settings, "external": there.task.name, "external_digest": there.digest}
        )

    def _task(self, given: str, fold: int) -> Task:
        task = super()._task(given, fold)
        ours, theirs = self.rows.frame, self.there.rows.frame
        train = task.train if self.fold_models == "averaged" else np.sort(np.concatenate([task.train, task.test]))
        return replace(
            task,
            event=np.concatenate([task.event, theirs["event"].to_numpy(dtype=np.int64)]),
            train=train,
            test=len(ours) + np.arange(len(theirs)),
            patients=np.concatenate([task.patients, len(ours) + _numbers(theirs["patient_id"])]),
            unit=self.there.rows.task.unit,
            # The labels elsewhere are permuted when all models have spoken.
            labels=None,
        )

    def errands(self, given: str, place: Workspace) -> list[Errand]:
        """One cell a model."""
        return super().errands(given, place)[: self.cells]

    def record(self, done: Sequence[Done], place: Workspace) -> Record:
        """Score the answers and write the record."""
        watch, there = stopwatch(done), self.there.rows
        answers = [each.answer for each in done]
        with watch.phase(JUDGING):
            models = [Spoken(each.held_out_at[0], each.held_out[0], each.test[0]) for each in answers]
            predictions = together(self.rows.frame, there.frame, models)
            judged = judge_elsewhere(predictions, [each.chosen[0] for each in answers], there)
            null = self._external_null(predictions, judged)
        said = {"task": task_facts(there), "null": null, **judged.told()}
        return self._write(place, watch, predictions, judged.scores, **said)

    def _external_null(self, predictions: pd.DataFrame, judged: Judged) -> dict[str, Any]:
        unit, wanted = self.there.rows.task.unit, self.wanted
        headline = headline_of(predictions)
        return null_of_test_labels(headline, unit, wanted.permutations, wanted.seed, judged.mcc(unit))

    def _remarks(self) -> Sequence[str]:
        return self.there.remarks(self.rows.task.cohort)

    def _origin(self) -> dict[str, Any]:
        return {**super()._origin(), "external": self.there.facts(self.rows, self.fold_models)}


def _numbers(patients: "pd.Series[str]") -> npt.NDArray[np.int64]:
    return np.asarray(pd.factorize(patients)[0], dtype=np.int64)


def check_external(asked: Wanted, external: str | None, fold_models: str) -> None:
    """Refuse what does not go together with a test elsewhere.

    Raises:
        ConfigError: it was asked for.
    """
    if fold_models not in get_args(FoldModels):
        raise ConfigError(f"--fold-models is {fold_models!r}, expected {' or '.join(get_args(FoldModels))}")
    if external is None:
        if fold_models != "averaged":
            raise ConfigError("--fold-models is for tests on another cohort: add --external TASK")
        return
    if asked.regime != "full":
        raise ConfigError(f"--external fits on the whole training part: leave --regime {asked.regime} out")
    if asked.clinical:
        raise ConfigError(
            "--external tests features and controls alone, because two cohorts seldom know the same clinical "
            "variables: leave --with clinical out"
        )


def inputs_elsewhere(
    rows: TaskRows,
    there: Elsewhere,
    backbones: Sequence[str],
    place: Workspace,
    told: Progress,
    asked: Wanted,
    pin: str | None,
    *,
    control: bool,
) -> list[ProbeInput]:
    """What is probed: features of both cohorts out of one store, untrained ones, controls; rows fitted on come first.

    The control of the centre is left out: no centre elsewhere has trained.

    Raises:
        NotPreparedError: no store holds the images of both.
    """
    both = rows._replace(frame=pd.concat([rows.frame, there.rows.frame], ignore_index=True))
    names = list(backbones)
    if control:
        names = with_untrained(place, backbones, lambda name: _common(rows, there, name, place) is not None)
    inputs = []
    for name in names:
        key = _common(rows, there, name, place, pin if name in backbones else None)
        if key is None:
            raise NotPreparedError(
                f"no single feature store of {name!r} holds the images of {rows.task.cohort!r} and of "
                f"{there.rows.task.cohort!r}: run `peftbench extract {rows.task.cohort} --backbone {name}` and "
                f"`peftbench extract {there.rows.task.cohort} --backbone {name}` with the same device, precision and "
                "batch size"
            )
        inputs.append(stored_features(both, name, place, told, key, asked.reading))
    if control:
        counts = pd.concat(
            [
                Manifest.read(each.task.cohort, place.manifest(each.task.cohort)).frame["patient_id"].value_counts()
                for each in (rows, there.rows)
            ]
        )
        inputs += metadata_controls(both, counts, "LOCO")
    return inputs


def _common(rows: TaskRows, there: Elsewhere, name: str, place: Workspace, pin: str | None = None) -> str | None:
    """Key of a store that holds the images of both cohorts; None where there is none."""
    keys: list[list[str]] = []
    for each in (rows, there.rows):
        images = each.frame["image_digest"].tolist()
        try:
            stores = complete_stores(place, stored_name(name, place), images, each.task.cohort, Silent(), pin)
        except NotPreparedError:
            if RANDOM_MARK in name:
                return None
            raise
        keys.append([store.recipe.key for store in stores])
    return next((key for key in keys[0] if key in keys[1]), None)
