"""An objective's losses under many states, and its exact first and second derivatives, as vectors and matrices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jacrev, vmap

from bayes_influence.data.batch import Batch
from bayes_influence.forward_mode import jvp
from bayes_influence.moments.arithmetic import mean_of
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.ways import (
    checked_symmetric,
    first_way,
    over_members,
    reverse_gradient,
    reverse_jacobian,
    reverse_products,
)
from bayes_influence.torch_internals import tree_leaves, tree_map


def losses_of_members(
    objective: Objective, states: Params, batch: Batch, *, own_data: bool = False
) -> Float[Tensor, "M B"]:
    """Losses of every example under each of M states, stacked; with `own_data` each has a batch of its own."""
    return over_members(objective.network, objective.losses, (states, batch), (0, 0 if own_data else None))


def gradient(
    objective: Objective, batch: Batch, data_weights: Float[Tensor, " B"] | None = None
) -> Float[Tensor, " P"]:
    """Gradient of J at the objective's parameters, the regulariser inside."""
    flat = objective.flat
    return reverse_gradient(lambda theta: flat.value(theta, batch, data_weights), flat.theta)


def dense_hessian(
    objective: Objective, batch: Batch, data_weights: Float[Tensor, " B"] | None = None
) -> Float[Tensor, "P P"]:
    """H = (1/n) sum_i w_i grad^2 l_i + s grad^2 R at the objective's parameters, forward over reverse.

    Memory P^2 for the result and P forward-mode passes over the batch.
    """
    flat = objective.flat

    def value(theta: Tensor) -> Tensor:
        return flat.value(theta, batch, data_weights)

    def patient() -> Tensor:
        return checked_symmetric(reverse_products(value, flat.theta, torch.eye(len(flat.theta)).to(flat.theta)))

    return first_way(objective.network, "products", lambda: forward_hessian(value, flat.theta), patient)


def loss_of_one(objective: Objective) -> Callable[..., Tensor]:
    """l_i as a function of the flat selected parameters and one example without its batch axis."""
    flat = objective.flat

    def loss(theta: Tensor, example: Batch) -> Tensor:
        return flat.losses(theta, tree_map(lambda leaf: leaf.unsqueeze(0), example))[0]

    return loss


def per_example_gradients(objective: Objective, batch: Batch) -> Float[Tensor, "B P"]:
    """g_i = grad l_i for every example, without the regulariser. Memory B x P."""
    theta, loss = objective.flat.theta, loss_of_one(objective)

    def patient() -> Tensor:
        return torch.stack([reverse_gradient(partial(loss, example=one), theta) for one in examples_of(batch)])

    return first_way(objective.network, "gradients", lambda: vmap(grad(loss), in_dims=(None, 0))(theta, batch), patient)


def per_example_jacobians(objective: Objective, inputs: Any) -> Float[Tensor, "B C P"]:
    """J_i of every example's C outputs, flat (the means of `Moments`). Memory B x C x P."""
    theta, fixed, layout = objective.flat.theta, objective.params, objective.layout

    def outputs(at: Tensor, one: Any) -> Tensor:
        single = tree_map(lambda leaf: leaf.unsqueeze(0), one)
        return mean_of(objective.outputs({**fixed, **layout.unflatten(at)}, single)).flatten()

    def patient() -> Tensor:
        ones = [tree_map(lambda leaf, row=row: leaf[row], inputs) for row in range(len(tree_leaves(inputs)[0]))]
        return torch.stack([reverse_jacobian(partial(outputs, one=one), theta) for one in ones])

    return first_way(
        objective.network, "gradients", lambda: vmap(jacrev(outputs), in_dims=(None, 0))(theta, inputs), patient
    )


def per_example_hessians(objective: Objective, batch: Batch) -> Float[Tensor, "B P P"]:
    """H_i = grad^2 l_i for every example, without the regulariser. Memory B x P^2: for a few examples at a time."""
    theta, loss = objective.flat.theta, loss_of_one(objective)

    def patient() -> Tensor:
        units = torch.eye(len(theta)).to(theta)
        return torch.stack([reverse_products(partial(loss, example=one), theta, units) for one in examples_of(batch)])

    return first_way(
        objective.network,
        "products",
        lambda: vmap(lambda one: forward_hessian(partial(loss, example=one), theta))(batch),
        patient,
    )


def forward_hessian(value: Callable[[Tensor], Tensor], theta: Tensor) -> Float[Tensor, "P P"]:
    """Forward over reverse. Not `torch.func.hessian`, whose batched backward pass is wrong in Transformer layers."""
    units = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
    return vmap(lambda unit: jvp(grad(value), (theta,), (unit,))[1])(units)


def examples_of(batch: Batch) -> list[Batch]:
    """The examples of a batch one by one, without their batch axis."""
    return [tree_map(lambda leaf, row=row: leaf[row], batch) for row in range(len(batch.targets))]


def singles_of(batch: Batch) -> list[Batch]:
    """The examples of a batch as batches of one."""
    return [tree_map(lambda leaf, row=row: leaf[row : row + 1], batch) for row in range(len(batch.targets))]
