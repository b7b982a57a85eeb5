"""Exact first and second derivatives of an objective in its selected parameters, as flat vectors and dense matrices."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.func import grad, hessian, vmap

from bayes_influence.data.dataset import Batch
from bayes_influence.objectives.objective import Objective
from bayes_influence.torch_internals import tree_map


def gradient(
    objective: Objective, batch: Batch, data_weights: Float[Tensor, " B"] | None = None
) -> Float[Tensor, " P"]:
    """Gradient of J at the objective's parameters, the regulariser inside."""
    flat = objective.flat
    return grad(flat.value)(flat.theta, batch, data_weights)


def dense_hessian(
    objective: Objective, batch: Batch, data_weights: Float[Tensor, " B"] | None = None
) -> Float[Tensor, "P P"]:
    """H = (1/n) sum_i w_i grad^2 l_i + s grad^2 R at the objective's parameters, forward over reverse.

    Memory P^2 for the result and P forward-mode passes over the batch.
    """
    flat = objective.flat
    return hessian(flat.value)(flat.theta, batch, data_weights)


def loss_of_one(objective: Objective) -> Callable[[Tensor, Batch], Tensor]:
    """l_i as a function of the flat selected parameters and one example without its batch axis."""
    flat = objective.flat

    def loss(theta: Tensor, example: Batch) -> Tensor:
        return flat.losses(theta, tree_map(lambda leaf: leaf.unsqueeze(0), example))[0]

    return loss


def per_example_gradients(objective: Objective, batch: Batch) -> Float[Tensor, "B P"]:
    """g_i = grad l_i for every example, without the regulariser. Memory B x P."""
    return vmap(grad(loss_of_one(objective)), in_dims=(None, 0))(objective.flat.theta, batch)


def per_example_hessians(objective: Objective, batch: Batch) -> Float[Tensor, "B P P"]:
    """H_i = grad^2 l_i for every example, without the regulariser. Memory B x P^2: for a few examples at a time."""
    return vmap(hessian(loss_of_one(objective)), in_dims=(None, 0))(objective.flat.theta, batch)
