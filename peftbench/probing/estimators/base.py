"""What the estimators share: two labels of any kind become no event and event, and back.

A new one states its parameters in `__init__` and fits a `Model` in `_fit_model`; the rest is here.
"""

from abc import abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from peftbench.probing.families.family import Events, Features, Model, Vector

ClassWeights = str | dict[Any, float] | None
"""As everywhere in scikit-learn: "balanced", weights by label, or None."""


class BinaryProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A probe of two classes.

    Attributes:
        classes_: (2,) labels, sorted; the second is the event.
        n_features_in_: d.
        model_: the fitted `Model`.
    """

    model_: Any

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:  # noqa: N803 - scikit-learn's name
        """Fit to features and labels.

        Args:
            X: (n, d), finite.
            y: (n,) labels of two kinds.

        Raises:
            ValueError: labels of one class, or of more than two.
        """
        self.model_ = self._fit_model(*self._learn_classes(X, y))
        return self

    def predict_proba(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:  # noqa: N803
        """(m, 2) probability of either class, from (m, d) features."""
        features = self._checked(X)
        event = self.model_.probability(features)
        return np.stack([1.0 - event, event], axis=1)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:  # noqa: N803
        """(m,) label of the class that is more probable; of equals the first."""
        return self._labels(np.argmax(self.predict_proba(X), axis=1))

    def _learn_classes(self, X: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Features, Events]:  # noqa: N803
        """(n, d) checked features and (n,) 0 or 1; sets `classes_`."""
        features, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        self.classes_, event = np.unique(labels, return_inverse=True)
        self._check_classes()
        return features, event.astype(np.int64)

    def _event_of(self, y: npt.ArrayLike) -> Events:
        """(m,) 0 or 1 for labels of the kinds that were fitted."""
        labels = np.asarray(y)
        strange = np.setdiff1d(labels, self.classes_)
        if len(strange):
            known = self.classes_.tolist()
            raise ValueError(f"label {strange.tolist()[0]!r} was not among those that were fitted, {known}")
        return np.asarray(labels == self.classes_[1], dtype=np.int64)

    @abstractmethod
    def _fit_model(self, features: Features, event: Events) -> Model:
        """Fit to (n, d) checked features and (n,) 0 or 1, both present."""

    def _labels(self, event: Events) -> npt.NDArray[Any]:
        labels: npt.NDArray[Any] = self.classes_[event]
        return labels

    def _checked(self, X: npt.ArrayLike) -> Features:  # noqa: N803
        check_is_fitted(self, "model_")
        features: Features = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return features

    def _check_classes(self) -> None:
        if len(self.classes_) == 1:
            raise ValueError(f"{type(self).__name__} needs labels of two classes, got 1 class: {self.classes_[0]!r}")
        if len(self.classes_) > 2:
            raise ValueError(
                f"Only binary classification is supported by {type(self).__name__}, got {len(self.classes_)} classes. "
                "The type of the target is multiclass: fit one probe for each class, as OneVsRestClassifier does"
            )

    def _row_weights(self, class_weight: ClassWeights, event: Events) -> Vector:
        """(n,) weights of the rows, as `class_weight` says for the labels as they were given."""
        return np.asarray(compute_sample_weight(class_weight, self.classes_[event]), dtype=np.float64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class MarginProbe(BinaryProbe):
    """A probe whose model has a `decision`. That decides: a probability is 0.5 already where a margin is tiny."""

    def decision_function(self, X: npt.ArrayLike) -> Vector:  # noqa: N803
        """(m,) decision values, positive for the second class, from (m, d) features."""
        features = self._checked(X)
        value: Vector = self.model_.decision(features)
        return value

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:  # noqa: N803
        """(m,) label of the side of the boundary; on it, the first."""
        return self._labels((self.decision_function(X) > 0).astype(np.int64))
