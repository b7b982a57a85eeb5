"""EK-FAC: the Gauss-Newton matrix, layer by layer, as a diagonal in a Kronecker-factored basis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap

from bayes_influence.curvature.cost import Plan
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.kind import Curvature
from bayes_influence.curvature.operators.kronecker_block import KroneckerBlock, symmetric_product
from bayes_influence.curvature.operators.layer_records import KroneckerLayer, kronecker_layers
from bayes_influence.curvature.operators.outer_products import (
    FISHERS,
    Backpropagation,
    Fisher,
    OuterProducts,
    fisher_vectors,
    loss_slopes,
)
from bayes_influence.curvature.operators.output_forms import FEW_OUTPUTS, output_curvatures
from bayes_influence.curvature.operators.regulariser import RegulariserOperator
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.derivatives import singles_of
from bayes_influence.objectives.layers import IN_WORDS
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.two_companies import TwoCompanies
from bayes_influence.objectives.ways import first_way, reverse_pulled
from bayes_influence.torch_internals import tree_map

BATCH_SIZE = 256
"""Default number of examples that are backpropagated at a time."""

HESSIAN_ENTRIES = 1 << 25
"""Entries of Hessians in the outputs that are held at a time: 256 MiB in float64."""

PART_COPIES = 3.4
"""Copies of a batch's a and b, of all layers and positions, that are held at once: measured on a LeNet."""

SQUARED_ENTRIES = 1 << 16
"""Entries of per-example weight gradients that are squared at a time, in the eigenvectors' basis: half a MiB in
float64, which stays near the processor."""

SECOND_SWEEP = 2
"""The second sweep's time, with every a and b turned into the eigenvectors' basis, in that of the first: measured."""


