"""The verb `predict`: what a record's models say of new pictures. Nothing of these enters a store."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from peftbench.benchmark.predicting_images import Decoded, decoded, files_of
from peftbench.benchmark.predicting_record import Source, open_source
from peftbench.errors import ConfigError, DecodeError, MissingPackageError
from peftbench.protocol.metrics import THRESHOLD
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.results import PredictResult, PredictRow
from peftbench.protocol.workspace import Workspace
from stores.atomic import write_atomic
from stores.errors import NotFiniteError
from stores.images import Pixels

Scores = npt.NDArray[np.float64]

CAVEAT = "not for clinical use: a research benchmark, whose scores were judged on one cohort"

ENDING = ".csv"
"""Of the table that `--out` names."""


class Model(Protocol):
    """A record's models, whichever door they came through."""

    @property
    def at_once(self) -> int:
        """Pictures that are best taken together."""

    def take(self, pictures: Mapping[str, Pixels]) -> None:
        """Pictures to predict, behind those taken before."""

    def scores(self) -> Scores:
        """(models, pictures) probability of the event, fold after fold, of each its draws."""


class Predicted(NamedTuple):
    """What each model says of each picture.

    Attributes:
        files: in the order named, without their pixels.
        images: digests of the distinct pictures.
        scores: (models, images) probability of the event, fold after fold, of each its draws.
    """

    files: list[Decoded]
    images: list[str]
    scores: Scores


def predict(
    record: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    workspace: str | Path | Workspace | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    precision: str | None = None,
    weights: str | Path = "",
    progress: Progress | None = None,
) -> PredictResult:
    """Apply a record's models to new pictures; the score is the mean over the models of all folds and draws.

    Pictures are decoded, shaped and embedded as those of the record's cohort were. A fine-tuned record brings its
    models; a probe is fitted again on the stored features of its cohort, and must come out as it was. Not for clinical
    use.

    Args:
        record: path of a record, as `probe` and `finetune` answer it; its workspace is where it lies.
        images: files and folders: DICOM, PNG, JPEG, TIFF. A file that cannot be read is a row with its fault.
        workspace: that holds the record's cohort and features, where it is not the one that the record lies in.
        out: CSV file to write; one that is there is replaced.
        device: `auto` (the first GPU, else the processor), `cpu`, `cuda` or `cuda:N`.
        precision: of the forward pass: `fp32`, `bf16` or `fp16`; by default the record's.
        weights: file of the backbone's weights, or folder of an `hf:` model, where they are the user's own.
        progress: who is told how far it is.

    Raises:
        ConfigError: the record cannot predict, no image is named, or the table cannot be written there.
        RecordError: the record is damaged, or its models cannot be brought back as they were.
        DecodeError: no file can be read.
        NotPreparedError: the record's cohort or features are not in the workspace.
        WeightsError: the backbone's weights are absent.
        DeviceError: the device or the precision is not to be had.
        MissingPackageError: torch, or a library that the backbone needs, is not installed.
    """
    told = _Remembering(progress or Silent())
    path = _table_path(out)
    source = open_source(record, workspace)
    named = [images] if isinstance(images, str | Path) else list(images)
    predicted = model_scores(source, named, told, device=device, precision=precision, weights=str(weights))
    rows = _rows(predicted, source)
    seen = sum(row.seen for row in rows)
    if seen:
        told.note(
            f"{seen} of {len(rows)} pictures are of the cohort {source.rows.task.cohort!r} itself, on which the models "
            "were made: their scores are no predictions"
        )
    result = _result(source, rows, len(predicted.scores), told.notes, "" if path is None else str(path))
    if path is not None:
        # Stopping is possible until here, and leaves what was there.
        told.advance(0)
        write_atomic(path, result.frame.to_csv(index=False))
    return result


