"""Block conjugate gradients, the iterative solver for positive definite curvature."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.operators.base import LinearOperator, as_operator
from bayes_influence.curvature.solvers.preconditioners import IdentityPreconditioner, Preconditioner
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_norm
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues

CG_TOLERANCE, CG_ITERATIONS = 1e-5, 500
"""Default bounds on the relative residual and on the steps of a block."""

ADVICE = "raise the damping, precondition, allow more iterations, or use float64"
"""What helps conjugate gradients that have not converged."""

BLOCK_SIZE = 64
"""Most right-hand sides that share one Krylov space."""

DIAGNOSIS_TOLERANCE, DIAGNOSIS_PRODUCTS = 1e-2, 40
"""How well lambda_min is found out, relative to the largest eigenvalue, once A is known to be indefinite."""

RESTARTS = 3
"""How often rounding may be repaired by a fresh start from the true residual."""


def conjugate_gradients(
    operator: LinearOperator | Float[Tensor, "P P"],
    rhs: Float[Tensor, " P *K"],
    *,
    tolerance: float = CG_TOLERANCE,
    max_iterations: int = CG_ITERATIONS,
    preconditioner: Preconditioner | None = None,
    start: Float[Tensor, " P *K"] | None = None,
    on_failure: str = "warn",
) -> Solution:
    """A^{-1} V by block conjugate gradients (O'Leary 1980, in the form with QR factorisations of Dubrulle 2001).

    K right-hand sides share one Krylov space: a step costs one product with K vectors and about 10 P K^2
    multiplications and additions, and the K-fold space makes for fewer steps than K separate runs need. The QR form
    needs no care where residuals become linearly dependent. It stops when every right-hand side's *true* relative
    residual ||v - A x|| / ||v|| is within the tolerance; where rounding drove the recursion away from it, it starts
    anew from the true residual. Memory about 6 P K.

    Args:
        operator: A, positive definite.
        rhs: V.
        tolerance: Bound on the relative residual.
        max_iterations: Of each block of 64 right-hand sides.
        preconditioner: M ~ A; fewer steps where its spectrum follows A's.
        start: First guess of X; 0 when not given.
        on_failure: What to do above the tolerance, `"warn"` or `"raise"`.

    Raises:
        IndefiniteCurvatureError: At the first search direction with p'Ap <= 0; the message has lambda_min, estimated by
            Lanczos with at most 40 products more.
        NotConvergedError: If a residual stays above the tolerance and `on_failure` is `"raise"`.
    """
    solution = run_conjugate_gradients(as_operator(operator), rhs, tolerance, max_iterations, preconditioner, start)
    return checked(solution, on_failure, ADVICE)


def run_conjugate_gradients(
    operator: LinearOperator,
    rhs: Float[Tensor, " P *K"],
    tolerance: float,
    max_iterations: int,
    preconditioner: Preconditioner | None = None,
    start: Float[Tensor, " P *K"] | None = None,
) -> Solution:
    """What `conjugate_gradients` finds, without a word where that has not converged: for whoever goes on from it.

    Raises:
        IndefiniteCurvatureError: At the first search direction with p'Ap <= 0.
    """
    columns = rhs.reshape(len(rhs), -1)
    guesses = torch.zeros_like(columns) if start is None else start.reshape(columns.shape)
    runs = []
    for part, guess in zip(columns.split(BLOCK_SIZE, dim=1), guesses.split(BLOCK_SIZE, dim=1), strict=True):
        run = _BlockRun(operator, part, guess, preconditioner or IdentityPreconditioner(), tolerance)
        run.iterate(max_iterations)
        runs.append(run)
    residual = torch.cat([run.residual for run in runs]).reshape(rhs.shape[1:])
    return Solution(
        value=torch.cat([run.value for run in runs], dim=1).reshape(rhs.shape),
        residual=residual,
        converged=bool((residual <= tolerance).all()),
        iterations=sum(run.iterations for run in runs),
        method="conjugate gradients",
        tolerance=tolerance,
        note="" if preconditioner is None else f"preconditioned by {preconditioner}",
    )


class _BlockRun:
    """One block: the system L^{-1} A L^{-T} Y = L^{-1} V, with X = L^{-T} Y.

    Its residual is kept as Q C with orthonormal Q of shape (P, K) and C of shape (K, K).
    """

    def __init__(
        self, operator: LinearOperator, rhs: Tensor, start: Tensor, preconditioner: Preconditioner, tolerance: float
    ) -> None:
        self.operator, self.rhs, self.preconditioner = operator, rhs, preconditioner
        self.tolerance = tolerance
        self.value = start
        self.iterations = 0
        self.residual = self._true_residual()[1]

    def _true_residual(self) -> tuple[Tensor, Tensor]:
        residual = self.rhs - self.operator @ self.value if self.value.any() else self.rhs
        return residual, relative_norm(residual, self.rhs)

    def iterate(self, max_iterations: int) -> None:
        """Runs until the true residual is within the tolerance, or nothing more is to be gained."""
        for _ in range(RESTARTS):
            before = self.residual.max()
            if before <= self.tolerance or self.iterations >= max_iterations:
                return
            self._descend(max_iterations)
            self.residual = self._true_residual()[1]
            if self.residual.max() > 0.5 * before:
                return

    def _descend(self, max_iterations: int) -> None:
        residual, _ = self._true_residual()
        basis, coefficients = torch.linalg.qr(self.preconditioner.whiten(residual))
        directions, progress = basis, torch.zeros_like(residual)
        while self.iterations < max_iterations:
            image = self._whitened_product(directions)
            steps = self._steps(directions, image)
            progress = progress + directions @ (steps @ coefficients)
            basis, carried = torch.linalg.qr(basis - image @ steps)
            coefficients = carried @ coefficients
            directions = basis + directions @ carried.T
            self.iterations += 1
            estimate = relative_norm(self.preconditioner.unwhiten(basis @ coefficients), self.rhs)
            if estimate.max() <= 0.9 * self.tolerance or not torch.isfinite(estimate).all():
                break
        self.value = self.value + self.preconditioner.whiten_transposed(progress)

    def _whitened_product(self, directions: Tensor) -> Tensor:
        return self.preconditioner.whiten(self.operator @ self.preconditioner.whiten_transposed(directions))

    def _steps(self, directions: Tensor, image: Tensor) -> Tensor:
        """(P'AP)^{-1}, after a look for negative curvature."""
        gram = (directions.T @ image).to(torch.float64)
        values, vectors = torch.linalg.eigh(0.5 * (gram + gram.T))
        rounding = torch.finfo(image.dtype).eps * float(torch.linalg.vector_norm(values))
        if float(values[0]) <= rounding:
            worst = self.preconditioner.whiten_transposed(directions @ vectors[:, :1].to(directions.dtype))
            quotient = float((worst * (self.operator @ worst)).sum() / worst.square().sum())
            ends = extreme_eigenvalues(self.operator, tolerance=DIAGNOSIS_TOLERANCE, max_products=DIAGNOSIS_PRODUCTS)
            raise IndefiniteCurvatureError(min(quotient, ends.smallest), "conjugate gradients", rounding)
        return ((vectors / values) @ vectors.T).to(image.dtype)
