"""Gradients of many linear layers on features, where several have the same examples: refits of a last layer.

Batched over layers, each product is one of few numbers with a copy of the features. Here the layers that share their
features are one product: for k refits of a network, n examples, D features and C outputs, 4 k n D C operations for both
directions, and k n C numbers that pass through memory in place of k n (C + D).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor
from torch.func import grad_and_value, vmap

from bayes_influence.data.batch import Batch
from bayes_influence.objectives.head import layer_path
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reduction import is_linear_layer

Gradients = Callable[[Params, Params, Batch, Tensor, Tensor], tuple[Params, Tensor]]
"""(stacked params, held, batch, data weights, regulariser weights) -> (stacked gradients, J of every member)."""


def linear_gradients(objective: Objective, own_data: bool) -> Gradients:
    """Gradients and values of J for members that are linear layers.

    Args:
        objective: Of one of them, see `are_linear`.
        own_data: Whether a batch has a leading axis, of G: M / G of the M members, one after the other, share a row.
    """
    prefix = f"{layer_path(objective.network)}."
    weight, bias = f"{prefix}weight".lstrip("."), f"{prefix}bias".lstrip(".")

    def of_outputs(outputs: Tensor, data: Batch, weights: Tensor) -> Tensor:
        return (weights * objective.losses_of(outputs, data)).mean()

    def of_params(member: Params, strength: Tensor) -> Tensor:
        return strength * objective.regulariser(member)

    sharing = vmap(grad_and_value(of_outputs), in_dims=(0, None, 0))
    of_losses = vmap(sharing, in_dims=(0, 0 if own_data else None, 0))

    def gradients(
        params: Params, held: Params, batch: Batch, weights: Tensor, strengths: Tensor
    ) -> tuple[Params, Tensor]:
        features = batch.inputs if own_data else batch.inputs.unsqueeze(0)
        groups, (members, classes, size) = len(features), params[weight].shape
        outputs = (features @ params[weight].reshape(groups, -1, size).mT).mT.unflatten(1, (-1, classes))
        if bias in params:
            outputs = outputs + params[bias].reshape(groups, -1, classes, 1)
        slopes, losses = of_losses(outputs.mT, replace(batch, inputs=()), weights.unflatten(0, (groups, -1)))
        found, regularised = vmap(grad_and_value(of_params))(params, strengths)
        slopes = slopes.mT
        found[weight] = found[weight] + (slopes.flatten(1, 2) @ features).reshape(members, classes, size)
        if bias in params:
            found[bias] = found[bias] + slopes.sum(-1).flatten(0, 1)
        return found, losses.flatten() + regularised

    return gradients


def are_linear(objective: Objective, params: Params, held: Params, batch: Batch, own_data: bool) -> bool:
    """Whether members are plain linear layers on vectors of which nothing is held."""
    all_moves = not held and set(params) == set(objective.params) == set(objective.names)
    return all_moves and is_linear_layer(objective, batch.inputs, leading=2 if own_data else 1)
