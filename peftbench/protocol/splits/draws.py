"""Draws: the support sets of few-shot, center few-shot and reduced regimes, from the training part of a fold.

The images of a class (and centre) stand in one order, and a support set is its beginning. So the sets are nested: that
of k shots is part of that of k' > k. The order takes one image of each unit (patient) before the second image of any,
so that a few shots never come from one patient while others are left. Units, and the images of each, are ordered by
SHA-256 of (task, regime, fold, draw, name), as everywhere: a draw depends on these words alone.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from peftbench.errors import SplitError
from peftbench.protocol.splits.split import Split
from peftbench.protocol.splits.units import home_centers, units
from peftbench.protocol.tasks import TaskRows

Positions = npt.NDArray[np.int64]

Regime = Literal["few-shot", "center few-shot", "reduced"]

REGIMES: tuple[Regime, ...] = ("few-shot", "center few-shot", "reduced")
"""Regimes that use a part of the training part."""


class _Pool:
    """The training part of a fold, in the order of the images' names.

    Attributes:
        positions: (n,) of the images in the task's frame.
        event: (n,) 0 or 1.
        images: their names, as bytes.
        units: names of the units, as bytes, sorted.
        unit: (n,) position of each image's unit in `units`.
        centers: (n,) name of the centre that the unit belongs to.
    """

    def __init__(self, rows: TaskRows, split: Split, fold: int) -> None:
        train = split.positions(fold, "train")
        names = rows.frame["sample_id"].to_numpy(dtype=str)[train]
        by_name = np.argsort(names, kind="stable")
        self.positions: Positions = train[by_name]
        self.images = [name.encode() for name in names[by_name].tolist()]
        self.event = rows.frame["event"].to_numpy(dtype=np.int64)[self.positions]
        unit = units(rows.frame).to_numpy(dtype=str)[self.positions]
        known, self.unit = np.unique(unit, return_inverse=True)
        self.units = [name.encode() for name in known.tolist()]
        self.centers = home_centers(rows.frame)[self.positions].astype(str)


@dataclass(frozen=True)
class _Stratum:
    """The images of one class (and centre), in the order in which they are drawn.

    Attributes:
        event: 0 or 1.
        center: its name; None where centres play no part.
        positions: (n,) in the task's frame.
    """

    event: int
    center: str | None
    positions: Positions


class Draws:
    """Support sets from the training parts of a split.

    The order of a fold and draw is found once and serves every number of shots that is asked for next, so ask for all
    of them before the next draw.

    Args:
        rows: the task's rows.
        split: their division.
    """

    def __init__(self, rows: TaskRows, split: Split) -> None:
        self._rows = rows
        self._split = split
        self._pools: dict[int, _Pool] = {}
        self._last: tuple[tuple[Regime, int, int], list[_Stratum]] | None = None

    def few_shot(self, fold: int, shots: int, draw: int) -> Positions:
        """`shots` images of each class.

        Args:
            fold: of the split, from 0.
            shots: images a class.
            draw: from 0.

        Returns:
            (2 x shots,) positions in the task's frame, increasing.

        Raises:
            SplitError: the training part has too few images of a class.
        """
        return self._first("few-shot", fold, shots, draw)

    def center_few_shot(self, fold: int, shots: int, draw: int) -> Positions:
        """`shots` images of each class from every centre that trains.

        An image counts for the centre that its patient belongs to, as in LOCO.

        Args:
            fold: of the split, from 0.
            shots: images a class and centre.
            draw: from 0.

        Returns:
            (2 x centres x shots,) positions in the task's frame, increasing.

        Raises:
            SplitError: the training part has too few images of a class from a centre, or of unknown centre.
        """
        return self._first("center few-shot", fold, shots, draw)

    def reduced(self, fold: int, images: int, draw: int) -> Positions:
        """So many images at the training part's prevalence, at least one of each class.

        Args:
            fold: of the split, from 0.
            images: in all, at least two.
            draw: from 0.

        Returns:
            (images,) positions in the task's frame, increasing.

        Raises:
            SplitError: the training part has fewer images.
        """
        pool = self._pool(fold)
        total, events = len(pool.event), int(pool.event.sum())
        if not 2 <= images <= total:
            raise SplitError(
                f"{self._where(fold)} has {total} images in training, {images} are asked for: expected 2 to {total}"
            )
        # To the nearest, halves up, in whole numbers: so that more images never mean fewer of a class.
        wanted = min(max(1, (2 * images * events + total) // (2 * total)), images - 1)
        count = {1: wanted, 0: images - wanted}
        return _sorted([each.positions[: count[each.event]] for each in self._strata("reduced", fold, draw)])

    def of(self, regime: str, fold: int, size: int, draw: int) -> Positions:
        """The support set of a regime by its name.

        Args:
            regime: one of `REGIMES`.
            fold: of the split, from 0.
            size: shots, or images in all for `reduced`.
            draw: from 0.

        Raises:
            SplitError: there is no such regime, or the training part is too small.
        """
        by_name = {"few-shot": self.few_shot, "center few-shot": self.center_few_shot, "reduced": self.reduced}
        if regime not in by_name:
            raise SplitError(f"unknown regime {regime!r}, expected one of {', '.join(REGIMES)}")
        return by_name[regime](fold, size, draw)

    def largest_shots(self, fold: int, *, by_center: bool = False) -> int:
        """The most shots that a fold's training part allows.

        Args:
            fold: of the split, from 0.
            by_center: of every centre.
        """
        regime: Regime = "center few-shot" if by_center else "few-shot"
        return min(len(each.positions) for each in self._strata(regime, fold, 0))

    def _first(self, regime: Regime, fold: int, shots: int, draw: int) -> Positions:
        if shots < 1:
            raise SplitError(f"{self._where(fold)}: {shots} shots are asked for, expected at least 1")
        strata = self._strata(regime, fold, draw)
        for each in strata:
            if len(each.positions) < shots:
                self._refuse(fold, shots, each, self.largest_shots(fold, by_center=regime == "center few-shot"))
        return _sorted([each.positions[:shots] for each in strata])

    def _refuse(self, fold: int, shots: int, short: _Stratum, most: int) -> None:
        place = "" if short.center is None else f" from centre {short.center!r}"
        advice = f"ask for at most {most}" if most else "take another regime"
        raise SplitError(
            f"{self._where(fold)} has {len(short.positions)} images {'with' if short.event else 'without'} the event"
            f"{place} in training, {shots} shots are asked for: {advice}"
        )

    def _strata(self, regime: Regime, fold: int, draw: int) -> list[_Stratum]:
        """Class by class (and centre by centre) the images in the order in which they are drawn."""
        if draw < 0:
            raise SplitError(f"{self._where(fold)}: draw {draw} is asked for, expected 0 or more")
        key = (regime, fold, draw)
        if self._last is None or self._last[0] != key:
            self._last = (key, self._order(regime, fold, draw))
        return self._last[1]

    def _order(self, regime: Regime, fold: int, draw: int) -> list[_Stratum]:
        pool = self._pool(fold)
        salt = f"{self._rows.task.name}|{regime}|{self._split.names[fold]}|{draw}|".encode()
        unit, image = _hashed(pool.units, salt + b"unit|")[pool.unit], _hashed(pool.images, salt + b"image|")
        centers: list[str | None] = [None]
        if regime == "center few-shot":
            self._refuse_unknown(fold, pool)
            centers = sorted(set(pool.centers.tolist()))
        strata = []
        for event in (1, 0):
            for center in centers:
                chosen = pool.event == event
                if center is not None:
                    chosen &= pool.centers == center
                at = np.flatnonzero(chosen)
                strata.append(_Stratum(event, center, pool.positions[at[_in_turn(pool.unit[at], unit[at], image[at])]]))
        return strata

    def _refuse_unknown(self, fold: int, pool: _Pool) -> None:
        unknown = int((pool.centers == "").sum())
        if unknown:
            raise SplitError(
                f"{self._where(fold)}: {unknown} of {len(pool.centers)} images in training have no centre, and center "
                "few-shot draws from every centre: exclude them, or take few-shot"
            )

    def _pool(self, fold: int) -> _Pool:
        if fold not in self._pools:
            self._pools[fold] = _Pool(self._rows, self._split, fold)
        return self._pools[fold]

    def _where(self, fold: int) -> str:
        names = self._split.names
        return f"{self._split.task}, fold {names[fold] if 0 <= fold < len(names) else fold!r}"


def few_shot(rows: TaskRows, split: Split, fold: int, shots: int, draw: int) -> Positions:
    """One support set of `shots` images a class; for many use `Draws`."""
    return Draws(rows, split).few_shot(fold, shots, draw)


def center_few_shot(rows: TaskRows, split: Split, fold: int, shots: int, draw: int) -> Positions:
    """One support set of `shots` images a class and centre; for many use `Draws`."""
    return Draws(rows, split).center_few_shot(fold, shots, draw)


def reduced(rows: TaskRows, split: Split, fold: int, images: int, draw: int) -> Positions:
    """One support set of so many images at the training part's prevalence; for many use `Draws`."""
    return Draws(rows, split).reduced(fold, images, draw)


