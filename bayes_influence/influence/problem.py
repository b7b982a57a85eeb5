"""`FittedProblem`: the objective where it stands and its training examples, as every estimand needs them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from math import ceil
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.arguments import check_count, check_dtype
from bayes_influence.curvature.cost import Plan
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.company import first_outputs
from bayes_influence.objectives.derivatives import gradient, per_example_gradients
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import is_linear_layer, reduce
from bayes_influence.objectives.ways import reverse_gradient
from bayes_influence.torch_internals import tree_leaves, tree_map

BATCH_SIZE = 1024
"""Default number of examples that go through the network at a time."""

FIRST_LOOK = 8
"""Examples that usually show of every parameter whether it takes part."""

BLOCK_BYTES = 1 << 28
"""Default bound on one block of per-example gradients or scores: 256 MiB."""


class FittedProblem:
    """J where its objective stands, its training examples, and their first derivatives, in one dtype.

    Influence in a last layer is taken on a problem of its own, the layer on its inputs, wherever that is the same
    problem (see `reduction`): the network before it is then a fixed feature map, evaluated once and in the dtype that
    the objective came in.

    Args:
        objective: At its fitted parameters.
        train: The n training examples of its mean.
        dtype: What everything is computed in.
        batch_size: Examples that go through the network at a time.
        alone: As in `reduce`.

    Attributes:
        reduction: Whether the last layer stands for the network, and why.
        objective: The whole network's, in `dtype`.
        train: The examples as they came.
        reduced: The objective that is differentiated: the last layer's, or `objective` itself.
        data: The examples that it takes, in `dtype`: the last layer's inputs, or `train`.

    Raises:
        TypeError: If the dtype is not a real floating-point type.
        ValueError: If the likelihood is reduced over the batch, a loss is not finite or depends on other examples, or a
            selected parameter does not take part in the losses.
    """

    def __init__(
        self,
        objective: Objective,
        train: Dataset,
        dtype: torch.dtype = torch.float64,
        batch_size: int = BATCH_SIZE,
        *,
        alone: bool = True,
    ) -> None:
        check_dtype(dtype)
        check_count(**{"the batch size": batch_size})
        self.dtype = dtype
        self.batch_size = batch_size
        self.train = train
        self.reduction = reduce(objective, train, alone=alone)
        self.objective = self.reduction.members.at(0).to(dtype=dtype)
        self.reduced = self.reduction.problem.at(0).to(dtype=dtype) if self.reduction.is_head else self.objective
        self.data = self.reduction.examples().to(dtype=dtype)
        if not self.reduction.is_head and dtype != objective.dtype:
            _check_dtype_taken(self.objective, train, objective.dtype)
        _check_parts_taken(self.reduced, self.data, batch_size)

    @property
    def size(self) -> int:
        """P, the number of selected parameters."""
        return self.reduced.layout.total

    @property
    def selection(self) -> str:
        """In how many of the network's parameters, and in which, or without which."""
        sizes = {name: value.numel() for name, value in self.objective.params.items()}
        taken = [name for name in sizes if name in self.reduced.names]
        rest = [name for name in sizes if name not in taken]
        if not rest:
            return f"all {self.size} parameters"
        named = ", ".join(taken) if len(taken) <= len(rest) else "without " + ", ".join(rest)
        return f"{self.size} of {sum(sizes.values())} parameters: {named}"

    @property
    def theta(self) -> Float[Tensor, " P"]:
        """The selected parameters as one vector."""
        return self.reduced.layout.flatten(self.reduced.params)

    @cached_property
    def gradient(self) -> Float[Tensor, " P"]:
        """Grad J in the selected parameters where the objective stands, the regulariser inside: 0 at a minimum."""
        total = torch.zeros_like(self.theta)
        for batch in self.data.batches(self.batch_size):
            total.add_(gradient(self.reduced, batch), alpha=len(batch.targets) / len(self.data))
        return total

    def know_gradient(self, total: Float[Tensor, " P"]) -> None:
        """Takes grad J from the sum of the training examples' gradients, where that is there already."""
        slope = reverse_gradient(self.reduced.flat.regulariser, self.theta)
        vars(self).setdefault("gradient", total / len(self.data) + self.reduced.regulariser_weight * slope)

    @property
    def is_linear_head(self) -> bool:
        """Whether the reduced problem is one `nn.Linear` on vectors, its weight first, its bias (if any) second."""
        return is_linear_layer(self.reduced, self.data.example.inputs)

    def taken(self, data: Dataset) -> tuple[Dataset, Objective]:
        """Other examples, in this problem's dtype, and the objective that takes them.

        That is the last layer's where these examples pass through it as the training examples do, and the whole
        network's otherwise: its derivatives in the selected parameters are right in any case.
        """
        features = self.reduction.features_of(data)
        if features is None:
            return data.to(dtype=self.dtype), self.objective
        reduced = data.with_inputs(tree_map(lambda leaf: leaf[0], features))
        return reduced.to(dtype=self.dtype), self.reduced

    def block_length(self, columns: int) -> int:
        """How many examples a block may hold, if each takes `columns` numbers."""
        return max(1, min(self.batch_size, BLOCK_BYTES // (max(1, columns) * self.dtype.itemsize)))

    def gradients(self, data: Dataset, objective: Objective | None = None) -> Float[Tensor, "B P"]:
        """Gradients of single examples' losses (or of another measurement's), of reduced data. Memory B P.

        Raises:
            ValueError: If one is not finite; the message names the examples.
            TooLargeError: If they do not fit.
        """
        objective = self.reduced if objective is None else objective
        length = self.block_length(self.size)
        plan = Plan(
            f"gradients of {len(data)} examples in {self.size} parameters",
            2 * len(data) * self.size * self.dtype.itemsize,
            "take fewer examples at a time, or fewer parameters (parameters='last-layer')",
            passes=1,
        )
        plan.check(self.theta.device)
        blocks = plan.timed(data.batches(length), ceil(len(data) / length))
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


def _check_dtype_taken(objective: Objective, data: Dataset, before: torch.dtype) -> None:
    """A network that has passed in its own dtype has to pass in the one that is computed in; one example is tried."""
    try:
        first_outputs(objective, data.example.inputs, data.name)
    except ValueError as error:
        raise ValueError(
            f"the network computes in {before} and not in {objective.dtype}: it makes tensors of a dtype of its own. "
            f"Write torch.zeros(..., dtype=x.dtype), or pass dtype={before}. {error}"
        ) from error


def _check_parts_taken(objective: Objective, data: Dataset, batch_size: int) -> None:
    """Every selected parameter has to take part in the loss of some example; usually the first ones show all."""
    unused = list(objective.names)
    # What is read from somewhere is read no oftener than it must.
    few = data.select(range(min(FIRST_LOOK, len(data)))).batches(batch_size) if data.holds_inputs else ()
    for batch in chain(few, data.batches(batch_size)):
        params = {
            name: value.detach().clone().requires_grad_(name in unused) for name, value in objective.params.items()
        }
        with torch.enable_grad():
            losses = objective.losses(params, batch)
            if not losses.requires_grad:
                continue
            gradients = torch.autograd.grad(losses.sum(), [params[name] for name in unused], allow_unused=True)
        unused = [name for name, gradient in zip(unused, gradients, strict=True) if gradient is None]
        if not unused:
            return
    if len(unused) == len(objective.names):
        raise ValueError(
            f"the losses do not depend on {'any' if objective.parameters == 'all' else 'the selected'} parameter; the "
            f"likelihood must stay differentiable"
        )
    if unused:
        raise ValueError(
            f"parameters {unused} do not take part in the losses, so nothing has influence on them; leave them out "
            f"with parameters={[name for name in objective.names if name not in unused]}"
        )
