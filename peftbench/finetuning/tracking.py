"""Trackers: who hears of epochs besides the record's own history. Nothing is required for the default."""

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from peftbench.errors import ConfigError, MissingPackageError
from peftbench.protocol.progress import Progress
from peftbench.protocol.records import RunConfig

TRACKERS = ("none", "wandb")
"""What `--track` takes."""


class Tracker(Protocol):
    """Somebody who follows the training of one cell after the other."""

    def begin(self, config: RunConfig, fold: int, draw: int) -> None:
        """A cell begins, or goes on.

        Args:
            config: of its record.
            fold: of the split.
            draw: of the support set.
        """

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch of the cell has ended; the row is that of the record's history."""

    def end(self, chosen: Mapping[str, Any]) -> None:
        """The cell is done, or was stopped: then nothing was chosen."""


class Nobody:
    """Follows nothing."""

    def begin(self, config: RunConfig, fold: int, draw: int) -> None:
        """Say nothing."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Say nothing."""

    def end(self, chosen: Mapping[str, Any]) -> None:
        """Say nothing."""


class WeightsAndBiases:
    """A Weights & Biases run for each cell, grouped by record; a cell that goes on goes on in its run.

    Without a network, WANDB_MODE=offline writes the runs below the workspace; `wandb sync` sends them later.

    Args:
        module: the library.
        folder: where it writes.
        told: hears, once, that it does not follow any more: the numbers of a training are not its.
        project: that runs belong to.
    """

    def __init__(self, module: Any, folder: Path, told: Progress, project: str = "peftbench") -> None:
        self._wandb, self._folder, self._project, self._told = module, folder, project, told
        self._run: Any = None
        self._failed = False

    def begin(self, config: RunConfig, fold: int, draw: int) -> None:
        """Open the cell's run.

        Raises:
            ConfigError: it cannot be opened, most often for want of an account.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = self._opened(config, fold, draw)
        except Exception as error:
            told = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"--track wandb cannot begin ({type(error).__name__}: {told}): run `wandb login`, or set "
                "WANDB_MODE=offline, or leave --track out"
            ) from error

    def _opened(self, config: RunConfig, fold: int, draw: int) -> Any:
        return self._wandb.init(
            project=self._project,
            dir=str(self._folder),
            group=f"{config.task} {config.backbone} {config.strategy} {config.identity[:12]}",
            name=f"fold {fold}" + (f", draw {draw}" if draw else ""),
            id=f"{config.identity[:24]}-{fold}-{draw}",
            resume="allow",
            config={**config.model_dump(mode="json"), "fold": fold, "draw": draw},
        )

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Log the epoch."""
        said = {key: value for key, value in row.items() if key != "epoch"}
        self._attempt(lambda: self._run.log(said, step=row["epoch"]))

    def end(self, chosen: Mapping[str, Any]) -> None:
        """Close the cell's run."""
        self._attempt(lambda: self._run.summary.update(dict(chosen)))
        self._attempt(self._run.finish)

    def _attempt(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever its server or disk has against it
            if not self._failed:
                self._told.note(f"Weights & Biases does not follow: {' '.join(str(error).split())[:200]}")
            self._failed = True


def tracker_of(name: str, folder: Path, told: Progress) -> Tracker:
    """The tracker of that name.

    Args:
        name: one of `TRACKERS`.
        folder: where it may write.
        told: hears where it fails.

    Raises:
        ConfigError: there is none of that name.
        MissingPackageError: its library is not installed.
    """
    if name == "none":
        return Nobody()
    if name != "wandb":
        raise ConfigError(f"--track is {name!r}, expected {' or '.join(TRACKERS)}")
    # Said before the library is imported, which asks for an account otherwise.
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        return WeightsAndBiases(importlib.import_module("wandb"), folder, told)
    except ImportError as error:
        raise MissingPackageError(
            "--track wandb needs the package wandb, which is not installed: pip install 'peftbench[wandb]'"
        ) from error
