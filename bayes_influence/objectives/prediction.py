"""Predictions of a fitted objective with their uncertainty: what its likelihood says that the outputs mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import pi
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap

from bayes_influence.moments.moments import Moments
from bayes_influence.moments.prediction import diagonal_moments, linearized_moments
from bayes_influence.moments.sampling import Posterior, RunningMoments
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.posteriors import (
    GaussianOutputs,
    WeightPosterior,
    drawn_outputs,
    linearized_outputs,
)
from bayes_influence.objectives.predictive import ClassPredictive, Predictive, RealPredictive, predictive_of

LOGIT_DRAWS = 256
"""Draws of the logits where probabilities are averaged over them."""


def probit_probabilities(logits: Moments) -> Float[Tensor, "n *K C"]:
    """Predictive class probabilities softmax(m / sqrt(1 + pi v / 8)) (MacKay 1992), without sampling.

    Close for one random logit against fixed ones; where all logits vary independently, differences of logits vary more
    than the formula allows for, and the probabilities are a little too sharp.
    """
    return torch.softmax(logits.expectation / torch.sqrt(1 + pi / 8 * logits.variance), dim=-1)


def entropy(probabilities: Float[Tensor, "*lead C"]) -> Float[Tensor, "*lead"]:
    """-sum_c p_c log p_c, in nats."""
    return torch.special.entr(probabilities).sum(-1)


def mutual_information(logits: Moments) -> Float[Tensor, "n *K"]:
    """1/2 (sum_c p_c v_c - sum_c p_c^2 v_c) with p = softmax(m), in nats: epistemic uncertainty to second order.

    Between the label and the logits, which count as independent. Grows without bound in v, unlike the quantity itself.
    """
    probabilities = torch.softmax(logits.expectation, dim=-1)
    return 0.5 * ((probabilities - probabilities.square()) * logits.variance).sum(-1)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Class predictions for n examples; uncertainties are in nats.

    Of several labels each is a class, off (0) or on (1), with an axis K of its own; uncertainties add up over them. One
    logit z is two classes with the logits (0, z).

    Attributes:
        logits: Mean and variance of the logits, (n, C), or (n, K, 2) of K labels.
        probabilities: Predictive mean probabilities, likewise.
        epistemic: Mutual information between label and weights, (n,): what more data could take away.
    """

    logits: Moments
    probabilities: Float[Tensor, "n *K C"]
    epistemic: Float[Tensor, " n"]

    @property
    def classes(self) -> Int[Tensor, "n *K"]:
        """The most probable class (of every label)."""
        return self.probabilities.argmax(-1)

    @property
    def total(self) -> Float[Tensor, " n"]:
        """Entropy of the predictive probabilities."""
        return _per_example(entropy(self.probabilities))

    @property
    def aleatoric(self) -> Float[Tensor, " n"]:
        """What no data could take away: total minus epistemic."""
        return self.total - self.epistemic


@dataclass(frozen=True, eq=False)
class RealPrediction:
    """Predictions of real numbers for n examples, in the units of the targets that were trained on.

    Attributes:
        mean: Predictive means, (n, K).
        noise: Variance of the target around the network's output: the likelihood's, or as it was learned.
        epistemic: Variance of the output under the posterior, what more data could take away; 0 of a single network.
    """

    mean: Float[Tensor, "n *K"]
    noise: Float[Tensor, "n *K"]
    epistemic: Float[Tensor, "n *K"]

    @property
    def deviation(self) -> Float[Tensor, "n *K"]:
        """Standard deviation of the target: of noise and output together."""
        return (self.noise + self.epistemic).sqrt()

    def interval(self, level: float = 0.95) -> tuple[Float[Tensor, "n *K"], Float[Tensor, "n *K"]]:
        """Both ends of the interval around the mean that holds a Gaussian target with this probability.

        Args:
            level: The probability.

        Raises:
            ValueError: If it is none.
        """
        if not 0 < level < 1:
            raise ValueError(f"the level of an interval is a probability between 0 and 1, got {level}")
        reach = NormalDist().inv_cdf(0.5 + level / 2) * self.deviation
        return self.mean - reach, self.mean + reach


_MOMENTS: dict[str, Callable[..., Moments]] = {"diagonal": diagonal_moments, "linearized": linearized_moments}
MODES = (*_MOMENTS, "sampled")


