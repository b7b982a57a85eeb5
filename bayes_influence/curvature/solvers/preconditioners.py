"""Preconditioners M ~ A as factors M = L L', so that a solver can work on L^{-1} A L^{-T}."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.spectrum.lanczos import gaussian_vectors


@runtime_checkable
class Preconditioner(Protocol):
    """A positive definite M = L L' that is cheap to factor."""

    def whiten(self, vectors: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """L^{-1} V."""

    def unwhiten(self, vectors: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """L V."""

    def whiten_transposed(self, vectors: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """L^{-T} V."""


@dataclass(frozen=True)
class IdentityPreconditioner:
    """M = I: no preconditioning."""

    def whiten(self, vectors: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """V."""
        return vectors

    unwhiten = whiten_transposed = whiten


@dataclass(frozen=True, eq=False)
class NystromPreconditioner:
    """M = D^{1/2} [U diag(lambda + 1) U' + (lambda_r + 1)(I - U U')] D^{1/2} (Frangella, Tropp, Udell 2023).

    U diag(lambda) U' is a rank-r Nystrom approximation of the whitened curvature D^{-1/2} C D^{-1/2}, for the system
    C + D. After it, only eigenvalues below lambda_r are left to the solver: the condition number is about lambda_r + 1.

    Attributes:
        damping: D's diagonal, of shape (P,).
        eigenvalues: lambda of shape (r,), descending.
        eigenvectors: U of shape (P, r).
    """

    damping: Float[Tensor, " P"]
    eigenvalues: Float[Tensor, " r"]
    eigenvectors: Float[Tensor, "P r"]

    def __str__(self) -> str:
        return f"a Nystrom approximation of rank {len(self.eigenvalues)}"

    def _scaled(self, vectors: Tensor, power: float) -> Tensor:
        """[U diag(lambda + 1) U' + (lambda_r + 1)(I - U U')]^power V."""
        rest = (self.eigenvalues[-1] + 1) ** power
        inside = (self.eigenvalues + 1) ** power - rest
        return rest * vectors + self.eigenvectors @ (inside.unsqueeze(1) * (self.eigenvectors.T @ vectors))

    def whiten(self, vectors: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """L^{-1} V."""
        return self._scaled(vectors * self.damping.rsqrt().unsqueeze(1), -0.5)

    def unwhiten(self, vectors: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """L V."""
        return self._scaled(vectors, 0.5) * self.damping.sqrt().unsqueeze(1)

    def whiten_transposed(self, vectors: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """L^{-T} V."""
        return self._scaled(vectors, -0.5) * self.damping.rsqrt().unsqueeze(1)


def nystrom_preconditioner(
    curvature: LinearOperator, damping: float | Float[Tensor, " P"], rank: int, seed: int = 0
) -> NystromPreconditioner:
    """Sketches a positive semidefinite curvature with r Gaussian vectors.

    r products with single vectors, taken in blocks, and 4 P r^2 multiplications and additions. The curvature of a
    subset of the data makes nearly as good a preconditioner as that of all of them, at a fraction of the cost.

    Args:
        curvature: C without its damping: a Gauss-Newton matrix, or a Hessian that is known to have no negative
            eigenvalues; of the same data as the system or of fewer.
        damping: The diagonal of D, positive: the system is C + D.
        rank: r, at most P.
        seed: Of the Gaussian vectors.

    Raises:
        ValueError: If the rank is not between 1 and P, or the damping is not positive.
        IndefiniteCurvatureError: If C is found to be indefinite.
    """
    diagonal = torch.as_tensor(damping, dtype=curvature.dtype, device=curvature.device).expand(curvature.size)
    if not 1 <= rank <= curvature.size:
        raise ValueError(f"the rank must be between 1 and P = {curvature.size}, got {rank}")
    if not (diagonal > 0).all():
        raise ValueError(f"a Nystrom preconditioner needs positive damping, got {float(diagonal.min()):.3g}")
    scale = diagonal.rsqrt().unsqueeze(1)
    sketch, _ = torch.linalg.qr(gaussian_vectors(curvature, rank, seed))
    image = scale * (curvature @ (scale * sketch))
    eps = torch.finfo(curvature.dtype).eps
    # The shift keeps the small Gram matrix definite in rounding and is taken off the eigenvalues again.
    shift = eps * float(torch.linalg.matrix_norm(image)) * curvature.size**0.5
    gram = (sketch.T @ image).to(torch.float64)
    gram = 0.5 * (gram + gram.T) + shift * torch.eye(rank, dtype=torch.float64, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if int(failed):
        smallest = float(torch.linalg.eigvalsh(gram)[0]) * float(diagonal.max())
        raise IndefiniteCurvatureError(smallest, "Nystrom preconditioner")
    shifted = (image + shift * sketch).to(torch.float64)
    basis = torch.linalg.solve_triangular(factor, shifted.T, upper=False).T
    eigenvectors, roots, _ = torch.linalg.svd(basis, full_matrices=False)
    eigenvalues = (roots.square() - shift).clamp(min=0)
    return NystromPreconditioner(diagonal, eigenvalues.to(curvature.dtype), eigenvectors.to(curvature.dtype))
