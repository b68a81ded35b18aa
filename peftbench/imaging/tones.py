"""A pixel policy as a table from sample values to 8-bit tones.

A radiograph has millions of samples and at most some ten thousand different values. Everything a policy does is
computed on the values and their counts; the picture itself is looked up once.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from peftbench.errors import DecodeError
from peftbench.imaging.policy import PERCENTILES, PixelPolicy
from peftbench.imaging.samples import Array, Levels, Samples

Tones = npt.NDArray[np.uint8]

WIDEST_TABLE = 1 << 20
"""Integer samples that span more than this are sorted instead of counted."""


ROWS_AT_ONCE = 64
"""Rows of a picture that are counted or looked up together."""


class Histogram(NamedTuple):
    """The values of a picture.

    Attributes:
        values: (k,) different values in ascending order, as stored.
        counts: (k,) how often each occurs; with a table for integers, some occur never. Where only the extremes matter,
            1 for each.
        places: (height, width) position of each sample's value.
    """

    values: Array
    counts: npt.NDArray[np.int64]
    places: Array


def eight_bits(samples: Samples, policy: PixelPolicy) -> Tones:
    """Samples as 8-bit tones under a policy, at full resolution.

    Raises:
        DecodeError: there is nothing to see: all samples are of one value, or not finite.
    """
    # Counting costs as much as all the rest; min-max and windows need no more than the extremes of what was measured.
    extremes = policy.name in ("minmax", "window") and samples.rescaled is None and samples.padding is None
    shown = policy.name == "window" and samples.windowed is not None
    if extremes and not shown and samples.stored.dtype in (np.uint8, np.int8, np.uint16, np.int16):
        return _stretched(samples)
    histogram = histogram_of(samples.stored, counted=not extremes)
    levels, counts = _measured(samples, histogram)
    table = np.zeros(len(levels), dtype=np.uint8)
    seen = counts > 0
    table[seen] = _tones(samples, levels[seen], counts[seen], policy)
    return _looked_up(table, histogram.places)


def _stretched(samples: Samples) -> Tones:
    """Min-max sample by sample: for whole numbers of 16 bits the same as the table's, and faster."""
    low, high = float(samples.stored.min()), float(samples.stored.max())
    _refuse_nothing(np.array([low, high]))
    scale = np.float32(255.0 / (high - low))
    found = np.empty(samples.stored.shape, dtype=np.uint8)
    for start in range(0, len(found), ROWS_AT_ONCE):
        part = samples.stored[start : start + ROWS_AT_ONCE].astype(np.float32)
        part = (
            np.subtract(np.float32(high), part, out=part)
            if samples.inverted
            else np.subtract(part, np.float32(low), out=part)
        )
        part *= scale
        found[start : start + ROWS_AT_ONCE] = np.rint(part, out=part)
    return found