def predict(
    objective: Objective,
    inputs: Any,
    *,
    mode: str = "linearized",
    averaging: str = "probit",
    n_samples: int = 256,
    generator: torch.Generator | None = None,
    posterior: WeightPosterior | None = None,
) -> Prediction | RealPrediction:
    """Class probabilities or real numbers, as the likelihood says, and how far they can be trusted.

    A deterministic network has no posterior of its own: unless one is given, its own outputs are predicted, in every
    mode, without epistemic part. Networks that predict together disagree, and that is their epistemic part.

    Args:
        objective: A network where it stands, with a likelihood that says what its outputs mean.
        inputs: A batch, fixed or random, of any real dtype.
        mode: `"diagonal"`, `"linearized"` or `"sampled"`, as the functions of those names say.
        averaging: How the first two modes come from logits to probabilities: `"probit"`, with the epistemic part to
            second order and at most the total; or `"sampled"`, by `LOGIT_DRAWS` draws of independent logits. Mode
            `"sampled"` averages over its own draws of the weights. Where the logits' covariance is known, under a
            posterior beside the network or moments whose structure follows it, both average over draws of all logits
            of an example together.
        n_samples: Draws of the weights, in mode `"sampled"`.
        generator: Source of the draws; seeded with 0 if not given.
        posterior: Of a deterministic network's weights, such as Laplace's or SWAG's; `"linearized"` or `"sampled"`.

    Raises:
        TypeError: If it is a network without an objective, the likelihood does not say what outputs mean, or a
            posterior is given for a Bayesian network.
        ValueError: If mode or averaging is unknown, the mode is none of a posterior's, or it is of other parameters.
    """
    _check_ways(mode, averaging, posterior)
    likelihood = _meaning(objective, "a prediction")
    inputs = objective.fitting(inputs)
    if isinstance(likelihood, RealPredictive):
        return _real(likelihood, _output_moments(objective, inputs, mode, n_samples, generator, posterior))
    return predict_classes(
        objective,
        inputs,
        mode=mode,
        averaging=averaging,
        n_samples=n_samples,
        generator=generator,
        posterior=posterior,
    )


def predict_classes(
    objective: Objective,
    inputs: Any,
    *,
    mode: str = "linearized",
    averaging: str = "probit",
    n_samples: int = 256,
    generator: torch.Generator | None = None,
    posterior: WeightPosterior | None = None,
) -> Prediction:
    """What `predict` returns for a likelihood of classes or labels, and for no other.

    Args:
        objective: As of `predict`.
        inputs: As of `predict`.
        mode: As of `predict`.
        averaging: As of `predict`.
        n_samples: As of `predict`.
        generator: As of `predict`.
        posterior: As of `predict`.

    Raises:
        TypeError: As `predict`, or if the likelihood does not say that outputs are classes.
        ValueError: As `predict`.
    """
    _check_ways(mode, averaging, posterior)
    classes = classes_of(objective)
    inputs = objective.fitting(inputs)
    if not objective.is_bayesian and posterior is None:
        outputs = _own_outputs(objective, inputs)
        if (members := classes.members(outputs.expectation)) is not None:
            return _averaged([members])
        logits = classes.class_logits(outputs)
        certain = logits.expectation.new_zeros(len(logits.expectation))
        return Prediction(logits, torch.softmax(logits.expectation, dim=-1), certain)
    if mode == "sampled":
        with torch.no_grad():
            draws = _draws(objective, inputs, n_samples, generator, posterior)
            return _averaged(vmap(classes.class_logits)(drawn) for drawn in draws)
    if posterior is not None:
        return _averaged_together(classes, linearized_outputs(objective, posterior, inputs))
    outputs = _output_moments(objective, inputs, mode, n_samples, generator, None)
    if outputs.covariance is not None and outputs.ndim == 2:
        return _averaged_together(classes, GaussianOutputs.of_moments(outputs))
    logits = classes.class_logits(outputs)
    if averaging == "sampled":
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        noise = torch.randn(LOGIT_DRAWS, *logits.shape, generator=generator, dtype=logits.dtype).to(logits.device)
        drawn = _averaged([logits.expectation + logits.variance.sqrt() * noise])
        return Prediction(logits, drawn.probabilities, drawn.epistemic)
    probabilities = probit_probabilities(logits)
    total = _per_example(entropy(probabilities))
    return Prediction(logits, probabilities, torch.minimum(_per_example(mutual_information(logits)), total))


