"""Samples from the exact posterior of a small network by Pyro's NUTS: the reference for variational posteriors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from jaxtyping import Float
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, gelman_rubin
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bayes_influence.data.arguments import as_call
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.ways import over_members

logger = logging.getLogger(__name__)

MAX_PARAMETERS = 200
"""Largest network that is sampled: a trajectory takes hundreds of gradients, and more parameters take longer ones."""


@dataclass(frozen=True, eq=False)
class PosteriorSamples:
    """Draws from p(w | data), chain after chain.

    Attributes:
        params: Stacked parameters, (chains x draws, ...) each.
        chains: Number of chains.
        outputs: (chains x draws, k, C) outputs on the inputs that convergence was judged on.
        r_hat: Largest Gelman-Rubin statistic of the softmax outputs there. Weights are not compared between chains:
            permuting hidden units leaves the function as it is.
        effective: Smallest effective number of draws of these.
    """

    params: Params
    chains: int
    outputs: Float[Tensor, "draws k C"]
    r_hat: float
    effective: float


def potential(
    network: nn.Module,
    train: Dataset,
    prior_scale: float | dict[str, float] = 1.0,
    likelihood: CrossEntropy | Bernoulli | GaussianNoise = CrossEntropy(),  # noqa: B008 - frozen and without state
) -> Callable[[Params], Tensor]:
    """-log p(targets, w | inputs) up to a constant: sum_i w_i l_i(w) + sum (w / s)^2 / 2 over all parameters.

    Args:
        network: A deterministic network.
        train: All training examples.
        prior_scale: s, one for all or one per parameter name.
        likelihood: l.
    """

    def energy(weights: Params) -> Tensor:
        losses = likelihood(functional_call(network, weights, *as_call(train.inputs)), train.targets)
        scale = prior_scale if isinstance(prior_scale, dict) else dict.fromkeys(weights, prior_scale)
        prior = sum(0.5 * (value / scale[name]).square().sum() for name, value in weights.items())
        return train.batch().weighted(losses).sum() + prior

    return energy


def nuts_reference(
    network: nn.Module,
    train: Dataset,
    inputs: Tensor,
    *,
    prior_scale: float | dict[str, float] = 1.0,
    likelihood: CrossEntropy | Bernoulli | GaussianNoise = CrossEntropy(),  # noqa: B008 - frozen and without state
    draws: int = 500,
    warmup: int = 300,
    chains: int = 2,
    max_tree_depth: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> PosteriorSamples:
    """Draws weights from the posterior of `to_pyro`'s model given all training examples, one chain after the other.

    NUTS is given the model's log density as a plain function, which takes a third of the time of tracing the model.

    Args:
        network: A deterministic network of at most `MAX_PARAMETERS` parameters.
        train: Training examples.
        inputs: Where convergence is judged, and outputs are returned.
        prior_scale: Of the prior, see `to_pyro`.
        likelihood: Of the outputs.
        draws: Kept, per chain.
        warmup: For step size and mass matrix, not kept.
        chains: From different starts.
        max_tree_depth: A trajectory has at most 2 to this power steps.
        seed: Chain c starts from `seed + c`.
        progress: Whether to show Pyro's progress bars.

    Raises:
        ValueError: If the network is too large, or there are fewer than two chains or four draws.
    """
    size = sum(value.numel() for value in network.parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(
            f"NUTS is for networks of up to {MAX_PARAMETERS} parameters, {type(network).__name__} has {size}; "
            "compare with mean-field-vi instead"
        )
    if chains < 2 or draws < 4:
        raise ValueError(f"convergence needs at least 2 chains of 4 draws, got {chains} of {draws}")
    energy = potential(network, train, prior_scale, likelihood)
    kept = []
    for chain in range(chains):
        with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
            torch.manual_seed(seed + chain)
            start = {name: torch.randn_like(value) for name, value in network.named_parameters()}
            kernel = NUTS(potential_fn=energy, max_tree_depth=max_tree_depth)
            sampler = MCMC(kernel, draws, warmup, initial_params=start, disable_progbar=not progress)
            sampler.run()
            kept.append({name: value.detach() for name, value in sampler.get_samples().items()})
    params = {name: torch.cat([chain[name] for chain in kept]) for name in kept[0]}
    with torch.no_grad():
        outputs = over_members(
            network, lambda weights: functional_call(network, weights, *as_call(inputs)), (params,), (0,)
        )
    values = outputs
    if not isinstance(likelihood, GaussianNoise):
        values = torch.softmax(vmap(likelihood.class_logits)(outputs), dim=-1)
    by_chain = values.unflatten(0, (chains, draws))
    r_hat = float(gelman_rubin(by_chain, chain_dim=0, sample_dim=1).max())
    effective = float(effective_sample_size(by_chain, chain_dim=0, sample_dim=1).min())
    logger.info("NUTS: %d x %d draws, largest R-hat %.3f, at least %.0f effective", chains, draws, r_hat, effective)
    return PosteriorSamples(params, chains, outputs, r_hat, effective)