class EKFACOperator(LinearOperator):
    """EK-FAC (George et al. 2018): for every layer Q diag[Q'(G + s grad^2 R)Q] Q' with Q = Q_B (x) Q_A.

    A layer's gradient for example i is G_i = sum_l b_il a_il' over positions l (one for a plain linear layer): a are
    the layer's inputs, with a constant 1 for the bias, and b is what comes back from the outputs. The eigenvectors of
    K-FAC's factors E[sum_l a a'] and E[sum_l b b'] (Martens & Grosse 2015) are Q_A and Q_B, and the diagonal
    E[(Q_B' G Q_A)^2] is exact in that basis. Between layers the matrix is 0.

    `fisher` says what is sent back, and with it what E is:
        `"exact"`: the columns of a root of Lambda_i, so that G is the Gauss-Newton matrix. C passes.
        `"sampled"`: their sum with random signs, the same in expectation. One pass.
        `"empirical"`: the gradient at the observed target, so that G is the empirical Fisher. One pass.

    Whatever the objective's dtype, batches are added up in float64: in float32 many small ones would be lost.

    Sample weights count once in all three expectations, so that an example of weight 2 is one that is there twice.

    Floor: two sweeps of one forward and as many backward passes; 2 (O^2 D + O D^2) multiplications and additions twice
    for each product.

    Attributes:
        objective: Whose curvature this is, in its selected parameters.
        blocks: One for each layer.
        loose: (P,) the diagonal of G + s grad^2 R at parameters of modules that are not taken apart, 0 elsewhere.
        taken_apart: The examples whose gradients were seen to be outer products, none where others were sent back.

    Raises:
        ValueError: If a loss depends on the other examples of its batch, of which the sweeps make different ones; if a
            selected parameter belongs to anything but an `nn.Linear`, an ungrouped convolution or GPT-2's `Conv1D`,
            unless `allow_fallback` (then its block is diagonal); if the likelihood is not convex in the outputs; if
            grad^2 R is not diagonal; if `fisher` is unknown; if inputs are so large that squares overflow.
    """

    has_inverse = True

    def __init__(
        self,
        objective: Objective,
        data: Dataset,
        batch_size: int = BATCH_SIZE,
        *,
        fisher: Fisher = "exact",
        allow_fallback: bool = False,
        seed: int = 0,
    ) -> None:
        theta = objective.layout.flatten(objective.params)
        super().__init__(theta.numel(), theta.dtype, theta.device)
        layers, unsupported = kronecker_layers(objective)
        self._regulariser = _checked_regulariser(objective, fisher, () if allow_fallback else unsupported)
        objective.check(next(data.batches(batch_size)))
        batch_size = _examples_at_a_time(objective, data, batch_size, fisher)
        self.objective = objective
        self.taken_apart = data if fisher == "empirical" else None
        # Roots of a curvature, and draws, may be others in another batch.
        self._is_repeatable = fisher == "empirical"
        self._places = objective.layout.unflatten(torch.arange(self.size, device=self.device))
        self._plan = self._planned(layers, data, min(batch_size, len(data)))
        self._plan.check(self.device)
        self._backpropagation = Backpropagation(
            objective, fisher_vectors(objective, fisher, torch.Generator().manual_seed(seed))
        )
        self.blocks = self._fitted_blocks(layers, TwoCompanies(objective, data, batch_size), len(data))
        self.loose = torch.zeros_like(theta)
        self._is_loose = torch.zeros_like(theta, dtype=torch.bool)
        if unsupported:
            positions = torch.cat([self._places[name].flatten() for name in unsupported])
            diagonal = self._loose_diagonal(unsupported, data, batch_size)
            self.loose[positions] = diagonal + self._regulariser[positions]
            self._is_loose[positions] = True

    def _planned(self, layers: tuple[KroneckerLayer, ...], data: Dataset, batch_size: int) -> Plan:
        """Both factors of every layer with their eigenvectors, squares of its gradients, and a batch's a and b."""
        numbers = 0.0
        two = data.select(range(min(2, len(data)))).batch()
        sent = Backpropagation(self.objective, loss_slopes(self.objective))
        for part in sent.through(layers, [two]):
            received, outputs = part.received.shape[2], part.backpropagated.shape[2]
            numbers += 3 * (outputs**2 + received**2) + 4 * outputs * received
            numbers += PART_COPIES * batch_size * part.received.shape[1] * (received + outputs)
        return Plan(
            f"EK-FAC of {len(layers)} layers",
            round(numbers * self.dtype.itemsize),
            "take smaller batches (EKFAC(batch_size=...)), curvature='ggn', or fewer layers (parameters='last-layer')",
            passes=2,
        )

    def _fitted_blocks(
        self, layers: tuple[KroneckerLayer, ...], companies: TwoCompanies, examples: int
    ) -> tuple[KroneckerBlock, ...]:
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        batches = iter(self._plan.timed(companies.batches(), total=(1 + SECOND_SWEEP) * companies.count))
        sweeps = replace(self._backpropagation, companies=companies)
        repeated = self._is_repeatable and companies.compared
        for part in sweeps.through(
            layers, islice(batches, companies.count), check="companies" if repeated else "again"
        ):
            received, sent = part.received.flatten(0, 1), part.backpropagated.flatten(0, 1)
            if part.first:
                weighted = part.received if part.weights is None else part.weights[:, None, None] * part.received
                product = symmetric_product(received, weighted.flatten(0, 1)) / examples
                inputs[part.path] = inputs.get(part.path, 0) + product.double()
            outputs[part.path] = outputs.get(part.path, 0) + (symmetric_product(sent, sent) / examples).double()
        bases = {path: (self._basis(path, inputs[path]), self._basis(path, outputs[path])) for path in inputs}
        fitted: dict[str, Tensor] = {}
        for part in sweeps.through(layers, batches, check="companies" if repeated else None):
            squares = _squares(part, *bases[part.path]) / examples
            fitted[part.path] = fitted.get(part.path, 0) + squares.double()
        return tuple(
            self._block(layer, *bases[layer.path], fitted[layer.path].to(dtype=self.dtype)) for layer in layers
        )

    def _basis(self, path: str, factor: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
        """The eigenvectors of a factor that was added up in float64."""
        if not torch.isfinite(factor).all():
            raise ValueError(
                f"what the layer {path} receives, or what comes back from the outputs, is so large that its squares "
                f"exceed the range of {self.dtype}; scale the inputs"
            )
        return torch.linalg.eigh(factor)[1].to(dtype=self.dtype)

    def _block(
        self, layer: KroneckerLayer, input_basis: Tensor, output_basis: Tensor, squares: Tensor
    ) -> KroneckerBlock:
        positions = layer.joined(self._places)
        block = KroneckerBlock(layer.path, positions, input_basis, output_basis, squares)
        eigenvalues = squares + block.in_basis(self._regulariser[positions])
        return KroneckerBlock(layer.path, positions, input_basis, output_basis, eigenvalues)

    def _loose_diagonal(self, names: tuple[str, ...], data: Dataset, batch_size: int) -> Float[Tensor, " L"]:
        """The diagonal of G in single parameters: the mean of (J_i' s_i)^2 over the examples."""
        objective, flat = self.objective, self.objective.taking(names).flat

        def flattened(theta: Tensor, inputs: Any) -> Tensor:
            return flat.outputs(theta, inputs).flatten()

        def squares(one: Batch, vector: Tensor) -> Tensor:
            single = tree_map(lambda leaf: leaf.unsqueeze(0), one.inputs)
            (pulled,) = vjp(partial(flattened, inputs=single), flat.theta)[1](vector)
            return pulled.square()

        def quick(batch: Batch, vectors: Tensor) -> Tensor:
            return vmap(squares)(batch, vectors).sum(dim=0)

        def patient(batch: Batch, vectors: Tensor) -> Tensor:
            pulled = [
                reverse_pulled(partial(flattened, inputs=one.inputs), flat.theta, vector)
                for one, vector in zip(singles_of(batch), vectors, strict=True)
            ]
            return torch.stack(pulled).square().sum(dim=0)

        total = torch.zeros((), dtype=self.dtype, device=self.device)
        for batch in data.batches(batch_size):
            outputs = objective.outputs(objective.params, batch.inputs)
            for vectors in self._backpropagation.sent_back(outputs, batch):
                ways = partial(quick, batch, vectors), partial(patient, batch, vectors)
                total = total + first_way(objective.network, "gradients", *ways)
        return total / len(data)

    def _scaled(self, vectors: Tensor, factors: list[Tensor], loose: Tensor) -> Tensor:
        result = loose.unsqueeze(1) * vectors
        for block, values in zip(self.blocks, factors, strict=True):
            result[block.positions] = block.scaled(vectors[block.positions], values)
        return result

    def _product(self, vectors: Tensor) -> Tensor:
        return self._scaled(vectors, [block.eigenvalues for block in self.blocks], self.loose)

    def inverse_product(
        self, vectors: Float[Tensor, " P *K"], damping: float | Float[Tensor, " P"] = 0.0
    ) -> Float[Tensor, " P *K"]:
        """(A + diag(damping))^{-1} V, exact where the damping is constant within each layer.

        A damping that varies within a layer is taken as its diagonal in the layer's basis.

        Raises:
            ValueError: If an eigenvalue plus its damping is not positive beyond rounding.
        """
        diagonal = torch.as_tensor(damping, dtype=self.dtype, device=self.device).expand(self.size)
        factors = [block.eigenvalues + block.in_basis(diagonal[block.positions]) for block in self.blocks]
        # Positions within the blocks are overwritten by theirs.
        loose = torch.where(self._is_loose, self.loose + diagonal, 1.0)
        damped = torch.cat([loose[self._is_loose], *(values.flatten() for values in factors)])
        smallest, largest = float(damped.min()), float(damped.max())
        if smallest <= torch.finfo(self.dtype).eps * largest:
            raise ValueError(
                f"EK-FAC's damped eigenvalues run from {smallest:.3g} to {largest:.3g}; its inverse needs more damping"
            )
        columns = vectors.reshape(self.size, -1)
        return self._scaled(columns, [1 / values for values in factors], 1 / loose).reshape(vectors.shape)

    def diagonal(self) -> Float[Tensor, " P"]:
        """The diagonal, no products."""
        result = self.loose.clone()
        for block in self.blocks:
            result[block.positions] = block.in_coordinates(block.eigenvalues)
        return result


def _checked_regulariser(objective: Objective, fisher: str, unsupported: tuple[str, ...]) -> Float[Tensor, " P"]:
    """The diagonal of s grad^2 R, after everything that could be wrong with the arguments."""
    _check_fisher(fisher)
    if unsupported:
        name = unsupported[0]
        module = objective.network.get_submodule(name.rpartition(".")[0])
        raise ValueError(
            f"EK-FAC takes {IN_WORDS} apart, but {name!r} belongs to {type(module).__name__}; select other "
            f"parameters, such as parameters='layers', or allow_fallback=True for a diagonal there"
        )
    entries = RegulariserOperator(objective).entries
    if entries is None:
        raise ValueError("EK-FAC needs a regulariser with a diagonal Hessian, as weight decay has")
    return entries


def _examples_at_a_time(objective: Objective, data: Dataset, batch_size: int, fisher: str) -> int:
    """Fewer where C x C numbers have to be held for each of them."""
    first = data.select(range(min(2, len(data)))).batch()
    with torch.no_grad():
        outputs = objective.outputs(objective.params, first.inputs)
    if fisher == "empirical" or not isinstance(outputs, Tensor):
        return batch_size
    if output_curvatures(objective, outputs, first, hold=outputs[0].numel() <= FEW_OUTPUTS) is not None:
        return batch_size
    return max(1, min(batch_size, HESSIAN_ENTRIES // outputs[0].numel() ** 2))


def _check_fisher(fisher: str) -> None:
    if fisher not in FISHERS:
        raise ValueError(f"unknown fisher {fisher!r}; known: {', '.join(FISHERS)}")


def _squares(part: OuterProducts, input_basis: Tensor, output_basis: Tensor) -> Float[Tensor, "O D"]:
    """The sum over a batch of (Q_B' G_i Q_A)^2."""
    received, sent = part.received @ input_basis, part.backpropagated @ output_basis
    if received.shape[1] == 1:
        return sent[:, 0].square().T @ received[:, 0].square()
    total = sent.new_zeros(sent.shape[2], received.shape[2])
    at_a_time = max(1, SQUARED_ENTRIES // total.numel())
    for left, right in zip(sent.split(at_a_time), received.split(at_a_time), strict=True):
        total += (left.mT @ right).square_().sum(dim=0)
    return total


@dataclass(frozen=True)
class EKFAC(Curvature):
    """The Gauss-Newton matrix layer by layer, diagonal in a Kronecker-factored basis, see `EKFACOperator`.

    Attributes:
        fisher: What is sent back from the outputs: `"exact"`, `"sampled"` or `"empirical"`.
        batch_size: Most examples that are backpropagated at a time.
        allow_fallback: Whether modules that cannot be taken apart get a diagonal block.
        seed: Of the random signs of `"sampled"`.

    Raises:
        ValueError: If `fisher` is unknown.
    """

    fisher: Fisher = "exact"
    batch_size: int = BATCH_SIZE
    allow_fallback: bool = False
    seed: int = 0

    name = "ekfac"
    is_semidefinite = True
    is_mean_over_examples = False
    compares_companies = True

    def __post_init__(self) -> None:
        _check_fisher(self.fisher)

    def operator(self, objective: Objective, data: Dataset, batch_size: int | None = None) -> EKFACOperator:
        """An `EKFACOperator`."""
        at_a_time = min(self.batch_size, batch_size or self.batch_size)
        return EKFACOperator(
            objective, data, at_a_time, fisher=self.fisher, allow_fallback=self.allow_fallback, seed=self.seed
        )
