"""Elements of a DICOM file as what they should be, where they are that."""

import struct
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

PROBLEMS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, NotImplementedError, struct.error)
"""What pydicom raises when an element does not hold what it should."""

PIXELS = {"PixelData": "", "FloatPixelData": "Float", "DoubleFloatPixelData": "DoubleFloat"}
"""Elements that hold pixels, and how the elements that speak of their values begin."""


def first(found: Dataset, keyword: str) -> Any:
    """The first value of an element; None where it is missing or is not of its kind."""
    try:
        value = found.get(keyword)
        return value[0] if isinstance(value, pydicom.multival.MultiValue) else value
    except PROBLEMS:
        return None


def number(found: Dataset, keyword: str) -> float | None:
    """A finite number; None where there is none."""
    try:
        value = float(first(found, keyword))
    except PROBLEMS:
        return None
    return value if np.isfinite(value) else None


def whole(found: Dataset, keyword: str) -> int:
    """A whole number; 0 where there is none."""
    return int(number(found, keyword) or 0)


def word(found: Dataset, keyword: str) -> str:
    """A word in capitals; empty where there is none."""
    return str(first(found, keyword) or "").strip().upper()
