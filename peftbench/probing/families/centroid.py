"""The nearest class mean, by squared distance: of the scaled features, and of what SimpleShot makes of them.

Two ways to prepare rows z, after Wang, Chao, Weinberger and van der Maaten (2019):

- `none` (their UN): the scaled features themselves;
- `centred` (their CL2N): the mean of the two class means is subtracted and rows are brought to length 1. The mean of
  the class means, not of the rows, because it does not lean to the larger class.

With class means m0 and m1 the margin is |z - m0|^2 - |z - m1|^2 = 2 (z - (m0 + m1) / 2) . (m1 - m0). Without row i its
own class's mean moves away from it, and |z_i - m|^2 becomes |z_i - m|^2 (n_c / (n_c - 1))^2: the left-out margin in
closed form, with scaling and centre held. Both classes count the same, whatever their numbers: nothing is left to be
weighted.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit

from peftbench.probing.families.family import Candidate, Events, Features, Options, Scaling, Vector
from peftbench.probing.families.scaling import Matrix, Scaler, unit_rows
from peftbench.probing.families.slope import fit_slope, left_out_probability, row_weights

Normalisation = Literal["none", "centred"]

NORMALISATIONS: tuple[Normalisation, ...] = ("none", "centred")
"""The simplest first."""


class CentroidModel(NamedTuple):
    """Two class means; see `Model`.

    Attributes:
        scaler: of the features.
        centre: (d,) what is subtracted before rows are brought to length 1; None where they are not.
        means: (2, d) mean of the prepared rows without and with the event.
        slope: of the sigmoid.
        left_out: (n,) probability of each training row without it.
    """

    scaler: Scaler
    centre: Vector | None
    means: Matrix
    slope: float
    left_out: Vector

    def decision(self, features: Features) -> Vector:
        """(m,) margins, positive where the mean with the event is the nearer one."""
        return _margin(_prepared(self.scaler.apply(features), self.centre), self.means)

    def probability(self, features: Features) -> Vector:
        """(m,) probability of the event; 0.5 where both means are as near."""
        return np.asarray(expit(self.slope * self.decision(features)), dtype=np.float64)


class CentroidFamily:
    """The nearest class mean, also on few images: left-out margins choose between the two."""

    path = False

    def candidates(self, features: Features, event: Events, options: Options) -> Iterator[Candidate]:
        """See `Family`."""
        for normalisation in NORMALISATIONS:
            model = centroid_model(features, event, options.scaling, normalisation)
            yield Candidate({"normalisation": normalisation}, model)


CENTROID = CentroidFamily()


def centroid_model(features: Features, event: Events, scaling: Scaling, normalisation: Normalisation) -> CentroidModel:
    """Fit one.

    Args:
        features: (n, d) as stored.
        event: (n,) 0 or 1, both present.
        scaling: of the features.
        normalisation: of the scaled rows.
    """
    scaler = Scaler.fit(features, scaling)
    scaled = scaler.apply(features)
    centre = _class_means(scaled, event).mean(axis=0) if normalisation == "centred" else None
    rows = _prepared(scaled, centre)
    means = _class_means(rows, event)
    left_out = _left_out_margin(rows, event, means)
    slope = fit_slope(left_out, _margin(rows, means), event, row_weights(event, "balanced"))
    return CentroidModel(scaler, centre, means, slope, left_out_probability(left_out, slope, event))


def _prepared(scaled: Matrix, centre: Vector | None) -> Matrix:
    return scaled if centre is None else unit_rows(scaled - centre)


def _class_means(rows: Matrix, event: Events) -> Matrix:
    return np.stack([rows[event == each].mean(axis=0) for each in (0, 1)])


def _margin(rows: Matrix, means: Matrix) -> Vector:
    margin: Vector = 2.0 * (rows - means.mean(axis=0)) @ (means[1] - means[0])
    return margin


def _left_out_margin(rows: Matrix, event: Events, means: Matrix) -> Vector:
    """(n,); that of a row alone in its class says nothing."""
    distance: Matrix = np.stack([((rows - mean) ** 2).sum(axis=1) for mean in means], axis=1)
    counts = np.bincount(event, minlength=2)[event]
    distance[np.arange(len(event)), event] *= (counts / np.maximum(counts - 1, 1)) ** 2
    margin: Vector = distance[:, 0] - distance[:, 1]
    return margin
