"""A probe's record: no model is kept of it, so it is fitted again exactly as it was, and asked about new pictures.

That it is the same is proved: its configuration, with the digests of rows, split and features, must come out as the
record has it.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from peftbench.backbones.device import device_kind, pick_device
from peftbench.benchmark.predicting_encoder import differences, loaded, precision_of, refuse_another
from peftbench.benchmark.predicting_images import Held
from peftbench.benchmark.predicting_record import Source
from peftbench.errors import NotPreparedError, RecordError
from peftbench.extraction.batches import CPU_BATCH
from peftbench.extraction.embed import produce
from peftbench.extraction.engine import Engine
from peftbench.extraction.extract import recipe_of
from peftbench.probing.cells import Task, solve
from peftbench.probing.given import Given
from peftbench.probing.inputs import readings_of, stored_features
from peftbench.probing.runs import Run
from peftbench.probing.wanted import Wanted
from peftbench.protocol.progress import Progress
from peftbench.protocol.records import RunConfig
from peftbench.protocol.splits import find_split
from peftbench.protocol.splits.supports import REGIMES, regime_name, support_sets_of
from stores.errors import NotFiniteError
from stores.features import not_finite
from stores.images import Pixels

EMBEDDED_AT_ONCE = 256
"""Pictures that are embedded together, at least: enough for every core, few enough for memory."""

SILENT = {"version", "settings"}
"""Of a configuration: the version alone changes no number, and settings are compared one by one."""


@dataclass(frozen=True)
class AgainRun(Run):
    """A run fitted again, which tests rows that stand behind the task's.

    Attributes:
        appended: how many.
    """

    appended: int = 0

    @property
    def _refits(self) -> bool:
        """Nothing is asked of permuted labels."""
        return False

    def _task(self, given: str, fold: int) -> Task:
        task = super()._task(given, fold)
        unknown = np.zeros(self.appended, dtype=np.int64)
        test = len(task.event) + np.arange(self.appended)
        return replace(task, event=np.concatenate([task.event, unknown]), test=test)


class RefittedProbe:
    """The models of a probe's record, one a fold and draw.

    Args:
        source: the record.
        device: where pictures are embedded.
        precision: of the forward pass; None for that of the stored features.
        weights: file of the backbone's weights, where they are of a file of the user's own; else empty.
        told: hears how far it is.

    Raises:
        ConfigError: weights are named that it does not need.
        NotPreparedError: the features that it was fitted on are not stored any more.
        WeightsError: the backbone's weights are absent.
        DeviceError: the device or the precision is not to be had.
        RecordError: it cannot be fitted again as it was.
    """

    def __init__(self, source: Source, device: str, precision: str | None, weights: str, told: Progress) -> None:
        self.source, self.told = source, told
        self.run = _run_of(source, told)
        recorded = source.record.provenance["features"]["recipe"]
        where = pick_device(device)
        exactness = precision_of(precision, recorded["precision"], where)
        encoder = loaded(source.config.backbone, weights, recorded, told)
        size = recorded["batch_size"]
        if device_kind(where) != recorded["device"]:
            # The last bits are other ones anyway, and a large GPU's batch is too much for others.
            size = min(size, CPU_BATCH)
        compiled = "compiled" in recorded.get("graph", "")
        self.recipe = recipe_of(encoder, where, exactness, size, recorded["dtype"], compiled=compiled)
        refuse_another(self.recipe.to_json(), recorded, source.config.backbone)
        if note := differences(self.recipe.to_json(), recorded):
            told.note(note)
        self.engine = Engine(encoder, where, exactness, size, compiled=compiled)
        self._taken: list[Mapping[str, npt.NDArray[np.floating]]] = []

    @property
    def at_once(self) -> int:
        """Pictures that are best taken together: whole batches."""
        size = self.recipe.batch_size
        return -(-EMBEDDED_AT_ONCE // size) * size

    def take(self, pictures: Mapping[str, Pixels]) -> None:
        """Pictures to predict, behind those taken before; only their features are kept.

        Raises:
            NotFiniteError: the backbone answers no number.
        """
        images = list(pictures)
        with closing(produce(self.engine, Held(pictures), images)) as produced:
            rows = [each.outputs for each in produced]
        outputs = {name: np.concatenate([each[name] for each in rows]).astype(self.recipe.dtype) for name in rows[0]}
        for matrix in outputs.values():
            if len(bad := not_finite(matrix)):
                raise NotFiniteError(
                    f"the features of {len(bad)} pictures hold NaN or infinity in {self.recipe.precision}: add "
                    "--precision fp32"
                )
        self._taken.append(readings_of(outputs, outputs.__getitem__, self.run.wanted.reading))

    def scores(self) -> npt.NDArray[np.float64]:
        """(models, pictures) probability of the event, fold after fold, of each its draws.

        Raises:
            ProbeError: a probe cannot be fitted.
        """
        stored = self.run.given.given.readings
        readings = {name: np.concatenate([stored[name], *(each[name] for each in self._taken)]) for name in stored}
        appended = len(next(iter(readings.values()))) - len(self.source.rows.frame)
        run = replace(self.run, appended=appended)
        tasks = [errand.task for errand in run.errands(run.given.name, self.source.place)]
        self.told.start(f"fitting {run.probe} again", len(tasks))
        found = []
        # As the verb `probe` does: the last bits depend on the number of threads.
        with threadpool_limits(1):
            for task in tasks:
                found.append(solve(task, Given(readings)).test)
                self.told.advance()
        return np.concatenate(found)


def _run_of(source: Source, told: Progress) -> AgainRun:
    """The run that made the record, after its configuration has come out the same.

    Raises:
        NotPreparedError: the features that it was fitted on are not stored any more.
        RecordError: rows, split, features, settings or a library differ.
    """
    config, rows, place = source.config, source.rows, source.place
    if not source.unchanged:
        raise RecordError(f"{config.task} has other rows or labels than the record was made on: {_again(config)}")
    scheme = f"{config.folds}-fold" if config.scheme == "k-fold" else config.scheme
    split = find_split(rows, scheme, config.seed, place.splits(config.task))
    if split.digest != config.split_digest:
        raise RecordError(f"the split {config.scheme!r} divides {config.task} otherwise than then: {_again(config)}")
    wanted = _wanted_of(config)
    folder = place.features(config.backbone, config.features)
    if folder not in place.committed_features(config.backbone):
        raise NotPreparedError(
            f"the features {config.features[:16]} of {config.backbone}, on which the record was made, are not in "
            f"{place.root}: {_again(config)}"
        )
    given = stored_features(rows, config.backbone, place, told, config.features, wanted.reading)
    size, supports = config.shots, None
    if size is not None:
        supports = support_sets_of(rows, split, wanted.regime, [size], wanted.draws)[0][size]
    run = AgainRun(rows, split, given, config.probe, wanted, size, supports)
    changed = _changes(run.config, config)
    if changed:
        raise RecordError(
            f"the probe would not be the same again ({', '.join(changed)} are not as in the record): {_again(config)}"
        )
    return run


def _wanted_of(config: RunConfig) -> Wanted:
    """The options that a record was made with."""
    settings = config.settings
    return Wanted(
        probes=(config.probe,),
        regime=next(each for each in REGIMES if regime_name(each) == config.regime),
        sizes=None if config.shots is None else (config.shots,),
        draws=config.draws,
        chosen_on=settings["chosen_on"],
        criterion=settings["chosen_by"],
        class_weight=settings["class_weight"],
        reading=settings["reading"],
        calibrate=settings["calibration"] == "temperature",
        permutations=settings["permutations"],
        seed=config.seed,
    )


def _changes(now: RunConfig, then: RunConfig) -> list[str]:
    """What differs between two configurations and changes predictions; metrics do not."""
    mine, theirs = _flat(now), _flat(then)
    return [name for name in {**theirs, **mine} if mine.get(name) != theirs.get(name)]


def _flat(config: RunConfig) -> dict[str, Any]:
    settings = {name: value for name, value in config.settings.items() if name != "metrics_schema"}
    return {**config.model_dump(mode="json", exclude=SILENT), **settings}


def _again(config: RunConfig) -> str:
    return f"run `peftbench probe {config.task} --backbone {config.backbone}` again, and name the new record"
