"""Approximate inverses from a Lanczos basis: low rank with a damped tail, and |A|^{-1}."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import DampedOperator, LinearOperator, as_operator
from bayes_influence.curvature.operators.whitened import WhitenedOperator
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_norm, relative_residual
from bayes_influence.curvature.spectrum.lanczos import gaussian_vectors, lanczos

COLUMNS = 16
"""Right-hand sides whose Lanczos bases are held at a time in `absolute_inverse`."""


def low_rank(
    operator: DampedOperator,
    rhs: Float[Tensor, " P *K"],
    *,
    rank: int,
    steps: int | None = None,
    tolerance: float = 1e-2,
    seed: int = 0,
    on_failure: str = "warn",
) -> Solution:
    """(C + D)^{-1} V with C replaced by its r eigenvalues of largest magnitude (Schioppa et al. 2022).

    In the coordinates where D is the identity, (U diag(theta) U' + I)^{-1} = I - U diag(theta / (theta + 1)) U': the
    directions outside U have curvature 0 and are left to the damping alone. U and theta are Ritz pairs of a Lanczos run
    (Arnoldi's method, A being symmetric). It is an approximation that no number of right-hand sides makes dearer: m
    products in all; what it neglects shows in the residual.

    Args:
        operator: C + D with positive damping D.
        rhs: V.
        rank: r.
        steps: m, the length of the Lanczos run; 2 r + 10 where not given, at most P.
        tolerance: Bound on the relative residual.
        seed: Of the starting vector.
        on_failure: What to do above the tolerance, `"warn"` or `"raise"`.

    Raises:
        ValueError: If the rank is not between 1 and the number of steps, the operator has no positive damping, or a
            kept eigenvalue of C is as negative as the damping.
        NotConvergedError: If the residual is above the tolerance and `on_failure` is `"raise"`.
    """
    if not isinstance(operator, DampedOperator) or not (operator.damping > 0).all():
        raise ValueError("a low-rank inverse needs damping everywhere: without it the directions left out have none")
    steps = min(operator.size, 2 * rank + 10 if steps is None else steps)
    if not 1 <= rank <= steps:
        raise ValueError(f"the rank must be between 1 and the {steps} Lanczos steps, got {rank}")
    whitened = WhitenedOperator(operator.base, operator.damping)
    tridiagonal = lanczos(whitened, gaussian_vectors(operator, 1, seed), steps)
    values, vectors = (part[0] for part in tridiagonal.eigensystems())
    kept = values.abs().argsort(descending=True)[:rank]
    theta = values[kept]
    if theta.min() <= -1:
        raise ValueError(
            f"low-rank inverse: the curvature has an eigenvalue {float(theta.min()):.6g} times the damping, so damped "
            f"it is not positive; raise the damping by {-1.1 * float(theta.min()):.3g} times, or use the Gauss-Newton "
            f"matrix"
        )
    basis = tridiagonal.bases[0].T @ vectors[:, kept].to(operator.dtype)
    columns = whitened.whitened(rhs.reshape(operator.size, -1))
    shrunk = (theta / (theta + 1)).to(operator.dtype).unsqueeze(1)
    value = whitened.whitened(columns - basis @ (shrunk * (basis.T @ columns))).reshape(rhs.shape)
    residual = relative_residual(operator, value, rhs)
    solution = Solution(
        value=value,
        residual=residual,
        converged=bool((residual <= tolerance).all()),
        iterations=tridiagonal.diagonals.shape[1],
        method=f"low rank ({rank}) with a damped tail",
        tolerance=tolerance,
    )
    return checked(solution, on_failure, "raise the rank or the damping, or use conjugate gradients")


def absolute_inverse(
    operator: LinearOperator | Float[Tensor, "P P"],
    rhs: Float[Tensor, " P *K"],
    *,
    steps: int = 100,
    tolerance: float = 1e-3,
    on_failure: str = "warn",
) -> Solution:
    """|A|^{-1} V by Lanczos, with |A| = Q |Lambda| Q': a *heuristic* for an indefinite A.

    It turns every direction of negative curvature into one of positive curvature, which keeps scores finite and of a
    plausible size but predicts no retraining. |A|^{-1} v is taken in the Krylov space of (A, v), and |A| applied to it
    in that of (A, x), which gives the residual. Memory 16 m P; 2 m products with K vectors.

    Args:
        operator: A, with the damping inside.
        rhs: V.
        steps: m, the length of each Lanczos run.
        tolerance: Bound on the relative residual ||v - |A| x|| / ||v||.
        on_failure: What to do above the tolerance, `"warn"` or `"raise"`.

    Raises:
        NotConvergedError: If the residual is above the tolerance and `on_failure` is `"raise"`.
    """
    operator = as_operator(operator)
    columns = rhs.reshape(operator.size, -1)
    values, images = [], []
    for part in columns.split(COLUMNS, dim=1):
        value = _absolute_power(operator, part, steps, -1.0)
        values.append(value)
        images.append(_absolute_power(operator, value, steps, 1.0))
    value = torch.cat(values, dim=1).reshape(rhs.shape)
    residual = relative_norm(columns - torch.cat(images, dim=1), columns).reshape(rhs.shape[1:])
    solution = Solution(
        value=value,
        residual=residual,
        converged=bool((residual <= tolerance).all()),
        iterations=min(steps, operator.size),
        method="|A|^-1 by Lanczos, a heuristic",
        tolerance=tolerance,
    )
    return checked(solution, on_failure, "take more steps or more damping")


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
