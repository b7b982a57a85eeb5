"""What the operators of an objective on a dataset share: batches, the mean over them, and the regulariser."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.curvature.cost import Plan
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.leading import LeadingExamples
from bayes_influence.curvature.operators.regulariser import RegulariserOperator
from bayes_influence.curvature.operators.traced import TracedProduct, kept_bytes
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.held import held_per_example
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.ways import checked_symmetric, first_way, is_quick
from bayes_influence.torch_internals import tree_leaves

logger = logging.getLogger(__name__)

Shape = tuple[torch.Size, ...]
"""Shapes of a batch's tensors, and of the vectors that a product takes."""

BATCH_SIZE = 1024
"""Default number of examples that are differentiated at a time."""

CACHE_BYTES = 1 << 30
"""Default bound on what an operator keeps between products: 1 GiB."""

COLUMNS = 32
"""Most vectors that are differentiated along at a time: memory grows with batch size x columns."""

PRODUCT_COPIES = 1.3
"""Numbers that a product with one vector holds of an example, for each that a gradient makes: measured."""

LARGEST_PART = 0.75
"""No part of the examples stands in for all of them that is larger: little would be saved."""

TRACE_WORK = 3e9
"""Multiplications and additions that take about as long as a trace (0.3 s): once as many have been spent on products
that a trace would have made cheaper, it is made. An operator that is used for little never pays for one."""

CALL_WORK = 5e7
"""What the Python of one untraced product (5 ms) costs in the same unit."""


