"""Regression with learned noise: the network carries log s as a parameter and hands it on beside its outputs."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.predictive import RealPredictive


class LearnedNoise(nn.Module):
    """x -> (f(x), log s): a network with the noise of its K outputs as parameters, for likelihoods of scale None.

    s is a point estimate: it has no prior and no posterior, and minimising -ELBO in it is type-II maximum likelihood
    (empirical Bayes). Wrap the network that is trained, a Bayesian one after `to_bayesian`:

        network = LearnedNoise(to_bayesian(MLP(10, 1, 32)), n_targets=1)
        objective = Objective(network, ExpectedGaussian(None), GaussianKL(n_train))

    Args:
        network: Deterministic or Bayesian, with outputs (n, K).
        n_targets: K.
        initial: s at the start.

    Raises:
        ValueError: If there is no target or the initial noise is not positive; when called, if the network has another
            number of outputs.
    """

    def __init__(self, network: nn.Module, n_targets: int = 1, initial: float = 1.0) -> None:
        super().__init__()
        if n_targets < 1 or not initial > 0:
            raise ValueError(f"need n_targets >= 1 and a positive initial noise, got {n_targets} and {initial}")
        like = next(network.parameters())
        self.network = network
        self.log_scale = nn.Parameter(torch.full((n_targets,), log(initial), dtype=like.dtype, device=like.device))

    @property
    def scale(self) -> Tensor:
        """s, of shape (K,)."""
        return self.log_scale.detach().exp()

    def forward(self, inputs: Any) -> Any:
        """Outputs and log s side by side, (n, 2 K): a tensor, or `Moments` whose second half has no variance.

        Raises:
            ValueError: If the network has not as many outputs as there are scales of the noise.
        """
        outputs = self.network(inputs)
        if outputs.shape[-1] != len(self.log_scale):
            raise ValueError(
                f"the network has {outputs.shape[-1]} outputs, but noise is learned for n_targets={len(self.log_scale)}"
            )
        alone: Any = outputs.marginal if isinstance(outputs, Moments) else outputs
        return torch.cat([alone, self.log_scale.expand(*outputs.shape)], dim=-1)


def with_noise_held(objective: Objective) -> Objective:
    """The objective of the network inside a `LearnedNoise`, its noise held where it stands; any other as it is.

    The same J of all other parameters, for influence and refits in which the noise does not move.

    Args:
        objective: Influence is not taken in its noise.

    Raises:
        ValueError: If it is.
    """
    network, likelihood = objective.network, objective.likelihood
    if not isinstance(network, LearnedNoise) or not isinstance(likelihood, RealPredictive):
        return objective
    if "log_scale" in objective.names:
        raise ValueError("influence is taken in the noise as well, which cannot be held then; name other parameters")
    inside = "network."
    return replace(
        objective,
        network=network.network,
        likelihood=replace(likelihood, scale=tuple(network.scale.tolist())),
        parameters=[name.removeprefix(inside) for name in objective.names],
        params={name.removeprefix(inside): value for name, value in objective.params.items() if name != "log_scale"},
        buffers={name.removeprefix(inside): value for name, value in objective.buffers.items()},
    )
