"""The Hessian in a linear last layer, in closed form."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.output_curvature import output_hessians
from bayes_influence.curvature.operators.regulariser import RegulariserOperator
from bayes_influence.data.dataset import Batch, Dataset
from bayes_influence.objectives.head import features, is_linear_layer
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import last_layer_name

BATCH_SIZE = 4096
"""Examples whose features are computed at a time."""

GRAM_SIZE = 1024
"""Examples per product of the dense form: as many as stay in the processor's cache."""


class LastLayerOperator(LinearOperator):
    """H = (1/n) sum_i Lambda_i (x) a_i a_i' + s grad^2 R in the weight and bias of a linear last layer.

    a_i are the layer's inputs (a constant 1 beside them where the bias is selected) and Lambda_i the Hessian of the
    loss in the outputs; for softmax cross-entropy Lambda_i = diag p_i - p_i p_i'. The outputs are linear in the
    parameters, so Hessian and Gauss-Newton matrix are the same.

    Floor: the features once; then 4 n D C multiplications and additions for each vector, or n D^2 C (C + 1) for the
    dense form, with D features (bias included) and C outputs. Memory n (D + C^2).

    Args:
        objective: Whose Hessian this is; its selection lies within the last layer.
        data: The n examples.
        data_weights: w of (1/n) sum_i w_i l_i, of shape (n,); one when not given.

    Attributes:
        objective: Whose Hessian this is.
        inputs: a_i of shape (n, D), the constant 1 last.
        output_hessians: Lambda_i, or w_i Lambda_i, of shape (n, C, C).
        regulariser: s grad^2 R.

    Raises:
        TypeError: If the last layer is not an `nn.Linear` with tensor inputs.
        ValueError: If the selection is not the layer's weight, with or without its bias, or the network does something
            to the layer's output.
    """

    def __init__(self, objective: Objective, data: Dataset, data_weights: Float[Tensor, " n"] | None = None) -> None:
        theta = objective.layout.flatten(objective.params)
        super().__init__(theta.numel(), theta.dtype, theta.device)
        self._has_bias = _has_bias(objective)
        pieces = [_linearised(objective, batch) for batch in data.batches(BATCH_SIZE)]
        inputs = torch.cat([piece[0] for piece in pieces])
        ones = inputs.new_ones(len(inputs), 1)
        self.objective = objective
        self.inputs: Float[Tensor, "n D"] = torch.cat([inputs, ones], dim=1) if self._has_bias else inputs
        curvatures = torch.cat([piece[1] for piece in pieces])
        if data_weights is not None:
            curvatures = data_weights[:, None, None] * curvatures
        self.output_hessians: Float[Tensor, "n C C"] = curvatures
        self.regulariser = RegulariserOperator(objective)

    def _product(self, vectors: Tensor) -> Tensor:
        tangents = torch.einsum("nd,cdk->nck", self.inputs, self._joined(vectors))
        cotangents = torch.bmm(self.output_hessians, tangents) / len(self.inputs)
        return self._split(torch.einsum("nck,nd->cdk", cotangents, self.inputs)) + self.regulariser @ vectors

    def dense(self) -> Float[Tensor, "P P"]:
        """H from C (C + 1) / 2 weighted Gram matrices of the features."""
        classes, width = self.output_hessians.shape[1], self.inputs.shape[1]
        blocks = self.inputs.new_zeros(classes, width, classes, width)
        for inputs, curvatures in zip(self.inputs.split(GRAM_SIZE), self.output_hessians.split(GRAM_SIZE), strict=True):
            for row in range(classes):
                weighted = curvatures[:, row, : row + 1, None] * inputs.unsqueeze(1)
                blocks[row, :, : row + 1] += (inputs.T @ weighted.flatten(1)).unflatten(1, (row + 1, width))
        for row in range(classes):
            blocks[:row, :, row] = blocks[row, :, :row].transpose(0, 1)
        blocks /= len(self.inputs)
        joined = self._split(blocks.reshape(classes, width, -1))
        matrix = self._split(joined.T.reshape(classes, width, -1))
        return matrix + self.regulariser.dense()

    def _joined(self, vectors: Tensor) -> Tensor:
        """(P, K) as (C, D, K): each output's weights with its bias after them."""
        classes = self.output_hessians.shape[1]
        if not self._has_bias:
            return vectors.reshape(classes, -1, vectors.shape[1])
        weight, bias = vectors[:-classes], vectors[-classes:]
        return torch.cat([weight.reshape(classes, -1, vectors.shape[1]), bias.unsqueeze(1)], dim=1)

    def _split(self, joined: Tensor) -> Tensor:
        """The inverse of `_joined`."""
        columns = joined.shape[2]
        if not self._has_bias:
            return joined.reshape(-1, columns)
        return torch.cat([joined[:, :-1].reshape(-1, columns), joined[:, -1]])


def last_layer_or_none(objective: Objective, data: Dataset) -> LastLayerOperator | None:
    """The closed form where the objective's network is one linear layer on vectors; None elsewhere."""
    return LastLayerOperator(objective, data) if is_linear_layer(objective, data.inputs) else None


def _has_bias(objective: Objective) -> bool:
    path = last_layer_name(objective.network)
    layer = objective.network.get_submodule(path)
    if type(layer) is not nn.Linear:
        raise TypeError(
            f"the last layer {path!r} must be an nn.Linear, got {type(layer).__name__}; use HessianOperator"
        )
    weight, bias = f"{path}.weight".lstrip("."), f"{path}.bias".lstrip(".")
    if objective.names not in ((weight,), (weight, bias)):
        raise ValueError(
            f"the selection must be the weight of the last layer {path!r}, with or without its bias, got "
            f"{list(objective.names)}; use HessianOperator"
        )
    return len(objective.names) == 2


def _linearised(objective: Objective, batch: Batch) -> tuple[Tensor, Tensor]:
    """The layer's inputs (B, D) and the Hessians of the losses in its outputs (B, C, C)."""
    with torch.no_grad():
        received = features(objective, objective.params, batch.inputs)
        outputs = objective.outputs(objective.params, batch.inputs)
    if not isinstance(received, Tensor) or received.ndim != 2:
        raise TypeError("the last layer must receive one tensor of shape (B, D); use HessianOperator")
    path = last_layer_name(objective.network)
    layer = objective.network.get_submodule(path)
    own = {role: objective.params[f"{path}.{role}".lstrip(".")] for role, _ in layer.named_parameters()}
    if not torch.equal(functional_call(layer, own, (received,)), outputs):
        raise ValueError("the network's output is not its last layer's output; use HessianOperator")
    return received, output_hessians(objective, outputs, batch)
