"""Probes as scikit-learn estimators, for pipelines and notebooks of one's own. Knows no stores and no cohorts."""

from peftbench.probing.estimators.centroid import CentroidProbe
from peftbench.probing.estimators.logistic import LogisticProbe
from peftbench.probing.estimators.neighbor import NeighborProbe
from peftbench.probing.estimators.ridge import RidgeProbe

__all__ = ["CentroidProbe", "LogisticProbe", "NeighborProbe", "RidgeProbe"]
