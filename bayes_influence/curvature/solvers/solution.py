"""`Solution`: what every solver returns, with how far it can be trusted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.errors import NotConvergedError, NotConvergedWarning
from bayes_influence.curvature.operators.base import LinearOperator


@dataclass(frozen=True, eq=False)
class Solution:
    """X with A X ~ V, and its relative residuals.

    Attributes:
        value: X, shaped like the right-hand sides V.
        residual: ||v_k - A x_k|| / ||v_k|| for every right-hand side, of shape () or (K,); 0 where v_k is 0.
        converged: Whether every residual is at most `tolerance`.
        iterations: Steps taken; 0 for a direct solver.
        method: The solver's name.
        tolerance: What was asked for.
        smallest_eigenvalue: lambda_min(A) where the solver knows or estimates it: with residuals r_x and r_y of
            two solves, a score's error is at most ||r_x|| ||r_y|| / lambda_min.
        largest_eigenvalue: lambda_max(A) where the solver knows or estimates it.
        products: Products of A with single vectors that it cost, those with a part of the data by their share; None
            where the solver does not count.
        note: What the solver chose by itself, and why.
    """

    value: Float[Tensor, " P *K"]
    residual: Float[Tensor, "*K"]
    converged: bool
    iterations: int
    method: str
    tolerance: float
    smallest_eigenvalue: float | None = None
    largest_eigenvalue: float | None = None
    products: float | None = None
    note: str = ""

    @property
    def condition_number(self) -> float | None:
        """lambda_max / lambda_min where both are known; infinite where lambda_min is not positive."""
        if self.smallest_eigenvalue is None or self.largest_eigenvalue is None:
            return None
        return self.largest_eigenvalue / self.smallest_eigenvalue if self.smallest_eigenvalue > 0 else float("inf")


def relative_residual(operator: LinearOperator, value: Tensor, rhs: Tensor) -> Float[Tensor, "*K"]:
    """||v - A x|| / ||v|| for every right-hand side; 0 where v is 0 and x is 0."""
    return relative_norm(rhs - operator @ value, rhs)


def relative_norm(residual: Tensor, rhs: Tensor) -> Float[Tensor, "*K"]:
    """||r|| / ||v|| column by column; ||r|| itself where v is 0."""
    scale = torch.linalg.vector_norm(rhs, dim=0)
    return torch.linalg.vector_norm(residual, dim=0) / torch.where(scale > 0, scale, torch.ones_like(scale))


def checked(solution: Solution, on_failure: str, advice: str = "") -> Solution:
    """Hands a solution on, but not silently if it did not converge.

    Args:
        solution: What a solver found.
        on_failure: `"warn"` or `"raise"`.
        advice: What the caller can do, appended to the message.

    Raises:
        NotConvergedError: If it did not converge and `on_failure` is `"raise"`.
    """
    if not solution.converged:
        message = (
            f"{solution.method} stopped at relative residual {float(solution.residual.max()):.3g}, above the tolerance "
            f"{solution.tolerance:.3g}, after {solution.iterations} iterations{'; ' + advice if advice else ''}"
        )
        if on_failure == "raise":
            raise NotConvergedError(message)
        warnings.warn(message, NotConvergedWarning, stacklevel=3)
    return solution
