"""Moments of a Bayesian network's outputs: propagated, linearised, or by sampled weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from bayes_influence.moments.moments import Moments
from bayes_influence.moments.sampling import Posterior, RunningMoments, check_ready

JACOBIAN_ENTRIES = 2**25
"""Entries of the Jacobian that are in memory together, unless one example alone has more."""


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
