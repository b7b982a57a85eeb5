"""The evidence lower bound that a training reached, by sampling weights instead of propagating moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayes_influence.data.arguments import as_call
from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.sampling import Posterior
from bayes_influence.objectives.expected_likelihoods import sampled_likelihood
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params


@dataclass(frozen=True)
class SampledElbo:
    """-ELBO = sum_i w_i E_q[-log p(y_i | x_i, w)] + KL(q || p), in nats, not divided by n.

    Attributes:
        value: Its estimate.
        standard_error: Of the estimate, over the draws of the weights.
        divergence: The KL's share of it, exact.
    """

    value: float
    standard_error: float
    divergence: float


def sampled_negative_elbo(
    objective: Objective, train: Dataset, n_samples: int = 512, generator: torch.Generator | None = None
) -> SampledElbo:
    """What a variational training is after, whichever bound or approximation it minimised.

    Args:
        objective: A Bayesian network with `GaussianKL`, at its parameters; its likelihood of moments is replaced by
            that of the sampled outputs.
        train: All training examples.
        n_samples: Draws of the weights.
        generator: Source of the draws; seeded with 0 if not given.

    Raises:
        ValueError: If the network has no Bayesian layer.
        TypeError: If the likelihood does not say what that of sampled outputs is.
    """
    likelihood = sampled_likelihood(objective.likelihood)
    posterior = Posterior.of(objective.network, objective.params)
    batch = objective.fitting(train.batch())

    def total(params: Params, inputs: Any) -> Tensor:
        losses = likelihood(torch.func.functional_call(posterior.network, params, *as_call(inputs)), batch.targets)
        return batch.weighted(losses).sum()

    with torch.no_grad():
        totals = torch.cat(list(posterior.samples(batch.inputs, n_samples, generator, function=total)))
        divergence = float(objective.regulariser(objective.params)) * len(train)
    error = float(totals.std()) / n_samples**0.5
    return SampledElbo(float(totals.mean()) + divergence, error, divergence)
