"""The Hessians Lambda_i of the losses in the outputs, held in the smallest form that they have.

C x C numbers for each example are too many for a thousand outputs. Softmax losses need C: Lambda_i = c_i (diag p_i -
p_i p_i'), with c_i the weights of example and class, or one such block for each token of a sequence; so do losses that
are sums over outputs, whose Lambda_i are diagonal. Which form it is, is not concluded from a name: it is asked of every
example by products with random vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.curvature.operators.output_curvature import OutputLosses, output_hessians
from bayes_influence.data.batch import Batch
from bayes_influence.objectives.objective import Objective

Form = TypeVar("Form", bound="OutputCurvatures")

FEW_OUTPUTS = 32
"""Up to so many outputs the matrices themselves are held: products with them are as quick as with a smaller form."""

PROBES = 3
"""Random vectors that tell a form from another: the first finds the factors c_i, the others disagree with probability 1
where the form is another."""


@dataclass(frozen=True, eq=False)
class OutputCurvatures(ABC):
    """Lambda_i of B examples with C outputs each. A subclass is a form."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """C."""

    @property
    @abstractmethod
    def root_count(self) -> int:
        """R, how many vectors s_ir with sum_r s_ir s_ir' = Lambda_i there are for each example."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """What the form is made of, examples first."""

    def parts(self: Form, examples: int) -> list[Form]:
        """The same, so many examples at a time."""
        split = (tensor.split(examples) for tensor in self.tensors)
        return [type(self)(*part) for part in zip(*split, strict=True)]

    def select(self: Form, positions: Int[Tensor, " m"]) -> Form:
        """Those of some of the examples."""
        return type(self)(*(tensor[positions] for tensor in self.tensors))

    @abstractmethod
    def scaled(self, factors: Float[Tensor, " B"]) -> OutputCurvatures:
        """c_i Lambda_i."""

    @abstractmethod
    def products(self, vectors: Float[Tensor, "B C K"]) -> Float[Tensor, "B C K"]:
        """Lambda_i V_i."""

    @abstractmethod
    def row(self, index: int) -> Float[Tensor, "B C"]:
        """One row of every Lambda_i."""

    @abstractmethod
    def root(self, index: int) -> Float[Tensor, "B C"]:
        """s_ir for one r."""

    def drawn(self, signs: Float[Tensor, "R B"]) -> Float[Tensor, "B C"]:
        """sum_r signs_ri s_ir: for random signs, a vector whose second moment is Lambda_i."""
        return sum(
            (signs[r].unsqueeze(1) * self.root(r) for r in range(1, len(signs))), signs[0, :, None] * self.root(0)
        )


@dataclass(frozen=True, eq=False)
class HeldCurvatures(OutputCurvatures):
    """The matrices themselves.

    Attributes:
        matrices: (B, C, C).
        roots: (R, B, C) their roots, where they were asked for.
    """

    matrices: Float[Tensor, "B C C"]
    roots: Float[Tensor, "R B C"] | None = None

    @property
    def outputs(self) -> int:
        """C."""
        return self.matrices.shape[1]

    @property
    def root_count(self) -> int:
        """Between 1 and C: vectors that are 0 for every example are left out."""
        return len(self._held_roots())

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The matrices."""
        return (self.matrices,)

    def scaled(self, factors: Float[Tensor, " B"]) -> HeldCurvatures:
        """c_i Lambda_i."""
        return HeldCurvatures(factors[:, None, None] * self.matrices)

    def products(self, vectors: Float[Tensor, "B C K"]) -> Float[Tensor, "B C K"]:
        """Lambda_i V_i."""
        return torch.bmm(self.matrices, vectors)

    def row(self, index: int) -> Float[Tensor, "B C"]:
        """One row of every Lambda_i."""
        return self.matrices[:, index]

    def root(self, index: int) -> Float[Tensor, "B C"]:
        """An eigenvector of each, times the root of its eigenvalue.

        Raises:
            ValueError: If some Lambda_i has a negative eigenvalue.
        """
        return self._held_roots()[index]

    def _held_roots(self) -> Tensor:
        if self.roots is None:
            object.__setattr__(self, "roots", _eigen_roots(self.matrices))
        assert self.roots is not None
        return self.roots


@dataclass(frozen=True, eq=False)
class DiagonalCurvatures(OutputCurvatures):
    """Lambda_i = diag d_i.

    Attributes:
        diagonals: d_i, of shape (B, C).
    """

    diagonals: Float[Tensor, "B C"]

    @property
    def outputs(self) -> int:
        """C."""
        return self.diagonals.shape[1]

    @property
    def root_count(self) -> int:
        """C."""
        return self.outputs

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The diagonals."""
        return (self.diagonals,)

    def scaled(self, factors: Float[Tensor, " B"]) -> DiagonalCurvatures:
        """c_i Lambda_i."""
        return DiagonalCurvatures(factors.unsqueeze(1) * self.diagonals)

    def products(self, vectors: Float[Tensor, "B C K"]) -> Float[Tensor, "B C K"]:
        """Lambda_i V_i."""
        return self.diagonals.unsqueeze(2) * vectors

    def row(self, index: int) -> Float[Tensor, "B C"]:
        """One row of every Lambda_i."""
        row = torch.zeros_like(self.diagonals)
        row[:, index] = self.diagonals[:, index]
        return row

    def root(self, index: int) -> Float[Tensor, "B C"]:
        """The root of one entry of the diagonal.

        Raises:
            ValueError: If some Lambda_i has a negative eigenvalue.
        """
        _check_convex(self.diagonals)
        root = torch.zeros_like(self.diagonals)
        root[:, index] = self.diagonals[:, index].clamp(min=0).sqrt()
        return root

    def drawn(self, signs: Float[Tensor, "R B"]) -> Float[Tensor, "B C"]:
        """All of them at once."""
        _check_convex(self.diagonals)
        return signs.T * self.diagonals.clamp(min=0).sqrt()


