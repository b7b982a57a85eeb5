"""Moments of a Bayesian network's outputs: propagated, linearised, or by sampled weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from bayes_influence.data.arguments import as_call
from bayes_influence.moments.arithmetic import mean_of
from bayes_influence.moments.moments import Moments
from bayes_influence.moments.sampling import Posterior, RunningMoments, check_ready
from bayes_influence.torch_internals import tree_map

JACOBIAN_ENTRIES = 2**25
"""Entries of the Jacobian that are in memory together, unless one example alone has more."""


def diagonal_moments(network: nn.Module, inputs: Any, params: Mapping[str, Tensor] | None = None) -> Moments:
    """Moments of the outputs by the rules, one forward pass; covariances between activations are neglected.

    Args:
        network: A network that `to_bayesian` made, in evaluation mode.
        inputs: A batch, fixed or random, or `Arguments` of fixed ones.
        params: Its parameters; the network's own if not given.
    """
    check_ready(network)
    with torch.no_grad():
        return functional_call(network, dict(params or network.named_parameters()), *as_call(inputs))


def linearized_moments(network: nn.Module, inputs: Any, params: Mapping[str, Tensor] | None = None) -> Moments:
    """The network's output at the posterior mean, and diag(J Sigma J^T) with J its Jacobian in all random weights.

    One global linearisation, so covariances between activations are kept. For random inputs their Jacobian is in J.
    Memory: outputs x parameters for as many examples as fit into `JACOBIAN_ENTRIES`, at least one; time: a backward
    pass per output.

    Args:
        network: A network that `to_bayesian` made, in evaluation mode.
        inputs: A batch, fixed or random, or `Arguments` of fixed ones; examples must not influence one another.
        params: Its parameters; the network's own if not given.
    """
    posterior = Posterior.of(network, params)
    examples = mean_of(inputs)
    weights = {name: posterior.means[name] for name in posterior.variances}
    with torch.no_grad():
        mean = functional_call(posterior.network, posterior.means, *as_call(examples))

    def output(random: dict[str, Tensor], x: Any) -> Tensor:
        one = tree_map(lambda leaf: leaf.unsqueeze(0), x)
        return functional_call(posterior.network, {**posterior.means, **random}, *as_call(one)).flatten()

    def by_weights(x: Any) -> Tensor:
        jacobian = jacrev(output)(weights, x)
        shares = [jacobian[name].flatten(1).square() @ posterior.variances[name].flatten() for name in weights]
        return torch.stack(shares).sum(0)

    def by_inputs(x: Tensor, variance: Tensor) -> Tensor:
        return jacrev(output, argnums=1)(weights, x).flatten(1).square() @ variance.flatten()

    n_weights = sum(value.numel() for value in weights.values())
    at_once = max(1, JACOBIAN_ENTRIES // (n_weights * mean[0].numel()))
    spread = vmap(by_weights, chunk_size=at_once)(examples)
    if isinstance(inputs, Moments):
        spread = spread + vmap(by_inputs, chunk_size=at_once)(examples, inputs.variance)
    return Moments(mean, spread.reshape(mean.shape))


def sampled_moments(
    network: nn.Module,
    inputs: Any,
    params: Mapping[str, Tensor] | None = None,
    n_samples: int = 256,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Moments:
    """Mean and unbiased variance of the deterministic network's outputs over drawn weights: the referee.

    Standard errors: of the mean sqrt(v / n_samples), of the variance about v sqrt(2 / n_samples).

    Args:
        network: A network that `to_bayesian` made, in evaluation mode.
        inputs: A batch, fixed or random, or `Arguments` of fixed ones.
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
