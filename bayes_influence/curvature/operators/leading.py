"""Which examples carry the curvature."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.curvature.operators.output_curvature import OutputLosses
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.objective import Objective
from bayes_influence.torch_internals import tree_leaves, tree_map

PROBES = 4
"""Random signs that estimate the size of an example's Lambda_i: enough to sort by."""


class LeadingExamples:
    """The examples of a dataset in the order of the curvature that they carry, most first.

    An example's curvature is J_i' Lambda_i J_i, plus its loss' gradient in the outputs times the network's own
    curvature. Both factors that differ much between examples are in the outputs: m_i = ||Lambda_i||_F + ||grad l_i||
    says how much an example carries. A network that fits its data is sure of most of them, where both vanish: of
    60 000 MNIST digits, after 30 epochs, a fifth carry all but 1e-3. Sampling examples by such norms is due to Xu et
    al. (2016, "Sub-sampled Newton methods with non-uniform sampling"); here the leading ones are taken, nothing is
    drawn.

    Costs one forward pass and 5 derivatives of the likelihood in the outputs.

    Args:
        objective: At whose parameters.
        data: The n examples.
        batch_size: Of the batches that they are handed out in.

    Attributes:
        order: Positions in the dataset, those that carry most first.
        left: What share of the sum of the m_i the examples from the k-th on carry: 1 for k = 0.
    """

    def __init__(self, objective: Objective, data: Dataset, batch_size: int) -> None:
        self._data, self._batch_size = data, batch_size
        generator = torch.Generator(device=data.ids.device).manual_seed(0)
        masses = [_output_masses(objective, batch, generator) for batch in data.batches(batch_size)]
        ordered, order = torch.cat(masses).double().sort(descending=True, stable=True)
        self.order: Int[Tensor, " n"] = order
        self.left: Float[Tensor, " n"] = ordered.flip(0).cumsum(0).flip(0) / ordered.sum()

    def batches_for(self, error: float) -> int:
        """How many batches hold the examples that carry all but a fraction `error` of the sum of the m_i, at least 1.

        All of them where an m_i is not finite, or all are 0.
        """
        # Not `left > error`: the comparison has to hold for NaN as well.
        examples = int((~(self.left <= error)).sum())
        return max(1, ceil(examples / self._batch_size))

    def batches(self, count: int) -> LeadingBatches:
        """The first batches."""
        return LeadingBatches(self._data, list(self.order[: count * self._batch_size].split(self._batch_size)))


class LeadingBatches(Sequence[Batch]):
    """Batches that are gathered whenever they are asked for, so that no second copy of the data stays in memory."""

    def __init__(self, data: Dataset, rows: list[Int[Tensor, " B"]]) -> None:
        self._data, self._rows = data, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> LeadingBatches: ...

    def __getitem__(self, index: int | slice) -> Batch | LeadingBatches:
        """One of them, or some of them to be gathered later."""
        if isinstance(index, slice):
            return LeadingBatches(self._data, self._rows[index])
        return self._data.select(self._rows[index]).batch()


def _output_masses(objective: Objective, batch: Batch, generator: torch.Generator) -> Float[Tensor, " B"]:
    """||Lambda_i||_F + ||grad l_i|| in the outputs; E||Lambda_i u||^2 = ||Lambda_i||_F^2 for random signs u.

    NaN where an output belongs to no single example.
    """
    with torch.no_grad():
        outputs = objective.outputs(objective.params, batch.inputs)
    size = len(batch.targets)
    if any(leaf.ndim == 0 or len(leaf) != size for leaf in tree_leaves(outputs)):
        return torch.full((size,), torch.nan, device=batch.targets.device)

    losses = OutputLosses(objective, batch, outputs)

    def signs(leaf: Tensor) -> Tensor:
        drawn = torch.randint(2, leaf.shape, generator=generator, device=leaf.device)
        return (2 * drawn - 1).to(leaf.dtype)

    probes = torch.stack([losses.join(tree_map(signs, outputs)) for _ in range(PROBES)], dim=1)
    squares = [_squares(losses.split(product)) for product in losses.products(probes).T]
    return (sum(squares[1:], squares[0]) / PROBES).sqrt() + _squares(losses.split(losses.slopes())).sqrt()


def _squares(tree: object) -> Float[Tensor, " B"]:
    """The squared norm of every example's part of a tree of tensors."""
    leaves = [leaf.reshape(len(leaf), -1).square().sum(dim=1) for leaf in tree_leaves(tree)]
    return torch.stack(leaves).sum(dim=0)
