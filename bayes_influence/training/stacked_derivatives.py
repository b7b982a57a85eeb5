"""Gradients and Hessians of many members' J at once, or member by member where torch cannot batch the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad_and_value, vmap

from bayes_influence.data.batch import Batch
from bayes_influence.objectives.derivatives import examples_of, forward_hessian
from bayes_influence.objectives.objective import FlatObjective, Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.ways import (
    Derivative,
    checked_symmetric,
    first_way,
    forward_products,
    one_by_one,
    reverse_gradient,
    reverse_products,
)


@dataclass(frozen=True, eq=False)
class StackedDerivatives:
    """Derivatives of J(theta_e; w_e, s_e) for members e of one architecture, each with what it holds fixed.

    Attributes:
        objective: What is evaluated, in its selected parameters.
        own_data: Whether each member has its own examples, on a leading member axis.
    """

    objective: Objective
    own_data: bool

    def gradients(
        self,
        theta: Float[Tensor, "k P"],
        fixed: Params,
        data: Batch,
        weights: Float[Tensor, "k B"],
        regulariser_weights: Float[Tensor, " k"],
    ) -> tuple[Float[Tensor, "k P"], Float[Tensor, " k"]]:
        """Grad J and J of every member; `fixed` is stacked, one row of everything a member."""

        def slow(theta: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                return reverse_gradient(lambda at: self._value(at, *rest), theta), self._value(theta, *rest)

        arguments = (theta, fixed, data, weights, regulariser_weights)
        return self._of_members("gradients", grad_and_value(self._value), slow, arguments)

    def hessians(
        self,
        theta: Float[Tensor, "k P"],
        fixed: Params,
        data: Batch,
        weights: Float[Tensor, "k B"],
        regulariser_weights: Float[Tensor, " k"],
    ) -> Float[Tensor, "k P P"]:
        """The dense Hessian of every member's J."""

        def quick(theta: Tensor, *rest: Any) -> Tensor:
            return forward_hessian(lambda at: self._value(at, *rest), theta)

        def slow(theta: Tensor, *rest: Any) -> Tensor:
            return _reverse_hessian(lambda at: self._value(at, *rest), theta)

        arguments = (theta, fixed, data, weights, regulariser_weights)
        return self._of_members("products", quick, slow, arguments)

    def products(
        self,
        theta: Float[Tensor, " P"],
        fixed: Params,
        data: Batch,
        weights: Float[Tensor, " B"],
        regulariser_weight: Float[Tensor, ""],
        vectors: Float[Tensor, "P K"],
    ) -> Float[Tensor, "P K"]:
        """The Hessian of one member's J times K vectors, forward over reverse; nothing here is stacked."""

        def value(at: Tensor) -> Tensor:
            return self._value(at, fixed, data, weights, regulariser_weight)

        return first_way(
            self.objective.network,
            "products",
            lambda: forward_products(value, theta, vectors),
            lambda: reverse_products(value, theta, vectors),
        )

    def example_hessians(self, theta: Float[Tensor, " P"], fixed: Params, singles: Batch) -> Float[Tensor, "k P P"]:
        """H_i of one member's examples, each a batch of one on a leading axis, without the regulariser."""

        def loss(at: Tensor, data: Batch) -> Tensor:
            return FlatObjective(self.objective, fixed, self.objective.layout).losses(at, data).mean()

        def slow() -> Tensor:
            return torch.stack([_reverse_hessian(partial(loss, data=one), theta) for one in examples_of(singles)])

        quick = vmap(lambda one: forward_hessian(partial(loss, data=one), theta))
        return first_way(self.objective.network, "products", lambda: quick(singles), slow)

    def _of_members(
        self, what: Derivative, quick: Callable[..., Any], slow: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Any:
        """A derivative of every member: `quick` for all at once where torch has it, else `slow` one by one."""
        together, one = vmap(quick, in_dims=self._dims), partial(one_by_one, slow, arguments, self._dims)
        return first_way(self.objective.network, what, lambda: together(*arguments), one)

    @property
    def _dims(self) -> tuple[int | None, ...]:
        """The member axes of a function's arguments."""
        return (0, 0, 0 if self.own_data else None, 0, 0)

    def _value(self, theta: Tensor, fixed: Params, data: Batch, weights: Tensor, regulariser_weight: Tensor) -> Tensor:
        """J of one member."""
        return FlatObjective(self.objective, fixed, self.objective.layout).value(
            theta, data, weights, regulariser_weight
        )


def _reverse_hessian(value: Callable[[Tensor], Tensor], theta: Float[Tensor, " P"]) -> Float[Tensor, "P P"]:
    """Reverse over reverse, one column at a time, found symmetric."""
    return checked_symmetric(reverse_products(value, theta, torch.eye(len(theta)).to(theta)))
