"""Nearest neighbours by cosine as a scikit-learn classifier."""

from peftbench.errors import ConfigError
from peftbench.probing.estimators.base import BinaryProbe
from peftbench.probing.families.family import ClassWeight, Events, Features, Scaling
from peftbench.probing.families.knn import NeighborIndex, NeighborModel


class NeighborProbe(BinaryProbe):
    """Softmax-weighted votes of the nearest neighbours by cosine of the centred features.

    Args:
        k: how many vote; all rows, where there are fewer.
        scaling: of the features, learnt in `fit`: "feature", "global" or "none".
        balanced: whether the votes of a class are divided by its number of rows. Not named `class_weight`, because
            weights do not carry a class whose rows are not among the neighbours.
    """

    def __init__(self, k: int = 20, scaling: Scaling = "feature", *, balanced: bool = True) -> None:
        self.k = k
        self.scaling = scaling
        self.balanced = balanced

    def _fit_model(self, features: Features, event: Events) -> NeighborModel:
        if self.k < 1:
            raise ConfigError(f"k is {self.k!r}, expected 1 or more")
        weighting: ClassWeight = "balanced" if self.balanced else "none"
        return NeighborModel(NeighborIndex(features, event, [min(self.k, len(event))], self.scaling, weighting), 0)
