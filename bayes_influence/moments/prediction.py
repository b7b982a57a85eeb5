"""Predictions of a Bayesian network with their uncertainty: propagated, linearised, or by sampled weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import pi

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from bayes_influence.moments.moments import Moments
from bayes_influence.moments.sampling import Posterior, RunningMoments, check_ready

JACOBIAN_ENTRIES = 2**25
"""Entries of the Jacobian that are in memory together, unless one example alone has more."""

LOGIT_DRAWS = 256
"""Draws of the logits where probabilities are averaged over them."""


def diagonal_moments(
    network: nn.Module, inputs: Tensor | Moments, params: Mapping[str, Tensor] | None = None
) -> Moments:
    """Moments of the outputs by the rules, one forward pass; covariances between activations are neglected.

    Args:
        network: A network that `to_bayesian` made, in evaluation mode.
        inputs: A batch, fixed or random.
        params: Its parameters; the network's own if not given.
    """
    check_ready(network)
    with torch.no_grad():
        return functional_call(network, dict(params or network.named_parameters()), (inputs,))


def linearized_moments(
    network: nn.Module, inputs: Tensor | Moments, params: Mapping[str, Tensor] | None = None
) -> Moments:
    """The network's output at the posterior mean, and diag(J Sigma J^T) with J its Jacobian in all random weights.

    One global linearisation, so covariances between activations are kept. For random inputs their Jacobian is in J.
    Memory: outputs x parameters for as many examples as fit into `JACOBIAN_ENTRIES`, at least one; time: a backward
    pass per output.

    Args:
        network: A network that `to_bayesian` made, in evaluation mode.
        inputs: A batch, fixed or random; examples must not influence one another.
        params: Its parameters; the network's own if not given.
    """
    posterior = Posterior.of(network, params)
    examples = inputs if isinstance(inputs, Moments) else Moments(inputs, torch.zeros_like(inputs))
    with torch.no_grad():
        mean = functional_call(posterior.network, posterior.means, (examples.expectation,))

    def output(random: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(posterior.network, {**posterior.means, **random}, (x.unsqueeze(0),)).flatten()

    def variance(x: Tensor, x_variance: Tensor) -> Tensor:
        weights = {name: posterior.means[name] for name in posterior.variances}
        by_weights, by_input = jacrev(output, argnums=(0, 1))(weights, x)
        total = by_input.flatten(1).square() @ x_variance.flatten()
        for name, sigma_squared in posterior.variances.items():
            total = total + by_weights[name].flatten(1).square() @ sigma_squared.flatten()
        return total

    n_weights = sum(value.numel() for value in posterior.variances.values())
    at_once = max(1, JACOBIAN_ENTRIES // (n_weights * mean[0].numel()))
    spread = vmap(variance, chunk_size=at_once)(examples.expectation, examples.variance)
    return Moments(mean, spread.reshape(mean.shape))


def sampled_moments(
    network: nn.Module,
    inputs: Tensor | Moments,
    params: Mapping[str, Tensor] | None = None,
    n_samples: int = 256,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Moments:
    """Mean and unbiased variance of the deterministic network's outputs over drawn weights: the referee.

    Standard errors: of the mean sqrt(v / n_samples), of the variance about v sqrt(2 / n_samples).

    Args:
        network: A network that `to_bayesian` made, in evaluation mode.
        inputs: A batch, fixed or random.
        params: Its parameters; the network's own if not given.
        n_samples: Number of draws.
        generator: Source of the draws; seeded with 0 if not given.
        progress: Shows a bar.
    """
    running = RunningMoments()
    with torch.no_grad():
        for outputs in Posterior.of(network, params).samples(inputs, n_samples, generator, progress=progress):
            running.add(outputs)
    return running.moments


def probit_probabilities(logits: Moments) -> Float[Tensor, "n C"]:
    """Predictive class probabilities softmax(m / sqrt(1 + pi v / 8)) (MacKay 1992), without sampling.

    Close for one random logit against fixed ones; where all logits vary independently, differences of logits vary more
    than the formula allows for, and the probabilities are a little too sharp.
    """
    return torch.softmax(logits.expectation / torch.sqrt(1 + pi / 8 * logits.variance), dim=-1)


def entropy(probabilities: Float[Tensor, "*lead C"]) -> Float[Tensor, "*lead"]:
    """-sum_c p_c log p_c, in nats."""
    return torch.special.entr(probabilities).sum(-1)


def mutual_information(logits: Moments) -> Float[Tensor, " n"]:
    """1/2 (sum_c p_c v_c - sum_c p_c^2 v_c) with p = softmax(m), in nats: epistemic uncertainty to second order.

    Between the label and the logits, which count as independent. Grows without bound in v, unlike the quantity itself.
    """
    probabilities = torch.softmax(logits.expectation, dim=-1)
    return 0.5 * ((probabilities - probabilities.square()) * logits.variance).sum(-1)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Class predictions for n examples; uncertainties are in nats.

    Attributes:
        logits: Mean and variance of the logits, (n, C).
        probabilities: Predictive mean probabilities, (n, C).
        epistemic: Mutual information between label and weights, (n,): what more data could take away.
    """

    logits: Moments
    probabilities: Float[Tensor, "n C"]
    epistemic: Float[Tensor, " n"]

    @property
    def classes(self) -> Int[Tensor, " n"]:
        """The most probable class."""
        return self.probabilities.argmax(-1)

    @property
    def total(self) -> Float[Tensor, " n"]:
        """Entropy of the predictive probabilities."""
        return entropy(self.probabilities)

    @property
    def aleatoric(self) -> Float[Tensor, " n"]:
        """What no data could take away: total minus epistemic."""
        return self.total - self.epistemic


