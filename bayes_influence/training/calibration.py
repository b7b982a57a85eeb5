"""Variance factors while a calibrated Bayesian network trains: when they are refreshed, and on which examples."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.calibration import variance_factors
from bayes_influence.objectives.members import member, stack_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params

FACTOR_EXAMPLES = 128
"""Training examples that the factors are found on: with `FACTOR_DRAWS` draws, as much work as three epochs of 1 800
examples under first-order moments."""

STEPS_BETWEEN = 50
"""Steps after which factors are refreshed, at the end of the epoch; between refreshes the objective is one function."""


def refresh_due(epoch: int, epochs: int, batches: int) -> bool:
    """Whether the factors are refreshed at the end of an epoch (from 1): of the last one, and some steps apart.

    Args:
        epoch: Finished epochs.
        epochs: All of them.
        batches: Steps of an epoch.
    """
    passed = epoch * batches // STEPS_BETWEEN
    return epoch == epochs or passed > (epoch - 1) * batches // STEPS_BETWEEN


def refreshed_factors(
    objective: Objective, params: Params, buffers: Params, train: Dataset, data_weights: Float[Tensor, "E n"] | None
) -> Params:
    """Every member's buffers with the variance factors of its parameters.

    The draws are the same for every member and every refresh, and the examples are the first `FACTOR_EXAMPLES` of one
    fixed order that have a weight, so that factors change with the parameters only, and a member that trains without an
    example is calibrated without it.

    Args:
        objective: Of a network with variance factors.
        params: Stacked parameters.
        buffers: Stacked buffers.
        train: Training examples.
        data_weights: w; an example of weight 0 takes no part.
    """
    members = []
    for index in range(len(next(iter(params.values())))):
        one = objective.at(member(params, index), member(buffers, index))
        where = _examples(len(train), None if data_weights is None else data_weights[index])
        batch = one.fitting(train.select(where).batch())
        members.append({**member(buffers, index), **variance_factors(one.network, batch.inputs)})
    return stack_members(members)


def _examples(n: int, weights: Float[Tensor, " n"] | None) -> Int[Tensor, " few"]:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    kept = order if weights is None else order[weights.cpu()[order] != 0]
    return kept[:FACTOR_EXAMPLES]