class DataOperator(LinearOperator):
    """(1/n) sum_i M_i + s grad^2 R: a mean over the data, batch by batch, with the regulariser counted once.

    Products with the same number of vectors are traced once they are many or large (see `TracedProduct`). Then, while
    what the tangent parts need fits into `cache_bytes`, it is kept from product to product, so that nothing is
    differentiated twice. Memory: that, and one batch's intermediate values for at most 32 vectors.

    Attributes:
        objective: Whose curvature this is: at `objective.params`, in its selected parameters. An objective with
            `regulariser_weight=0` gives the data term alone.
        data: The n examples.
        batch_size: Examples per product; at most 1024 where not given.
        cache_bytes: How much may be kept between products; 0 keeps and traces nothing.
        kept_bytes: How much is.
        regulariser: s grad^2 R.

    Raises:
        ValueError: If the batch size is below 1, or the objective's losses are not one finite number per example.
    """

    def __init__(
        self, objective: Objective, data: Dataset, batch_size: int | None = None, cache_bytes: int = CACHE_BYTES
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, got {batch_size}")
        theta = objective.layout.flatten(objective.params)
        super().__init__(theta.numel(), theta.dtype, theta.device)
        self.objective = objective
        self.data = data
        self.batch_size = min(batch_size or BATCH_SIZE, len(data))
        self.examples = len(data)
        self.cache_bytes = cache_bytes
        self.kept_bytes = 0
        self.regulariser = RegulariserOperator(objective)
        self._theta = theta
        self._batches = data.in_batches(self.batch_size)
        self._leading: LeadingExamples | None = None
        self._is_untraceable = False
        self._is_checked = False
        self._work: Counter[Shape] = Counter()
        self._traced: dict[Shape, TracedProduct] = {}
        self._kept: dict[tuple[str, int, int], tuple[Tensor, ...]] = {}
        objective.check(self._batches[0])

    @abstractmethod
    def _batch_product(self, theta: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
        """The mean of M_i over one batch, at `theta`, times V of shape (P, K); a pure function."""

    @abstractmethod
    def _patient_product(self, theta: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
        """The same by `torch.autograd` alone, where torch lacks forward mode or a batching rule."""

    def _untraced_product(self, batch: Batch, vectors: Tensor) -> Tensor:
        def patient() -> Tensor:
            if not self._is_checked:
                generator = torch.Generator().manual_seed(0)
                pair = torch.randn(self.size, 2, dtype=torch.float64, generator=generator).to(vectors)
                checked_symmetric(pair.T @ self._patient_product(self._theta, batch, pair))
                self._is_checked = True
            return self._patient_product(self._theta, batch, vectors)

        quick = partial(self._batch_product, self._theta, batch, vectors)
        return first_way(self.objective.network, "products", quick, patient)

    def product_of(self, positions: Int[Tensor, " m"], vectors: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """[(1/m) sum over the given examples of M_i + s grad^2 R] V: the same operator of a minibatch."""
        batch = self.data.select(positions).batch()
        traced = self._traced_for(batch, vectors)
        if traced is None:
            product = self._untraced_product(batch, vectors)
        else:
            prepared = traced.prepare(self._theta, vectors)
            product = traced(traced.linearise(self._theta, batch), self._theta, batch, prepared)
        return product + self.regulariser @ vectors

    def _random_examples(self, count: int) -> Dataset:
        """At most so many, always the same."""
        drawn = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(0))
        return self.data.select(drawn[:count])

    def within(self, error: float) -> LinearOperator:
        """The part of the examples that carry all but a fraction `error` of the curvature; see `LeadingExamples`.

        A itself where these are more than three quarters. The first call costs a forward pass.
        """
        most = int(LARGEST_PART * len(self.data)) // self.batch_size
        if most == 0:
            return self
        if self._leading is None:
            self._leading = LeadingExamples(self.objective, self.data, self.batch_size)
        count = self._leading.batches_for(error)
        return _LeadingPart(self, self._leading.batches(count)) if count <= most else self

    def _dense_plan(self) -> Plan:
        return replace(super()._dense_plan(), passes=self.size)

    def product_bytes(self, columns: int) -> int:
        """What is kept between products, and the tangents of a batch's intermediate values."""
        tangents = PRODUCT_COPIES * held_per_example(self.objective, self._batches[0]) * self.batch_size
        return self.kept_bytes + round(tangents * min(COLUMNS, columns, self.size) * self.dtype.itemsize)

    def _product(self, vectors: Tensor) -> Tensor:
        return self._product_over("all", self._batches, vectors)

    def _product_over(self, part: str, batches: Sequence[Batch], vectors: Tensor) -> Tensor:
        """[(1/n) sum over some batches' examples of M_i + s grad^2 R] V; `part` names what is kept of them."""
        columns = vectors.shape[1]
        blocks = ceil(columns / COLUMNS)
        width = ceil(columns / blocks)
        # Blocks of one width need one trace; the last is filled up with zeros.
        padded = torch.nn.functional.pad(vectors, (0, blocks * width - columns))
        products = [self._block_product(part, batches, block) for block in padded.split(width, dim=1)]
        return torch.cat(products, dim=1)[:, :columns]

    def _block_product(self, part: str, batches: Sequence[Batch], vectors: Tensor) -> Tensor:
        self._linearise(part, batches, vectors)
        total = self.regulariser @ vectors
        prepared: dict[TracedProduct, tuple[Tensor, ...]] = {}
        for index, batch in enumerate(batches):
            traced = self._traced.get(_shape(batch, vectors))
            if traced is None:
                product = self._untraced_product(batch, vectors)
            else:
                kept = self._kept.get((part, index, vectors.shape[1]))
                values = traced.linearise(self._theta, batch) if kept is None else kept
                if traced not in prepared:
                    prepared[traced] = traced.prepare(self._theta, vectors)
                product = traced(values, self._theta, batch, prepared[traced])
            total.add_(product, alpha=len(batch.targets) / len(self.data))
        return total

    def _linearise(self, part: str, batches: Sequence[Batch], vectors: Tensor) -> None:
        """Traces where that pays, and keeps what fits: before the products, whose intermediate values are large.

        In between them, what is kept would hold on to the memory around it.
        """
        for index in range(len(batches)):
            key = (part, index, vectors.shape[1])
            if key in self._kept:
                continue
            if not self._traces:
                return
            batch = batches[index]
            traced = self._traced_for(batch, vectors)
            if traced is None:
                continue
            kept = traced.linearise(self._theta, batch)
            size = kept_bytes(kept, [self._theta, *tree_leaves(batch)])
            if self.kept_bytes + size > self.cache_bytes:
                return
            self._kept[key] = kept
            self.kept_bytes += size

    @property
    def _traces(self) -> bool:
        """Whether a product may be traced at all."""
        return self.cache_bytes > 0 and not self._is_untraceable and is_quick(self.objective.network, "products")

    def _traced_for(self, batch: Batch, vectors: Tensor) -> TracedProduct | None:
        """The trace for this shape, once products without it have cost as much; None before, and where it fails."""
        if not self._traces:
            return None
        shape = _shape(batch, vectors)
        if shape not in self._traced:
            self._work[shape] += int(6 * len(batch.targets) * self.size * vectors.shape[1] + CALL_WORK)
            if self._work[shape] <= TRACE_WORK:
                return None
            try:
                self._traced[shape] = TracedProduct(self._batch_product, self._theta, batch, vectors)
            except RuntimeError as error:
                logger.info("products are not traced, and so nothing is kept between them: %s", error)
                self._is_untraceable = True
        return self._traced.get(shape)


def _shape(batch: Batch, vectors: Tensor) -> Shape:
    """What a trace is good for: tensors of these shapes, in a batch and in vectors."""
    return *(leaf.shape for leaf in tree_leaves(batch)), vectors.shape


class _LeadingPart(LinearOperator):
    """(1/n) sum over the leading examples of M_i, plus s grad^2 R: the same n, so that the rest counts as 0."""

    def __init__(self, whole: DataOperator, batches: Sequence[Batch]) -> None:
        super().__init__(whole.size, whole.dtype, whole.device, len(batches) * whole.batch_size / len(whole.data))
        self._whole, self._batches = whole, batches

    def _product(self, vectors: Tensor) -> Tensor:
        return self._whole._product_over("leading", self._batches, vectors)
