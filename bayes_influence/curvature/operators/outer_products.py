"""Per-example gradients of linear and convolutional layers, as the outer products that they are sums of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.layer_records import KroneckerLayer, LayerRecord, RecordLayers
from bayes_influence.curvature.operators.output_curvature import OutputLosses
from bayes_influence.curvature.operators.output_forms import output_curvatures
from bayes_influence.data.batch import Batch
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params

Fisher = Literal["exact", "sampled", "empirical"]

FISHERS: tuple[Fisher, ...] = get_args(Fisher)
"""What makes up a curvature when it is sent back from the outputs, see `fisher_vectors`."""

SentBack = Callable[[Tensor, Batch], Iterator[Tensor]]
"""(outputs, batch) -> vectors s_i in the outputs, of shape (B, C), one after the other."""


@dataclass(frozen=True, eq=False)
class OuterProducts:
    """A layer's gradients G_i = sum_l b_il a_il' for the B examples of a batch and one vector sent back.

    Attributes:
        path: Where the layer stands in the network.
        received: a of shape (B, L, D).
        backpropagated: b of shape (B, L, O).
        weights: (B,) the examples' sample weights, which are in b already; None where all are 1.
        first: Whether this is the batch's first vector: a is the same for all of them.
    """

    path: str
    received: Float[Tensor, "B L D"]
    backpropagated: Float[Tensor, "B L O"]
    weights: Float[Tensor, " B"] | None
    first: bool


def loss_slopes(objective: Objective) -> SentBack:
    """The gradient of every example's loss, its sample weight inside: outer products are then its gradients w_i g_i."""

    def sent_back(outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        yield OutputLosses(objective, batch, outputs).slopes().reshape(len(outputs), -1)

    return sent_back


def fisher_vectors(objective: Objective, fisher: Fisher, generator: torch.Generator) -> SentBack:
    """Vectors whose outer products, added up, are w_i times an example's curvature in the outputs.

    Args:
        objective: Whose likelihood.
        fisher: `"exact"`, the columns of a root of Lambda_i; `"sampled"`, their sum with random signs; `"empirical"`,
            the gradient at the observed target times sqrt(w_i).
        generator: Of the random signs.
    """

    def sent_back(outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        if fisher == "empirical":
            yield from loss_slopes(objective)(outputs, batch.with_root_weights())
            return
        curvatures = output_curvatures(objective, outputs, batch)
        assert curvatures is not None
        count = curvatures.root_count
        if fisher == "exact":
            yield from (curvatures.root(index) for index in range(count))
        else:
            signs = 2 * torch.randint(2, (count, len(outputs)), generator=generator).to(outputs) - 1
            yield curvatures.drawn(signs)

    return sent_back


@dataclass(frozen=True, eq=False)
class Backpropagation:
    """Sends vectors s_i back from the outputs through every example.

    Attributes:
        objective: Whose network and parameters are used.
        sent_back: What is sent back, `loss_slopes` or `fisher_vectors`.
    """

    objective: Objective
    sent_back: SentBack

    def through(
        self, layers: tuple[KroneckerLayer, ...], batches: Iterable[Batch], *, check: bool = True
    ) -> Iterator[OuterProducts]:
        """Every layer's outer products, batch by batch and vector by vector.

        A `check` of every batch, when its last outer products have been taken, costs a backward pass of each.

        Raises:
            ValueError: If a batch's outer products do not make up its gradients, example by example: a weight is used
                outside its layer as well, or a layer's first axis is not that of the examples.
        """
        for batch in batches:
            yield from self._through_batch(layers, batch, check)

    def _through_batch(self, layers: tuple[KroneckerLayer, ...], batch: Batch, check: bool) -> Iterator[OuterProducts]:
        selected = set(self.objective.names)
        params = {
            name: value.detach().clone().requires_grad_(name in selected)
            for name, value in self.objective.params.items()
        }
        with torch.enable_grad(), RecordLayers(layers, params) as recorder:
            outputs = self.objective.outputs(params, batch.inputs)
        received = {path: _joined(path, record, len(batch.targets)) for path, record in recorder.records.items()}
        ends = [end for record in recorder.records.values() for end in record.outputs]
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"layers are taken apart where the network returns one tensor, got {type(outputs).__name__}; use "
                f"scoring='gradients', or curvature='ggn' instead of EK-FAC"
            )
        if len(outputs) != len(batch.targets):
            raise ValueError(
                f"layers are taken apart where the network returns a row per example, got {len(outputs)} rows for "
                f"{len(batch.targets)} examples; use scoring='gradients', or curvature='ggn' instead of EK-FAC"
            )
        generator = torch.Generator().manual_seed(0)
        together = torch.zeros_like(outputs.detach())
        weighted = {path: together.new_zeros(()) for path in received}
        for number, vectors in enumerate(self.sent_back(outputs.detach(), batch)):
            shares = torch.rand(len(vectors), generator=generator).to(vectors)
            gradients = iter(torch.autograd.grad(outputs, ends, vectors.reshape(outputs.shape), retain_graph=True))
            for path, record in recorder.records.items():
                calls = [_positions(next(gradients), record.channels_first, len(outputs)) for _ in record.outputs]
                products = OuterProducts(path, received[path], torch.cat(calls, dim=1), batch.weights, number == 0)
                if check:
                    weighted[path] = weighted[path] + shares[:, None, None] * products.backpropagated
                yield products
            if check:
                together += (shares.unsqueeze(1) * vectors).view_as(together)
        if check:
            found = {path: torch.einsum("blo,bld->od", weighted[path], received[path]) for path in received}
            _check_complete(layers, params, outputs, together, found)


def _check_complete(
    layers: tuple[KroneckerLayer, ...],
    params: Params,
    outputs: Tensor,
    together: Tensor,
    found: dict[str, Float[Tensor, "O D"]],
) -> None:
    """Whether sum_i c_i G_i of the outer products is the gradient of sum_i c_i s_i'f_i, for random c_i."""
    names = [name for layer in layers for name in layer.names]
    gradients = dict(zip(names, torch.autograd.grad(outputs, [params[name] for name in names], together), strict=True))
    for layer in layers:
        products = found[layer.path]
        expected = layer.joined(gradients)
        if (products - expected).norm() > torch.finfo(together.dtype).eps ** 0.5 * expected.norm():
            raise ValueError(
                f"the gradient of layer {layer.path!r} is not made of what the layer receives and returns: its weight "
                f"is used elsewhere as well, or its first axis is not that of the examples; leave it out of the "
                f"parameters, or take another kind of curvature"
            )


def _joined(path: str, record: LayerRecord, examples: int) -> Float[Tensor, "B L D"]:
    """All calls of a layer, as further positions of one.

    Rows that are a multiple of the examples are taken for positions, example by example, as GPT-2's layers have them;
    that it is so the layer's gradient shows.

    Raises:
        ValueError: If the layer was not called, or its rows are no multiple of the examples.
    """
    if not record.inputs:
        raise ValueError(f"layer {path!r} takes no part in the network's outputs; leave it out of the selection")
    if any(len(inputs) % examples for inputs in record.inputs):
        raise ValueError(f"layer {path!r} must be called with the examples as its leading axis")
    return torch.cat([inputs.reshape(examples, -1, inputs.shape[-1]) for inputs in record.inputs], dim=1)


def _positions(gradient: Tensor, channels_first: bool, examples: int) -> Float[Tensor, "B L O"]:
    if channels_first:
        gradient = gradient.flatten(2).transpose(1, 2)
    return gradient.reshape(examples, -1, gradient.shape[-1])
