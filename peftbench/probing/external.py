"""External validation: fitted on one cohort, choosing on its own validation part, tested on another's whole task.

For prognosis this is what tells a disease from a hospital's habits: what was learnt of the first hospital's wards does
not help in the second. Images that both cohorts hold, and their patients, are left out of the test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.errors import ConfigError, NotPreparedError
from peftbench.probing.cells import Answer, Task
from peftbench.probing.controls import metadata_controls
from peftbench.probing.inputs import ProbeInput, complete_stores, stored_features, stored_name, with_untrained
from peftbench.probing.runs import NOT_REFITTED, Run, prediction_rows, stopwatch, task_facts
from peftbench.probing.wanted import Wanted
from peftbench.probing.work import Done, Errand
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.names import HEADLINE, RANDOM_MARK
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.records import Record, RunConfig
from peftbench.protocol.scoring import (
    null_of,
    permuted_test_labels,
    reliability_curve,
    score_folds,
    summarise,
    within_strata,
)
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace

FoldModels = Literal["averaged", "refitted"]


@dataclass(frozen=True)
class Elsewhere:
    """Another cohort's task, as far as it can be tested on.

    Attributes:
        rows: of the other task, without patients that the first cohort holds as well.
        removed_images: how many of its images were left out.
        removed_patients: of how many patients.
    """

    rows: TaskRows
    removed_images: int
    removed_patients: int

    @classmethod
    def of(cls, fitted: TaskRows, other: TaskRows, place: Workspace) -> "Elsewhere":
        """Leave out what both cohorts hold, by the digests of their pictures.

        A patient of the other cohort goes as a whole if any image of the patient's, used by the task or not, is one of
        the first cohort's.

        Args:
            fitted: rows of the task that is fitted on.
            other: rows of the task that is tested on.
            place: the workspace of both.

        Raises:
            ConfigError: the tasks ask for different outcomes or of the same cohort, or nothing is left.
        """
        ours, theirs = fitted.task, other.task
        if ours.outcome != theirs.outcome:
            raise ConfigError(
                f"--external {theirs.name}: its event is {theirs.outcome!r}, that of {ours.name} is {ours.outcome!r}: "
                "name a task with the same event (`peftbench list tasks`)"
            )
        if ours.cohort == theirs.cohort:
            raise ConfigError(
                f"--external {theirs.name}: it is of the cohort {ours.cohort!r}, as is {ours.name}: name a task of "
                "another cohort"
            )
        known = set(_manifest(ours.cohort, place)["image_digest"])
        frame = _manifest(theirs.cohort, place)
        shared = set(frame.loc[frame["image_digest"].isin(known), "patient_id"])
        gone = other.frame["patient_id"].isin(shared).to_numpy(dtype=bool)
        kept = other._replace(frame=other.frame.loc[~gone].reset_index(drop=True))
        if not 0 < kept.events < kept.images:
            raise ConfigError(
                f"--external {theirs.name}: without the {len(shared)} patients whose images {ours.cohort!r} holds "
                f"as well "
                f"{kept.images} images are left, {kept.events} with the event: both outcomes are needed"
            )
        return cls(kept, int(gone.sum()), int(other.frame.loc[gone, "patient_id"].nunique()))

    def remarks(self, fitted: str) -> list[str]:
        """What a reader must know: how much was left out of the test, if anything.

        Args:
            fitted: the cohort that is fitted on.
        """
        if not self.removed_images:
            return []
        return [
            f"{self.removed_images} images of {self.removed_patients} patients of {self.rows.task.name} are left out: "
            f"{fitted} holds some of their images as well"
        ]


def _manifest(cohort: str, place: Workspace) -> pd.DataFrame:
    return Manifest.read(cohort, place.manifest(cohort)).frame


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
        with watch.phase("score and write"):
            predictions = self._tested(answers)
            scores = score_folds(predictions, self._chosen(answers))
            headline = predictions[predictions["fold"] == HEADLINE]
            summary = summarise([score for score in scores if score.fold == HEADLINE])
        return self._write(
            place,
            watch,
            predictions,
            scores,
            task=task_facts(there),
            summary=summary,
            null=self._external_null(headline, summary),
            strata=within_strata(headline, there.frame, there.task.unit),
            reliability=reliability_curve(headline, there.task.unit),
        )

    def _tested(self, answers: Sequence[Answer]) -> pd.DataFrame:
        """Predictions of each model, and of all together as the fold `HEADLINE`; thresholds are tuned at home."""
        theirs = self.there.rows.frame
        parts = []
        for fold, answer in enumerate(answers):
            at_home = self.rows.frame.iloc[answer.held_out_at[0]]
            home = prediction_rows(at_home, fold, "validation", answer.held_out[0])
            parts += [home, prediction_rows(theirs, fold, "test", answer.test[0]), home.assign(fold=HEADLINE)]
        together = np.mean([answer.test[0] for answer in answers], axis=0)
        parts.append(prediction_rows(theirs, HEADLINE, "test", together))
        return pd.concat(parts, ignore_index=True)

    def _chosen(self, answers: Sequence[Answer]) -> dict[tuple[int, int], Mapping[str, Any]]:
        own = {(fold, 0): answer.chosen[0] for fold, answer in enumerate(answers)}
        return {**own, (HEADLINE, 0): {"models": len(answers)}}

    def _external_null(self, headline: pd.DataFrame, summary: Mapping[str, Any]) -> dict[str, Any]:
        unit, wanted = self.there.rows.task.unit, self.wanted
        observed = summary[unit]["mcc"]["mean"]
        if not wanted.permutations or observed is None:
            return {}
        values = permuted_test_labels(headline, unit, wanted.permutations, wanted.seed)
        return null_of(float(observed), values, NOT_REFITTED, unit)

    def _remarks(self) -> Sequence[str]:
        return self.there.remarks(self.rows.task.cohort)

    def _provenance(self) -> dict[str, Any]:
        external = {
            "how": self.fold_models,
            "removed_images": self.there.removed_images,
            "removed_patients": self.there.removed_patients,
            "fitted_on": task_facts(self.rows),
        }
        return {**super()._provenance(), "external": external}


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
            [_manifest(each.task.cohort, place)["patient_id"].value_counts() for each in (rows, there.rows)]
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
