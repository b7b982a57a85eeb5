"""What the estimators share: inputs in units of their own, one Bayesian network, and influence on its fit."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from bayes_influence.arguments import shown
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.models.mlp import MLP
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.priors import Prior
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import Variational


class BayesianEstimator(BaseEstimator):
    """A Bayesian multilayer perceptron on standardised inputs, trained by its ELBO on all examples at once.

    Args:
        width: Units of a hidden layer.
        depth: Hidden layers.
        activation: A key of `ACTIVATIONS`.
        prior: Whether the prior's standard deviations are by fan-in or one for all weights, see `prior_scales`.
        prior_scale: Their scale.
        kl_weight: Weight of the KL; 1 is the ELBO itself, less a posterior that is colder, and so narrower.
        epochs: Steps of Adam.
        learning_rate: Of Adam.
        tolerance: Gradient norm to which the last layer is brought after that, see `fit_schemes`; None leaves it.
        random_state: Of the network's first weights.

    Attributes:
        fits_: The trained network as a stack of one, as `save` and the retraining protocols take it.
        train_: The examples of weight above 0 that it was trained on, as the network sees them; ids are rows of X.
        input_mean_: Of every column.
        input_scale_: Standard deviation of every column; 1 where it is constant.
        n_features_in_: How many columns there are.
    """

    def __init__(
        self,
        width: int = 16,
        depth: int = 1,
        activation: str = "tanh",
        prior: Prior = "isotropic",
        prior_scale: float = 1.0,
        kl_weight: float = 1.0,
        epochs: int = 500,
        learning_rate: float = 0.03,
        tolerance: float | None = 1e-8,
        random_state: Any = None,
    ) -> None:
        self.width = width
        self.depth = depth
        self.activation = activation
        self.prior = prior
        self.prior_scale = prior_scale
        self.kl_weight = kl_weight
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.tolerance = tolerance
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BayesianEstimator:  # noqa: N803 - scikit-learn's name
        """Trains the network: -ELBO = sum_i w_i l_i + kl_weight KL, a weight of 2 counting as an example seen twice.

        Args:
            X: (n, features) real numbers.
            y: (n,) targets.
            sample_weight: (n,) numbers of at least 0; 1 where not given. A row of weight 0 takes no part in anything.

        Raises:
            ValueError: If there are fewer than 2 examples, values are missing or infinite, weights are none, or as
                the kind of estimator says.
        """
        inputs, targets = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2, **self._target_options())
        weights = _checked_weights(sample_weight, len(inputs))
        rows = np.flatnonzero(weights)
        inputs, targets, weights = inputs[rows], targets[rows], weights[rows]
        self.input_mean_, self.input_scale_ = mean_and_scale(inputs, weights)
        self._learn_targets(targets, weights)
        total = weights.sum()
        self.train_ = self._dataset(inputs, targets, rows, weights * (len(rows) / total))
        # J is a mean over len(rows) terms, with weights whose mean is 1; the KL stands beside `total` of them.
        scheme = self._scheme(kl_weight=float(self.kl_weight * len(rows) / total))
        (self.fits_,) = fit_schemes(
            [scheme],
            lambda: MLP(self.n_features_in_, self._n_outputs, self.width, self.depth, self.activation),
            self.train_,
            [int(check_random_state(self.random_state).randint(2**31 - 1))],
            Schedule(self.epochs, self.learning_rate),
            tolerance=self.tolerance,
            fewest=1,
        )
        return self

    def dataset(self, X: Any, y: Any) -> Dataset:  # noqa: N803
        """Other examples as the network sees them, ids numbering the rows: what scores and loss changes are taken on.

        Args:
            X: (n, features).
            y: (n,) targets.

        Raises:
            NotFittedError: If there is no network yet.
            ValueError: If they do not fit what the network was trained on.
        """
        check_is_fitted(self)
        inputs, targets = validate_data(self, X, y, dtype=np.float64, reset=False, **self._target_options())
        return self._dataset(inputs, targets, np.arange(len(inputs)))

    def influence(self, **options: Any) -> Influence:
        """Influence of the training examples, such as `.on_loss(estimator.dataset(X_test, y_test))`.

        Args:
            **options: See `Influence`; its parameters are those of the last layer where not said otherwise.

        Raises:
            NotFittedError: If there is no network yet.
        """
        check_is_fitted(self)
        return Influence(self.fits_.at(0), self.train_, **options)

    def _inputs(self, X: Any) -> Float[Tensor, "n features"]:  # noqa: N803
        """New rows in the units of the training inputs."""
        check_is_fitted(self)
        return self._standardised(validate_data(self, X, dtype=np.float64, reset=False))

    def _standardised(self, inputs: np.ndarray) -> Float[Tensor, "n features"]:
        return torch.from_numpy((inputs - self.input_mean_) / self.input_scale_)

    def _dataset(
        self, inputs: np.ndarray, targets: np.ndarray, rows: np.ndarray, weights: np.ndarray | None = None
    ) -> Dataset:
        return Dataset(
            self._standardised(inputs),
            self._encoded(targets),
            torch.from_numpy(rows),
            "the rows",
            feature_names=tuple(getattr(self, "feature_names_in_", ())),
            class_names=self._class_names,
            weights=None if weights is None else torch.from_numpy(weights),
        )

    def _variational(self, kl_weight: float, **options: Any) -> Variational:
        return Variational(
            "bnn", regulariser_weight=kl_weight, prior=self.prior, prior_scale=self.prior_scale, **options
        )

    @property
    @abstractmethod
    def _n_outputs(self) -> int:
        """Of the network."""

    @property
    def _class_names(self) -> tuple[str, ...]:
        return ()

    @abstractmethod
    def _target_options(self) -> dict[str, Any]:
        """How scikit-learn checks targets."""

    @abstractmethod
    def _learn_targets(self, targets: np.ndarray, weights: np.ndarray) -> None:
        """What the training targets say of their encoding."""

    @abstractmethod
    def _encoded(self, targets: np.ndarray) -> Tensor:
        """Targets as the likelihood takes them."""

    @abstractmethod
    def _scheme(self, kl_weight: float) -> Variational:
        """What is trained."""


def mean_and_scale(
    values: Num[np.ndarray, "n features"], weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, " features"]]:
    """Weighted mean and standard deviation over the rows; the latter is 1 for a column that is constant."""
    mean = np.average(values, axis=0, weights=weights)
    deviation = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    return mean, np.where(values.max(axis=0) == values.min(axis=0), 1.0, deviation)


def _checked_weights(sample_weight: Any, count: int) -> Float[np.ndarray, " n"]:
    """One float per row, and not all of them 0."""
    if sample_weight is None:
        return np.ones(count)
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (count,):
        raise ValueError(f"sample_weight must have shape ({count},), one weight per row of X, got {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"every sample_weight must be finite and at least 0, got {shown(weights)}")
    if not weights.any():
        raise ValueError("every sample_weight is zero, so that no row is left to train on; give some rows a weight")
    return weights
