"""All pairs of scores y_t'g_i, block by block over the training examples, in whichever way is cheapest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from bayes_influence.curvature.cost import Plan
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.operators.layer_records import kronecker_layers
from bayes_influence.curvature.operators.outer_products import Backpropagation, OuterProducts, loss_slopes
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.forward_mode import jvp
from bayes_influence.influence.directional import losses_at
from bayes_influence.influence.problem import BLOCK_BYTES, FittedProblem, check_finite
from bayes_influence.objectives.derivatives import per_example_gradients
from bayes_influence.objectives.layers import IN_WORDS
from bayes_influence.objectives.ways import first_way, reverse_along

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
        total: (P,) their sum, None as well.
    """

    start: int
    products: Float[Tensor, "t B"]
    norms: Float[Tensor, " B"] | None
    total: Float[Tensor, " P"] | None


class ScoreBlocks:
    """y_t'g_i for t solved systems and all training examples.

    Ways, all exact:
        `"outer-products"`: the gradients of linear and convolutional layers are sums over positions of e_il (x) [a_il,
            1], with a what the layer receives and e the gradient of the loss in what it returns. One forward and one
            backward pass of whole batches, and 2 n P t multiplications and additions in matrix products. Chosen where
            all selected parameters belong to such layers, and these alone use them, for every training example.
        `"gradients"`: per-example gradients, a block at a time. A backward pass per example and 2 n P t. Chosen while
            a block of them fits into memory.
        `"forward"`: g_i'y is the derivative of l_i along y: no gradient is formed, t forward passes with tangents per
            example. Memory of one batch's activations. Gives no ||g_i||, hence no error bounds.

    Args:
        problem: Whose training examples are scored.
        scoring: One of the ways, or `"auto"`.
        curvature: The undamped curvature, where there is one: EK-FAC has taken the same layers apart.

    Raises:
        ValueError: If the way is unknown, or the selected parameters are not of layers as outer products need them.
    """

    def __init__(self, problem: FittedProblem, scoring: str = "auto", curvature: LinearOperator | None = None) -> None:
        if scoring != "auto" and scoring not in SCORINGS:
            raise ValueError(f"unknown scoring {scoring!r}; known: auto, {', '.join(SCORINGS)}")
        self.problem = problem
        self._asked = scoring
        self._curvature = curvature
        self._layers, self._unsupported = kronecker_layers(problem.reduced)
        if scoring == "outer-products" and not self._takes_outer_products:
            instead = f", not {self._unsupported[0]!r}" if self._unsupported else ""
            raise ValueError(
                f"scoring='outer-products' needs parameters of {IN_WORDS} that their layers alone use, with the "
                f"examples on the first axis{instead}; use 'gradients' or 'forward'"
            )

    @cached_property
    def scoring(self) -> str:
        """The way that was asked for, or the cheapest; found out when it is first needed."""
        if self._asked != "auto":
            return self._asked
        return "outer-products" if self._takes_outer_products else _cheapest(self.problem)

    @cached_property
    def _takes_outer_products(self) -> bool:
        # The gradient of a linear layer that is the whole problem is its outer product, whatever the examples are.
        if self.problem.is_linear_head:
            return True
        return not self._unsupported and (self._is_seen() or self._is_complete())

    @property
    def gives_norms(self) -> bool:
        """Whether ||g_i|| comes with the scores."""
        return self.scoring != "forward"

    def __call__(self, solved: Float[Tensor, "P t"], start: int = 0) -> Iterator[ScoreBlock]:
        """The blocks in order, beginning with the training example at position `start`.

        Raises:
            ValueError: If a score is not finite; the message names the training examples.
        """
        way: Callable[[Dataset], tuple[Tensor, Tensor | None, Tensor | None]]
        if self.scoring == "outer-products":
            way = partial(self._outer_products, columns=self._columns(solved))
        else:
            way = partial(self._gradients if self.scoring == "gradients" else self._forward, solved=solved)
        length = self.block_length(solved.shape[1])
        starts = range(start, len(self.problem.data), length)
        plan = Plan(
            f"scores of {solved.shape[1]} x {len(self.problem.data) - start} pairs by {self.scoring}",
            2 * length * max(solved.shape[1], self.problem.size) * solved.dtype.itemsize,
            "take a smaller batch_size",
            passes=1,
        )
        for first in plan.timed(starts, len(starts)):
            block = self.problem.data.select(range(first, min(first + length, len(self.problem.data))))
            products, norms, total = way(block)
            check_finite(products.T, block, "the gradient")
            yield ScoreBlock(first, products, norms, total)

    def block_length(self, tests: int) -> int:
        """Training examples per block."""
        columns = self.problem.size if self.scoring != "forward" else tests
        return self.problem.block_length(columns)

    def _outer_products(
        self, block: Dataset, columns: dict[str, Float[Tensor, "t O D"]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        layout, device = self.problem.reduced.layout, self.problem.theta.device
        shapes = dict(zip(layout.names, layout.shapes, strict=True))
        tests = len(next(iter(columns.values())))
        products = torch.zeros(tests, len(block), dtype=self.problem.dtype, device=device)
        squares = products.new_zeros(len(block))
        totals: dict[str, Tensor] = {}
        paths = {layer.path: layer for layer in self._layers}
        for factors in self._factors(block):
            mine, lengths, together = _layer_products(factors, columns[factors.path])
            products += mine
            squares += lengths
            totals |= paths[factors.path].apart(together, shapes)
        return products, squares.sqrt(), layout.flatten(totals)

    def _columns(self, solved: Float[Tensor, "P t"]) -> dict[str, Float[Tensor, "t O D"]]:
        """Solved systems as every layer's [weight, bias]."""
        columns = self.problem.reduced.layout.unflatten(solved.T)
        return {layer.path: layer.joined(columns, leading=1) for layer in self._layers}

    def _factors(self, block: Dataset, *, check: bool = False) -> Iterator[OuterProducts]:
        """Every layer's a and e, for all examples of the block at once."""
        losses = Backpropagation(self.problem.reduced, loss_slopes(self.problem.reduced))
        batches = block.batches(self.problem.block_length(self.problem.size))
        return losses.through(self._layers, batches, check="again" if check else None)

    def _is_seen(self) -> bool:
        """Whether the curvature has looked at these very gradients already, all of them, as `_is_complete` does."""
        seen = self._curvature
        return (
            isinstance(seen, EKFACOperator)
            and seen.objective is self.problem.reduced
            and seen.taken_apart is self.problem.data
        )

    def _is_complete(self) -> bool:
        """Whether the factors make up the gradients, in every block of the training examples.

        They do not where a parameter is used outside its layer as well, for some examples or all, and cannot be had
        where a layer's first axis is not that of the examples. Costs a forward and two backward passes.
        """
        try:
            for _ in self._factors(self.problem.data, check=True):
                pass
        except ValueError:
            return False
        return True

    def _gradients(self, block: Dataset, solved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradients = per_example_gradients(self.problem.reduced, block.batch())
        return solved.T @ gradients.T, gradients.norm(dim=1), gradients.sum(dim=0)

    def _forward(self, block: Dataset, solved: Tensor) -> tuple[Tensor, None, None]:
        return forward_products(self.problem, block.batch(), solved), None, None


def forward_products(problem: FittedProblem, batch: Batch, vectors: Float[Tensor, "P t"]) -> Float[Tensor, "t B"]:
    """g_i'v for every example of a batch and every column v, by forward-mode products."""
    losses, theta = losses_at(problem.reduced, batch), problem.theta
    return first_way(
        problem.reduced.network,
        "products",
        lambda: vmap(lambda vector: jvp(losses, (theta,), (vector,))[1], in_dims=1)(vectors),
        lambda: torch.stack([reverse_along(losses, theta, vector) for vector in vectors.T]),
    )


def _layer_products(
    factors: OuterProducts, columns: Float[Tensor, "t O D"]
) -> tuple[Float[Tensor, "t B"], Float[Tensor, " B"], Float[Tensor, "O D"]]:
    """Inner products of a layer's gradients with t matrices, their squared norms, and their sum."""
    tests, outputs, _ = columns.shape
    received, sent_back = factors.received, factors.backpropagated
    if received.shape[1] == 1 and tests < received.shape[2]:
        received, sent_back = received.squeeze(1), sent_back.squeeze(1)
        projected = (received @ columns.flatten(0, 1).T).unflatten(1, (tests, outputs))
        products = (projected @ sent_back.unsqueeze(2)).squeeze(2).T
        squares = received.square().sum(dim=1) * sent_back.square().sum(dim=1)
        return products, squares, sent_back.T @ received
    gradients = sent_back.mT @ received
    flat = gradients.flatten(1)
    return columns.flatten(1) @ flat.T, flat.norm(dim=1).square(), gradients.sum(dim=0)


def _cheapest(problem: FittedProblem) -> str:
    fitting = BLOCK_BYTES // (problem.size * problem.dtype.itemsize)
    return "gradients" if fitting >= SMALLEST_GRADIENT_BLOCK else "forward"
