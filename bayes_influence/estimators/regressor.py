"""`BayesianRegressor`: means and standard deviations of a Bayesian network with learned noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import RegressorMixin
from torch import Tensor

from bayes_influence.arguments import shown
from bayes_influence.estimators.base import BayesianEstimator, mean_and_scale
from bayes_influence.moments.prediction import linearized_moments
from bayes_influence.objectives.expected_likelihoods import ExpectedGaussian
from bayes_influence.training.schemes import Variational

LIKELIHOOD = ExpectedGaussian(None)
"""Real targets with Gaussian noise of learned scale."""


class BayesianRegressor(RegressorMixin, BayesianEstimator):
    """A regressor of one real target with Gaussian noise of learned scale; see `BayesianEstimator` for its arguments.

    Attributes:
        target_mean_: Of the training targets.
        target_scale_: Their standard deviation; 1 where they are constant.
    """

    def predict(self, X: Any, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:  # noqa: N803
        """(n,) predictive means in the units of y; with `return_std` also (n,) standard deviations of y.

        The variance is that of the output, linearised in the weights (see `linearized_moments`), plus the noise's.

        Args:
            X: (n, features).
            return_std: Whether standard deviations are returned, too.

        Raises:
            NotFittedError: If there is no network yet.
            ValueError: If the rows do not fit the training inputs.
        """
        inputs = self._inputs(X)
        objective = self.fits_.at(0)
        outputs = linearized_moments(objective.network, inputs, objective.params)
        mean, log_scale = LIKELIHOOD.split(outputs.expectation)
        found = self.target_mean_ + self.target_scale_ * mean[:, 0].numpy()
        if not return_std:
            return found
        variance = LIKELIHOOD.split(outputs.variance)[0] + torch.exp(2 * log_scale)
        return found, self.target_scale_ * variance[:, 0].sqrt().numpy()

    @property
    def _n_outputs(self) -> int:
        return 1

    def _target_options(self) -> dict[str, Any]:
        return {"y_numeric": True}

    def _learn_targets(self, targets: np.ndarray, weights: np.ndarray) -> None:
        if targets.dtype.kind not in "biuf":
            raise ValueError(f"y must hold numbers, got {shown(targets[0])}; take BayesianClassifier for classes")
        mean, scale = mean_and_scale(targets[:, None], weights)
        self.target_mean_, self.target_scale_ = float(mean[0]), float(scale[0])

    def _encoded(self, targets: np.ndarray) -> Float[Tensor, "n 1"]:
        standardised = (np.asarray(targets, dtype=np.float64) - self.target_mean_) / self.target_scale_
        return torch.from_numpy(standardised[:, None])

    def _scheme(self, kl_weight: float) -> Variational:
        return self._variational(kl_weight, likelihood=LIKELIHOOD, learned_noise=1)
