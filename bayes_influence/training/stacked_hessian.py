"""The Hessian of one member of a stack, by products: for parameters too many for a matrix."""

from __future__ import annotations

from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.training.stacked import StackedProblem


class StackedHessian(LinearOperator):
    """grad^2 J of one member where it starts, whatever J is, known by its products with vectors.

    Floor of a product with K vectors: a forward and a backward pass over the examples, and K times twice as much.

    Args:
        problem: The members.
        member: Which one.
    """

    def __init__(self, problem: StackedProblem, member: int) -> None:
        start = problem.start[member]
        super().__init__(len(start), start.dtype, start.device)
        self.examples = problem.examples
        self._problem, self._member = problem, member

    def _product(self, vectors: Tensor) -> Tensor:
        return self._problem.products(self._problem.start[self._member], self._member, vectors)
