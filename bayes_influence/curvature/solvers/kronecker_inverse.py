"""The inverse that EK-FAC is made for."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import DampedOperator, LinearOperator
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_residual


def ekfac_inverse(
    operator: LinearOperator,
    rhs: Float[Tensor, " P *K"],
    *,
    tolerance: float = 1e-3,
    on_failure: str = "warn",
) -> Solution:
    """(E + D)^{-1} V for an EK-FAC matrix E, in its own basis.

    Exact where the damping D is constant within each layer; elsewhere D is taken as its diagonal in the layer's basis,
    and the residual says what that leaves. The residual is that of E + D, not of the curvature that E stands for.

    Args:
        operator: An `EKFACOperator`, with or without damping.
        rhs: V.
        tolerance: Bound on the relative residual.
        on_failure: What to do above the tolerance, `"warn"` or `"raise"`.

    Raises:
        TypeError: If the operator is of another kind.
        ValueError: If a damped eigenvalue is not positive.
        NotConvergedError: If the residual is above the tolerance and `on_failure` is `"raise"`.
    """
    base = operator.base if isinstance(operator, DampedOperator) else operator
    if not isinstance(base, EKFACOperator):
        raise TypeError(f"ekfac_inverse needs an EKFACOperator, with or without damping, got {type(base).__name__}")
    value = base.inverse_product(rhs, operator.damping if isinstance(operator, DampedOperator) else 0.0)
    residual = relative_residual(operator, value, rhs)
    solution = Solution(
        value=value,
        residual=residual,
        converged=bool((residual <= tolerance).all()),
        iterations=0,
        method="EK-FAC inverse",
        tolerance=tolerance,
    )
    return checked(solution, on_failure, "the damping varies within a layer: precondition conjugate gradients with it")
