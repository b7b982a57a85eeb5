"""`FittedProblem`: the objective where it stands and its training examples, as every estimand needs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from bayes_influence.data.dataset import Batch, Dataset, check_dataset
from bayes_influence.objectives.derivatives import per_example_gradients
from bayes_influence.objectives.head import (
    features,
    has_head,
    head_objective,
    last_layer_prefix,
)
from bayes_influence.objectives.objective import Likelihood, Objective
from bayes_influence.objectives.parameters import last_layer_name
from bayes_influence.torch_internals import tree_leaves, tree_map

BATCH_SIZE = 1024
"""Default number of examples that go through the network at a time."""

BLOCK_BYTES = 1 << 28
"""Default bound on one block of per-example gradients or scores: 256 MiB."""


class FittedProblem:
    """J where its objective stands, its training examples, and their first derivatives, in one dtype.

    Influence in a last layer is taken on a problem of its own, the layer on its inputs: derivatives are the same, and
    the network before it is a fixed feature map, evaluated once and in the dtype that the objective came in. Where
    something follows the last layer, or it is called more than once, the whole network stays.

    Args:
        objective: At its fitted parameters.
        train: The n training examples of its mean.
        dtype: What everything is computed in.
        batch_size: Examples that go through the network at a time.

    Attributes:
        objective: The whole network's, in `dtype`.
        train: The examples as they came.
        reduced: The objective that is differentiated: the last layer's, or `objective` itself.
        data: The examples that it takes, in `dtype`: the last layer's inputs, or `train`.

    Raises:
        TypeError: If the dtype is not a real floating-point type.
        ValueError: If the likelihood is reduced over the batch, a loss is not finite, or a selected parameter does not
            take part in the losses.
    """

    def __init__(
        self,
        objective: Objective,
        train: Dataset,
        dtype: torch.dtype = torch.float64,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        check_dataset(train, "the training examples")
        if not dtype.is_floating_point:
            raise TypeError(f"influence needs a real floating-point dtype, got {dtype}")
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, got {batch_size}")
        self.dtype = dtype
        self.batch_size = batch_size
        self.objective = objective.to(dtype=dtype)
        self._feature_map = objective
        self.train = train
        self.objective.check_targets(train)
        first = next(train.select(range(min(2, len(train)))).to(dtype=dtype).batches(2))
        self.objective.check(first)
        _check_parts_taken(self.objective, first)
        self._is_head = has_head(self.objective, first)
        self.reduced = head_objective(self.objective) if self._is_head else self.objective
        self.data = self.reduce(self.train)
        for batch in self.data.batches(batch_size):
            self.reduced.check(batch)

    @property
    def size(self) -> int:
        """P, the number of selected parameters."""
        return self.reduced.layout.total

    @property
    def theta(self) -> Float[Tensor, " P"]:
        """The selected parameters as one vector."""
        return self.reduced.layout.flatten(self.reduced.params)

    @property
    def is_linear_head(self) -> bool:
        """Whether the reduced problem is one `nn.Linear` on vectors, its weight first, its bias (if any) second."""
        if not self._is_head:
            return False
        prefix = last_layer_prefix(self.objective.network)
        layer = self.objective.network.get_submodule(last_layer_name(self.objective.network))
        return (
            type(layer) is nn.Linear
            and isinstance(self.data.inputs, Tensor)
            and self.data.inputs.ndim == 2
            and self.reduced.names in ((f"{prefix}weight",), (f"{prefix}weight", f"{prefix}bias"))
        )

    def reduce(self, data: Dataset) -> Dataset:
        """The same examples as the reduced objective takes them, in this problem's dtype."""
        check_dataset(data, "examples")
        if not self._is_head:
            return data.to(dtype=self.dtype)
        with torch.no_grad():
            pieces = [
                features(self._feature_map, self._feature_map.params, self._slice(data.inputs, start))
                for start in range(0, len(data), self.batch_size)
            ]
        return data.with_inputs(tree_map(lambda *leaves: torch.cat(leaves), *pieces)).to(dtype=self.dtype)

    def _slice(self, inputs: Any, start: int) -> Any:
        """A batch of inputs in the feature map's dtype; the whole set is never held in it."""
        dtype = next(iter(self._feature_map.params.values())).dtype

        def move(leaf: Tensor) -> Tensor:
            part = leaf[start : start + self.batch_size]
            return part.to(dtype=dtype) if leaf.is_floating_point() else part

        return tree_map(move, inputs)

    def measuring(self, measurement: Likelihood) -> Objective:
        """The reduced objective with another per-example function of (outputs, targets) in its likelihood's place."""
        return replace(self.reduced, likelihood=measurement)

    def block_length(self, columns: int) -> int:
        """How many examples a block may hold, if each takes `columns` numbers."""
        return max(1, min(self.batch_size, BLOCK_BYTES // (max(1, columns) * self.dtype.itemsize)))

    def gradients(self, data: Dataset, objective: Objective | None = None) -> Float[Tensor, "B P"]:
        """Gradients of single examples' losses (or of another measurement's), of reduced data. Memory B P.

        Raises:
            ValueError: If one is not finite; the message names the examples.
        """
        objective = self.reduced if objective is None else objective
        blocks = data.batches(self.block_length(self.size))
        gradients = torch.cat([per_example_gradients(objective, batch) for batch in blocks])
        check_finite(gradients, data, "the gradient")
        return gradients

    def gradient_blocks(self, data: Dataset) -> Iterator[Float[Tensor, "B P"]]:
        """The same, block by block. Memory of one block."""
        length = self.block_length(self.size)
        for start in range(0, len(data), length):
            yield self.gradients(data.select(range(start, min(start + length, len(data)))))


def check_finite(values: Float[Tensor, "B *rest"], data: Dataset, what: str) -> None:
    """Refuses NaN and infinity.

    Raises:
        ValueError: Naming the examples whose row is not finite.
    """
    bad = ~torch.isfinite(values).reshape(len(values), -1).all(dim=1)
    if bad.any():
        ids = data.ids[bad.to(data.ids.device)].tolist()
        raise ValueError(
            f"{what} is not finite for {len(ids)} of {len(values)} examples of {data.name} (ids {ids[:5]}); a loss "
            f"with a square root, a logarithm or a division at 0 has no derivative there"
        )


def check_float_inputs(inputs: Any, what: str) -> None:
    """Refuses inputs that cannot be differentiated.

    Raises:
        TypeError: If a leaf is not a floating-point tensor.
    """
    wrong = [leaf.dtype for leaf in tree_leaves(inputs) if not leaf.is_floating_point()]
    if wrong:
        raise TypeError(f"{what} needs real inputs, got {wrong[0]}; perturb an embedding of them instead")


def _check_parts_taken(objective: Objective, batch: Batch) -> None:
    params = {name: value.detach().clone().requires_grad_() for name, value in objective.params.items()}
    with torch.enable_grad():
        losses = objective.likelihood(functional_call(objective.network, params, (batch.inputs,)), batch.targets)
        selected = [params[name] for name in objective.names]
        if not losses.requires_grad:
            raise ValueError("the losses do not depend on any parameter; the likelihood must stay differentiable")
        gradients = torch.autograd.grad(losses.sum(), selected, allow_unused=True)
    unused = [name for name, gradient in zip(objective.names, gradients, strict=True) if gradient is None]
    if unused:
        raise ValueError(
            f"parameters {unused} do not take part in the losses, so nothing has influence on them; leave them out "
            f"with parameters={[name for name in objective.names if name not in unused]}"
        )
