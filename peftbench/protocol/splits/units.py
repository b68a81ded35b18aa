"""Who belongs together: the patient, or patients who share images.

One function decides it for every split and every draw; nothing else in the benchmark may.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd

GROUP = "group"
"""Column of a task's rows that joins patients who share images; absent, or empty in a row, where nobody is joined."""


def units(frame: pd.DataFrame) -> "pd.Series[str]":
    """The unit of each row: rows of one unit never play two roles.

    A unit is a patient. Where the frame has a column `group`, all patients of a group are one unit, and so are groups
    that share a patient. A unit has the name of its first patient in the order of names, however groups are called:
    whoever shares no image is divided as if there were no groups.

    Args:
        frame: a task's rows, with `patient_id` and, if need be, `group`.

    Returns:
        (rows,) names, with the frame's index.
    """
    patient = frame["patient_id"].astype(str)
    if GROUP not in frame.columns:
        return patient
    group = text(frame[GROUP])
    edges = pd.DataFrame({"patient": patient, "group": group})[group != ""].drop_duplicates()
    names = _joined(zip(edges["patient"], edges["group"], strict=True))
    return patient.map(lambda name: names.get(name, name))


def _joined(edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Patient to the first name among all patients that it is linked to by groups, directly or through others."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for patient, group in edges:
        parent[root(("patient", patient))] = root(("group", group))
    first: dict[tuple[str, str], str] = {}
    patients = sorted(name for kind, name in parent if kind == "patient")
    return {name: first.setdefault(root(("patient", name)), name) for name in patients}


def unit_word(frame: pd.DataFrame) -> str:
    """What units are called in a message: patients, unless some are joined."""
    if units(frame).nunique() == frame["patient_id"].nunique():
        return "patients"
    return "units (patients who share images count as one)"


def unit_events(frame: pd.DataFrame) -> dict[str, int]:
    """Unit to class: 1 if any of its images has the event; in the sorted order of the names."""
    most = frame["event"].groupby(units(frame).to_numpy()).max()
    return dict(zip(map(str, most.index), map(int, most), strict=True))


def patient_events(frame: pd.DataFrame) -> dict[str, int]:
    """Patient to class: 1 if any of the patient's images has the event; in the sorted order of the names."""
    most = frame.groupby("patient_id")["event"].max()
    return dict(zip(map(str, most.index), map(int, most), strict=True))


def image_centers(frame: pd.DataFrame) -> "pd.Series[str]":
    """The centre of each row's image; empty where none is known."""
    if "center" not in frame.columns:
        return pd.Series("", index=frame.index, dtype=object)
    return text(frame["center"])


def unit_centers(frame: pd.DataFrame) -> dict[str, str]:
    """Unit to the centre that it belongs to: that of its first image; in the sorted order of the names.

    First is meant as in a manifest, whatever the order of the rows: by patient, then by acquisition (unknown last),
    then by row.
    """
    acquired = frame["acquired"] if "acquired" in frame.columns else pd.Series(np.nan, index=frame.index)
    table = pd.DataFrame(
        {
            "unit": units(frame).to_numpy(),
            "patient": frame["patient_id"].astype(str).to_numpy(),
            "acquired": pd.to_numeric(acquired, errors="coerce").to_numpy(),
            "center": image_centers(frame).to_numpy(),
        }
    )
    ordered = table.sort_values(["patient", "acquired"], kind="stable").drop_duplicates("unit").sort_values("unit")
    return dict(zip(ordered["unit"], ordered["center"], strict=True))


def home_centers(frame: pd.DataFrame) -> npt.NDArray[np.object_]:
    """(rows,) the centre that each row's unit belongs to: one for all images of a unit."""
    homes: npt.NDArray[np.object_] = units(frame).map(unit_centers(frame)).to_numpy(dtype=object)
    return homes


def text(column: "pd.Series[str]") -> "pd.Series[str]":
    """A column as text without blanks around it, empty for missing values."""
    return column.astype(object).where(column.notna(), "").map(str).str.strip()
