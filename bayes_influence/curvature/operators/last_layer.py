"""The Hessian in a linear last layer, in closed form."""

from __future__ import annotations

from math import ceil

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.output_curvature import output_hessians
from bayes_influence.curvature.operators.output_forms import (
    HeldCurvatures,
    OutputCurvatures,
    joined_curvatures,
    output_curvatures,
)
from bayes_influence.curvature.operators.regulariser import RegulariserOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import is_linear_layer, reduce

BATCH_SIZE = 4096
"""Examples whose features are computed at a time."""

HELD_BYTES = 1 << 30
"""Most that Hessians in the outputs may take that have no smaller form: 1 GiB. Above, products are taken without."""

PRODUCT_NUMBERS = 1 << 23
"""Numbers n x C x K of a product with K vectors that are held at a time: 64 MiB in float64."""

GRAM_SIZE = 256
"""Examples per product of the dense form: as many as stay in the processor's cache."""


class LastLayerOperator(LinearOperator):
    """H = (1/n) sum_i Lambda_i (x) a_i a_i' + s grad^2 R in the weight and bias of a linear last layer.

    a_i are the layer's inputs (a constant 1 beside them where the bias is selected) and Lambda_i the Hessian of the
    loss in the outputs; for softmax cross-entropy Lambda_i = diag p_i - p_i p_i'. The outputs are linear in the
    parameters, so Hessian and Gauss-Newton matrix are the same.

    Floor: the features once; then 4 n D C multiplications and additions for each vector, or n D^2 C (C + 1) for the
    dense form, with D features (bias included) and C outputs. Memory n (D + C) where the Lambda_i have the form of a
    softmax or are diagonal, n (D + C^2) where they have not, or where C is small.

    Args:
        objective: Whose Hessian this is: of one linear layer, see `reduction`.
        data: The n examples.
        data_weights: w of (1/n) sum_i w_i l_i, of shape (n,); one when not given.
        held: The Lambda_i, where they are known already.

    Attributes:
        objective: Whose Hessian this is.
        inputs: a_i of shape (n, D), the constant 1 last.
        output_curvatures: Lambda_i, or w_i Lambda_i, in the smallest form that they have.
        regulariser: s grad^2 R.

    Raises:
        ValueError: If the objective is not that of a plain `nn.Linear` on vectors, in its weight with or without bias.
    """

    def __init__(
        self,
        objective: Objective,
        data: Dataset,
        data_weights: Float[Tensor, " n"] | None = None,
        *,
        held: OutputCurvatures | None = None,
    ) -> None:
        theta = objective.layout.flatten(objective.params)
        super().__init__(theta.numel(), theta.dtype, theta.device)
        if not is_linear_layer(objective, data.inputs):
            reduction = reduce(objective, data)
            objective, data = reduction.problem.at(0), reduction.examples()
        if not is_linear_layer(objective, data.inputs):
            raise ValueError(
                f"the closed form is of one plain nn.Linear on vectors, in its weight with or without its bias, got "
                f"{list(objective.names)} ({reduction.reason}); use HessianOperator"
            )
        inputs = data.inputs
        self._has_bias = len(objective.names) == 2
        ones = inputs.new_ones(len(inputs), 1)
        self.objective = objective
        self.examples = len(inputs)
        self.inputs: Float[Tensor, "n D"] = torch.cat([inputs, ones], dim=1) if self._has_bias else inputs
        held = held or _curvatures(objective, data, hold=True)
        assert held is not None
        self.output_curvatures: OutputCurvatures = held if data_weights is None else held.scaled(data_weights)
        self.regulariser = RegulariserOperator(objective)

    def _product(self, vectors: Tensor) -> Tensor:
        return self._mean_product(self.inputs, self.output_curvatures, vectors)

    def product_of(self, positions: Int[Tensor, " m"], vectors: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """[(1/m) sum over the given examples of Lambda_i (x) a_i a_i' + s grad^2 R] V."""
        where = positions.to(self.device)
        return self._mean_product(self.inputs[where], self.output_curvatures.select(where), vectors)

    def _mean_product(self, inputs: Float[Tensor, "m D"], curvatures: OutputCurvatures, vectors: Tensor) -> Tensor:
        joined = self._joined(vectors)
        total = torch.zeros_like(joined)
        at_a_time = max(1, PRODUCT_NUMBERS // (joined.shape[0] * joined.shape[2]))
        for part, held in zip(inputs.split(at_a_time), curvatures.parts(at_a_time), strict=True):
            cotangents = held.products(torch.einsum("nd,cdk->nck", part, joined))
            total += torch.einsum("nck,nd->cdk", cotangents, part)
        return self._split(total / len(inputs)) + self.regulariser @ vectors

    def dense(self) -> Float[Tensor, "P P"]:
        """H from C (C + 1) / 2 weighted Gram matrices of the features.

        Raises:
            TooLargeError: If it does not fit.
        """
        plan = self._dense_plan()
        plan.check(self.device)
        classes, width = self.output_curvatures.outputs, self.inputs.shape[1]
        blocks = self.inputs.new_zeros(classes, width, classes, width)
        parts = zip(self.inputs.split(GRAM_SIZE), self.output_curvatures.parts(GRAM_SIZE), strict=True)
        for inputs, curvatures in plan.timed(parts, ceil(len(self.inputs) / GRAM_SIZE)):
            for row in range(classes):
                weighted = curvatures.row(row)[:, : row + 1, None] * inputs.unsqueeze(1)
                blocks[row, :, : row + 1] += (inputs.T @ weighted.flatten(1)).unflatten(1, (row + 1, width))
        for row in range(classes):
            blocks[:row, :, row] = blocks[row, :, :row].transpose(0, 1)
        blocks /= len(self.inputs)
        matrix = blocks.view(self.size, self.size)
        if self._has_bias:
            order = self._split(torch.arange(self.size, device=self.device).view(classes, width, 1)).flatten()
            matrix = matrix[order.unsqueeze(1), order]
        del blocks
        return matrix.add_(self.regulariser.dense())

    def mean_block(self) -> tuple[Float[Tensor, "D D"], Int[Tensor, " P"]]:
        """(1/nC) sum_i tr(Lambda_i) a_i a_i' + the diagonal of s grad^2 R: H within an output, the mean over outputs.

        n D^2 operations. Beside the block, the place of every parameter among the outputs' rows, one output after the
        other.
        """
        classes, width = self.output_curvatures.outputs, self.inputs.shape[1]
        block = self.inputs.new_zeros(width, width)
        parts = zip(self.inputs.split(GRAM_SIZE), self.output_curvatures.parts(GRAM_SIZE), strict=True)
        for inputs, curvatures in parts:
            traces = torch.stack([curvatures.row(output)[:, output] for output in range(classes)]).sum(0)
            block.addmm_(inputs.T, traces[:, None] * inputs)
        block /= classes * len(self.inputs)
        block.diagonal().add_(self._joined(self.regulariser.diagonal().unsqueeze(1)).squeeze(2).mean(0))
        places = torch.arange(self.size, device=self.device).view(classes, width, 1)
        return block, self._split(places).flatten()

    def _joined(self, vectors: Tensor) -> Tensor:
        """(P, K) as (C, D, K): each output's weights with its bias after them."""
        classes = self.output_curvatures.outputs
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
    """The closed form where the objective's network is one linear layer on vectors; None elsewhere.

    None as well where its n Hessians in C outputs have no smaller form and do not fit into `HELD_BYTES`: products need
    none of them.
    """
    if not is_linear_layer(objective, data.inputs):
        return None
    classes = len(objective.params[objective.names[0]])
    fits = len(data) * classes**2 * objective.dtype.itemsize <= HELD_BYTES
    curvatures = _curvatures(objective, data, hold=fits)
    return None if curvatures is None else LastLayerOperator(objective, data, held=curvatures)


def _curvatures(objective: Objective, data: Dataset, *, hold: bool) -> OutputCurvatures | None:
    """Lambda_i of all examples in one form; None where they have no smaller one and are not to be held."""
    pieces: list[OutputCurvatures] = []
    with torch.no_grad():
        outputs = [objective.outputs(objective.params, batch.inputs) for batch in data.batches(BATCH_SIZE)]
    for values, batch in zip(outputs, data.batches(BATCH_SIZE), strict=True):
        piece = output_curvatures(objective, values, batch, hold=hold)
        if piece is None:
            return None
        pieces.append(piece)
    joined = joined_curvatures(pieces)
    if joined is not None or not hold:
        return joined
    batches = zip(outputs, data.batches(BATCH_SIZE), strict=True)
    return HeldCurvatures(torch.cat([output_hessians(objective, values, batch) for values, batch in batches]))