def model_scores(
    source: Source,
    named: Sequence[str | Path],
    told: Progress,
    *,
    device: str = "auto",
    precision: str | None = None,
    weights: str = "",
) -> Predicted:
    """What each of a record's models says of each picture.

    Args:
        source: the record.
        named: files and folders.
        told: hears how far it is.
        device: where models run.
        precision: of the forward pass; None for the record's.
        weights: as of `predict`.

    Raises:
        DecodeError: no file can be read.
        NotFiniteError: a model answers no number.
    """
    files = files_of(named)
    if source.trained and not source.unchanged:
        told.note(
            f"{source.config.task} has other rows or labels than the record was made on: pictures that are no longer "
            "in the cohort are not known as seen"
        )
    model = _kind_of(source)(source, device, precision, weights, told)
    done = list(_taken(decoded(files, source.policy, told), model))
    images = list(dict.fromkeys(each.image for each in done if each.image))
    if not images:
        first = done[0]
        more = f", the first of {len(done)}" if len(done) > 1 else ""
        raise DecodeError(f"no file can be read ({first.file.name}{more}: {first.fault}): name DICOM files or pictures")
    scores = model.scores()
    if not np.isfinite(scores).all():
        raise NotFiniteError("a model answers no number for some of the pictures: add --precision fp32")
    return Predicted(done, images, scores)


def _kind_of(source: Source) -> Callable[[Source, str, str | None, str, Progress], Model]:
    """Imported when it is known which: adapters take seconds to import, and what is refused needs no torch."""
    try:
        if source.trained:
            from peftbench.benchmark.predicting_finetuned import FineTuned  # noqa: PLC0415 - as above

            return FineTuned
        from peftbench.benchmark.predicting_probe import RefittedProbe  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"peftbench.predict needs the package {error.name!r}, which is not installed: "
            "pip install 'peftbench[models,offline]'"
        ) from error
    return RefittedProbe


def _taken(files: Iterator[Decoded], model: Model) -> Iterator[Decoded]:
    """Hand pictures to a model, so many at a time that memory stays bounded; answers the files without them."""
    waiting = {}
    for each in files:
        if each.pixels is not None:
            waiting[each.image] = each.pixels
        if len(waiting) == model.at_once:
            model.take(waiting)
            waiting = {}
        yield each._replace(pixels=None)
    if waiting:
        model.take(waiting)


def _rows(predicted: Predicted, source: Source) -> list[PredictRow]:
    column = {image: at for at, image in enumerate(predicted.images)}
    mean = predicted.scores.mean(axis=0)
    lowest, highest = predicted.scores.min(axis=0), predicted.scores.max(axis=0)
    task = source.rows.task
    rows = []
    for each in predicted.files:
        if each.fault:
            none = dict.fromkeys(("score", "lowest", "highest"), np.nan)
            rows.append(PredictRow(file=each.file.name, **none, decision="", seen=False, fault=each.fault))
            continue
        at = column[each.image]
        rows.append(
            PredictRow(
                file=each.file.name,
                score=float(mean[at]),
                lowest=float(lowest[at]),
                highest=float(highest[at]),
                decision=task.event if mean[at] >= THRESHOLD else task.no_event,
                seen=each.image in source.known,
                fault="",
            )
        )
    return rows


def _result(source: Source, rows: list[PredictRow], models: int, notes: list[str], out: str) -> PredictResult:
    config, task = source.config, source.rows.task
    mcc_mean, mcc_std = source.record.score("mcc", source.record.task["unit"])
    return PredictResult(
        record=str(source.folder),
        task=config.task,
        question=task.question,
        event=task.outcome,
        backbone=config.backbone,
        strategy=config.strategy,
        probe=config.probe,
        regime=config.regime,
        shots=config.shots,
        models=models,
        mcc_mean=mcc_mean,
        mcc_std=mcc_std,
        caveat="; ".join(each for each in (CAVEAT, task.caveat) if each),
        notes=notes,
        out=out,
        results=rows,
    )


def _table_path(out: str | Path | None) -> Path | None:
    """Where the table goes, found out before anything is computed."""
    if out is None:
        return None
    path = Path(out).expanduser()
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder: name a file in it, e.g. {path / 'scores.csv'}")
    if path.suffix.lower() != ENDING:
        raise ConfigError(f"--out is {str(out)!r}, expected a name that ends in {ENDING}")
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}: make it, or name another")
    return path


class _Remembering:
    """A progress that keeps what it noted, for the answer.

    Args:
        told: hears everything.
    """

    def __init__(self, told: Progress) -> None:
        self._told = told
        self.notes: list[str] = []

    def start(self, label: str, total: int) -> None:
        """See `Progress`."""
        self._told.start(label, total)

    def advance(self, count: int = 1) -> None:
        """See `Progress`."""
        self._told.advance(count)

    def status(self, message: str) -> None:
        """See `Progress`."""
        self._told.status(message)

    def note(self, message: str) -> None:
        """See `Progress`."""
        self.notes.append(message)
        self._told.note(message)
