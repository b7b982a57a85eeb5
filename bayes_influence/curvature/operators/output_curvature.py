"""The curvature of an objective's losses in the network's outputs, example by example."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.arguments import kind_of
from bayes_influence.data.batch import Batch
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.ways import reverse_gradient, small_products
from bayes_influence.torch_internals import tree_flatten, tree_leaves, tree_unflatten

AT_A_TIME = 1 << 22
"""Numbers of a block of unit vectors for all examples: 32 MiB in float64."""


class OutputLosses:
    """The losses of a batch as a function of the network's outputs, which are joined into one vector.

    Args:
        objective: Whose losses.
        batch: The examples, with their weights.
        outputs: What the network returns for them: any nesting of tensors.

    Attributes:
        values: The outputs as one vector.

    Raises:
        TypeError: If the outputs are something else, such as a dataclass.
    """

    def __init__(self, objective: Objective, batch: Batch, outputs: Any) -> None:
        if wrong := [leaf for leaf in tree_leaves(outputs) if not isinstance(leaf, Tensor)]:
            raise TypeError(
                f"this curvature is taken in the network's outputs, which must be tensors, or tuples or dicts of them, "
                f"got {kind_of(wrong[0])}; return one of these, or take curvature='hessian'"
            )
        self._objective, self._batch = objective, batch
        self._leaves, self._structure = tree_flatten(outputs)
        self.values = self.join(outputs)

    def join(self, outputs: Any) -> Float[Tensor, " M"]:
        """Outputs as one vector."""
        return torch.cat([leaf.flatten() for leaf in tree_leaves(outputs)])

    def split(self, values: Float[Tensor, " M"]) -> Any:
        """Its inverse."""
        parts = values.split([leaf.numel() for leaf in self._leaves])
        leaves = [part.view_as(leaf) for part, leaf in zip(parts, self._leaves, strict=True)]
        return tree_unflatten(leaves, self._structure)

    def __call__(self, values: Float[Tensor, " M"]) -> Float[Tensor, " B"]:
        """The losses."""
        return self._objective.losses_of(self.split(values), self._batch)

    def slopes(self) -> Float[Tensor, " M"]:
        """The gradient of the sum of the losses in the outputs."""
        return reverse_gradient(lambda values: self(values).sum(), self.values)

    def products(self, vectors: Float[Tensor, "M K"]) -> Float[Tensor, "M K"]:
        """Lambda V: the Hessian of the sum of the losses in the outputs, times K vectors."""

        def total(values: Tensor) -> Tensor:
            return self(values).sum()

        return small_products(self._objective.network, "outputs", total, self.values, vectors)


def output_hessians(objective: Objective, outputs: Float[Tensor, "B *out"], batch: Batch) -> Float[Tensor, "B C C"]:
    """Lambda_i = grad^2 l_i in the C = prod(out) outputs of example i; diag p - p p' for softmax cross-entropy.

    An example's loss depends on its own outputs only, so one derivative along the same unit vector for all examples
    gives one row of every Lambda_i: C derivatives in all. Sample weights are in l_i. Memory B C^2 for the result, and
    as much as `AT_A_TIME` numbers several times over beside it.
    """
    detached = outputs.detach()
    examples, classes = len(outputs), outputs[0].numel()
    losses = OutputLosses(objective, batch, detached)
    result = outputs.new_empty(examples, classes, classes)
    for rows in torch.arange(classes, device=outputs.device).split(max(1, AT_A_TIME // detached.numel())):
        units = torch.zeros(classes, len(rows), dtype=outputs.dtype, device=outputs.device)
        units[rows, torch.arange(len(rows), device=outputs.device)] = 1
        result[:, rows] = losses.products(units.repeat(examples, 1)).unflatten(0, (examples, classes)).mT
    return result
