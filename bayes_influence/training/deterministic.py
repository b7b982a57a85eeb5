"""Schemes of deterministic networks: plain, with dropout, with a posterior beside them, several together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.models.ensemble import NetworkEnsemble
from bayes_influence.objectives.ensembles import EnsembleCrossEntropy
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Likelihood, Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.dropout import DROPOUT, with_dropout
from bayes_influence.training.laplace import Covariance, Evidence, LaplacePosterior, laplace
from bayes_influence.training.scheme import Scheme

ENSEMBLE_SIZE = 5
"""Networks of a deep ensemble, as published: more of them changed little (Lakshminarayanan et al. 2017)."""

WEIGHT_DECAY = 0.005
"""The papers' coupled weight decay (Epifano et al., the Iris study)."""

CRITERIA: dict[str, Likelihood] = {
    "classification": CrossEntropy(),
    "labels": Bernoulli(),
    "regression": GaussianNoise(1.0),
}
"""Losses of deterministic networks by what is predicted; of standardised real targets, half the squared error."""


@dataclass(frozen=True)
class Deterministic(Scheme):
    """A likelihood, cross-entropy say, with or without weight decay, with or without SWA.

    Attributes:
        criterion: Per-example losses of the outputs.
        weight_decay: lambda in (lambda/2) ||theta||^2; the regulariser's weight says whether it applies.
    """

    weight_decay: float = WEIGHT_DECAY
    criterion: Likelihood = CrossEntropy()  # noqa: RUF009 - frozen and without state

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("weight_decay")

    def suited(self, task: str, n_targets: int = 1) -> Scheme:
        """With `CrossEntropy`, `Bernoulli` or `GaussianNoise` of standard deviation 1."""
        return self if task == "classification" else replace(self, criterion=CRITERIA[task])

    @property
    def options(self) -> dict[str, Any]:
        """As of every scheme; lambda only where it applies."""
        every = {name: value for name, value in super().options.items() if name != "criterion"}
        return every if self.regularised else {name: value for name, value in every.items() if name != "weight_decay"}

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network itself."""
        return network

    def objective(self, network: nn.Module, n_train: int, parameters: str | Sequence[str] = "all") -> Objective:
        """The likelihood plus weight decay."""
        return Objective(network, self.criterion, WeightDecay(self.weight_decay), self.regulariser_weight, parameters)


@dataclass(frozen=True)
class Dropout(Deterministic):
    """Dropout while training (Srivastava et al. 2014); estimates and refits are in evaluation mode, without it.

    Attributes:
        probability: p of dropping an input of a fully connected layer, see `with_dropout`.
    """

    probability: float = DROPOUT

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.probability < 1:
            raise ValueError(f"probability of the scheme {self.name} must lie in (0, 1), got {self.probability}")

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network with dropout in front of its fully connected layers."""
        return with_dropout(network, self.probability)


@dataclass(frozen=True)
class Laplace(Deterministic):
    """Weight decay, and Laplace's approximation around the network that it ends at, see `laplace`.

    Trained, linearised and refitted is the objective of the mean; predictions are made under the posterior.

    Attributes:
        covariance: What of the curvature is kept.
        posterior_parameters: Those that are random.
        prior_precision: That of the weight decay, or the one of the largest marginal likelihood.
    """

    covariance: Covariance = "full"
    posterior_parameters: Literal["last-layer", "all"] = "last-layer"
    prior_precision: Evidence = "weight-decay"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.regularised:
            raise ValueError(
                f"regulariser_weight of the scheme {self.name} must be positive, got {self.regulariser_weight}: "
                "without weight decay there is no prior"
            )

    def suited(self, task: str, n_targets: int = 1) -> Scheme:
        """Itself, for classes alone; see `Scheme.suited`."""
        return Scheme.suited(self, task, n_targets)

    def posterior(self, objective: Objective, train: Dataset) -> LaplacePosterior:
        """Laplace's approximation where training ended."""
        return laplace(
            objective,
            train,
            covariance=self.covariance,
            parameters=self.posterior_parameters,
            prior_precision=self.prior_precision,
        )


@dataclass(frozen=True)
class DeepEnsemble(Deterministic):
    """Several networks from different starts, each with weight decay, that predict by the mean of their probabilities.

    J = (1/K) sum_k J_k, so that each ends where it would alone, and the influence on J's loss is the mean of theirs.
    All see the examples in the same order.

    Attributes:
        size: K, how many networks.
    """

    size: int = ENSEMBLE_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 2:
            raise ValueError(f"size of the scheme {self.name} must be at least 2 networks, got {self.size}")

    def suited(self, task: str, n_targets: int = 1) -> Scheme:
        """Itself, for classes alone; see `Scheme.suited`."""
        return Scheme.suited(self, task, n_targets)

    def prepare(self, network: nn.Module) -> nn.Module:
        """Copies of the network side by side, all at its weights; see `built`."""
        return NetworkEnsemble([copy.deepcopy(network) for _ in range(self.size)])

    def built(self, make_network: Callable[[], nn.Module]) -> nn.Module:
        """As many networks as there are members, each built for itself.

        Raises:
            ValueError: If they come with the same weights.
        """
        members = [make_network() for _ in range(self.size)]
        first, second = (dict(member.named_parameters()) for member in members[:2])
        if all(torch.equal(value, second[name]) for name, value in first.items()):
            raise ValueError(
                f"the scheme {self.name} needs networks from different starts, but two came with the same weights; "
                "build them without a seed of their own, and without a warm start"
            )
        return NetworkEnsemble(members)

    def objective(self, network: nn.Module, n_train: int, parameters: str | Sequence[str] = "all") -> Objective:
        """The mean over the networks of their losses and of their weight decay."""
        decay = WeightDecay(self.weight_decay / self.size)
        return Objective(network, EnsembleCrossEntropy(), decay, self.regulariser_weight, parameters)
