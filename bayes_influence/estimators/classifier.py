"""`BayesianClassifier`: class probabilities of a Bayesian network, in scikit-learn's terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from bayes_influence.estimators.base import BayesianEstimator
from bayes_influence.objectives.prediction import predict_classes
from bayes_influence.training.schemes import Variational


class BayesianClassifier(ClassifierMixin, BayesianEstimator):
    """A classifier whose probabilities are averages over the posterior; see `BayesianEstimator` for its arguments.

    Attributes:
        classes_: The labels of the training examples, sorted.
    """

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """(n, classes) predictive probabilities, linearised in the weights, see `objectives/prediction.py`.

        Raises:
            NotFittedError: If there is no network yet.
            ValueError: If the rows do not fit the training inputs.
        """
        inputs = self._inputs(X)
        return predict_classes(self.fits_.at(0), inputs).probabilities.numpy()

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """(n,) most probable labels.

        Raises:
            NotFittedError: If there is no network yet.
            ValueError: If the rows do not fit the training inputs.
        """
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    @property
    def _class_names(self) -> tuple[str, ...]:
        return tuple(str(label) for label in self.classes_)

    def _target_options(self) -> dict[str, Any]:
        return {}

    def _learn_targets(self, targets: np.ndarray, weights: np.ndarray) -> None:
        check_classification_targets(targets)
        self.classes_ = np.unique(targets)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs two classes or more, got one class: {self.classes_.tolist()[0]!r}")

    def _encoded(self, targets: np.ndarray) -> Int[Tensor, " n"]:
        unknown = np.setdiff1d(targets, self.classes_).tolist()
        if unknown:
            raise ValueError(f"no training example has the class {unknown[0]!r}; there are {self.classes_.tolist()}")
        return torch.from_numpy(np.searchsorted(self.classes_, targets))

    def _scheme(self, kl_weight: float) -> Variational:
        return self._variational(kl_weight)
