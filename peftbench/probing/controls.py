"""Controls: what must be beaten for a score to mean anything, because it never looked at the lung.

Each is a matrix of what is known without the image's content: how it was filmed, where, and how often.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.probing.given import Given
from peftbench.probing.inputs import ProbeInput
from peftbench.protocol.names import (
    CENTER_CONTROL,
    CLINICAL_CONTROL,
    IMAGES_CONTROL,
    METADATA_CONTROL,
    VIEW_CONTROL,
)
from peftbench.protocol.tasks import TaskRows
from stores.keys import digest_of

VIEWS = ("AP", "PA")
"""Views that the control tells apart; all others are one more."""

Block = tuple[list[str], npt.NDArray[np.float64]]


def metadata_controls(rows: TaskRows, counts: "pd.Series[int]", scheme: str) -> list[ProbeInput]:
    """The controls that say something of a task: each kind of metadata that differs among its rows, then all together.

    The view's always runs, so that every task has one. The centre says nothing under LOCO, where the one that tests
    has never trained.

    Args:
        rows: the task's rows.
        counts: patient to number of images in the cohort's manifest.
        scheme: how patients are divided.
    """
    blocks: dict[str, Block] = {VIEW_CONTROL: view_block(rows)}
    center = center_block(rows)
    if len(center[0]) > 1 and scheme != "LOCO":
        blocks[CENTER_CONTROL] = center
    images = images_block(rows, counts)
    if np.ptp(images[1]) > 0:
        blocks[IMAGES_CONTROL] = images
    telling = [block for block in blocks.values() if np.ptp(block[1], axis=0).any()]
    controls = [_control(name, *block) for name, block in blocks.items()]
    if len(telling) > 1:
        names = [name for block in telling for name in block[0]]
        controls.append(_control(METADATA_CONTROL, names, np.hstack([block[1] for block in telling])))
    return controls


def view_block(rows: TaskRows) -> Block:
    """How the patient was filmed: one column a view, 0 or 1."""
    view = rows.frame["view"].fillna("").to_numpy(dtype=str)
    matrix = np.stack([*(view == name for name in VIEWS), ~np.isin(view, VIEWS)], axis=1).astype(np.float64)
    return [*(f"view is {name}" for name in VIEWS), "view is another or unknown"], matrix


def center_block(rows: TaskRows) -> Block:
    """Where the image was taken: one column a centre, 0 or 1."""
    if "center" not in rows.frame.columns:
        return [], np.empty((len(rows.frame), 0))
    center = rows.frame["center"].fillna("").to_numpy(dtype=str)
    names = np.unique(center)
    return [f"center is {name or 'unknown'}" for name in names], (center[:, None] == names).astype(np.float64)


def images_block(rows: TaskRows, counts: "pd.Series[int]") -> Block:
    """How often the patient was filmed, as the logarithm of the number of images in the cohort."""
    number = rows.frame["patient_id"].map(counts).fillna(1).to_numpy(dtype=np.float64)
    return ["log of the number of images of the patient"], np.log(number)[:, None]


def clinical_control(matrix: npt.NDArray[np.float64], names: tuple[str, ...]) -> ProbeInput:
    """Clinical variables alone: what a ward knows without the film."""
    identity = digest_of(["control", "clinical", list(names)])
    return ProbeInput(CLINICAL_CONTROL, Given({}, matrix), identity, {"columns": list(names)})


def _control(name: str, columns: list[str], matrix: npt.NDArray[np.float64]) -> ProbeInput:
    # Digits of the view's identity are those of the first version, which had no other control.
    told: list[object] = ["control", "view", list(VIEWS)] if name == VIEW_CONTROL else ["control", name, columns]
    return ProbeInput(name, Given({"metadata": matrix}), digest_of(told), {"columns": columns})