def largest_shots(rows: TaskRows, split: Split, fold: int, *, by_center: bool = False) -> int:
    """The most shots a class (and centre) that a fold's training part allows."""
    return Draws(rows, split).largest_shots(fold, by_center=by_center)


def _hashed(names: list[bytes], salt: bytes) -> npt.NDArray[np.uint64]:
    """(n,) the first eight bytes of each name's SHA-256 under a salt."""
    start = hashlib.sha256(salt)
    found = bytearray()
    for name in names:
        each = start.copy()
        each.update(name)
        found += each.digest()[:8]
    return np.frombuffer(bytes(found), dtype=">u8").astype(np.uint64)


def _in_turn(
    unit: npt.NDArray[np.int64], unit_hash: npt.NDArray[np.uint64], image_hash: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """(n,) order of images: each unit's first, then each unit's second, and so on; units in hashed order.

    Args:
        unit: (n,) which unit.
        unit_hash: (n,) of the unit.
        image_hash: (n,) of the image; of equal ones the earlier comes first.
    """
    by_unit = np.lexsort((image_hash, unit))
    turn = np.empty(len(unit), dtype=np.int64)
    first = np.flatnonzero(np.diff(unit[by_unit], prepend=-1))
    lengths = np.diff(np.append(first, len(unit)))
    turn[by_unit] = np.arange(len(unit)) - np.repeat(first, lengths)
    return np.lexsort((unit, unit_hash, turn))


def _sorted(parts: list[Positions]) -> Positions:
    return np.sort(np.concatenate(parts)).astype(np.int64)
