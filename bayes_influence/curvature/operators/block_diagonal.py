"""The part of a curvature matrix within blocks of parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.objective import Objective

Blocks = Sequence[Sequence[str]]
"""Names of parameters, block by block."""


class BlockDiagonalOperator(LinearOperator):
    """Curvature within blocks of parameters; between blocks it is taken to be 0.

    Attributes:
        blocks: Names of the parameters of each block.
        operators: One operator for each block, in the same order.

    Args:
        make: The kind of curvature: an operator class, or any `(objective, data) -> operator`.
        objective: Whose curvature this is, in its selected parameters.
        data: The examples.
        blocks: Names of parameters that belong together; each module's own when not given.

    Raises:
        ValueError: If a selected parameter is in no block or in two, or a block names one that is not selected.
    """

    def __init__(
        self,
        make: Callable[[Objective, Dataset], LinearOperator],
        objective: Objective,
        data: Dataset,
        blocks: Blocks | None = None,
    ) -> None:
        theta = objective.layout.flatten(objective.params)
        super().__init__(theta.numel(), theta.dtype, theta.device)
        self.blocks = module_blocks(objective) if blocks is None else tuple(tuple(block) for block in blocks)
        named = sorted(name for block in self.blocks for name in block)
        if named != sorted(objective.names):
            raise ValueError(
                f"the blocks must name every selected parameter {sorted(objective.names)} exactly once, got {named}"
            )
        restricted = [replace(objective, parameters=block) for block in self.blocks]
        self.operators = [make(part, data) for part in restricted]
        positions = objective.layout.unflatten(torch.arange(self.size, device=self.device))
        self._positions = [part.layout.flatten(positions) for part in restricted]

    def _product(self, vectors: Tensor) -> Tensor:
        result = torch.zeros_like(vectors)
        for positions, operator in zip(self._positions, self.operators, strict=True):
            result[positions] = operator @ vectors[positions]
        return result

    def dense(self) -> Float[Tensor, "P P"]:
        """The matrix, from each block's dense form. Memory P^2."""
        matrix = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        for positions, operator in zip(self._positions, self.operators, strict=True):
            matrix[positions.unsqueeze(1), positions] = operator.dense()
        return matrix

    def diagonal(self) -> Float[Tensor, " P"]:
        """Each block's diagonal."""
        entries = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for positions, operator in zip(self._positions, self.operators, strict=True):
            entries[positions] = operator.diagonal()
        return entries


def module_blocks(objective: Objective) -> tuple[tuple[str, ...], ...]:
    """The selected parameters, grouped by the module that owns them."""
    groups: dict[str, list[str]] = {}
    for name in objective.names:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    return tuple(tuple(group) for group in groups.values())
