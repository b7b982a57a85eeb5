"""Direct solvers in float64, exact where P is small: Cholesky and eigendecomposition."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.operators.base import LinearOperator, as_operator
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_norm

DIRECT_TOLERANCE = 1e-8
"""Default bound on a direct solver's relative residual."""


class CholeskyFactor:
    """A = L L' in float64, factored once for any number of right-hand sides.

    P^3 / 3 operations for the factor, 4 P^3 / 3 for its eigenvalues, and 2 P^2 for each right-hand side.

    Attributes:
        matrix: A in float64.
        smallest_eigenvalue: lambda_min(A).
        largest_eigenvalue: lambda_max(A).

    Raises:
        IndefiniteCurvatureError: If A is not positive definite, or is so only within rounding
            (lambda_min <= 10 eps ||A||_F, eps that of A's dtype); the message names lambda_min and what to do.
        ValueError: If A holds NaN or infinity.
    """

    def __init__(self, operator: LinearOperator | Float[Tensor, "P P"]) -> None:
        self.matrix, eps = _float64_matrix(operator)
        eigenvalues = torch.linalg.eigvalsh(self.matrix)
        self.smallest_eigenvalue, self.largest_eigenvalue = float(eigenvalues[0]), float(eigenvalues[-1])
        rounding = _rounding(eigenvalues, eps)
        if self.smallest_eigenvalue <= rounding:
            raise IndefiniteCurvatureError(self.smallest_eigenvalue, "cholesky", rounding)
        self._factor = torch.linalg.cholesky(self.matrix)

    def solve(
        self, rhs: Float[Tensor, " P *K"], *, tolerance: float = DIRECT_TOLERANCE, on_failure: str = "warn"
    ) -> Solution:
        """A^{-1} V, in the dtype of V.

        Raises:
            NotConvergedError: If rounding leaves a residual above the tolerance and `on_failure` is `"raise"`.
        """
        columns = rhs.to(torch.float64).reshape(len(rhs), -1)
        value = torch.cholesky_solve(columns, self._factor)
        extremes = (self.smallest_eigenvalue, self.largest_eigenvalue)
        return _solution("cholesky", value, columns - self.matrix @ value, rhs, extremes, tolerance, on_failure)


class Eigendecomposition:
    """A = Q diag(lambda) Q' in float64, for any number of right-hand sides and any damping.

    About 9 P^3 operations once, and 4 P^2 for each right-hand side.

    Attributes:
        matrix: A in float64.
        eigenvalues: lambda of shape (P,), ascending.
        eigenvectors: Q of shape (P, P), one per column.
    """

    def __init__(self, operator: LinearOperator | Float[Tensor, "P P"]) -> None:
        self.matrix, eps = _float64_matrix(operator)
        self.eigenvalues, self.eigenvectors = torch.linalg.eigh(self.matrix)
        self._rounding = _rounding(self.eigenvalues, eps)

    @property
    def smallest_eigenvalue(self) -> float:
        """lambda_min(A), algebraically."""
        return float(self.eigenvalues[0])

    @property
    def largest_eigenvalue(self) -> float:
        """lambda_max(A)."""
        return float(self.eigenvalues[-1])

    def solve(
        self,
        rhs: Float[Tensor, " P *K"],
        *,
        on_indefinite: str = "raise",
        tolerance: float = DIRECT_TOLERANCE,
        on_failure: str = "warn",
    ) -> Solution:
        """A^{-1} V, in the dtype of V.

        Args:
            rhs: V.
            on_indefinite: `"raise"`; `"solve"` inverts an indefinite A as it stands (at a saddle there is no
                retraining response); `"absolute"` gives |A|^{-1} V, a heuristic, with residuals of |A|.
            tolerance: Bound on the relative residual.
            on_failure: What to do above it.

        Raises:
            IndefiniteCurvatureError: If A is indefinite and `on_indefinite` is `"raise"`, or A is singular.
            ValueError: If `on_indefinite` is unknown.
        """
        if on_indefinite not in ("raise", "solve", "absolute"):
            raise ValueError(f"on_indefinite must be 'raise', 'solve' or 'absolute', got {on_indefinite!r}")
        if on_indefinite == "raise" and self.smallest_eigenvalue <= self._rounding:
            raise IndefiniteCurvatureError(self.smallest_eigenvalue, "eigendecomposition", self._rounding)
        closest = self.eigenvalues[self.eigenvalues.abs().argmin()]
        if closest.abs() <= self._rounding:
            raise IndefiniteCurvatureError(float(closest), "eigendecomposition", self._rounding)
        eigenvalues = self.eigenvalues.abs() if on_indefinite == "absolute" else self.eigenvalues
        columns = rhs.to(torch.float64).reshape(len(rhs), -1)
        value = self._rotated(columns, 1 / eigenvalues)
        extremes = (float(eigenvalues.min()), float(eigenvalues.max()))
        method = "eigendecomposition" if on_indefinite != "absolute" else "eigendecomposition of |A|, a heuristic"
        return _solution(
            method, value, columns - self._rotated(value, eigenvalues), rhs, extremes, tolerance, on_failure
        )

    def _rotated(self, columns: Tensor, factors: Tensor) -> Tensor:
        return self.eigenvectors @ (factors.unsqueeze(1) * (self.eigenvectors.T @ columns))


