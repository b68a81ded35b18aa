"""What a probe may see of a task's rows: one or several readings of the features, clinical variables, or both."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from peftbench.probing.clinical import Blocks
from peftbench.probing.families.family import Features, Options

Positions = npt.NDArray[np.int64]


class Given(NamedTuple):
    """Matrices with the task's rows; at least one of the two.

    Attributes:
        readings: name to (n, d) features: of one forward pass there may be several, and the best is chosen.
        clinical: (n, c) clinical variables, NaN where unknown; None without.
    """

    readings: Mapping[str, Features]
    clinical: Features | None = None

    def names(self) -> list[str]:
        """Names of the readings; one without a name where there are clinical variables only."""
        return list(self.readings) or [""]


class View(NamedTuple):
    """One reading as a fold sees it: what is learnt of clinical variables is learnt on the training part.

    Attributes:
        image: (n, d) features, or None.
        clinical: (n, c), or None.
        blocks: what joins them; None where there is the image alone.
    """

    image: Features | None
    clinical: Features | None
    blocks: Blocks | None

    @classmethod
    def of(cls, given: Given, reading: str, train: Positions) -> "View":
        """A reading, joined with clinical variables as the training part teaches."""
        image = given.readings.get(reading)
        if given.clinical is None:
            return cls(image, None, None)
        part = None if image is None else image[train]
        return cls(image, given.clinical, Blocks.fit(part, given.clinical[train]))

    def rows(self, positions: Positions) -> Features:
        """(k, d) features of some rows."""
        image = None if self.image is None else self.image[positions]
        if self.blocks is None or self.clinical is None:
            if image is None:
                raise ValueError("a probe needs features, clinical variables, or both")
            return np.asarray(image)
        return self.blocks.apply(image, self.clinical[positions])

    def options(self, options: Options) -> Options:
        """The options for this view: joined blocks are scaled already."""
        return options if self.blocks is None else options._replace(scaling="none")
