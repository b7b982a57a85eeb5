"""Variables in which an objective is curved alike in all directions: theta = start + L'^-1 u, where L L' is near H."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.training.stacked import StackedProblem

BLOCK_ENTRIES, BLOCK_OPERATIONS = 50_000_000, 2_000_000_000_000
"""Entries of a mean block, 400 MB, and operations that finding it may cost, about a minute."""


@dataclass(frozen=True, eq=False)
class Metric:
    """L of one block that is repeated along the diagonal, in float64 on the CPU.

    Attributes:
        factor: (m, m) lower triangular.
        places: (P,) the row of the repeated blocks, one after the other, where each parameter stands.
    """

    factor: Float[Tensor, "m m"]
    places: Int[Tensor, " P"]

    @classmethod
    def of(cls, block: Float[Tensor, "m m"], places: Int[Tensor, " P"] | None = None) -> Metric | None:
        """L of L L' = the block, None where it is not positive definite.

        Args:
            block: Of a matrix near the Hessian, or that matrix.
            places: As the attribute; in their order when not given.
        """
        factor, info = torch.linalg.cholesky_ex(block.double().cpu())
        return None if int(info) else cls(factor, torch.arange(len(block)) if places is None else places.cpu())

    def step(self, variables: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """L'^-1 u, in the order of the parameters."""
        rows = variables.view(-1, len(self.factor)).T
        return torch.linalg.solve_triangular(self.factor.T, rows, upper=True).T.flatten()[self.places]

    def slope(self, gradient: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """L^-1 g, the gradient in u."""
        rows = torch.empty_like(gradient)
        rows[self.places] = gradient
        return torch.linalg.solve_triangular(self.factor, rows.view(-1, len(self.factor)).T, upper=False).T.flatten()

    @cached_property
    def stretch(self) -> float:
        """||L||, by which a gradient may be longer than it is in u."""
        return float(torch.linalg.matrix_norm(self.factor, 2))


def output_metric(problem: StackedProblem, member: int) -> Metric | None:
    """Of a linear last layer, the mean block of its Hessian within an output, for every output, where a member starts.

    One block for all keeps what adds the same to all outputs apart from what tells them apart, as the Hessian of a
    softmax does; blocks of each output's own mix the two, and save next to nothing. n D^2 operations for n examples of
    D features, and D^3 / 3 to factor it; a step costs C D^2, less than a gradient where there are more examples than
    features. None of other problems, and where that is too much.
    """
    if problem.linear is None:
        return None
    width = problem.layout.total // problem.layout.shapes[0][0]
    if width**2 > BLOCK_ENTRIES or 2 * problem.examples * width**2 > BLOCK_OPERATIONS:
        return None
    return Metric.of(*problem.mean_block(member))
