"""The problem that refits minimise, for any number of examples: in turns over them, or in closed form."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.data.dataset import Batch, Dataset
from bayes_influence.objectives.head import Head, has_head, head_objective, head_params, member_batch
from bayes_influence.objectives.head import stacked_features as features_at_once
from bayes_influence.objectives.members import member
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.torch_internals import tree_leaves, tree_map
from bayes_influence.training.newton import StackedProblem

ENTRIES = 2_000_000
"""Numbers of inputs, times the members that share a pass, that go through the network at a time. The intermediate
values are then some 20 MB for a last layer of ten outputs and some hundred for a small convolutional network; larger
parts cost time, too: fresh memory has to be mapped for each."""

TANGENT_ENTRIES = 200_000
"""Examples x parameters per pass where Hessians are found by differentiating."""


class RefitProblem(StackedProblem):
    """J of M members in their free parameters, its derivatives taken in turns over the examples.

    Where the members are linear last layers on tensors of features, all of their parameters free, Hessians come in
    closed form, (1/n) sum_i w_i Lambda_i (x) a_i a_i' + s grad^2 R + diag(metric): n D^2 C (C + 1) operations instead
    of P products with the whole data.

    Args:
        objective: What is minimised, in its selected parameters.
        params: Stacked parameters, (M, ...) each.
        batch: Shared, or where `own_data` with a leading member axis.
        data_weights: (M, n), one when not given.
        own_data: Whether each member has its own examples.
        linear: The last layer's objective, if Hessians are those of such a layer; found out when not given.
        metric: (M, P), added to the diagonal of Hessians in closed form; 0 when not given.
    """

    def __init__(
        self,
        objective: Objective,
        params: Params,
        batch: Batch,
        data_weights: Float[Tensor, "M n"] | None = None,
        *,
        own_data: bool = False,
        linear: Objective | None = None,
        metric: Float[Tensor, "M P"] | None = None,
    ) -> None:
        super().__init__(objective, params, batch, data_weights, own_data=own_data)
        self.linear = linear or (objective if _is_linear_layer(objective, batch.inputs, own_data) else None)
        self.metric = torch.zeros_like(self.start) if metric is None else metric
        self._numbers = numbers_per_example(batch.inputs, leading=2 if own_data else 1)

    def only(self, members: Int[Tensor, " k"]) -> RefitProblem:
        """The problem of some of the members."""
        part = copy.copy(self)
        for name in ("start", "weights", "strengths", "metric"):
            setattr(part, name, getattr(self, name)[members])
        part.params = {name: value[members] for name, value in self.params.items()}
        part.fixed = {name: value[members] for name, value in self.fixed.items()}
        if self.own_data:
            part.batch = tree_map(lambda leaf: leaf[members], self.batch)
        return part

    def from_start(self, start: Float[Tensor, "M P"]) -> RefitProblem:
        """The same problem with the members starting elsewhere."""
        moved = copy.copy(self)
        moved.start = start
        return moved

    def gradients(self, theta: Float[Tensor, "k P"], members: Int[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        """Gradients (k, P) and values (k,) of the given members at `theta`."""
        size = max(1, ENTRIES // (max(1, len(members)) * self._numbers))
        if size >= self.examples:
            return super().gradients(theta, members)
        gradient, value = torch.zeros_like(theta), theta.new_zeros(len(theta))
        for share, arguments in self._turns(members, size):
            part = self._gradients(theta, *arguments)
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
            return super().hessians(theta, members)
        hessians = theta.new_zeros(len(theta), theta.shape[1], theta.shape[1])
        for row, index in enumerate(members.split(1)):
            for share, arguments in self._turns(index, size):
                hessians[row].add_(self._hessians(theta[row : row + 1], *arguments)[0], alpha=share)
        return hessians

    def _turns(self, members: Int[Tensor, " k"], size: int) -> Iterator[tuple[float, tuple[Any, ...]]]:
        """Shares of the examples, and what the derivatives take of them; J is the mean of the parts so weighted."""
        fixed, data, weights, strengths = self._arguments(members)
        for start in range(0, self.examples, size):
            rows = slice(start, start + size)
            part = tree_map(lambda leaf, rows=rows: leaf[:, rows] if self.own_data else leaf[rows], data)
            own = weights[:, rows]
            yield own.shape[1] / self.examples, (fixed, part, own, strengths)

    def _linear_hessian(self, theta: Float[Tensor, " P"], index: int) -> Float[Tensor, "P P"]:
        assert self.linear is not None
        own = tree_map(lambda leaf: leaf[index], self.batch) if self.own_data else self.batch
        ids = torch.arange(self.examples, device=theta.device)
        data = Dataset(own.inputs, own.targets, ids, weights=own.weights)
        there = self.linear.at(self.linear.layout.unflatten(theta))
        hessian = LastLayerOperator(there, data, self.weights[index]).dense()
        return hessian + torch.diag(self.metric[index])


def refit_problem(objective: Objective, params: Params, train: Dataset) -> tuple[Objective, RefitProblem]:
    """Every member's objective in its selected parameters: the last layer on its features, or the whole network.

    Features are computed once, in turns over the examples. Where something follows the last layer the network stays
    whole.

    Args:
        objective: The networks', with the selection that is refitted.
        params: Stacked parameters (S, ...).
        train: Their training examples.
    """
    members = len(next(iter(params.values())))
    if not has_head(objective.at(member(params, 0)), first_example(objective, train)):
        return objective, RefitProblem(objective, params, train.batch())
    inputs = stacked_features(objective, params, train.inputs)
    head, own = head_objective(objective), head_params(objective, params)
    if members == 1:
        return head, RefitProblem(head, own, replace(train.batch(), inputs=tree_map(lambda leaf: leaf[0], inputs)))
    return head, RefitProblem(head, own, member_batch(inputs, train.batch(), members), own_data=True)


def stacked_features(objective: Objective, stacked: Params, inputs: Any) -> Any:
    """Features of every member of a stack, leading axes (S, n), in turns over the examples."""
    examples, members = len(tree_leaves(inputs)[0]), len(next(iter(stacked.values())))
    size = max(1, ENTRIES // (members * numbers_per_example(inputs)))
    parts = []
    for start in range(0, examples, size):
        rows = slice(start, start + size)
        part = tree_map(lambda leaf, rows=rows: _like(stacked, leaf[rows]), inputs)
        parts.append(features_at_once(objective, stacked, part))
    return tree_map(lambda *leaves: torch.cat(leaves, dim=1), *parts)


def numbers_per_example(inputs: Any, leading: int = 1) -> int:
    """How many numbers one example's inputs are.

    Args:
        inputs: Any nesting of tensors.
        leading: Axes before those of one example.
    """
    return max(1, sum(leaf.shape[leading:].numel() for leaf in tree_leaves(inputs)))


def _like(params: Params, leaf: Tensor) -> Tensor:
    return leaf.to(next(iter(params.values())).dtype) if leaf.is_floating_point() else leaf


def first_example(objective: Objective, data: Dataset) -> Batch:
    """One example in the dtype of the objective's parameters, for a look at what its network does."""
    return data.select([0]).to(dtype=next(iter(objective.params.values())).dtype).batch()


def _is_linear_layer(objective: Objective, inputs: Any, own_data: bool) -> bool:
    """Whether the objective is that of one `nn.Linear` on vectors, in its weight and bias."""
    if not isinstance(objective.network, Head) or not isinstance(inputs, Tensor):
        return False
    path = objective.network.path
    expected = tuple(f"{path}.{role}" for role, _ in objective.network.get_submodule(path).named_parameters())
    return (
        type(objective.network.get_submodule(path)) is nn.Linear
        and inputs.ndim == (3 if own_data else 2)
        and objective.names == expected
    )
