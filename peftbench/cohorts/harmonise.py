"""Raw rows to canonical columns, as the declaration says what the raw ones mean."""

from functools import partial

import pandas as pd

from peftbench.cohorts.columns import ordered, read_column, read_label
from peftbench.cohorts.declaration import SECRET, Cohort
from peftbench.cohorts.rows import understood

VIEWS = ("AP", "PA", "LATERAL")
"""Views that the benchmark knows."""


def harmonise(declared: Cohort, table: pd.DataFrame) -> pd.DataFrame:
    """Raw rows to the manifest's columns without pseudonyms and digests: centre, view, order, labels, covariates.

    Args:
        declared: the cohort.
        table: raw columns as text.

    Returns:
        One row a raw row, in the same order; a label is `yes`, `no` or None.

    Raises:
        RawDataError: a value is not understood.
    """
    return understood(declared, partial(_canonical, declared), table)


def _canonical(declared: Cohort, table: pd.DataFrame) -> pd.DataFrame:
    columns = {
        "center": read_column(table, declared.center),
        "view": read_column(table, declared.view),
        "acquired": _acquired(declared, table),
        **{name: read_label(table, label) for name, label in declared.labels.items()},
        **{name: read_column(table, column) for name, column in declared.covariates.items()},
    }
    return pd.DataFrame(columns, index=table.index)


def _acquired(declared: Cohort, table: pd.DataFrame) -> "pd.Series[float]":
    """The order of a patient's images; dates, and all of a hospital's own, as days since the patient's first image."""
    found = ordered(table, declared.order)
    if declared.order.kind == "number" and declared.identifiers != SECRET:
        return found
    return found - found.groupby(table[declared.patient]).transform("min")
