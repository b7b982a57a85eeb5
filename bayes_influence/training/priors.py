"""Scales of Gaussian priors, and starts of variational trainings from trained networks."""

from __future__ import annotations

import copy
from typing import Literal, get_args

from torch import nn

from bayes_influence.moments.convert import to_deterministic
from bayes_influence.moments.layers import BayesianLayer
from bayes_influence.moments.own_parameters import fan_in
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO
from bayes_influence.training.noise import LearnedNoise

Prior = Literal["isotropic", "fan-in"]
"""What the scale of a prior is of: of every weight, or of a layer's with its fan-in."""

PRIORS = get_args(Prior)

RELATIVE_SIGMA = 0.1
"""sigma / |w| at a start from a trained network: small enough to keep its predictions, large enough that the KL's
gradient in log sigma (about -1 per weight while sigma is far below the prior's) has few decades to go."""


def prior_scales(network: nn.Module, scale: float = 1.0, kind: str = "isotropic") -> float | dict[str, float]:
    """Standard deviations under the prior, as `GaussianKL` takes them.

    Args:
        network: A Bayesian network.
        scale: s.
        kind: `"isotropic"`: s for every weight and bias. `"fan-in"`: s / sqrt(fan-in) for the weights and biases of a
            layer, so that with s = 1 inputs of unit mean square stay of that size in every linear layer; for parameters
            outside of layers s / sqrt(length of their last axis), as for the rows of an embedding.

    Raises:
        ValueError: If the kind is unknown, or the scale is not positive.
    """
    if kind not in PRIORS:
        raise ValueError(f"unknown prior {kind!r}; known: {', '.join(PRIORS)}")
    if not scale > 0:
        raise ValueError(f"the prior scale must be positive, got {scale}")
    if kind == "isotropic":
        return scale
    random = {name for name, _ in network.named_parameters() if name.endswith(RHO)}
    return {
        full: scale / (module.fan_in if isinstance(module, BayesianLayer) else fan_in(value)) ** 0.5
        for path, module in network.named_modules()
        for name, value in module.named_parameters(recurse=False)
        if (full := f"{path}.{name}".lstrip(".")) + RHO in random
    }


def network_at(objective: Objective) -> nn.Module:
    """The deterministic network where an objective stands, to start another training from (a warm start).

    For a Bayesian objective that is the network of its means; learned noise is left behind. `Scheme.prepare` of the
    result starts there.
    """
    network = objective.network.network if isinstance(objective.network, LearnedNoise) else objective.network
    return to_deterministic(network) if objective.is_bayesian else copy.deepcopy(network)
