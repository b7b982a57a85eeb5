"""What can be measured on a test example besides its loss: entropies, variances and margins of the prediction.

Each is a function `(outputs, targets) -> (B,)`, as a likelihood is. What outputs mean, the objective's likelihood says
(see `Predictive`): influence asks it, and who calls a measurement alone names it. Every measurement is a deterministic
and smooth function of the parameters, of `Moments` too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.moments.arithmetic import mean_of
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.next_token import NextToken
from bayes_influence.objectives.objective import Likelihood, Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.predictive import Predictive, RealPredictive, predictive_of

ParameterMeasurement = Callable[[Params], Tensor]
"""A scalar function of the selected parameters, by name."""


@dataclass(frozen=True)
class PredictiveMeasurement:
    """A measurement of the predictive distribution.

    Attributes:
        likelihood: Says what the outputs mean; the objective's where it is not given.

    Raises:
        TypeError: When called, if there is no likelihood or it does not say.
    """

    likelihood: Likelihood | None = None

    takes_logits = True

    def of(self, likelihood: Likelihood) -> PredictiveMeasurement:
        """The same with an objective's likelihood, unless it has one."""
        return self if self.likelihood is not None else replace(self, likelihood=likelihood)

    def at(self, objective: Objective, data: Dataset) -> Float[Tensor, " n"]:
        """What it is of every example, where an objective stands.

        Args:
            objective: Whose likelihood says what outputs mean.
            data: Examples.
        """
        measured, batch = self.of(objective.likelihood), data.to(dtype=objective.dtype).batch()
        with torch.no_grad():
            return measured(objective.outputs(objective.params, batch.inputs), batch.targets)

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """The measurement of every example of a batch."""
        raise NotImplementedError

    @property
    def predictive(self) -> Predictive:
        """What says what the outputs mean.

        Raises:
            TypeError: If nothing does.
        """
        name = type(self).__name__
        if self.likelihood is None:
            raise TypeError(f"{name} depends on what the outputs mean; name the likelihood, as {name}(CrossEntropy())")
        return predictive_of(self.likelihood, name)


class PredictiveEntropy(PredictiveMeasurement):
    """Entropy of the predictive distribution, in nats, -sum_c q_c log q_c: the whole uncertainty of the prediction."""

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Entropies, one per example; the targets do not matter."""
        return self.predictive.entropy(outputs)


class MutualInformation(PredictiveMeasurement):
    """Entropy of the predictive distribution minus the mean entropy given the outputs, in nats.

    The part of the uncertainty that more data could remove.

    Raises:
        TypeError: When called with the outputs of a deterministic network, for which it is 0 everywhere.
    """

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Mutual information of target and parameters, one per example."""
        moments = _moments(outputs, "the mutual information of target and parameters")
        return self.predictive.mutual_information(moments)


class PredictiveVariance(PredictiveMeasurement):
    """Total variance of the target under the predictive distribution; of a class sum_c q_c (1 - q_c)."""

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Variances, one per example; the targets do not matter."""
        return self.predictive.variance(outputs)


class Margin(PredictiveMeasurement):
    """z_y - max_{c != y} z_c of the logits' means: negative where the prediction is wrong."""

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Margins, one per example."""
        return self.predictive.margin(outputs, targets)


@dataclass(frozen=True)
class PredictedValue(PredictiveMeasurement):
    """m_k: the predicted real number, the mean of the output; of several targets their sum, where none is named.

    Attributes:
        target: Which of several targets, from 0.

    Raises:
        TypeError: When called for classes or labels, which are no numbers.
    """

    target: int | None = None

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Predicted numbers, one per example; the targets do not matter."""
        mean = _of_numbers(self.predictive, "the margin or the loss").split(mean_of(outputs))[0]
        return _named(mean, self.target)


@dataclass(frozen=True)
class EpistemicDeviation(PredictiveMeasurement):
    """sqrt(v_k): the standard deviation of a predicted real number under the posterior, without the noise.

    Attributes:
        target: Which of several targets, from 0; where none is named, the root of the sum of their variances.

    Raises:
        TypeError: When called for classes or labels, or with the outputs of a deterministic network.
    """

    target: int | None = None

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Deviations, one per example; the targets do not matter."""
        split = _of_numbers(self.predictive, "the mutual information").split
        return _named(split(_moments(outputs, "the epistemic deviation").variance)[0], self.target).sqrt()


@dataclass(frozen=True)
class OutputVariance:
    """sum_c v_c: the total variance of a Bayesian network's outputs, whatever they mean.

    Raises:
        TypeError: When called with the outputs of a deterministic network.
    """

    def __call__(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Variances, one per example; the targets do not matter."""
        variance = _moments(outputs, "the variance of the outputs").variance
        return variance.reshape(len(variance), -1).sum(-1)


@dataclass(frozen=True)
class TokenSurprisal:
    """-log p of the token at one position of a sequence, given those before it; 0 where that token does not count.

    Attributes:
        position: Of the token, counted from the end where negative. Nothing predicts the first one.

    Raises:
        ValueError: If the position is that of the first token; when called, if sequences are shorter.
    """

    position: int

    takes_logits = True

    def __post_init__(self) -> None:
        if self.position == 0:
            raise ValueError("nothing predicts the first token of a sequence; positions begin with 1")

    def __call__(self, outputs: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Float[Tensor, " B"]:
        """Surprisals in nats, one per sequence."""
        length = targets.shape[1]
        if not -length < self.position < length:
            raise ValueError(f"a sequence of {length} tokens has none at position {self.position} that is predicted")
        return NextToken().terms(outputs, targets)[:, self.position]


MEASUREMENTS: dict[str, Likelihood] = {
    "entropy": PredictiveEntropy(),
    "mutual-information": MutualInformation(),
    "variance": PredictiveVariance(),
    "margin": Margin(),
    "output-variance": OutputVariance(),
    "prediction": PredictedValue(),
}
"""Every measurement by name."""


def measurement_gradients(problem: FittedProblem, measurement: Likelihood, test: Dataset) -> Float[Tensor, "t P"]:
    """Gradients of a measurement in the selected parameters, one row per test example.

    Raises:
        TypeError: If it depends on what the outputs mean, and the objective's likelihood does not say.
        ValueError: If the measurement is not one number per test example, or has no finite gradient.
    """
    likelihood = problem.objective.likelihood
    measurement = measurement.of(likelihood) if isinstance(measurement, PredictiveMeasurement) else measurement
    data, taking = problem.taken(test)
    objective = replace(taking, likelihood=measurement)
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


def _of_numbers(predictive: Predictive, instead: str) -> RealPredictive:
    if not isinstance(predictive, RealPredictive):
        raise TypeError(f"{type(predictive).__name__} predicts classes, no number; measure {instead}")
    return predictive


def _named(values: Float[Tensor, "B *K"], target: int | None) -> Float[Tensor, " B"]:
    """One target's numbers, or the sum over all."""
    rows = values.reshape(len(values), -1)
    return rows.sum(-1) if target is None else rows[:, target]


def _moments(outputs: Tensor | Moments, what: str) -> Moments:
    if not isinstance(outputs, Moments):
        raise TypeError(f"{what} needs a Bayesian network; this one returns {type(outputs).__name__}")
    return outputs
