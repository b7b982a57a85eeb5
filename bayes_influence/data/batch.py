"""`Batch`: what an objective consumes, a pytree that torch's transformations take apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from bayes_influence.torch_internals import register_pytree_node


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """What an objective consumes: inputs (any nesting of tensors with one leading axis), targets, example weights.

    A pytree whose leaves are those of the inputs, the targets and, where there are any, the weights: `vmap` with
    `in_dims=0`, `grad`, `make_fx` and `tree_map` take it apart and put it together.

    Attributes:
        inputs: (B, ...) each.
        targets: (B, ...).
        weights: (B,), the factors w_i of the losses l_i; None where all are 1.
    """

    inputs: Any
    targets: Tensor
    weights: Tensor | None = None

    def weighted(self, losses: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """w_i l_i of the examples' losses l_i."""
        return losses if self.weights is None else self.weights * losses

    def with_root_weights(self) -> Batch:
        """The same examples with weights sqrt(w_i): products of two weighted derivatives then have w_i once."""
        return self if self.weights is None else Batch(self.inputs, self.targets, self.weights.sqrt())


def _flatten(batch: Batch) -> tuple[list[Any], None]:
    parts = [batch.inputs, batch.targets]
    return (parts if batch.weights is None else [*parts, batch.weights]), None


def _unflatten(parts: Iterable[Any], _: None) -> Batch:
    # Transformations put placeholders (axes, None, specs) where the tensors were, so nothing is checked here.
    batch = object.__new__(Batch)
    for name, value in zip(("inputs", "targets", "weights"), (*parts, None), strict=False):
        object.__setattr__(batch, name, value)
    return batch


register_pytree_node(Batch, _flatten, _unflatten, serialized_type_name=f"{Batch.__module__}.{Batch.__qualname__}")
