"""MINRES, the iterative solver that needs no definiteness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.arguments import check_count
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_residual
from bayes_influence.curvature.solvers.solver import Solve, Solver


@dataclass(frozen=True, kw_only=True)
class MINRES(Solver):
    """A^{-1} V by MINRES (Paige & Saunders 1975), for any symmetric A that is not singular.

    Every step minimises ||v - A x|| over the Krylov space, by Lanczos vectors and Givens rotations; K right-hand sides
    run side by side and share the products. Memory about 7 P K. At a saddle A^{-1} v exists but is no retraining
    response: there is no minimum that retraining would return to.

    Attributes:
        tolerance: Bound on the relative residual ||v - A x|| / ||v||.
        max_iterations: Of all right-hand sides together.

    Raises:
        NotConvergedError: If a residual stays above the tolerance and `on_failure` is `"raise"`.
    """

    tolerance: float = 1e-5
    max_iterations: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(max_iterations=self.max_iterations)

    def prepare(self, operator: LinearOperator) -> Solve:
        """The recursion; nothing is done before a right-hand side comes."""
        return lambda rhs: self._solve(operator, rhs)

    def _solve(self, operator: LinearOperator, rhs: Float[Tensor, " P *K"]) -> Solution:
        columns = rhs.reshape(len(rhs), -1)
        process = _Minres(operator, columns)
        iterations = 0
        while iterations < self.max_iterations and process.relative_residuals.max() > 0.9 * self.tolerance:
            process.step()
            iterations += 1
        residual = relative_residual(operator, process.value, columns).reshape(rhs.shape[1:])
        solution = Solution(
            value=process.value.reshape(rhs.shape),
            residual=residual,
            converged=bool((residual <= self.tolerance).all()),
            iterations=iterations,
            method="MINRES",
            tolerance=self.tolerance,
        )
        return checked(solution, self.on_failure, "raise the damping, allow more iterations, or use float64")


class _Minres:
    """The recursions of Paige & Saunders, for every column of V at once.

    v, v_old: Lanczos vectors; beta: the norm that couples them. (c, s), (c_old, s_old): the last two Givens rotations.
    d, d_old: the last two search directions. phi: the residual norm.
    """

    def __init__(self, operator: LinearOperator, rhs: Tensor) -> None:
        self.operator = operator
        self.value = torch.zeros_like(rhs)
        self.norm = torch.linalg.vector_norm(rhs, dim=0)
        self.v = rhs * _inverse(self.norm)
        self.beta = torch.zeros_like(self.norm)
        self.v_old = torch.zeros_like(rhs)
        self.d, self.d_old = torch.zeros_like(rhs), torch.zeros_like(rhs)
        self.c, self.c_old = torch.ones_like(self.norm), torch.ones_like(self.norm)
        self.s, self.s_old = torch.zeros_like(self.norm), torch.zeros_like(self.norm)
        self.phi = self.norm

    @property
    def relative_residuals(self) -> Tensor:
        """What the recursion knows of ||v - A x|| / ||v||."""
        return self.phi.abs() * _inverse(self.norm)

    def step(self) -> None:
        """One product with every column."""
        image = self.operator @ self.v - self.beta * self.v_old
        alpha = (self.v * image).sum(dim=0)
        image = image - alpha * self.v
        beta_next = torch.linalg.vector_norm(image, dim=0)
        # The new column of T is (beta, alpha, beta_next); the two earlier rotations act on its upper part.
        epsilon = self.s_old * self.beta
        delta = self.c_old * self.beta
        gamma = self.c * alpha - self.s * delta
        delta = self.c * delta + self.s * alpha
        rho = torch.hypot(gamma, beta_next)
        c_next, s_next = gamma * _inverse(rho), beta_next * _inverse(rho)
        direction = (self.v - delta * self.d - epsilon * self.d_old) * _inverse(rho)
        self.value = self.value + c_next * self.phi * direction
        self.phi = -s_next * self.phi
        self.d_old, self.d = self.d, direction
        self.c_old, self.c, self.s_old, self.s = self.c, c_next, self.s, s_next
        self.v_old, self.v, self.beta = self.v, image * _inverse(beta_next), beta_next


def _inverse(values: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0: a column that has converged exactly stands still."""
    return torch.where(values != 0, 1 / values, torch.zeros_like(values))
