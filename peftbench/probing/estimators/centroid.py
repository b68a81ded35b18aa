"""The nearest class mean as a scikit-learn classifier."""

from typing import get_args

from peftbench.errors import ConfigError
from peftbench.probing.estimators.base import MarginProbe
from peftbench.probing.families.centroid import CentroidModel, Normalisation, centroid_model
from peftbench.probing.families.family import Events, Features, Scaling


class CentroidProbe(MarginProbe):
    """The nearer of two class means, with a calibrated probability. Both classes count the same.

    Args:
        normalisation: "none", or "centred": rows are centred between the class means and brought to length 1.
        scaling: of the features, learnt in `fit`: "feature", "global" or "none".
    """

    def __init__(self, normalisation: Normalisation = "none", scaling: Scaling = "feature") -> None:
        self.normalisation = normalisation
        self.scaling = scaling

    def _fit_model(self, features: Features, event: Events) -> CentroidModel:
        if self.normalisation not in get_args(Normalisation):
            known = ", ".join(get_args(Normalisation))
            raise ConfigError(f"normalisation is {self.normalisation!r}, expected one of {known}")
        return centroid_model(features, event, self.scaling, self.normalisation)
