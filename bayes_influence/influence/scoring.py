"""All pairs of scores y_t'g_i, block by block over the training examples, in whichever way is cheapest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp, vmap

from bayes_influence.data.dataset import Batch, Dataset
from bayes_influence.influence.directional import losses_at
from bayes_influence.influence.problem import BLOCK_BYTES, FittedProblem, check_finite
from bayes_influence.objectives.derivatives import per_example_gradients

SCORINGS = ("outer-products", "gradients", "forward")
"""The ways, see `ScoreBlocks`."""

SMALLEST_GRADIENT_BLOCK = 16
"""Materialised gradients are chosen while a block of this many fits into `problem.BLOCK_BYTES`."""


@dataclass(frozen=True, eq=False)
class ScoreBlock:
    """Scores of some consecutive training examples.

    Attributes:
        start: Position of the first one.
        products: (t, B) y_t'g_i.
        norms: (B,) ||g_i||, None where gradients are never formed.
    """

    start: int
    products: Float[Tensor, "t B"]
    norms: Float[Tensor, " B"] | None


class ScoreBlocks:
    """y_t'g_i for t solved systems and all training examples.

    Ways, all exact:
        `"outer-products"`: a linear last layer's gradients are e_i (x) [a_i, 1], with e_i the gradient of the loss in
            the outputs; 2 n P t multiplications and additions in one matrix product per block. Chosen where it applies.
        `"gradients"`: per-example gradients, a block at a time. A backward pass per example and 2 n P t. Chosen while
            a block of them fits into memory.
        `"forward"`: g_i'y is the derivative of l_i along y: no gradient is formed, t forward passes with tangents per
            example. Memory of one batch's activations. Gives no ||g_i||, hence no error bounds.

    Args:
        problem: Whose training examples are scored.
        scoring: One of the ways, or `"auto"`.

    Attributes:
        scoring: The way that was chosen.

    Raises:
        ValueError: If the way is unknown, or the reduced problem is not a linear layer as outer products need it.
    """

    def __init__(self, problem: FittedProblem, scoring: str = "auto") -> None:
        if scoring != "auto" and scoring not in SCORINGS:
            raise ValueError(f"unknown scoring {scoring!r}; known: auto, {', '.join(SCORINGS)}")
        if scoring == "outer-products" and not problem.is_linear_head:
            raise ValueError(
                "scoring='outer-products' needs influence in a linear last layer (its weight, with or without its "
                "bias) whose inputs are vectors; use 'gradients' or 'forward'"
            )
        self.problem = problem
        self.scoring = _cheapest(problem) if scoring == "auto" else scoring

    @property
    def gives_norms(self) -> bool:
        """Whether ||g_i|| comes with the scores."""
        return self.scoring != "forward"

    def __call__(self, solved: Float[Tensor, "P t"], start: int = 0) -> Iterator[ScoreBlock]:
        """The blocks in order, beginning with the training example at position `start`.

        Raises:
            ValueError: If a score is not finite; the message names the training examples.
        """
        ways: dict[str, Callable[[Dataset, Tensor], tuple[Tensor, Tensor | None]]] = {
            "outer-products": self._outer_products,
            "gradients": self._gradients,
            "forward": self._forward,
        }
        length = self.block_length(solved.shape[1])
        for first in range(start, len(self.problem.data), length):
            block = self.problem.data.select(range(first, min(first + length, len(self.problem.data))))
            products, norms = ways[self.scoring](block, solved)
            check_finite(products.T, block, "the gradient")
            yield ScoreBlock(first, products, norms)

    def block_length(self, tests: int) -> int:
        """Training examples per block."""
        columns = self.problem.size if self.scoring != "forward" else tests
        return self.problem.block_length(columns)

    def _outer_products(self, block: Dataset, solved: Tensor) -> tuple[Tensor, Tensor]:
        objective, inputs = self.problem.reduced, block.inputs
        with torch.no_grad():
            outputs = objective.outputs(objective.params, inputs)
        errors = grad(lambda values: objective.likelihood(values, block.targets).sum())(outputs)
        classes, width = errors.shape[1], inputs.shape[1]
        has_bias = len(objective.names) == 2
        weights, biases = solved[: classes * width], solved[classes * width :]
        if classes * solved.shape[1] < self.problem.size:
            projected = inputs @ weights.reshape(classes, width, -1).permute(1, 0, 2).flatten(1)
            projected = projected.unflatten(1, (classes, -1)) + (biases if has_bias else 0.0)
            products = torch.einsum("bct,bc->tb", projected, errors)
        else:
            products = weights.T @ (errors.unsqueeze(2) * inputs.unsqueeze(1)).flatten(1).T
            products = products + biases.T @ errors.T if has_bias else products
        lengths = inputs.square().sum(dim=1) + float(has_bias)
        return products, (errors.square().sum(dim=1) * lengths).sqrt()

    def _gradients(self, block: Dataset, solved: Tensor) -> tuple[Tensor, Tensor]:
        gradients = per_example_gradients(self.problem.reduced, block.batch())
        return solved.T @ gradients.T, gradients.norm(dim=1)

    def _forward(self, block: Dataset, solved: Tensor) -> tuple[Tensor, None]:
        return forward_products(self.problem, block.batch(), solved), None


def forward_products(problem: FittedProblem, batch: Batch, vectors: Float[Tensor, "P t"]) -> Float[Tensor, "t B"]:
    """g_i'v for every example of a batch and every column v, by forward-mode products."""
    losses = losses_at(problem.reduced, batch)
    return vmap(lambda vector: jvp(losses, (problem.theta,), (vector,))[1], in_dims=1)(vectors)


def _cheapest(problem: FittedProblem) -> str:
    if problem.is_linear_head:
        return "outer-products"
    fitting = BLOCK_BYTES // (problem.size * problem.dtype.itemsize)
    return "gradients" if fitting >= SMALLEST_GRADIENT_BLOCK else "forward"
