"""Which pictures show the same film: fingerprints of canonical pictures, and the search for near pairs.

Two files of one film differ by what was done to it: another format, another size, another tone curve, a few per cent
cut off or added around it. Two films of one patient differ by a breath and a shift of the cable, and all chest films
resemble each other, so the usual hashes of 64 bits accuse the innocent. Hence two steps:

1. Candidates. A picture is equalised (a monotone tone curve then changes nothing), reduced to 24 x 24, and its local
   mean and contrast are taken out. Correlations of all pairs are matrix products, block by block. To find what was cut,
   one side is looked at in several crops (`CROPS`).
2. Confirmation. The two thumbnails of 128 x 128 are laid over each other (scale and shift, for each axis) by the method
   of Lucas and Kanade (1981), and correlated where they overlap, at a resolution at which ribs, vessels and cables
   decide.

Knows pictures only: no patient, no store, no label. Imports no torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

FINGERPRINT_SCHEMA = 1
"""Raised whenever the same two pictures would get another score."""

SIDE = 128
"""Pixels of a fingerprint's side."""

VIEW = 24
"""Pixels of a side of what is compared in the first step."""

CANDIDATE = 0.82
"""Correlation of overviews from which on a pair is looked at closely.

On Hannover 2 of 28,360 pairs of different patients reach it. True copies: re-encoded, resized or under another tone
curve or pixel policy 0.95 and more; with up to 5 % cut off or added all around 0.90 and more; with 8 % cut off at one
edge all but one of 243."""

NEAR = 0.8
"""Correlation of aligned thumbnails from which on two pictures count as copies of one film.

On Hannover the highest score of two different films is 0.56 between patients and 0.71 within one; between patients of
the phantom, who are built on one plan, 0.70. The lowest of a true copy: re-encoded (quality 60), resized (50 to 200 %),
equalised, windowed, under gamma 0.5 to 2: 0.98; sharpened under a sigmoid and re-encoded: 0.94; 1 to 5 % cut off all
around: 0.93; a frame of 3 or 5 %, black or white: 0.83. Quality 30: 0.95; a quarter of the size: 0.99."""

PROMISING = 0.78
"""Correlation at half the resolution below which a pair is not looked at any closer; true copies have 0.83 or more."""

SMALLEST = 32
"""Pixels of the shorter side below which pictures cannot be told apart."""

BLANK = 0.6
"""Share of pixels of one grey level from which on a picture shows too little to be told from others."""

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]
"""float32 throughout: a correlation needs no more."""
Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Crop(NamedTuple):
    """What is cut off at each edge, as a share of the side."""

    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0


WHOLE = Crop()

_CUT, _WIDE = 0.04, 0.09

CROPS = (
    WHOLE,
    Crop(_CUT, _CUT, _CUT, _CUT),
    Crop(left=_CUT),
    Crop(top=_CUT),
    Crop(right=_CUT),
    Crop(bottom=_CUT),
    Crop(left=_CUT, right=_CUT),
    Crop(top=_CUT, bottom=_CUT),
    Crop(left=_WIDE, right=_WIDE),
    Crop(top=_WIDE, bottom=_WIDE),
)
"""In which crops one of two pictures is compared with the whole of the other. A border of 4 % is a crop of the copy."""

SWEEPS = len(CROPS) + 1
"""How often all pairs are compared: once a crop, and once mirrored."""


class _Detail(NamedTuple):
    """A band of detail: blur and width of the surroundings (pixels), and the contrast (grey levels) that is noise."""

    blur: float
    around: float
    noise: float = 6.0


_OVERVIEW, _COARSE, _FINE = _Detail(0.5, 3.0), _Detail(1.0, 3.0), _Detail(1.0, 4.0)

_COARSE_STEPS, _FINE_STEPS = 3, 2

_FURTHEST = 0.2
"""How far an alignment may move a picture, as a share of its side, and stretch it."""

_BLOCK = 1024
"""Pictures that are compared with as many at once: some megabytes."""