def _looked_up(table: Tones, places: Array) -> Tones:
    """The table's entry for each place, some rows at a time: indices are widened, and shall stay in the cache."""
    found = np.empty(places.shape, dtype=np.uint8)
    for start in range(0, len(places), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        # No place lies outside the table; clipping spares the check.
        np.take(table, places[part], out=found[part], mode="clip")
    return found


def _counted(places: Array, length: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(length, dtype=np.int64)
    for start in range(0, len(places), ROWS_AT_ONCE):
        counts += np.bincount(places[start : start + ROWS_AT_ONCE].reshape(-1), minlength=length)
    return counts


def _from_zero(stored: Array, low: int) -> Array:
    """Integers less the lowest of them, as indices."""
    native = stored.astype(stored.dtype.newbyteorder("="))
    # Two's complement: from the lowest on, differences fit into the unsigned type of the same width.
    moved: Array = (native - native.dtype.type(low)).view(f"u{native.dtype.itemsize}")
    # 64 unsigned bits index nothing; the span is that of a table.
    narrow: Array = moved.astype(np.uint32) if moved.dtype == np.uint64 else moved
    return narrow


def histogram_of(stored: Array, *, counted: bool = True) -> Histogram:
    """Values, counts and places of a picture's samples.

    Args:
        stored: (height, width).
        counted: whether to count; else every value between the extremes counts as seen once.
    """
    if np.issubdtype(stored.dtype, np.integer):
        low, high = int(stored.min()), int(stored.max())
        if high - low < WIDEST_TABLE:
            # 8 and 16 bits unsigned index a table as they are; all else is moved to begin at 0.
            direct = stored.dtype in (np.uint8, np.uint16)
            first = 0 if direct else low
            places = stored if direct else _from_zero(stored, low)
            length = high - first + 1
            counts = (
                _counted(places, length) if counted else np.r_[np.zeros(low - first, int), np.ones(high - low + 1, int)]
            )
            return Histogram(np.arange(first, high + 1), counts, places)
    elif not np.isfinite(stored).all():
        raise DecodeError("holds nothing to see: some samples are not finite")
    values, places, counts = np.unique(stored, return_inverse=True, return_counts=True)
    return Histogram(values, counts, places.reshape(stored.shape))


def _measured(samples: Samples, histogram: Histogram) -> tuple[Levels, npt.NDArray[np.int64]]:
    """What the values mean, and how often they are measured: filling counts as never."""
    counts = histogram.counts
    if samples.padding is not None:
        low, high = samples.padding
        counts = np.where((histogram.values >= low) & (histogram.values <= high), 0, counts)
    if samples.rescaled is None:
        return histogram.values.astype(np.float64), counts
    return samples.rescaled(histogram.values), counts


def _tones(samples: Samples, levels: Levels, counts: npt.NDArray[np.int64], policy: PixelPolicy) -> Tones:
    _refuse_nothing(levels)
    if policy.name == "window" and samples.windowed is not None:
        shown = samples.windowed(levels)
        if shown.min() == shown.max():
            raise DecodeError("holds nothing to see: its window shows every sample in one tone")
        return _rounded(1.0 - shown if samples.inverted else shown)
    # All of these are symmetric: a negative gives the complement.
    if policy.name == "equalize":
        return _equalized(-levels if samples.inverted else levels, counts)
    stretched = policy.name == "percentile"
    low, high = _percentiles(levels, counts) if stretched else (float(levels.min()), float(levels.max()))
    return _between(-levels, -high, -low) if samples.inverted else _between(levels, low, high)


def _refuse_nothing(levels: Levels) -> None:
    told = ""
    if not len(levels):
        told = "all of it is filling"
    elif not np.isfinite(levels).all():
        told = "some samples are not finite"
    elif levels.min() == levels.max():
        told = f"every sample is {levels[0]:g}"
    if told:
        raise DecodeError(f"holds nothing to see: {told}")


def _between(levels: Levels, low: float, high: float) -> Tones:
    # float32 keeps 16-bit samples exactly. Powers of two change no digit and keep the rest within its range.
    _, exponent = np.frexp(max(abs(low), abs(high)))
    scaled, first, last = (np.ldexp(each, -int(exponent)) for each in (levels, np.float64(low), np.float64(high)))
    stretched = (scaled - first).astype(np.float32) * np.float32(255.0 / (last - first))
    tones: Tones = np.rint(np.clip(stretched, 0, 255)).astype(np.uint8)
    return tones


def _rounded(shown: Levels) -> Tones:
    return np.rint(np.clip(shown, 0.0, 1.0) * 255.0).astype(np.uint8)


def _percentiles(levels: Levels, counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The percentiles of all samples (the lowest value that so many do not exceed); the extremes if they coincide."""
    order = np.argsort(levels, kind="stable")
    share = np.cumsum(counts[order]) / counts.sum()
    low, high = (float(levels[order][np.searchsorted(share, percent / 100.0)]) for percent in PERCENTILES)
    return (low, high) if low < high else (float(levels.min()), float(levels.max()))


def _equalized(levels: Levels, counts: npt.NDArray[np.int64]) -> Tones:
    """Histogram equalisation: the share of all samples but the extreme ones that are darker than a value.

    255 (c(v) - h(v) / 2 - h(first)) / (n - h(first) - h(last)), h counts, c cumulative counts, cut off at 0 and 255.
    The textbook's 255 (c(v) - h(first)) / (n - h(first)) sets only the darkest value apart: a bright background, or
    the dark one of a negative, would take most tones for itself.
    """
    order = np.argsort(levels, kind="stable")
    grouped, position = np.unique(levels[order], return_inverse=True)
    each = np.bincount(position, weights=counts[order], minlength=len(grouped))
    darker = np.cumsum(each) - each / 2 - each[0]
    darker[[0, -1]] = 0, max(1.0, each[1:-1].sum())
    tones = np.empty(len(levels), dtype=np.uint8)
    tones[order] = _rounded(darker / darker[-1])[position]
    return tones
