"""The two ends of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator, as_operator
from bayes_influence.curvature.spectrum.lanczos import LanczosProcess, Tridiagonal, gaussian_vectors

DENSE_SIZE = 2000
"""Up to this P the dense matrix is decomposed: about a second, and exact."""


@dataclass(frozen=True)
class ExtremeEigenvalues:
    """Lambda_max and lambda_min of a symmetric matrix, both algebraic: lambda_min may be negative.

    Attributes:
        largest: lambda_max; from Lanczos a Ritz value, never above it.
        smallest: lambda_min; from Lanczos a Ritz value, never below it.
        largest_error: Estimate of lambda_max - largest; 0 for a dense matrix.
        smallest_error: Estimate of smallest - lambda_min; 0 for a dense matrix.
        products: Products with single vectors that were needed; 0 for a dense matrix.
        converged: Whether both errors are within the tolerance.
    """

    largest: float
    smallest: float
    largest_error: float = 0.0
    smallest_error: float = 0.0
    products: int = 0
    converged: bool = True


def extreme_eigenvalues(
    operator: LinearOperator | Float[Tensor, "P P"],
    *,
    tolerance: float = 1e-3,
    max_products: int = 200,
    dense_size: int = DENSE_SIZE,
    seed: int = 0,
) -> ExtremeEigenvalues:
    """The largest and the smallest algebraic eigenvalue.

    Up to P = `dense_size` from the dense float64 matrix, 4 P^3 / 3 operations. Beyond, by Lanczos from a random start
    until both errors are estimated within tolerance x max |lambda|. With residual norm r = beta |s_m| and distance
    gap to the next Ritz value, an eigenvalue lies within min(r, r^2 / gap) of a Ritz value.

    Args:
        operator: A.
        tolerance: Relative to the largest magnitude.
        max_products: Lanczos stops there even if it has not converged. Memory P x max_products.
        dense_size: Largest P that is made dense.
        seed: Of the random start.

    Raises:
        ValueError: If the tolerance is not positive.
    """
    operator = as_operator(operator)
    if not tolerance > 0:
        raise ValueError(f"the tolerance must be positive, got {tolerance}")
    if operator.size <= dense_size:
        eigenvalues = torch.linalg.eigvalsh(operator.dense().to(torch.float64))
        return ExtremeEigenvalues(float(eigenvalues[-1]), float(eigenvalues[0]))
    process = LanczosProcess(operator, gaussian_vectors(operator, 1, seed), max_products)
    for done in process.advance():
        found = _ends(process.state(), tolerance)
        if found.converged and done > 2:
            break
    return found


def _ends(tridiagonal: Tridiagonal, tolerance: float) -> ExtremeEigenvalues:
    values, vectors = (part[0] for part in tridiagonal.eigensystems())
    residuals = tridiagonal.off_diagonals[0, -1] * vectors[-1].abs()
    largest, smallest = float(values[-1]), float(values[0])
    largest_error = _error(residuals[-1], values[-1] - values[-2]) if len(values) > 1 else float(residuals[-1])
    smallest_error = _error(residuals[0], values[1] - values[0]) if len(values) > 1 else float(residuals[0])
    allowed = tolerance * max(abs(largest), abs(smallest))
    return ExtremeEigenvalues(
        largest,
        smallest,
        largest_error,
        smallest_error,
        products=len(values),
        converged=max(largest_error, smallest_error) <= allowed,
    )


def _error(residual: Tensor, gap: Tensor) -> float:
    return float(residual) if gap <= 0 else float(torch.minimum(residual, residual.square() / gap))
