"""One layer's block of EK-FAC: a matrix that is diagonal in a Kronecker-factored basis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 64
"""Columns of a symmetric product that are computed at a time, as far as the diagonal."""


def symmetric_product(left: Float[Tensor, "R D"], right: Float[Tensor, "R D"]) -> Float[Tensor, "D D"]:
    """Left'right where that is known to be symmetric: what stands below its diagonal, and the same above.

    Floor: R D (D + 64) / 2 multiplications and additions, about half of the whole product's.
    """
    product = left.new_zeros(left.shape[1], right.shape[1])
    end = 0
    for columns in left.tensor_split(max(1, left.shape[1] // BLOCK), dim=1):
        start, end = end, end + columns.shape[1]
        product[start:end, :end] = columns.T @ right[:, :end]
    return product.tril() + product.tril(-1).T


@dataclass(frozen=True, eq=False)
class KroneckerBlock:
    """One layer's block: Q diag(vec eigenvalues) Q' with Q = output_basis (x) input_basis.

    Attributes:
        path: Where the layer stands in the network.
        positions: (O, D) where the entries of [weight, bias] stand in the flat vector.
        input_basis: Q_A of shape (D, D), the eigenvectors of E[sum_l a_l a_l'].
        output_basis: Q_B of shape (O, O), the eigenvectors of E[sum_l b_l b_l'].
        eigenvalues: (O, D): E[(Q_B' G Q_A)^2], plus the regulariser's diagonal in this basis.
    """

    path: str
    positions: Int[Tensor, "O D"]
    input_basis: Float[Tensor, "D D"]
    output_basis: Float[Tensor, "O O"]
    eigenvalues: Float[Tensor, "O D"]

    def scaled(self, columns: Float[Tensor, "O D K"], factors: Float[Tensor, "O D"]) -> Float[Tensor, "O D K"]:
        """Q diag(factors) Q' for each of K columns."""
        rotated = torch.einsum("po,pdk,de->oek", self.output_basis, columns, self.input_basis)
        scaled = factors.unsqueeze(2) * rotated
        return torch.einsum("po,odk,ed->pek", self.output_basis, scaled, self.input_basis)

    def in_basis(self, entries: Float[Tensor, "O D"]) -> Float[Tensor, "O D"]:
        """The diagonal of Q' diag(entries) Q."""
        return self.output_basis.square().T @ entries @ self.input_basis.square()

    def in_coordinates(self, factors: Float[Tensor, "O D"]) -> Float[Tensor, "O D"]:
        """The diagonal of Q diag(factors) Q'."""
        return self.output_basis.square() @ factors @ self.input_basis.square().T