@dataclass(frozen=True, eq=False)
class SoftmaxCurvatures(OutputCurvatures):
    """A block c_it (diag p_it - p_it p_it') for each of T softmaxes over V outputs: a sequence's tokens, or one class.

    The roots are s_itv = sqrt(c_it p_itv) (e_v - p_it), in the outputs of softmax t.

    Attributes:
        scales: c_it, of shape (B, T), at least 0.
        probabilities: p_it, of shape (B, T, V).
    """

    scales: Float[Tensor, "B T"]
    probabilities: Float[Tensor, "B T V"]

    @property
    def outputs(self) -> int:
        """C = T V."""
        return self.probabilities[0].numel()

    @property
    def root_count(self) -> int:
        """C, without those of softmaxes that count for no example."""
        return len(self._counted) * self.probabilities.shape[2]

    @cached_property
    def _counted(self) -> list[int]:
        # One is left of examples without any curvature.
        return self.scales.ne(0).any(dim=0).nonzero().flatten().tolist() or [0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Scales and probabilities."""
        return self.scales, self.probabilities

    def scaled(self, factors: Float[Tensor, " B"]) -> SoftmaxCurvatures:
        """c_i Lambda_i."""
        return SoftmaxCurvatures(factors.unsqueeze(1) * self.scales, self.probabilities)

    def products(self, vectors: Float[Tensor, "B C K"]) -> Float[Tensor, "B C K"]:
        """Lambda_i V_i."""
        blocks = vectors.unflatten(1, self.probabilities.shape[1:])
        centred = blocks - torch.einsum("btv,btvk->btk", self.probabilities, blocks).unsqueeze(2)
        return ((self.scales.unsqueeze(2) * self.probabilities).unsqueeze(3) * centred).flatten(1, 2)

    def row(self, index: int) -> Float[Tensor, "B C"]:
        """One row of every Lambda_i."""
        softmax, own = divmod(index, self.probabilities.shape[2])
        return self._centred(softmax, own, self.scales[:, softmax] * self.probabilities[:, softmax, own])

    def root(self, index: int) -> Float[Tensor, "B C"]:
        """sqrt(c_it p_itv) (e_v - p_it) for one t and v."""
        place, own = divmod(index, self.probabilities.shape[2])
        softmax = self._counted[place]
        return self._centred(softmax, own, (self.scales[:, softmax] * self.probabilities[:, softmax, own]).sqrt())

    def _centred(self, softmax: int, own: int, factors: Float[Tensor, " B"]) -> Float[Tensor, "B C"]:
        """A multiple of e_v - p_it."""
        result = torch.zeros_like(self.probabilities)
        result[:, softmax] = -factors.unsqueeze(1) * self.probabilities[:, softmax]
        result[:, softmax, own] += factors
        return result.flatten(1)

    def drawn(self, signs: Float[Tensor, "R B"]) -> Float[Tensor, "B C"]:
        """All of them at once."""
        result = torch.zeros_like(self.probabilities)
        drawn = signs.T.unflatten(1, (len(self._counted), -1))
        probabilities = self.probabilities[:, self._counted]
        own = drawn * (self.scales[:, self._counted].unsqueeze(2) * probabilities).sqrt()
        result[:, self._counted] = own - own.sum(dim=2, keepdim=True) * probabilities
        return result.flatten(1)


def output_curvatures(
    objective: Objective, outputs: Float[Tensor, "B *out"], batch: Batch, *, hold: bool = True
) -> OutputCurvatures | None:
    """Lambda_i in the smallest form that all examples have.

    Costs 3 products of the losses' Hessian in the outputs with one vector per example; the matrices themselves C.

    Args:
        objective: Whose losses.
        outputs: What the network returns for the batch.
        batch: The examples, their sample weights inside.
        hold: Whether the matrices are held where there is no smaller form; None is returned otherwise.
    """
    values = outputs.detach().flatten(1)
    if values.shape[1] > FEW_OUTPUTS:
        found = _smaller_form(OutputLosses(objective, batch, outputs.detach()), outputs.detach())
        if found is not None:
            return found
    return HeldCurvatures(output_hessians(objective, outputs, batch)) if hold else None


def joined_curvatures(pieces: Sequence[OutputCurvatures]) -> OutputCurvatures | None:
    """Those of several batches as one; None where they are of different forms."""
    kinds = {type(piece) for piece in pieces}
    if len(kinds) > 1:
        return None
    (kind,) = kinds
    columns = zip(*(piece.tensors for piece in pieces), strict=True)
    return kind(*(torch.cat(column) for column in columns))


def _smaller_form(losses: OutputLosses, outputs: Float[Tensor, "B *out"]) -> OutputCurvatures | None:
    values = outputs.flatten(1)
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(*values.shape, PROBES, dtype=torch.float64, generator=generator).to(values)
    images = losses.products(probes.flatten(0, 1)).view_as(probes)
    forms = [_softmax_form(values.unsqueeze(1), probes, images)]
    if outputs.ndim > 2:
        forms.append(_softmax_form(outputs.flatten(1, -2), probes, images))
    forms.append(DiagonalCurvatures(images[:, :, 0] / probes[:, :, 0]))
    rounding = torch.finfo(values.dtype).eps ** 0.75 * float(images.abs().max())
    for form in forms:
        if float((form.products(probes) - images).abs().max()) <= rounding:
            return form
    return None


def _softmax_form(logits: Float[Tensor, "B T V"], probes: Tensor, images: Tensor) -> OutputCurvatures:
    """The c_it that fit the first probe best, at least 0."""
    softmax = SoftmaxCurvatures(logits.new_ones(logits.shape[:2]), logits.softmax(dim=2))
    expected = softmax.products(probes)[:, :, 0].view_as(logits)
    squares = expected.square().sum(dim=2)
    scales = (expected * images[:, :, 0].view_as(logits)).sum(dim=2) / torch.where(squares > 0, squares, 1.0)
    return SoftmaxCurvatures(scales.clamp(min=0), softmax.probabilities)


def _eigen_roots(matrices: Float[Tensor, "B C C"]) -> Float[Tensor, "R B C"]:
    eigenvalues, eigenvectors = torch.linalg.eigh(matrices)
    rounding = _check_convex(eigenvalues)
    scales = torch.where(eigenvalues > rounding, eigenvalues, 0.0).sqrt()
    roots = (eigenvectors * scales.unsqueeze(1)).permute(2, 0, 1)
    kept = (scales > 0).any(dim=0)
    kept[-1] = True  # one is left of examples without any curvature
    return roots[kept]


def _check_convex(eigenvalues: Tensor) -> float:
    rounding = 100 * torch.finfo(eigenvalues.dtype).eps * float(eigenvalues.abs().max())
    if float(eigenvalues.min()) < -rounding:
        raise ValueError(
            f"the likelihood must be convex in the network's outputs, but its Hessian there has the eigenvalue "
            f"{float(eigenvalues.min()):.3g}; use fisher='empirical'"
        )
    return rounding
