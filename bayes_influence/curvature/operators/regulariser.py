"""The curvature of what an objective adds to its data term."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.ways import small_products

PROBES = 2
"""Gaussian vectors that tell a diagonal matrix from another one: a single one already does, with probability 1."""


class RegulariserOperator(LinearOperator):
    """The s grad^2 R of an objective, in its selected parameters.

    Weight decay and the KL divergence of independent Gaussians have diagonal Hessians. That is found out once, from
    three products, and then a product costs P multiplications.

    Attributes:
        entries: The diagonal, of shape (P,), where the Hessian is diagonal; None otherwise.
    """

    def __init__(self, objective: Objective) -> None:
        theta = objective.layout.flatten(objective.params)
        super().__init__(theta.numel(), theta.dtype, theta.device)
        self._network, self._value = objective.network, objective.flat.regulariser
        self._weight = objective.regulariser_weight
        self._theta = theta
        self.entries = self._diagonal_entries()

    def _diagonal_entries(self) -> Tensor | None:
        generator = torch.Generator().manual_seed(0)
        probes = torch.randn(self.size, PROBES, generator=generator).to(self._theta)
        products = self._differentiated(torch.cat([torch.ones_like(probes[:, :1]), probes], dim=1))
        entries, expected = products[:, 0], products[:, :1] * probes
        bound = 100 * torch.finfo(self.dtype).eps * expected.abs().max()
        return entries if (products[:, 1:] - expected).abs().max() <= bound else None

    def _differentiated(self, vectors: Tensor) -> Tensor:
        return self._weight * small_products(self._network, "products", self._value, self._theta, vectors)

    def _product(self, vectors: Tensor) -> Tensor:
        return self._differentiated(vectors) if self.entries is None else self.entries.unsqueeze(1) * vectors

    def diagonal(self) -> Float[Tensor, " P"]:
        """The diagonal, no products where the Hessian is diagonal."""
        return super().diagonal() if self.entries is None else self.entries

    def dense(self) -> Float[Tensor, "P P"]:
        """The matrix, no products where the Hessian is diagonal."""
        return super().dense() if self.entries is None else torch.diag(self.entries)