_PAIRS_AT_ONCE = 64


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures, each once, ordered by `first`, then `second`; (n,) each.

    Attributes:
        first, second: rows of the two.
        score: how much they resemble each other, at most 1.
        mirrored: whether left and right are exchanged.
        inverted: whether black and white are.
    """

    first: Rows
    second: Rows
    score: Floats
    mirrored: Flags
    inverted: Flags

    def __len__(self) -> int:
        return len(self.first)

    def take(self, chosen: Rows | Flags | slice) -> Self:
        """Some of them."""
        return type(self)(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class Candidates(Pairs):
    """Pairs that are worth a closer look.

    Attributes:
        crop: number of the crop of `CROPS` that fits best.
        swapped: whether it is the second picture that is cropped so.
    """

    crop: Rows
    swapped: Flags


def fingerprint(picture: Pixels) -> Pixels:
    """A picture's thumbnail, equalised: what is kept of it to find its copies.

    Args:
        picture: (height, width), grey.

    Returns:
        (SIDE, SIDE). The aspect ratio is given up: it says nothing once something was cut off. A picture that is mostly
        blank, or smaller than `SMALLEST`, gets zeros, which resemble nothing.
    """
    if min(picture.shape) < SMALLEST:
        return np.zeros((SIDE, SIDE), dtype=np.uint8)
    small = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX))
    counts = np.bincount(small.ravel(), minlength=256)
    if counts.max() >= BLANK * small.size:
        return np.zeros_like(small)
    # Grey levels by their rank, equal ones in the middle of theirs.
    middle = np.cumsum(counts) - counts / 2
    levels: Pixels = np.rint(middle * (255 / small.size)).astype(np.uint8)
    equalised: Pixels = levels[small]
    return equalised


def near_pairs(
    left: Pixels,
    right: Pixels | None = None,
    *,
    threshold: float = NEAR,
    step: Callable[[], None] | None = None,
    closer: Callable[[int], Callable[[int], None]] | None = None,
) -> Pairs:
    """Pairs of pictures that are copies of one film, as far as pixels can tell.

    Args:
        left: (n, SIDE, SIDE) fingerprints.
        right: (m, SIDE, SIDE) others to compare with; by default `left` with itself, each pair once.
        threshold: correlation of the aligned thumbnails from which on.
        step: called after each of the `SWEEPS`.
        closer: called with the number of candidates; what it answers is called with the number of each part that was
            looked at closer.
    """
    found = candidates(left, right, step=step)
    score = confirm(left, left if right is None else right, found, step=closer(len(found)) if closer else None)
    kept = score >= threshold
    return Pairs(found.first[kept], found.second[kept], score[kept], found.mirrored[kept], found.inverted[kept])


def candidates(
    left: Pixels,
    right: Pixels | None = None,
    *,
    threshold: float = CANDIDATE,
    block: int = _BLOCK,
    step: Callable[[], None] | None = None,
) -> Candidates:
    """Pairs whose overviews resemble each other in some crop, mirrored or inverted.

    Args:
        left: (n, SIDE, SIDE) fingerprints.
        right: (m, SIDE, SIDE) others; by default `left` with itself, each pair once.
        threshold: correlation (its size, whatever its sign) from which on.
        block: pictures that are compared with as many at once.
        step: called after each of the `SWEEPS`.
    """
    told = step or (lambda: None)
    whole = overview(left)
    other = whole if right is None else overview(right)
    found = []
    for number, crop in enumerate(CROPS):
        cropped = whole if crop == WHOLE else overview(left, crop)
        symmetric = right is None and crop == WHOLE
        found.append(_sweep(cropped, other, threshold, block, number, symmetric=symmetric))
        if right is not None and crop != WHOLE:
            found.append(_swapped(_sweep(overview(right, crop), whole, threshold, block, number)))
        told()
    mirrored = overview(left[:, :, ::-1])
    found.append(_sweep(mirrored, other, threshold, block, 0, mirrored=True, symmetric=right is None))
    told()
    every = _joined(found)
    return _each_once(every if right is not None else _ordered(every))


def confirm(left: Pixels, right: Pixels, found: Candidates, *, step: Callable[[int], None] | None = None) -> Floats:
    """Correlation of each candidate's thumbnails once they are aligned; (n,), 0 where they do not look like copies.

    Args:
        left: (n, SIDE, SIDE) fingerprints that `found.first` counts.
        right: (m, SIDE, SIDE) fingerprints that `found.second` counts.
        found: the candidates.
        step: called with the number of candidates of each part that is done.
    """
    score = np.zeros(len(found), dtype=np.float32)
    for start in range(0, len(found), _PAIRS_AT_ONCE):
        part = found.take(slice(start, start + _PAIRS_AT_ONCE))
        score[start : start + len(part)] = _confirm(left[part.first], right[part.second], part)
        if step is not None:
            step(len(part))
    return score


def overview(thumbnails: Pixels, crop: Crop = WHOLE) -> Floats:
    """Thumbnails reduced to what the first step compares.

    Args:
        thumbnails: (n, SIDE, SIDE).
        crop: what to leave out.

    Returns:
        (n, VIEW * VIEW) of mean 0 and length 1, so that products are correlations; zeros for a picture without detail.
    """
    down = _averaging(crop.top, crop.bottom)
    across = _averaging(crop.left, crop.right).T
    rows: list[Floats] = [np.zeros((0, VIEW * VIEW), dtype=np.float32)]
    for start in range(0, len(thumbnails), _BLOCK):
        small = down @ thumbnails[start : start + _BLOCK].astype(np.float32) @ across
        flat = _detail(small, _OVERVIEW).reshape(len(small), -1)
        flat -= flat.mean(axis=1, keepdims=True)
        length = np.linalg.norm(flat, axis=1, keepdims=True)
        # A picture without detail resembles nothing.
        rows.append(np.where(length > 1e-3, flat / np.maximum(length, 1e-3), 0).astype(np.float32))
    views: Floats = np.concatenate(rows)
    return views


def above(
    left: Floats, right: Floats, threshold: float, block: int = _BLOCK, *, symmetric: bool = False
) -> tuple[Rows, Rows, Floats]:
    """All pairs of rows whose product's size reaches a threshold, block by block.

    Args:
        left: (n, d).
        right: (m, d).
        threshold: of the product, whatever its sign.
        block: rows of either side that are compared at once; bounds the memory.
        symmetric: whether a pair's product is that of the pair turned round, so that blocks below the diagonal are left
            out; what stands above it is complete, what stands below is not.

    Returns:
        (pairs,) rows of `left`, of `right`, and the products.
    """
    first, second = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    scores: list[Floats] = [np.zeros(0, np.float32)]
    for top, across in _blocks(len(left), len(right), block):
        if symmetric and across < top:
            continue
        product = left[top : top + block] @ right[across : across + block].T
        row, column = np.nonzero(np.abs(product) >= threshold)
        first.append(row + top)
        second.append(column + across)
        scores.append(product[row, column])
    return np.concatenate(first), np.concatenate(second), np.concatenate(scores)


def align(moving: Floats, still: Floats, start: Floats, steps: int) -> tuple[Floats, Floats]:
    """Lay pictures over others by stretching and shifting them along each axis (Lucas and Kanade 1981).

    A point at u (from the centre, in sides) of `still` is looked up in `moving` at (1 + s) u + t. Each step solves the
    least squares of the difference, linearised in (s, t) of both axes. The best of all steps counts, so a step that
    leads astray does no harm.

    Args:
        moving: (n, side, side).
        still: (n, side, side).
        start: (n, 4) first guess of s and t across, s and t down.
        steps: how often.

    Returns:
        (n,) correlation where they overlap, and (n, 4) the s and t it was reached with.
    """
    side = moving.shape[-1]
    place = ((np.arange(side) - (side - 1) / 2) / side).astype(np.float32)
    at, best, score = start, start, np.full(len(moving), -1.0, dtype=np.float32)
    for step in range(steps + 1):
        across, seen_across = _lookup(at[:, 0], at[:, 1], place)
        down, seen_down = _lookup(at[:, 2], at[:, 3], place)
        moved: Floats = down @ moving @ across.transpose(0, 2, 1)
        seen: Floats = (seen_down[:, :, None] & seen_across[:, None, :]).astype(np.float32)
        reached = _correlation(moved, still, seen)
        better = reached > score
        score, best = np.where(better, reached, score), np.where(better[:, None], at, best)
        if step < steps:
            at = np.clip(at + _improvement(moved, still, seen, place), -_FURTHEST, _FURTHEST)
    return score, best


class Nearest(NamedTuple):
    """Of each row, the row of another owner that is nearest; (n,) each.

    Attributes:
        row: number of that row.
        cosine: to it.
        lead: how much nearer it is than the nearest row of a third owner.
    """

    row: Rows
    cosine: Floats
    lead: Floats


def centred(*matrices: npt.NDArray[np.floating]) -> list[Floats]:
    """Embeddings around the mean of all of them, each of length 1.

    Args:
        matrices: (n, d) each.
    """
    every = [matrix.astype(np.float32) for matrix in matrices]
    mean = np.concatenate(every).mean(axis=0, dtype=np.float64).astype(np.float32)
    around = [matrix - mean for matrix in every]
    return [matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12) for matrix in around]


def nearest(left: Floats, left_owner: Rows, right: Floats, right_owner: Rows, block: int = _BLOCK) -> Nearest:
    """The nearest row of another owner, by cosine.

    Args:
        left: (n, d) of length 1.
        left_owner: (n,) who each belongs to.
        right: (m, d) of length 1, not empty.
        right_owner: (m,) who each belongs to.
        block: rows of `left` that are compared at once; bounds the memory.
    """
    row, cosine, lead = np.zeros(len(left), np.int64), np.zeros(len(left), np.float32), np.zeros(len(left), np.float32)
    for start in range(0, len(left), block):
        here = slice(start, start + block)
        product = left[here] @ right.T
        product[left_owner[here, None] == right_owner[None]] = -1.0
        row[here] = product.argmax(axis=1)
        cosine[here] = product.max(axis=1)
        product[right_owner[row[here], None] == right_owner[None]] = -1.0
        lead[here] = cosine[here] - product.max(axis=1)
    return Nearest(row, cosine, lead)


def mutual_pairs(forth: Nearest, back: Nearest, cosine: float, lead: float) -> tuple[Rows, Rows, Floats]:
    """Rows that are each other's nearest, near enough, and far nearer than anybody else.

    Args:
        forth: of the left rows, among the right ones.
        back: of the right rows, among the left ones.
        cosine: from which on.
        lead: of both from which on.

    Returns:
        (pairs,) left rows, right rows, cosines.
    """
    left = np.arange(len(forth.row))
    right = forth.row
    kept = (back.row[right] == left) & (forth.cosine >= cosine)
    kept &= (forth.lead >= lead) & (back.lead[right] >= lead)
    return left[kept], right[kept], forth.cosine[kept]


def _detail(pictures: Floats, band: _Detail) -> Floats:
    """Pictures without their local mean and contrast: what is left is edges, as strong in a shadow as in light."""
    blurred = gaussian_filter(pictures, (0, band.blur, band.blur), mode="nearest")
    edges = blurred - gaussian_filter(blurred, (0, band.around, band.around), mode="nearest")
    contrast = np.sqrt(gaussian_filter(edges * edges, (0, band.around, band.around), mode="nearest"))
    detail: Floats = edges / (contrast + np.float32(band.noise))
    return detail


def _averaging(before: float, behind: float) -> Floats:
    """(VIEW, SIDE): the operator that averages the stretch between two cuts to VIEW pixels."""
    edges = np.linspace(before * SIDE, (1 - behind) * SIDE, VIEW + 1)
    pixel = np.arange(SIDE)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.clip(overlap, 0, None)
    operator: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return operator


def _blocks(height: int, width: int, block: int) -> Iterator[tuple[int, int]]:
    return ((top, across) for top in range(0, height, block) for across in range(0, width, block))


def _sweep(
    left: Floats,
    right: Floats,
    threshold: float,
    block: int,
    crop: int,
    *,
    mirrored: bool = False,
    symmetric: bool = False,
) -> Candidates:
    first, second, score = above(left, right, threshold, block, symmetric=symmetric)
    count = len(first)
    return Candidates(
        first, second, np.abs(score), np.full(count, mirrored), score < 0, np.full(count, crop), np.zeros(count, bool)
    )


def _swapped(found: Candidates) -> Candidates:
    return Candidates(
        found.second, found.first, found.score, found.mirrored, found.inverted, found.crop, ~found.swapped
    )


def _joined(found: list[Candidates]) -> Candidates:
    return Candidates(*(np.concatenate([getattr(part, field.name) for part in found]) for field in fields(Candidates)))


def _ordered(found: Candidates) -> Candidates:
    """Within one set: no picture with itself, and the smaller row first."""
    upper, lower = found.take(found.first < found.second), found.take(found.first > found.second)
    return _joined([upper, _swapped(lower)])


def _each_once(found: Candidates) -> Candidates:
    """Of each pair the crop that fits best."""
    order = np.lexsort((found.crop, -found.score, found.second, found.first))
    first, second = found.first[order], found.second[order]
    fresh = np.append([True], (np.diff(first) != 0) | (np.diff(second) != 0))[: len(order)]
    return found.take(order[fresh])


def _confirm(left: Pixels, right: Pixels, found: Candidates) -> Floats:
    upright = np.where(found.mirrored[:, None, None], left[:, :, ::-1], left)
    swapped = found.swapped[:, None, None]
    moving, still = np.where(swapped, right, upright), np.where(swapped, upright, right)
    moving = np.where(found.inverted[:, None, None], 255 - moving, moving)
    score, at = align(
        _detail(_halved(moving), _COARSE), _detail(_halved(still), _COARSE), _starts()[found.crop], _COARSE_STEPS
    )
    close = np.flatnonzero(score >= PROMISING)
    fine = np.zeros_like(score)
    if close.size:
        pictures = [_detail(side[close].astype(np.float32), _FINE) for side in (moving, still)]
        fine[close], _ = align(pictures[0], pictures[1], at[close], _FINE_STEPS)
    return fine


def _halved(pictures: Pixels) -> Floats:
    half = SIDE // 2
    halved: Floats = pictures.reshape(len(pictures), half, 2, half, 2).mean(axis=(2, 4), dtype=np.float32)
    return halved


def _starts() -> Floats:
    """(crops, 4): stretch and shift, across and down, that each crop is."""
    starts = [
        (-crop.left - crop.right, (crop.left - crop.right) / 2, -crop.top - crop.bottom, (crop.top - crop.bottom) / 2)
        for crop in CROPS
    ]
    return np.array(starts, dtype=np.float32)


def _lookup(stretch: Floats, shift: Floats, place: Floats) -> tuple[Floats, Flags]:
    """(n, side, side) operators of linear interpolation at (1 + stretch) u + shift, and (n, side) what lies within."""
    side = len(place)
    at = ((1 + stretch[:, None]) * place + shift[:, None]) * side + (side - 1) / 2
    weights = np.clip(1 - np.abs(at[:, :, None] - np.arange(side, dtype=np.float32)), 0, None)
    return weights.astype(np.float32), (at >= 0) & (at <= side - 1)


def _correlation(moved: Floats, still: Floats, seen: Floats) -> Floats:
    """(n,) Pearson correlation over what is seen of both."""
    area = np.maximum(seen.sum(axis=(1, 2), keepdims=True), 1)
    one, other = ((each - (each * seen).sum(axis=(1, 2), keepdims=True) / area) * seen for each in (moved, still))
    spread = np.sqrt((one * one).sum(axis=(1, 2)) * (other * other).sum(axis=(1, 2)))
    correlation: Floats = (one * other).sum(axis=(1, 2)) / np.maximum(spread, 1e-3)
    return correlation


def _improvement(moved: Floats, still: Floats, seen: Floats, place: Floats) -> Floats:
    """(n, 4) change of stretch and shift, across and down, that the difference of two pictures asks for."""
    count, side, _ = moved.shape
    down, across = (slope * (side * seen) for slope in np.gradient(moved, axis=(1, 2)))
    slopes = np.stack([across * place, across, down * place[:, None], down], axis=1).reshape(count, 4, -1)
    rest = ((still - moved) * seen).reshape(count, -1, 1)
    # A picture without slopes has nothing to say, and must not divide by zero.
    curvature = slopes @ slopes.transpose(0, 2, 1) + np.eye(4, dtype=np.float32)
    change: Floats = np.linalg.solve(curvature, slopes @ rest)[:, :, 0]
    return change
