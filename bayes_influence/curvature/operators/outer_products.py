"""Per-example gradients of linear and convolutional layers, as the outer products that they are sums of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.layer_records import KroneckerLayer, LayerRecord, RecordLayers
from bayes_influence.curvature.operators.output_curvature import OutputLosses, output_hessian_roots
from bayes_influence.data.dataset import Batch, Dataset
from bayes_influence.objectives.objective import Objective

Fisher = Literal["exact", "sampled", "empirical"]

FISHERS: tuple[Fisher, ...] = get_args(Fisher)
"""What is sent back from the outputs, see `Backpropagation`."""


@dataclass(frozen=True, eq=False)
class OuterProducts:
    """A layer's gradients G_i = sum_l b_il a_il' for the B examples of a batch and one vector sent back.

    Attributes:
        path: Where the layer stands in the network.
        received: a of shape (B, L, D).
        backpropagated: b of shape (B, L, O).
        first: Whether this is the batch's first vector: a is the same for all of them.
    """

    path: str
    received: Float[Tensor, "B L D"]
    backpropagated: Float[Tensor, "B L O"]
    first: bool


@dataclass(frozen=True, eq=False)
class Backpropagation:
    """Sends vectors s_i back from the outputs through every example.

    Attributes:
        objective: Whose network, likelihood and parameters are used.
        fisher: `"exact"` sends back the columns of a root of Lambda_i, `"sampled"` their sum with random signs,
            `"empirical"` the gradient of the loss at the observed target.
        generator: Of the random signs.
    """

    objective: Objective
    fisher: Fisher
    generator: torch.Generator

    def sent_back(self, outputs: Tensor, batch: Batch) -> Float[Tensor, "R B C"]:
        """The vectors s_i, R of them for each example."""
        if self.fisher == "empirical":
            return OutputLosses(self.objective, batch, outputs).slopes().reshape(1, len(outputs), -1)
        roots = output_hessian_roots(self.objective, outputs, batch)
        if self.fisher == "exact":
            return roots
        signs = 2 * torch.randint(2, roots.shape[:2], generator=self.generator).to(roots) - 1
        return (signs.unsqueeze(2) * roots).sum(dim=0, keepdim=True)

    def through(self, layers: tuple[KroneckerLayer, ...], data: Dataset, batch_size: int) -> Iterator[OuterProducts]:
        """Every layer's outer products, batch by batch and vector by vector."""
        for batch in data.batches(batch_size):
            yield from self._through_batch(layers, batch)

    def _through_batch(self, layers: tuple[KroneckerLayer, ...], batch: Batch) -> Iterator[OuterProducts]:
        selected = set(self.objective.names)
        params = {
            name: value.detach().clone().requires_grad_(name in selected)
            for name, value in self.objective.params.items()
        }
        with torch.enable_grad(), RecordLayers(layers, params) as recorder:
            outputs = self.objective.outputs(params, batch.inputs)
        received = {path: _joined(path, record, len(batch.targets)) for path, record in recorder.records.items()}
        ends = [end for record in recorder.records.values() for end in record.outputs]
        for number, vectors in enumerate(self.sent_back(outputs.detach(), batch)):
            gradients = iter(torch.autograd.grad(outputs, ends, vectors.reshape(outputs.shape), retain_graph=True))
            for path, record in recorder.records.items():
                calls = [_positions(next(gradients), record.channels_first) for _ in record.outputs]
                yield OuterProducts(path, received[path], torch.cat(calls, dim=1), first=number == 0)


def _joined(path: str, record: LayerRecord, examples: int) -> Float[Tensor, "B L D"]:
    """All calls of a layer, as further positions of one."""
    if not record.inputs:
        raise ValueError(f"layer {path!r} takes no part in the network's outputs; leave it out of the selection")
    if any(len(inputs) != examples for inputs in record.inputs):
        raise ValueError(f"layer {path!r} must be called with the examples as its leading axis")
    return torch.cat(record.inputs, dim=1)


def _positions(gradient: Tensor, channels_first: bool) -> Float[Tensor, "B L O"]:
    if channels_first:
        return gradient.flatten(2).transpose(1, 2)
    return gradient.reshape(len(gradient), -1, gradient.shape[-1])
