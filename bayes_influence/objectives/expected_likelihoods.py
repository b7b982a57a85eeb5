"""Per-example losses of `Moments` outputs: expectations of the log-likelihood, bounds on it, and the eVI density.

All categorical ones take independent Gaussian logits with mean m and variance v, each (B, C), and return losses
in nats. Each knows the likelihood of one draw of the outputs, `sampled`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.moments.moments import VARIANCE_FLOOR, Moments
from bayes_influence.moments.softmax import softmax
from bayes_influence.objectives.expected_softplus import expected_softplus
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Likelihood
from bayes_influence.objectives.predictive import ClassPredictive, LabelPredictive, RealPredictive
from bayes_influence.objectives.quasi_random import sobol_normals
from bayes_influence.objectives.tilt import optimal_tilt

EVI_NOISE = 1e-3
"""Noise variance added to the softmax variance in eVI: the density is unbounded where a variance vanishes."""


def _pick(values: Float[Tensor, "B C"], targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    return values.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


class _Categorical(ClassPredictive):
    moments = True

    def sampled(self) -> CrossEntropy:
        """The likelihood of one draw of the outputs."""
        return CrossEntropy()


@dataclass(frozen=True)
class TiltedCategorical(_Categorical):
    """-E log p <= 1/2 sum_c a_c^2 v_c + logsumexp(m + (1-2a) v/2) - m_y, at the best tilt a (Knowles & Minka 2011).

    A bound for every a, hence a true bound on the evidence; the default of `bnn`.
    """

    def __call__(self, outputs: Moments, targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        # Classes first: sums over a few of them run several times faster on a strided axis.
        mean, variance = outputs.expectation.mT.contiguous(), outputs.variance.mT.contiguous()
        tilt = optimal_tilt(mean, variance, dim=0)
        quadratic = 0.5 * (tilt.square() * variance).sum(0)
        bound = torch.logsumexp(mean + (0.5 - tilt) * variance, dim=0)
        return quadratic + bound - _pick(outputs.expectation, targets)


@dataclass(frozen=True)
class JensenCategorical(_Categorical):
    """-E log p <= logsumexp(m + v/2) - m_y: Jensen's bound, loose for large variances."""

    def __call__(self, outputs: Moments, targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        mean, variance = outputs.expectation, outputs.variance
        return torch.logsumexp(mean + 0.5 * variance, dim=-1) - _pick(mean, targets)


@dataclass(frozen=True)
class TaylorCategorical(_Categorical):
    """-E log p ~ -m_y + logsumexp(m) + 1/2 (sum p_c v_c - sum p_c^2 v_c): the delta method.

    Not a bound: it grows more slowly than the truth, so variances can run away.
    """

    def __call__(self, outputs: Moments, targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        mean, variance = outputs.expectation, outputs.variance
        probabilities = torch.softmax(mean, dim=-1)
        curvature = 0.5 * ((probabilities - probabilities.square()) * variance).sum(-1)
        return torch.logsumexp(mean, dim=-1) + curvature - _pick(mean, targets)


@dataclass(frozen=True)
class SobolCategorical(_Categorical):
    """-E log p by the same scrambled Sobol draws of the logits at every call: deterministic, the referee.

    Attributes:
        n_draws: Draws S; a power of two keeps the set balanced.
        seed: Seed of the scrambling.

    Raises:
        ValueError: If there is no draw.
    """

    n_draws: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_draws < 1:
            raise ValueError(f"n_draws must be at least 1, got {self.n_draws}")

    def __call__(self, outputs: Moments, targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        mean, variance = outputs.expectation, outputs.variance
        normals = torch.from_numpy(sobol_normals(self.n_draws, mean.shape[-1], self.seed)).to(mean)
        logits = mean + torch.sqrt(variance + VARIANCE_FLOOR) * normals.unsqueeze(1)
        return torch.logsumexp(logits, dim=-1).mean(0) - _pick(logits.mean(0), targets)


@dataclass(frozen=True)
class ExtendedVI(_Categorical):
    """eVI (Dera et al. 2019): 1/2 sum_c [log u_c + (y_c - p_c)^2 / u_c], y one-hot, u = softmax variance + noise.

    A *predictive* log-density of the one-hot label under the propagated softmax moments, not an expectation of the
    log-likelihood: the sum with the KL is not a bound on the evidence. Kept to reproduce the papers.

    Attributes:
        noise: Variance added to each softmax variance.

    Raises:
        ValueError: If the noise is not positive.
    """

    noise: float = EVI_NOISE

    def __post_init__(self) -> None:
        if not self.noise > 0:
            raise ValueError(f"the eVI noise must be positive, got {self.noise}")

    def __call__(self, outputs: Moments, targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Losses, one per example (a log-density: they can be negative)."""
        probabilities = softmax(outputs, dim=-1)
        one_hot = torch.zeros_like(probabilities.expectation).scatter(-1, targets.unsqueeze(-1), 1.0)
        variance = probabilities.variance + self.noise
        return 0.5 * (torch.log(variance) + (one_hot - probabilities.expectation).square() / variance).sum(-1)


@dataclass(frozen=True)
class ExpectedBernoulli(LabelPredictive):
    """-E log p = sum_k E log(1 + e^{z_k}) - y_k m_k for independent Gaussian logits z_k: labels that are on or off.

    Exact, see `expected_softplus`.
    """

    moments = True

    def __call__(self, outputs: Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Losses in nats, one per example, the sum over its labels."""
        mean, variance = (part.reshape(len(part), -1) for part in (outputs.expectation, outputs.variance))
        labels = targets.reshape(len(targets), -1).to(mean)
        return (expected_softplus(mean, variance) - labels * mean).sum(-1)

    def sampled(self) -> Bernoulli:
        """The likelihood of one draw of the outputs."""
        return Bernoulli()


@dataclass(frozen=True)
class ExpectedGaussian(RealPredictive):
    """-E log p = 1/2 sum_k [log(2 pi s_k^2) + ((y_k - m_k)^2 + v_k) / s_k^2]: regression, exact.

    Attributes:
        scale: s, the standard deviation of the noise, or s_k; None where it is learned, see `GaussianNoise`.

    Raises:
        ValueError: If s is not positive; when called, if outputs and targets do not fit.
    """

    scale: float | tuple[float, ...] | None = 1.0
    moments = True

    def __post_init__(self) -> None:
        self.sampled()

    def __call__(self, outputs: Moments, targets: Float[Tensor, "B *target"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        mean, log_scale = self.split(outputs.expectation)
        return GaussianNoise.losses(mean, log_scale, targets, self.split(outputs.variance)[0])

    def sampled(self) -> GaussianNoise:
        """The likelihood of one draw of the outputs."""
        return GaussianNoise(self.scale)


def sampled_likelihood(likelihood: object) -> CrossEntropy | Bernoulli | GaussianNoise:
    """The likelihood of one draw of a Bayesian network's outputs, given that of their moments.

    Raises:
        TypeError: If it does not say.
    """
    if isinstance(likelihood, _Categorical | ExpectedBernoulli | ExpectedGaussian):
        return likelihood.sampled()
    raise TypeError(
        f"sampled outputs need the likelihood of one draw, and {type(likelihood).__name__} does not say which that is; "
        f"take TiltedCategorical (or another categorical one), ExpectedBernoulli or ExpectedGaussian"
    )


LIKELIHOODS: dict[str, Likelihood] = {
    "tilted": TiltedCategorical(),
    "sobol": SobolCategorical(),
    "taylor": TaylorCategorical(),
    "jensen": JensenCategorical(),
    "evi": ExtendedVI(),
}
"""Expected log-likelihoods of classes by name."""


def as_likelihood(likelihood: Likelihood | str) -> Likelihood:
    """The expected log-likelihood that is meant: `TiltedCategorical()` and `"tilted"` are the same.

    Raises:
        ValueError: If the name is unknown.
    """
    if not isinstance(likelihood, str):
        return likelihood
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"unknown likelihood {likelihood!r}; known: {', '.join(LIKELIHOODS)}")
    return LIKELIHOODS[likelihood]
