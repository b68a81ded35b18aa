"""The verb `probe`: classifiers on stored features, beside the controls that must be beaten."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

import pandas as pd
from threadpoolctl import threadpool_limits

from peftbench.cohorts.asked import task_rows
from peftbench.cohorts.registry import get_cohort
from peftbench.errors import ConfigError, NotPreparedError
from peftbench.probing.answering import answer_rows
from peftbench.probing.clinical import clinical_table
from peftbench.probing.controls import clinical_control, metadata_controls
from peftbench.probing.external import ExternalRun, check_external, inputs_elsewhere
from peftbench.probing.hazards import CoxRun, refuse_cox
from peftbench.probing.inputs import ProbeInput, complete_stores, stored_features, with_untrained
from peftbench.probing.registry import family_of
from peftbench.probing.runs import Run
from peftbench.probing.wanted import ProbeOptions, Wanted, wanted
from peftbench.probing.work import run
from peftbench.protocol.elsewhere import Elsewhere, FoldModels
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.names import COX
from peftbench.protocol.options import several
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.records import Record, finished
from peftbench.protocol.results import ProbeResult
from peftbench.protocol.splits import Split, find_split
from peftbench.protocol.splits.announcing import announce
from peftbench.protocol.splits.supports import support_sets_of
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace
from stores.errors import StoreError


def probe(
    task: str | Sequence[str],
    backbone: str | Sequence[str] = (),
    *,
    workspace: str | Path | Workspace | None = None,
    split: str | None = None,
    external: str | None = None,
    fold_models: str = "averaged",
    features: str | None = None,
    control: bool = True,
    force: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ProbeOptions],
) -> ProbeResult:
    """Score backbones on tasks by probes on their stored features.

    Every task is also probed with what the controls see (view, centre, number of images), and with untrained weights
    of the same architecture where they are stored, because a score means nothing alone. A record that is complete and
    was made with the same configuration is read instead of made again.

    Args:
        task: name or names (`peftbench.list("tasks")`).
        backbone: name or names, as given to `extract`.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        split: `5-fold`, `LOCO`, `hold-out`, or the name of an imported split; by default the task's own scheme.
        external: task of another cohort, of the same outcome, to test on.
        fold_models: for `external`: `averaged`: the mean score of the folds' models; `refitted`: one model fitted on
            the whole cohort but for a validation part.
        features: start of the key of the feature store to use, where several would serve.
        control: whether to run the controls beside the backbones.
        force: make records again that are complete.
        progress: who is told how far it is.
        options: which probe, how much trains, how settings are chosen: see `peftbench.probing.wanted.ProbeOptions`.

    Raises:
        UnknownNameError: there is no such task, backbone, probe, regime or split.
        ConfigError: an option is out of its range, or options contradict each other.
        NotPreparedError: the cohort was not prepared, or features are missing.
        SplitError: the task cannot be split or drawn from so: too few patients of a class or too few centres, or an
            imported split is of other rows.
    """
    backbones = list(dict.fromkeys(several(backbone)))
    asked = wanted(**options)
    if not backbones and not control and not asked.clinical:
        raise ConfigError("nothing to probe: name a backbone with --backbone, or leave the control on")
    check_external(asked, external, fold_models)
    refuse_cox(asked, external=external is not None)
    for name in asked.probes:
        if name != COX:
            family_of(name)
    place, told = Workspace.at(workspace), progress or Silent()
    tasks = [task_rows(name, place) for name in several(task)]
    there = None if external is None else task_rows(external, place)
    divided = [(rows, find_split(rows, split, asked.seed, place.splits(rows.task.name))) for rows in tasks]
    records: list[Record] = []
    # More BLAS threads make small problems slower, and the last bits depend on their number.
    with threadpool_limits(1):
        for rows, division in divided:
            announce(rows, division, asked.seed, place, told)
            if there is None:
                inputs = _inputs(rows, division, backbones, place, told, asked, features, control=control)
                runs = list(_runs(rows, division, inputs, asked, told))
            else:
                tested = Elsewhere.of(rows, there, place)
                given = inputs_elsewhere(rows, tested, backbones, place, told, asked, features, control=control)
                runs = _runs_elsewhere(rows, division, given, asked, tested, fold_models, told)
            records += _records(runs, place, told, asked.workers, force=force)
    return ProbeResult(results=answer_rows(records, place))


def _inputs(
    rows: TaskRows,
    split: Split,
    backbones: Sequence[str],
    place: Workspace,
    told: Progress,
    asked: Wanted,
    pin: str | None,
    *,
    control: bool,
) -> list[ProbeInput]:
    """What is probed of a task: features, features with clinical variables, untrained ones, controls."""
    names = list(backbones)
    if control:
        names = with_untrained(place, backbones, lambda name: _complete(rows, name, place))
    inputs = [
        stored_features(rows, name, place, told, pin if name in backbones else None, asked.reading) for name in names
    ]
    if asked.clinical:
        # Not beside untrained features that nobody has asked for.
        inputs = [*inputs, *_with_clinical(rows, inputs[: len(backbones)], place, told)]
    if control:
        inputs += metadata_controls(rows, _image_counts(rows, place), split.scheme)
    return inputs


def _complete(rows: TaskRows, backbone: str, place: Workspace) -> bool:
    """Whether untrained features, which nobody asked for by name, hold all the task's images."""
    try:
        return bool(complete_stores(place, backbone, rows.frame["image_digest"].tolist(), rows.task.cohort, Silent()))
    except (NotPreparedError, StoreError):
        return False