def _averaged_together(classes: ClassPredictive, outputs: GaussianOutputs) -> Prediction:
    """Averages over draws of all logits of an example together."""
    drawn = _averaged([vmap(classes.class_logits)(outputs.draws(LOGIT_DRAWS))])
    return replace(drawn, logits=classes.class_logits(outputs.moments))


def _check_ways(mode: str, averaging: str, posterior: WeightPosterior | None) -> None:
    if mode not in MODES:
        raise ValueError(f"unknown prediction mode {mode!r}; known: {', '.join(MODES)}")
    if averaging not in ("probit", "sampled"):
        raise ValueError(f"unknown averaging {averaging!r}; known: probit, sampled")
    if posterior is not None and mode == "diagonal":
        raise ValueError(
            "a posterior beside a network has no moments that are propagated through it; take mode 'linearized' or "
            "'sampled'"
        )


def classes_of(objective: Objective) -> ClassPredictive:
    """An objective's likelihood, where it is one of classes or labels.

    Raises:
        TypeError: If it is a network without an objective, or the likelihood does not say that outputs are classes.
    """
    found = _meaning(objective, "a prediction of classes")
    if not isinstance(found, ClassPredictive):
        raise TypeError(
            f"a prediction of classes is asked for, and {type(found).__name__} means real numbers; `predict` has their "
            f"mean and variance"
        )
    return found


def _meaning(objective: Objective, what: str) -> Predictive:
    """An objective's likelihood, where it says what outputs mean."""
    if not isinstance(objective, Objective):
        raise TypeError(
            f"predict takes an Objective, whose likelihood says what the outputs mean, got {type(objective).__name__}; "
            f"as Objective(network, TiltedCategorical()) for classes, with ExpectedBernoulli() for one logit"
        )
    return predictive_of(objective.likelihood, what)


def _own_outputs(objective: Objective, inputs: Any) -> Moments:
    """What a deterministic network returns, without variance."""
    with torch.no_grad():
        outputs = objective.outputs(objective.params, inputs)
    return Moments(outputs, torch.zeros_like(outputs))


def _output_moments(
    objective: Objective,
    inputs: Any,
    mode: str,
    n_samples: int,
    generator: torch.Generator | None,
    posterior: WeightPosterior | None,
) -> Moments:
    """Mean and variance of the outputs under the posterior."""
    if not objective.is_bayesian and posterior is None:
        return _own_outputs(objective, inputs)
    if mode == "sampled":
        running = RunningMoments()
        with torch.no_grad():
            for outputs in _draws(objective, inputs, n_samples, generator, posterior):
                running.add(outputs)
        return running.moments
    if posterior is not None:
        return linearized_outputs(objective, posterior, inputs).moments
    return _MOMENTS[mode](objective.network, inputs, objective.params)


def _draws(
    objective: Objective,
    inputs: Any,
    n_samples: int,
    generator: torch.Generator | None,
    posterior: WeightPosterior | None,
) -> Iterator[Tensor]:
    """Outputs at weights drawn from the network's own posterior, or from the one beside it."""
    if posterior is not None:
        return drawn_outputs(objective, posterior, inputs, n_samples, generator)
    return Posterior.of(objective.network, objective.params).samples(inputs, n_samples, generator)


def _real(likelihood: RealPredictive, outputs: Moments) -> RealPrediction:
    mean, log_scale = likelihood.split(outputs.expectation)
    return RealPrediction(mean, torch.exp(2 * log_scale), likelihood.split(outputs.variance)[0])


def _averaged(draws: Iterable[Float[Tensor, "draws n *K C"]]) -> Prediction:
    """Averages drawn logits: mean probabilities, and the entropy of the mean minus the mean entropy."""
    logits, probabilities, entropies = RunningMoments(), RunningMoments(), RunningMoments()
    for outputs in draws:
        drawn = torch.softmax(outputs, dim=-1)
        logits.add(outputs)
        probabilities.add(drawn)
        entropies.add(entropy(drawn))
    epistemic = _per_example(entropy(probabilities.mean) - entropies.mean).clamp(min=0)
    return Prediction(logits.moments, probabilities.mean, epistemic)


def _per_example(values: Float[Tensor, "n *K"]) -> Float[Tensor, " n"]:
    """The sum over labels."""
    return values.reshape(len(values), -1).sum(-1)
