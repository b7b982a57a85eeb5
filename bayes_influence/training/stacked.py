"""J of many members as a function of their stacked free parameters: what Newton's method and L-BFGS minimise."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.company import ENTRIES, numbers_per_example
from bayes_influence.objectives.held import held_per_example
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reduction import Reduction, is_linear_layer
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.stacked_derivatives import StackedDerivatives

HESSIAN_ENTRIES = 300_000
"""Members x P x n that one forward-over-reverse pass may hold; more members are taken in turns."""

LAYER_NUMBERS = 4_000_000
"""The same times the width of the widest layer, 32 MB: fresh memory is mapped for every larger tensor. A Hessian of a
Bayesian network of width 32, P = 518 and n = 149 takes .43 s of a core one member at a time, .83 s in twos and .74 s in
fours; one of width 5 and P = 86 takes .07 s in threes and .02 s in twenty-fours."""

TANGENT_COPIES = 1.4
"""Numbers that one column of a Hessian holds of an example, for each that a gradient makes: 2.0 and 1.6 were measured
of an MLP of 20 and 40 units, 0.9 and 1.1 of a Bayesian one of 12 and 32."""

PRODUCT_NUMBERS = 30_000_000
"""Numbers that a product with a Hessian holds of its examples and vectors at once, 240 MB in float64."""

TANGENT_ENTRIES = 200_000
"""Examples x parameters per pass where Hessians are found by differentiating."""


class StackedProblem:
    """J of M members in their free parameters (M, P): values, gradients and dense Hessians, in turns over the examples.

    Where the members are linear last layers on features, Hessians come in closed form,
    (1/n) sum_i w_i Lambda_i (x) a_i a_i' + s grad^2 R + diag(metric): n D^2 C (C + 1) operations instead of P products
    with the whole data.

    Args:
        objective: What is minimised, in its selected parameters.
        state: Stacked parameters, and buffers in which members differ, (M, ...) each; the start.
        batch: Shared, or where `own_data` with a leading member axis.
        data_weights: (M, n), one when not given.
        regulariser_weights: (M,), the objective's own when not given.
        own_data: Whether each member has its own examples.
        linear: The last layer's objective, if Hessians are those of such a layer; found out when not given.
        metric: (M, P), added to the diagonal of Hessians in closed form; 0 when not given.
    """

    def __init__(
        self,
        objective: Objective,
        state: Params,
        batch: Batch,
        data_weights: Float[Tensor, "M n"] | None = None,
        regulariser_weights: Float[Tensor, " M"] | None = None,
        *,
        own_data: bool = False,
        linear: Objective | None = None,
        metric: Float[Tensor, "M P"] | None = None,
    ) -> None:
        self.layout, self.state, self.batch, self.own_data = objective.layout, state, batch, own_data
        self.start = self.layout.flatten(state).clone()
        self.examples = batch.targets.shape[1 if own_data else 0]
        members = len(self.start)
        self.weights = self.start.new_ones(members, self.examples) if data_weights is None else data_weights
        if regulariser_weights is None:
            regulariser_weights = self.start.new_full((members,), objective.regulariser_weight)
        self.regulariser_weights = regulariser_weights
        self.fixed = {name: value for name, value in state.items() if name not in self.layout.names}
        is_linear = is_linear_layer(objective, batch.inputs, leading=2 if own_data else 1)
        self.linear = linear or (objective if is_linear else None)
        self.metric = torch.zeros_like(self.start) if metric is None else metric
        self._numbers = numbers_per_example(batch.inputs, leading=2 if own_data else 1)
        self.derivatives = StackedDerivatives(objective, own_data=own_data)

    @classmethod
    def of(cls, reduction: Reduction) -> StackedProblem:
        """The members of a reduction, where they stand."""
        batch, own_data = reduction.batch()
        return cls(reduction.problem.objective, reduction.problem.state, batch, own_data=own_data)

    @property
    def everyone(self) -> Int[Tensor, " M"]:
        """The numbers of all members."""
        return torch.arange(len(self.start), device=self.start.device)

    def only(self, members: Int[Tensor, " k"]) -> StackedProblem:
        """The problem of some of the members."""
        part = copy.copy(self)
        for name in ("start", "weights", "regulariser_weights", "metric"):
            setattr(part, name, getattr(self, name)[members])
        part.state = {name: value[members] for name, value in self.state.items()}
        part.fixed = {name: value[members] for name, value in self.fixed.items()}
        if self.own_data:
            part.batch = tree_map(lambda leaf: leaf[members], self.batch)
        return part

    def from_start(self, start: Float[Tensor, "M P"]) -> StackedProblem:
        """The same problem with the members starting elsewhere."""
        moved = copy.copy(self)
        moved.start = start
        return moved

    def gradients(self, theta: Float[Tensor, "k P"], members: Int[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        """Gradients (k, P) and values (k,) of the given members at `theta`."""
        size = max(1, ENTRIES // (max(1, len(members)) * self._numbers))
        if size >= self.examples:
            return self.derivatives.gradients(theta, *self._arguments(members))
        gradient, value = torch.zeros_like(theta), theta.new_zeros(len(theta))
        for share, arguments in self._turns(members, size):
            part = self.derivatives.gradients(theta, *arguments)
            gradient.add_(part[0], alpha=share)
            value.add_(part[1], alpha=share)
        return gradient, value

    def hessians(self, theta: Float[Tensor, "k P"], members: Int[Tensor, " k"]) -> Float[Tensor, "k P P"]:
        """Dense Hessians of the given members at `theta`."""
        if self.linear is not None:
            pairs = zip(theta, members.tolist(), strict=True)
            return torch.stack([self._linear_hessian(row, index) for row, index in pairs])
        size = max(1, TANGENT_ENTRIES // theta.shape[1])
        if size >= self.examples:
            pieces = zip(theta.split(self._hessians_at_once), members.split(self._hessians_at_once), strict=True)
            return torch.cat([self.derivatives.hessians(rows, *self._arguments(some)) for rows, some in pieces])
        hessians = theta.new_zeros(len(theta), theta.shape[1], theta.shape[1])
        for row, index in enumerate(members.split(1)):
            for share, arguments in self._turns(index, size):
                hessians[row].add_(self.derivatives.hessians(theta[row : row + 1], *arguments)[0], alpha=share)
        return hessians

    def mean_block(self, member: int) -> tuple[Float[Tensor, "D D"], Int[Tensor, " P"]]:
        """Of a linear last layer, see `LastLayerOperator`, the mean block of one member's Hessian where it starts."""
        block, places = self._last_layer(self.start[member], member).mean_block()
        along = torch.empty_like(self.metric[member])
        along[places] = self.metric[member]
        block.diagonal().add_(along.view(-1, len(block)).mean(0))
        return block, places

    def products(self, theta: Float[Tensor, " P"], member: int, vectors: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """The Hessian of one member at `theta`, times K vectors; it is never formed."""
        together = held_per_example(self.derivatives.objective, self._examples_of(member)) * (1 + vectors.shape[1])
        product = torch.zeros_like(vectors)
        members = torch.tensor([member], device=theta.device)
        for share, (fixed, data, weights, regulariser_weights) in self._turns(
            members, max(1, PRODUCT_NUMBERS // together)
        ):
            own = tree_map(lambda leaf: leaf[0], data) if self.own_data else data
            single = {name: value[0] for name, value in fixed.items()}
            found = self.derivatives.products(theta, single, own, weights[0], regulariser_weights[0], vectors)
            product.add_(found, alpha=share)
        return product

    def _examples_of(self, member: int) -> Batch:
        return tree_map(lambda leaf: leaf[member], self.batch) if self.own_data else self.batch

    def hessian_numbers(self, members: int) -> int:
        """Numbers that are held while the Hessians of so many members are found, beside them: those of one pass."""
        if self.linear is not None:
            return self.examples * self._numbers
        examples = min(self.examples, max(1, TANGENT_ENTRIES // self.layout.total))
        together = min(self._hessians_at_once, members) if examples == self.examples else 1
        columns = together * examples * self.layout.total
        return round(TANGENT_COPIES * held_per_example(self.derivatives.objective, self._examples_of(0)) * columns)

    @property
    def _hessians_at_once(self) -> int:
        """Members whose Hessians are found together, where none of them needs its examples in turns."""
        widest = max(max(shape, default=1) for shape in self.layout.shapes)
        return max(1, min(HESSIAN_ENTRIES, LAYER_NUMBERS // widest) // (self.layout.total * self.examples))

    def example_hessians(self, member: int, examples: Int[Tensor, " k"]) -> Float[Tensor, "k P P"]:
        """H_i of single examples at one member's start, without the regulariser."""
        data = self._examples_of(member)
        singles = tree_map(lambda leaf: leaf[examples].unsqueeze(1), data)
        fixed = {name: value[member] for name, value in self.fixed.items()}
        return self.derivatives.example_hessians(self.start[member], fixed, singles)

    def _arguments(self, members: Int[Tensor, " k"]) -> tuple[Params, Batch, Tensor, Tensor]:
        fixed = {name: value[members] for name, value in self.fixed.items()}
        data = tree_map(lambda leaf: leaf[members], self.batch) if self.own_data else self.batch
        return fixed, data, self.weights[members], self.regulariser_weights[members]

    def _turns(self, members: Int[Tensor, " k"], size: int) -> Iterator[tuple[float, tuple[Any, ...]]]:
        """Shares of the examples, and what the derivatives take of them; J is the mean of the parts so weighted."""
        fixed, data, weights, regulariser_weights = self._arguments(members)
        for start in range(0, self.examples, size):
            rows = slice(start, start + size)
            part = tree_map(lambda leaf, rows=rows: leaf[:, rows] if self.own_data else leaf[rows], data)
            own = weights[:, rows]
            yield own.shape[1] / self.examples, (fixed, part, own, regulariser_weights)

    def _linear_hessian(self, theta: Float[Tensor, " P"], index: int) -> Float[Tensor, "P P"]:
        return self._last_layer(theta, index).dense() + torch.diag(self.metric[index])

    def _last_layer(self, theta: Float[Tensor, " P"], index: int) -> LastLayerOperator:
        assert self.linear is not None
        data = self._examples_of(index)
        examples = Dataset(
            data.inputs, data.targets, torch.arange(self.examples, device=theta.device), weights=data.weights
        )
        there = self.linear.at({**self.linear.params, **self.linear.layout.unflatten(theta)})
        return LastLayerOperator(there, examples, self.weights[index])


def gradient_norms(reduction: Reduction) -> Float[Tensor, " E"]:
    """The norm of grad J in the selected parameters where every member stands: what an estimate there neglects."""
    problem = StackedProblem.of(reduction)
    return problem.gradients(problem.start, problem.everyone)[0].norm(dim=1)


def moved(members: Members, free: Params) -> Params:
    """The stacked parameters of whole networks, with those that a problem moved in their place."""
    return {name: free.get(name, value) for name, value in members.params.items()}
