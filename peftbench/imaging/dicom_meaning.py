"""What the samples of a DICOM file mean, and how the file wants them shown: PS3.3 C.11.1 and C.11.2."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from peftbench.imaging.dicom_elements import PIXELS, PROBLEMS, number, word
from peftbench.imaging.samples import Array, Levels


@dataclass(frozen=True)
class Table:
    """A look-up table of a file.

    Attributes:
        first: the value that the first entry stands for; below it the first entry holds, above the last the last.
        entries: (n,) unsigned.
    """

    first: int
    entries: Array

    def __call__(self, values: Array) -> Levels:
        """Entries for values of any shape."""
        # Some files write a negative number as if it were unsigned.
        first = self.first - 65536 if self.first > 32767 and values.min(initial=0) < 0 else self.first
        places = np.clip(np.rint(values.astype(np.float64)) - first, 0, len(self.entries) - 1)
        levels: Levels = self.entries[places.astype(np.int64)].astype(np.float64)
        return levels


def rescaling(found: Dataset) -> Callable[[Array], Levels] | None:
    """Stored values to measured ones; None where the file does not say it soundly."""
    if (table := _table(found, "ModalityLUTSequence")) is not None:
        return table
    slope, intercept = number(found, "RescaleSlope"), number(found, "RescaleIntercept")
    if not slope or intercept is None or (slope, intercept) == (1.0, 0.0):
        # Most films say that what is stored is what was measured.
        return None
    return lambda stored: stored.astype(np.float64) * slope + intercept


def display(found: Dataset) -> Callable[[Levels], Levels] | None:
    """How the file wants to be shown, as a function to [0, 1]; None where it does not say it soundly.

    The formulas are DICOM's, PS3.3 C.11.2.
    """
    if (table := _table(found, "VOILUTSequence")) is not None:
        # As its data show, since some files state 16 bits for tables of 12.
        white = float(2 ** max(8, int(table.entries.max()).bit_length()) - 1)
        return lambda levels: table(levels) / white
    center, width = number(found, "WindowCenter"), number(found, "WindowWidth")
    function = word(found, "VOILUTFunction") or "LINEAR"
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "SIGMOID":
        return lambda levels: _sigmoid(levels, center, width)
    if function == "LINEAR":
        return lambda levels: _ramp(levels, center - 0.5, width - 1)
    return (lambda levels: _ramp(levels, center, width)) if function == "LINEAR_EXACT" else None


def _ramp(levels: Levels, center: float, width: float) -> Levels:
    if not width:
        return (levels > center).astype(np.float64)
    return np.clip((levels - center) / width + 0.5, 0.0, 1.0)


def _sigmoid(levels: Levels, center: float, width: float) -> Levels:
    with np.errstate(over="ignore"):
        shown: Levels = 1.0 / (1.0 + np.exp(-4.0 * (levels - center) / width))
    return shown


def padding(found: Dataset) -> tuple[float, float] | None:
    """Lowest and highest stored value that is filling; None where the file names none."""
    prefix = next(prefix for name, prefix in PIXELS.items() if name in found)
    ends = [number(found, f"{prefix}PixelPadding{end}") for end in ("Value", "RangeLimit")]
    if ends[0] is None:
        return None
    if found.PixelRepresentation and not prefix:
        # Some files write a negative number as if it were unsigned.
        half = 2.0 ** (found.BitsAllocated - 1)
        ends = [end - 2 * half if end is not None and end >= half else end for end in ends]
    numbers = [end for end in ends if end is not None]
    return min(numbers), max(numbers)


def _table(found: Dataset, keyword: str) -> Table | None:
    """The first look-up table of a sequence; None where there is none, or none that is sound."""
    try:
        item = found[keyword].value[0]
        count, first, _ = map(int, item.LUTDescriptor)
        data = item.LUTData
        if isinstance(data, bytes):
            little = found.file_meta.TransferSyntaxUID != ExplicitVRBigEndian
            entries = np.frombuffer(data, "u1" if len(data) - count in (0, 1) else "<u2" if little else ">u2")
        else:
            entries = np.atleast_1d(data).astype(np.int64)
    except PROBLEMS:
        return None
    entries = entries[: count or 65536]
    return Table(first, entries) if len(entries) and entries.min() >= 0 else None
