"""The two ends of a spectrum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator, as_operator


class ExtremeEigenvalues(NamedTuple):
    """lambda_max and lambda_min of a symmetric matrix, both algebraic: lambda_min may be negative."""

    largest: float
    smallest: float


def extreme_eigenvalues(operator: LinearOperator | Float[Tensor, "P P"]) -> ExtremeEigenvalues:
    """The largest and the smallest algebraic eigenvalue, exactly, from the dense float64 matrix.

    4 P^3 / 3 operations after the matrix: for P up to a few thousand.
    """
    eigenvalues = torch.linalg.eigvalsh(as_operator(operator).dense().to(torch.float64))
    return ExtremeEigenvalues(float(eigenvalues[-1]), float(eigenvalues[0]))