def _with_clinical(rows: TaskRows, inputs: list[ProbeInput], place: Workspace, told: Progress) -> list[ProbeInput]:
    cohort = get_cohort(rows.task.cohort, place)
    if not cohort.clinical:
        raise ConfigError(
            f"--with clinical: the cohort {cohort.name!r} declares no clinical variables; one of your own names them "
            "with `prepare table --clinical NAME`"
        )
    table = clinical_table(rows, cohort.clinical)
    for note in table.notes:
        told.note(f"{rows.task.name}: {note}")
    if not table.names:
        raise ConfigError(f"--with clinical: no clinical variable of {cohort.name!r} says anything in {rows.task.name}")
    joined = [each.joined(table.matrix, table.names) for each in inputs]
    return [*joined, clinical_control(table.matrix, table.names)]


def _image_counts(rows: TaskRows, place: Workspace) -> "pd.Series[int]":
    manifest = Manifest.read(rows.task.cohort, place.manifest(rows.task.cohort))
    return manifest.frame["patient_id"].value_counts()


def _runs(rows: TaskRows, split: Split, inputs: Sequence[ProbeInput], asked: Wanted, told: Progress) -> Iterator[Run]:
    """Every record to be made: those of an input in a row, so that its matrices are at hand."""
    if asked.regime == "full":
        for given in inputs:
            for name in asked.probes:
                kind = CoxRun if name == COX else Run
                yield kind(rows, split, given, name, asked)
        if COX in asked.probes:
            for note in CoxRun(rows, split, inputs[0], COX, asked).announce():
                told.note(note)
        return
    supports, notes = support_sets_of(rows, split, asked.regime, asked.sizes, asked.draws)
    for note in notes:
        told.note(f"{rows.task.name}: {note}")
    for given in inputs:
        for name in asked.probes:
            for size, sets in supports.items():
                yield Run(rows, split, given, name, asked, size, sets, tuple(notes))


def _runs_elsewhere(
    rows: TaskRows,
    split: Split,
    inputs: Sequence[ProbeInput],
    asked: Wanted,
    there: Elsewhere,
    fold_models: str,
    told: Progress,
) -> list[Run]:
    for note in there.remarks(rows.task.cohort):
        told.note(note)
    how: FoldModels = "refitted" if fold_models == "refitted" else "averaged"
    return [
        ExternalRun(rows, split, given, name, asked, elsewhere=there, fold_models=how)
        for given in inputs
        for name in asked.probes
    ]


class _Open(NamedTuple):
    run: Run
    record: Record | None


def _records(runs: Sequence[Run], place: Workspace, told: Progress, workers: int, *, force: bool) -> list[Record]:
    """The records of runs: those that are complete are read, the others made and written one after the other."""
    if not runs:
        return []
    told.start(f"probing {runs[0].rows.task.name}", sum(each.cells for each in runs))
    opened = [_Open(each, None if force else finished(each.config.folder(place))) for each in runs]
    given = {each.run.given.name: each.run.given.given for each in opened if each.record is None}
    errands = [errand for run_, record in opened if record is None for errand in run_.errands(run_.given.name, place)]
    answers = run(errands, given, workers, place.root)
    records = []
    for run_, record in opened:
        if record is not None:
            told.advance(run_.cells)
            records.append(record)
            continue
        done = []
        for _ in range(run_.cells):
            done.append(next(answers))
            told.advance()
        records.append(run_.record(done, place))
    return records
