"""Which examples are removed, and the data weights that say so."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.objective import Objective


def largest_losses(objective: Objective, train: Dataset, count: int) -> Int[Tensor, " k"]:
    """Ids of the training examples with the largest loss where the objective stands, largest first.

    Raises:
        ValueError: If there are not so many examples.
    """
    if not 1 <= count <= len(train):
        raise ValueError(f"between 1 and {len(train)} examples can be removed one at a time, got {count}")
    with torch.no_grad():
        losses = objective.losses(objective.params, train.batch())
    order = torch.argsort(losses, descending=True, stable=True)
    return train.ids[order[:count]]


def leave_one_out_weights(
    positions: Int[Tensor, "*lead k"], n_train: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "*lead k_plus_1 n"]:
    """Data weights of k refits and, before them, of the control that removes nothing.

    Args:
        positions: Where the removed examples stand in the training set.
        n_train: n.
        dtype: Of the weights.

    Raises:
        ValueError: If a position is out of range.
    """
    if positions.numel() and (positions.min() < 0 or positions.max() >= n_train):
        raise ValueError(f"positions must lie in 0..{n_train - 1}, got {int(positions.min())}..{int(positions.max())}")
    lead, k = positions.shape[:-1], positions.shape[-1]
    weights = torch.ones(*lead, k + 1, n_train, dtype=dtype, device=positions.device)
    weights[..., 1:, :].scatter_(-1, positions.unsqueeze(-1), 0.0)
    return weights
