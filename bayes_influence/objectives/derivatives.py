"""Exact first and second derivatives of an objective in its selected parameters, as flat vectors and dense matrices."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.func import grad, hessian, vmap

from bayes_influence.data.dataset import Batch
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.torch_internals import tree_map


def flat_value(objective: Objective, batch: Batch, params: Params | None = None) -> Callable[..., Float[Tensor, ""]]:
    """J as a function of the flat selected parameters: `f(theta, data_weights=None, regulariser_weight=None)`.

    Every other parameter is held at `params` (where the objective stands, when not given).
    """
    fixed = objective.params if params is None else params
    layout = objective.layout

    def value(
        theta: Tensor, data_weights: Tensor | None = None, regulariser_weight: float | Tensor | None = None
    ) -> Tensor:
        return objective.value({**fixed, **layout.unflatten(theta)}, batch, data_weights, regulariser_weight)

    return value


def gradient(
    objective: Objective, batch: Batch, data_weights: Float[Tensor, " B"] | None = None
) -> Float[Tensor, " P"]:
    """Gradient of J at the objective's parameters, the regulariser inside."""
    theta = objective.layout.flatten(objective.params)
    return grad(flat_value(objective, batch))(theta, data_weights)


def dense_hessian(
    objective: Objective, batch: Batch, data_weights: Float[Tensor, " B"] | None = None
) -> Float[Tensor, "P P"]:
    """H = (1/n) sum_i w_i grad^2 l_i + s grad^2 R at the objective's parameters, forward over reverse.

    Memory P^2 for the result and P forward-mode passes over the batch.
    """
    theta = objective.layout.flatten(objective.params)
    return hessian(flat_value(objective, batch))(theta, data_weights)


def loss_of_one(objective: Objective) -> Callable[[Tensor, Batch], Tensor]:
    """l_i as a function of the flat selected parameters and one example without its batch axis."""
    fixed, layout = objective.params, objective.layout

    def loss(theta: Tensor, example: Batch) -> Tensor:
        single = tree_map(lambda leaf: leaf.unsqueeze(0), example)
        return objective.losses({**fixed, **layout.unflatten(theta)}, single)[0]

    return loss


def per_example_gradients(objective: Objective, batch: Batch) -> Float[Tensor, "B P"]:
    """g_i = grad l_i for every example, without the regulariser. Memory B x P."""
    theta = objective.layout.flatten(objective.params)
    return vmap(grad(loss_of_one(objective)), in_dims=(None, 0))(theta, batch)


def per_example_hessians(objective: Objective, batch: Batch) -> Float[Tensor, "B P P"]:
    """H_i = grad^2 l_i for every example, without the regulariser. Memory B x P^2: for a few examples at a time."""
    theta = objective.layout.flatten(objective.params)
    return vmap(hessian(loss_of_one(objective)), in_dims=(None, 0))(theta, batch)
