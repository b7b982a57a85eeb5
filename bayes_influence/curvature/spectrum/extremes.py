"""The two ends of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.cost import DENSE_SIZE
from bayes_influence.curvature.operators.base import LinearOperator, as_operator
from bayes_influence.curvature.spectrum.lanczos import LanczosProcess, Tridiagonal, gaussian_vectors

LEAST_STEPS = 20
"""Lanczos steps before convergence is believed. The first Ritz values of a network's Hessian settle within its bulk,
with small residuals, until the outlying eigenvalues at the upper end have converged; only then does the lower end
come out, which automatic damping depends on."""

SETTLED_STEPS = 5
"""Over so many steps a Ritz value must move less than the tolerance."""


@dataclass(frozen=True)
class ExtremeEigenvalues:
    """Lambda_max and lambda_min of a symmetric matrix, both algebraic: lambda_min may be negative.

    Attributes:
        largest: lambda_max; from Lanczos a Ritz value, never above it.
        smallest: lambda_min; from Lanczos a Ritz value, never below it.
        largest_error: Residual norm of its Ritz pair: an eigenvalue is that close. 0 for a dense matrix.
        smallest_error: The same at the lower end.
        products: Products with single vectors that were needed; 0 for a dense matrix.
        converged: Whether both ends are within the tolerance and have settled.
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

    Up to P = `dense_size` from the dense float64 matrix, 4 P^3 / 3 operations. Beyond, by Lanczos from a random start,
    until at both ends the residual norm beta |s_m|, which bounds the distance to some eigenvalue, and the movement over
    the last 5 steps are within tolerance x max |lambda|; at least 20 products. Two ends to 1e-3 take 20 to 30.

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
    history: list[ExtremeEigenvalues] = []
    for _ in process.advance():
        history.append(_ends(process.state()))
        if _has_settled(history, tolerance):
            return replace(history[-1], converged=True)
    exhausted = max(history[-1].largest_error, history[-1].smallest_error) == 0
    return replace(history[-1], converged=exhausted)


def _ends(tridiagonal: Tridiagonal) -> ExtremeEigenvalues:
    values, vectors = (part[0] for part in tridiagonal.eigensystems())
    residuals = tridiagonal.off_diagonals[0, -1] * vectors[-1].abs()
    return ExtremeEigenvalues(
        float(values[-1]), float(values[0]), float(residuals[-1]), float(residuals[0]), products=len(values)
    )


def _has_settled(history: list[ExtremeEigenvalues], tolerance: float) -> bool:
    if len(history) < LEAST_STEPS:
        return False
    now, before = history[-1], history[-1 - SETTLED_STEPS]
    moved = max(now.largest - before.largest, before.smallest - now.smallest)
    allowed = tolerance * max(abs(now.largest), abs(now.smallest))
    return max(now.largest_error, now.smallest_error, moved) <= allowed
