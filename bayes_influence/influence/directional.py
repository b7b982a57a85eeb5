"""Derivatives of the training objective along given directions, batch by batch: never a matrix of size P^2."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.forward_mode import jvp
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.ways import (
    first_way,
    reverse_along,
    reverse_bend,
    reverse_gradient,
    reverse_products,
    reverse_third,
)

Scalar = Callable[[Tensor], Tensor]
"""A function of the flat selected parameters with a value of shape ()."""


def losses_at(objective: Objective, batch: Batch) -> Callable[[Tensor], Tensor]:
    """The losses of a batch as a function of the flat selected parameters."""
    fixed, layout = objective.params, objective.layout
    return lambda theta: objective.losses({**fixed, **layout.unflatten(theta)}, batch)


def weighted_gradient(problem: FittedProblem, data_weights: Float[Tensor, " n"]) -> Float[Tensor, " P"]:
    """(1/n) sum_i w_i g_i over the training examples; the regulariser is not in it."""
    network, theta = problem.reduced.network, problem.theta

    def gradient(term: Scalar) -> Tensor:
        return first_way(network, "gradients", lambda: grad(term)(theta), lambda: reverse_gradient(term, theta))

    return _summed(_data_terms(problem, data_weights), gradient)


def weighted_hessian_product(
    problem: FittedProblem, data_weights: Float[Tensor, " n"], vectors: Float[Tensor, " P *K"]
) -> Float[Tensor, " P *K"]:
    """(1/n) sum_i w_i H_i V over the training examples; the regulariser is not in it."""
    columns, theta = vectors.reshape(len(vectors), -1), problem.theta

    def products(term: Scalar) -> Tensor:
        return first_way(
            problem.reduced.network,
            "products",
            lambda: vmap(lambda v: jvp(grad(term), (theta,), (v,))[1], in_dims=1, out_dims=1)(columns),
            lambda: reverse_products(term, theta, columns),
        )

    return _summed(_data_terms(problem, data_weights), products).reshape(vectors.shape)


def third_derivative(
    problem: FittedProblem, data_weights: Float[Tensor, " n"], first: Float[Tensor, " P"], second: Float[Tensor, " P"]
) -> Float[Tensor, " P"]:
    """T[u, v] = d^2/ds dt grad J_w(theta + s u + t v) at 0, J_w = (1/n) sum_i w_i l_i + R: two nested jvps.

    By reverse mode three times over where torch has no nested forward mode for the network.
    """
    fixed, layout = problem.reduced.params, problem.reduced.layout

    def regulariser(theta: Tensor) -> Tensor:
        value = problem.reduced.regulariser({**fixed, **layout.unflatten(theta)})
        return problem.reduced.regulariser_weight * value

    def contracted(term: Scalar) -> Tensor:
        return first_way(
            problem.reduced.network,
            "bends",
            lambda: _along(grad(term), problem.theta, first, second),
            lambda: reverse_third(term, problem.theta, first, second),
        )

    return _summed(_data_terms(problem, data_weights), contracted) + contracted(regulariser)


def loss_slopes(objective: Objective, data: Dataset, direction: Tensor, batch_size: int) -> Float[Tensor, " B"]:
    """g_i'v for every example, without the gradients."""
    theta = objective.layout.flatten(objective.params)

    def slopes(batch: Batch) -> Tensor:
        losses = losses_at(objective, batch)
        return first_way(
            objective.network,
            "products",
            lambda: jvp(losses, (theta,), (direction,))[1],
            lambda: reverse_along(losses, theta, direction),
        )

    return torch.cat([slopes(batch) for batch in data.batches(batch_size)])


def loss_curvatures(
    objective: Objective, data: Dataset, first: Tensor, second: Tensor, batch_size: int
) -> Float[Tensor, " B"]:
    """u'H_i v for every example, without the Hessians."""
    theta = objective.layout.flatten(objective.params)

    def curvatures(batch: Batch) -> Tensor:
        losses = losses_at(objective, batch)
        return first_way(
            objective.network,
            "bends",
            lambda: _along(losses, theta, first, second),
            lambda: reverse_bend(losses, theta, first, second),
        )

    return torch.cat([curvatures(batch) for batch in data.batches(batch_size)])


def _along(function: Callable[[Tensor], Tensor], theta: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The second derivative of a function of theta along two directions."""
    return jvp(lambda at: jvp(function, (at,), (first,))[1], (theta,), (second,))[1]


def _data_terms(problem: FittedProblem, data_weights: Tensor) -> Iterator[Scalar]:
    n = len(problem.data)
    pieces = data_weights.split(problem.batch_size)
    for batch, weights in zip(problem.data.batches(problem.batch_size), pieces, strict=True):
        losses = losses_at(problem.reduced, batch)
        yield lambda theta, losses=losses, weights=weights: (weights * losses(theta)).sum() / n  # type: ignore[misc]


def _summed(terms: Iterator[Scalar], transform: Callable[[Scalar], Tensor]) -> Tensor:
    total = transform(next(terms))
    for term in terms:
        total = total + transform(term)
    return total
