"""Direct solvers in float64, exact where P is small: Cholesky and eigendecomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_norm
from bayes_influence.curvature.solvers.solver import Solve, Solver

DIRECT_TOLERANCE = 1e-8
"""Default bound on a direct solver's relative residual."""


@dataclass(frozen=True, kw_only=True)
class Cholesky(Solver):
    """A = L L' in float64, factored once for any number of right-hand sides.

    P^3 / 3 operations for the factor, 4 P^3 / 3 for its eigenvalues, and 2 P^2 for each right-hand side.

    Attributes:
        tolerance: Bound on the relative residual.

    Raises:
        IndefiniteCurvatureError: If A is not positive definite, or is so only within rounding
            (lambda_min <= 10 eps ||A||_F, eps that of A's dtype); the message names lambda_min and what to do.
        ValueError: If A holds NaN or infinity.
        NotConvergedError: If rounding leaves a residual above the tolerance and `on_failure` is `"raise"`.
    """

    tolerance: float = DIRECT_TOLERANCE

    def factors(self, operator: LinearOperator) -> bool:
        """Always."""
        return True

    def prepare(self, operator: LinearOperator) -> Solve:
        """The factor.

        Raises:
            IndefiniteCurvatureError: If A is not positive definite beyond rounding.
        """
        matrix, eps = _float64_matrix(operator)
        eigenvalues = torch.linalg.eigvalsh(matrix)
        rounding = _rounding(eigenvalues, eps)
        if float(eigenvalues[0]) <= rounding:
            raise IndefiniteCurvatureError(float(eigenvalues[0]), "cholesky", rounding)
        factor = torch.linalg.cholesky(matrix)

        def solve(rhs: Tensor) -> Solution:
            columns = rhs.to(torch.float64).reshape(len(rhs), -1)
            value = torch.cholesky_solve(columns, factor)
            return _solution("cholesky", value, columns - matrix @ value, rhs, eigenvalues, self)

        return solve


@dataclass(frozen=True, kw_only=True)
class Eigendecomposition(Solver):
    """A = Q diag(lambda) Q' in float64, once for any number of right-hand sides.

    About 9 P^3 operations once, and 4 P^2 for each right-hand side.

    Attributes:
        on_indefinite: `"raise"`; `"solve"` inverts an indefinite A as it stands (at a saddle there is no retraining
            response); `"absolute"` gives |A|^{-1} V, a heuristic, with residuals of |A|.
        tolerance: Bound on the relative residual.

    Raises:
        IndefiniteCurvatureError: If A is indefinite and `on_indefinite` is `"raise"`, or A is singular.
        ValueError: If `on_indefinite` is unknown, or A holds NaN or infinity.
        NotConvergedError: If rounding leaves a residual above the tolerance and `on_failure` is `"raise"`.
    """

    on_indefinite: Literal["raise", "solve", "absolute"] = "raise"
    tolerance: float = DIRECT_TOLERANCE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_indefinite not in ("raise", "solve", "absolute"):
            raise ValueError(f"on_indefinite must be 'raise', 'solve' or 'absolute', got {self.on_indefinite!r}")

    def factors(self, operator: LinearOperator) -> bool:
        """Always."""
        return True

    def prepare(self, operator: LinearOperator) -> Solve:
        """The decomposition.

        Raises:
            IndefiniteCurvatureError: If A is singular, or by default indefinite; `on_indefinite` has the other ways.
        """
        matrix, eps = _float64_matrix(operator)
        eigenvalues, eigenvectors = torch.linalg.eigh(matrix)
        rounding = _rounding(eigenvalues, eps)
        if self.on_indefinite == "raise" and float(eigenvalues[0]) <= rounding:
            raise IndefiniteCurvatureError(float(eigenvalues[0]), "eigendecomposition", rounding)
        closest = eigenvalues[eigenvalues.abs().argmin()]
        if closest.abs() <= rounding:
            raise IndefiniteCurvatureError(float(closest), "eigendecomposition", rounding)
        if self.on_indefinite == "absolute":
            method, eigenvalues = "eigendecomposition of |A|, a heuristic", eigenvalues.abs()
        else:
            method = "eigendecomposition"

        def rotated(columns: Tensor, factors: Tensor) -> Tensor:
            return eigenvectors @ (factors.unsqueeze(1) * (eigenvectors.T @ columns))

        def solve(rhs: Tensor) -> Solution:
            columns = rhs.to(torch.float64).reshape(len(rhs), -1)
            value = rotated(columns, 1 / eigenvalues)
            return _solution(method, value, columns - rotated(value, eigenvalues), rhs, eigenvalues, self)

        return solve


def _float64_matrix(operator: LinearOperator) -> tuple[Tensor, float]:
    """A as a symmetric float64 matrix, and the eps of the arithmetic that made it."""
    matrix = operator.dense()
    if not torch.isfinite(matrix).all():
        raise ValueError("the curvature matrix holds NaN or infinity; check the losses at the objective's parameters")
    eps = torch.finfo(matrix.dtype).eps
    matrix = matrix.to(torch.float64)
    return (matrix + matrix.T).mul_(0.5), eps


def _rounding(eigenvalues: Tensor, eps: float) -> float:
    """10 eps ||A||_F: below it an eigenvalue cannot be told from 0."""
    return float(10 * eps * torch.linalg.vector_norm(eigenvalues))


def _solution(
    method: str,
    value: Tensor,
    residual: Tensor,
    rhs: Tensor,
    eigenvalues: Tensor,
    solver: Cholesky | Eigendecomposition,
) -> Solution:
    """The residual is measured in float64, before the value is rounded to the dtype of V."""
    relative = relative_norm(residual, rhs.to(torch.float64).reshape(len(rhs), -1)).reshape(rhs.shape[1:])
    solution = Solution(
        value=value.to(rhs.dtype).reshape(rhs.shape),
        residual=relative,
        converged=bool((relative <= solver.tolerance).all()),
        iterations=0,
        method=method,
        tolerance=solver.tolerance,
        smallest_eigenvalue=float(eigenvalues.min()),
        largest_eigenvalue=float(eigenvalues.max()),
    )
    return checked(solution, solver.on_failure, "the matrix is too ill-conditioned for float64: raise the damping")
