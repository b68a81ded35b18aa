"""Trackers: who hears of epochs besides the record's own history. Nothing is required for the default."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from peftbench.errors import ConfigError, MissingPackageError
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
        project: that runs belong to.
    """

    def __init__(self, module: Any, folder: Path, project: str = "peftbench") -> None:
        self._wandb, self._folder, self._project = module, folder, project
        self._run: Any = None

    def begin(self, config: RunConfig, fold: int, draw: int) -> None:
        """Open the cell's run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
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
        self._run.log({key: value for key, value in row.items() if key != "epoch"}, step=row["epoch"])

    def end(self, chosen: Mapping[str, Any]) -> None:
        """Close the cell's run."""
        self._run.summary.update(dict(chosen))
        self._run.finish()


def tracker_of(name: str, folder: Path) -> Tracker:
    """The tracker of that name.

    Args:
        name: one of `TRACKERS`.
        folder: where it may write.

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
        return WeightsAndBiases(importlib.import_module("wandb"), folder)
    except ImportError as error:
        raise MissingPackageError(
            "--track wandb needs the package wandb, which is not installed: pip install 'peftbench[wandb]'"
        ) from error
