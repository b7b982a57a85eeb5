"""The Lanczos process, with full reorthogonalisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """A Q_k = Q_k T_k + beta_k q_k e_m' for K starting vectors at once.

    Attributes:
        diagonals: alpha of shape (K, m), float64.
        off_diagonals: beta of shape (K, m), float64; the last one couples T to what is not yet explored, and is 0 where
            the Krylov space is exhausted.
        bases: Q of shape (K, m, P), orthonormal rows; rows of 0 after a Krylov space is exhausted.
    """

    diagonals: Float[Tensor, "K m"]
    off_diagonals: Float[Tensor, "K m"]
    bases: Float[Tensor, "K m P"]

    def matrices(self) -> Float[Tensor, "K m m"]:
        """T, one symmetric tridiagonal matrix for each starting vector."""
        inner = self.off_diagonals[:, :-1]
        return torch.diag_embed(self.diagonals) + torch.diag_embed(inner, offset=1) + torch.diag_embed(inner, offset=-1)

    def eigensystems(self) -> tuple[Float[Tensor, "K m"], Float[Tensor, "K m m"]]:
        """Ritz values theta (ascending) and eigenvectors S of T, one per column."""
        values, vectors = torch.linalg.eigh(self.matrices())
        return values, vectors


def lanczos(operator: LinearOperator, starts: Float[Tensor, "P K"], steps: int) -> Tridiagonal:
    """M steps of the Lanczos process from K vectors: m products with K vectors each.

    Every new vector is orthogonalised twice against all earlier ones, so that rounding makes no copies of converged
    eigenvalues. Memory K m P, and 4 K m^2 P multiplications and additions beside the products.

    Args:
        operator: A.
        starts: Starting vectors, not 0.
        steps: m; at most P are useful.

    Raises:
        ValueError: If there are fewer than one step, or a starting vector is 0.
    """
    process = LanczosProcess(operator, starts, steps)
    for _ in process.advance():
        pass
    return process.state()


class LanczosProcess:
    """K Lanczos processes in step; a state can be taken after any number of steps."""

    def __init__(self, operator: LinearOperator, starts: Tensor, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"the Lanczos process needs at least 1 step, got {steps}")
        norms = torch.linalg.vector_norm(starts, dim=0)
        if not (norms > 0).all():
            raise ValueError("a starting vector of the Lanczos process is 0; draw another one")
        self.operator = operator
        self.steps = min(steps, operator.size)
        columns = starts.shape[1]
        self.bases = starts.new_zeros(columns, self.steps, operator.size)
        self.diagonals = starts.new_zeros(columns, self.steps, dtype=torch.float64)
        self.off_diagonals = torch.zeros_like(self.diagonals)
        self.done = 0
        self._next = (starts / norms).T

    def advance(self) -> Iterator[int]:
        """Takes one step at a time, and yields how many there are."""
        eps = torch.finfo(self.operator.dtype).eps
        scale = torch.zeros(len(self.bases), dtype=torch.float64, device=self.bases.device)
        for step in range(self.steps):
            self.bases[:, step] = self._next
            image = (self.operator @ self._next.T.contiguous()).T
            self.diagonals[:, step] = (self._next * image).sum(dim=1)
            known = self.bases[:, : step + 1]
            for _ in range(2):
                image = image - torch.einsum("kmp,km->kp", known, torch.einsum("kmp,kp->km", known, image))
            norms = torch.linalg.vector_norm(image, dim=1).to(torch.float64)
            scale = torch.maximum(scale, torch.maximum(self.diagonals[:, step].abs(), norms))
            exhausted = norms <= 100 * eps * scale
            self.off_diagonals[:, step] = torch.where(exhausted, 0.0, norms)
            safe = torch.where(exhausted, torch.inf, norms).to(image.dtype)
            self._next = image / safe.unsqueeze(1)
            self.done = step + 1
            yield self.done
            if exhausted.all():
                return

    def state(self) -> Tridiagonal:
        """What has been found so far."""
        done = self.done
        return Tridiagonal(self.diagonals[:, :done], self.off_diagonals[:, :done], self.bases[:, :done])


def gaussian_vectors(operator: LinearOperator, columns: int, seed: int) -> Float[Tensor, "P K"]:
    """Standard Gaussian vectors in the operator's dtype and on its device; the same for the same seed everywhere."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(operator.size, columns, dtype=torch.float64, generator=generator)
    return drawn.to(dtype=operator.dtype, device=operator.device)
