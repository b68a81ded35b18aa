"""Nearest neighbours by cosine, with softmax-weighted votes: exact, in blocks, one pass for all numbers of neighbours.

Features are scaled, the training mean subtracted and rows brought to length 1. A training row votes for its class with
the weight exp(similarity / 0.07), as in DINO's protocol (Caron et al. 2021, after Wu et al. 2018). With balanced
classes the votes of a class are divided by its number of training rows: the votes for a class then estimate its
density, and their share is the probability under equal priors.

All rows as similar as the k-th, to within rounding, vote. So the order of the rows does not matter where many are the
same, as with the view alone, and a row that is similar to nothing gets a vote of all.

Leaving a row out removes its vote; the mean and the scale of the features are held.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peftbench.probing.families.family import Candidate, ClassWeight, Events, Features, Options, Scaling, Vector
from peftbench.probing.families.scaling import Matrix, Scaler, unit_rows

Singles = npt.NDArray[np.float32]

NEIGHBOURS: tuple[int, ...] = (200, 100, 50, 20, 10, 5, 3, 1)
"""How many vote. The most come first: a vote of many is the smoothest, and of equals the first is chosen."""

TEMPERATURE = 0.07

TIE = 2e-6
"""Similarities that differ by less are equal; they are computed in single precision."""

_BLOCK = 2**23
"""Similarities held at a time: 32 MiB, and a few copies."""


class NeighborIndex:
    """The training rows, and the votes they cast.

    Args:
        features: (n, d) as stored.
        event: (n,) 0 or 1.
        neighbours: how many vote; each at most n.
        scaling: of the features.
        class_weight: `balanced`: votes of a class are divided by its number of rows.
    """

    def __init__(
        self, features: Features, event: Events, neighbours: Sequence[int], scaling: Scaling, class_weight: ClassWeight
    ) -> None:
        self.neighbours = tuple(neighbours)
        scaler = Scaler.fit(features, scaling)
        self._scaler = scaler if scaling != "none" else scaler._replace(mean=Scaler.fit(features, "global").mean)
        self._rows = self._unit(features)
        self._event = event
        self._class = np.stack([event == 0, event == 1], axis=1).astype(np.float32)
        self._balanced = class_weight == "balanced"
        self._asked: tuple[bytes, Matrix] | None = None
        self._left_out: Matrix | None = None

    def probability(self, features: Features) -> Matrix:
        """(m, number of ks) probability of the event; the last answer is kept, because every k asks for it."""
        asked = _digest(features)
        if self._asked is None or self._asked[0] != asked:
            self._asked = (asked, self._vote(self._unit(features), own=False))
        return self._asked[1]

    def left_out(self) -> Matrix:
        """(n, number of ks) probability of each training row without its own vote."""
        if self._left_out is None:
            self._left_out = self._vote(self._rows, own=True)
        return self._left_out

    def _unit(self, features: Features) -> Singles:
        return unit_rows(self._scaler.apply(features)).astype(np.float32)

    def _vote(self, rows: Singles, *, own: bool) -> Matrix:
        """(m, number of ks); with `own`, the rows are the training rows and do not vote for themselves."""
        step = max(1, _BLOCK // len(self._rows))
        return np.vstack([self._block(rows, start, start + step, own=own) for start in range(0, len(rows), step)])

    def _block(self, rows: Singles, start: int, stop: int, *, own: bool) -> Matrix:
        similarity = rows[start:stop] @ self._rows.T
        if own:
            np.fill_diagonal(similarity[:, start:], -np.inf)
        votes = self._votes(similarity, len(self._rows) - own)
        mass = self._mass(self._event[start:stop] if own else None)
        with np.errstate(divide="ignore", invalid="ignore"):
            cast = votes / mass[:, None, :]
            share = cast[..., 1] / cast.sum(axis=-1)
        # A class without rows cannot be told from the other.
        return np.where(mass.min(axis=1, keepdims=True) > 0, share, 0.5)

    def _votes(self, similarity: Singles, most: int) -> Matrix:
        """(b, number of ks, 2) summed weights by class."""
        places = [similarity.shape[1] - min(k, most) for k in self.neighbours]
        least = np.partition(similarity, sorted(set(places)), axis=1)[:, places] - np.float32(TIE)
        weight = np.exp((similarity - similarity.max(axis=1, keepdims=True)) / np.float32(TEMPERATURE))
        votes = np.empty((len(similarity), len(places), 2))
        for at in range(len(places)):
            votes[:, at] = np.where(similarity >= least[:, at, None], weight, np.float32(0.0)) @ self._class
        return votes

    def _mass(self, own: Events | None) -> Matrix:
        """(1 or b, 2) what the votes of each class are divided by; 0 where no row is left of a class."""
        counts = np.bincount(self._event, minlength=2).astype(np.float64)[None, :]
        if own is not None:
            counts = counts - np.stack([own == 0, own == 1], axis=1)
        return counts if self._balanced else (counts > 0).astype(np.float64)


@dataclass(frozen=True)
class NeighborModel:
    """The vote of one number of neighbours; see `Model`."""

    index: NeighborIndex
    place: int

    @property
    def left_out(self) -> Vector:
        """(n,) probability of each training row without its own vote; computed when first asked for."""
        return self.index.left_out()[:, self.place]

    def probability(self, features: Features) -> Vector:
        """(m,) share of the votes for the event."""
        return self.index.probability(features)[:, self.place]


class NeighborFamily:
    """Nearest neighbours, the most of them first, also on few images: their left-out votes choose among them."""

    path = False

    def __init__(self, neighbours: Sequence[int] = NEIGHBOURS) -> None:
        self.neighbours = tuple(neighbours)

    def candidates(self, features: Features, event: Events, options: Options) -> Iterator[Candidate]:
        """See `Family`; numbers above n become n."""
        capped = tuple(dict.fromkeys(min(k, len(event)) for k in self.neighbours))
        index = NeighborIndex(features, event, capped, options.scaling, options.class_weight)
        for place, k in enumerate(capped):
            yield Candidate({"k": k}, NeighborModel(index, place))


KNN = NeighborFamily()


def _digest(features: Features) -> bytes:
    told = hashlib.blake2b(f"{features.shape}{features.dtype}".encode())
    told.update(np.ascontiguousarray(features).data)
    return told.digest()