def _float64_matrix(operator: LinearOperator | Tensor) -> tuple[Tensor, float]:
    """A as a symmetric float64 matrix, and the eps of the arithmetic that made it."""
    matrix = as_operator(operator).dense()
    if not torch.isfinite(matrix).all():
        raise ValueError("the curvature matrix holds NaN or infinity; check the losses at the objective's parameters")
    eps = torch.finfo(matrix.dtype).eps
    matrix = matrix.to(torch.float64)
    return 0.5 * (matrix + matrix.T), eps


def _rounding(eigenvalues: Tensor, eps: float) -> float:
    """10 eps ||A||_F: below it an eigenvalue cannot be told from 0."""
    return float(10 * eps * torch.linalg.vector_norm(eigenvalues))


def _solution(
    method: str,
    value: Tensor,
    residual: Tensor,
    rhs: Tensor,
    extremes: tuple[float, float],
    tolerance: float,
    on_failure: str,
) -> Solution:
    """The residual is measured in float64, before the value is rounded to the dtype of V."""
    relative = relative_norm(residual, rhs.to(torch.float64).reshape(len(rhs), -1)).reshape(rhs.shape[1:])
    solution = Solution(
        value=value.to(rhs.dtype).reshape(rhs.shape),
        residual=relative,
        converged=bool((relative <= tolerance).all()),
        iterations=0,
        method=method,
        tolerance=tolerance,
        smallest_eigenvalue=extremes[0],
        largest_eigenvalue=extremes[1],
    )
    return checked(solution, on_failure, "the matrix is too ill-conditioned for float64: raise the damping")


def cholesky(
    operator: LinearOperator | Float[Tensor, "P P"],
    rhs: Float[Tensor, " P *K"],
    *,
    tolerance: float = DIRECT_TOLERANCE,
    on_failure: str = "warn",
) -> Solution:
    """A^{-1} V by a float64 Cholesky factor; `CholeskyFactor` keeps the factor for further right-hand sides.

    Raises:
        IndefiniteCurvatureError: If A is not positive definite.
    """
    return CholeskyFactor(operator).solve(rhs, tolerance=tolerance, on_failure=on_failure)


def eigendecomposition(
    operator: LinearOperator | Float[Tensor, "P P"],
    rhs: Float[Tensor, " P *K"],
    *,
    on_indefinite: str = "raise",
    tolerance: float = DIRECT_TOLERANCE,
    on_failure: str = "warn",
) -> Solution:
    """A^{-1} V by a float64 eigendecomposition; `Eigendecomposition` keeps it for further right-hand sides.

    Raises:
        IndefiniteCurvatureError: If A is indefinite and `on_indefinite` is `"raise"`, or A is singular.
    """
    return Eigendecomposition(operator).solve(
        rhs, on_indefinite=on_indefinite, tolerance=tolerance, on_failure=on_failure
    )
