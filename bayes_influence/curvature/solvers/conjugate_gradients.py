"""Block conjugate gradients, the iterative solver for positive definite curvature."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import log
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.arguments import check_count
from bayes_influence.curvature.cost import Plan
from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.solvers.preconditioners import IdentityPreconditioner, Preconditioner
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_norm
from bayes_influence.curvature.solvers.solver import Solve, Solver
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues

ADVICE = "raise the damping, precondition, allow more iterations, or use float64"
"""What helps conjugate gradients that have not converged."""

BLOCK_SIZE = 64
"""Most right-hand sides that share one Krylov space."""

DIAGNOSIS_TOLERANCE, DIAGNOSIS_PRODUCTS = 1e-2, 40
"""How well lambda_min is found out, relative to the largest eigenvalue, once A is known to be indefinite."""

SEEN_STEPS = 10
"""Steps after which the plan of a solve is made from how fast the residual falls."""

RELAXATION = 0.1
"""At first products may be off by this times the tolerance over the relative residual."""


@dataclass(frozen=True, kw_only=True)
class ConjugateGradients(Solver):
    """A^{-1} V by block conjugate gradients (O'Leary 1980, in the form with QR factorisations of Dubrulle 2001).

    K right-hand sides share one Krylov space: a step costs one product with K vectors and about 10 P K^2
    multiplications and additions, and the K-fold space makes for fewer steps than K separate runs need. The QR form
    needs no care where residuals become linearly dependent. Memory about 7 P K.

    Products are taken only as accurately as they need to be: an error E_k of the k-th one adds about E_k ||r_k|| to the
    final residual, so it may grow as the residual falls (Bouras & Fraysse 2005; Simoncini & Szyld 2003). Operators of
    data then leave out the examples that carry no curvature. It stops when every right-hand side's *true* relative
    residual ||v - A x|| / ||v||, by a product with all of A, is within the tolerance; where rounding or such products
    drove the recursion away from it, it starts anew from the true residual, and with whole products where that does
    not help.

    Attributes:
        tolerance: Bound on the relative residual.
        max_iterations: Of each block of 64 right-hand sides.
        preconditioner: M ~ A; fewer steps where its spectrum follows A's.

    Raises:
        IndefiniteCurvatureError: At the first search direction with p'Ap <= 0; the message has lambda_min, estimated by
            Lanczos with at most 40 products more.
        NotConvergedError: If a residual stays above the tolerance and `on_failure` is `"raise"`.
    """

    tolerance: float = 1e-5
    max_iterations: int = 500
    preconditioner: Preconditioner | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(max_iterations=self.max_iterations)

    def prepare(self, operator: LinearOperator) -> Solve:
        """The descent; nothing is done before a right-hand side comes."""

        def descend(rhs: Tensor) -> Solution:
            solution = run_conjugate_gradients(operator, rhs, self.tolerance, self.max_iterations, self.preconditioner)
            return checked(solution, self.on_failure, ADVICE)

        return descend


def run_conjugate_gradients(
    operator: LinearOperator,
    rhs: Float[Tensor, " P *K"],
    tolerance: float,
    max_iterations: int,
    preconditioner: Preconditioner | None = None,
    start: Float[Tensor, " P *K"] | None = None,
) -> Solution:
    """What `ConjugateGradients` find, without a word where that has not converged: for whoever goes on from it.

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
    residual = torch.cat([run.relative for run in runs]).reshape(rhs.shape[1:])
    return Solution(
        value=torch.cat([run.value for run in runs], dim=1).reshape(rhs.shape),
        residual=residual,
        converged=bool((residual <= tolerance).all()),
        iterations=sum(run.iterations for run in runs),
        method="conjugate gradients",
        tolerance=tolerance,
        products=sum(run.work for run in runs),
        note="" if preconditioner is None else f"preconditioned by {preconditioner}",
    )


class _BlockRun:
    """One block: the system L^{-1} A L^{-T} Y = L^{-1} V, with X = L^{-T} Y.

    The recursion keeps its residual as Q C with orthonormal Q of shape (P, K) and C of shape (K, K).

    Attributes:
        value: X so far.
        remainder: V - A X, the true residual.
        relative: Its norms, relative to those of V.
        iterations: Steps taken.
        work: Products with single vectors that they cost, those with a part of the examples by their share.
    """

    def __init__(
        self, operator: LinearOperator, rhs: Tensor, start: Tensor, preconditioner: Preconditioner, tolerance: float
    ) -> None:
        self.operator, self.rhs, self.preconditioner = operator, rhs, preconditioner
        self.tolerance = tolerance
        self.iterations = 0
        self.work = 0.0
        self._relaxation = RELAXATION
        self._is_announced = False
        self._stand(start)

    def iterate(self, max_iterations: int) -> None:
        """Runs until the true residual is within the tolerance, or nothing more is to be gained."""
        while self.relative.max() > self.tolerance and self.iterations < max_iterations:
            before, value, relaxation = float(self.relative.max()), self.value, self._relaxation
            self._stand(value + self._descent(max_iterations))
            reached = float(self.relative.max())
            if reached > self.tolerance:
                # By as much as the recursion missed the tolerance, its products were too inaccurate.
                self._relaxation *= 0.5 * self.tolerance / reached
            if reached <= 0.5 * before:
                continue
            if relaxation == 0:
                return
            self._relaxation = 0.0
            if not reached <= before:
                self._stand(value)

    def _stand(self, value: Tensor) -> None:
        """Takes X, and what is left with it."""
        self.value = value
        self.remainder = self.rhs - self._product(self.operator, value) if value.any() else self.rhs
        self.relative = relative_norm(self.remainder, self.rhs)

    def _descent(self, max_iterations: int) -> Tensor:
        """What a Krylov space of the residual adds to X."""
        basis, coefficients = torch.linalg.qr(self.preconditioner.whiten(self.remainder))
        directions, progress = basis, torch.zeros_like(self.remainder)
        estimate, started, began = self.relative, self.iterations, time.perf_counter()
        first = float(estimate.max())
        while self.iterations < max_iterations:
            operator = self._nearly(float(estimate.max()))
            conjugated = self.preconditioner.whiten_transposed(directions)
            image = self.preconditioner.whiten(self._product(operator, conjugated))
            values, vectors, rounding = self._curvatures(directions, image)
            if float(values[0]) <= rounding:
                if operator is self.operator:
                    self._refuse(conjugated @ vectors[:, :1].to(image.dtype), rounding)
                # A part of the examples may have negative curvature where all of them have none.
                self._relaxation = 0.0
                break
            steps = ((vectors / values) @ vectors.T).to(image.dtype)
            progress = progress + directions @ (steps @ coefficients)
            basis, carried = torch.linalg.qr(basis - image @ steps)
            coefficients = carried @ coefficients
            directions = basis + directions @ carried.T
            self.iterations += 1
            estimate = relative_norm(self.preconditioner.unwhiten(basis @ coefficients), self.rhs)
            if self.iterations - started == SEEN_STEPS and not self._is_announced:
                self._announce(time.perf_counter() - began, first, float(estimate.max()))
            if estimate.max() <= 0.9 * self.tolerance or not torch.isfinite(estimate).all():
                break
        return self.preconditioner.whiten_transposed(progress)

    def _announce(self, seconds: float, first: float, reached: float) -> None:
        """Logs what the whole system takes if its residual goes on falling as it did in the first steps."""
        self._is_announced = True
        rate = log(first / reached) / SEEN_STEPS if 0 < reached < first else 0.0
        if rate == 0.0:
            return
        steps = SEEN_STEPS + max(0.0, log(reached / self.tolerance) / rate)
        systems = self.rhs.shape[1]
        plan = Plan(
            f"{systems} systems of P = {len(self.rhs)} by conjugate gradients, about {steps:.0f} steps",
            7 * self.rhs.numel() * self.rhs.dtype.itemsize + self.operator.product_bytes(systems),
            "take fewer right-hand sides at a time",
            passes=steps,
        )
        plan.announce(seconds / SEEN_STEPS * steps)

    def _nearly(self, residual: float) -> LinearOperator:
        """A, or what is as near to it as a step from this relative residual needs."""
        if self._relaxation == 0:
            return self.operator
        return self.operator.within(self._relaxation * self.tolerance / residual)

    def _curvatures(self, directions: Tensor, image: Tensor) -> tuple[Tensor, Tensor, float]:
        """Eigenvalues and eigenvectors of P'AP, and up to where its eigenvalues are rounding."""
        gram = (directions.T @ image).to(torch.float64)
        values, vectors = torch.linalg.eigh(0.5 * (gram + gram.T))
        return values, vectors, torch.finfo(image.dtype).eps * float(torch.linalg.vector_norm(values))

    def _product(self, operator: LinearOperator, vectors: Tensor) -> Tensor:
        self.work += operator.share * vectors.shape[1]
        return operator @ vectors

    def _refuse(self, direction: Tensor, rounding: float) -> NoReturn:
        quotient = float((direction * (self.operator @ direction)).sum() / direction.square().sum())
        ends = extreme_eigenvalues(self.operator, tolerance=DIAGNOSIS_TOLERANCE, max_products=DIAGNOSIS_PRODUCTS)
        raise IndefiniteCurvatureError(min(quotient, ends.smallest), "conjugate gradients", rounding)
