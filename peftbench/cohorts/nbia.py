"""What downloads from The Cancer Imaging Archive have in common: NBIA's index of series, and its dates."""

import pandas as pd

from peftbench.cohorts.columns import days
from peftbench.cohorts.declaration import Sheet

INDEX = Sheet(files=("metadata.csv", "*/metadata.csv"))
"""One row a series; several downloads of one collection may lie side by side."""

FILE = "{_folder}/{File Location}/*.dcm"
"""The files of a series; paths in the index begin at its own folder."""

DATES = ("%m-%d-%Y", "%m/%d/%Y", "%Y-%m-%d", "%Y%m%d")
"""How the index and the headers write dates."""

FRONTAL = {"AP": "AP", "PA": "PA", "LATERAL": "LATERAL", "LL": "LATERAL", "RL": "LATERAL", "LAT": "LATERAL"}
"""What a header or a series' name calls a view, as the benchmark does."""


def view_of(position: str, described: str = "") -> str:
    """The view by the header, else by a word of the series' description; empty where neither says it."""
    words = [position.strip().upper(), *described.upper().replace("_", " ").replace("-", " ").split()]
    return next((FRONTAL[word] for word in words if word in FRONTAL), "")


def moments(table: pd.DataFrame, date: str, time: str) -> "pd.Series[float]":
    """Date and time of day as days; a film without a time stands at the end of its day.

    Raises:
        ColumnError: a date is not understood.
    """
    return days(table, date, DATES) + table[time].map(seconds).fillna(86399) / 86400


def seconds(text: str) -> float | None:
    """A DICOM time (HHMMSS, with fractions) as seconds since midnight; None where it is none."""
    digits = text.strip().replace(":", "")
    whole, _, fraction = digits.partition(".")
    if not whole.isdigit() or len(whole) < 4:
        return None
    whole = whole.ljust(6, "0")
    return int(whole[:2]) * 3600 + int(whole[2:4]) * 60 + int(whole[4:6]) + float(f"0.{fraction or 0}")


def series_number(text: str) -> float:
    """A series' number; what is none comes last."""
    try:
        return float(text)
    except ValueError:
        return float("inf")