_MOMENTS: dict[str, Callable[..., Moments]] = {"diagonal": diagonal_moments, "linearized": linearized_moments}
MODES = (*_MOMENTS, "sampled")


def predict(
    network: nn.Module,
    inputs: Tensor | Moments,
    *,
    mode: str = "linearized",
    params: Mapping[str, Tensor] | None = None,
    averaging: str = "probit",
    n_samples: int = 256,
    generator: torch.Generator | None = None,
) -> Prediction:
    """Class probabilities of a Bayesian network and how far they can be trusted.

    Args:
        network: A network that `to_bayesian` made, with logits (n, C) as its outputs, in evaluation mode.
        inputs: A batch, fixed or random.
        mode: `"diagonal"`, `"linearized"` or `"sampled"`, as the functions of those names say.
        params: Its parameters; the network's own if not given.
        averaging: How the first two modes come from logits to probabilities: `"probit"`, with the epistemic part to
            second order and at most the total; or `"sampled"`, by `LOGIT_DRAWS` draws of independent logits. Mode
            `"sampled"` averages over its own draws of the weights.
        n_samples: Draws of the weights, in mode `"sampled"`.
        generator: Source of the draws; seeded with 0 if not given.

    Raises:
        ValueError: If mode or averaging is unknown, the network is not Bayesian, or it is in training mode.
    """
    if mode not in MODES:
        raise ValueError(f"unknown prediction mode {mode!r}; known: {', '.join(MODES)}")
    if averaging not in ("probit", "sampled"):
        raise ValueError(f"unknown averaging {averaging!r}; known: probit, sampled")
    if mode == "sampled":
        with torch.no_grad():
            return _averaged(Posterior.of(network, params).samples(inputs, n_samples, generator))
    logits = _MOMENTS[mode](network, inputs, params)
    if averaging == "sampled":
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        noise = torch.randn(LOGIT_DRAWS, *logits.shape, generator=generator, dtype=logits.dtype).to(logits.device)
        drawn = _averaged([logits.expectation + logits.variance.sqrt() * noise])
        return Prediction(logits, drawn.probabilities, drawn.epistemic)
    probabilities = probit_probabilities(logits)
    return Prediction(logits, probabilities, torch.minimum(mutual_information(logits), entropy(probabilities)))


def _averaged(draws: Iterable[Float[Tensor, "draws n C"]]) -> Prediction:
    """Averages drawn logits: mean probabilities, and the entropy of the mean minus the mean entropy."""
    logits, probabilities, entropies = RunningMoments(), RunningMoments(), RunningMoments()
    for outputs in draws:
        drawn = torch.softmax(outputs, dim=-1)
        logits.add(outputs)
        probabilities.add(drawn)
        entropies.add(entropy(drawn))
    epistemic = (entropy(probabilities.mean) - entropies.mean).clamp(min=0)
    return Prediction(logits.moments, probabilities.mean, epistemic)
