"""Clinical variables as features: a matrix with gaps, and what is learnt on a training part to fill and scale it.

What a cohort declares as `clinical` (age, blood values) is known when the film is taken. Here it becomes numbers,
beside the image's or alone. Nothing is learnt from rows that are not fitted on, but for the names of the columns.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.errors import NotPreparedError
from peftbench.protocol.tasks import TaskRows

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

RARE = 5
"""A category of fewer patients than this is `other`."""

OTHER = "other"

MISSING = "?"
"""Follows a column's name where a column says that its value is missing."""


class ClinicalTable(NamedTuple):
    """The clinical variables of a task's rows.

    Attributes:
        names: of the columns: a variable's own, or `variable=category`.
        matrix: (images, c), rows as the task's; NaN where unknown, infinite beyond the limit of detection.
        notes: which variables were left out or changed, and why.
    """

    names: tuple[str, ...]
    matrix: Matrix
    notes: tuple[str, ...]


def clinical_table(rows: TaskRows, names: Sequence[str]) -> ClinicalTable:
    """The clinical variables of a task as numbers; texts as one column a category.

    Which categories there are, and which variables say anything, is read off all rows of the task, those of the test
    part too. It leaks nothing: no label is looked at, and a column that no training row fills is dropped by `Imputer`.

    Args:
        rows: the task's rows.
        names: of the variables, as columns of the manifest (a cohort's `clinical`).

    Raises:
        NotPreparedError: the manifest lacks a variable.
    """
    absent = [name for name in names if name not in rows.frame.columns]
    if absent:
        raise NotPreparedError(
            f"the manifest of cohort {rows.task.cohort!r} lacks the clinical variables {', '.join(absent)}, because it "
            f"was prepared before they were declared: run `peftbench prepare {rows.task.cohort} --raw DIR` again"
        )
    columns: dict[str, Vector] = {}
    notes: list[str] = []
    for name in names:
        found, note = _columns(name, rows.frame[name], rows.frame["patient_id"])
        columns |= found
        notes += [note] if note else []
    matrix = np.column_stack(list(columns.values())) if columns else np.empty((len(rows.frame), 0))
    return ClinicalTable(tuple(columns), matrix, tuple(notes))


def _columns(name: str, values: pd.Series, patient: pd.Series) -> tuple[dict[str, Vector], str]:
    """The columns of one variable, and what is to be told of it."""
    if values.isna().all():
        return {}, f"{name}: unknown in every row, left out"
    if (values.isna() if pd.isna(values.iloc[0]) else values == values.iloc[0]).all():
        return {}, f"{name}: the same in every row, left out"
    if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return {name: values.to_numpy(dtype=np.float64, na_value=np.nan)}, ""
    return _one_hot(name, values, patient)


def _one_hot(name: str, values: pd.Series, patient: pd.Series) -> tuple[dict[str, Vector], str]:
    """A column a category, one less where there are two, because the second says nothing more."""
    text = values.map(lambda value: str(value).strip().casefold(), na_action="ignore")
    counts = patient.groupby(text).nunique()
    rare = sorted(map(str, counts.index[counts < RARE]))
    # A single rare category is as rare under another name.
    text = text.where(~text.isin(rare), OTHER) if len(rare) > 1 else text
    categories = sorted(map(str, text.dropna().unique()))
    kept = categories[1:] if len(categories) == 2 else categories
    known = text.notna().to_numpy(dtype=bool)
    columns = {f"{name}={each}": np.where(known, (text == each).to_numpy(dtype=bool), np.nan) for each in kept}
    return columns, f"{name}: {', '.join(rare)} counted as {OTHER!r}, too few patients each" if len(rare) > 1 else ""


