"""The inverse that EK-FAC is made for."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_residual
from bayes_influence.curvature.solvers.solver import Solve, Solver


@dataclass(frozen=True, kw_only=True)
class KroneckerInverse(Solver):
    """(E + D)^{-1} V for an EK-FAC matrix E, in its own basis.

    Exact where the damping D is constant within each layer; elsewhere D is taken as its diagonal in the layer's basis,
    and the residual says what that leaves. The residual is that of E + D, not of the curvature that E stands for.

    Attributes:
        tolerance: Bound on the relative residual.

    Raises:
        TypeError: If an operator has no inverse in closed form.
        ValueError: If a damped eigenvalue is not positive.
        NotConvergedError: If the residual is above the tolerance and `on_failure` is `"raise"`.
    """

    tolerance: float = 1e-3

    def prepare(self, operator: LinearOperator) -> Solve:
        """The inverse, the residual with it.

        Raises:
            TypeError: If A without its damping has no inverse in closed form.
        """
        if not operator.undamped.has_inverse:
            raise TypeError(
                f"the solver 'ekfac' needs the curvature 'ekfac', got a {type(operator.undamped).__name__}; take "
                f"curvature='ekfac', or another solver"
            )
        return lambda rhs: self._solve(operator, rhs)

    def _solve(self, operator: LinearOperator, rhs: Float[Tensor, " P *K"]) -> Solution:
        damping = 0.0 if operator.damping is None else operator.damping
        value = operator.undamped.inverse_product(rhs, damping)
        residual = relative_residual(operator, value, rhs)
        solution = Solution(
            value=value,
            residual=residual,
            converged=bool((residual <= self.tolerance).all()),
            iterations=0,
            method="EK-FAC inverse",
            tolerance=self.tolerance,
        )
        return checked(solution, self.on_failure, "the damping varies within a layer: use conjugate gradients")
