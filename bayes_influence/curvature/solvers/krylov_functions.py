"""Approximate inverses from a Lanczos basis: low rank with a damped tail, and |A|^{-1}."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.whitened import WhitenedOperator
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_norm, relative_residual
from bayes_influence.curvature.solvers.solver import Solve, Solver
from bayes_influence.curvature.spectrum.lanczos import gaussian_vectors, lanczos

COLUMNS = 16
"""Right-hand sides whose Lanczos bases are held at a time in `Absolute`."""


@dataclass(frozen=True, kw_only=True)
class LowRank(Solver):
    """(C + D)^{-1} V with C replaced by its r eigenvalues of largest magnitude (Schioppa et al. 2022).

    In the coordinates where the positive damping D is the identity, (U diag(theta) U' + I)^{-1} =
    I - U diag(theta / (theta + 1)) U': the directions outside U have curvature 0 and are left to the damping alone. U
    and theta are Ritz pairs of a Lanczos run (Arnoldi's method, A being symmetric), made once: m products in all,
    however many right-hand sides there are. What it neglects shows in the residual.

    Attributes:
        rank: r; all of the Lanczos run's Ritz pairs where P is smaller.
        steps: m, the length of the Lanczos run; 2 r + 10 where not given, at most P.
        tolerance: Bound on the relative residual.
        seed: Of the starting vector.

    Raises:
        ValueError: If the rank is below 1 or above the number of steps, an operator has no positive damping, or a kept
            eigenvalue of C is as negative as the damping.
        NotConvergedError: If the residual is above the tolerance and `on_failure` is `"raise"`.
    """

    rank: int = 100
    steps: int | None = None
    tolerance: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.rank <= self._steps:
            raise ValueError(f"the rank must be between 1 and the {self._steps} Lanczos steps, got {self.rank}")

    @property
    def _steps(self) -> int:
        return 2 * self.rank + 10 if self.steps is None else self.steps

    def prepare(self, operator: LinearOperator) -> Solve:
        """The Ritz pairs.

        Raises:
            ValueError: If a direction is not damped, or the damped curvature is not positive.
        """
        if operator.damping is None or not (operator.damping > 0).all():
            raise ValueError(
                "a low-rank inverse needs damping everywhere: without it the directions left out have none"
            )
        whitened = WhitenedOperator(operator.undamped, operator.damping)
        tridiagonal = lanczos(whitened, gaussian_vectors(operator, 1, self.seed), self._steps)
        values, vectors = (part[0] for part in tridiagonal.eigensystems())
        kept = values.abs().argsort(descending=True)[: self.rank]
        theta = values[kept]
        if theta.min() <= -1:
            raise ValueError(
                f"low-rank inverse: the curvature has an eigenvalue {float(theta.min()):.6g} times the damping, so "
                f"damped it is not positive; raise the damping by {-1.1 * float(theta.min()):.3g} times, or use the "
                f"Gauss-Newton matrix"
            )
        basis = tridiagonal.bases[0].T @ vectors[:, kept].to(operator.dtype)
        shrunk = (theta / (theta + 1)).to(operator.dtype).unsqueeze(1)

        def approximate(rhs: Tensor) -> Solution:
            columns = whitened.whitened(rhs.reshape(operator.size, -1))
            value = whitened.whitened(columns - basis @ (shrunk * (basis.T @ columns))).reshape(rhs.shape)
            return self._checked(operator, value, rhs, tridiagonal.diagonals.shape[1])

        return approximate

    def _checked(self, operator: LinearOperator, value: Tensor, rhs: Tensor, steps: int) -> Solution:
        residual = relative_residual(operator, value, rhs)
        solution = Solution(
            value=value,
            residual=residual,
            converged=bool((residual <= self.tolerance).all()),
            iterations=steps,
            method=f"low rank ({min(self.rank, steps)}) with a damped tail",
            tolerance=self.tolerance,
        )
        return checked(solution, self.on_failure, "raise the rank or the damping, or use conjugate gradients")


@dataclass(frozen=True, kw_only=True)
class Absolute(Solver):
    """|A|^{-1} V by Lanczos, with |A| = Q |Lambda| Q': a *heuristic* for an indefinite A.

    It turns every direction of negative curvature into one of positive curvature, which keeps scores finite and of a
    plausible size but predicts no retraining. |A|^{-1} v is taken in the Krylov space of (A, v), and |A| applied to it
    in that of (A, x), which gives the residual. Memory 16 m P; 2 m products with K vectors.

    Attributes:
        steps: m, the length of each Lanczos run.
        tolerance: Bound on the relative residual ||v - |A| x|| / ||v||.

    Raises:
        NotConvergedError: If the residual is above the tolerance and `on_failure` is `"raise"`.
    """

    steps: int = 100
    tolerance: float = 1e-3

    def prepare(self, operator: LinearOperator) -> Solve:
        """The Lanczos runs start from the right-hand sides: nothing is done before."""
        return lambda rhs: self._solve(operator, rhs)

    def _solve(self, operator: LinearOperator, rhs: Float[Tensor, " P *K"]) -> Solution:
        columns = rhs.reshape(operator.size, -1)
        values, images = [], []
        for part in columns.split(COLUMNS, dim=1):
            value = _absolute_power(operator, part, self.steps, -1.0)
            values.append(value)
            images.append(_absolute_power(operator, value, self.steps, 1.0))
        value = torch.cat(values, dim=1).reshape(rhs.shape)
        residual = relative_norm(columns - torch.cat(images, dim=1), columns).reshape(rhs.shape[1:])
        solution = Solution(
            value=value,
            residual=residual,
            converged=bool((residual <= self.tolerance).all()),
            iterations=min(self.steps, operator.size),
            method="|A|^-1 by Lanczos, a heuristic",
            tolerance=self.tolerance,
        )
        return checked(solution, self.on_failure, "take more steps or more damping")


def _absolute_power(operator: LinearOperator, columns: Tensor, steps: int, power: float) -> Float[Tensor, "P K"]:
    """|A|^power V = ||v|| Q |T|^power e_1, column by column; 0 where v is 0."""
    norms = torch.linalg.vector_norm(columns, dim=0)
    starts = torch.where(norms > 0, columns, torch.ones_like(columns))
    tridiagonal = lanczos(operator, starts, steps)
    theta, vectors = tridiagonal.eigensystems()
    magnitudes = theta.abs()
    # Rows beyond an exhausted Krylov space have theta = 0 and no weight.
    zero = magnitudes <= torch.finfo(operator.dtype).eps * magnitudes.amax(dim=1, keepdim=True)
    powers = torch.where(zero, 0.0, torch.where(zero, 1.0, magnitudes) ** power)
    weights = torch.einsum("kms,ks,ks->km", vectors, powers, vectors[:, 0])
    return norms * torch.einsum("kmp,km->pk", tridiagonal.bases, weights.to(operator.dtype))