class Imputer(NamedTuple):
    """What fills the gaps, learnt on a training part alone.

    A number's gap is filled with the median of the training rows, a category's (a column of 0 and 1) with 0. A value
    beyond the limit of detection, stored as infinite, becomes the smallest or largest finite one. Columns that no
    training row fills are dropped; behind the others stands, for each with gaps in the training part, a column that is
    1 in the gaps.

    Attributes:
        kept: (c,) which columns some training row fills.
        fill: (c,) value for gaps.
        low: (c,) smallest finite value.
        high: (c,) largest finite value.
        gaps: (c,) which columns have gaps in the training part, of those that are kept.
    """

    kept: Mask
    fill: Vector
    low: Vector
    high: Vector
    gaps: Mask

    @classmethod
    def fit(cls, matrix: npt.NDArray[np.floating]) -> Self:
        """Learn from (n, c) values of training rows, NaN for unknown."""
        wide = np.asarray(matrix, dtype=np.float64)
        finite = np.isfinite(wide)
        kept: Mask = np.logical_or.reduce(finite, axis=0)
        gaps: Mask = kept & np.logical_or.reduce(np.isnan(wide), axis=0)
        low = np.where(kept, np.where(finite, wide, np.inf).min(axis=0, initial=np.inf), 0.0)
        high = np.where(kept, np.where(finite, wide, -np.inf).max(axis=0, initial=-np.inf), 0.0)
        bounded = _bounded(wide, low, high)
        median = np.zeros(wide.shape[1])
        median[kept] = np.nanmedian(bounded[:, kept], axis=0)
        category = (np.isnan(bounded) | (bounded == 0) | (bounded == 1)).all(axis=0)
        return cls(kept, np.where(category, 0.0, median), low, high, gaps)

    def apply(self, matrix: npt.NDArray[np.floating]) -> Matrix:
        """(n, c) values, filled: (n, kept columns + columns with gaps)."""
        wide = np.asarray(matrix, dtype=np.float64)
        missing = np.isnan(wide)
        filled = np.where(missing, self.fill, _bounded(wide, self.low, self.high))
        return np.hstack([filled[:, self.kept], missing[:, self.gaps].astype(np.float64)])

    def names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Names of the columns that `apply` gives, from those of the columns that it takes."""
        kept = [name for name, keep in zip(names, self.kept, strict=True) if keep]
        return (*kept, *(name + MISSING for name, gap in zip(names, self.gaps, strict=True) if gap))


def _bounded(values: Matrix, low: Vector, high: Vector) -> Matrix:
    return np.where(np.isposinf(values), high, np.where(np.isneginf(values), low, values))


class Scaler(NamedTuple):
    """Centre and factor of each feature of a block, learnt on a training part alone.

    Attributes:
        mean: (d,).
        factor: (d,) what the deviation from the mean is multiplied by; 0 where the training rows are all the same:
            such a feature teaches nothing, and on other rows it would speak in its raw unit.
    """

    mean: Vector
    factor: Vector

    @classmethod
    def fit(cls, block: npt.NDArray[np.floating]) -> Self:
        """Learn from (n, d) features; scaled, each that varies has the variance 1 / (number of those)."""
        wide = np.asarray(block, dtype=np.float64)
        # The deviation of equal numbers is not always zero: their mean may be off by some bits.
        varies = (wide != wide[:1]).any(axis=0)
        deviation = np.where(varies, wide.std(axis=0), 0.0)
        varies = deviation > 0
        factor = np.zeros(wide.shape[1])
        factor[varies] = 1.0 / (deviation[varies] * np.sqrt(varies.sum()))
        return cls(wide.mean(axis=0), factor)

    def apply(self, block: npt.NDArray[np.floating]) -> Matrix:
        """(n, d) features, scaled."""
        return (np.asarray(block, dtype=np.float64) - self.mean) * self.factor


class Blocks(NamedTuple):
    """Image and clinical features side by side with the same total variance, learnt on a training part alone.

    Each feature standardised on its own, a thousand of the image would drown ten of the patient in any penalty that is
    shared by all: so a block is divided by the root of the number of its features, and both by one factor more, so that
    over all features the mean squared deviation is 1, as it is where each is standardised. Whoever fits on them must
    not standardise again, or the balance is lost.

    Attributes:
        imputer: of the clinical block; None without one.
        image: scaling of the image block; None without one.
        clinical: scaling of the filled clinical block; None without one.
        factor: what both blocks are multiplied by.
    """

    imputer: Imputer | None
    image: Scaler | None
    clinical: Scaler | None
    factor: float

    @classmethod
    def fit(cls, image: npt.NDArray[np.floating] | None, clinical: npt.NDArray[np.floating] | None) -> Self:
        """Learn from training rows.

        Args:
            image: (n, d) features as stored; None to combine nothing with the clinical block.
            clinical: (n, c) values, NaN for unknown; None to leave the image alone.

        Raises:
            ValueError: neither is given, or they differ in their rows.
        """
        if image is None and clinical is None:
            raise ValueError("expected an image block, a clinical block, or both")
        if image is not None and clinical is not None and len(image) != len(clinical):
            raise ValueError(f"the blocks differ in their rows: {len(image)} of images, {len(clinical)} clinical")
        imputer = None if clinical is None else Imputer.fit(clinical)
        scalers = (
            None if image is None else Scaler.fit(image),
            None if imputer is None or clinical is None else Scaler.fit(imputer.apply(clinical)),
        )
        # Each block that says anything has the total variance 1.
        features = sum(each.factor.size for each in scalers if each is not None)
        total = sum(bool(each.factor.any()) for each in scalers if each is not None)
        return cls(imputer, *scalers, float(np.sqrt(features / total)) if total else 1.0)

    def apply(self, image: npt.NDArray[np.floating] | None, clinical: npt.NDArray[np.floating] | None) -> Matrix:
        """Both blocks of any rows, filled, scaled and joined: (n, d + filled clinical columns).

        Raises:
            ValueError: a block is missing that was fitted, or there is one that was not.
        """
        if (image is None) != (self.image is None) or (clinical is None) != (self.clinical is None):
            raise ValueError("expected the same blocks that were fitted")
        parts = []
        if self.image is not None and image is not None:
            parts.append(self.image.apply(image))
        if self.clinical is not None and self.imputer is not None and clinical is not None:
            parts.append(self.clinical.apply(self.imputer.apply(clinical)))
        return self.factor * np.hstack(parts)
