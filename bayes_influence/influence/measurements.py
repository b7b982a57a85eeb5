"""What can be measured on a test example besides its loss: entropies, variances and margins of the prediction.

Each is a function `(outputs, targets) -> (B,)`, as a likelihood is. Outputs are logits (B, C), or `Moments` of them for
a Bayesian network: its predictive distribution is the average softmax over independent Gaussian logits, by a fixed set
of quasi-random draws, so that every measurement is a deterministic and smooth function of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.expected_likelihoods import sobol_normals
from bayes_influence.objectives.objective import Likelihood
from bayes_influence.objectives.parameters import Params

ParameterMeasurement = Callable[[Params], Tensor]
"""A scalar function of the selected parameters, by name."""

DRAWS = 128
"""Quasi-random draws of the logits; a power of two keeps the set balanced."""


def log_probabilities(outputs: Tensor | Moments) -> Float[Tensor, "S B C"]:
    """Log-probabilities of the classes under S draws of the logits; S = 1 for a deterministic network."""
    if isinstance(outputs, Moments):
        normals = (
            torch.from_numpy(sobol_normals(DRAWS, outputs.expectation.shape[-1], seed=0))
            .to(outputs.expectation)
            .unsqueeze(1)
        )
        return torch.log_softmax(outputs.expectation + outputs.standard_deviation * normals, dim=-1)
    return torch.log_softmax(outputs, dim=-1).unsqueeze(0)


def predictive(outputs: Tensor | Moments) -> Float[Tensor, "B C"]:
    """The predictive distribution: the average softmax over the draws."""
    return log_probabilities(outputs).exp().mean(0)


@dataclass(frozen=True)
class PredictiveEntropy:
    """-sum_c p_c log p_c of the predictive distribution p, in nats: the whole uncertainty of the prediction."""

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Entropies, one per example; the targets do not matter."""
        return _entropy(torch.logsumexp(log_probabilities(outputs), dim=0) - _log_draws(outputs))


@dataclass(frozen=True)
class MutualInformation:
    """Entropy of the predictive distribution minus the mean entropy of its draws, in nats.

    The part of the uncertainty that more data could remove.

    Raises:
        TypeError: When called with the outputs of a deterministic network, for which it is 0 everywhere.
    """

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Mutual information of label and parameters, one per example."""
        draws = log_probabilities(_moments(outputs, "the mutual information of label and parameters"))
        return _entropy(torch.logsumexp(draws, dim=0) - _log_draws(outputs)) - _entropy(draws).mean(0)


@dataclass(frozen=True)
class PredictiveVariance:
    """sum_c p_c (1 - p_c): the total variance of the one-hot label under the predictive distribution p."""

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Variances, one per example; the targets do not matter."""
        probabilities = predictive(outputs)
        return (probabilities * (1 - probabilities)).sum(-1)


@dataclass(frozen=True)
class OutputVariance:
    """sum_c v_c: the total variance of a Bayesian network's outputs.

    Raises:
        TypeError: When called with the outputs of a deterministic network.
    """

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Variances, one per example; the targets do not matter."""
        variance = _moments(outputs, "the variance of the outputs").variance
        return variance.reshape(len(variance), -1).sum(-1)


@dataclass(frozen=True)
class Margin:
    """z_y - max_{c != y} z_c of the logits' means: negative where the prediction is wrong."""

    def __call__(self, outputs: Tensor | Moments, targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Margins, one per example."""
        logits = outputs.expectation if isinstance(outputs, Moments) else outputs
        own = targets.unsqueeze(-1) == torch.arange(logits.shape[-1], device=logits.device)
        return (logits * own).sum(-1) - torch.where(own, -torch.inf, logits).amax(-1)


def measurement_gradients(problem: FittedProblem, measurement: Likelihood, test: Dataset) -> Float[Tensor, "t P"]:
    """Gradients of a measurement in the selected parameters, one row per test example.

    Raises:
        ValueError: If the measurement is not one number per test example, or has no finite gradient.
    """
    objective, data = problem.measuring(measurement), problem.reduce(test)
    for batch in data.batches(problem.batch_size):
        with torch.no_grad():
            values = measurement(objective.outputs(objective.params, batch.inputs), batch.targets)
        if not isinstance(values, Tensor) or values.shape != (len(batch.targets),):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"the measurement {name_of(measurement)!r} must be one number per test example, shape "
                f"({len(batch.targets)},), got {got}; measure one quantity at a time"
            )
    return problem.gradients(data, objective)


def name_of(measurement: object) -> str:
    """What a measurement is called in scores and messages."""
    return getattr(measurement, "__name__", type(measurement).__name__)


def _entropy(log_p: Float[Tensor, "*lead C"]) -> Float[Tensor, "*lead"]:
    return -(log_p.exp() * log_p).sum(-1)


def _log_draws(outputs: Tensor | Moments) -> float:
    return log(DRAWS) if isinstance(outputs, Moments) else 0.0


def _moments(outputs: Tensor | Moments, what: str) -> Moments:
    if not isinstance(outputs, Moments):
        raise TypeError(f"{what} needs a Bayesian network; this one returns {type(outputs).__name__}")
    return outputs
