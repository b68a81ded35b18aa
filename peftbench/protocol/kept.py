"""Finished cells of an unfinished record, kept until it is complete: a call that was stopped goes on behind them."""

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stores.atomic import write_atomic

KEPT = "cells"
"""Folder of finished cells inside the folder of an unfinished record."""

_TOLD = "told"


class Kept(NamedTuple):
    """A cell's answer as it lies on the disk.

    Attributes:
        arrays: by name.
        told: whatever else, as JSON's types.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    told: Any


def keep(path: Path, arrays: Mapping[str, npt.NDArray[Any]], told: Any) -> None:
    """Keep a cell's answer, all or nothing.

    Args:
        path: of the file.
        arrays: by name.
        told: whatever else, as JSON's types.
    """
    buffer = io.BytesIO()
    # The types of the library name options that arrays could be mistaken for.
    named: dict[str, Any] = {**arrays, _TOLD: np.array(json.dumps(told))}
    np.savez(buffer, **named)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def read_kept(path: Path) -> Kept | None:
    """An answer that was kept; None where there is none, or it is damaged (a zip knows its members' checksums)."""
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        return Kept(arrays, json.loads(str(arrays.pop(_TOLD))))
    except Exception:  # noqa: BLE001 - a damaged zip makes its readers stumble over anything
        return None


def forget(folder: Path) -> None:
    """Delete the kept cells of a record that is complete, but for what another call puts there meanwhile."""
    with suppress(OSError):
        for path in (folder / KEPT).glob("*"):
            path.unlink(missing_ok=True)
        (folder / KEPT).rmdir()
